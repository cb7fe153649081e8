//! `POST /items`, `GET /items/{tenant}/ids/{id}`.
//!
//! Invariant: 200 is answered only for items that are durable.

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

/// The route that items are posted to.
pub(super) const ITEMS_ROUTE: &str = "/items";

/// Bodies up to this many bytes are parsed where they arrive; longer ones would hold up other
/// requests on the same thread for more than about a millisecond.
const PARSE_INLINE_BYTES_MAX: usize = 64 * 1024;

/// An item: something of a tenant that counts once, however often it is posted.
#[derive(ToSchema)]
#[schema(example = json!({"id": "5", "tenant": "asd"}))]
#[expect(
    dead_code,
    reason = "it only describes bodies; parse reads them without it"
)]
pub(crate) struct Item {
    /// What makes the item the same item again. Compared byte for byte; never `.` or `..`.
    #[schema(
        min_length = 1,
        max_length = 512,
        pattern = "^(?!\\.{1,2}$)[^\\u0000-\\u001f\\u007f-\\u009f]+$"
    )]
    id: String,
    /// Whom it is counted for. Compared byte for byte; never `.` or `..`.
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
    reason = "it only describes bodies; parse reads them without it"
)]
pub(crate) enum ItemOrItems {
    /// One item.
    One(Item),
    /// At most 100,000 items, all or nothing.
    Many(Vec<Item>),
}

/// The answer to a post.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"accepted": 1, "new": 1, "token": "AQ8vWw0sYI8tqJd3uQx8a1kAAAEAAAAAAAAAk2c1Ow"}))]
pub(crate) struct Accepted {
    /// How many items the request had, or with `partial` how many of them are valid; items seen
    /// before are a success like any other.
    accepted: usize,
    /// How many of them were counted for the first time: an id that several posts bring at once is
    /// told to one of them. Absent where that is not known when the answer is given: through
    /// RabbitMQ.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    new: Option<u64>,
    /// Give it as `after` to a read on any coordinator: that read includes these items. Absent only
    /// if `partial` was asked for and no item was accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false, nullable = false)]
    token: Option<Token>,
    /// With `partial`: the faults of every item that was not accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    errors: Option<Vec<Fault>>,
}

/// Whether an item is counted.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"tenant": "asd", "id": "5", "counted": true, "exact": true}))]
pub(crate) struct ItemAnswer {
    /// The tenant asked for.
    tenant: String,
    /// The id asked for.
    id: String,
    /// Whether the item is counted.
    counted: bool,
    /// Whether the answer includes everything that the read asked for.
    exact: bool,
}

/// How a body is to be read.
#[derive(Clone, Copy)]
struct Reading {
    format: Format,
    packing: Option<Packing>,
    partial: bool,
    items_max: usize,
}

/// Counts items, each once.
///
/// Answers once all of them are durable. All or nothing, unless `partial` says otherwise: if one
/// item is invalid, none counts. Posting the same ids again is always safe: after a 503, or when no
/// answer came, do so.
///
/// A body may be packed, with `Content-Encoding: gzip` or `zstd`; its limit holds before and after.
/// JSON is taken by the names `text/json` and any that ends in `+json` too, NDJSON by
/// `application/ndjson`, `jsonl`, `x-jsonl`, `jsonlines` and `x-jsonlines`.
#[utoipa::path(
    post,
    path = "/items",
    tag = "items",
    params(
        ("partial" = Option<bool>, Query, description = "`true`: the valid items of the body count, and `errors` of the answer names every other one. A line of NDJSON that is no JSON is one of those; a JSON document that breaks is refused."),
    ),
    request_body(
        description = "One item, an array of items, or (NDJSON) items one a line, without brackets and commas.",
        content(
            (ItemOrItems = "application/json"),
            (Vec<Item> = "application/x-ndjson", example = "{\"id\":\"5\",\"tenant\":\"asd\"}\n{\"id\":\"6\",\"tenant\":\"asd\"}\n"),
        ),
    ),
    responses(
        (status = 200, description = "All of the items are durable and count; with `partial`, all that are valid.", body = Accepted),
        (status = 400, description = "The body is not JSON or can't be unpacked, or a parameter is not valid.", body = Problem, content_type = "application/problem+json"),
        (status = 408, description = "The body came too slowly.", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large, as it is sent or once it is unpacked, or has too many items.", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "The body is neither JSON nor NDJSON, or packed in another way than the header Accept-Encoding of this answer names.", body = Problem, content_type = "application/problem+json"),
        (
            status = 422,
            description = "Some items are invalid; none counts.",
            body = Problem,
            content_type = "application/problem+json",
            example = json!({
                "type": "urn:headcount:problem:invalid-items",
                "title": "Some items are not valid",
                "status": 422,
                "detail": "None of the items counts. Correct those that errors names and post all again.",
                "errors": [{"index": 1, "pointer": "/1/id", "detail": "id must be a string, not a number"}],
            }),
        ),
        (
            status = 503,
            description = "Refused (too much waits, the disk is full, …), or the outcome is unknown: `type` tells. Post the same items again.",
            body = Problem,
            content_type = "application/problem+json",
            headers(("Retry-After" = String, description = "Seconds to wait.")),
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

/// Whether the valid items of a body are to count without the others.
pub(super) fn partial(query: &Query) -> Result<bool, Problem> {
    query.only(POST_PARAMS)?;
    query.flag("partial")
}

/// Takes a post, however it came here.
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

/// The items of a body, and the body's room: kept until they wait under the coordinator's own
/// limit, and as long as there are faults to be told.
///
/// Headers and body are pieces of the connection's buffer, which it can use again only once they
/// are gone: so they go before the items wait.
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
        // Boxed, since it is rare: otherwise every request would have to have room for it.
        Some(_) => Some(Box::pin(app.unpackers.place(limits)).await?),
        None => None,
    };
    #[expect(
        clippy::disallowed_methods,
        reason = "one body, whose request hears of a panic"
    )]
    let parsed = tokio::task::spawn_blocking(move || {
        // With the room inside, a client that goes away does not free it while its body is still
        // there.
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
            "The process is going down. Post the items again.",
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

/// Tells whether an item is counted.
#[utoipa::path(
    get,
    path = "/items/{tenant}/ids/{id}",
    tag = "items",
    params(
        ("tenant" = String, Path, description = "The tenant, percent-encoded.", min_length = 1, max_length = 256, pattern = "^(?!\\.{1,2}$)[^\\u0000-\\u001f\\u007f-\\u009f]+$", example = "asd"),
        ("id" = String, Path, description = "The item's id, percent-encoded.", min_length = 1, max_length = 512, pattern = "^(?!\\.{1,2}$)[^\\u0000-\\u001f\\u007f-\\u009f]+$", example = "5"),
        super::ReadParams,
    ),
    responses(
        (status = 200, description = "Whether the item is counted.", body = ItemAnswer),
        (status = 400, description = "A parameter is not valid.", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "No counter can answer in time, or as many reads wait as may: ask again.", body = Problem, content_type = "application/problem+json"),
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
