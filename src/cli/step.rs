//! Decides what to do after the response to a posted batch.
//!
//! Invariant: a batch is done only if each of its items was accepted or is reported as rejected.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::client::{ClientError, Posted};

/// Delay before the first retry of a batch; it doubles with each retry.
pub(super) const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// Maximum delay before a retry, unless the response asks for a longer one.
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// Statuses that a smaller body may avoid: too slow, and too large.
const REQUEST_TIMEOUT: u16 = 408;
pub(super) const TOO_LARGE: u16 = 413;
/// Statuses of responses that list faulty items: invalid JSON, and invalid items.
const NAMING: [u16; 2] = [400, 422];

/// Faults of items, by index in the batch.
pub(super) type Faults = Vec<(usize, String)>;

/// The next step.
#[derive(Debug)]
pub(super) enum Step {
    /// Nothing: this number of items was accepted, and the others were rejected.
    Done { accepted: u64, refused: Faults },
    /// Post the batch in two halves.
    Halve,
    /// Post the batch without these items.
    Leave(Faults),
    /// Retry the batch after a delay.
    Again(ClientError),
    /// Fail.
    Refuse(ClientError),
}

/// Decides what to do after `outcome` of posting `items` items. With `skip_invalid`, rejected items
/// are skipped.
pub(super) fn step(outcome: Result<Posted, ClientError>, items: usize, skip_invalid: bool) -> Step {
    let error = match outcome {
        Ok(posted) => return done(posted, items),
        Err(error) => error,
    };
    match error {
        ClientError::Unavailable {
            status: REQUEST_TIMEOUT,
            ..
        }
        | ClientError::Refused {
            status: TOO_LARGE, ..
        } if items > 1 => Step::Halve,
        ClientError::Refused {
            status: TOO_LARGE,
            detail,
            ..
        } if skip_invalid => Step::Leave(vec![(0, detail)]),
        ClientError::Refused { status, faults, .. }
            if skip_invalid && NAMING.contains(&status) && names_items(&faults, items) =>
        {
            Step::Leave(faults)
        }
        error if error.is_retryable() => Step::Again(error),
        error => Step::Refuse(error),
    }
}

fn done(posted: Posted, items: usize) -> Step {
    let Posted { accepted, faults } = posted;
    let refused = indexes(&faults).len() as u64;
    let named = faults.is_empty() || names_items(&faults, items);
    if named && accepted.checked_add(refused) == Some(items as u64) {
        return Step::Done {
            accepted,
            refused: faults,
        };
    }
    Step::Refuse(ClientError::Unexpected(format!(
        "it accepted {accepted} and refused {refused} of {items} items"
    )))
}

fn names_items(faults: &Faults, items: usize) -> bool {
    !faults.is_empty() && faults.iter().all(|(index, _)| *index < items)
}

/// The indexes of the faulty items, each once.
pub(super) fn indexes(faults: &Faults) -> BTreeSet<usize> {
    faults.iter().map(|(index, _)| *index).collect()
}

/// The delay before a retry: `backoff`, or what the response asks for if that is longer, but at
/// most the time that is `left` for retries. `spread` is 0.5 to 1.5.
pub(super) fn wait(
    backoff: Duration,
    retry_after: Option<Duration>,
    spread: f64,
    left: Duration,
) -> Duration {
    let wait = backoff.mul_f64(spread);
    wait.max(retry_after.unwrap_or_default()).min(left)
}

/// The delay after `backoff`.
pub(super) fn longer(backoff: Duration) -> Duration {
    (backoff * 2).min(BACKOFF_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, faults: &[usize]) -> ClientError {
        ClientError::Refused {
            status,
            detail: "no".into(),
            faults: faults.iter().map(|&index| (index, "no".into())).collect(),
        }
    }

    fn unavailable(status: u16) -> ClientError {
        ClientError::Unavailable {
            status,
            detail: "later".into(),
            retry_after: None,
        }
    }

    /// The step as a word.
    fn word(outcome: Result<Posted, ClientError>, items: usize, skip_invalid: bool) -> String {
        match step(outcome, items, skip_invalid) {
            Step::Done { accepted, refused } => format!("done {accepted} {:?}", indexes(&refused)),
            Step::Halve => "halve".into(),
            Step::Leave(faults) => format!("leave {:?}", indexes(&faults)),
            Step::Again(_) => "again".into(),
            Step::Refuse(_) => "refuse".into(),
        }
    }

    #[test]
    fn what_a_smaller_body_may_change_is_halved() {
        for skip in [false, true] {
            assert_eq!(word(Err(refused(413, &[])), 2, skip), "halve");
            assert_eq!(word(Err(unavailable(408)), 2, skip), "halve");
            assert_eq!(word(Err(unavailable(408)), 1, skip), "again");
        }
        assert_eq!(word(Err(refused(413, &[])), 1, false), "refuse");
        assert_eq!(word(Err(refused(413, &[])), 1, true), "leave {0}");
    }

    #[test]
    fn what_may_succeed_later_is_posted_again() {
        for error in [
            ClientError::NoAnswer("gone".into()),
            unavailable(429),
            unavailable(502),
            unavailable(503),
        ] {
            assert_eq!(word(Err(error), 2, true), "again");
        }
        for error in [
            refused(401, &[]),
            refused(404, &[1]),
            ClientError::Unexpected("html".into()),
            ClientError::Redirected {
                status: 301,
                location: "b".into(),
            },
        ] {
            assert_eq!(word(Err(error), 2, true), "refuse");
        }
    }

    #[test]
    fn items_are_left_out_only_when_asked_to_and_named() {
        for status in [400, 422] {
            assert_eq!(word(Err(refused(status, &[1, 1, 0])), 3, false), "refuse");
            assert_eq!(
                word(Err(refused(status, &[1, 1, 0])), 3, true),
                "leave {0, 1}"
            );
            assert_eq!(word(Err(refused(status, &[])), 3, true), "refuse");
            assert_eq!(word(Err(refused(status, &[3])), 3, true), "refuse");
        }
    }

    #[test]
    fn accepted_must_be_what_was_sent() {
        let posted = |accepted, faults: &[usize]| {
            Ok(Posted {
                accepted,
                faults: faults.iter().map(|&index| (index, "no".into())).collect(),
            })
        };
        assert_eq!(word(posted(3, &[]), 3, false), "done 3 {}");
        assert_eq!(word(posted(1, &[2, 0, 2]), 3, true), "done 1 {0, 2}");
        assert_eq!(word(posted(0, &[0]), 1, true), "done 0 {0}");
        for wrong in [
            posted(2, &[]),
            posted(4, &[]),
            posted(2, &[3]),
            posted(3, &[1]),
            posted(u64::MAX, &[0]),
        ] {
            assert_eq!(word(wrong, 3, true), "refuse");
        }
    }

    #[test]
    fn waits_grow_and_obey_the_answer_and_end_in_time() {
        let ms = Duration::from_millis;
        let mut waits = vec![BACKOFF_MIN];
        while waits.len() < 9 {
            waits.push(longer(waits[waits.len() - 1]));
        }
        assert_eq!(waits[1], ms(200));
        assert_eq!(waits[8], BACKOFF_MAX);
        let long = ms(300_000);
        assert_eq!(wait(ms(200), None, 0.5, long), ms(100));
        assert_eq!(wait(ms(200), Some(ms(7_000)), 1.5, long), ms(7_000));
        assert_eq!(wait(ms(200), Some(ms(0)), 1.0, long), ms(200));
        assert_eq!(wait(ms(200), Some(ms(7_000)), 1.0, ms(30)), ms(30));
    }
}
