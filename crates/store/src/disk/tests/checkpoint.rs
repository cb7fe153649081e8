//! Tests of checkpoints: a written checkpoint is read back, and a damaged one is rejected.
//!
//! Invariant: see [`super::super::checkpoint`].

use proptest::prelude::*;

use super::super::checkpoint::{self, Image};
use super::super::frames;
use super::sim::SimFiles;
use crate::vfs::Files;
use crate::{CommittedState, StoreError, WriteBatch};
use headcount_model::{BatchId, Epoch, Partition, Partitioning, Position, TenantName};

const COMMIT: u64 = 77;

fn partitioning() -> Partitioning {
    Partitioning::new(2).expect("valid")
}

fn committed() -> impl Strategy<Value = CommittedState> {
    let tenant = ("[a-zé]{1,12}", any::<u32>(), any::<u32>());
    let record = (0_u16..2, 0_u128..3, 1_u64..12, any::<u32>());
    (
        prop::collection::vec(tenant, 0..30),
        prop::collection::vec(record, 0..30),
        any::<bool>(),
    )
        .prop_map(|(tenants, records, complete)| {
            let mut committed = CommittedState::new(partitioning(), Position::default());
            let mut staged = WriteBatch::default();
            for (name, first, second) in tenants {
                let name = TenantName::new(&name).expect("valid");
                let number = staged.number_or_new(&committed, &name).expect("few");
                staged.add(number, Partition(0), u64::from(first));
                staged.add(number, Partition(1), u64::from(second));
            }
            for (partition, epoch, sequence, checksum) in records {
                let (partition, epoch) = (Partition(partition), Epoch(epoch));
                staged.record(
                    BatchId {
                        partition,
                        epoch,
                        sequence,
                    },
                    checksum,
                );
            }
            staged.set_complete(complete);
            committed.apply(&staged);
            committed
        })
}

fn write(files: &SimFiles, committed: &CommittedState) {
    let image = Image::of(committed, COMMIT);
    let names = |from: usize, count: usize| {
        let names = committed.names().iter().skip(from).take(count.min(7));
        names.cloned().collect()
    };
    image.write(files, 5, names).expect("written");
}

fn read(files: &SimFiles) -> Result<CommittedState, StoreError> {
    checkpoint::read(files, 5, COMMIT, partitioning())
}

proptest! {
    #[test]
    fn checkpoints_survive_the_round_trip_and_damage_is_noticed(
        committed in committed(),
        at: prop::sample::Index,
        flip in 1_u8..=255,
    ) {
        let files = SimFiles::new();
        write(&files, &committed);
        let again = read(&files).expect("intact");
        prop_assert_eq!(again.names(), committed.names());
        prop_assert_eq!(again.position(), committed.position());
        prop_assert_eq!(again.items(), committed.items());
        prop_assert_eq!(again.complete(), committed.complete());
        for name in committed.names() {
            prop_assert_eq!(again.counts(name.as_str()), committed.counts(name.as_str()));
        }
        prop_assert!(checkpoint::read(&files, 5, COMMIT + 1, partitioning()).is_err());

        let file = files.open(&checkpoint::name(5)).expect("there");
        let mut bytes = vec![0; file.len().expect("known") as usize];
        file.read_at(&mut bytes, 0).expect("read");
        let at = at.index(bytes.len());
        file.write_at(&[bytes[at] ^ flip], at as u64).expect("written");
        let refused = read(&files).map(|_| ());
        let is_refused =
            matches!(refused, Err(StoreError::Damaged { .. } | StoreError::Version { .. }));
        prop_assert!(is_refused, "{refused:?}");
    }

    #[test]
    fn any_frames_are_read_without_a_panic(contents in prop::collection::vec(
        prop::collection::vec(0_u8..3, 0..80), 0..4,
    )) {
        let files = SimFiles::new();
        write(&files, &CommittedState::new(partitioning(), Position::default()));
        let file = files.open(&checkpoint::name(5)).expect("there");
        let mut at = frames::HEAD_BYTES as u64;
        for content in contents {
            let bytes = frames::frame(at, &content);
            file.write_at(&bytes, at).expect("written");
            at += bytes.len() as u64;
        }
        let _ = read(&files);
    }
}
