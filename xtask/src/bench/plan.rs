//! The measurements and their order.
//!
//! Invariant: within a round, all contenders of a work run once, one after the other, so that a
//! slow phase of the machine does not affect only one of them.

use serde_json::Value;

use super::load::{self, Shape, Target};
use super::processes::Tools;
use super::results::Results;
use super::stats::summary;
use crate::tools::Tool;

/// Maximum duration of a fjall run in seconds. fjall has reached its rate by then; it may stop with
/// fewer items, which is to its advantage.
const FJALL_SECONDS_MAX: &str = "40";

/// Memory of the runs with 100 M items: enough for complete filters, and less than 400 MB in total.
pub const FULL_MEMORY: [&str; 2] = ["--memory-mb", "352"];

/// The context of a work.
pub struct Context<'a> {
    /// The programs.
    pub tools: &'a Tools,
    /// The results so far.
    pub results: &'a Results,
    /// URL of the coordinator, if the work needs a cluster.
    pub url: &'a str,
}

/// The function that does a work.
type Measure = Box<dyn Fn(&Context<'_>) -> Result<Value, String>>;

/// A measurement of one contender.
pub struct Work {
    /// Names of the work and the contender.
    pub key: String,
    /// The rows of the table that need it.
    pub rows: Vec<u8>,
    /// The tool that it needs in addition to those for building.
    pub needs: Option<Tool>,
    /// Whether one round is enough.
    pub once: bool,
    /// Does the measurement.
    pub measure: Measure,
}

fn work(
    key: &str,
    rows: &[u8],
    measure: impl Fn(&Context<'_>) -> Result<Value, String> + 'static,
) -> Work {
    Work {
        key: key.to_owned(),
        rows: rows.to_vec(),
        needs: None,
        once: false,
        measure: Box::new(measure),
    }
}

fn once(work: Work) -> Work {
    Work { once: true, ..work }
}

fn needing(tool: Tool, work: Work) -> Work {
    Work {
        needs: Some(tool),
        ..work
    }
}

impl Work {
    /// Whether one of `rows` needs this work. Empty `rows` mean all.
    pub fn is_for(&self, rows: &[u8]) -> bool {
        rows.is_empty() || self.rows.iter().any(|row| rows.contains(row))
    }
}

/// All works, in no particular order.
pub fn all(full: bool) -> Vec<Work> {
    let mut works = alone(full);
    works.extend(through_rabbitmq());
    works.extend(sweeps(full));
    works.extend(COUNTERS.map(sweep_counters));
    works
}

const ONE_64: Shape = Shape {
    connections: 64,
    batch: 1,
};
const ONE_256: Shape = Shape {
    connections: 256,
    batch: 1,
};
const ONE_1: Shape = Shape {
    connections: 1,
    batch: 1,
};
const THOUSAND_16: Shape = Shape {
    connections: 16,
    batch: 1000,
};

/// Works without a cluster.
pub fn alone(full: bool) -> Vec<Work> {
    let mut works = engines(full);
    works.extend(single_items());
    works.extend(bodies());
    works.push(work("reads-64/headcount", &[9], |at| {
        let rate = half_rate(at.results, "one-64/headcount");
        load::reads(at.tools, Target::Headcount, rate)
    }));
    works.push(work("reads-64/no-op", &[9], |at| {
        load::reads(at.tools, Target::NoOp, None)
    }));
    works
}

fn engines(full: bool) -> Vec<Work> {
    let mut works = vec![
        work("engine/headcount", &[1, 10], |at| {
            load::engine(at.tools, &["--store", "headcount"])
        }),
        work("engine/fjall", &[1], |at| {
            let options = ["--store", "fjall", "--seconds-max", FJALL_SECONDS_MAX];
            load::engine(at.tools, &options)
        }),
    ];
    if full {
        let all = [
            "--items",
            "100000000",
            FULL_MEMORY[0],
            FULL_MEMORY[1],
            "--kill-after",
        ];
        works.push(work("engine-100m/headcount", &[1, 2, 10], move |at| {
            load::engine(at.tools, &all)
        }));
        works.push(work("open-100m/headcount", &[1, 2, 10], |at| {
            load::open(at.tools, &FULL_MEMORY)
        }));
    }
    works
}

fn posts(key: &str, rows: &[u8], target: Target, shape: Shape) -> Work {
    work(key, rows, move |at| load::posts(at.tools, target, shape))
}

fn redis(key: &str, rows: &[u8], options: &'static [&str], shape: Shape) -> Work {
    let measure = move |at: &Context<'_>| load::peer(at.tools, "redis", options, shape);
    needing(Tool::Redis, work(key, rows, measure))
}

fn postgres(key: &str, rows: &[u8], shape: Shape) -> Work {
    let measure = move |at: &Context<'_>| load::peer(at.tools, "postgres", &[], shape);
    needing(Tool::PostgreSql, work(key, rows, measure))
}

fn single_items() -> Vec<Work> {
    let by_benchmark = &["--client", "benchmark"];
    let plain = &["--form", "plain"];
    let everysec = &["--fsync", "everysec"];
    vec![
        posts("one-64/headcount", &[3, 5, 9], Target::Headcount, ONE_64),
        posts("one-64/no-op", &[3], Target::NoOp, ONE_64),
        redis("one-64/redis", &[5], &[], ONE_64),
        redis("one-64/redis-benchmark", &[5], by_benchmark, ONE_64),
        redis("one-64/redis-plain", &[5], plain, ONE_64),
        redis("one-64/redis-everysec", &[5], everysec, ONE_64),
        postgres("one-64/postgres", &[5], ONE_64),
        posts("one-1/headcount", &[6], Target::Headcount, ONE_1),
        redis("one-1/redis", &[6], &[], ONE_1),
        redis("one-1/redis-plain", &[6], plain, ONE_1),
        postgres("one-1/postgres", &[6], ONE_1),
    ]
}

fn bodies() -> Vec<Work> {
    let plain = &["--form", "plain"];
    let everysec = &["--fsync", "everysec"];
    vec![
        posts(
            "thousand-16/headcount",
            &[4],
            Target::Headcount,
            THOUSAND_16,
        ),
        posts("thousand-16/memory", &[4], Target::Memory, THOUSAND_16),
        posts("thousand-16/no-op", &[4], Target::NoOp, THOUSAND_16),
        redis("thousand-16/redis", &[4], &[], THOUSAND_16),
        redis("thousand-16/redis-plain", &[4], plain, THOUSAND_16),
        redis("thousand-16/redis-everysec", &[4], everysec, THOUSAND_16),
        postgres("thousand-16/postgres", &[4], THOUSAND_16),
    ]
}

/// Works on a cluster with three counters.
pub fn through_rabbitmq() -> Vec<Work> {
    let posts = |key: &str, rows: &[u8], shape: Shape, settle: bool| {
        work(key, rows, move |at| {
            load::posts_to(at.tools, at.url, shape, settle)
        })
    };
    let works = [
        posts("cluster-thousand-16/headcount", &[7], THOUSAND_16, true),
        posts("cluster-one-64/headcount", &[8, 9], ONE_64, false),
        posts("cluster-one-256/headcount", &[8], ONE_256, false),
        work("cluster-reads-64/headcount", &[9], |at| {
            let rate = half_rate(at.results, "cluster-one-64/headcount");
            load::reads_from(at.tools, at.url, rate)
        }),
    ];
    works.map(|work| needing(Tool::RabbitMq, work)).into()
}

/// Measures the cost of an item by number of items and of tenants.
pub fn sweeps(full: bool) -> Vec<Work> {
    // 10 M and 100 M items are measured by other rows.
    let items: &[u32] = if full { &[1, 3, 30] } else { &[1, 3] };
    let tenants = ["10", "1000", "100000", "1000000"];
    let items = items.iter().map(|millions| {
        let items = format!("{millions}000000");
        once(work(&format!("sweep-items/{items}"), &[10], move |at| {
            load::engine(
                at.tools,
                &["--items", &items, FULL_MEMORY[0], FULL_MEMORY[1]],
            )
        }))
    });
    let tenants = tenants.into_iter().map(|tenants| {
        once(work(
            &format!("sweep-tenants/{tenants}"),
            &[10],
            move |at| load::engine(at.tools, &["--items", "5000000", "--tenants", tenants]),
        ))
    });
    items.chain(tenants).collect()
}

/// Numbers of counters of the compared clusters.
pub const COUNTERS: [usize; 4] = [1, 2, 4, 8];

/// The work of those clusters.
pub fn sweep_counters(counters: usize) -> Work {
    let work = work(&format!("sweep-counters/{counters}"), &[10], |at| {
        load::posts_to(at.tools, at.url, THOUSAND_16, true)
    });
    once(needing(Tool::RabbitMq, work))
}

/// Half of the rate measured so far.
fn half_rate(results: &Results, key: &str) -> Option<f64> {
    summary(&results.series(key, "/requests_per_s")).map(|summary| summary.median / 2.0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_row_has_works_and_no_key_comes_twice() {
        let works = all(true);
        let rows: BTreeSet<u8> = works.iter().flat_map(|work| work.rows.clone()).collect();
        assert_eq!(rows, (1..=10).collect());
        let keys: BTreeSet<&str> = works.iter().map(|work| work.key.as_str()).collect();
        assert_eq!(keys.len(), works.len());
    }
}
