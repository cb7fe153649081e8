//! A client of AMQP 0-9-1 with just what tests need: to publish what no node of ours would, and to
//! look.
//!
//! Invariant: it shares no code with the product, so a fault of a library is not on both sides.

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::TcpStream;
use std::time::Duration;

/// The longest wait for one answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const HEARTBEAT: u8 = 8;
const FRAME_END: u8 = 0xCE;

/// One connection with one channel, in confirm mode.
pub struct Client {
    stream: TcpStream,
}

/// Arguments of a method.
struct Args(Vec<u8>);

impl Args {
    fn of(class: u16, method: u16) -> Self {
        Self([class.to_be_bytes(), method.to_be_bytes()].concat())
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn short(self, text: &str) -> Self {
        let length = u8::try_from(text.len()).expect("short");
        self.raw(&[length]).raw(text.as_bytes())
    }

    fn long(self, bytes: &[u8]) -> Self {
        let length = u32::try_from(bytes.len()).expect("not so long");
        self.raw(&length.to_be_bytes()).raw(bytes)
    }
}

/// `x-queue-type: quorum`, as a table's bytes.
fn quorum() -> Vec<u8> {
    Args(Vec::new())
        .short("x-queue-type")
        .raw(b"S")
        .long(b"quorum")
        .0
}

impl Client {
    /// Connects by way of `port`.
    ///
    /// # Errors
    /// When the broker refuses or is away.
    pub fn connect(port: u16, vhost: &str, user: &str, password: &str) -> Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        stream.set_nodelay(true)?;
        let mut client = Self { stream };
        client.stream.write_all(b"AMQP\x00\x00\x09\x01")?;
        client.expect(10, 10)?;
        let login = format!("\0{user}\0{password}");
        let start_ok = Args::of(10, 11).long(&[]).short("PLAIN");
        client.send(0, start_ok.long(login.as_bytes()).short("en_US"))?;
        let tune = client.expect(10, 30)?;
        // Its limits, but no heartbeat.
        client.send(0, Args::of(10, 31).raw(&tune[..6]).raw(&[0, 0]))?;
        client.send(0, Args::of(10, 40).short(vhost).short("").raw(&[0]))?;
        client.expect(10, 41)?;
        client.call(Args::of(20, 10).short(""), 20, 11)?;
        client.call(Args::of(85, 10).raw(&[0]), 85, 11)?;
        Ok(client)
    }

    /// Declares a durable quorum queue.
    ///
    /// # Errors
    /// The broker's.
    pub fn declare_queue(&mut self, queue: &str) -> Result<()> {
        let declare = Args::of(50, 10).raw(&[0, 0]).short(queue).raw(&[2]);
        self.call(declare.long(&quorum()), 50, 11).map(drop)
    }

    /// Deletes an exchange, with its bindings.
    ///
    /// # Errors
    /// The broker's.
    pub fn delete_exchange(&mut self, exchange: &str) -> Result<()> {
        let delete = Args::of(40, 20).raw(&[0, 0]).short(exchange).raw(&[0]);
        self.call(delete, 40, 21).map(drop)
    }

    /// Takes a queue off an exchange.
    ///
    /// # Errors
    /// The broker's.
    pub fn unbind(&mut self, queue: &str, exchange: &str) -> Result<()> {
        let unbind = Args::of(50, 50).raw(&[0, 0]).short(queue).short(exchange);
        self.call(unbind.short("").long(&[]), 50, 51).map(drop)
    }

    /// Publishes a persistent message and waits for its confirm.
    ///
    /// # Errors
    /// The broker's, and when it does not confirm.
    pub fn publish(&mut self, exchange: &str, key: &str, body: &[u8]) -> Result<()> {
        self.send_message(exchange, key, body)?;
        self.expect(60, 80).map(drop)
    }

    /// Publishes and does not wait.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn send_message(&mut self, exchange: &str, key: &str, body: &[u8]) -> Result<()> {
        let publish = Args::of(60, 40).raw(&[0, 0]).short(exchange).short(key);
        self.send(1, publish.raw(&[0]))?;
        let size = (body.len() as u64).to_be_bytes();
        let persistent = [0x10, 0, 2];
        self.frame(
            HEADER,
            1,
            &[&[0, 60, 0, 0], &size[..], &persistent].concat(),
        )?;
        for part in body.chunks(64 * 1024) {
            self.frame(BODY, 1, part)?;
        }
        Ok(())
    }

    /// Takes a message out of a queue, if there is one.
    ///
    /// # Errors
    /// The broker's.
    pub fn get(&mut self, queue: &str) -> Result<Option<Vec<u8>>> {
        let no_ack = 1;
        self.send(1, Args::of(60, 70).raw(&[0, 0]).short(queue).raw(&[no_ack]))?;
        match self.method()? {
            (60, 72, _) => Ok(None),
            (60, 71, _) => self.body().map(Some),
            other => Err(unexpected(&other)),
        }
    }

    fn body(&mut self) -> Result<Vec<u8>> {
        let (_, header) = self.read_frame()?;
        let size = header.get(4..12).and_then(|size| size.try_into().ok());
        let size = u64::from_be_bytes(size.ok_or(ErrorKind::InvalidData)?);
        let mut body = Vec::new();
        while (body.len() as u64) < size {
            body.extend(self.read_frame()?.1);
        }
        Ok(body)
    }

    fn call(&mut self, args: Args, class: u16, method: u16) -> Result<Vec<u8>> {
        self.send(1, args)?;
        self.expect(class, method)
    }

    fn send(&mut self, channel: u16, args: Args) -> Result<()> {
        self.frame(METHOD, channel, &args.0)
    }

    fn frame(&mut self, kind: u8, channel: u16, payload: &[u8]) -> Result<()> {
        let size = u32::try_from(payload.len())
            .expect("not so long")
            .to_be_bytes();
        let head = [&[kind][..], &channel.to_be_bytes(), &size].concat();
        self.stream
            .write_all(&[&head, payload, &[FRAME_END]].concat())
    }

    fn expect(&mut self, class: u16, method: u16) -> Result<Vec<u8>> {
        match self.method()? {
            (c, m, args) if (c, m) == (class, method) => Ok(args),
            other => Err(unexpected(&other)),
        }
    }

    fn method(&mut self) -> Result<(u16, u16, Vec<u8>)> {
        let (kind, payload) = self.read_frame()?;
        if kind != METHOD || payload.len() < 4 {
            return Err(Error::other(format!("a frame of kind {kind}")));
        }
        let word = |at: usize| u16::from_be_bytes([payload[at], payload[at + 1]]);
        Ok((word(0), word(2), payload[4..].to_vec()))
    }

    fn read_frame(&mut self) -> Result<(u8, Vec<u8>)> {
        loop {
            let mut head = [0; 7];
            self.stream.read_exact(&mut head)?;
            let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
            let mut payload = vec![0; size as usize + 1];
            self.stream.read_exact(&mut payload)?;
            payload.pop();
            if head[0] != HEARTBEAT {
                return Ok((head[0], payload));
            }
        }
    }
}

fn unexpected((class, method, args): &(u16, u16, Vec<u8>)) -> Error {
    let text = String::from_utf8_lossy(args);
    Error::other(format!("method {class}.{method} instead: {text:?}"))
}
