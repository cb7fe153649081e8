//! Logs responses with a 5xx status, and adds the id of their request to them.
//!
//! Invariant: each combination of route and problem is logged at most once per second. The field
//! `times` of the log lines adds up to the number of responses, except those of the last second
//! before the process ends.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::extract::MatchedPath;
use axum::http::{HeaderName, HeaderValue, Method, Response, header};
use http_body_util::{Either, Full};
use parking_lot::Mutex;

use super::error::{Problem, to_json};
use super::fast_path::Answer;
use super::heads::Heads;
use super::measure::NO_ROUTE;

/// The header with the id of a request, in requests and in responses.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Maximum length of an id that a client sends, in bytes.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// The interval at which the same route and problem are logged.
const LINE_EVERY: Duration = Duration::from_secs(1);

/// Returns the id that a request has, if it is short enough and printable.
pub(super) fn given_id(heads: &Heads<'_>) -> Option<HeaderValue> {
    let id = heads.request_id?;
    let fits = (1..=REQUEST_ID_BYTES_MAX).contains(&id.len());
    (fits && id.as_bytes().iter().all(u8::is_ascii_graphic)).then(|| id.clone())
}

/// Generates ids for requests without one, and logs 5xx responses.
pub(super) struct Refusals {
    /// Distinguishes the ids of this process from those of others.
    life: u32,
    made: AtomicU64,
    seen: Mutex<Seen>,
}

impl Default for Refusals {
    fn default() -> Self {
        let mut life = [0; 4];
        // Without randomness, ids are unique only within this process.
        let _ = getrandom::fill(&mut life);
        Self {
            life: u32::from_le_bytes(life),
            made: AtomicU64::new(0),
            seen: Mutex::default(),
        }
    }
}

/// The properties of a request that are logged.
pub(super) struct Asked {
    pub id: Option<HeaderValue>,
    pub method: Method,
    /// The route; `None` if the router determined it.
    pub route: Option<&'static str>,
}

impl Refusals {
    /// Adds the id of the request to a 5xx response, and logs the response.
    pub(super) fn finish(self: &Arc<Self>, answer: &mut Response<Answer>, asked: Asked) {
        if answer.status().is_server_error() {
            self.tell(answer, asked);
        }
    }

    #[cold]
    fn tell(self: &Arc<Self>, answer: &mut Response<Answer>, asked: Asked) {
        let id = asked.id.unwrap_or_else(|| self.make_id());
        let extensions = answer.extensions_mut();
        let matched = extensions.remove::<MatchedPath>();
        let problem = extensions.remove::<Problem>();
        let request_id = String::from_utf8_lossy(id.as_bytes()).into_owned();
        let status = answer.status().as_u16();
        answer.headers_mut().insert(REQUEST_ID, id);
        let (mut kind, mut detail) = (String::new(), String::new());
        if let Some(mut problem) = problem {
            problem.set_request_id(&request_id);
            (kind, detail) = problem.told();
            // It is the length of the replaced body.
            answer.headers_mut().remove(header::CONTENT_LENGTH);
            *answer.body_mut() = Either::Left(Full::new(to_json(&problem)));
        }
        let route = matched.as_ref().map(MatchedPath::as_str);
        let route = asked.route.or(route).unwrap_or(NO_ROUTE).to_owned();
        let refusal = Refusal {
            request_id,
            method: asked.method,
            status,
            detail,
        };
        self.note((route, kind), refusal);
    }

    fn note(self: &Arc<Self>, what: What, refusal: Refusal) {
        let now = Instant::now();
        let next = self.seen.lock().note(&what, refusal, now);
        match next {
            Next::Log(refusal) => refusal.log(&what, 1),
            Next::Count => {}
            Next::CountUntil(then) => {
                let refusals = Arc::clone(self);
                #[expect(clippy::disallowed_methods, reason = "it ends within a second")]
                tokio::spawn(async move {
                    tokio::time::sleep_until(then.into()).await;
                    let counted = refusals.seen.lock().take(&what, Instant::now());
                    if let Some((refusal, times)) = counted {
                        refusal.log(&what, times);
                    }
                });
            }
        }
    }

    fn make_id(&self) -> HeaderValue {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let text = format!("{:08x}-{number:x}", self.life);
        HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static("none"))
    }
}

