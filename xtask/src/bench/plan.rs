//! What is measured, in which order.
//!
//! Invariant: within a round every contender of a work runs once, one after the other, so that a slow minute of
//! the machine is nobody's own.

use serde_json::Value;

use super::load::{self, Shape, Target};
use super::processes::Tools;
use super::results::Results;
use super::stats::summary;

/// After so many seconds fjall has shown its rate; it may stop with fewer items, which is in its favour.
const FJALL_SECONDS_MAX: &str = "40";

/// The memory of the runs of 100 M items: enough for their filters to be whole, within 400 MB in all.
pub const FULL_MEMORY: [&str; 2] = ["--memory-mb", "352"];

/// What a work has at hand.
pub struct Context<'a> {
    /// The programs.
    pub tools: &'a Tools,
    /// What is measured already.
    pub results: &'a Results,
    /// The coordinator, where the work needs a cluster.
    pub url: &'a str,
}

/// How a work is done.
type Measure = Box<dyn Fn(&Context<'_>) -> Result<Value, String>>;

/// One contender's measurement.
pub struct Work {
    /// The work and the contender.
    pub key: String,
    /// The rows of the table that need it.
    pub rows: Vec<u8>,
    /// Whether one round is enough.
    pub once: bool,
    /// Does it.
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
        once: false,
        measure: Box::new(measure),
    }
}

fn once(work: Work) -> Work {
    Work { once: true, ..work }
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

/// Works that need no cluster.
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

fn peer(
    key: &str,
    rows: &[u8],
    name: &'static str,
    options: &'static [&str],
    shape: Shape,
) -> Work {
    work(key, rows, move |at| {
        load::peer(at.tools, name, options, shape)
    })
}

fn single_items() -> Vec<Work> {
    let by_benchmark = &["--client", "benchmark"];
    let plain = &["--form", "plain"];
    let everysec = &["--fsync", "everysec"];
    vec![
        posts("one-64/headcount", &[3, 5, 9], Target::Headcount, ONE_64),
        posts("one-64/no-op", &[3], Target::NoOp, ONE_64),
        peer("one-64/redis", &[5], "redis", &[], ONE_64),
        peer(
            "one-64/redis-benchmark",
            &[5],
            "redis",
            by_benchmark,
            ONE_64,
        ),
        peer("one-64/redis-plain", &[5], "redis", plain, ONE_64),
        peer("one-64/redis-everysec", &[5], "redis", everysec, ONE_64),
        peer("one-64/postgres", &[5], "postgres", &[], ONE_64),
        posts("one-1/headcount", &[6], Target::Headcount, ONE_1),
        peer("one-1/redis", &[6], "redis", &[], ONE_1),
        peer("one-1/redis-plain", &[6], "redis", plain, ONE_1),
        peer("one-1/postgres", &[6], "postgres", &[], ONE_1),
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
        peer("thousand-16/redis", &[4], "redis", &[], THOUSAND_16),
        peer("thousand-16/redis-plain", &[4], "redis", plain, THOUSAND_16),
        peer(
            "thousand-16/redis-everysec",
            &[4],
            "redis",
            everysec,
            THOUSAND_16,
        ),
        peer("thousand-16/postgres", &[4], "postgres", &[], THOUSAND_16),
    ]
}

/// Works on one cluster with three counters.
pub fn through_rabbitmq() -> Vec<Work> {
    let posts = |key: &str, rows: &[u8], shape: Shape, settle: bool| {
        work(key, rows, move |at| {
            load::posts_to(at.tools, at.url, shape, settle)
        })
    };
    vec![
        posts("cluster-thousand-16/headcount", &[7], THOUSAND_16, true),
        posts("cluster-one-64/headcount", &[8, 9], ONE_64, false),
        posts("cluster-one-256/headcount", &[8], ONE_256, false),
        work("cluster-reads-64/headcount", &[9], |at| {
            let rate = half_rate(at.results, "cluster-one-64/headcount");
            load::reads_from(at.tools, at.url, rate)
        }),
    ]
}

/// How the cost of an item grows with the items and the tenants.
pub fn sweeps(full: bool) -> Vec<Work> {
    // 10 M and 100 M are measured as rows of their own.
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

/// Counters of the clusters whose cost is compared.
pub const COUNTERS: [usize; 4] = [1, 2, 4, 8];

/// What those clusters do.
pub fn sweep_counters(counters: usize) -> Work {
    once(work(&format!("sweep-counters/{counters}"), &[10], |at| {
        load::posts_to(at.tools, at.url, THOUSAND_16, true)
    }))
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
        let mut works = alone(true);
        works.extend(through_rabbitmq());
        works.extend(sweeps(true));
        works.extend(COUNTERS.map(sweep_counters));
        let rows: BTreeSet<u8> = works.iter().flat_map(|work| work.rows.clone()).collect();
        assert_eq!(rows, (1..=10).collect());
        let keys: BTreeSet<&str> = works.iter().map(|work| work.key.as_str()).collect();
        assert_eq!(keys.len(), works.len());
    }
}
