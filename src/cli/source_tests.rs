//! Tests of how files are cut into batches.
//!
//! Invariant: each test checks all batches of a file.

use super::*;

fn cut(name: &str, content: impl AsRef<[u8]>, batch_items: usize) -> CommittedState {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join(name);
    std::fs::write(&path, content).expect("written");
    let files = vec![path.display().to_string()];
    let cutting = Cutting {
        batch_items,
        format: None,
    };
    let (sender, mut receiver) = mpsc::channel(100);
    let so_far = ReadSoFar::default();
    let read = read_files(&files, &cutting, &so_far, &sender);
    drop(sender);
    let mut found = CommittedState {
        batches: Vec::new(),
        error: read.err().map(|error| {
            let shown = path.display().to_string();
            error.to_string().replace(&shown, name)
        }),
        lines: so_far.lines.into_inner(),
        trimmed: so_far.trimmed.into_inner(),
    };
    let mut bytes = 0;
    while let Some(batch) = receiver.blocking_recv() {
        bytes += batch.source_bytes;
        let body = String::from_utf8(batch.body.to_vec()).expect("UTF-8");
        assert_eq!(body.lines().count(), batch.lines.len());
        assert!(body.len() <= BATCH_BYTES_MAX);
        found.batches.push((batch.lines, body));
    }
    assert!(bytes <= total_bytes(&files).expect("known"));
    found
}

/// Result of cutting a file.
struct CommittedState {
    batches: Vec<(Vec<u64>, String)>,
    error: Option<String>,
    lines: u64,
    trimmed: u64,
}

impl CommittedState {
    #[track_caller]
    fn whole(self) -> Vec<(Vec<u64>, String)> {
        assert_eq!(self.error, None);
        self.batches
    }

    /// The items in short form, `id@tenant`.
    fn items(&self) -> Vec<String> {
        let lines = self.batches.iter().flat_map(|(_, body)| body.lines());
        let short = |line: &str| {
            let item: serde_json::Value = serde_json::from_str(line).expect("JSON");
            format!(
                "{}@{}",
                item["id"].as_str().expect("a text"),
                item["tenant"].as_str().expect("a text")
            )
        };
        lines.map(short).collect()
    }
}

#[test]
fn ndjson_is_cut_by_items_and_keeps_its_lines() {
    let found = cut("a.ndjson", "1\n\n2\n3", 2);
    assert_eq!(found.lines, 4);
    assert_eq!(
        found.whole(),
        [
            (vec![1, 3], "1\n2\n".to_owned()),
            (vec![4], "3\n".to_owned())
        ]
    );
}

#[test]
fn a_byte_order_mark_and_blank_lines_leave_line_numbers_right() {
    let batches = cut("a.ndjson", "\u{feff}1\n\n\n2\n", 1).whole();
    assert_eq!(
        batches,
        [(vec![1], "1\n".to_owned()), (vec![4], "2\n".to_owned())]
    );
    assert_eq!(cut("a.ndjson", "\n \r\n\n", 1).whole(), []);
    let found = cut("a.csv", "\u{feff}\"id\",tenant\n1,a\n", 1);
    assert_eq!(found.items(), ["1@a"]);
    let found = cut("a.csv", b"\xff\xfei\0d\0", 1);
    assert_eq!(
        found.error.as_deref(),
        Some("a.csv, line 1: the file is UTF-16; save it as UTF-8")
    );
}

#[test]
fn no_batch_is_longer_than_its_limit() {
    let long = "x".repeat(LINE_BYTES_MAX - 1);
    let content = format!("{}1\n{}{long}\n2", "\n".repeat(10), "\n".repeat(9_000_000));
    let batches = cut("a.ndjson", content, 100).whole();
    assert_eq!(
        batches,
        [(vec![11, 9_000_012, 9_000_013], format!("1\n{long}\n2\n"))]
    );
    let batches = cut("a.ndjson", format!("{long}\n").repeat(9), 100).whole();
    let lines: Vec<_> = batches.into_iter().map(|(lines, _)| lines).collect();
    assert_eq!(lines, [vec![1, 2, 3, 4], vec![5, 6, 7, 8], vec![9]]);
}

