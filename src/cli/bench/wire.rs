//! One connection: sends the bytes of requests and receives the bytes of responses.
//!
//! Invariant: after anything except one complete response the connection is closed, so that a
//! response is never taken for the response to another request. A request causes no allocation.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, Sleep};

use super::response::{self, Head, ResponseError};
use crate::socket::{Detached, SocketPlace, Stream};

/// Initial size of the receive buffer in bytes; the buffer grows for a longer response.
const BUFFER_BYTES: usize = 4 * 1024;

/// The reason why a request has no response.
#[derive(Debug, Error)]
pub(super) enum WireError {
    #[error("{0}")]
    Broken(#[from] io::Error),
    #[error("no response within {0} ms")]
    TimedOut(u128),
    /// The server is not a coordinator.
    #[error(transparent)]
    Response(#[from] ResponseError),
}

/// A response.
#[derive(Debug)]
pub(super) struct Answer<'a> {
    pub(super) head: Head,
    pub(super) body: &'a [u8],
}

/// A connection that reconnects after it has broken.
pub(super) struct Wire {
    place: SocketPlace,
    stream: Option<Stream>,
    buffer: Vec<u8>,
    timeout: Duration,
    /// Reset only after it has fired, which saves setting a timer per request.
    alarm: Pin<Box<Sleep>>,
    /// Number of reconnections.
    pub(super) reconnects: u64,
}

impl Wire {
    /// Wraps an established connection.
    pub(super) fn new(stream: Detached, place: SocketPlace, timeout: Duration) -> io::Result<Self> {
        Ok(Self {
            place,
            stream: Some(stream.attach()?),
            buffer: vec![0; BUFFER_BYTES],
            timeout,
            alarm: Box::pin(tokio::time::sleep(timeout)),
            reconnects: 0,
        })
    }

    /// Sends a request and waits for its response.
    pub(super) async fn ask(&mut self, request: &[u8]) -> Result<Answer<'_>, WireError> {
        let deadline = Instant::now() + self.timeout;
        let kept = self.stream.take().filter(is_open);
        let mut stream = match kept {
            Some(stream) => stream,
            None => {
                let connecting = connect(&self.place);
                let stream = in_time(&mut self.alarm, deadline, self.timeout, connecting).await?;
                self.reconnects += 1;
                stream
            }
        };
        let asking = exchange(&mut stream, request, &mut self.buffer);
        let head = in_time(&mut self.alarm, deadline, self.timeout, asking).await?;
        if !head.closes {
            self.stream = Some(stream);
        }
        Ok(Answer {
            head,
            body: &self.buffer[head.head_bytes..head.whole_bytes],
        })
    }
}

/// Connects with `TCP_NODELAY`, so that requests are sent without delay.
pub(super) async fn connect(place: &SocketPlace) -> Result<Stream, WireError> {
    Ok(Stream::connect(place).await?)
}

