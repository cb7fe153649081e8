//! Reads as requests of the API, and its answers as what they showed.
//!
//! Invariant: only 200 and 503 are answers, and one of 200 says what it was asked for.

use std::time::Duration;

use parking_lot::Mutex;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Client, StatusCode};
use serde_json::Value;

use super::{Answer, Begun, Ledger, Read, Shown, What};
use crate::node;

/// A read that was answered as it must be.
pub struct Done {
    pub begun: Begun,
    pub answer: Answer,
    /// Whether it showed an item that nothing known before demanded.
    pub is_news: bool,
}

/// Asks the coordinator at `url` and holds its answer against the ledger; none when it gives no
/// answer within `limit`, or refuses.
///
/// # Panics
/// When the answer breaks a promise.
pub async fn ask(
    http: &Client,
    url: &str,
    ledger: &Mutex<Ledger>,
    read: Read,
    limit: Duration,
) -> Option<Done> {
    let begun = ledger.lock().begin(read);
    let answer = answer_to(http, url, &begun.read, limit).await?;
    let judged = ledger.lock().judge(&begun, &answer);
    let is_news = judged.unwrap_or_else(|violation| {
        let Read { face, life, .. } = begun.read;
        let path = path(&begun.read);
        panic!("{violation}\ncoordinator {face} in its life {life}, {path}: {answer:?}")
    });
    Some(Done {
        begun,
        answer,
        is_news,
    })
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// The request's path and query string.
fn path(read: &Read) -> String {
    let mut path = match &read.what {
        What::Counts(tenants) => match tenants.as_slice() {
            [one] => format!("/items/{}/count?", encoded(one)),
            several => {
                let named = |tenant: &String| format!("tenant={}&", encoded(tenant));
                let named: String = several.iter().map(named).collect();
                format!("/counts?{named}")
            }
        },
        What::Item(item) => {
            let (tenant, id) = (encoded(&item.tenant), encoded(&item.id));
            format!("/items/{tenant}/ids/{id}?")
        }
        What::Page(page) => {
            let cursor = page.cursor.as_deref();
            let cursor = cursor.map(|name| format!("cursor={}&", encoded(name)));
            let (prefix, limit) = (encoded(&page.prefix), page.limit);
            let cursor = cursor.unwrap_or_default();
            format!("/tenants?prefix={prefix}&limit={limit}&{cursor}")
        }
    };
    let consistency = read.consistency.as_str();
    path += &format!("consistency={consistency}&timeout_ms={}", read.timeout_ms);
    if let Some(token) = &read.after {
        path += &format!("&after={}", token.text);
    }
    path
}

async fn answer_to(http: &Client, url: &str, read: &Read, limit: Duration) -> Option<Answer> {
    let path = path(read);
    let sent = http.get(format!("{url}{path}")).timeout(limit);
    let answer = node::Answer::try_of(sent).await.ok()?;
    if answer.status != StatusCode::OK {
        assert_eq!(answer.status, 503, "{path}: {}", answer.text);
        return None;
    }
    let parsed = parse(&answer.json, &read.what);
    Some(parsed.unwrap_or_else(|| panic!("{path}: {}", answer.text)))
}

fn parse(json: &Value, what: &What) -> Option<Answer> {
    let shown = match what {
        What::Counts(tenants) => Shown::Counts(match tenants.as_slice() {
            [one] => vec![count_of(json, one)?],
            several => {
                let rows = json["counts"].as_array()?;
                let same = rows.len() == several.len();
                let rows = several.iter().zip(rows).filter(|_| same);
                rows.map(|(tenant, row)| count_of(row, tenant))
                    .collect::<Option<_>>()?
            }
        }),
        What::Item(item) => {
            let same = json["tenant"] == *item.tenant && json["id"] == *item.id;
            let counted = json["counted"].as_bool().filter(|_| same)?;
            Shown::Item { counted }
        }
        What::Page(_) => {
            let rows = json["tenants"].as_array()?.iter();
            let row = |row: &Value| {
                let tenant = row["tenant"].as_str()?;
                Some((tenant.to_owned(), row["count"].as_u64()?))
            };
            Shown::Page {
                tenants: rows.map(row).collect::<Option<_>>()?,
                next_cursor: match json.get("next_cursor") {
                    Some(cursor) => Some(cursor.as_str()?.to_owned()),
                    None => None,
                },
            }
        }
    };
    let exact = json["exact"].as_bool()?;
    Some(Answer { exact, shown })
}

fn count_of(row: &Value, tenant: &str) -> Option<u64> {
    let same = row["tenant"] == *tenant;
    row["count"].as_u64().filter(|_| same)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::samples::{count_of, item, read};
    use super::super::{Consistency, Ledger, Page};
    use super::*;

    #[test]
    fn a_read_says_all_that_it_asks_for() {
        let mut ledger = Ledger::new(1);
        let token = ledger.posts(0, "t", &["a"]);
        let end = "consistency=session&timeout_ms=0";
        assert_eq!(
            path(&read(count_of("a/b"))),
            format!("/items/a%2Fb/count?{end}")
        );
        let both = What::Counts(vec!["s".to_owned(), "t".to_owned()]);
        assert_eq!(
            path(&read(both)),
            format!("/counts?tenant=s&tenant=t&{end}")
        );
        let one = What::Item(item("t", "a b"));
        assert_eq!(path(&read(one)), format!("/items/t/ids/a%20b?{end}"));
        let page = Page {
            prefix: "t".to_owned(),
            limit: 2,
            cursor: Some("t0".to_owned()),
        };
        let strong = read(What::Page(page)).consistency(Consistency::Strong);
        assert_eq!(
            path(&Read {
                timeout_ms: 20,
                ..strong.after(&token)
            }),
            "/tenants?prefix=t&limit=2&cursor=t0&consistency=strong&timeout_ms=20&after=a token"
        );
    }

    #[test]
    fn an_answer_is_what_was_asked_for_or_none() {
        let one = count_of("t");
        let json = json!({"tenant": "t", "count": 3, "exact": true});
        let shown = Shown::Counts(vec![3]);
        assert_eq!(parse(&json, &one), Some(Answer { exact: true, shown }));
        assert_eq!(parse(&json, &count_of("s")), None);
        assert_eq!(parse(&json!({"tenant": "t", "count": 3}), &one), None);

        let both = What::Counts(vec!["s".to_owned(), "t".to_owned()]);
        let row = |tenant: &str, count: u64| json!({"tenant": tenant, "count": count});
        let json = json!({"counts": [row("s", 1), row("t", 2)], "exact": false});
        let shown = Shown::Counts(vec![1, 2]);
        assert_eq!(
            parse(&json, &both),
            Some(Answer {
                exact: false,
                shown
            })
        );
        let swapped = json!({"counts": [row("t", 1), row("s", 2)], "exact": false});
        assert_eq!(parse(&swapped, &both), None);
        let fewer = json!({"counts": [row("s", 1)], "exact": false});
        let answer = parse(&fewer, &both).expect("of another length");
        assert_eq!(answer.shown, Shown::Counts(vec![]));

        let asked = What::Item(item("t", "a"));
        let json = json!({"tenant": "t", "id": "a", "counted": true, "exact": true});
        let shown = Shown::Item { counted: true };
        assert_eq!(parse(&json, &asked), Some(Answer { exact: true, shown }));
        assert_eq!(parse(&json, &What::Item(item("t", "b"))), None);

        let page = What::Page(Page::default());
        let json = json!({"tenants": [row("s", 1)], "next_cursor": "s", "exact": true});
        let shown = Shown::Page {
            tenants: vec![("s".to_owned(), 1)],
            next_cursor: Some("s".to_owned()),
        };
        assert_eq!(parse(&json, &page), Some(Answer { exact: true, shown }));
        let null = json!({"tenants": [], "next_cursor": null, "exact": true});
        assert_eq!(parse(&null, &page), None);
    }
}
