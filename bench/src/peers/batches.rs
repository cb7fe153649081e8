//! Batches for PostgreSQL: one prepared statement with two arrays.
//!
//! Invariant: each batch is one transaction with its tenants in ascending order, so that no two
//! transactions wait for each other.

use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::task::JoinSet;
use tokio_postgres::Client;

use super::load::{Items, Tally, Window};
use super::postgres::{Options, Server};
use crate::error::BenchError;

const BATCH: &str = include_str!("../../peers/batch.sql");

/// Sends batches over all connections until the measurement ends.
pub async fn run(server: &Server, options: &Options) -> Result<Value, BenchError> {
    let mut clients = Vec::new();
    for _ in 0..options.connections {
        clients.push(server.connect().await?);
    }
    let window = Window::new(Duration::from_secs(options.warmup_s), options.seconds);
    let mut tasks = JoinSet::new();
    for (index, client) in clients.into_iter().enumerate() {
        let items = Items::new(index, options.tenants);
        tasks.spawn(load(client, items, options.batch, window));
    }
    let mut all = Tally::new()?;
    while let Some(ended) = tasks.join_next().await {
        let ended = ended.map_err(|why| BenchError::Peer {
            peer: "PostgreSQL",
            detail: why.to_string(),
        })?;
        all.add(&ended?);
    }
    Ok(all.to_json(window.seconds()))
}

async fn load(
    client: Client,
    mut items: Items,
    batch: usize,
    window: Window,
) -> Result<Tally, BenchError> {
    let statement = client.prepare(BATCH).await?;
    let mut tally = Tally::new()?;
    let mut drawn = Vec::new();
    while !window.is_over() {
        items.tenants(batch, &mut drawn);
        let tenants: Vec<String> = drawn.iter().map(|tenant| format!("t{tenant}")).collect();
        let ids: Vec<String> = drawn.iter().map(|_| items.id()).collect();
        let started = Instant::now();
        client.execute(&statement, &[&tenants, &ids]).await?;
        tally.note(&window, started, batch as u64, 0);
    }
    Ok(tally)
}
