//! Tests of the encoding of messages, and of every pair of a store and a queue.
//!
//! Invariant: the table names each pair; each pair that is not marked as fine is a possible loss.

use proptest::prelude::*;

use super::*;

const OURS: Generation = Generation(*b"0123456789abcdef");
const OTHER: Generation = Generation(*b"fedcba9876543210");

fn by(author: Author, generation: Generation) -> Option<Message> {
    Some(Message { author, generation })
}

/// The messages of a queue; none if the queue does not exist.
type Queue<'m> = Option<&'m [Option<Message>]>;

proptest! {
    #[test]
    fn messages_survive_the_round_trip_and_damage_is_noticed(
        bytes: [u8; 16],
        by_founding: bool,
        at: prop::sample::Index,
        flip in 1_u8..=255,
    ) {
        let author = if by_founding { Author::Founding } else { Author::Counter };
        let message = Message { author, generation: Generation(bytes) };
        let mut bytes = message.encode();
        prop_assert_eq!(bytes.len(), MESSAGE_BYTES);
        prop_assert_eq!(Message::decode(&bytes), Some(message));
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        prop_assert_eq!(Message::decode(&bytes), None);
    }

    #[test]
    fn what_decodes_has_one_form(body: Vec<u8>) {
        for start in [Vec::new(), [&MAGIC[..], &[VERSION]].concat()] {
            let body = [start, body.clone()].concat();
            let bytes = [&body[..], &crc32fast::hash(&body).to_le_bytes()].concat();
            if let Some(message) = Message::decode(&bytes) {
                prop_assert_eq!(message.encode(), bytes);
            }
        }
    }
}

/// The committed corpus has the same bytes, so messages of earlier releases decode.
#[test]
fn the_bytes_are_those_of_the_format() {
    let message = Message {
        author: Author::Counter,
        generation: OURS,
    };
    let fixture = include_bytes!("../../../fuzz/corpus/decode_small/generation");
    // The first byte selects the decoder of the fuzz target.
    assert_eq!(message.encode(), fixture[1..]);
    assert_eq!(Message::decode(&fixture[1..]), Some(message));
}

/// The three kinds of stores: without a generation, about to place its first, and with a placed
/// one.
fn stores() -> [Option<KeptGeneration>; 3] {
    let kept = |is_placed| {
        Some(KeptGeneration {
            generation: OURS,
            is_placed,
        })
    };
    [None, kept(false), kept(true)]
}

#[test]
fn a_store_and_a_queue_go_together_or_may_have_lost() {
    let founding = by(Author::Founding, OTHER);
    let (own, other) = (by(Author::Counter, OURS), by(Author::Counter, OTHER));
    // The messages of the queue, and which of the three stores match it.
    let table: [(Queue<'_>, [bool; 3]); 9] = [
        (None, [true, true, false]),
        (Some(&[]), [false, true, false]),
        (Some(&[founding]), [true, true, false]),
        (Some(&[founding, founding]), [true, true, false]),
        (Some(&[founding, other]), [true, true, false]),
        (Some(&[other]), [false, false, false]),
        (Some(&[None]), [false, false, false]),
        (Some(&[own]), [false, true, true]),
        (Some(&[founding, None, other, own]), [true, true, true]),
    ];
    for (messages, fits) in table {
        for (kept, fits) in stores().into_iter().zip(fits) {
            let mismatch = Found::of(messages, kept).mismatch(kept);
            assert_eq!(
                mismatch.is_none(),
                fits,
                "{messages:?} and {kept:?}: {mismatch:?}"
            );
        }
    }
}

/// The text must name what the operator has to look for.
#[test]
fn what_was_found_is_told() {
    let other: &[_] = &[by(Author::Counter, OTHER)];
    let [none, _, placed] = stores();
    for (messages, kept, says) in [
        (None, placed, "no generation queue"),
        (Some(&[][..]), placed, "exported definitions"),
        (Some(&[][..]), none, "exported definitions"),
        (
            Some(&[by(Author::Founding, OTHER)][..]),
            placed,
            "different broker",
        ),
        (Some(other), placed, "older copy of the broker"),
        (Some(other), none, "older copy of the data directory"),
    ] {
        let why = Found::of(messages, kept).mismatch(kept);
        assert!(why.is_some_and(|why| why.contains(says)), "{why:?}");
    }
}

/// The states that a renewal leaves when it is interrupted, including the first renewal.
#[test]
fn no_step_of_a_renewal_looks_like_a_loss() {
    let kept = |generation, is_placed| {
        Some(KeptGeneration {
            generation,
            is_placed,
        })
    };
    let (old, new) = (by(Author::Counter, OTHER), by(Author::Counter, OURS));
    let founding = by(Author::Founding, OTHER);
    let fine = |messages: Option<&[Option<Message>]>, kept| {
        let mismatch = Found::of(messages, kept).mismatch(kept);
        assert_eq!(mismatch, None, "{messages:?} and {kept:?}");
    };
    // A later renewal.
    fine(Some(&[old]), kept(OTHER, true));
    fine(Some(&[old, new]), kept(OTHER, true));
    fine(Some(&[old, new]), kept(OURS, true));
    fine(Some(&[new]), kept(OURS, true));
    // The first renewal where the bootstrap's message exists, interrupted twice.
    fine(Some(&[founding]), None);
    fine(Some(&[founding, new]), None);
    fine(Some(&[founding, new, old]), None);
    fine(Some(&[founding, new, old]), kept(OTHER, true));
    fine(Some(&[old]), kept(OTHER, true));
    // The first renewal where there was no queue.
    fine(None, None);
    fine(None, kept(OURS, false));
    fine(Some(&[]), kept(OURS, false));
    fine(Some(&[new]), kept(OURS, false));
    fine(Some(&[new, new]), kept(OURS, true));
}
