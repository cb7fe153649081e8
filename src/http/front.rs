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
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use axum::response::IntoResponse;
use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;

use super::access::Foreign;
use super::caller::Caller;
use super::error::Problem;
use super::health::PROBES;
use super::measure::{Measures, Series};
use super::methods;
use super::options::{Query, path_segment};
use super::refusals::{Asked, Refusals, given_id};
use super::{App, Whole, counts, items, unread};

/// What a node serves; cheap to clone.
#[derive(Clone)]
pub struct Routes {
    // One count for each request to go up and down, whatever is inside.
    inner: Arc<Inner>,
}

struct Inner {
    straight: Option<Straight>,
    router: TowerToHyperService<Router>,
    refusals: Arc<Refusals>,
}

/// What goes past the router.
struct Straight {
    app: Arc<App>,
    posts: Series,
    counts: Series,
}

/// An answer's body: of one piece, or whatever the router makes.
pub(super) type Answer = Either<Full<Bytes>, Body>;

/// What serves, as an answer names it.
pub(super) const SERVER: &str = "headcount";

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
            inner: Arc::new(Inner {
                straight,
                router,
                refusals: Arc::default(),
            }),
        }
    }

    /// Answers a request of `caller`.
    pub(super) async fn answer<B>(&self, request: Request<B>, caller: &Caller) -> Response<Answer>
    where
        B: HttpBody<Data = Bytes, Error: Display + Into<axum::BoxError>> + Send + Unpin + 'static,
    {
        let mut asked = Asked {
            id: given_id(request.headers()),
            method: request.method().clone(),
            route: None,
        };
        let response = self.answer_of(request, caller, &mut asked).await;
        let mut response = self.inner.refusals.finish(response, asked);
        let server = HeaderValue::from_static(SERVER);
        response.headers_mut().insert(header::SERVER, server);
        response
    }

    async fn answer_of<B>(
        &self,
        request: Request<B>,
        caller: &Caller,
        asked: &mut Asked,
    ) -> Response<Answer>
    where
        B: HttpBody<Data = Bytes, Error: Display + Into<axum::BoxError>> + Send + Unpin + 'static,
    {
        let (parts, body) = request.into_parts();
        let _answering = caller.answering();
        let waits_to_continue = !body.is_end_stream() && unread::waits_to_continue(&parts.headers);
        let (mut response, left) = match caller.check(&parts.headers, parts.version) {
            Ok(foreign) => self.let_in(parts, body, foreign, caller, asked).await,
            Err(problem) => (problem.into_response().map(Either::Right), Some(body)),
        };
        if let Some(left) = left.filter(|left| !left.is_end_stream()) {
            // Boxed, since it is rare: otherwise every request would have to have room for it.
            let settled = unread::settle(left, waits_to_continue, &mut response, caller);
            Box::pin(settled).await;
        }
        response
    }

    /// Answers a request that may be; beside the answer, what may be left of its body.
    async fn let_in<B>(
        &self,
        mut parts: Parts,
        mut body: B,
        foreign: Foreign,
        caller: &Caller,
        asked: &mut Asked,
    ) -> (Response<Answer>, Option<B>)
    where
        B: HttpBody<Data = Bytes, Error: Display + Into<axum::BoxError>> + Send + Unpin + 'static,
    {
        let known = Known::of(&parts.method, parts.uri.path());
        let (Some(straight), Some(known), false, None) =
            (&self.inner.straight, known, caller.only_probes(), &foreign)
        else {
            return Box::pin(self.by_router(parts, body, foreign, caller)).await;
        };
        let started = Instant::now();
        let headers = std::mem::take(&mut parts.headers);
        let (series, answer, wants_body) = match known {
            Known::PostItems => {
                let partial = match parts.uri.query() {
                    None => Ok(false),
                    Some(query) => Query::parse(query).and_then(|query| items::partial(&query)),
                };
                // The path is a piece of the connection's buffer as well.
                drop((parts.uri, parts.extensions));
                let answer = match partial {
                    Ok(partial) => items::post(&straight.app, partial, headers, &mut body).await,
                    Err(problem) => Err(problem),
                };
                (&straight.posts, answer, true)
            }
            Known::GetCount(tenant) => {
                let query = parts.uri.query().unwrap_or_default();
                let answer = straight.count(caller, headers, tenant, query).await;
                (&straight.counts, answer, false)
            }
        };
        let is_read = wants_body && answer.is_ok();
        let response = match answer {
            Ok(whole) => whole.map(Either::Left),
            Err(problem) => problem.into_response().map(Either::Right),
        };
        series.note(response.status(), started.elapsed());
        asked.route = Some(series.route());
        (response, (!is_read).then_some(body))
    }

    /// The same for what is rare.
    async fn by_router<B>(
        &self,
        mut parts: Parts,
        body: B,
        foreign: Foreign,
        caller: &Caller,
    ) -> (Response<Answer>, Option<B>)
    where
        B: HttpBody<Data = Bytes, Error: Display + Into<axum::BoxError>> + Send + Unpin + 'static,
    {
        let only_probes = caller.only_probes();
        if only_probes && !PROBES.contains(&parts.uri.path()) {
            let mut response = caller.why_only_probes().into_response().map(Either::Right);
            unread::close_after(&mut response);
            return (response, Some(body));
        }
        if let Some(answer) = methods::preflight(&parts, &foreign) {
            return (answer.map(Either::Left), Some(body));
        }
        parts.extensions.insert(caller.clone());
        let asks_methods = parts.method == Method::OPTIONS;
        let (body, back) = unread::lend(body);
        let request = Request::from_parts(parts, Body::new(body));
        let answered = self.inner.router.call(request).await;
        let mut response = answered.unwrap_or_else(|never| match never {});
        if asks_methods {
            response = methods::allowed(response);
        }
        let mut response = response.map(Either::Right);
        methods::share(&mut response, foreign);
        if only_probes {
            unread::close_after(&mut response);
        }
        let left = back.lock().take();
        (response, left)
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
