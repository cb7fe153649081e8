//! A minimal client of Redis: renders commands into one buffer and reads replies in order.
//!
//! Invariant: an error reply ends the run.

use std::io::Write;
use std::time::Instant;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::load::{Items, Tally, Window};
use super::redis::Form;
use crate::error::BenchError;

/// Maximum size of a text reply in bytes.
const TEXT_BYTES_MAX: usize = 4096;

/// A connection.
pub struct Connection {
    stream: BufReader<TcpStream>,
    out: Vec<u8>,
    line: Vec<u8>,
}

/// A reply.
#[derive(Debug)]
pub enum Reply {
    /// A number.
    Number(u64),
    /// A text.
    Text(String),
}

impl Connection {
    /// Connects to a port on loopback.
    pub async fn open(port: u16) -> Result<Self, BenchError> {
        let stream = TcpStream::connect(("127.0.0.1", port))
            .await
            .map_err(talking)?;
        stream.set_nodelay(true).map_err(talking)?;
        Ok(Self {
            stream: BufReader::new(stream),
            out: Vec::new(),
            line: Vec::new(),
        })
    }

    /// Sends one command and reads its reply.
    pub async fn call(&mut self, words: &[&str]) -> Result<Reply, BenchError> {
        self.out.clear();
        array(&mut self.out, words.len());
        for word in words {
            bulk(&mut self.out, word);
        }
        self.send().await?;
        self.reply().await
    }

    /// Like [`Self::call`], for a numeric reply.
    pub async fn number(&mut self, words: &[&str]) -> Result<u64, BenchError> {
        match self.call(words).await? {
            Reply::Number(number) => Ok(number),
            Reply::Text(text) => Err(fault(format!("{text} is not a number"))),
        }
    }

    async fn send(&mut self) -> Result<(), BenchError> {
        self.stream.write_all(&self.out).await.map_err(talking)
    }

    async fn reply(&mut self) -> Result<Reply, BenchError> {
        self.line.clear();
        self.stream
            .read_until(b'\n', &mut self.line)
            .await
            .map_err(talking)?;
        let line = String::from_utf8_lossy(self.line.trim_ascii_end()).into_owned();
        let rest = line.get(1..).unwrap_or_default();
        match line.as_bytes().first() {
            Some(b':') => rest
                .parse()
                .map(Reply::Number)
                .map_err(|_| fault(format!("not a count: {line}"))),
            // The number of replies that follow; each of them is read separately.
            Some(b'+' | b'*') => Ok(Reply::Text(rest.to_owned())),
            Some(b'$') => {
                let bytes = rest.parse::<usize>().unwrap_or(0).min(TEXT_BYTES_MAX);
                let mut text = vec![0; bytes + 2];
                self.stream.read_exact(&mut text).await.map_err(talking)?;
                text.truncate(bytes);
                Ok(Reply::Text(String::from_utf8_lossy(&text).into_owned()))
            }
            _ => Err(fault(format!("it answered {line:?}"))),
        }
    }

    /// Sends requests of `batch` items each until the window is over.
    pub async fn load(
        mut self,
        form: Form,
        script: &str,
        mut items: Items,
        batch: usize,
        window: Window,
    ) -> Result<Tally, BenchError> {
        let mut tally = Tally::new()?;
        let mut tenants = Vec::new();
        while !window.is_over() {
            items.tenants(batch, &mut tenants);
            self.out.clear();
            let replies = match form {
                Form::Script => render_script(&mut self.out, script, &tenants, &mut items),
                Form::Plain => render_plain(&mut self.out, &tenants, &mut items),
            };
            let started = Instant::now();
            self.send().await?;
            let mut new = 0;
            for _ in 0..replies {
                if let Reply::Number(number) = self.reply().await? {
                    new += number;
                }
            }
            tally.note(&window, started, batch as u64, new);
        }
        Ok(tally)
    }
}

/// One call of the script for all items, with one reply.
fn render_script(out: &mut Vec<u8>, script: &str, tenants: &[u64], items: &mut Items) -> usize {
    let groups = tenants.chunk_by(|a, b| a == b);
    array(out, 3 + 2 * groups.clone().count() + tenants.len());
    for word in ["EVALSHA", script, "0"] {
        bulk(out, word);
    }
    for group in groups {
        bulk(out, &format!("t{}", group.first().unwrap_or(&0)));
        bulk(out, &group.len().to_string());
        for _ in group {
            bulk(out, &items.id());
        }
    }
    1
}

/// One SADD per tenant, sent together, as one transaction if there are several. Returns the number
/// of replies to read: in a transaction one for MULTI, one for each queued command, and one with
/// the number of replies that follow.
fn render_plain(out: &mut Vec<u8>, tenants: &[u64], items: &mut Items) -> usize {
    let is_transaction = tenants.len() > 1;
    if is_transaction {
        array(out, 1);
        bulk(out, "MULTI");
    }
    let mut commands = 0;
    for group in tenants.chunk_by(|a, b| a == b) {
        array(out, 2 + group.len());
        bulk(out, "SADD");
        bulk(out, &format!("items:t{}", group.first().unwrap_or(&0)));
        for _ in group {
            bulk(out, &items.id());
        }
        commands += 1;
    }
    if !is_transaction {
        return commands;
    }
    array(out, 1);
    bulk(out, "EXEC");
    2 + 2 * commands
}

fn array(out: &mut Vec<u8>, words: usize) {
    // Writing to a `Vec` can't fail.
    let _ = write!(out, "*{words}\r\n");
}

fn bulk(out: &mut Vec<u8>, word: &str) {
    let _ = write!(out, "${}\r\n{word}\r\n", word.len());
}

fn talking(why: std::io::Error) -> BenchError {
    BenchError::io("talk to Redis", why)
}

/// An error of Redis.
pub fn fault(detail: String) -> BenchError {
    BenchError::Peer {
        peer: "Redis",
        detail,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_grouped_by_tenant() {
        let mut out = Vec::new();
        let mut items = Items::new(7, 10);
        assert_eq!(render_plain(&mut out, &[1, 1, 3], &mut items), 6);
        let text = String::from_utf8(out).expect("text");
        let expected = "*1\r\n$5\r\nMULTI\r\n*4\r\n$4\r\nSADD\r\n$8\r\nitems:t1\r\n\
                        $9\r\norder-7-1\r\n$9\r\norder-7-2\r\n\
                        *3\r\n$4\r\nSADD\r\n$8\r\nitems:t3\r\n$9\r\norder-7-3\r\n\
                        *1\r\n$4\r\nEXEC\r\n";
        assert_eq!(text, expected);
        let mut out = Vec::new();
        assert_eq!(render_script(&mut out, "f00", &[1, 1, 3], &mut items), 1);
        assert!(out.starts_with(
            b"*10\r\n$7\r\nEVALSHA\r\n$3\r\nf00\r\n$1\r\n0\r\n$2\r\nt1\r\n$1\r\n2\r\n"
        ));
    }
}
