//! Another store's snapshot enters in one step, for every store.
//!
//! Invariant: every test runs against every implementation; what needs a disk is skipped where
//! there is none.

use headcount::model::{EpochPosition, Partition, Position, Sequences, Verdict};
use headcount::store::{Store, StoreError, StoreReader};

use super::harness::{
    Harness, aside, batch, commit, count, for_every_store, hashes, insert, position, tenant, verify,
};

for_every_store!(
    nothing_of_a_unite_is_seen_before_its_finish,
    keys_that_come_both_ways_count_once,
    a_tenant_that_becomes_known_meanwhile_counts_once,
    many_tenants_and_keys_are_united_while_commits_go_on,
    what_was_not_finished_goes_with_the_store,
    a_finished_unite_survives_a_crash_and_a_close,
    completeness_is_set_or_stays,
    positions_are_united,
    an_abandoned_unite_leaves_nothing,
    a_second_begin_abandons_the_first,
    an_empty_unite_brings_its_position,
    what_is_staged_is_committed_by_the_finish,
    a_unite_must_be_begun,
    readers_look_on_at_whole_cuts,
);

fn nothing_of_a_unite_is_seen_before_its_finish<H: Harness>() {
    let (_harness, mut store) = H::make();
    commit(&mut store, "a", 0..10);
    store.begin_ingest().expect("begun");
    aside(&mut store, "a", 5..200);
    aside(&mut store, "b", 0..100);
    let reader = store.reader();
    let check = |known: u64| {
        assert_eq!((count(&reader, "a"), count(&reader, "b")), (known, 0));
        assert_eq!(reader.committed().tenants(), 1);
        assert_eq!(reader.committed().number("b"), None);
        let keys = reader.snapshot().expect("a snapshot").keys;
        assert_eq!(keys.count() as u64, known);
        let hash = &hashes([150])[0];
        assert!(!reader.contains(&tenant("a"), hash).expect("read"));
    };
    check(10);
    assert_eq!(commit(&mut store, "a", [199]), 1, "not there before");
    check(11);
    assert_eq!(store.judge(batch(0, 1), 0), Verdict::New);
    let snapshot = reader.snapshot().expect("a snapshot");
    store.finish_ingest(&position(&[1], 7), true).expect("done");
    assert_eq!((count(&reader, "a"), count(&reader, "b")), (200, 100));
    assert!(
        reader
            .contains(&tenant("a"), &hashes([150])[0])
            .expect("read")
    );
    assert_eq!(store.judge(batch(0, 1), 7), Verdict::Applied);
    assert_eq!(snapshot.keys.count(), 11, "a snapshot stays as it was");
    assert_eq!(commit(&mut store, "b", 95..105), 5);
    verify(&store);
}

fn keys_that_come_both_ways_count_once<H: Harness>() {
    let (mut harness, mut store) = H::make();
    commit(&mut store, "a", 0..60);
    store.begin_ingest().expect("begun");
    aside(&mut store, "a", 40..80);
    commit(&mut store, "a", 70..100);
    aside(&mut store, "a", (0..120).chain(60..90));
    commit(&mut store, "a", 110..130);
    store
        .finish_ingest(&Position::default(), false)
        .expect("done");
    assert_eq!(count(&store.reader(), "a"), 130);
    verify(&store);
    assert_eq!(commit(&mut store, "a", 0..130), 0);
    store = match harness.crash(store) {
        Ok(store) | Err(store) => store,
    };
    assert_eq!(count(&store.reader(), "a"), 130);
    verify(&store);
}

fn a_tenant_that_becomes_known_meanwhile_counts_once<H: Harness>() {
    let (mut harness, mut store) = H::make();
    store.begin_ingest().expect("begun");
    for name in ["a", "b", "c", "d"] {
        aside(&mut store, name, 0..50);
    }
    commit(&mut store, "c", 40..60);
    insert(&mut store, "x", &[1]).expect("inserted");
    aside(&mut store, "x", 1..3);
    commit(&mut store, "a", 50..55);
    aside(&mut store, "c", 55..70);
    store
        .finish_ingest(&Position::default(), true)
        .expect("done");
    let expected = [("a", 55), ("b", 50), ("c", 70), ("d", 50), ("x", 2)];
    for (name, items) in expected {
        assert_eq!(count(&store.reader(), name), items, "{name}");
    }
    verify(&store);
    store = match harness.crash(store) {
        Ok(store) | Err(store) => store,
    };
    for (name, items) in expected {
        assert_eq!(commit(&mut store, name, 0..30), u64::from(name == "x") * 28);
        assert!(count(&store.reader(), name) >= items, "{name}");
    }
    verify(&store);
}

