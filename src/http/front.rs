//! The way in. The two requests that nearly all are, a post and a count, go straight to their handlers; every other one
//! goes through the router.
//!
//! Invariant: an answer does not tell which way its request took.
//!
//! A router boxes, clones and matches in several layers: about half of all allocations of a post
//! (docs/adr/0013-past-the-router.md).

use std::fmt::Display;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::http::{Method, Request};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;

use super::error::Problem;
use super::measure::Measures;
use super::options::{Query, path_segment};
use super::{App, counts, items};

/// What a node serves; cheap to clone.
#[derive(Clone)]
pub struct Routes {
    // One count for each request to go up and down, whatever is inside.
    inner: Arc<Inner>,
}

struct Inner {
    straight: Option<Straight>,
    router: TowerToHyperService<Router>,
}

/// What goes past the router.
struct Straight {
    app: Arc<App>,
    measures: Arc<Measures>,
}

/// A request that goes past the router.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known<'r> {
    PostItems,
    /// Of a tenant, still percent-encoded.
    GetCount(&'r str),
}

impl<'r> Known<'r> {
    fn of(method: &Method, path: &'r str) -> Option<Self> {
        if method == Method::POST {
            return (path == items::ITEMS_ROUTE).then_some(Self::PostItems);
        }
        let tenant = path.strip_prefix("/items/")?.strip_suffix("/count")?;
        let one_segment = !tenant.is_empty() && !tenant.contains('/');
        (method == Method::GET && one_segment).then_some(Self::GetCount(tenant))
    }
}

impl Routes {
    /// All of them through the router.
    pub(super) fn new(router: Router) -> Self {
        Self::over(None, router)
    }

    /// Those of a coordinator: some past the router, which has them too.
    pub(super) fn of_coordinator(app: Arc<App>, measures: Arc<Measures>, router: Router) -> Self {
        Self::over(Some(Straight { app, measures }), router)
    }

    fn over(straight: Option<Straight>, router: Router) -> Self {
        let router = TowerToHyperService::new(router);
        Self {
            inner: Arc::new(Inner { straight, router }),
        }
    }

    /// Answers a request.
    pub(super) async fn answer<B>(&self, request: Request<B>) -> Response
    where
        B: HttpBody<Data = Bytes, Error: Display + Into<axum::BoxError>> + Send + Unpin + 'static,
    {
        let known = Known::of(request.method(), request.uri().path());
        let (Some(straight), Some(known)) = (&self.inner.straight, known) else {
            let answered = self.inner.router.call(request.map(Body::new)).await;
            return answered.unwrap_or_else(|never| match never {});
        };
        let started = Instant::now();
        let (route, method, answer) = match known {
            Known::PostItems => {
                let (parts, body) = request.into_parts();
                let headers = parts.headers;
                // The path is a piece of the connection's buffer as well.
                drop((parts.uri, parts.extensions));
                let answer = items::post(&straight.app, headers, body).await;
                (items::ITEMS_ROUTE, "POST", answer)
            }
            Known::GetCount(tenant) => {
                let answer = straight.count(tenant, request.uri().query()).await;
                (counts::COUNT_ROUTE, "GET", answer)
            }
        };
        let response = answer.into_response();
        let status = response.status().as_u16();
        straight
            .measures
            .note(route, method, status, started.elapsed());
        response
    }
}

impl Straight {
    async fn count(&self, tenant: &str, query: Option<&str>) -> Result<Response, Problem> {
        // In the order in which extractors look at them.
        let tenant = path_segment(tenant)?;
        let query = Query::parse(query.unwrap_or_default())?;
        counts::count(&self.app, &tenant, &query).await
    }
}

#[cfg(test)]
#[path = "front_tests.rs"]
pub(super) mod tests;
