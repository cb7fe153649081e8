//! Reports the state of counters as gauges of `/metrics`.
//!
//! Invariant: an unknown value is not set. Of a counter that cannot be reached, only `up` changes;
//! the other gauges keep the last known values.

use headcount_coordinator::CounterView;
use headcount_telemetry as telemetry;

/// Sets the gauges of a counter.
pub(crate) fn report(view: &CounterView) {
    let name = view.name.as_str();
    let set = |gauge: &'static str, value: f64| {
        metrics::gauge!(gauge, "counter" => name.to_owned()).set(value);
    };
    set(telemetry::COUNTER_UP, flag(view.status.is_ok()));
    if let Some(messages) = view.queue_messages {
        set(telemetry::COUNTER_QUEUE_MESSAGES, messages as f64);
    }
    if let Some(batches) = view.lag_batches {
        set(telemetry::COUNTER_LAG_BATCHES, batches as f64);
    }
    if let Some(ago_ms) = view.last_seen_ms_ago {
        set(telemetry::COUNTER_SEEN_AGO, seconds(ago_ms));
    }
    if let Some(replicas) = &view.replicas {
        let (members, online) = (replicas.members.len(), replicas.online.len());
        set(telemetry::COUNTER_QUEUE_MEMBERS, members as f64);
        set(telemetry::COUNTER_QUEUE_MEMBERS_ONLINE, online as f64);
        metrics::gauge!(telemetry::BROKER_NODES).set(replicas.nodes.len() as f64);
        let warned = replicas.warning(name).is_some();
        set(telemetry::COUNTER_QUEUE_WARNING, flag(warned));
    }
    let Ok(status) = &view.status else { return };
    set(telemetry::COUNTER_COMPLETE, flag(status.complete));
    set(telemetry::COUNTER_HALTED, flag(status.problem.is_some()));
    set(telemetry::COUNTER_TENANTS, status.tenants as f64);
    set(telemetry::COUNTER_ITEMS, status.items as f64);
    set(telemetry::COUNTER_EPOCHS, status.epochs as f64);
    set(telemetry::COUNTER_HOLES, status.holes as f64);
    set(telemetry::COUNTER_LAG, seconds(status.lag_ms));
    set(telemetry::COUNTER_REDELIVERIES, status.redeliveries as f64);
    set(telemetry::COUNTER_SNAPSHOTS, status.snapshots as f64);
    set(telemetry::COUNTER_FORKS, status.forks as f64);
    if view.url.is_none() {
        // The counter and its store run in this process.
        metrics::gauge!(telemetry::TENANTS).set(status.tenants as f64);
        metrics::gauge!(telemetry::ITEMS).set(status.items as f64);
        metrics::gauge!(telemetry::STORE_DISK_BYTES).set(status.disk_bytes as f64);
        metrics::gauge!(telemetry::STORE_MEMORY_BYTES).set(status.memory_bytes as f64);
        metrics::gauge!(telemetry::STORE_RUNS).set(status.runs as f64);
    }
}

fn flag(is: bool) -> f64 {
    f64::from(u8::from(is))
}

fn seconds(ms: u64) -> f64 {
    ms as f64 / 1_000.0
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;
    use headcount_coordinator::Replicas;
    use headcount_rpc::{QueryError, Status};

    fn status() -> Status {
        Status {
            name: "c1".into(),
            complete: true,
            tenants: 2,
            items: 30,
            epochs: 4,
            last_applied: None,
            holes: 5,
            lag_ms: 1_500,
            redeliveries: 6,
            snapshots: 7,
            forks: 8,
            disk_bytes: 9,
            memory_bytes: 10,
            runs: 11,
            doubt: None,
            problem: Some("it can't read a batch".into()),
        }
    }

    fn remote(name: &str, status: Result<Status, QueryError>) -> CounterView {
        CounterView {
            name: name.into(),
            status,
            queue_messages: Some(12),
            lag_batches: Some(13),
            last_seen_ms_ago: Some(250),
            url: Some("http://c".into()),
            replicas: None,
        }
    }

    fn rendered(views: &[CounterView]) -> String {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || views.iter().for_each(report));
        handle.render()
    }

    fn assert_lines(text: &str, lines: &[&str]) {
        for line in lines {
            assert!(
                text.lines().any(|given| given == *line),
                "{line} in\n{text}"
            );
        }
    }

    #[test]
    fn each_counter_has_its_gauges() {
        let gone = Err(QueryError::Unreachable("gone".into()));
        let text = rendered(&[remote("c1", Ok(status())), remote("c2", gone)]);
        assert_lines(
            &text,
            &[
                r#"headcount_counter_up{counter="c1"} 1"#,
                r#"headcount_counter_up{counter="c2"} 0"#,
                r#"headcount_counter_complete{counter="c1"} 1"#,
                r#"headcount_counter_halted{counter="c1"} 1"#,
                r#"headcount_counter_tenants{counter="c1"} 2"#,
                r#"headcount_counter_items{counter="c1"} 30"#,
                r#"headcount_counter_epochs{counter="c1"} 4"#,
                r#"headcount_counter_holes{counter="c1"} 5"#,
                r#"headcount_counter_lag_seconds{counter="c1"} 1.5"#,
                r#"headcount_counter_redeliveries{counter="c1"} 6"#,
                r#"headcount_counter_snapshots{counter="c1"} 7"#,
                r#"headcount_counter_forks{counter="c1"} 8"#,
                r#"headcount_counter_queue_messages{counter="c2"} 12"#,
                r#"headcount_counter_lag_batches{counter="c2"} 13"#,
                r#"headcount_counter_seen_ago_seconds{counter="c2"} 0.25"#,
            ],
        );
        assert!(!text.contains(r#"items{counter="c2"}"#), "{text}");
        assert!(
            !text.contains("headcount_store"),
            "its store is on another node:\n{text}"
        );
    }

    #[test]
    fn where_a_queue_is_has_gauges_once_it_is_known() {
        let text = rendered(&[remote("c1", Ok(status()))]);
        assert!(!text.contains("members"), "{text}");
        let set = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let view = CounterView {
            replicas: Some(Replicas {
                queue: "q".into(),
                vhost: "/".into(),
                queues: vec!["q".into()],
                quorum: true,
                members: set(&["r@a", "r@b"]),
                online: set(&["r@a"]),
                nodes: set(&["r@a", "r@b", "r@c"]),
                running: set(&["r@a"]),
            }),
            ..remote("c1", Ok(status()))
        };
        assert_lines(
            &rendered(&[view]),
            &[
                r#"headcount_counter_queue_members{counter="c1"} 2"#,
                r#"headcount_counter_queue_members_online{counter="c1"} 1"#,
                r#"headcount_counter_queue_warning{counter="c1"} 1"#,
                "headcount_broker_nodes 3",
            ],
        );
    }

    #[test]
    fn a_counter_of_this_process_shows_its_store_and_no_queue() {
        let here = CounterView {
            queue_messages: None,
            lag_batches: None,
            last_seen_ms_ago: None,
            url: None,
            ..remote("local", Ok(status()))
        };
        let text = rendered(&[here]);
        assert_lines(
            &text,
            &[
                "headcount_items 30",
                "headcount_store_disk_bytes 9",
                "headcount_store_memory_bytes 10",
                "headcount_store_runs 11",
                r#"headcount_counter_items{counter="local"} 30"#,
            ],
        );
        for absent in ["queue_messages", "lag_batches", "seen_ago"] {
            assert!(!text.contains(absent), "{absent} in\n{text}");
        }
    }
}
