//! The goals: what each row of the table must reach, and whether it does.
//!
//! Invariant: a goal is judged by the median of its rounds. A goal that was not measured is neither
//! met nor missed.

use super::results::Results;
use super::stats::{Series, Summary, best, ratio, summary};

/// A lower or upper bound of a number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bound {
    /// At least.
    Least(f64),
    /// At most.
    Most(f64),
}

/// The unit in which a number is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// A ratio.
    Times,
    /// Things per second.
    PerSecond(&'static str),
    /// Megabytes.
    Megabytes,
    /// Bytes.
    Bytes,
    /// Seconds.
    Seconds,
    /// Milliseconds.
    Milliseconds,
}

/// A goal with its measurement.
#[derive(Debug)]
pub struct Goal {
    /// Row of the table.
    pub row: u8,
    /// Description of the comparison.
    pub what: &'static str,
    /// The bound that it must reach.
    pub bound: Bound,
    /// Unit of the number.
    pub unit: Unit,
    /// The measurement.
    pub measured: Option<Summary>,
}

impl Goal {
    /// Whether the goal is met; `None` if it was not measured.
    pub fn is_met(&self) -> Option<bool> {
        let median = self.measured?.median;
        Some(match self.bound {
            Bound::Least(least) => median >= least,
            Bound::Most(most) => median <= most,
        })
    }
}

/// All goals.
pub fn goals(results: &Results) -> Vec<Goal> {
    let mut goals = engine_goals(results);
    goals.extend(local_goals(results));
    goals.extend(cluster_goals(results));
    goals.sort_by_key(|goal| goal.row);
    goals
}

fn goal(row: u8, what: &'static str, bound: Bound, unit: Unit, series: &Series) -> Goal {
    Goal {
        row,
        what,
        bound,
        unit,
        measured: summary(series),
    }
}

fn scaled(series: Series, factor: f64) -> Series {
    series
        .into_iter()
        .map(|(round, value)| (round, value * factor))
        .collect()
}

fn engine_goals(results: &Results) -> Vec<Goal> {
    let rate = |key: &str| results.series(key, "/items_per_s");
    let full = |pointer: &str| results.series("engine-100m/headcount", pointer);
    let (times, most) = (Unit::Times, Bound::Most);
    vec![
        goal(
            1,
            "engine, 10 M items, against fjall",
            Bound::Least(10.0),
            times,
            &ratio(&rate("engine/headcount"), &rate("engine/fjall")),
        ),
        goal(
            1,
            "engine, last tenth of 100 M against the first",
            Bound::Least(0.5),
            times,
            &ratio(&full("/part_items_per_s/9"), &full("/part_items_per_s/0")),
        ),
        goal(
            2,
            "resident memory at 100 M after merges",
            most(400.0),
            Unit::Megabytes,
            &scaled(full("/rss_bytes"), 1e-6),
        ),
        goal(
            2,
            "disk for each id at 100 M after merges",
            most(18.0),
            Unit::Bytes,
            &full("/disk_bytes_per_id"),
        ),
        goal(
            2,
            "opening 100 M after `kill -9`",
            most(1.0),
            Unit::Seconds,
            &results.series("open-100m/headcount", "/open_seconds"),
        ),
    ]
}

fn local_goals(results: &Results) -> Vec<Goal> {
    let rate = |key: &str| results.series(key, "/items_per_s");
    let against = |row, what, least, of: &str, to: &str| {
        let bound = Bound::Least(least);
        goal(row, what, bound, Unit::Times, &ratio(&rate(of), &rate(to)))
    };
    let one = "one-64/headcount";
    let thousand = "thousand-16/headcount";
    let reads = |key: &str| results.series(key, "/requests_per_s");
    let mut goals = redis_goals(results);
    goals.extend([
        against(
            3,
            "single items, 64 connections, against the no-op",
            0.55,
            one,
            "one-64/no-op",
        ),
        against(
            4,
            "bodies of 1000 against PostgreSQL",
            8.0,
            thousand,
            "thousand-16/postgres",
        ),
        against(
            4,
            "bodies of 1000 against our path over the store in memory",
            0.7,
            thousand,
            "thousand-16/memory",
        ),
        against(
            5,
            "single items, 64 connections, against PostgreSQL",
            8.0,
            one,
            "one-64/postgres",
        ),
        goal(
            9,
            "reads while writing, alone, against the no-op's",
            Bound::Least(0.5),
            Unit::Times,
            &ratio(&reads("reads-64/headcount"), &reads("reads-64/no-op")),
        ),
    ]);
    goals
}