/// A route and the type of a problem.
type What = (String, String);

/// One request that was answered with 5xx.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Refusal {
    request_id: String,
    method: Method,
    status: u16,
    detail: String,
}

impl Refusal {
    /// Logs the request, with the number of such requests since the previous line.
    fn log(&self, (route, problem): &What, times: u64) {
        tracing::warn!(
            request_id = self.request_id,
            method = %self.method,
            route,
            status = self.status,
            problem,
            detail = self.detail,
            times,
            "request failed"
        );
    }
}

/// The recent 5xx responses, by route and problem. The number of both is small.
#[derive(Default)]
struct Seen(HashMap<What, Window>);

/// The time since the last log line of one route and problem.
struct Window {
    opened: Instant,
    times: u64,
    last: Option<Refusal>,
}

/// How a 5xx response is handled.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// It is logged now.
    Log(Refusal),
    /// It is counted. A line at this time covers it and those that follow until then.
    CountUntil(Instant),
    /// It is counted for a line that is already scheduled.
    Count,
}

impl Seen {
    fn note(&mut self, what: &What, refusal: Refusal, now: Instant) -> Next {
        let open = self.0.get_mut(what).filter(|window| {
            window.times > 0 || now.saturating_duration_since(window.opened) < LINE_EVERY
        });
        let Some(window) = open else {
            let window = Window {
                opened: now,
                times: 0,
                last: None,
            };
            self.0.insert(what.clone(), window);
            return Next::Log(refusal);
        };
        window.times += 1;
        window.last = Some(refusal);
        match window.times {
            1 => Next::CountUntil(window.opened + LINE_EVERY),
            _ => Next::Count,
        }
    }

    /// Returns the last response that was counted until now and their number, and resets the count.
    fn take(&mut self, what: &What, now: Instant) -> Option<(Refusal, u64)> {
        let window = self.0.get_mut(what)?;
        window.opened = now;
        let times = std::mem::take(&mut window.times);
        Some((window.last.take()?, times))
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderMap;

    use super::*;

    fn refusal(request_id: u32) -> Refusal {
        Refusal {
            request_id: request_id.to_string(),
            method: Method::POST,
            status: 503,
            detail: String::new(),
        }
    }

    #[test]
    fn the_same_is_told_once_a_second_with_its_number() {
        let (mut seen, start) = (Seen::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        let what = ("/items".to_owned(), "overloaded".to_owned());
        let other = ("/items".to_owned(), "not-ready".to_owned());
        assert_eq!(seen.note(&what, refusal(1), at(0)), Next::Log(refusal(1)));
        assert_eq!(seen.note(&other, refusal(2), at(1)), Next::Log(refusal(2)));
        assert_eq!(
            seen.note(&what, refusal(3), at(1)),
            Next::CountUntil(at(1_000))
        );
        assert_eq!(seen.note(&what, refusal(4), at(999)), Next::Count);
        // The line may be late; until then, responses are only counted.
        assert_eq!(seen.note(&what, refusal(5), at(1_001)), Next::Count);
        assert_eq!(seen.take(&what, at(1_002)), Some((refusal(5), 3)));
        assert_eq!(
            seen.note(&what, refusal(6), at(2_001)),
            Next::CountUntil(at(2_002))
        );
        assert_eq!(seen.take(&what, at(2_002)), Some((refusal(6), 1)));
        assert_eq!(seen.take(&what, at(2_003)), None);
        assert_eq!(
            seen.note(&what, refusal(7), at(3_003)),
            Next::Log(refusal(7))
        );
    }

    #[test]
    fn ids_that_can_be_shown_are_kept() {
        let id = |text: &[u8]| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, HeaderValue::from_bytes(text).expect("a value"));
            given_id(&Heads::of(&headers))
        };
        assert_eq!(id(b"a-1").expect("kept"), "a-1");
        assert!(id(&[b'x'; REQUEST_ID_BYTES_MAX]).is_some());
        for bad in [
            &b""[..],
            b"a b",
            b"a\xff",
            &[b'x'; REQUEST_ID_BYTES_MAX + 1],
        ] {
            assert_eq!(id(bad), None);
        }
        assert_eq!(given_id(&Heads::default()), None);
        let refusals = Refusals::default();
        assert_ne!(refusals.make_id(), refusals.make_id());
    }
}
