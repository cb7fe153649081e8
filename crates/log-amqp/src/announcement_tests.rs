//! Tests of announcements.
//!
//! Invariant: nothing here needs a broker.

use proptest::prelude::*;

use super::*;

fn message(node: &str, role: Role, name: &str) -> Message {
    Message {
        node: node.to_owned(),
        announcement: Announcement {
            role,
            name: name.to_owned(),
            ..Announcement::default()
        },
    }
}

#[test]
fn announcements_of_other_releases_are_read() {
    let later = br#"{"node":"n","role":"oracle","name":"c9","started":true,"new":[1]}"#;
    let read_later = read(later).expect("read");
    assert_eq!(read_later.announcement.role, Role::Other);
    assert_eq!(read_later.announcement.started, Some(true));
    assert_eq!(read_later.announcement.epoch, None);
    let odd = br#"{"node":"n","role":"coordinator","epoch":"+0000000000000000000000000000007"}"#;
    assert_eq!(read(odd).expect("read").announcement.epoch, None);
    assert!(read(b"{}").is_none(), "a message without a node");
    assert!(read(b"nonsense").is_none());
    assert!(read(&vec![b' '; ANNOUNCEMENT_BYTES_MAX + 1]).is_none());
    let sent = serde_json::to_vec(&message("n", Role::Counter, "c1")).expect("JSON");
    let back = read(&sent).expect("read");
    assert_eq!(
        back.announcement,
        message("n", Role::Counter, "c1").announcement
    );
    assert_eq!(back.node, "n");
}

fn numbers() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), Just(u64::MAX), any::<u64>()]
}

proptest! {
    /// An announcement survives the round trip unchanged, including the extremes of its numbers.
    #[test]
    fn announcements_survive_the_round_trip(
        numbers in [numbers(), numbers(), numbers(), numbers(), numbers()],
        flags: [bool; 2],
        started: Option<bool>,
        wire_version: u8,
        epoch: Option<u128>,
        reaches in prop::option::of(prop::collection::vec("[a-z0-9-]{1,9}", 0..3)),
        name in "[a-z0-9-]{1,9}",
        named in prop::collection::vec("[a-z0-9-]{1,9}", 0..3),
    ) {
        let [life, position_digest, tenants, items, lag_ms] = numbers;
        let [complete, holds_position] = flags;
        let said = message("n", Role::Counter, &name);
        let announcement = Announcement {
            version: "0".into(), url: "http://c1:3000".into(), life, position_digest, tenants,
            items, lag_ms, complete, holds_position, started, wire_version, reaches, named,
            epoch: epoch.map(Epoch), ..said.announcement
        };
        let said = Message { announcement, ..said };
        let heard = read(&serde_json::to_vec(&said).expect("JSON")).expect("read");
        prop_assert_eq!(&heard.announcement, &said.announcement);
        let (mut nodes, now) = (Nodes::default(), Instant::now());
        note(&mut nodes, heard, now, now);
        prop_assert_eq!(&nodes["n"].announcement, &said.announcement);
    }
}

/// Records announcements of counters, each given by its node and name.
fn hear(nodes: &mut Nodes, counters: &[(&str, &str)], since: Instant, now: Instant) {
    for (node, name) in counters {
        note(nodes, message(node, Role::Counter, name), since, now);
    }
}

#[test]
fn the_silent_are_forgotten_only_after_long() {
    let start = Instant::now();
    let mut nodes = Nodes::default();
    let coordinator = message("c", Role::Coordinator, "k");
    note(&mut nodes, coordinator, start, start);
    hear(&mut nodes, &[("a", "c2"), ("b", "c1")], start, start);
    let names = known_counters(&nodes);
    let names: Vec<_> = names.iter().map(CounterName::as_str).collect();
    assert_eq!(names, ["c1", "c2"]);
    hear(&mut nodes, &[("a", "c2")], start, start + SILENCE_MAX / 2);
    assert_eq!(nodes.len(), 3);
    hear(&mut nodes, &[("a", "c2")], start, start + SILENCE_MAX);
    assert_eq!(nodes.keys().collect::<Vec<_>>(), ["a"]);
}

