//! `RESULTS.md`: the goals, all numbers behind them, and the charts.
//!
//! Invariant: it is pure; the same results give the same text.

use super::goals::{Bound, Goal, Unit, goals};
use super::plot::Chart;
use super::results::Results;
use super::stats::{Summary, summary};

/// The charts, by file name; empty charts are omitted.
pub fn charts(results: &Results) -> Vec<(&'static str, Chart)> {
    let ours = |points| vec![("Headcount", points)];
    let both = vec![
        ("Headcount", tenths(results, "engine/headcount")),
        ("fjall", tenths(results, "engine/fjall")),
    ];
    let tenants = results.sweep("sweep-tenants/", "/items_per_s");
    let counters = results.sweep("sweep-counters/", "/settled_items_per_s");
    let broker = "Through RabbitMQ, all on one machine";
    let charts = [
        ("tenths.svg", "Engine, 10 M items", "tenth of the run", both),
        (
            "items.svg",
            "Engine, 10 k tenants",
            "items",
            ours(sizes(results)),
        ),
        ("tenants.svg", "Engine, 5 M items", "tenants", ours(tenants)),
        ("counters.svg", broker, "counters", ours(counters)),
    ];
    let charts = charts.into_iter().map(|(file, title, x_label, lines)| {
        let chart = Chart {
            title,
            x_label,
            y_label: "items/s",
            log_x: file != "tenths.svg",
            lines,
        };
        (file, chart)
    });
    charts.filter(|(_, chart)| !chart.is_empty()).collect()
}

/// The median over all rounds of one number of a work.
fn median(results: &Results, key: &str, pointer: &str) -> Option<f64> {
    summary(&results.series(key, pointer)).map(|summary| summary.median)
}

/// The rate in each tenth of a work.
fn tenths(results: &Results, key: &str) -> Vec<(f64, f64)> {
    let part = |part: u32| median(results, key, &format!("/part_items_per_s/{part}"));
    (0..10)
        .filter_map(|at| Some((f64::from(at + 1), part(at)?)))
        .collect()
}

/// The rate of the engine by number of items.
fn sizes(results: &Results) -> Vec<(f64, f64)> {
    let mut sizes = results.sweep("sweep-items/", "/items_per_s");
    for (size, key) in [(1e7, "engine/headcount"), (1e8, "engine-100m/headcount")] {
        sizes.extend(median(results, key, "/items_per_s").map(|rate| (size, rate)));
    }
    sizes.sort_by(|a, b| a.0.total_cmp(&b.0));
    sizes
}

/// The complete report.
pub fn markdown(results: &Results) -> String {
    let mut text = format!(
        "# Results\n\nMade by `{}` on {} (UTC) from commit `{}`, in {} minutes and {} seconds \
            without building. \
         Don't edit: run it again. How it is measured is told in [README.md](README.md), every raw \
         number is in \
         [results.json](results.json).\n\n",
        results.command,
        results.started,
        results.commit,
        results.seconds / 60,
        results.seconds % 60,
    );
    text += "| machine | |\n|---|---|\n";
    for (name, value) in &results.machine {
        text += &format!("| {name} | {value} |\n");
    }
    text += "\n## Goals\n\nMedians of the rounds, with the least and the greatest. A comparison is \
        made within each \
             round. Why those that are missed are missed is told in \
             [profiles.md](profiles.md).\n\n| row | work | goal | measured | met \
             |\n|---|---|---|---|---|\n";
    for goal in goals(results) {
        text += &goal_line(&goal);
    }
    text += &works(results);
    let charts = charts(results);
    if !charts.is_empty() {
        text += "\n## Cost against work\n";
    }
    for (file, chart) in &charts {
        text += &format!("\n![{}]({file})\n\n", chart.title);
        text += &points(chart);
    }
    text
}

fn goal_line(goal: &Goal) -> String {
    let bound = match goal.bound {
        Bound::Least(least) => format!("at least {}", number(least, goal.unit)),
        Bound::Most(most) => format!("at most {}", number(most, goal.unit)),
    };
    let measured = goal.measured.map_or_else(
        || "not measured".to_owned(),
        |measured| spread(measured, |value| number(value, goal.unit)),
    );
    let met = match goal.is_met() {
        Some(true) => "yes",
        Some(false) => "**no**",
        None => "",
    };
    format!(
        "| {} | {} | {bound} | {measured} | {met} |\n",
        goal.row, goal.what
    )
}

fn spread(summary: Summary, write: impl Fn(f64) -> String) -> String {
    let Summary { median, min, max } = summary;
    if min < max {
        format!("{} ({}–{})", write(median), write(min), write(max))
    } else {
        write(median)
    }
}

fn number(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Times => format!("{value:.2} ×"),
        Unit::PerSecond(what) => format!("{} {what}/s", grouped(value)),
        Unit::Megabytes => format!("{value:.0} MB"),
        Unit::Bytes => format!("{value:.1} B"),
        Unit::Seconds => format!("{value:.2} s"),
        Unit::Milliseconds => format!("{value:.1} ms"),
    }
}

