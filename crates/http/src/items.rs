//! `POST /items`, `GET /items/{tenant}/ids/{id}`.
//!
//! Invariant: a post is answered with 200 only if its accepted items are durable.

use std::fmt::Display;
use std::sync::Arc;

use axum::body::{Body, HttpBody};
use axum::extract::State;
use axum::http::HeaderMap;
use bytes::Bytes;
use serde::Serialize;
use utoipa::ToSchema;

use super::body::Room;
use super::caller::Caller;
use super::error::{Problem, to_json};
use super::fault::Fault;
use super::media::{self, Packing};
use super::options::{ITEM_PARAMS, POST_PARAMS, PathParams, Query, tenant};
use super::parse::{self, Format, Invalid, Items};
use super::unpack::unpack;
use super::{App, Whole, json, whole};
use headcount_model::{ItemHash, Token, check_item_id};

/// The route of posts.
pub(super) const ITEMS_ROUTE: &str = "/items";

/// Maximum size of a body that is parsed on the thread that received it, in bytes. A longer one
/// would block other requests on that thread for more than about a millisecond.
const PARSE_INLINE_BYTES_MAX: usize = 64 * 1024;

/// An item of a tenant. It counts once, however often it is posted.
#[derive(ToSchema)]
#[schema(example = json!({"id": "5", "tenant": "asd"}))]
#[expect(
    dead_code,
    reason = "used only for the OpenAPI description; `parse` reads bodies"
)]
pub(crate) struct Item {
    /// Identifies the item within its tenant. Compared byte for byte. `.` and `..` are not allowed.
    #[schema(
        min_length = 1,
        max_length = 512,
        pattern = "^(?!\\.{1,2}$)[^\\u0000-\\u001f\\u007f-\\u009f]+$"
    )]
    id: String,
    /// The tenant that the item counts for. Compared byte for byte. `.` and `..` are not allowed.
    #[schema(
        min_length = 1,
        max_length = 256,
        pattern = "^(?!\\.{1,2}$)[^\\u0000-\\u001f\\u007f-\\u009f]+$"
    )]
    tenant: String,
}

/// One item, or an array of items.
#[derive(ToSchema)]
#[serde(untagged)]
#[expect(
    dead_code,
    reason = "used only for the OpenAPI description; `parse` reads bodies"
)]
pub(crate) enum ItemOrItems {
    /// One item.
    One(Item),
    /// At most 100,000 items. Either all or none are accepted, unless `partial` is set.
    Many(Vec<Item>),
}

/// The response to a post.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "accepted": 1,
    "new": 1,
    "token": "AQ8vWw0sYI8tqJd3uQx8a1kAAAEAAAAAAAAAk2c1Ow",
}))]
pub(crate) struct Accepted {
    /// The number of items in the request or, with `partial`, of valid items. Duplicates are
    /// included: they are a success like other items.
    accepted: usize,
    /// The number of items that were counted for the first time. If concurrent requests contain the
    /// same new id, only one of them reports it as new. Absent with RabbitMQ, where the number is
    /// not known when the response is sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    new: Option<u64>,
    /// Pass it as `after` to a read on any coordinator, and an exact answer includes these items.
    /// Absent only if `partial` was set and no item was accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false, nullable = false)]
    token: Option<Token>,
    /// Only with `partial`: the errors of all items that were not accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    errors: Option<Vec<Fault>>,
}

/// Whether an item is counted.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"tenant": "asd", "id": "5", "counted": true, "exact": true}))]
pub(crate) struct ItemAnswer {
    /// The tenant of the item.
    tenant: String,
    /// The id of the item.
    id: String,
    /// Whether the item is counted.
    counted: bool,
    /// Whether the answer includes everything that the read requires.
    exact: bool,
}

/// How a body is parsed.
#[derive(Clone, Copy)]
struct Reading {
    format: Format,
    packing: Option<Packing>,
    partial: bool,
    items_max: usize,
}