#[test]
fn nobody_is_silent_while_the_broker_is_away() {
    let start = Instant::now();
    let mut nodes = Nodes::default();
    hear(&mut nodes, &[("b", "c1")], start, start);
    // After a long outage of the broker, the first announcement arrives.
    let since = start + SILENCE_MAX * 2;
    hear(&mut nodes, &[("a", "c2")], since, since);
    assert_eq!(nodes.len(), 2);
    hear(&mut nodes, &[("a", "c2")], since, since + SILENCE_MAX);
    assert_eq!(nodes.keys().collect::<Vec<_>>(), ["a"]);
}

#[test]
fn a_new_life_takes_the_place_of_the_one_before() {
    let start = Instant::now();
    for (old, new) in [("c1-1", "c1-2"), ("c1-2", "c1-1")] {
        let mut nodes = Nodes::default();
        hear(
            &mut nodes,
            &[("b", "c2"), (old, "c1"), (new, "c1")],
            start,
            start,
        );
        assert_eq!(nodes.keys().collect::<Vec<_>>(), ["b", new]);
    }
}

/// A counter may become complete only when every coordinator that is alive publishes to its queue.
#[test]
fn a_counter_is_reached_once_each_coordinator_that_lives_says_so() {
    let start = Instant::now();
    let now = start + HEARD_ALL_AFTER;
    let counter = CounterName::new("c4").expect("valid");
    let mut nodes = Nodes::default();
    let mut say = |node: &str, reaches: Option<&[&str]>| {
        let mut said = message(node, Role::Coordinator, node);
        let names = reaches.map(|names| names.iter().map(ToString::to_string).collect());
        said.announcement.reaches = names;
        note(&mut nodes, said, start, now);
        nodes.clone()
    };
    let older = say("k1", None);
    assert_eq!(
        not_reached(&older, &counter, (Some(start), start), now),
        None
    );
    for (since, what) in [(None, "nobody listens"), (Some(now), "not for long")] {
        assert!(
            not_reached(&older, &counter, (since, start), now).is_some(),
            "{what}"
        );
    }
    let passing_by = say("k2", Some(&["c1", "c2"]));
    let why = not_reached(&passing_by, &counter, (Some(start), start), now);
    assert!(why.is_some_and(|why| why.contains("k2")));
    let dead = now + LIVES_FOR;
    assert_eq!(
        not_reached(&passing_by, &counter, (Some(start), start), dead),
        None
    );
    let reaching = say("k2", Some(&["c1", "c4"]));
    assert_eq!(
        not_reached(&reaching, &counter, (Some(start), start), now),
        None
    );
    // The queue was lost later, and neither coordinator has announced since.
    let (lost_at, later) = (now + Duration::from_secs(1), now + HEARD_ALL_AFTER * 2);
    let why = not_reached(&reaching, &counter, (Some(start), lost_at), later);
    assert!(why.is_some_and(|why| why.contains("has not yet announced")));
}

/// A counter that was away has no copies of the batches that such a coordinator acknowledged.
#[test]
fn a_counter_is_unnamed_while_a_coordinator_lives_that_does_not_name_it() {
    let start = Instant::now();
    let counter = CounterName::new("c4").expect("valid");
    let said = |named: &[&str], reaches: Option<Vec<String>>| {
        let mut nodes = Nodes::default();
        let mut said = message("k", Role::Coordinator, "k");
        said.announcement.named = named.iter().map(ToString::to_string).collect();
        said.announcement.reaches = reaches;
        note(&mut nodes, said, start, start);
        nodes
    };
    assert!(!is_unnamed(&Nodes::default(), &counter, start));
    assert!(!is_unnamed(
        &said(&["c1", "c4"], Some(Vec::new())),
        &counter,
        start
    ));
    let older = said(&["c1"], None);
    assert!(
        !is_unnamed(&older, &counter, start),
        "it published to all bound queues"
    );
    let passing_by = said(&["c1"], Some(vec!["c4".to_owned()]));
    assert!(is_unnamed(&passing_by, &counter, start));
    assert!(!is_unnamed(&passing_by, &counter, start + LIVES_FOR));
}
