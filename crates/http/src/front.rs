//! The way in. The two requests that nearly all are, a post and a count, go straight to their
//! handlers; every other one goes through the router.
//!
//! Invariant: an answer does not tell which way its request took.
//!
//! A router boxes, clones and matches in several layers: about half of all allocations of a post
//! (docs/adr/0013-past-the-router.md).

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
    ///
    /// Parts and body stay where they are until they are read: passed on by value, each would be
    /// copied once for each function.
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
            // Boxed, since it is rare: otherwise every request would have to have room for it.
            let settled = unread::settle(left, waits_to_continue, &mut response, &caller);
            Box::pin(settled).await;
        }
        self.inner.refusals.finish(&mut response, asked);
        let server = HeaderValue::from_static(SERVER);
        response.headers_mut().insert(header::SERVER, server);
        Ok(response)
    }

    /// Answers a request that may be. What may be left of its body stays.
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
        let known = Known::of(&parts.method, parts.uri.path());
        let (Some(straight), Some(known), Some(to_read), false, None) = (
            &self.inner.straight,
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
            Known::PostItems => {
                let partial = match parts.uri.query() {
                    None => Ok(false),
                    Some(query) => Query::parse(query).and_then(|query| items::partial(&query)),
                };
                // The path is a piece of the connection's buffer as well.
                parts.uri = Uri::default();
                let answer = match partial {
                    Ok(partial) => items::post(&straight.app, partial, headers, to_read).await,
                    Err(problem) => Err(problem),
                };
                if answer.is_ok() {
                    *body = None;
                }
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
        asked.route = Some(series.route());
        response
    }

    /// The same for what is rare.
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
