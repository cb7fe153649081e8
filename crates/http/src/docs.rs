//! `GET /openapi.json` and `GET /docs`: the OpenAPI description, generated from the handlers, and a
//! page that renders it without loading anything from other hosts.
//!
//! Invariant: the description contains every public route; a test compares the two.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Redirect, Response};
use bytes::Bytes;
use utoipa::OpenApi;
use utoipa_swagger_ui::Config;

use super::App;
use super::JSON;
use super::error::{Problem, to_json};
use super::options::PathParams;
use super::{counters, counts, health, items};

/// The OpenAPI description of the public API.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Headcount",
        description = "Counts items per tenant, each item once. After a crash, no acknowledged \
            item is lost and no item counts twice.\n\nErrors are `application/problem+json` \
            (RFC 9457). After a 503, the same request can be sent again unchanged.",
    ),
    paths(
        items::post_items,
        items::get_item,
        counts::get_count,
        counts::get_counts,
        counts::get_tenants,
        counters::get_counters,
        health::healthz,
        health::readyz,
        health::get_metrics,
    ),
    components(schemas(counts::TenantText)),
    tags(
        (name = "items", description = "Post items, and look up an item"),
        (name = "counts", description = "Counts of tenants"),
        (name = "operation", description = "State of the service"),
    ),
)]
struct ApiDescription;

/// Serializes the description; called once.
pub(crate) fn openapi_json() -> Bytes {
    to_json(&ApiDescription::openapi())
}

pub(crate) async fn get_openapi(State(app): State<Arc<App>>) -> Response {
    let headers = [(header::CONTENT_TYPE, JSON)];
    (headers, app.openapi.clone()).into_response()
}

pub(crate) async fn redirect_to_docs() -> Redirect {
    Redirect::permanent("/docs/")
}

pub(crate) async fn get_docs_index() -> Response {
    docs_file("").unwrap_or_else(Problem::into_response)
}

pub(crate) async fn get_docs_file(PathParams(path): PathParams<String>) -> Response {
    docs_file(&path).unwrap_or_else(Problem::into_response)
}

fn docs_file(path: &str) -> Result<Response, Problem> {
    let config = Arc::new(Config::from("/openapi.json"));
    match utoipa_swagger_ui::serve(path, config) {
        Ok(Some(file)) => {
            let kind = HeaderValue::from_str(&file.content_type)
                .unwrap_or(HeaderValue::from_static("application/octet-stream"));
            Ok(([(header::CONTENT_TYPE, kind)], file.bytes.into_owned()).into_response())
        }
        _ => Err(Problem::not_found()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::options::{COUNT_PARAMS, COUNTS_PARAMS, ITEM_PARAMS, POST_PARAMS, TENANTS_PARAMS};

    #[test]
    fn the_description_is_openapi_3_1_and_names_every_route() {
        let description: Value = serde_json::from_slice(&openapi_json()).expect("JSON");
        assert!(
            description["openapi"]
                .as_str()
                .is_some_and(|version| version.starts_with("3.1"))
        );
        let paths = description["paths"].as_object().expect("paths");
        let described: Vec<_> = paths.keys().map(String::as_str).collect();
        let mut routed: Vec<_> = crate::API_ROUTES.to_vec();
        routed.sort_unstable();
        assert_eq!(described, routed);
    }

    #[test]
    fn the_parameters_that_are_described_are_those_that_are_taken() {
        let description: Value = serde_json::from_slice(&openapi_json()).expect("JSON");
        let paths = description["paths"].as_object().expect("paths");
        for (path, operations) in paths {
            let operation = operations.as_object().and_then(|of| of.values().next());
            let parameters = operation.expect("one")["parameters"].as_array();
            let described: Vec<_> = parameters
                .into_iter()
                .flatten()
                .filter(|parameter| parameter["in"] == "query")
                .filter_map(|parameter| parameter["name"].as_str())
                .collect();
            let taken = match path.as_str() {
                "/items" => POST_PARAMS,
                "/items/{tenant}/count" => COUNT_PARAMS,
                "/items/{tenant}/ids/{id}" => ITEM_PARAMS,
                "/counts" => COUNTS_PARAMS,
                "/tenants" => TENANTS_PARAMS,
                _ => &[],
            };
            assert_eq!(described, taken, "{path}");
        }
    }
}
