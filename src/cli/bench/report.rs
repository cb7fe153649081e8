//! The report of a run, as a table or as one JSON object.
//!
//! Invariant: the fields of the JSON object keep their meaning; a change of meaning needs a new
//! `version`.

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::cli::print::grouped;

/// Version of the JSON object.
pub(super) const VERSION: u32 = 1;

/// The report of a run.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) version: u32,
    pub(super) work: &'static str,
    pub(super) url: String,
    pub(super) prefix: String,
    pub(super) connections: u32,
    pub(super) threads: u32,
    pub(super) items_per_request: u64,
    pub(super) tenants: u32,
    pub(super) zipf: f64,
    pub(super) duplicates: f64,
    /// Requested rate in requests per second; null in a closed loop.
    pub(super) rate: Option<f64>,
    /// Duration of the measurement.
    pub(super) seconds: f64,
    /// Number of measured requests that succeeded.
    pub(super) requests: u64,
    /// Number of their items.
    pub(super) items: u64,
    /// Number of those items with a new id.
    pub(super) distinct: u64,
    pub(super) requests_per_s: f64,
    pub(super) items_per_s: f64,
    /// Number of reads that were not exact.
    pub(super) not_exact: u64,
    /// Number of responses with 503 or 408, including warm-up.
    pub(super) refused: u64,
    /// Number of requests that were sent and never acknowledged, including warm-up.
    pub(super) in_doubt: u64,
    /// Number of scheduled requests that were not sent before the end.
    pub(super) unsent: u64,
    pub(super) reconnects: u64,
    pub(super) latency_us: Latency,
    pub(super) checked: Option<CheckedReport>,
    /// Time from the first request until all counters had committed everything, including warm-up.
    pub(super) settled_seconds: Option<f64>,
    /// New ids per second in that time, including warm-up.
    pub(super) settled_items_per_s: Option<f64>,
}

/// Latencies in microseconds.
#[derive(Debug, Serialize)]
pub(super) struct Latency {
    mean: f64,
    p50: u64,
    p90: u64,
    p99: u64,
    p999: u64,
    max: u64,
}

/// Result of the check.
#[derive(Debug, Serialize)]
pub(super) struct CheckedReport {
    pub(super) tenants: u64,
    /// Whether all counts equal the number of acknowledged ids.
    pub(super) exact: bool,
    /// Number of tenants with an impossible count.
    pub(super) wrong: u64,
}

impl From<&Histogram<u64>> for Latency {
    fn from(latency: &Histogram<u64>) -> Self {
        let at = |quantile| latency.value_at_quantile(quantile);
        Self {
            mean: tenths(latency.mean()),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: latency.max(),
        }
    }
}

/// `count` per second.
pub(super) fn per_second(count: u64, seconds: f64) -> f64 {
    match seconds > 0.0 {
        true => tenths(count as f64 / seconds),
        false => 0.0,
    }
}

fn tenths(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}

/// Seconds, rounded down to milliseconds.
pub(super) fn seconds(time: std::time::Duration) -> f64 {
    time.as_millis() as f64 / 1_000.0
}

impl Report {
    /// One line of JSON.
    pub(super) fn json(&self) -> String {
        // Serialization fails only for maps with keys that are not strings; the report has none.
        let text = serde_json::to_string(self).unwrap_or_default();
        text + "\n"
    }

    /// A table for people.
    pub(super) fn text(&self) -> String {
        let mut text = self.conditions();
        let line = |what: &str, count: u64, rate: f64| {
            format!(
                "  {what:<10}{:>14}{:>14}/s\n",
                grouped(count),
                grouped(rate as u64)
            )
        };
        text += &line("requests", self.requests, self.requests_per_s);
        if self.work == "items" {
            text += &line("items", self.items, self.items_per_s);
            text += &format!("  {:<10}{:>14}\n", "new ids", grouped(self.distinct));
        }
        text += &self.latencies();
        text += &self.oddities();
        if let (Some(seconds), Some(rate)) = (self.settled_seconds, self.settled_items_per_s) {
            let rate = grouped(rate as u64);
            text += &format!(
                "\n  All counters had committed everything after {seconds:.2} s: {rate} new \
                 items/s.\n"
            );
        }
        if let Some(checked) = &self.checked {
            let tenants = grouped(checked.tenants);
            text += &match (checked.wrong, checked.exact) {
                (0, true) => format!("\n  The counts of all {tenants} tenants are exact.\n"),
                (0, false) => format!(
                    "\n  The counts of all {tenants} tenants include all acknowledged items and \
                     some of those in doubt.\n"
                ),
                (wrong, _) => format!(
                    "\n  The counts of {} of {tenants} tenants are WRONG.\n",
                    grouped(wrong)
                ),
            };
        }
        text
    }