/// Counts items, each once.
///
/// Responds once all items are durable. If one item is invalid, no items are accepted, unless
/// `partial` is set. It is always safe to post the same ids again. Do so after a 503, or if you
/// get no response.
///
/// The body may be compressed, with `Content-Encoding: gzip` or `zstd`; the size limit applies
/// before and after decompression. JSON may also be sent as `text/json` or as any type that ends in
/// `+json`, and NDJSON as `application/ndjson`, `jsonl`, `x-jsonl`, `jsonlines` or `x-jsonlines`.
#[utoipa::path(
    post,
    path = "/items",
    tag = "items",
    params(
        (
            "partial" = Option<bool>,
            Query,
            description = "If `true`, the valid items of the body are accepted, and `errors` in \
                the response lists all other items. A line of NDJSON that is not JSON is one of \
                those. A JSON document with a syntax error is rejected as a whole.",
        ),
    ),
    request_body(
        description = "One item, an array of items or, in NDJSON, one item per line without \
            brackets and commas.",
        content(
            (ItemOrItems = "application/json"),
            (
                Vec<Item> = "application/x-ndjson",
                example = "{\"id\":\"5\",\"tenant\":\"asd\"}\n{\"id\":\"6\",\"tenant\":\"asd\"}\n",
            ),
        ),
    ),
    responses(
        (
            status = 200,
            description = "All items are accepted and durable; with `partial`, all valid items.",
            body = Accepted,
        ),
        (
            status = 400,
            description = "The body is not JSON or cannot be decompressed, or a parameter is \
                invalid.",
            body = Problem,
            content_type = "application/problem+json",
        ),
        (
            status = 408,
            description = "The body arrived too slowly.",
            body = Problem,
            content_type = "application/problem+json",
        ),
        (
            status = 413,
            description = "The body is too large, before or after decompression, or has too many \
                items.",
            body = Problem,
            content_type = "application/problem+json",
        ),
        (
            status = 415,
            description = "The body is neither JSON nor NDJSON, or has a content encoding that \
                the response header Accept-Encoding does not list.",
            body = Problem,
            content_type = "application/problem+json",
        ),
        (
            status = 422,
            description = "Some items are invalid. No items were accepted.",
            body = Problem,
            content_type = "application/problem+json",
            example = json!({
                "type": "urn:headcount:problem:invalid-items",
                "title": "Some items are not valid",
                "status": 422,
                "detail": "No items were accepted. Fix the items listed in `errors` and resend \
                    the request.",
                "errors": [{
                    "index": 1,
                    "pointer": "/1/id",
                    "detail": "id must be a string, not a number",
                }],
            }),
        ),
        (
            status = 503,
            description = "The request was rejected (overload, full disk, …), or its outcome is \
                unknown; `type` says which. Post the same items again.",
            body = Problem,
            content_type = "application/problem+json",
            headers(
                ("Retry-After" = String, description = "Seconds to wait before the retry."),
            ),
        ),
    ),
)]
pub(crate) async fn post_items(
    State(app): State<Arc<App>>,
    query: Query,
    headers: HeaderMap,
    body: Body,
) -> Result<Whole, Problem> {
    post(&app, partial(&query)?, headers, body).await
}

/// Whether the valid items of a body count without the others.
pub(super) fn partial(query: &Query) -> Result<bool, Problem> {
    query.only(POST_PARAMS)?;
    query.flag("partial")
}

/// Handles a post, from the fast path or the router.
pub(super) async fn post<B>(
    app: &App,
    partial: bool,
    mut headers: HeaderMap,
    body: B,
) -> Result<Whole, Problem>
where
    B: HttpBody<Data = Bytes, Error: Display> + Unpin,
{
    let (items, room) = receive_items(app, partial, &mut headers, body).await?;
    let receipt = app.coordinator.accept(items.tenants).await?;
    let answer = Accepted {
        accepted: items.count,
        new: receipt.new,
        token: (!partial || items.count > 0).then_some(receipt.token),
        errors: partial.then(|| items.left_out.into_iter().map(Fault::from).collect()),
    };
    let json = match &answer.errors {
        Some(errors) if !errors.is_empty() => room.hold(to_json(&answer)),
        _ => to_json(&answer),
    };
    Ok(whole(headers, json))
}

