//! Tests of clients that close their side, reset their connection, or send more than is read.
//!
//! Invariant: see the [module above](super).

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};

use super::*;
use headcount_coordinator::Consistency;
use headcount_net::ReadHalf;

const PATIENCE: Duration = Duration::from_secs(30);

/// Returns a client's socket, and the server's view of the connection.
async fn connection() -> (TcpStream, Caller, Bytes) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    let options = ConnectionOptions {
        only_probes: false,
        untaken_timeout: None,
    };
    let stream = Stream::Tcp(accepted.expect("accepted").0);
    let (caller, bytes) = split(stream, Arc::default(), options);
    (client.expect("connected"), caller, bytes)
}

fn reset(client: TcpStream) {
    client.set_zero_linger().expect("set");
    drop(client);
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(PATIENCE, what).await.expect("within its time")
}

fn options() -> ReadOptions {
    ReadOptions {
        consistency: Consistency::Session,
        after: None,
        timeout: 2 * PATIENCE,
    }
}

/// A read that is answered only at its timeout.
async fn never(options: ReadOptions) -> Result<Read<Duration>, ReadError> {
    sleep(options.timeout).await;
    Ok(Read {
        value: options.timeout,
        exact: false,
    })
}

#[tokio::test]
async fn an_end_a_reset_and_bytes_are_told_apart() {
    let (mut client, caller, bytes) = connection().await;
    client.write_all(b"GET /next").await.expect("sent");
    let ReadHalf::Tcp(read) = &bytes.read else {
        panic!("another kind of socket");
    };
    read.readable().await.expect("readable");
    assert_eq!(
        caller.closed().now_or_never(),
        None,
        "bytes do not close it"
    );
    client.shutdown().await.expect("ended");
    assert_eq!(soon(caller.closed()).await, Closed::ItsSide);
    assert_eq!(caller.reset().now_or_never(), None);
    reset(client);
    soon(caller.reset()).await;
    assert_eq!(soon(caller.closed()).await, Closed::Both);
}

#[tokio::test]
async fn a_read_ends_with_its_client() {
    let (client, caller, _bytes) = connection().await;
    let mut reading = pin!(caller.read(options(), never));
    assert!(reading.as_mut().now_or_never().is_none());
    reset(client);
    assert!(soon(reading).await.is_err());

    let (client, caller, _bytes) = connection().await;
    let mut work = pin!(caller.unless_gone(std::future::pending::<()>()));
    assert!(work.as_mut().now_or_never().is_none());
    // The client has closed its socket. Until the server writes, that looks like a client that has
    // only closed its side.
    drop(client);
    assert!(soon(work).await.is_err());
}

#[tokio::test]
async fn a_read_whose_client_has_ended_its_side_is_answered_with_what_is_known() {
    let (mut client, caller, _bytes) = connection().await;
    client.shutdown().await.expect("ended");
    let begun = Instant::now();
    let asked = AtomicUsize::new(0);
    let read = soon(caller.read(options(), |options| {
        asked.fetch_add(1, Ordering::Relaxed);
        never(options)
    }));
    let read = read.await.expect("answered");
    assert_eq!((read.value, read.exact), (Duration::ZERO, false));
    assert_eq!(asked.load(Ordering::Relaxed), 2);
    assert!(begun.elapsed() >= HALF_CLOSED_MAX);
    // A read that finishes within that time is not run again.
    let at_once = ReadOptions {
        timeout: HALF_CLOSED_MAX / 10,
        ..options()
    };
    let timeout_of = at_once.timeout;
    let read = soon(caller.read(at_once, never)).await.expect("answered");
    assert_eq!(read.value, timeout_of);
}