/// Whether an idle connection has not been closed by the server. It costs no system call unless
/// data has arrived.
fn is_open(stream: &Stream) -> bool {
    let read = stream.try_read(&mut [0]);
    matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

async fn exchange(
    stream: &mut Stream,
    request: &[u8],
    buffer: &mut Vec<u8>,
) -> Result<Head, WireError> {
    stream.write_all(request).await?;
    let mut filled = 0;
    loop {
        let read = stream.read(&mut buffer[filled..]).await?;
        if read == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        filled += read;
        let head = response::head(&buffer[..filled])?;
        match head {
            Some(head) if filled == head.whole_bytes => return Ok(head),
            Some(head) if filled > head.whole_bytes => {
                let more = "the server sent more than one response";
                return Err(io::Error::new(io::ErrorKind::InvalidData, more).into());
            }
            Some(head) => buffer.resize(buffer.len().max(head.whole_bytes), 0),
            None => {}
        }
        if filled == buffer.len() {
            buffer.resize(2 * filled, 0);
        }
    }
}

/// Waits for `work` until `deadline`. `alarm` may be set to any earlier time.
async fn in_time<T>(
    alarm: &mut Pin<Box<Sleep>>,
    deadline: Instant,
    timeout: Duration,
    work: impl Future<Output = Result<T, WireError>>,
) -> Result<T, WireError> {
    let mut work = pin!(work);
    poll_fn(|context| {
        if let Poll::Ready(done) = work.as_mut().poll(context) {
            return Poll::Ready(done);
        }
        while alarm.as_mut().poll(context).is_ready() {
            if Instant::now() >= deadline {
                return Poll::Ready(Err(WireError::TimedOut(timeout.as_millis())));
            }
            alarm.as_mut().reset(deadline);
        }
        Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);
    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\n\r\n";

    /// A connection to a server that sends `answers`, one per request, and closes the connection
    /// after the last.
    async fn wire(answers: &'static [&'static str], timeout: Duration) -> Wire {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                for answer in answers {
                    let _ = stream.read(&mut [0; 64]).await;
                    for part in answer.split_inclusive('|') {
                        let _ = stream
                            .write_all(part.trim_end_matches('|').as_bytes())
                            .await;
                        tokio::task::yield_now().await;
                    }
                    if answer.is_empty() {
                        std::future::pending::<()>().await;
                    }
                }
            }
        });
        let place = SocketPlace::Tcp(address);
        let stream = connect(&place).await.expect("connected");
        let stream = stream.detach().expect("a stream");
        Wire::new(stream, place, timeout).expect("a wire")
    }

    #[tokio::test]
    async fn answers_come_one_after_the_other() {
        const ANSWERS: &[&str] = &[
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\na",
            "HTTP/1.1 |503 X\r\ncontent-length: 2\r\n|\r\nb|c",
        ];
        let mut wire = wire(ANSWERS, PATIENCE).await;
        for _ in 0..3 {
            assert_eq!(wire.ask(REQUEST).await.expect("an answer").body, b"a");
            assert_eq!(wire.ask(REQUEST).await.expect("an answer").body, b"bc");
            // The server closes the connection; the client notices after some time.
            while wire.stream.as_ref().is_some_and(is_open) {
                tokio::task::yield_now().await;
            }
        }
        assert_eq!(wire.reconnects, 2);
    }

    #[tokio::test]
    async fn an_answer_longer_than_the_buffer_is_read_whole() {
        let long = "x".repeat(3 * BUFFER_BYTES);
        let text = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{long}",
            long.len()
        );
        let answers: &'static [&'static str] = Box::leak(Box::new([&*text.leak()]));
        let mut wire = wire(answers, PATIENCE).await;
        let answer = wire.ask(REQUEST).await.expect("an answer");
        assert_eq!(answer.body.len(), long.len());
    }

    #[tokio::test]
    async fn no_answer_in_time_gives_the_connection_up() {
        let mut wire = wire(&[""], Duration::from_millis(20)).await;
        let slow = wire.ask(REQUEST).await;
        assert!(matches!(slow, Err(WireError::TimedOut(20))), "{slow:?}");
        assert!(wire.stream.is_none());
    }

    #[tokio::test]
    async fn what_is_more_or_less_than_an_answer_breaks_it() {
        let mut more = wire(
            &["HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nab"],
            PATIENCE,
        )
        .await;
        assert!(matches!(more.ask(REQUEST).await, Err(WireError::Broken(_))));
        let mut less = wire(
            &["HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nab"],
            PATIENCE,
        )
        .await;
        assert!(matches!(less.ask(REQUEST).await, Err(WireError::Broken(_))));
        let mut other = wire(&["SSH-2.0-x\r\n"], PATIENCE).await;
        let asked = other.ask(REQUEST).await;
        assert!(matches!(asked, Err(WireError::Response(_))), "{asked:?}");
    }
}
