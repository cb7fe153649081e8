//! `GET /items/{tenant}/count`, `GET /counts`, `GET /tenants`.
//!
//! Invariant: every count is returned with a flag that says whether it is exact.

use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;
use serde::Serialize;
use utoipa::ToSchema;

use super::caller::Caller;
use super::error::Problem;
use super::options::{COUNT_PARAMS, COUNTS_PARAMS, PathParams, Query, TENANTS_PARAMS, tenant};
use super::{App, Whole, json, json_in};
use headcount_model::{TENANT_CHARS_MAX, TenantName};
use headcount_rpc::ListQuery;

/// The route of one tenant's count.
pub(super) const COUNT_ROUTE: &str = "/items/{tenant}/count";

/// Maximum number of tenants in one request to `GET /counts`.
const TENANTS_ASKED_MAX: usize = 1_000;
/// Maximum number of tenants in a page of `GET /tenants`.
const PAGE_MAX: u64 = 1_000;
/// Default number of tenants in a page of `GET /tenants`.
const PAGE_DEFAULT: u64 = 100;

/// A tenant's name.
#[derive(ToSchema)]
#[schema(
    min_length = 1,
    max_length = 256,
    pattern = "^(?!\\.{1,2}$)[^\\u0000-\\u001f\\u007f-\\u009f]+$"
)]
#[expect(
    dead_code,
    reason = "used only for the OpenAPI description; `options` parses the parameter"
)]
pub(crate) struct TenantText(String);

/// The count of a tenant.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"tenant": "asd", "count": 3, "exact": true}))]
pub(crate) struct CountAnswer {
    /// The tenant.
    tenant: String,
    /// The number of distinct ids that were accepted for the tenant; 0 for an unknown tenant.
    count: u64,
    /// Whether the count includes everything that the read requires.
    exact: bool,
}

/// A tenant and its count.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TenantCount {
    /// The name of the tenant.
    tenant: String,
    /// The number of distinct ids that were accepted for the tenant.
    count: u64,
}

/// The counts of several tenants, all read at one moment.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"counts": [{"tenant": "asd", "count": 3}], "exact": true}))]
pub(crate) struct CountsAnswer {
    /// The counts, in the order of the request.
    counts: Vec<TenantCount>,
    /// Whether the counts include everything that the read requires.
    exact: bool,
}

/// A page of tenants.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "tenants": [{"tenant": "asd", "count": 3}],
    "next_cursor": "asd",
    "exact": true,
}))]
pub(crate) struct TenantsAnswer {
    /// The tenants, in ascending order of the bytes of their names.
    tenants: Vec<TenantCount>,
    /// Pass it as `cursor` to get the next page. Absent on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    next_cursor: Option<String>,
    /// Whether the counts include everything that the read requires.
    exact: bool,
}

/// Returns the count of a tenant: the number of distinct ids that were accepted for it.
#[utoipa::path(
    get,
    path = "/items/{tenant}/count",
    tag = "counts",
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
        super::ReadParams,
    ),
    responses(
        (status = 200, description = "The count of the tenant.", body = CountAnswer),
        super::ReadProblems,
    ),
)]
pub(crate) async fn get_count(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathParams(name): PathParams<String>,
    query: Query,
) -> Result<Whole, Problem> {
    count(&app, &caller, HeaderMap::new(), &name, &query).await
}

/// Reads the count of a tenant, for the fast path and the router.
pub(super) async fn count(
    app: &App,
    caller: &Caller,
    headers: HeaderMap,
    name: &str,
    query: &Query,
) -> Result<Whole, Problem> {
    let coordinator = &app.coordinator;
    query.only(COUNT_PARAMS)?;
    let options = query.read_options(coordinator.partitioning())?;
    let tenant = tenant(name)?;
    let counts = |options| {
        let tenants = vec![tenant.clone()];
        async move { coordinator.counts(tenants, &options).await }
    };
    let read = caller.read(options, counts).await?;
    let answer = CountAnswer {
        tenant: name.into(),
        count: read.value.first().copied().unwrap_or(0),
        exact: read.exact,
    };
    Ok(json_in(headers, &answer))
}