fn many_tenants_and_keys_are_united_while_commits_go_on<H: Harness>() {
    let (mut harness, mut store) = H::make();
    for at in 0..40 {
        commit(&mut store, &format!("t{}", at % 7), at * 10..at * 10 + 15);
    }
    let (_other, mut other) = H::make();
    for at in 20..120 {
        commit(&mut other, &format!("t{}", at % 31), at * 9..at * 9 + 20);
    }
    store.begin_ingest().expect("begun");
    let snapshot = other.reader().snapshot().expect("a snapshot");
    for (at, key) in (0_u32..).zip(snapshot.keys) {
        let key = key.expect("intact");
        let name = &snapshot.committed.names()[key.tenant().0 as usize];
        store.ingest(name, &[key.hash()]).expect("set aside");
        if at % 50 == 0 {
            commit(&mut store, &format!("t{}", at % 37), at..at + 9);
        }
    }
    // What both must hold, by the simplest way there is.
    let (_expected, mut expected) = H::make();
    for reader in [store.reader(), other.reader()] {
        let snapshot = reader.snapshot().expect("a snapshot");
        for key in snapshot.keys {
            let key = key.expect("intact");
            let name = &snapshot.committed.names()[key.tenant().0 as usize];
            let partition = snapshot.committed.partitioning().of(&key.hash());
            let added = expected.insert(partition, name, &[key.hash()]);
            added.expect("inserted");
        }
    }
    expected.commit().expect("committed");
    // Far more than the runs that are kept beside each other.
    for from in (0..6_000).step_by(60) {
        aside(&mut store, "large", from..from + 60);
        aside(&mut store, "t1", [from]);
        let ids: Vec<_> = (from..from + 60).collect();
        insert(&mut expected, "large", &ids).expect("inserted");
        insert(&mut expected, "t1", &[from]).expect("inserted");
    }
    expected.commit().expect("committed");
    store
        .finish_ingest(&Position::default(), true)
        .expect("done");
    for _ in 0..2 {
        verify(&store);
        let (ours, theirs) = (store.reader(), expected.reader());
        assert_eq!(ours.committed().tenants(), theirs.committed().tenants());
        for name in theirs.committed().names() {
            let name = name.as_str();
            assert_eq!(
                ours.committed().counts(name),
                theirs.committed().counts(name),
                "{name}"
            );
        }
        store = match harness.close(store) {
            Ok(store) | Err(store) => store,
        };
    }
}

fn what_was_not_finished_goes_with_the_store<H: Harness>() {
    let (mut harness, mut store) = H::make();
    commit(&mut store, "a", 0..20);
    store.begin_ingest().expect("begun");
    aside(&mut store, "b", 0..200);
    commit(&mut store, "a", 20..30);
    aside(&mut store, "a", 0..200);
    if let Ok(mut again) = harness.crash(store) {
        assert_eq!(count(&again.reader(), "a"), 30);
        assert_eq!(again.reader().committed().tenants(), 1);
        verify(&again);
        let refused = again.ingest(&tenant("a"), &hashes([1]));
        assert!(matches!(refused, Err(StoreError::NoUnite)), "{refused:?}");
    }
}

fn a_finished_unite_survives_a_crash_and_a_close<H: Harness>() {
    let (mut harness, mut store) = H::make();
    commit(&mut store, "a", 0..20);
    store.begin_ingest().expect("begun");
    aside(&mut store, "b", 0..200);
    store
        .finish_ingest(&position(&[1, 2], 3), true)
        .expect("done");
    commit(&mut store, "c", 0..5);
    for step in 0..4 {
        let again = match step % 2 {
            0 => harness.crash(store),
            _ => harness.close(store),
        };
        let Ok(again) = again else {
            return;
        };
        store = again;
        let counts = ["a", "b", "c"].map(|name| count(&store.reader(), name));
        assert_eq!(counts, [20, 200, 5 + step]);
        assert!(store.reader().committed().complete());
        assert_eq!(store.judge(batch(0, 2), 3), Verdict::Applied);
        verify(&store);
        commit(&mut store, "c", [5 + step as u32]);
    }
}

fn completeness_is_set_or_stays<H: Harness>() {
    for (before, complete) in [(false, false), (false, true), (true, false), (true, true)] {
        let (mut harness, mut store) = H::make();
        store.set_complete(before);
        store.commit().expect("committed");
        store.begin_ingest().expect("begun");
        store
            .finish_ingest(&Position::default(), complete)
            .expect("done");
        assert_eq!(store.reader().committed().complete(), before || complete);
        store = match harness.crash(store) {
            Ok(store) | Err(store) => store,
        };
        assert_eq!(store.reader().committed().complete(), before || complete);
    }
}

fn positions_are_united<H: Harness>() {
    let (mut harness, mut store) = H::make();
    for sequence in [1, 2, 5] {
        store.record(batch(0, sequence), 50);
    }
    store.record(batch(1, 1), 51);
    store.commit().expect("committed");
    store.begin_ingest().expect("begun");
    store.record(batch(0, 7), 70);
    store.commit().expect("committed");
    store
        .finish_ingest(&position(&[3, 4, 6], 60), false)
        .expect("done");
    for _ in 0..2 {
        let expected = EpochPosition {
            sequences: Sequences::up_to(7),
            last_checksum: 70,
        };
        let epoch = batch(0, 1).epoch;
        let reader = store.reader();
        assert_eq!(
            reader.committed().position().get(Partition(0), epoch),
            Some(&expected)
        );
        assert_eq!(reader.committed().position().len(), 2);
        assert_eq!(store.judge(batch(0, 4), 0), Verdict::Applied);
        assert_eq!(store.judge(batch(0, 7), 71), Verdict::Fork);
        assert_eq!(store.judge(batch(0, 8), 0), Verdict::New);
        store = match harness.crash(store) {
            Ok(store) | Err(store) => store,
        };
    }
}