/// Receives and parses a body. The returned [`Room`] is held until the items wait under the
/// coordinator's own limit and, if there are errors to report, until the response is sent.
///
/// Headers and body refer to the buffer of the connection, which cannot be reused before they are
/// dropped. So they are dropped before the items wait.
async fn receive_items<B>(
    app: &App,
    partial: bool,
    headers: &mut HeaderMap,
    body: B,
) -> Result<(Items, Room), Problem>
where
    B: HttpBody<Data = Bytes, Error: Display> + Unpin,
{
    let (format, packing) = media::of(headers)?;
    let reading = Reading {
        format,
        packing,
        partial,
        items_max: app.limits.items_max,
    };
    let (body, mut room) = app.bodies.receive(body).await?;
    headers.clear();
    if reading.packing.is_none() && body.len() <= PARSE_INLINE_BYTES_MAX {
        return Ok((reading.parse(&body, &mut room)?, room));
    }
    let limits = app.limits.bodies;
    let place = match reading.packing {
        // Boxed because it is rare: unboxed, it would enlarge the future of every request.
        Some(_) => Some(Box::pin(app.unpackers.place(limits)).await?),
        None => None,
    };
    #[expect(
        clippy::disallowed_methods,
        reason = "one body; its request awaits it and handles a panic"
    )]
    let parsed = tokio::task::spawn_blocking(move || {
        // The closure owns the room: if the client disconnects, the room is held as long as the
        // body is.
        let items = match reading.packing {
            None => reading.parse(&body, &mut room),
            Some(packing) => {
                let unpacked = unpack(packing, &body, limits.body_bytes_max, &mut room);
                drop((place, body));
                unpacked.and_then(|body| reading.parse(&body, &mut room))
            }
        };
        items.map(|items| (items, room))
    })
    .await;
    parsed.unwrap_or_else(|_| {
        Err(Problem::not_ready(
            "The node is shutting down. No items were accepted. Resend the request.",
        ))
    })
}

impl Reading {
    fn parse(self, body: &[u8], room: &mut Room) -> Result<Items, Problem> {
        let mut has_room = |bytes| room.take(bytes);
        let invalid = match self.partial {
            true => Invalid::IsLeftOut(&mut has_room),
            false => Invalid::RefusesAll,
        };
        Ok(parse::parse(self.format, body, self.items_max, invalid)?)
    }
}

/// Returns whether an item is counted.
#[utoipa::path(
    get,
    path = "/items/{tenant}/ids/{id}",
    tag = "items",
    params(
        (
            "tenant" = String,
            Path,
            description = "The tenant, percent-encoded.",
            min_length = 1,
            max_length = 256,
            pattern = "^(?!\\.{1,2}$)[^\\u0000-\\u001f\\u007f-\\u009f]+$",
            example = "asd",
        ),
        (
            "id" = String,
            Path,
            description = "The item's id, percent-encoded.",
            min_length = 1,
            max_length = 512,
            pattern = "^(?!\\.{1,2}$)[^\\u0000-\\u001f\\u007f-\\u009f]+$",
            example = "5",
        ),
        super::ReadParams,
    ),
    responses(
        (status = 200, description = "Whether the item is counted.", body = ItemAnswer),
        super::ReadProblems,
    ),
)]
pub(crate) async fn get_item(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathParams((name, id)): PathParams<(String, String)>,
    query: Query,
) -> Result<Whole, Problem> {
    let coordinator = &app.coordinator;
    query.only(ITEM_PARAMS)?;
    let options = query.read_options(coordinator.partitioning())?;
    let tenant = tenant(&name)?;
    check_item_id(&id).map_err(|error| Problem::invalid_parameter(format!("The id {error}.")))?;
    let hash = ItemHash::of_id(&id);
    let contains = |options| {
        let tenant = tenant.clone();
        async move { coordinator.contains(tenant, hash, &options).await }
    };
    let read = caller.read(options, contains).await?;
    Ok(json(&ItemAnswer {
        tenant: name,
        id,
        counted: read.value,
        exact: read.exact,
    }))
}
