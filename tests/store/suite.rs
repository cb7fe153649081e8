//! The contract's single promises, each by its name, for every store.
//!
//! Invariant: every test runs against every implementation; what needs a disk is skipped where
//! there is none.

use headcount::model::{Generation, ItemHash, KeptGeneration, Partition, Verdict};
use headcount::store::verify::recount;
use headcount::store::{Store, StoreReader};

use super::harness::{Harness, batch, count, for_every_store, insert, shape, tenant};

for_every_store!(
    repetitions_count_once,
    readers_see_commits_only,
    the_same_id_counts_for_each_tenant,
    batches_are_judged_with_what_is_staged,
    completeness_is_committed_like_the_rest,
    a_generation_is_remembered_at_once_and_beside_the_commits,
    tenants_are_listed_in_order_from_a_prefix,
    a_snapshot_stays_as_it_was_taken,
    a_look_up_is_of_the_commit_that_it_was_begun_in,
    nothing_committed_is_lost_by_a_crash,
    staged_changes_go_with_a_close,
    an_empty_commit_changes_nothing,
    one_commit_may_be_far_larger_than_the_table,
    readers_and_writer_work_at_once,
    a_hash_of_another_partition_is_counted_where_it_belongs,
);

fn repetitions_count_once<H: Harness>() {
    let (_harness, mut store) = H::make();
    assert_eq!(
        insert(&mut store, "a", &[1, 2, 2, 1, 3]).expect("inserted"),
        3
    );
    assert_eq!(insert(&mut store, "a", &[3, 4]).expect("inserted"), 1);
    store.commit().expect("committed");
    assert_eq!(insert(&mut store, "a", &[1, 4, 5]).expect("inserted"), 1);
    store.commit().expect("committed");
    assert_eq!(count(&store.reader(), "a"), 5);
}

fn readers_see_commits_only<H: Harness>() {
    let (_harness, mut store) = H::make();
    let reader = store.reader();
    insert(&mut store, "a", &[1]).expect("inserted");
    store.record(batch(0, 1), 7);
    store.set_complete(true);
    let hash = ItemHash::of_id("1");
    assert_eq!(count(&reader, "a"), 0);
    assert_eq!(reader.committed().number("a"), None);
    assert!(!reader.committed().complete());
    assert!(reader.committed().position().is_empty());
    assert!(!reader.contains(&tenant("a"), &hash).expect("read"));
    assert_eq!(reader.snapshot().expect("a snapshot").keys.count(), 0);
    store.commit().expect("committed");
    assert_eq!(count(&reader, "a"), 1);
    assert!(reader.committed().complete());
    assert_eq!(
        reader.committed().position().judge(batch(0, 1), 7),
        Verdict::Applied
    );
    assert!(reader.contains(&tenant("a"), &hash).expect("read"));
    assert_eq!(reader.snapshot().expect("a snapshot").keys.count(), 1);
}

fn the_same_id_counts_for_each_tenant<H: Harness>() {
    let (_harness, mut store) = H::make();
    assert_eq!(insert(&mut store, "a", &[1]).expect("inserted"), 1);
    assert_eq!(insert(&mut store, "b", &[1]).expect("inserted"), 1);
    store.commit().expect("committed");
    assert!(
        store
            .reader()
            .contains(&tenant("b"), &ItemHash::of_id("1"))
            .expect("read")
    );
    assert!(
        !store
            .reader()
            .contains(&tenant("c"), &ItemHash::of_id("1"))
            .expect("read")
    );
}

fn batches_are_judged_with_what_is_staged<H: Harness>() {
    let (_harness, mut store) = H::make();
    assert_eq!(store.judge(batch(1, 1), 5), Verdict::New);
    store.record(batch(1, 1), 5);
    assert_eq!(store.judge(batch(1, 1), 5), Verdict::Applied);
    assert_eq!(store.judge(batch(1, 1), 6), Verdict::Fork);
    assert_eq!(store.judge(batch(2, 1), 5), Verdict::New);
}

fn completeness_is_committed_like_the_rest<H: Harness>() {
    let (mut harness, mut store) = H::make();
    store.set_complete(true);
    store.commit().expect("committed");
    store.set_complete(false);
    assert!(store.reader().committed().complete());
    if let Ok(again) = harness.crash(store) {
        assert!(again.reader().committed().complete());
    }
}

