//! Whether every tenant's count is what the run made it, and when all counters have everything.
//!
//! Invariant: a count passes only if it is at least what was there before and was acknowledged
//! since, at most that and what is in doubt, and called exact by the coordinator.

use std::time::{Duration, Instant};

use super::BenchError;
use super::tally::Tally;
use crate::client::{ClientError, CounterItems, CountsRequest, PublicClient, TenantCount};

/// Tenants whose counts are asked for and kept at once.
const TENANTS_AT_ONCE: usize = 1_000;
/// How long a coordinator may take to answer, or to call its counts exact.
const PATIENCE: Duration = Duration::from_secs(60);
/// The wait before the same is asked again.
const PAUSE: Duration = Duration::from_millis(200);
/// How long the counters may take to commit everything.
const SETTLE_PATIENCE: Duration = Duration::from_secs(600);
/// How often they are asked; the time told is as precise.
const SETTLE_TICK: Duration = Duration::from_millis(20);

/// What the check found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Checked {
    /// Tenants whose counts were compared.
    pub(super) tenants: u64,
    /// Of those, the ones with a count that can't be.
    pub(super) wrong: u64,
    /// Whether all counts are just what was acknowledged. They may be more by what is in doubt.
    pub(super) exact: bool,
    /// The first wrong count, in words.
    pub(super) example: Option<String>,
}

/// Asks for the counts of `tenants` tenants whose names begin with `prefix`.
pub(super) async fn counts(
    client: &PublicClient,
    prefix: &str,
    tenants: u32,
) -> Result<Vec<u64>, BenchError> {
    let mut found = Vec::with_capacity(tenants as usize);
    for start in (0..tenants).step_by(TENANTS_AT_ONCE) {
        let end = tenants.min(start + TENANTS_AT_ONCE as u32);
        let request = CountsRequest {
            tenants: (start..end).map(|n| format!("{prefix}-t{n}")).collect(),
            ..CountsRequest::default()
        };
        let rows = exact_counts(client, &request).await?;
        found.extend(rows.into_iter().map(|row| row.count));
    }
    Ok(found)
}

/// Asks until the counts are called exact: counters behind a coordinator may need some time.
async fn exact_counts(
    client: &PublicClient,
    request: &CountsRequest,
) -> Result<Vec<TenantCount>, BenchError> {
    let started = Instant::now();
    loop {
        let answer = client.counts(request).await;
        let error = match answer {
            Ok(rows) if rows.len() != request.tenants.len() => {
                let why = format!("{} counts for {}", rows.len(), request.tenants.len());
                return Err(ClientError::Unexpected(why).into());
            }
            Ok(rows) if rows.iter().all(|row| row.exact) => return Ok(rows),
            Ok(_) => BenchError::NeverExact(PATIENCE.as_secs()),
            Err(error) if error.is_retryable() => error.into(),
            Err(error) => return Err(error.into()),
        };
        if started.elapsed() >= PATIENCE {
            return Err(error);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Compares the counts after a run with those before it; none before means that all were 0.
pub(super) fn compare(prefix: &str, before: &[u64], after: &[u64], tally: &Tally) -> Checked {
    let mut checked = Checked {
        exact: true,
        ..Checked::default()
    };
    for (tenant, &count) in after.iter().enumerate() {
        let of = |counts: &[u64]| counts.get(tenant).copied().unwrap_or(0);
        let least = of(before) + of(&tally.acked);
        let most = least + of(&tally.doubtful);
        checked.tenants += 1;
        checked.exact &= count == least;
        if !(least..=most).contains(&count) {
            checked.wrong += 1;
            checked.example.get_or_insert_with(|| match least == most {
                true => format!("{prefix}-t{tenant} has {count} items, not {least}"),
                false => format!("{prefix}-t{tenant} has {count} items, not {least} to {most}"),
            });
        }
    }
    checked
}

/// Waits until every counter that answered before the run has `items` more items than then.
pub(super) async fn settle(
    client: &PublicClient,
    before: &[CounterItems],
    items: u64,
) -> Result<Instant, BenchError> {
    let started = Instant::now();
    loop {
        let now = match client.counters().await {
            Ok(counters) => counters,
            Err(error) if error.is_retryable() => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        let Some(behind) = first_behind(before, &now, items) else {
            return Ok(Instant::now());
        };
        if started.elapsed() >= SETTLE_PATIENCE {
            return Err(BenchError::NotSettled {
                counter: behind.to_owned(),
                waited_s: SETTLE_PATIENCE.as_secs(),
            });
        }
        tokio::time::sleep(SETTLE_TICK).await;
    }
}

/// The first counter that answered before the run and has not grown by `items` since.
fn first_behind<'a>(
    before: &'a [CounterItems],
    now: &[CounterItems],
    items: u64,
) -> Option<&'a str> {
    let is_behind = |counter: &&CounterItems| {
        let Some(then) = counter.items else {
            return false;
        };
        let found = now.iter().find(|found| found.name == counter.name);
        found
            .and_then(|found| found.items)
            .is_none_or(|has| has < then + items)
    };
    before
        .iter()
        .find(is_behind)
        .map(|counter| counter.name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(acked: &[u64], doubtful: &[u64]) -> Tally {
        let mut tally = Tally::new(acked.len() as u32).expect("a tally");
        tally.acked = acked.to_vec();
        tally.doubtful = doubtful.to_vec();
        tally
    }

    #[test]
    fn counts_that_are_what_was_acknowledged_are_exact() {
        let found = compare("p", &[], &[3, 0], &tally(&[3, 0], &[1, 0]));
        assert_eq!(found.wrong, 0);
        assert!(found.exact);
        assert_eq!(found.tenants, 2);
        let found = compare("p", &[10, 5], &[13, 5], &tally(&[3, 0], &[0, 0]));
        assert!(found.exact && found.wrong == 0);
    }

    #[test]
    fn what_is_in_doubt_may_count() {
        let found = compare("p", &[], &[5], &tally(&[3], &[2]));
        assert!(!found.exact);
        assert_eq!(found.wrong, 0);
    }

    #[test]
    fn too_few_and_too_many_are_wrong() {
        for (count, said) in [(2, "not 3 to 5"), (6, "not 3 to 5")] {
            let found = compare("p", &[], &[count], &tally(&[3], &[2]));
            assert_eq!(found.wrong, 1);
            assert!(!found.exact);
            let example = found.example.expect("an example");
            assert!(
                example.starts_with("p-t0 has") && example.ends_with(said),
                "{example}"
            );
        }
        let found = compare("p", &[1, 1], &[1, 2], &tally(&[0, 0], &[0, 0]));
        assert_eq!(found.example.as_deref(), Some("p-t1 has 2 items, not 1"));
    }

    #[test]
    fn counters_have_settled_once_each_has_grown() {
        let counter = |name: &str, items: Option<u64>| CounterItems {
            name: name.to_owned(),
            items,
        };
        let before = [
            counter("a", Some(5)),
            counter("b", None),
            counter("c", Some(0)),
        ];
        let now = |a, c| [counter("c", c), counter("b", None), counter("a", a)];
        assert_eq!(first_behind(&before, &now(Some(8), Some(3)), 3), None);
        assert_eq!(first_behind(&before, &now(Some(7), Some(3)), 3), Some("a"));
        assert_eq!(first_behind(&before, &now(Some(8), None), 3), Some("c"));
        assert_eq!(first_behind(&before, &[], 3), Some("a"));
    }
}