    fn conditions(&self) -> String {
        let what = match self.work {
            "items" if self.items_per_request == 1 => "single items".to_owned(),
            "items" => format!("{} items per request", grouped(self.items_per_request)),
            _ => "counts".to_owned(),
        };
        let pace = match self.rate {
            Some(rate) => format!(", {rate} requests/s requested"),
            None => String::new(),
        };
        format!(
            "{}: {what}, {:.1} s, {} connections, {} tenants ({}-t…){pace}\n\n",
            self.url,
            self.seconds,
            grouped(self.connections.into()),
            grouped(self.tenants.into()),
            self.prefix,
        )
    }

    fn latencies(&self) -> String {
        let Latency {
            mean,
            p50,
            p90,
            p99,
            p999,
            max,
        } = self.latency_us;
        let ms = |us: f64| format!("{:.2}", us / 1_000.0);
        let columns = [
            ("mean", mean),
            ("50%", p50 as f64),
            ("90%", p90 as f64),
            ("99%", p99 as f64),
            ("99.9%", p999 as f64),
            ("max", max as f64),
        ];
        let names: String = columns
            .iter()
            .map(|(name, _)| format!("{name:>10}"))
            .collect();
        let values: String = columns
            .iter()
            .map(|(_, us)| format!("{:>10}", ms(*us)))
            .collect();
        format!("\n  latency {names}\n  ms      {values}\n")
    }

    /// Counters of unusual events, if there were any.
    fn oddities(&self) -> String {
        let lines: String = [
            ("not exact", self.not_exact),
            ("refused", self.refused),
            ("in doubt", self.in_doubt),
            ("unsent", self.unsent),
            ("reconnects", self.reconnects),
        ]
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(what, count)| format!("  {what:<10}{:>14}\n", grouped(*count)))
        .collect();
        match lines.is_empty() {
            true => lines,
            false => format!("\n{lines}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn report() -> Report {
        let mut latency = Histogram::new_with_bounds(1, 1_000_000, 3).expect("a histogram");
        for us in 1..=1_000 {
            latency.record(us).expect("in bounds");
        }
        Report {
            version: VERSION,
            work: "items",
            url: "http://a".to_owned(),
            prefix: "p".to_owned(),
            connections: 64,
            threads: 1,
            items_per_request: 1,
            tenants: 1_000,
            zipf: 0.0,
            duplicates: 0.0,
            rate: None,
            seconds: 2.0,
            requests: 1_000,
            items: 1_000,
            distinct: 900,
            requests_per_s: per_second(1_000, 2.0),
            items_per_s: per_second(1_000, 2.0),
            not_exact: 0,
            refused: 0,
            in_doubt: 3,
            unsent: 0,
            reconnects: 0,
            latency_us: Latency::from(&latency),
            checked: Some(CheckedReport {
                tenants: 1_000,
                exact: true,
                wrong: 0,
            }),
            settled_seconds: None,
            settled_items_per_s: None,
        }
    }

    #[test]
    fn json_is_one_line_with_every_field() {
        let text = report().json();
        assert_eq!(text.lines().count(), 1);
        let json: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(json["requests_per_s"], 500.0);
        assert_eq!(json["rate"], Value::Null);
        assert_eq!(json["settled_seconds"], Value::Null);
        assert_eq!(json["latency_us"]["p90"], 900);
        assert_eq!(json["checked"]["exact"], true);
    }

    #[test]
    fn the_table_says_what_is_odd_only_if_it_is() {
        let text = report().text();
        assert!(
            text.contains("requests           1,000           500/s"),
            "{text}"
        );
        assert!(text.contains("in doubt"), "{text}");
        assert!(!text.contains("refused"), "{text}");
        assert!(text.contains("all 1,000 tenants are exact"), "{text}");
    }

    #[test]
    fn no_time_is_no_rate() {
        assert_eq!(per_second(5, 0.0), 0.0);
        assert_eq!(per_second(1, 3.0), 0.3);
    }
}