fn a_generation_is_remembered_at_once_and_beside_the_commits<H: Harness>() {
    let (mut harness, mut store) = H::make();
    assert_eq!(store.reader().generation(), None);
    insert(&mut store, "a", &[1]).expect("inserted");
    for (byte, is_placed) in [(1, false), (1, true), (2, true)] {
        let kept = KeptGeneration {
            generation: Generation([byte; _]),
            is_placed,
        };
        let reader = store.reader();
        store.set_generation(kept).expect("remembered");
        assert_eq!(reader.generation(), Some(kept));
        assert_eq!(count(&reader, "a"), 0, "what is staged stays staged");
        store = match harness.crash(store) {
            Ok(again) => again,
            Err(same) => same,
        };
        assert_eq!(store.reader().generation(), Some(kept));
        store = match harness.close(store) {
            Ok(again) => again,
            Err(same) => same,
        };
        assert_eq!(store.reader().generation(), Some(kept));
    }
}

fn tenants_are_listed_in_order_from_a_prefix<H: Harness>() {
    let (mut harness, mut store) = H::make();
    for name in ["b/2", "a", "b/1", "c", "b/3", "é"] {
        insert(&mut store, name, &[1]).expect("inserted");
        store.commit().expect("committed");
    }
    let store = match harness.close(store) {
        Ok(store) | Err(store) => store,
    };
    let list = |prefix: &str, after: Option<&str>, limit| -> Vec<String> {
        let reader = store.reader();
        let committed = reader.committed();
        let names = committed.list(prefix, after, limit);
        names.map(|(name, _)| name.to_string()).collect()
    };
    assert_eq!(list("", None, 10), ["a", "b/1", "b/2", "b/3", "c", "é"]);
    assert_eq!(list("b/", None, 2), ["b/1", "b/2"]);
    assert_eq!(list("b/", Some("b/2"), 2), ["b/3"]);
    assert_eq!(list("b/", Some("a"), 9), ["b/1", "b/2", "b/3"]);
    assert_eq!(list("b/", Some("c"), 9), [""; 0]);
}

fn a_snapshot_stays_as_it_was_taken<H: Harness>() {
    let (_harness, mut store) = H::make();
    let early: Vec<u32> = (0..200).collect();
    for ids in early.chunks(10) {
        insert(&mut store, "a", ids).expect("inserted");
        store.commit().expect("committed");
    }
    let snapshot = store.reader().snapshot().expect("a snapshot");
    let late: Vec<u32> = (200..600).collect();
    for ids in late.chunks(10) {
        insert(&mut store, "a", ids).expect("inserted");
        insert(&mut store, "b", ids).expect("inserted");
        store.commit().expect("committed");
    }
    assert_eq!(snapshot.committed.counts("a").iter().sum::<u64>(), 200);
    assert_eq!(snapshot.committed.tenants(), 1);
    let keys: Vec<_> = snapshot.keys.map(|key| key.expect("intact")).collect();
    assert_eq!(keys.len(), 200);
    assert!(keys.is_sorted());
    assert_eq!(count(&store.reader(), "a"), 600);
}

fn a_look_up_is_of_the_commit_that_it_was_begun_in<H: Harness>() {
    let (_harness, mut store) = H::make();
    let reader = store.reader();
    let hash = |id: u32| ItemHash::of_id(&id.to_string());
    // Enough for tables to be frozen, flushed and merged meanwhile.
    for id in 0_u32..400 {
        let begun: Vec<_> = {
            let committed = reader.committed();
            let of_known = committed.counts("a").iter().sum::<u64>();
            assert_eq!(of_known, u64::from(id));
            let ids = id.saturating_sub(200)..id + 20;
            ids.map(|id| (id, reader.look_up(&committed, &tenant("a"), &hash(id))))
                .collect()
        };
        insert(&mut store, "a", &[id]).expect("inserted");
        insert(&mut store, "b", &[id + 1, id + 2]).expect("inserted");
        store.commit().expect("committed");
        for (looked_up, look_up) in begun {
            let is_in = look_up.finish().expect("read");
            assert_eq!(is_in, looked_up < id, "{looked_up} at {id}");
        }
    }
}

