//! A test server that answers on command.
//!
//! Invariant: it answers no request before a test allows it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};

use crate::messages::{CountsAnswers, CountsGroup, CountsQuery, Message};
use crate::{Counts, Coverage, QueryError};
use headcount_model::{Partition, Requirement};

/// A server that answers counts with 1, each response when allowed, and counts its requests.
pub(super) struct Told {
    pub(super) url: String,
    pub(super) requests: Arc<AtomicUsize>,
    /// Number of queries of each request, sent when the request arrives.
    pub(super) seen: mpsc::UnboundedReceiver<usize>,
    pub(super) let_go: Arc<Semaphore>,
    pub(super) let_waiting_go: Arc<Semaphore>,
}

/// Starts such a server.
pub(super) async fn told() -> Told {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/below", listener.local_addr().expect("bound"));
    let (saw, seen) = mpsc::unbounded_channel();
    let requests = Arc::<AtomicUsize>::default();
    let let_go = Arc::new(Semaphore::new(0));
    let let_waiting_go = Arc::new(Semaphore::new(0));
    let counted = Arc::clone(&requests);
    let gates = [&let_go, &let_waiting_go].map(Arc::clone);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (saw, counted, gates) = (saw.clone(), Arc::clone(&counted), gates.clone());
            tokio::spawn(async move {
                while let Some(group) = read_group(&mut stream).await {
                    counted.fetch_add(1, Ordering::Relaxed);
                    let _ = saw.send(group.0.len());
                    let waits = group.0.iter().any(may_wait);
                    let gate = &gates[usize::from(waits)];
                    gate.acquire().await.expect("open").forget();
                    let answers = group.0.iter().map(answer).collect();
                    let body = CountsAnswers(answers).encode();
                    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
                    stream.write_all(head.as_bytes()).await.expect("written");
                    stream.write_all(&body).await.expect("written");
                }
            });
        }
    });
    Told {
        url,
        requests,
        seen,
        let_go,
        let_waiting_go,
    }
}

/// Whether a query may wait longer than queries in a group do.
fn may_wait(query: &CountsQuery) -> bool {
    query.demand.wait > Duration::from_secs(1)
}

/// A query is covered if it requires nothing, or may wait.
fn answer(query: &CountsQuery) -> Result<Counts, QueryError> {
    let covers = query.demand.requirement.iter().next().is_none() || may_wait(query);
    Ok(Counts {
        cover: Coverage {
            life: 1,
            barriers: true,
            partitions: vec![(Partition(0), covers)],
            covered: Requirement::default(),
            loss: None,
        },
        counts: vec![vec![1]; query.tenants.len()],
    })
}

async fn read_group(stream: &mut TcpStream) -> Option<CountsGroup> {
    let mut bytes = Vec::new();
    let (head, length) = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8(bytes[..end].to_vec())
                .expect("UTF-8")
                .to_lowercase();
            assert!(
                head.starts_with("post /below/internal/v1/counts "),
                "{head}"
            );
            let (_, length) = head.split_once("content-length: ").expect("a length");
            let length = length.lines().next().expect("a length");
            break (end + 4, length.parse::<usize>().expect("a number"));
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    while bytes.len() < head + length {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
    Some(CountsGroup::decode(&bytes[head..]).expect("a group"))
}