/// Compares with Redis `always`: with one script call per request, sent by the faster of the two
/// clients, and with a plain transaction.
fn redis_goals(results: &Results) -> Vec<Goal> {
    let works = [
        (
            4,
            "thousand-16",
            5.0,
            "bodies of 1000, 16 connections, against Redis `always`, one script call for a body",
            "bodies of 1000 against Redis `always` without a script",
        ),
        (
            5,
            "one-64",
            1.2,
            "single items, 64 connections, against Redis `always`, one script call for an item",
            "single items, 64 connections, against Redis `always` without a script",
        ),
        (
            6,
            "one-1",
            0.8,
            "single items, one connection, against Redis `always`, one script call for an item",
            "single items, one connection, against Redis `always` without a script",
        ),
    ];
    let mut goals = Vec::new();
    for (row, work, least, with_script, without) in works {
        let rate = |name: &str| results.series(&format!("{work}/{name}"), "/items_per_s");
        let ours = rate("headcount");
        let script = best(["redis", "redis-benchmark"].map(rate));
        let (bound, unit) = (Bound::Least(least), Unit::Times);
        goals.push(goal(row, with_script, bound, unit, &ratio(&ours, &script)));
        let plain = rate("redis-plain");
        goals.push(goal(row, without, bound, unit, &ratio(&ours, &plain)));
    }
    goals
}

fn cluster_goals(results: &Results) -> Vec<Goal> {
    let requests = Unit::PerSecond("requests");
    let rate = |key: &str| results.series(key, "/requests_per_s");
    let p99_ms = |key: &str| scaled(results.series(key, "/latency_us/p99"), 1e-3);
    let (least, most) = (Bound::Least, Bound::Most(25.0));
    let settled = results.series("cluster-thousand-16/headcount", "/settled_items_per_s");
    let (few, many) = ("cluster-one-64/headcount", "cluster-one-256/headcount");
    vec![
        goal(
            7,
            "through RabbitMQ, bodies of 1000, until all three counters have them",
            least(400_000.0),
            Unit::PerSecond("items"),
            &settled,
        ),
        goal(
            8,
            "the same, single items, 64 connections",
            least(15_000.0),
            requests,
            &rate(few),
        ),
        goal(
            8,
            "99 of 100 of those within",
            most,
            Unit::Milliseconds,
            &p99_ms(few),
        ),
        goal(
            8,
            "the same, 256 connections",
            least(25_000.0),
            requests,
            &rate(many),
        ),
        goal(
            8,
            "99 of 100 of those within",
            most,
            Unit::Milliseconds,
            &p99_ms(many),
        ),
        goal(
            9,
            "reads while writing, through RabbitMQ",
            least(15_000.0),
            Unit::PerSecond("reads"),
            &rate("cluster-reads-64/headcount"),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_goal_is_judged_by_its_median() {
        let mut results = Results::new(Vec::new(), String::new(), String::new());
        for (round, ours) in [(1, 600.0), (2, 400.0), (3, 900.0)] {
            results.add("one-64/headcount", round, json!({"items_per_s": ours}));
            results.add("one-64/no-op", round, json!({"items_per_s": 1000.0}));
        }
        let goals = goals(&results);
        let row = goals.iter().find(|goal| goal.row == 3).expect("row 3");
        assert_eq!(row.measured.expect("measured").median, 0.6);
        assert_eq!(row.is_met(), Some(true));
        let other = goals.iter().find(|goal| goal.row == 6).expect("row 6");
        assert_eq!(other.is_met(), None);
    }

    #[test]
    fn every_row_with_a_number_has_a_goal() {
        let results = Results::new(Vec::new(), String::new(), String::new());
        let rows: Vec<u8> = goals(&results).iter().map(|goal| goal.row).collect();
        for row in 1..=9 {
            assert!(rows.contains(&row), "{row}");
        }
    }
}