fn an_abandoned_unite_leaves_nothing<H: Harness>() {
    let (_harness, mut store) = H::make();
    store.abandon_ingest();
    commit(&mut store, "a", 0..20);
    let before = store.reader().stats().disk_bytes;
    store.begin_ingest().expect("begun");
    aside(&mut store, "b", 0..200);
    store.abandon_ingest();
    assert_eq!(store.reader().stats().disk_bytes, before);
    commit(&mut store, "c", 0..3);
    assert_eq!(store.reader().committed().tenants(), 2);
    assert_eq!(store.reader().committed().items(), 23);
    verify(&store);
}

fn a_second_begin_abandons_the_first<H: Harness>() {
    let (_harness, mut store) = H::make();
    store.begin_ingest().expect("begun");
    aside(&mut store, "a", 0..200);
    store.begin_ingest().expect("begun");
    aside(&mut store, "b", 0..3);
    store
        .finish_ingest(&Position::default(), false)
        .expect("done");
    assert_eq!(store.reader().committed().tenants(), 1);
    assert_eq!(count(&store.reader(), "b"), 3);
    verify(&store);
}

fn an_empty_unite_brings_its_position<H: Harness>() {
    let (mut harness, mut store) = H::make();
    store.begin_ingest().expect("begun");
    store.ingest(&tenant("a"), &[]).expect("set aside");
    store.finish_ingest(&position(&[1], 9), true).expect("done");
    store = match harness.crash(store) {
        Ok(store) | Err(store) => store,
    };
    assert_eq!(store.reader().committed().tenants(), 0);
    assert_eq!(store.judge(batch(0, 1), 9), Verdict::Applied);
    assert!(store.reader().committed().complete());
    let covered = store.reader().committed().covered(true);
    assert_eq!(covered.iter().count(), 1);
    verify(&store);
}

fn what_is_staged_is_committed_by_the_finish<H: Harness>() {
    let (mut harness, mut store) = H::make();
    store.begin_ingest().expect("begun");
    aside(&mut store, "b", 0..10);
    insert(&mut store, "a", &[1, 2]).expect("inserted");
    insert(&mut store, "b", &[9, 10]).expect("inserted");
    store.record(batch(0, 1), 1);
    store
        .finish_ingest(&position(&[2], 2), false)
        .expect("done");
    store = match harness.crash(store) {
        Ok(store) | Err(store) => store,
    };
    assert_eq!(count(&store.reader(), "a"), 2);
    assert_eq!(count(&store.reader(), "b"), 11);
    assert_eq!(store.judge(batch(0, 1), 1), Verdict::Applied);
    verify(&store);
}

fn a_unite_must_be_begun<H: Harness>() {
    let (_harness, mut store) = H::make();
    store.begin_ingest().expect("begun");
    store.abandon_ingest();
    let refused = store.finish_ingest(&position(&[1], 1), true);
    assert!(matches!(refused, Err(StoreError::NoUnite)), "{refused:?}");
    assert!(!store.reader().committed().complete());
    assert!(store.reader().committed().position().is_empty());
}

fn readers_look_on_at_whole_cuts<H: Harness>() {
    let (_harness, mut store) = H::make();
    let reader = store.reader();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            loop {
                let is_last = done.load(std::sync::atomic::Ordering::Acquire);
                let snapshot = reader.snapshot().expect("a snapshot");
                let united = snapshot
                    .committed
                    .position()
                    .get(Partition(0), batch(0, 1).epoch);
                let rounds = united.map_or(0, |part| part.sequences.prefix());
                let of = |name: &str| snapshot.committed.counts(name).iter().sum::<u64>();
                assert_eq!(
                    of("united"),
                    rounds * 100,
                    "a unite's keys with its position"
                );
                assert_eq!(snapshot.committed.items(), snapshot.keys.count() as u64);
                if is_last {
                    return rounds;
                }
            }
        });
        for round in 0..10_u32 {
            store.begin_ingest().expect("begun");
            for at in 0..10_u32 {
                let from = round * 100 + at * 10;
                aside(&mut store, "united", from..from + 10);
                commit(&mut store, "posted", from..from + 10);
            }
            let position = position(&[u64::from(round) + 1], 0);
            store.finish_ingest(&position, false).expect("done");
        }
        done.store(true, std::sync::atomic::Ordering::Release);
        assert_eq!(watcher.join().expect("no assertion failed"), 10);
    });
}
