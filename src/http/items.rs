//! `POST /items`, `GET /items/{tenant}/ids/{id}`.
//!
//! Invariant: 200 is answered only for items that are durable.

use std::fmt::Display;
use std::sync::Arc;

use axum::body::{Body, HttpBody};
use axum::extract::State;
use axum::http::{HeaderMap, header};
use bytes::Bytes;
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;
use utoipa::ToSchema;

use super::caller::Caller;
use super::error::Problem;
use super::options::{PathParams, Query, tenant};
use super::parse::{Items, ParseError, parse_json, parse_ndjson};
use super::{App, JSON, Whole, json, json_in};
use crate::model::{ItemHash, Token, check_item_id};

/// The route that items are posted to.
pub(super) const ITEMS_ROUTE: &str = "/items";

/// The media type of items, one a line.
const NDJSON: &str = "application/x-ndjson";

/// Bodies up to this many bytes are parsed where they arrive; longer ones would hold up other requests on
/// the same thread for more than about a millisecond.
const PARSE_INLINE_BYTES_MAX: usize = 64 * 1024;

/// An item: something of a tenant that counts once, however often it is posted.
#[derive(ToSchema)]
#[schema(example = json!({"id": "5", "tenant": "asd"}))]
#[expect(
    dead_code,
    reason = "it only describes bodies; parse reads them without it"
)]
pub struct Item {
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
pub enum ItemOrItems {
    /// One item.
    One(Item),
    /// At most 100,000 items, all or nothing.
    Many(Vec<Item>),
}

/// The answer to a post.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"accepted": 1, "new": 1, "token": "AQ8vWw0sYI8tqJd3uQx8a1kAAAEAAAAAAAAAk2c1Ow"}))]
pub struct Accepted {
    /// How many items the request had; items seen before are a success like any other.
    accepted: usize,
    /// How many of them were counted for the first time: an id that several posts bring at once is told to one of them. Absent
    /// where that is not known when the answer is given: through RabbitMQ.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    new: Option<u64>,
    /// Give it as `after` to a read on any coordinator: that read includes these items.
    #[schema(value_type = String)]
    token: Token,
}

/// Whether an item is counted.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"tenant": "asd", "id": "5", "counted": true, "exact": true}))]
pub struct ItemAnswer {
    /// The tenant asked for.
    tenant: String,
    /// The id asked for.
    id: String,
    /// Whether the item is counted.
    counted: bool,
    /// Whether the answer includes everything that the read asked for.
    exact: bool,
}

#[derive(Clone, Copy)]
enum Format {
    Json,
    Ndjson,
}

/// Counts items, each once.
///
/// Answers once all of them are durable. All or nothing: if one item is invalid, none counts. Posting the
/// same ids again is always safe: after a 503, or when no answer came, do so.
#[utoipa::path(
    post,
    path = "/items",
    tag = "items",
    request_body(
        description = "One item, an array of items, or (NDJSON) items one a line, without brackets and commas.",
        content(
            (ItemOrItems = "application/json"),
            (Vec<Item> = "application/x-ndjson", example = "{\"id\":\"5\",\"tenant\":\"asd\"}\n{\"id\":\"6\",\"tenant\":\"asd\"}\n"),
        ),
    ),
    responses(
        (status = 200, description = "All of the items are durable and count.", body = Accepted),
        (status = 400, description = "The body is not JSON.", body = Problem, content_type = "application/problem+json"),
        (status = 408, description = "The body came too slowly.", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large, or has too many items.", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "The body is neither JSON nor NDJSON.", body = Problem, content_type = "application/problem+json"),
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
            description = "Refused, or the outcome is unknown: post the same items again.",
            body = Problem,
            content_type = "application/problem+json",
            headers(("Retry-After" = String, description = "Seconds to wait.")),
        ),
    ),
)]
pub async fn post_items(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Whole, Problem> {
    post(&app, headers, body).await
}

/// Takes a post, however it came here.
pub(super) async fn post<B>(app: &App, mut headers: HeaderMap, body: B) -> Result<Whole, Problem>
where
    B: HttpBody<Data = Bytes, Error: Display> + Unpin,
{
    let (items, _room) = receive_items(app, &mut headers, body).await?;
    let receipt = app.coordinator.accept(items.tenants).await?;
    let answer = Accepted {
        accepted: items.count,
        new: receipt.new,
        token: receipt.token,
    };
    Ok(json_in(headers, &answer))
}

/// The items of a body, and the body's room: kept until they wait under the coordinator's own limit.
///
/// Headers and body are pieces of the connection's buffer, which it can use again only once they are gone: so they go
/// before the items wait.
async fn receive_items<B>(
    app: &App,
    headers: &mut HeaderMap,
    body: B,
) -> Result<(Items, Option<OwnedSemaphorePermit>), Problem>
where
    B: HttpBody<Data = Bytes, Error: Display> + Unpin,
{
    let format = format(headers)?;
    let items_max = app.limits.items_max;
    let (body, room) = app.bodies.receive(headers, body).await?;
    headers.clear();
    if body.len() <= PARSE_INLINE_BYTES_MAX {
        return Ok((parse(format, &body, items_max)?, room));
    }
    let parsed = tokio::task::spawn_blocking(move || {
        // With the room inside, a client that goes away does not free it while its body is still there.
        (parse(format, &body, items_max), room)
    })
    .await;
    match parsed {
        Ok((parsed, room)) => Ok((parsed?, room)),
        Err(_) => Err(Problem::not_ready(
            "The process is going down. Post the items again.",
        )),
    }
}

fn parse(format: Format, body: &Bytes, items_max: usize) -> Result<Items, ParseError> {
    match format {
        Format::Json => parse_json(body, items_max),
        Format::Ndjson => parse_ndjson(body, items_max),
    }
}

/// The body's form by its headers; without a content type it is JSON.
fn format(headers: &HeaderMap) -> Result<Format, Problem> {
    let encoding = headers.get(header::CONTENT_ENCODING);
    if encoding.is_some_and(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Err(Problem::unsupported_media_type(
            "Send the body without a content encoding.",
        ));
    }
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        return Ok(Format::Json);
    };
    let text = value.to_str().unwrap_or_default();
    let mut parts = text.split(';').map(str::trim);
    let kind = parts.next().unwrap_or_default();
    let formats = [(JSON, Format::Json), (NDJSON, Format::Ndjson)];
    let format = formats
        .into_iter()
        .find(|(name, _)| kind.eq_ignore_ascii_case(name))
        .map(|(_, format)| format);
    let utf8 = parts
        .filter_map(|parameter| parameter.split_once('='))
        .filter(|(name, _)| name.eq_ignore_ascii_case("charset"))
        .all(|(_, charset)| is_utf8(charset.trim_matches('"')));
    format.filter(|_| utf8).ok_or_else(|| {
        Problem::unsupported_media_type(
            "Send application/json (one item or an array) or application/x-ndjson (an item a line), in UTF-8.",
        )
    })
}

fn is_utf8(charset: &str) -> bool {
    let names = ["utf-8", "utf8", "us-ascii"];
    names.iter().any(|name| charset.eq_ignore_ascii_case(name))
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
pub async fn get_item(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathParams((name, id)): PathParams<(String, String)>,
    query: Query,
) -> Result<Whole, Problem> {
    let coordinator = &app.coordinator;
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