fn nothing_committed_is_lost_by_a_crash<H: Harness>() {
    let (mut harness, mut store) = H::make();
    for round in 0_u32..40 {
        let ids: Vec<u32> = (round * 7..round * 7 + 10).collect();
        insert(&mut store, &format!("t{}", round % 3), &ids).expect("inserted");
        store.record(batch(0, u64::from(round) + 1), round);
        store.commit().expect("committed");
        let before = (
            store.reader().committed().items(),
            store.reader().committed().tenants(),
        );
        insert(&mut store, "never", &[1]).expect("inserted");
        store = match harness.crash(store) {
            Ok(again) => again,
            Err(_) => return,
        };
        let after = (
            store.reader().committed().items(),
            store.reader().committed().tenants(),
        );
        assert_eq!(before, after);
        assert_eq!(
            store.judge(batch(0, u64::from(round) + 1), round),
            Verdict::Applied
        );
        assert_eq!(
            insert(&mut store, &format!("t{}", round % 3), &ids).expect("inserted"),
            0
        );
    }
    assert_eq!(recount(&store.reader()).expect("recounted").differences, []);
}

fn staged_changes_go_with_a_close<H: Harness>() {
    let (mut harness, mut store) = H::make();
    insert(&mut store, "a", &[1, 2]).expect("inserted");
    store.commit().expect("committed");
    insert(&mut store, "a", &[3]).expect("inserted");
    if let Ok(mut again) = harness.close(store) {
        assert_eq!(count(&again.reader(), "a"), 2);
        assert_eq!(insert(&mut again, "a", &[2, 3]).expect("inserted"), 1);
    }
}

fn an_empty_commit_changes_nothing<H: Harness>() {
    let (_harness, mut store) = H::make();
    store.commit().expect("committed");
    assert_eq!(
        store
            .insert(Partition(0), &tenant("a"), &[])
            .expect("inserted"),
        0
    );
    store.commit().expect("committed");
    assert_eq!(store.reader().committed().tenants(), 0);
}

fn one_commit_may_be_far_larger_than_the_table<H: Harness>() {
    let (mut harness, mut store) = H::make();
    let ids: Vec<u32> = (0..5_000).collect();
    insert(&mut store, "a", &[0]).expect("inserted");
    store.commit().expect("committed");
    assert_eq!(insert(&mut store, "a", &ids).expect("inserted"), 4_999);
    store.commit().expect("committed");
    insert(&mut store, "a", &[5_000]).expect("inserted");
    store.commit().expect("committed");
    let store = match harness.crash(store) {
        Ok(store) | Err(store) => store,
    };
    assert_eq!(count(&store.reader(), "a"), 5_001);
    assert_eq!(recount(&store.reader()).expect("recounted").differences, []);
}

fn readers_and_writer_work_at_once<H: Harness>() {
    let (_harness, mut store) = H::make();
    let reader = store.reader();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut last = 0;
            loop {
                let is_last = done.load(std::sync::atomic::Ordering::Acquire);
                let report = recount(&reader).expect("recounted");
                assert_eq!(report.differences, []);
                assert!(report.items >= last, "a later snapshot has no fewer items");
                last = report.items;
                // An id whose commit is counted is found, wherever its key has moved to.
                let newest = count(&reader, "a");
                if let Some(newest) = newest.checked_sub(1) {
                    let hash = ItemHash::of_id(&newest.to_string());
                    assert!(reader.contains(&tenant("a"), &hash).expect("read"));
                }
                // And one that is not counted yet is not, whatever is committed before the look-up
                // is finished.
                let (of_cut, next) = {
                    let committed = reader.committed();
                    let of_cut = committed.counts("a").iter().sum::<u64>();
                    let hash = ItemHash::of_id(&of_cut.to_string());
                    (of_cut, reader.look_up(&committed, &tenant("a"), &hash))
                };
                assert!(!next.finish().expect("read"), "{of_cut}");
                if is_last {
                    return last;
                }
            }
        });
        for id in 0..600 {
            insert(&mut store, "a", &[id]).expect("inserted");
            store.commit().expect("committed");
        }
        done.store(true, std::sync::atomic::Ordering::Release);
        assert_eq!(watcher.join().expect("no assertion failed"), 600);
    });
}

fn a_hash_of_another_partition_is_counted_where_it_belongs<H: Harness>() {
    let (mut harness, mut store) = H::make();
    let hashes: Vec<ItemHash> = (0..30).map(|id| ItemHash::of_id(&id.to_string())).collect();
    assert_eq!(
        store
            .insert(Partition(0), &tenant("a"), &hashes)
            .expect("inserted"),
        30
    );
    store.commit().expect("committed");
    let store = match harness.crash(store) {
        Ok(store) | Err(store) => store,
    };
    assert_eq!(count(&store.reader(), "a"), 30);
    assert_eq!(
        store.reader().committed().counts("a").len(),
        usize::from(shape().partitioning.count())
    );
}
