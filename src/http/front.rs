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
use axum::http::{HeaderMap, Method, Request, Response};
use axum::response::IntoResponse;
use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;

use super::caller::Caller;
use super::error::Problem;
use super::measure::{Measures, Series};
use super::options::{Query, path_segment};
use super::{App, Whole, counts, items};

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
    posts: Series,
    counts: Series,
}

/// An answer's body: of one piece, or whatever the router makes.
pub(super) type Answer = Either<Full<Bytes>, Body>;

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
        let posts = Series::new(&measures, items::ITEMS_ROUTE, "POST");
        let counts = Series::new(&measures, counts::COUNT_ROUTE, "GET");
        Self::over(Some(Straight { app, posts, counts }), router)
    }

    fn over(straight: Option<Straight>, router: Router) -> Self {
        let router = TowerToHyperService::new(router);
        Self {
            inner: Arc::new(Inner { straight, router }),
        }
    }

    /// Answers a request of `caller`.
    pub(super) async fn answer<B>(&self, request: Request<B>, caller: &Caller) -> Response<Answer>
    where
        B: HttpBody<Data = Bytes, Error: Display + Into<axum::BoxError>> + Send + Unpin + 'static,
    {
        let (mut parts, body) = request.into_parts();
        let known = Known::of(&parts.method, parts.uri.path());
        let (Some(straight), Some(known)) = (&self.inner.straight, known) else {
            parts.extensions.insert(caller.clone());
            let request = Request::from_parts(parts, Body::new(body));
            let answered = self.inner.router.call(request).await;
            return answered
                .unwrap_or_else(|never| match never {})
                .map(Either::Right);
        };
        let started = Instant::now();
        let headers = std::mem::take(&mut parts.headers);
        let (series, answer) = match known {
            Known::PostItems => {
                let partial = match parts.uri.query() {
                    None => Ok(false),
                    Some(query) => Query::parse(query).and_then(|query| items::partial(&query)),
                };
                // The path is a piece of the connection's buffer as well.
                drop((parts.uri, parts.extensions));
                let answer = match partial {
                    Ok(partial) => items::post(&straight.app, partial, headers, body).await,
                    Err(problem) => Err(problem),
                };
                (&straight.posts, answer)
            }
            Known::GetCount(tenant) => {
                let query = parts.uri.query().unwrap_or_default();
                let answer = straight.count(caller, headers, tenant, query).await;
                (&straight.counts, answer)
            }
        };
        let response = match answer {
            Ok(whole) => whole.map(Either::Left),
            Err(problem) => problem.into_response().map(Either::Right),
        };
        series.note(response.status(), started.elapsed());
        response
    }
}

impl Straight {
    async fn count(
        &self,
        caller: &Caller,
        headers: HeaderMap,
        tenant: &str,
        query: &str,
    ) -> Result<Whole, Problem> {
        // In the order in which extractors look at them.
        let tenant = path_segment(tenant)?;
        let query = Query::parse(query)?;
        counts::count(&self.app, caller, headers, &tenant, &query).await
    }
}

#[cfg(test)]
#[path = "front_tests.rs"]
pub(super) mod tests;
