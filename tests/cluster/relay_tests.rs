//! The relay does to a connection what its name says.
//!
//! Invariant: each fault is seen from both ends.

use std::io::ErrorKind;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::reaper;
use crate::tcp_proxy::{Flow, TcpProxy};

/// Long enough for bytes to pass through this machine, if they pass.
const A_MOMENT: Duration = Duration::from_millis(300);

async fn pair(listener: &TcpListener, relay: &TcpProxy) -> (TcpStream, TcpStream) {
    let client = TcpStream::connect(("127.0.0.1", relay.port()));
    let (client, server) = tokio::join!(client, listener.accept());
    (client.expect("connected"), server.expect("accepted").0)
}

async fn relay() -> (TcpListener, TcpProxy) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let relay = TcpProxy::to(listener.local_addr().expect("bound"));
    (listener, relay)
}

async fn passes(from: &mut TcpStream, to: &mut TcpStream, text: &str) {
    from.write_all(text.as_bytes()).await.expect("sent");
    let mut got = vec![0; text.len()];
    to.read_exact(&mut got).await.expect("received");
    assert_eq!(got, text.as_bytes());
}

async fn is_silent(stream: &mut TcpStream) -> bool {
    tokio::time::timeout(A_MOMENT, stream.read_u8())
        .await
        .is_err()
}

async fn is_reset(stream: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut rest)).await;
    ended
        .expect("in time")
        .is_err_and(|why| why.kind() == ErrorKind::ConnectionReset)
}

#[tokio::test]
async fn a_relay_passes_and_cuts() {
    let (listener, relay) = relay().await;
    let (mut client, mut server) = pair(&listener, &relay).await;
    passes(&mut client, &mut server, "hello").await;
    passes(&mut server, &mut client, "hello yourself").await;
    relay.cut();
    assert!(is_reset(&mut client).await);
    assert!(is_reset(&mut server).await);
    let (mut client, mut server) = pair(&listener, &relay).await;
    passes(&mut client, &mut server, "again").await;
}

#[tokio::test]
async fn a_relay_that_is_down_resets_whoever_comes() {
    let (listener, relay) = relay().await;
    relay.down();
    match TcpStream::connect(("127.0.0.1", relay.port())).await {
        Ok(mut client) => assert!(is_reset(&mut client).await),
        // So soon that the client has not yet seen it open.
        Err(why) => assert_eq!(why.kind(), ErrorKind::ConnectionReset),
    }
    relay.up();
    let (mut client, mut server) = pair(&listener, &relay).await;
    passes(&mut client, &mut server, "again").await;
}

#[tokio::test]
async fn the_end_of_a_stream_passes_too() {
    let (listener, relay) = relay().await;
    let (mut client, mut server) = pair(&listener, &relay).await;
    client.shutdown().await.expect("shut");
    assert_eq!(server.read(&mut [0; 1]).await.expect("read"), 0);
    passes(&mut server, &mut client, "the other way goes on").await;
}

#[tokio::test]
async fn a_stall_holds_one_way_and_loses_nothing() {
    let (listener, relay) = relay().await;
    let (mut client, mut server) = pair(&listener, &relay).await;
    relay.flow(Flow::Stall, Flow::Pass);
    client.write_all(b"late").await.expect("sent");
    assert!(is_silent(&mut server).await);
    passes(&mut server, &mut client, "on time").await;
    relay.flow(Flow::Pass, Flow::Stall);
    let mut got = [0; 4];
    server.read_exact(&mut got).await.expect("received");
    assert_eq!(&got, b"late");
    server.write_all(b"x").await.expect("sent");
    assert!(is_silent(&mut client).await);
    relay.up();
    assert_eq!(client.read_u8().await.expect("received"), b'x');
}

#[tokio::test]
async fn a_client_is_held_where_it_says_something() {
    let (listener, relay) = relay().await;
    let (mut client, mut server) = pair(&listener, &relay).await;
    relay.hold_at(b"wait");
    passes(&mut client, &mut server, "hello").await;
    client.write_all(b"I wait").await.expect("sent");
    relay.held().await;
    assert!(is_silent(&mut server).await);
    passes(&mut server, &mut client, "the other way goes on").await;
    relay.up();
    let mut got = [0; 6];
    server.read_exact(&mut got).await.expect("received");
    assert_eq!(&got, b"I wait");
    passes(&mut client, &mut server, "once only: wait").await;
}

#[tokio::test]
async fn what_is_swallowed_is_never_seen() {
    let (listener, relay) = relay().await;
    let (mut client, mut server) = pair(&listener, &relay).await;
    let answer = async {
        let mut asked = [0; 3];
        server.read_exact(&mut asked).await.expect("received");
        server.write_all(b"so be it").await.expect("sent");
        is_reset(&mut server).await
    };
    client.write_all(b"ask").await.expect("sent");
    let ((), server_is_reset) = tokio::join!(relay.swallow(b"be"), answer);
    assert!(server_is_reset);
    let mut got = Vec::new();
    assert!(client.read_to_end(&mut got).await.is_err());
    assert_eq!(got, b"");
}

#[tokio::test]
async fn an_orphaned_server_is_not_told() {
    let (listener, relay) = relay().await;
    let (mut client, mut server) = pair(&listener, &relay).await;
    relay.orphan();
    assert!(is_reset(&mut client).await);
    server.write_all(b"still there?").await.expect("sent");
    assert!(is_silent(&mut server).await);
    let (mut client, mut second) = pair(&listener, &relay).await;
    passes(&mut client, &mut second, "a new life").await;
    relay.cut();
    assert!(is_reset(&mut server).await);
}

/// A copy stands for the one that a child has between its fork and its exec.
#[test]
fn a_port_is_free_again_although_its_listener_was_copied() {
    let port = reaper::free_port();
    let listener = std::net::TcpListener::bind(("127.0.0.1", port)).expect("free");
    let _copy = listener.try_clone().expect("copied");
    reaper::stop_listening(listener);
    std::net::TcpListener::bind(("127.0.0.1", port)).expect("free again");
}
