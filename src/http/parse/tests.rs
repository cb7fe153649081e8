//! Tests of the body parsers.
//!
//! Invariant: each rule of the API's bodies has its case here.

use proptest::prelude::*;

use super::*;
use crate::model::{ItemHash, TenantName};

fn invalid(body: &str) -> Vec<(usize, String, String)> {
    match parse_json(body.as_bytes(), 1_000) {
        Err(ParseError::Invalid(errors)) => errors
            .into_iter()
            .map(|error| (error.index, error.pointer, error.detail))
            .collect(),
        other => panic!("expected invalid items for {body}, got {other:?}"),
    }
}

fn expect(index: usize, pointer: &str, detail: &str) -> (usize, String, String) {
    (index, pointer.to_owned(), detail.to_owned())
}

fn items(groups: &[(&str, &[&str])]) -> Items {
    let tenants: Vec<TenantItems> = groups
        .iter()
        .map(|(tenant, ids)| TenantItems {
            tenant: TenantName::new(tenant).expect("valid"),
            hashes: ids.iter().map(|id| ItemHash::of_id(id)).collect(),
        })
        .collect();
    Items {
        count: tenants.iter().map(|group| group.hashes.len()).sum(),
        tenants,
    }
}

#[test]
fn one_item_and_arrays_are_read_and_unknown_fields_ignored() {
    let one = parse_json(br#" {"id":"5","tenant":"asd","note":[1,{"id":2}]} "#, 10);
    assert_eq!(one, Ok(items(&[("asd", &["5"])])));
    let body = br#"[{"id":"1","tenant":"a"},{"tenant":"b","id":"1"},{"id":"\u0032","tenant":"a"}]"#;
    assert_eq!(
        parse_json(body, 10),
        Ok(items(&[("a", &["1", "2"]), ("b", &["1"])]))
    );
    assert_eq!(parse_json(b"[]", 10), Ok(Items::default()));
}

#[test]
fn ndjson_skips_blank_lines_and_names_the_line() {
    let body = b"{\"id\":\"1\",\"tenant\":\"a\"}\r\n\n  \n{\"id\":\"2\",\"tenant\":\"a\"}";
    assert_eq!(parse_ndjson(body, 10), Ok(items(&[("a", &["1", "2"])])));
    assert_eq!(parse_ndjson(b"", 10), Ok(Items::default()));

    let broken = parse_ndjson(b"\n{\"id\":\"1\",\"tenant\":\"a\"}\n{\"id\":", 10);
    let Err(ParseError::Malformed { line, detail }) = broken else {
        panic!("expected a malformed line, got {broken:?}");
    };
    assert_eq!(line, Some(2));
    assert_eq!(
        detail,
        "line index 2: EOF while parsing a value at column 6"
    );

    let two = parse_ndjson(b"{\"id\":\"1\",\"tenant\":\"a\"} {}", 10);
    assert!(
        matches!(two, Err(ParseError::Malformed { line: Some(0), .. })),
        "{two:?}"
    );

    let Err(ParseError::Invalid(errors)) = parse_ndjson(b"\n\n{\"id\":\"1\"}\n", 10) else {
        panic!("expected an invalid item");
    };
    assert_eq!(
        (errors[0].index, errors[0].pointer.as_str()),
        (2, "/tenant")
    );
}

#[test]
fn every_fault_is_named_by_index_and_pointer() {
    let body =
        r#"[{"id":"1","tenant":"a"},{"id":5,"tenant":null},{"id":"","id":"x","tenant":"."},7,{}]"#;
    assert_eq!(
        invalid(body),
        [
            expect(1, "/1/id", "id must be a string, not a number"),
            expect(1, "/1/tenant", "tenant must be a string, not null"),
            expect(2, "/2/id", "id is there more than once"),
            expect(2, "/2/tenant", "tenant must not be \".\" or \"..\""),
            expect(
                3,
                "/3",
                "must be an object with the fields id and tenant, not a number"
            ),
            expect(4, "/4/id", "id is missing"),
            expect(4, "/4/tenant", "tenant is missing"),
        ]
    );
    assert_eq!(
        invalid(r#"{"id":"\u0000","tenant":[]}"#),
        [
            expect(0, "/id", "id must not contain control characters"),
            expect(0, "/tenant", "tenant must be a string, not an array"),
        ]
    );
    let huge = r#"{"id":1e999,"tenant":"a\"b","x":-1e-999}"#;
    assert_eq!(
        invalid(huge),
        [expect(0, "/id", "id must be a string, not a number")]
    );
    assert_eq!(invalid(r#""text""#)[0].1, "");
    assert_eq!(invalid("null")[0].1, "");
}

#[test]
fn lengths_count_characters_at_their_limits() {
    let body = |id: usize, tenant: usize| {
        format!(
            r#"{{"id":"{}","tenant":"{}"}}"#,
            "é".repeat(id),
            "é".repeat(tenant)
        )
    };
    assert!(parse_json(body(512, 256).as_bytes(), 1).is_ok());
    assert_eq!(
        invalid(&body(513, 256))[0].2,
        "id must have at most 512 characters"
    );
    assert_eq!(
        invalid(&body(512, 257))[0].2,
        "tenant must have at most 256 characters"
    );
}

#[test]
fn the_faults_of_at_most_a_hundred_items_are_named() {
    let body = format!("[{}]", vec!["{}"; 200].join(","));
    let faults = invalid(&body);
    assert_eq!(faults.len(), 2 * INVALID_ITEMS_MAX, "two of each item");
    assert_eq!(
        faults.last().map(|fault| fault.0),
        Some(INVALID_ITEMS_MAX - 1)
    );
}

#[test]
fn malformed_json_wins_over_invalid_items_and_limits_hold() {
    for body in [
        &b"[{}"[..],
        b"{\"id\":\"1\"",
        b"",
        b"\xff",
        br#"{"id":"\ud800","tenant":"a"}"#,
        b"{\"id\":\"1\",\"tenant\":\"a\",\"ignored\":\"\xff\"}",
        b"[] []",
    ] {
        let parsed = parse_json(body, 10);
        assert!(
            matches!(parsed, Err(ParseError::Malformed { line: None, .. })),
            "{parsed:?}"
        );
    }
    let deep = format!(r#"{{"x":{}1{}}}"#, "[".repeat(10_000), "]".repeat(10_000));
    assert!(parse_json(deep.as_bytes(), 10).is_err());
    let three = br#"[{"id":"1","tenant":"a"},{"id":"1","tenant":"a"},{}]"#;
    assert_eq!(parse_json(three, 2), Err(ParseError::TooMany(2)));
    assert_eq!(
        parse_ndjson(b"{}\n{}\n{}\n", 2),
        Err(ParseError::TooMany(2))
    );
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused_without_a_panic(body: Vec<u8>) {
        let _ = parse_json(&body, 5);
        let _ = parse_ndjson(&body, 5);
    }

    /// JSON and NDJSON are two ways to write the same items.
    #[test]
    fn both_forms_agree(posted in prop::collection::vec(("[a-c]", "[0-9]{1,3}"), 0..20)) {
        let lines: Vec<String> = posted
            .iter()
            .map(|(tenant, id)| serde_json::json!({"id": id, "tenant": tenant}).to_string())
            .collect();
        let json = parse_json(format!("[{}]", lines.join(",")).as_bytes(), 100);
        prop_assert_eq!(&json, &parse_ndjson(lines.join("\n").as_bytes(), 100));
        prop_assert_eq!(json.map(|items| items.count), Ok(posted.len()));
    }
}
