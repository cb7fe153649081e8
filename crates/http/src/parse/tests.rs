//! Tests of the body parsers.
//!
//! Invariant: each rule of the API's bodies has its case here.

use proptest::prelude::*;

use super::*;
use headcount_model::{ItemHash, TenantName};

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
        left_out: Vec::new(),
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
            expect(2, "/2/id", "id occurs more than once"),
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
    assert_eq!(faults.len(), 2 * INVALID_ITEMS_MAX, "two for each item");
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

#[test]
fn half_of_a_surrogate_pair_is_one_items_fault() {
    const HALF: &str = "must not contain one half of a surrogate pair (\\ud800 to \\udfff)";
    assert_eq!(
        invalid(concat!(
            r#"[{"id":"1","tenant":"t"},{"id":"\ud83d","tenant":"t"},"#,
            r#"{"id":"2","tenant":"\udc00x"}]"#,
        )),
        [
            expect(1, "/1/id", &format!("id {HALF}")),
            expect(2, "/2/tenant", &format!("tenant {HALF}")),
        ]
    );
    for id in [
        r"\ud800",
        r"\uDFFF",
        r"x\ud83d\u0041",
        r"\ude00\ud83d",
        r"\ud83d\ud83d",
    ] {
        let body = format!(r#"{{"id":"{id}","tenant":"t"}}"#);
        assert_eq!(invalid(&body)[0].1, "/id", "{id}");
        let lines = parse_ndjson(format!("\n{body}\n").as_bytes(), 10);
        let Err(ParseError::Invalid(errors)) = lines else {
            panic!("expected an invalid item, got {lines:?}");
        };
        assert_eq!((errors[0].index, errors[0].pointer.as_str()), (1, "/id"));
    }
    // Outside the fields of an item, half of a pair is no error. In place of an item, the error is
    // that there is no item.
    for ignored in [
        r#"{"id":"1","tenant":"a","x":"\ud800"}"#,
        r#"{"id":"1","\ud800":[{"\udc00":1}],"tenant":"a"}"#,
        r#"[{"\ud800":1,"\u0069d":"1","tenant":"\u0061"}]"#,
    ] {
        let expected = Ok(items(&[("a", &["1"])]));
        assert_eq!(parse_json(ignored.as_bytes(), 10), expected, "{ignored}");
        let line = ignored.trim_matches(['[', ']']);
        if !ignored.starts_with('[') {
            assert_eq!(parse_ndjson(line.as_bytes(), 10), expected, "{ignored}");
        }
    }
    let no_item = "must be an object with the fields id and tenant, not a string";
    assert_eq!(invalid(r#" "\ud800" "#), [expect(0, "", no_item)]);
    assert_eq!(
        invalid(r#"[{"id":"1","tenant":"a"}, "\ud800" ,{"\ud800":1}]"#),
        [
            expect(1, "/1", no_item),
            expect(2, "/2/id", "id is missing"),
            expect(2, "/2/tenant", "tenant is missing"),
        ]
    );
    // Both halves are one character.
    let pair = parse_json(br#"{"id":"\ud83d\ude00","tenant":"a"}"#, 10);
    assert_eq!(pair, Ok(items(&[("a", &["😀"])])));
}

fn malformed(parsed: Result<Items, ParseError>) -> (Option<usize>, String) {
    match parsed {
        Err(ParseError::Malformed { line, detail }) => (line, detail),
        other => panic!("expected a malformed body, got {other:?}"),
    }
}

#[test]
fn places_are_those_of_the_body() {
    for (body, place) in [
        (
            &b"[{\"id\":\"1\",\n\"tenant\":x}]"[..],
            "at line 2 column 10",
        ),
        (b"\xef\xbb\xbf[x", "at line 1 column 5"),
        (b"\xef\xbb\xbf[\nx", "at line 2 column 1"),
        (b"[\"\\ud800\",{\"\\ud800\":1},\n{x]", "at line 2 column 2"),
        (b"{\"id\":\"\\ud800\",\"tenant\"}", "at line 1 column 24"),
        (b"[\"\xff\"]", "at byte 2"),
        (b"\xef\xbb\xbf\xff", "at byte 3"),
    ] {
        let (line, detail) = malformed(parse_json(body, 10));
        assert!(line.is_none() && detail.ends_with(place), "{detail}");
    }
    let (line, detail) = malformed(parse_ndjson(b"\xef\xbb\xbf{x\n", 10));
    assert_eq!(
        (line, detail.as_str()),
        (Some(0), "line index 0: key must be a string at column 5")
    );
    let (line, detail) = malformed(parse_ndjson(b"\xef\xbb\xbf{}\n{x\n", 10));
    assert_eq!(
        (line, detail.as_str()),
        (Some(1), "line index 1: key must be a string at column 2")
    );
}

#[test]
fn a_byte_order_mark_before_a_body_is_skipped() {
    let item = b"\xef\xbb\xbf{\"id\":\"1\",\"tenant\":\"a\"}\n";
    let one = Ok(items(&[("a", &["1"])]));
    assert_eq!(parse_json(item, 10), one);
    assert_eq!(parse_ndjson(item, 10), one);
    assert_eq!(parse_ndjson(b"\xef\xbb\xbf", 10), Ok(Items::default()));
    assert!(
        parse_json(b"\xef\xbb\xbf\xef\xbb\xbf[]", 10).is_err(),
        "only one is skipped"
    );
    assert!(parse_json(b"[\xef\xbb\xbf]", 10).is_err(), "not inside it");
    let marked = parse_json("[{\"id\":\"\u{feff}1\",\"tenant\":\"a\"}]".as_bytes(), 10);
    assert_eq!(
        marked,
        Ok(items(&[("a", &["\u{feff}1"])])),
        "kept inside a string"
    );
}

/// Parses a body and leaves out invalid items. Their errors may take `room` bytes.
fn partly(format: Format, body: &[u8], items_max: usize, room: usize) -> Result<Items, ParseError> {
    let mut left = room;
    let mut take = |bytes: usize| {
        let rest = left.checked_sub(bytes);
        left = rest.unwrap_or(left);
        rest.is_some()
    };
    parse(format, body, items_max, Invalid::IsLeftOut(&mut take))
}

fn places(items: &Items) -> Vec<(usize, &str)> {
    let faults = items.left_out.iter();
    faults
        .map(|fault| (fault.index, fault.pointer.as_str()))
        .collect()
}

#[test]
fn the_valid_items_of_a_body_come_without_the_others() {
    let body = br#"[{"id":1,"tenant":"a"},{"id":"1","tenant":"a"},7,{"id":"2","tenant":"a"},{}]"#;
    let parsed = partly(Format::Json, body, 5, 1 << 20).expect("partly");
    assert_eq!(parsed.tenants, items(&[("a", &["1", "2"])]).tenants);
    assert_eq!(parsed.count, 2);
    assert_eq!(
        places(&parsed),
        [(0, "/0/id"), (2, "/2"), (4, "/4/id"), (4, "/4/tenant")]
    );
    assert_eq!(
        partly(Format::Json, body, 4, 1 << 20),
        Err(ParseError::TooMany(4)),
        "invalid items count towards the limit"
    );
    assert_eq!(partly(Format::Json, body, 5, 300), Err(ParseError::NoRoom));
    malformed(partly(Format::Json, b"[{}", 5, 1 << 20));
    malformed(partly(Format::Json, b"\xff", 5, 1 << 20));
    let half = br#"["\ud800",{"id":"1","tenant":"a"}]"#;
    let parsed = partly(Format::Json, half, 5, 1 << 20).expect("partly");
    assert_eq!((parsed.count, places(&parsed)), (1, vec![(0, "/0")]));

    let lines = b"\xef\xbb\xbf{\"id\":\"1\",\"tenant\":\"a\"}\n{\"id\":\n\n\xff\n[]\n\
        {\"id\":\"2\",\"tenant\":\"a\"} x\n";
    let parsed = partly(Format::Ndjson, lines, 5, 1 << 20).expect("partly");
    assert_eq!((parsed.count, parsed.tenants.len()), (1, 1));
    assert_eq!(places(&parsed), [(1, ""), (3, ""), (4, ""), (5, "")]);
    let details: Vec<_> = parsed.left_out.iter().map(|fault| &fault.detail).collect();
    assert_eq!(
        details,
        [
            "is not JSON: EOF while parsing a value at column 6",
            "invalid UTF-8 at byte 35",
            "must be an object with the fields id and tenant, not an array",
            "is not JSON: trailing characters at column 25",
        ]
    );
    assert_eq!(
        partly(Format::Ndjson, lines, 4, 1 << 20),
        Err(ParseError::TooMany(4))
    );
    assert_eq!(
        partly(Format::Ndjson, lines, 5, 200),
        Err(ParseError::NoRoom)
    );
}

#[test]
fn each_item_that_is_left_out_is_named_however_many() {
    let body = format!("[{}]", vec!["{}"; 3 * INVALID_ITEMS_MAX].join(","));
    let parsed = partly(Format::Json, body.as_bytes(), 1_000, 1 << 20).expect("partly");
    assert_eq!(parsed.count, 0);
    assert_eq!(parsed.left_out.len(), 6 * INVALID_ITEMS_MAX);
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused_without_a_panic(body: Vec<u8>) {
        for format in [Format::Json, Format::Ndjson] {
            let _ = parse(format, &body, 5, Invalid::RefusesAll);
            let _ = partly(format, &body, 5, 500);
        }
    }

    /// Leaving out invalid items returns the same as parsing only the valid items.
    #[test]
    fn what_is_valid_is_never_left_out(
        posted in prop::collection::vec(("[a-c]", "[0-9]{0,3}"), 0..20),
    ) {
        let items: Vec<_> = posted
            .iter()
            .map(|(tenant, id)| serde_json::json!({"id": id, "tenant": tenant}))
            .collect();
        let valid = items.iter().zip(&posted).filter(|(_, (_, id))| !id.is_empty());
        let valid: Vec<_> = valid.map(|(item, _)| item).collect();
        let body = serde_json::to_vec(&items).expect("JSON");
        let parsed = partly(Format::Json, &body, 100, 1 << 20).expect("partly");
        let alone = parse_json(&serde_json::to_vec(&valid).expect("JSON"), 100).expect("valid");
        prop_assert_eq!(parsed.left_out.len(), posted.len() - alone.count);
        prop_assert_eq!((parsed.tenants, parsed.count), (alone.tenants, alone.count));
    }

    /// The same items parse to the same result from JSON and from NDJSON.
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
