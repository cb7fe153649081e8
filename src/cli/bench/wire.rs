//! One connection: a request's bytes go out, an answer's come in.
//!
//! Invariant: after anything but a whole answer the connection is given up, so that no answer is ever taken for
//! that of another request. Nothing is allocated for a request.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use super::response::{self, Head, ResponseError};

/// Bytes of answers read at once; the buffer grows for a longer one.
const BUFFER_BYTES: usize = 4 * 1024;

/// Why a request has no answer.
#[derive(Debug, Error)]
pub(super) enum WireError {
    #[error("{0}")]
    Broken(#[from] io::Error),
    #[error("no answer within {0} ms")]
    TimedOut(u128),
    /// Whatever is there, it is no coordinator.
    #[error(transparent)]
    Response(#[from] ResponseError),
}

/// An answer.
#[derive(Debug)]
pub(super) struct Answer<'a> {
    pub(super) head: Head,
    pub(super) body: &'a [u8],
}

/// A connection that is made anew when it has broken.
pub(super) struct Wire {
    address: SocketAddr,
    stream: Option<TcpStream>,
    buffer: Vec<u8>,
    timeout: Duration,
    /// Set anew only when it has rung, which spares a timer for each request.
    alarm: Pin<Box<Sleep>>,
    /// How often it was connected anew.
    pub(super) reconnects: u64,
}

impl Wire {
    /// A connection that is there already.
    pub(super) fn new(
        stream: std::net::TcpStream,
        address: SocketAddr,
        timeout: Duration,
    ) -> io::Result<Self> {
        Ok(Self {
            address,
            stream: Some(TcpStream::from_std(stream)?),
            buffer: vec![0; BUFFER_BYTES],
            timeout,
            alarm: Box::pin(tokio::time::sleep(timeout)),
            reconnects: 0,
        })
    }

    /// Sends a request and waits for its answer.
    pub(super) async fn ask(&mut self, request: &[u8]) -> Result<Answer<'_>, WireError> {
        let deadline = Instant::now() + self.timeout;
        let kept = self.stream.take().filter(is_open);
        let mut stream = match kept {
            Some(stream) => stream,
            None => {
                let connecting = connect(self.address);
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

/// Connects, without waiting to fill packets.
pub(super) async fn connect(address: SocketAddr) -> Result<TcpStream, WireError> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Whether the other side has not closed an idle connection. It costs no system call unless something came.
fn is_open(stream: &TcpStream) -> bool {
    let read = stream.try_read(&mut [0]);
    matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

async fn exchange(
    stream: &mut TcpStream,
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
                let more = "more was sent than one answer";
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

/// Waits for `work` until `deadline`; `alarm` may be set to any earlier time.
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
