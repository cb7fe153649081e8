//! `headcount-bench ceiling`: a server that only speaks HTTP and JSON. The difference to Headcount
//! is the cost of everything else.
//!
//! Invariant: it parses every body into typed items, and its responses have the shape and size of
//! Headcount's, on the same runtime. So a rate that it can't reach is out of reach for any server
//! of this kind.

use std::borrow::Cow;
use std::net::SocketAddr;

use axum::Router;
use axum::body::Bytes;
use axum::extract::Path;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use clap::Args;
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::error::BenchError;
use crate::memory;

/// Maximum size of a body, as in the service.
const BODY_BYTES_MAX: usize = 8 << 20;

/// A token of typical length.
const TOKEN: &str = "ASeu5Ht9p2oxIZ10ICmJuMAAAAIAAAAAAAAA-5-D4Q";

/// What to serve, and where.
#[derive(Debug, Args)]
pub struct Options {
    /// Listen address; port 0 picks a free port, and the address is printed
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Serve Headcount's coordinator and counter over the in-memory store instead of a no-op
    #[arg(long)]
    memory_store: bool,
}

/// Serves until it receives a signal to stop.
///
/// # Errors
/// It can't start.
pub fn run(options: Options) -> Result<(), BenchError> {
    // The same runtime as in the program.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|why| BenchError::io("start the runtime", why))?;
    runtime.block_on(async {
        if options.memory_store {
            memory::serve(options.listen).await
        } else {
            serve(options.listen).await
        }
    })
}

async fn serve(listen: SocketAddr) -> Result<(), BenchError> {
    let listener = listen_on(listen).await?;
    let router = Router::new()
        .route("/items", post(post_items))
        .route("/items/{tenant}/count", get(get_count))
        .route("/readyz", get(|| async { "ready" }))
        .layer(axum::extract::DefaultBodyLimit::max(BODY_BYTES_MAX));
    let listener = listener.tap_io(|stream| {
        // If it fails, the stream still works, with more latency.
        let _ = stream.set_nodelay(true);
    });
    axum::serve(listener, router)
        .with_graceful_shutdown(told_to_stop())
        .await
        .map_err(|why| BenchError::io("serve", why))
}

/// Listens, and prints the address like the program.
pub async fn listen_on(listen: SocketAddr) -> Result<TcpListener, BenchError> {
    let fault = |why| BenchError::io(format!("listen on {listen}"), why);
    let listener = TcpListener::bind(listen).await.map_err(fault)?;
    println!(
        "listening on http://{}",
        listener.local_addr().map_err(fault)?
    );
    Ok(listener)
}

/// Resolves on SIGTERM or SIGINT.
pub async fn told_to_stop() {
    let (Ok(mut terminate), Ok(mut interrupt)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

#[derive(Deserialize)]
struct Item<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    tenant: Cow<'a, str>,
}

async fn post_items(body: Bytes) -> Response {
    let is_array = body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[');
    let accepted = if is_array {
        serde_json::from_slice::<Vec<Item<'_>>>(&body).map(|items| {
            let named = |item: &&Item<'_>| !item.id.is_empty() && !item.tenant.is_empty();
            items.iter().filter(named).count()
        })
    } else {
        serde_json::from_slice::<Item<'_>>(&body)
            .map(|item| usize::from(!item.id.is_empty() && !item.tenant.is_empty()))
    };
    match accepted {
        Ok(accepted) => json(format!(r#"{{"accepted":{accepted},"token":"{TOKEN}"}}"#)),
        Err(why) => (StatusCode::BAD_REQUEST, why.to_string()).into_response(),
    }
}

async fn get_count(Path(tenant): Path<String>) -> Response {
    json(format!(
        r#"{{"tenant":"{tenant}","count":1000,"exact":true}}"#
    ))
}

fn json(text: String) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], text).into_response()
}
