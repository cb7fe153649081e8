//! What a cluster holds when all is quiet: exactly what was posted, whoever is asked.
//!
//! Invariant: every coordinator, and every counter that runs, alone, gives the same counts, the
//! same items and the same listing, page by page.

use serde_json::{Value, json};

use crate::checker::Ledger;
use crate::cluster::Cluster;
use crate::wait;

/// Tenants on a page of the listing.
const LIMIT: usize = 7;

/// Items of which every coordinator and every counter is asked.
const ITEMS: u64 = 5;

/// Asserts that every coordinator, and every running counter alone, answers exactly what the ledger
/// says.
pub async fn check(cluster: &mut Cluster, ledger: &Ledger) {
    for coordinator in 0..cluster.faces().len() {
        let who = format!("coordinator {coordinator}");
        holds(cluster, coordinator, "strong", ledger, &who).await;
    }
    let total: u64 = ledger.tenants().map(|(_, attempted)| attempted).sum();
    let names = cluster.running();
    wait::until("counters that hold everything", async || {
        let seen = cluster.counters(0).await?;
        match names.iter().all(|name| seen[name]["items"] == json!(total)) {
            true => Ok(()),
            false => Err(format!("{total} items, but {seen:?}")),
        }
    })
    .await;
    // Not before: one with an old folder says what it may have lost only when it has looked, and
    // what it misses it gets from others while it is not complete yet.
    cluster.wait_until_complete().await;
    for name in &names {
        for other in names.iter().filter(|other| *other != name) {
            cluster.counter(other).process.pause();
        }
        holds(cluster, 0, "session", ledger, &format!("{name} alone")).await;
        for other in names.iter().filter(|other| *other != name) {
            cluster.counter(other).process.resume();
        }
    }
}

/// Asserts that every counter has everything, all others killed: what was acknowledged has a copy
/// with each of them.
pub async fn check_survivors(cluster: &mut Cluster, ledger: &Ledger) {
    let names = cluster.running();
    for name in &names {
        let others: Vec<&String> = names.iter().filter(|other| *other != name).collect();
        for other in &others {
            cluster.counter(other).process.kill();
            cluster.consumers(other, 0);
        }
        let who = format!("{name}, the only one that is left");
        holds(cluster, 0, "session", ledger, &who).await;
        for other in &others {
            cluster.counter(other).process.restart();
        }
        for other in &others {
            // Before it consumes it says what it may have lost: until then it calls itself what it
            // was.
            cluster.consumers(other, 1);
        }
        cluster.wait_until_complete().await;
    }
}

/// Asserts that what a coordinator answers is exactly what the ledger says.
async fn holds(
    cluster: &mut Cluster,
    coordinator: usize,
    consistency: &str,
    ledger: &Ledger,
    who: &str,
) {
    let options = format!("consistency={consistency}");
    let tenants: Vec<_> = ledger
        .tenants()
        .map(|(name, attempted)| (name.to_owned(), attempted))
        .collect();
    let named: String = tenants
        .iter()
        .map(|(name, _)| format!("&tenant={name}"))
        .collect();
    let path = format!("/counts?{options}{named}");
    let counts = exact(cluster, coordinator, &path).await;
    assert_eq!(rows(&counts["counts"]), tenants, "{who}");

    for (tenant, attempted) in &tenants {
        let step = attempted.div_ceil(ITEMS).max(1) as usize;
        let numbers = (0..*attempted).step_by(step).chain([attempted - 1]);
        for id in numbers.filter_map(|number| ledger.id(tenant, number)) {
            let path = format!("/items/{tenant}/ids/{id}?{options}");
            let answer = exact(cluster, coordinator, &path).await;
            assert_eq!(answer["counted"], true, "{who}: {tenant}, {id}");
        }
        let path = format!("/items/{tenant}/ids/i{attempted}?{options}");
        let answer = exact(cluster, coordinator, &path).await;
        assert_eq!(answer["counted"], false, "{who}: {tenant}, i{attempted}");
    }

    let mut listed = Vec::new();
    let mut cursor = String::new();
    loop {
        let path = format!("/tenants?{options}&limit={LIMIT}{cursor}");
        let page = exact(cluster, coordinator, &path).await;
        listed.extend(rows(&page["tenants"]));
        let Some(next) = page["next_cursor"].as_str() else {
            break;
        };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(listed, tenants, "{who}");
}

impl Cluster {
    /// Waits until the queue of a counter has so many consumers.
    fn consumers(&self, name: &str, count: u64) {
        let node = self.broker.nodes().last().expect("a node");
        let queue = format!("headcount.items.0.{name}");
        let what = format!("{count} consumers of {queue}");
        wait::until_blocking(&what, wait::PATIENCE, || {
            match self.vhost.consumers(node, &queue) {
                Ok(seen) if seen == count => Ok(()),
                seen => Err(seen),
            }
        });
    }

    /// Asserts that a coordinator's exact answers show the items `0` to `count - 1` of a tenant,
    /// and no others: by its count, one by one, and in the listing.
    pub async fn shows(&mut self, coordinator: usize, tenant: &str, count: u64, options: &str) {
        let counted = self.exact_count(coordinator, tenant, options).await;
        assert_eq!(counted, count, "{tenant}");
        for id in [0, count / 2, count.saturating_sub(1), count] {
            let path = format!("/items/{tenant}/ids/{id}?{options}");
            let answer = exact(self, coordinator, &path).await;
            assert_eq!(answer["counted"], id < count, "{tenant}, {id}");
        }
        let path = format!("/tenants?prefix={tenant}&limit=1&{options}");
        let page = exact(self, coordinator, &path).await;
        assert_eq!(page["next_cursor"], Value::Null, "{page}");
        let listed = Vec::from_iter((count > 0).then(|| (tenant.to_owned(), count)));
        assert_eq!(rows(&page["tenants"]), listed);
    }

    /// Asserts that no answer about a tenant is exact: not its count, not the item `0`, and no
    /// listing.
    pub async fn shows_nothing_exactly(&mut self, tenant: &str, timeout_ms: u64) {
        for path in [
            format!("/items/{tenant}/count?"),
            format!("/items/{tenant}/ids/0?"),
            format!("/tenants?prefix={tenant}&"),
        ] {
            let path = format!("{path}timeout_ms={timeout_ms}");
            let answer = self.get(0, &path).await;
            assert_ne!(answer.json["exact"], true, "{path}: {}", answer.text);
        }
    }
}

/// What is answered once it is exact.
async fn exact(cluster: &mut Cluster, coordinator: usize, path: &str) -> Value {
    wait::until(&format!("an exact answer to {path}"), async || {
        let answer = cluster.try_get(coordinator, path).await;
        let answer = answer.map_err(|why| why.to_string())?;
        match answer.json["exact"] {
            Value::Bool(true) => Ok(answer.json),
            _ => Err(answer.text),
        }
    })
    .await
}

/// Tenants with their counts.
fn rows(json: &Value) -> Vec<(String, u64)> {
    let rows = json.as_array().expect("an array").iter();
    let row = |row: &Value| {
        let tenant = row["tenant"].as_str().expect("a name");
        (tenant.to_owned(), row["count"].as_u64().expect("a number"))
    };
    rows.map(row).collect()
}
