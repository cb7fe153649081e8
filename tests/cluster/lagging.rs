//! Counters that lag behind each other while they are asked in turn.
//!
//! Invariant: what one counter's exact answer showed, the next one's shows too, whatever was asked.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use parking_lot::Mutex;
use reqwest::Client;
use serde_json::json;

use crate::checker::{self, CERTAIN_MS, Consistency, Item, Ledger, Page, Read, Shown, What};
use crate::cluster::{Cluster, Setup};
use crate::invariant_checker::Load;
use crate::node::Answer;
use crate::process::Face;
use crate::tcp_proxy::Flow;
use crate::wait;

/// Coordinators whose sessions only read: each has a chance of its own to be the one that asks in
/// the wrong moment.
const READERS: usize = 4;

const ROUNDS: u64 = 25;

/// The longest that a counter which is asked for what it does not have may wait for it, in
/// milliseconds.
const LOOK_MS: u64 = 200;

const COUNTED: Shown = Shown::Item { counted: true };

/// A part of a turn.
const TURN: Duration = Duration::from_millis(60);

const LIMIT: Duration = Duration::from_secs(30);

/// What asks and posts.
struct Clients {
    faces: Vec<Face>,
    http: Client,
    ledger: Mutex<Ledger>,
}

impl Clients {
    fn of(cluster: &Cluster) -> Self {
        let faces = cluster.faces();
        Self {
            ledger: Mutex::new(Ledger::new(faces.len())),
            faces,
            http: cluster.http.clone(),
        }
    }
}

fn item(tenant: &str, id: u64) -> Item {
    Item {
        tenant: tenant.to_owned(),
        id: id.to_string(),
    }
}

/// Asks a coordinator; what it shows, if that is exact.
async fn ask(clients: &Clients, face: usize, what: &What, timeout_ms: u64) -> Option<Shown> {
    let (life, url) = clients.faces[face].life().expect("it runs");
    let read = Read {
        face,
        life,
        what: what.clone(),
        consistency: Consistency::Session,
        after: None,
        timeout_ms,
    };
    let done = checker::ask(&clients.http, &url, &clients.ledger, read, LIMIT).await?;
    done.answer.exact.then_some(done.answer.shown)
}

/// Posts an item until it is acknowledged.
async fn post(clients: &Clients, face: usize, item: &Item) {
    clients.ledger.lock().attempt(item);
    let body = json!({"id": item.id, "tenant": item.tenant});
    let token = wait::until("an acknowledged post", async || {
        let url = clients.faces[face].url().ok_or("no address")?;
        let sent = clients.http.post(format!("{url}/items")).json(&body);
        let answer = Answer::try_of(sent).await.map_err(|_| "no answer")?;
        let token = answer.json["token"].as_str().map(str::to_owned);
        token.ok_or("no token")
    })
    .await;
    clients
        .ledger
        .lock()
        .acknowledge(face, std::slice::from_ref(item), &token);
}

/// An item is committed while it is asked for: at once, one counter says that it is counted, and
/// the other one, which does not have it yet, is asked next.
#[tokio::test(flavor = "multi_thread")]
async fn an_item_that_was_shown_while_it_was_committed_stays_shown() {
    let setup = Setup::new()
        .counters(&["c1", "c2"])
        .coordinators(1 + READERS);
    let mut cluster = Cluster::start(setup).await;
    let clients = Clients::of(&cluster);
    for round in 0..ROUNDS {
        let item = item("t", round);
        let what = What::Item(item.clone());
        let c2 = cluster.counter("c2");
        c2.links.first().flow(Flow::Pass, Flow::Stall);
        c2.process.pause();
        // From here on c1 is asked first.
        for face in 1..=READERS {
            ask(&clients, face, &what, CERTAIN_MS).await;
        }
        let until = Instant::now() + wait::PATIENCE;
        let looks = (1..=READERS).map(async |face| {
            // Without a pause: a look has to meet the commit.
            while ask(&clients, face, &what, CERTAIN_MS).await != Some(COUNTED) {
                assert!(Instant::now() < until, "{what:?} is not shown");
            }
        });
        tokio::join!(join_all(looks), post(&clients, 0, &item));
        cluster.counter("c1").process.pause();
        cluster.counter("c2").process.resume();
        let again = (1..=READERS).map(|face| ask(&clients, face, &what, LOOK_MS));
        join_all(again).await;
        cluster.counter("c1").process.resume();
        cluster.counter("c2").links.up();
        // Both counters have to pass its barrier: c2 has caught up then.
        let count = cluster.exact_count(0, "t", "consistency=strong").await;
        assert_eq!(count, round + 1);
    }
}

/// Two coordinators, each with a session of its own, and counters that lag and are away in turn:
/// whoever was asked last is seldom the one that is asked next.
#[tokio::test(flavor = "multi_thread")]
async fn reads_of_everything_hold_while_counters_lag_in_turn() {
    let mut cluster = Cluster::start(Setup::new().coordinators(2)).await;
    let mut load = Load::start(&cluster).await;
    let names = ["c1", "c2", "c3"];
    let until = Instant::now() + 2 * wait::phase();
    for (lags, away) in (0..).map(|turn| (turn % 3, (turn + 1 + turn / 3 % 2) % 3)) {
        if Instant::now() > until {
            break;
        }
        let link = |cluster: &mut Cluster, flow| {
            let links = &cluster.counter(names[lags]).links;
            links.first().flow(Flow::Pass, flow);
        };
        link(&mut cluster, Flow::Stall);
        load.runs_for(TURN).await;
        cluster.counter(names[away]).process.pause();
        load.runs_for(TURN).await;
        cluster.counter(names[away]).process.resume();
        load.runs_for(TURN).await;
        link(&mut cluster, Flow::Pass);
        load.runs_for(TURN).await;
    }
    load.flows().await;
    load.finish(&mut cluster).await;
}

/// A counter that lags knows of a tenant that the other one, whose queue silently lost it, does not
/// know yet: its page is cut where the other's page begins.
#[tokio::test(flavor = "multi_thread")]
async fn a_listing_does_not_end_because_of_a_counter_that_lags() {
    let setup = Setup::new().counters(&["c1", "c2"]).coordinators(2);
    let mut cluster = Cluster::start(setup).await;
    let clients = Clients::of(&cluster);
    post(&clients, 0, &item("t2", 0)).await;
    cluster.counter("c1").process.pause();
    // From here on c2 is asked first.
    cluster.exact_count(0, "t2", "").await;
    cluster.counter("c1").process.resume();

    cluster.counter("c1").links.down();
    post(&clients, 1, &item("t1", 0)).await;
    assert_eq!(cluster.exact_count(1, "t1", "").await, 1);
    let queue = Cluster::queue("c1");
    wait::until("something to purge", async || {
        match cluster.vhost.purge(cluster.broker.node(0), &queue) {
            0 => Err("nothing"),
            _ => Ok(()),
        }
    })
    .await;
    cluster.counter("c2").links.down();
    post(&clients, 0, &item("t2", 1)).await;
    cluster.counter("c1").links.up();
    let page = What::Page(Page {
        prefix: "t".to_owned(),
        limit: 1,
        cursor: None,
    });
    // At once and often: c1 is about to fetch what it lacks.
    let until = Instant::now() + wait::PATIENCE;
    while ask(&clients, 0, &page, 0).await.is_none() {
        assert!(Instant::now() < until, "no listing was exact");
    }
    cluster.counter("c2").links.up();
    for tenant in [("t1", 1), ("t2", 2)] {
        cluster
            .shows(0, tenant.0, tenant.1, "consistency=strong")
            .await;
    }
}