/// Returns the counts of several tenants, all read at one moment.
#[utoipa::path(
    get,
    path = "/counts",
    tag = "counts",
    params(
        (
            "tenant" = Vec<TenantText>,
            Query,
            style = Form,
            explode,
            description = "A tenant. Can be repeated, up to 1,000 times.",
            min_items = 1,
            max_items = 1_000,
            example = json!(["asd"]),
        ),
        super::ReadParams,
    ),
    responses(
        (
            status = 200,
            description = "The counts of the tenants, in the order of the request.",
            body = CountsAnswer,
        ),
        (
            status = 414,
            description = "The request line is longer than 64 KiB. Split the tenants into several \
                requests.",
        ),
        super::ReadProblems,
    ),
)]
pub(crate) async fn get_counts(
    State(app): State<Arc<App>>,
    caller: Caller,
    query: Query,
) -> Result<Whole, Problem> {
    let coordinator = &app.coordinator;
    query.only(COUNTS_PARAMS)?;
    let options = query.read_options(coordinator.partitioning())?;
    let tenants: Vec<TenantName> = query
        .all("tenant")
        .take(TENANTS_ASKED_MAX + 1)
        .map(tenant)
        .collect::<Result<_, _>>()?;
    if tenants.is_empty() || tenants.len() > TENANTS_ASKED_MAX {
        return Err(Problem::invalid_parameter(format!(
            "A request must have 1 to {TENANTS_ASKED_MAX} tenants: ?tenant=a&tenant=b."
        )));
    }
    let counts = |options| {
        let tenants = tenants.clone();
        async move { coordinator.counts(tenants, &options).await }
    };
    let read = caller.read(options, counts).await?;
    let counts = tenants.iter().zip(read.value);
    Ok(json(&CountsAnswer {
        counts: counts.map(|(name, count)| row(name, count)).collect(),
        exact: read.exact,
    }))
}

/// Lists the tenants that have items, in pages.
///
/// Tenants are ordered by the bytes of their names. Each page is read at one moment, but different
/// pages at different moments: a tenant that is added between pages is listed if its name comes
/// after the cursor.
#[utoipa::path(
    get,
    path = "/tenants",
    tag = "counts",
    params(
        (
            "prefix" = Option<String>,
            Query,
            description = "Lists only tenants with this prefix.",
            max_length = 256,
        ),
        (
            "limit" = Option<u64>,
            Query,
            description = "Maximum number of tenants in the page; 100 by default.",
            minimum = 1,
            maximum = 1_000,
        ),
        (
            "cursor" = Option<String>,
            Query,
            description = "The `next_cursor` of the previous page.",
            max_length = 256,
        ),
        super::ReadParams,
    ),
    responses(
        (status = 200, description = "A page of tenants.", body = TenantsAnswer),
        super::ReadProblems,
    ),
)]
pub(crate) async fn get_tenants(
    State(app): State<Arc<App>>,
    caller: Caller,
    query: Query,
) -> Result<Whole, Problem> {
    let coordinator = &app.coordinator;
    query.only(TENANTS_PARAMS)?;
    let options = query.read_options(coordinator.partitioning())?;
    let limit = query.number("limit", 1, PAGE_MAX)?.unwrap_or(PAGE_DEFAULT);
    let list = ListQuery {
        prefix: query
            .text("prefix", TENANT_CHARS_MAX)?
            .unwrap_or_default()
            .to_owned(),
        after: query.text("cursor", TENANT_CHARS_MAX)?.map(str::to_owned),
        limit: limit as usize,
    };
    let page = |options| {
        let list = list.clone();
        async move { coordinator.list(list, &options).await }
    };
    let read = caller.read(options, page).await?;
    let (tenants, more) = read.value;
    let last = tenants.last().map(|(name, _)| name.to_string());
    Ok(json(&TenantsAnswer {
        tenants: tenants
            .iter()
            .map(|(name, count)| row(name, *count))
            .collect(),
        next_cursor: last.filter(|_| more),
        exact: read.exact,
    }))
}

fn row(name: &TenantName, count: u64) -> TenantCount {
    TenantCount {
        tenant: name.to_string(),
        count,
    }
}
