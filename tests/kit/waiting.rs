//! Reads that wait for what nobody will ever bring.
//!
//! Invariant: their tokens are well-formed and of nobody's batch, so that they wait as long as they
//! may.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use headcount::model::{Epoch, Partition, Token};

/// The longest that a read may wait.
pub const TIMEOUT: Duration = Duration::from_secs(30);

/// A token of a batch that nobody ever made.
pub fn token(partition: u16) -> Token {
    Token {
        epoch: Epoch(77),
        sequences: [(Partition(partition), 5)].into(),
    }
}

/// The paths of all reads of tenant `a`, with a token.
pub fn reads(token: &Token) -> [String; 4] {
    let options = format!("after={token}&timeout_ms={}", TIMEOUT.as_millis());
    [
        format!("/items/a/count?{options}"),
        format!("/items/a/ids/1?{options}"),
        format!("/counts?tenant=a&{options}"),
        format!("/tenants?{options}"),
    ]
}

/// Sends a request to the node at `url` and leaves its answer.
pub fn send(url: &str, path: &str) -> TcpStream {
    let address = url.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).expect("connected");
    let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
    stream.write_all(head.as_bytes()).expect("sent");
    stream
}

/// Sends `count` reads of all kinds in turn.
pub fn send_all(url: &str, count: usize) -> Vec<TcpStream> {
    let paths = reads(&token(0));
    let paths = paths.iter().cycle().take(count);
    paths.map(|path| send(url, path)).collect()
}

/// Ends a connection at once, as a process does that is killed with an answer unread.
pub fn reset(stream: TcpStream) {
    let at_once = Some(Duration::ZERO);
    rustix::net::sockopt::set_socket_linger(&stream, at_once).expect("set");
}

/// How many queries wait, by a node's metrics.
pub fn waiting(metrics: &str) -> usize {
    let gauge = "headcount_queries_waiting ";
    let value = metrics.lines().find_map(|line| line.strip_prefix(gauge));
    value.map_or(0, |value| value.parse().expect("a number"))
}