#[test]
fn a_line_that_is_too_long_is_named() {
    let long = "x".repeat(2 * LINE_BYTES_MAX);
    for (name, head) in [("a.ndjson", "\n\n"), ("a.csv", "id,tenant\n1,a\n")] {
        let found = cut(name, format!("{head}\"{long}\n1,a\n"), 100);
        assert_eq!(
            found.error,
            Some(format!("{name}, line 3: longer than 1048576 bytes"))
        );
    }
}

#[test]
fn csv_columns_are_found_by_name_and_values_escaped() {
    let content = "tenant,note,id\na,x,1\n\"b \"\"q\"\"\",,\"2,2\"\n";
    let batches = cut("a.CSV", content, 1).whole();
    let first = "{\"id\":\"1\",\"tenant\":\"a\"}\n".to_owned();
    let second = "{\"id\":\"2,2\",\"tenant\":\"b \\\"q\\\"\"}\n".to_owned();
    assert_eq!(batches, [(vec![2], first), (vec![3], second)]);
}

#[test]
fn header_and_fields_are_trimmed_alike() {
    let found = cut("a.csv", "id, tenant\n1, acme\n2,acme\n3 ,\" x \"\n", 10);
    assert_eq!(found.items(), ["1@acme", "2@acme", "3@ x "]);
    assert_eq!((found.lines, found.trimmed), (4, 2));
}

#[test]
fn a_stray_quote_in_a_column_that_is_not_used_hides_no_row() {
    // The unused column contains a quote that would swallow the following rows, up to the next
    // quote if there is one.
    let rows = |at: usize, note: &str| -> String {
        let row = |n: usize| format!("{n},t,{}\n", if n == at { note } else { "x" });
        format!("id,tenant,note\n{}", (0..10).map(row).collect::<String>())
    };
    for (note, why) in [
        ("\"5", "the quote that opens a field here is never closed"),
        ("\"5\" nail", "there is text after the closing quote"),
        ("5\" nail", "there is a quote inside an unquoted field"),
    ] {
        let found = cut("a.csv", rows(4, note), 3);
        let error = found.error.as_deref().expect("refused");
        assert!(
            error.starts_with(&format!("a.csv, line 6: {why}")),
            "{error}"
        );
        assert_eq!(found.items(), ["0@t", "1@t", "2@t", "3@t"]);
    }
    let two = rows(2, "\"5").replace("7,t,x", "7,t,\"5");
    let error = cut("a.csv", two, 3).error.expect("refused");
    assert!(
        error.starts_with("a.csv, line 9: there is text after"),
        "{error}"
    );
}

#[test]
fn a_header_that_can_not_be_used_says_why() {
    for (content, why) in [
        ("", "line 1: there is no header"),
        (
            "id,name\n1,2\n",
            "line 1: the header has no column tenant; it has \"id\" \"name\", and columns are \
             separated by commas",
        ),
        (
            "\nid;tenant\n1;2\n",
            "line 2: the header has no column id; it has \"id;tenant\", and columns are separated \
             by commas",
        ),
        (
            "id,tenant, id\n1,2,3\n",
            "line 1: the header has the column id twice",
        ),
    ] {
        let error = cut("a.csv", content, 1).error.expect("refused");
        assert_eq!(error, format!("a.csv, {why}"));
    }
}

#[test]
fn rows_of_another_length_and_other_encodings_are_refused_with_their_line() {
    for (row, why) in [
        (
            &b"1,a,\n"[..],
            "wrong number of fields: 3 instead of the header's 2",
        ),
        (
            b"1\n",
            "wrong number of fields: 1 instead of the header's 2",
        ),
        (b"\xe9,a\n", "it is not UTF-8"),
    ] {
        let content = [b"id,tenant\n\"x\ny\",a\n", row].concat();
        let error = cut("a.csv", content, 1).error.expect("refused");
        assert_eq!(error, format!("a.csv, line 4: {why}"));
    }
    let found = cut("a.csv", b"id,tenant,note\n1,a,caf\xe9\n", 1);
    assert_eq!(found.items(), ["1@a"]);
}
