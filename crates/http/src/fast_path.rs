//! The entry point of requests. The two most frequent requests, `POST /items` and the count of a
//! tenant, take a fast path to their handlers; all others go through the router.
//!
//! Invariant: a response does not depend on the path that its request took.
//!
//! The router boxes, clones and matches in several layers, which is about half of all allocations
//! of a post (docs/adr/0013-past-the-router.md).

use std::convert::Infallible;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, Request, Response, Uri, header};
use axum::response::IntoResponse;
use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;

use super::access::Foreign;
use super::caller::Caller;
use super::error::Problem;
use super::heads::Heads;
use super::health::PROBES;
use super::measure::{Measures, Series};
use super::methods;
use super::options::{Query, path_segment};
use super::refusals::{Asked, Refusals, given_id};
use super::{App, Whole, counts, items, unread};

/// The routes of a node; cheap to clone.
#[derive(Clone)]
pub struct Routes {
    // A single `Arc`, so that a request changes only one reference count.
    inner: Arc<Inner>,
}

struct Inner {
    fast_path: Option<FastPath>,
    router: TowerToHyperService<Router>,
    refusals: Arc<Refusals>,
}

/// The routes of the fast path.
struct FastPath {
    app: Arc<App>,
    posts: Series,
    counts: Series,
}

/// The body of a response: one buffer, or the body that the router returns.
pub(super) type Answer = Either<Full<Bytes>, Body>;

/// The value of the header `Server` of every response.
pub(super) const SERVER: &str = "headcount";

/// A request that takes the fast path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FastRoute<'r> {
    PostItems,
    /// The count of a tenant, which is still percent-encoded.
    GetCount(&'r str),
}

impl<'r> FastRoute<'r> {
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
    /// Creates routes that all go through the router.
    pub(super) fn new(router: Router) -> Self {
        Self::over(None, router)
    }

    /// Creates the routes of a coordinator. Some take the fast path; the router has those as well.
    pub(super) fn of_coordinator(app: Arc<App>, measures: Arc<Measures>, router: Router) -> Self {
        let posts = Series::new(&measures, items::ITEMS_ROUTE, "POST");
        let counts = Series::new(&measures, counts::COUNT_ROUTE, "GET");
        Self::over(Some(FastPath { app, posts, counts }), router)
    }

    fn over(fast_path: Option<FastPath>, router: Router) -> Self {
        let router = TowerToHyperService::new(router);
        Self {
            inner: Arc::new(Inner {
                fast_path,
                router,
                refusals: Arc::default(),
            }),
        }
    }

    /// Answers a request of `caller`.
    ///
    /// Parts and body are passed by reference until they are read: passed by value, they would be
    /// copied in each function.
    pub(super) async fn answer<B>(
        self,
        request: Request<B>,
        caller: Caller,
    ) -> Result<Response<Answer>, Infallible>
    where
        B: HttpBody<Data = Bytes, Error: Display + Into<axum::BoxError>> + Send + Unpin + 'static,
    {
        let (mut parts, body) = request.into_parts();
        let mut body = Some(body);
        let _answering = caller.answering();
        let heads = Heads::of(&parts.headers);
        let waits_to_continue = heads.waits_to_continue;
        let mut asked = Asked {
            id: given_id(&heads),
            method: parts.method.clone(),
            route: None,
        };
        let mut response = match caller.check(&heads, parts.version) {
            Ok(foreign) => {
                let asking = (&mut parts, &mut body);
                self.let_in(asking, foreign, &caller, &mut asked).await
            }
            Err(problem) => problem.into_response().map(Either::Right),
        };
        if let Some(left) = body.filter(|left| !left.is_end_stream()) {
            // Boxed because it is rare: unboxed, it would enlarge the future of every request.
            let settled = unread::settle(left, waits_to_continue, &mut response, &caller);
            Box::pin(settled).await;
        }
        self.inner.refusals.finish(&mut response, asked);
        let server = HeaderValue::from_static(SERVER);
        response.headers_mut().insert(header::SERVER, server);
        Ok(response)
    }

    /// Answers a request that passed the access check. The unread rest of its body stays in `body`.
    async fn let_in<B>(
        &self,
        (parts, body): (&mut Parts, &mut Option<B>),
        foreign: Foreign,
        caller: &Caller,
        asked: &mut Asked,
    ) -> Response<Answer>
    where
        B: HttpBody<Data = Bytes, Error: Display + Into<axum::BoxError>> + Send + Unpin + 'static,
    {
        let known = FastRoute::of(&parts.method, parts.uri.path());
        let (Some(fast_path), Some(known), Some(to_read), false, None) = (
            &self.inner.fast_path,
            known,
            &mut *body,
            caller.only_probes(),
            &foreign,
        ) else {
            return Box::pin(self.by_router((parts, body), foreign, caller)).await;
        };
        let started = Instant::now();
        let headers = std::mem::take(&mut parts.headers);
        let (series, answer) = match known {
            FastRoute::PostItems => {
                let partial = match parts.uri.query() {
                    None => Ok(false),
                    Some(query) => Query::parse(query).and_then(|query| items::partial(&query)),
                };
                // The path also refers to the buffer of the connection, which must be free for
                // reuse.
                parts.uri = Uri::default();
                let answer = match partial {
                    Ok(partial) => items::post(&fast_path.app, partial, headers, to_read).await,
                    Err(problem) => Err(problem),
                };
                if answer.is_ok() {
                    *body = None;
                }
                (&fast_path.posts, answer)
            }
            FastRoute::GetCount(tenant) => {
                let query = parts.uri.query().unwrap_or_default();
                let answer = fast_path.count(caller, headers, tenant, query).await;
                (&fast_path.counts, answer)
            }
        };
        let response = match answer {
            Ok(whole) => whole.map(Either::Left),
            Err(problem) => problem.into_response().map(Either::Right),
        };
        series.note(response.status(), started.elapsed());
        asked.route = Some(series.route());
        response
    }

    /// Answers a request that does not take the fast path.
    async fn by_router<B>(
        &self,
        (parts, kept): (&mut Parts, &mut Option<B>),
        foreign: Foreign,
        caller: &Caller,
    ) -> Response<Answer>
    where
        B: HttpBody<Data = Bytes, Error: Display + Into<axum::BoxError>> + Send + Unpin + 'static,
    {
        let only_probes = caller.only_probes();
        if only_probes && !PROBES.contains(&parts.uri.path()) {
            let mut response = caller.why_only_probes().into_response().map(Either::Right);
            unread::close_after(&mut response);
            return response;
        }
        if let Some(answer) = methods::preflight(parts, &foreign) {
            return answer.map(Either::Left);
        }
        let (nothing, ()) = Request::new(()).into_parts();
        let mut parts = std::mem::replace(parts, nothing);
        parts.extensions.insert(caller.clone());
        let asks_methods = parts.method == Method::OPTIONS;
        let (body, back) = unread::lend(kept.take());
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
        *kept = back.lock().take();
        response
    }
}

impl FastPath {
    async fn count(
        &self,
        caller: &Caller,
        headers: HeaderMap,
        tenant: &str,
        query: &str,
    ) -> Result<Whole, Problem> {
        // The order of the extractors, so that both paths report the same error.
        let tenant = path_segment(tenant)?;
        let query = Query::parse(query)?;
        counts::count(&self.app, caller, headers, &tenant, &query).await
    }
}

#[cfg(test)]
#[path = "fast_path_tests.rs"]
pub(super) mod tests;