/// A number with its digits in groups of three.
fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The columns of measured numbers: heading, and pointers into the result.
const COLUMNS: [(&str, &[&str]); 12] = [
    ("items/s", &["/items_per_s"]),
    ("requests/s", &["/requests_per_s"]),
    ("settled items/s", &["/settled_items_per_s"]),
    ("p50 µs", &["/latency_us/p50", "/commit_us/p50"]),
    ("p99 µs", &["/latency_us/p99", "/commit_us/p99"]),
    ("p99.9 µs", &["/latency_us/p999", "/commit_us/p999"]),
    ("max µs", &["/latency_us/max", "/commit_us/max"]),
    ("p99 µs while merging", &["/commit_merging_us/p99"]),
    ("p99.9 µs while merging", &["/commit_merging_us/p999"]),
    ("not exact", &["/not_exact"]),
    ("refused", &["/refused"]),
    ("in doubt", &["/in_doubt"]),
];

/// The works with their titles.
const WORKS: [(&str, &str); 10] = [
    (
        "engine",
        "Engine alone: 10 M items, 10 k tenants, 5 % duplicates, a durable commit for each 1000; \
            latencies are of commits. fjall stops after 40 s",
    ),
    (
        "engine-100m",
        "The same with 100 M items and 352 MiB of memory",
    ),
    (
        "one-64",
        "Single items, 64 connections. `redis-everysec` promises less: up to a second may be lost",
    ),
    ("one-1", "Single items, one connection"),
    ("thousand-16", "Bodies of 1000 items, 16 connections"),
    (
        "reads-64",
        "Reads of counts, 64 connections; on Headcount while items are posted at half the rate \
            above",
    ),
    (
        "cluster-thousand-16",
        "Through RabbitMQ with three counters: bodies of 1000, 16 connections",
    ),
    (
        "cluster-one-64",
        "Through RabbitMQ: single items, 64 connections",
    ),
    (
        "cluster-one-256",
        "Through RabbitMQ: single items, 256 connections",
    ),
    (
        "cluster-reads-64",
        "Through RabbitMQ: reads while items are posted at half the rate above",
    ),
];

fn works(results: &Results) -> String {
    let mut text = "\n## Measurements\n".to_owned();
    for (work, title) in WORKS {
        let prefix = format!("{work}/");
        let mut keys: Vec<&str> = Vec::new();
        for run in &results.runs {
            if run.key.starts_with(&prefix) && !keys.contains(&run.key.as_str()) {
                keys.push(&run.key);
            }
        }
        if !keys.is_empty() {
            text += &format!("\n### {title}\n\n{}", table(results, &keys));
        }
    }
    text
}

fn table(results: &Results, keys: &[&str]) -> String {
    let cell = |key: &str, pointers: &[&str]| {
        let of = |pointer: &&str| summary(&results.series(key, pointer));
        pointers.iter().find_map(of)
    };
    let columns: Vec<_> = COLUMNS
        .iter()
        .filter(|(_, pointers)| {
            // Omits columns without values.
            let says = |key: &&str| cell(key, pointers).is_some_and(|cell| cell.max > 0.0);
            keys.iter().any(says)
        })
        .collect();
    let mut text = "| contender |".to_owned();
    for (name, _) in &columns {
        text += &format!(" {name} |");
    }
    text += &format!("\n|---|{}\n", "---|".repeat(columns.len()));
    for key in keys {
        text += &format!("| {} |", key.rsplit('/').next().unwrap_or(key));
        for (_, pointers) in &columns {
            let summary = cell(key, pointers);
            let written = summary.map_or_else(String::new, |summary| spread(summary, grouped));
            text += &format!(" {written} |");
        }
        text += "\n";
    }
    text
}

/// The numbers of a chart as text, for readers who can't see it.
fn points(chart: &Chart) -> String {
    let mut text = String::new();
    for (name, points) in &chart.lines {
        let values: Vec<String> = points
            .iter()
            .map(|(x, y)| format!("{}: {}", grouped(*x), grouped(*y)))
            .collect();
        if !values.is_empty() {
            text += &format!(
                "{name}, {} by {}: {}.\n",
                chart.y_label,
                chart.x_label,
                values.join("; ")
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn results() -> Results {
        let mut results = Results::new(
            vec![("cores".to_owned(), "2".to_owned())],
            "abc".to_owned(),
            "cargo xtask bench".to_owned(),
        );
        for (round, ours) in [(1, 20_000.0), (2, 30_000.0), (3, 25_000.0)] {
            let latency = json!({"p50": 100, "p99": 2000});
            let ours = json!({"items_per_s": ours, "latency_us": latency});
            results.add("one-64/headcount", round, ours);
            results.add("one-64/no-op", round, json!({"items_per_s": 100_000.0}));
        }
        results.add("sweep-tenants/10", 1, json!({"items_per_s": 1_000_000.0}));
        results
    }

    #[test]
    fn a_goal_says_what_was_measured_and_whether_it_is_met() {
        let text = markdown(&results());
        let line = "| 3 | single items, 64 connections, against the no-op | at least 0.55 × | \
                    0.25 × (0.20 ×–0.30 ×) | **no** |";
        assert!(text.contains(line), "{text}");
        assert!(text.contains("| not measured |  |"), "{text}");
    }

    #[test]
    fn a_contender_has_its_median_and_spread() {
        let text = markdown(&results());
        assert!(
            text.contains("| headcount | 25,000 (20,000–30,000) | 100 | 2,000 |"),
            "{text}"
        );
        assert!(text.contains("| no-op | 100,000 |  |  |"), "{text}");
        assert!(text.contains("![Engine, 5 M items](tenants.svg)"), "{text}");
    }

    #[test]
    fn digits_are_grouped() {
        assert_eq!(grouped(999.0), "999");
        assert_eq!(grouped(1_234_567.4), "1,234,567");
    }
}
