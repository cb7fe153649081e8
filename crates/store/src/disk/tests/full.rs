//! Random workloads on a full disk: from any operation on, with any number of bytes left, and
//! followed by a crash.
//!
//! Invariant: see the [parent module](super).

use std::sync::atomic::Ordering;
use std::time::Instant;

use super::*;
use crate::disk::room::RESERVE_BYTES_MAX;

/// Timeout for the store to detect free space.
const NOTICE_TIMEOUT: Duration = Duration::from_secs(30);

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + NOTICE_TIMEOUT;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

impl World {
    /// Checks that a commit without space changed nothing, for the writer and for readers. At
    /// random frees space, which the store must detect.
    pub(super) fn expect_rolled_back(&mut self, store: &mut DiskStore) {
        let next = batch(self.committed.commits + 1);
        assert_eq!(store.judge(next, 0), Verdict::New);
        {
            let reader = store.reader();
            let cut = reader.committed();
            let part = cut.position().get(Partition(0), Epoch(1));
            let commits = part.map_or(0, |part| part.sequences.prefix());
            assert_eq!(commits, self.committed.commits);
            let items: usize = self.committed.items.values().map(BTreeSet::len).sum();
            assert_eq!(cut.items(), items as u64);
        }
        if self.random.below(4) == 0 {
            self.top.lift_capacity();
            let goes_on = || store.full().is_none() || store.check().is_err();
            until("the store resumes when there is room", goes_on);
        }
    }

    /// Checks that an ingest without space has ended.
    pub(super) fn expect_no_unite(&mut self, store: &DiskStore) {
        assert!(store.aside.is_none());
        assert_eq!(store.shared.aside_bytes.load(Ordering::Relaxed), 0);
    }

    /// Makes up to `commits` commits of new items, until one finds no space.
    fn fill(&mut self, store: &mut DiskStore, commits: u64) {
        let tenant = TenantName::new("full").expect("valid");
        for _ in 0..commits {
            let id = self.random.next();
            let mut staged = self.committed.clone();
            staged.commits += 1;
            staged.items.entry("full".into()).or_default().insert(id);
            store
                .insert(Partition(0), &tenant, &[hash(id)])
                .expect("staged");
            store.record(batch(staged.commits), 0);
            match store.commit() {
                Ok(()) => self.committed = staged,
                Err(error) => {
                    assert!(error.is_full(), "{error}");
                    return;
                }
            }
        }
    }
}

fn operations_of(seed: u64) -> u64 {
    let mut well = World::new(seed);
    well.live(40);
    well.top.operations()
}

/// Returns one of the two kinds of a full disk, with little or no space left.
fn some_fullness(seed: u64) -> Fault {
    let mut random = Random(seed);
    let bytes = random.below(3) * random.below(750);
    match random.below(2) {
        0 => Fault::Full(bytes),
        _ => Fault::FullCopying(bytes),
    }
}

#[test]
fn a_disk_that_is_full_from_any_operation_on_loses_nothing() {
    for at in 1..=operations_of(1) {
        lives_through(some_fullness(at), at);
    }
}

#[test]
fn a_crash_after_a_commit_without_room_does_not_bring_it_back() {
    for at in 1..=operations_of(3) {
        let crash_at = at + 1 + Random(at).below(60);
        let mut world = World::new(3);
        let (full, crash) = ((some_fullness(at), at), (Fault::Crash, crash_at));
        world.top.inject_both(Some(full), Some(crash));
        world.live(40);
        world.random = Random(at);
        world.top.crash(&mut world.random);
        world.live_well();
    }
}

/// Every length that a record may be truncated to: within its header, at its last byte, within the
/// zeros after it.
#[test]
fn no_part_of_a_record_is_taken_for_a_commit_or_for_damage() {
    let mut cut = 0;
    for bytes in 0..200 {
        let mut world = World::new(5);
        let mut store = world.open().expect("opens");
        world.fill(&mut store, 3);
        world.top.leave_room(bytes, true);
        world.fill(&mut store, 1);
        cut += u64::from(store.full().is_some());
        world.settle_doubt(&store).expect("readable");
        match bytes % 3 {
            0 => {}
            1 => world.top.crash(&mut world.random),
            _ => {
                world.top.lift_capacity();
                until("the store resumes", || store.full().is_none());
                world.fill(&mut store, 3);
            }
        }
        drop(store);
        world.live_well();
    }
    assert!(
        (90..200).contains(&cut),
        "{cut} is not the number of lengths of a truncated record"
    );
}

#[test]
fn a_full_store_opens_and_answers_and_goes_on_by_itself() {
    let mut world = World::new(6);
    let mut store = world.open().expect("opens");
    world.fill(&mut store, 100);
    world.top.leave_room(0, false);
    world.fill(&mut store, 1_000);
    let told = store.full().expect("the store is full");
    assert!(told.contains("no room to"), "{told}");
    world.settle_doubt(&store).expect("readable");
    drop(store);
    // Another process takes the space that the opening gets from the reserve.
    let mut store = world.open().expect("the store opens without room");
    world.settle_doubt(&store).expect("readable");
    store.check().expect("the store is not poisoned");
    world.top.leave_room(0, false);
    until("the store detects the full disk", || {
        world.fill(&mut store, 100);
        store.full().is_some()
    });
    store.close().expect("the store closes without room");
    let mut store = world.open().expect("opens");
    world.settle_doubt(&store).expect("readable");
    world.top.lift_capacity();
    until("the store detects free space", || store.full().is_none());
    world.fill(&mut store, 100);
    assert!(store.full().is_none());
    store.settle().expect("the waiting work is done");
    world.settle_doubt(&store).expect("readable");
}

/// Only the journal fills the disk: the reserve lets its memtable become a run, and its segment
/// becomes the space of the next one.
#[test]
fn the_reserve_lets_a_flush_through() {
    let mut world = World::new(7);
    let mut store = world.open().expect("opens");
    assert!(OPTIONS.reserve_bytes() <= RESERVE_BYTES_MAX);
    world.fill(&mut store, 10);
    let reserve = store.shared.room.reserve_bytes.load(Ordering::Relaxed);
    assert_eq!(reserve, OPTIONS.reserve_bytes());
    // Enough for the end of this segment and for the next one, but not for the run.
    let room = 2 * (OPTIONS.journal_ahead_bytes + 200);
    world.top.leave_room(room, false);
    world.fill(&mut store, 10);
    until("the memtable becomes a run", || {
        store.shared.state().flush.is_none()
    });
    world.settle_doubt(&store).expect("readable");
    assert_eq!(store.shared.view().runs.len(), 1);
}
