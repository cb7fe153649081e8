//! Merges the answers of several counters into one.
//!
//! Invariant: in each partition, the first answer that covers the requirement wins. If none does,
//! the greatest known count is returned, and the result is not exact.

use std::collections::BTreeMap;

use headcount_model::{Partitioning, Requirement, TenantName};
use headcount_rpc::{Contains, Counts, Coverage, Listing};

/// An answer that reports its coverage.
pub(crate) trait Covered {
    /// Its coverage.
    fn cover(&self) -> &Coverage;

    /// Its coverage, to be corrected by what is known from other sources.
    fn cover_mut(&mut self) -> &mut Coverage;
}

impl Covered for Counts {
    fn cover(&self) -> &Coverage {
        &self.cover
    }

    fn cover_mut(&mut self) -> &mut Coverage {
        &mut self.cover
    }
}

impl Covered for Contains {
    fn cover(&self) -> &Coverage {
        &self.cover
    }

    fn cover_mut(&mut self) -> &mut Coverage {
        &mut self.cover
    }
}

impl Covered for Listing {
    fn cover(&self) -> &Coverage {
        &self.cover
    }

    fn cover_mut(&mut self) -> &mut Coverage {
        &mut self.cover
    }
}

/// For each partition, the index of the first answer that covers it.
fn winners<A: Covered>(
    partitioning: Partitioning,
    answers: &[A],
) -> impl Iterator<Item = Option<usize>> {
    partitioning.all().map(|partition| {
        answers
            .iter()
            .position(|answer| answer.cover().partitions.contains(&(partition, true)))
    })
}

/// Whether every partition has an answer that covers it.
#[must_use]
pub(crate) fn is_covered<A: Covered>(partitioning: Partitioning, answers: &[A]) -> bool {
    winners(partitioning, answers).all(|winner| winner.is_some())
}

/// Everything that the winning answers cover. Later reads must cover it too.
#[must_use]
pub(crate) fn shown<A: Covered>(partitioning: Partitioning, answers: &[A]) -> Requirement {
    let mut shown = Requirement::default();
    for answer in winners(partitioning, answers).flatten() {
        shown.unite(&answers[answer].cover().covered);
    }
    shown
}

/// For each requested tenant, its count over all partitions.
#[must_use]
pub(crate) fn counts(partitioning: Partitioning, tenants: usize, answers: &[Counts]) -> Vec<u64> {
    let mut totals = vec![0; tenants];
    for (partition, winner) in partitioning.all().zip(winners(partitioning, answers)) {
        let chosen = match winner {
            Some(winner) => &answers[winner..=winner],
            None => answers,
        };
        for (tenant, total) in totals.iter_mut().enumerate() {
            let greatest = chosen.iter().filter_map(|answer| {
                let held = &answer.cover.partitions;
                let at = held.iter().position(|&(of, _)| of == partition)?;
                answer.counts.get(tenant)?.get(at).copied()
            });
            *total += greatest.max().unwrap_or(0);
        }
    }
    totals
}

/// Whether the item is counted, as far as the answers show.
#[must_use]
pub(crate) fn membership(partitioning: Partitioning, answers: &[Contains]) -> bool {
    if is_covered(partitioning, answers) {
        return winners(partitioning, answers)
            .flatten()
            .any(|winner| answers[winner].counted);
    }
    answers.iter().any(|answer| answer.counted)
}

/// A page of tenants with their counts over all partitions, and whether more tenants follow.
///
/// If every partition is covered, only the winning answers are merged; otherwise all answers are.
#[must_use]
pub(crate) fn listing(
    partitioning: Partitioning,
    limit: usize,
    answers: &[Listing],
) -> (Vec<(TenantName, u64)>, bool) {
    let winners: Option<Vec<usize>> = winners(partitioning, answers).collect();
    let merged: Vec<(usize, &Listing)> = answers
        .iter()
        .enumerate()
        .filter(|(index, _)| winners.as_ref().is_none_or(|won| won.contains(index)))
        .collect();
    // A truncated list shows nothing about names after its last one.
    let horizon = merged
        .iter()
        .filter(|(_, answer)| answer.more)
        .filter_map(|(_, answer)| answer.tenants.last().map(|(name, _)| name))
        .min();
    let mut names: BTreeMap<&TenantName, Vec<u64>> = BTreeMap::new();
    for (index, answer) in merged {
        for (name, counts) in &answer.tenants {
            if horizon.is_some_and(|horizon| name > horizon) {
                break;
            }
            let totals = names
                .entry(name)
                .or_insert_with(|| vec![0; usize::from(partitioning.count())]);
            for (&(partition, _), &count) in answer.cover.partitions.iter().zip(counts) {
                let at = usize::from(partition.0);
                if winners.as_ref().is_none_or(|won| won[at] == index) {
                    totals[at] = totals[at].max(count);
                }
            }
        }
    }
    let mut page: Vec<(TenantName, u64)> = names
        .into_iter()
        .map(|(name, counts)| (name.clone(), counts.iter().sum()))
        .filter(|&(_, count)| count > 0)
        .collect();
    let more = horizon.is_some() || page.len() > limit;
    page.truncate(limit);
    (page, more)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use headcount_model::{Epoch, Partition};

    fn answer(held: &[(u16, bool)], counts: &[&[u64]]) -> Counts {
        let mut covered = Requirement::default();
        for &(partition, _) in held {
            covered.add(Partition(partition), Epoch(1), counts[0][0] + 1);
        }
        let partitions = held.iter().map(|&(p, covers)| (Partition(p), covers));
        Counts {
            cover: Coverage {
                partitions: partitions.collect(),
                covered,
                ..Coverage::default()
            },
            counts: counts.iter().map(|counts| counts.to_vec()).collect(),
        }
    }

    #[test]
    fn the_first_covering_answer_wins_and_else_the_greatest() {
        let one = Partitioning::SINGLE;
        let lagging = answer(&[(0, false)], &[&[9]]);
        let covering = answer(&[(0, true)], &[&[7]]);
        let later = answer(&[(0, true)], &[&[8]]);
        let all = [lagging.clone(), covering.clone(), later];
        assert!(is_covered(one, &all));
        assert_eq!(counts(one, 1, &all), [7]);
        assert_eq!(shown(one, &all), covering.cover.covered);
        let none = [answer(&[(0, false)], &[&[5]]), lagging];
        assert!(!is_covered(one, &none));
        assert_eq!(counts(one, 1, &none), [9]);
        assert_eq!(counts(one, 1, &[]), [0]);
    }

    #[test]
    fn partitions_add_up_from_different_counters() {
        let two = Partitioning::new(2).expect("valid");
        let left = answer(&[(0, true), (1, false)], &[&[3, 100]]);
        let right = answer(&[(1, true)], &[&[4]]);
        assert!(!is_covered(two, std::slice::from_ref(&left)));
        assert_eq!(counts(two, 1, std::slice::from_ref(&left)), [103]);
        let both = [left, right];
        assert!(is_covered(two, &both));
        assert_eq!(counts(two, 1, &both), [7]);
    }

    fn page(names: &[(&str, u64)], more: bool) -> Listing {
        Listing {
            cover: Coverage {
                barriers: true,
                partitions: vec![(Partition(0), true)],
                ..Coverage::default()
            },
            tenants: names
                .iter()
                .map(|&(name, count)| (TenantName::new(name).expect("valid"), vec![count]))
                .collect(),
            more,
        }
    }

    #[test]
    fn a_page_that_was_cut_short_hides_what_lies_beyond_it() {
        let cut = page(&[("a", 1), ("b", 2)], true);
        let whole = page(&[("a", 1), ("b", 2), ("c", 3)], false);
        let (names, more) = listing(Partitioning::SINGLE, 10, &[cut, whole]);
        let names: Vec<_> = names
            .iter()
            .map(|(name, count)| (name.as_str(), *count))
            .collect();
        assert_eq!(names, [("a", 1), ("b", 2)]);
        assert!(more);
    }

    fn not_covering(page: Listing) -> Listing {
        let partitions = vec![(Partition(0), false)];
        let cover = Coverage {
            partitions,
            ..page.cover
        };
        Listing { cover, ..page }
    }

    fn merged(limit: usize, answers: &[Listing]) -> (Vec<(String, u64)>, bool) {
        let (names, more) = listing(Partitioning::SINGLE, limit, answers);
        let names = names
            .into_iter()
            .map(|(name, count)| (name.to_string(), count));
        (names.collect(), more)
    }

    #[test]
    fn an_exact_page_is_the_winner_s_alone() {
        let behind = not_covering(page(&[("a", 1)], true));
        let winner = page(&[("b", 1)], false);
        let exact = (vec![("b".to_owned(), 1)], false);
        assert_eq!(merged(1, &[behind.clone(), winner.clone()]), exact);
        assert_eq!(merged(1, &[winner, behind]), exact);
    }

    #[test]
    fn a_page_that_nobody_covers_is_what_all_know_together() {
        let one = not_covering(page(&[("a", 3), ("b", 1)], true));
        let other = not_covering(page(&[("b", 2), ("c", 1)], false));
        let all = (vec![("a".to_owned(), 3), ("b".to_owned(), 2)], true);
        assert_eq!(merged(10, &[one, other]), all);
    }

    proptest! {
        /// A page never ends a listing early: if more names follow, the page has a name after which
        /// the next page starts. A covered page is that of the first covering answer.
        #[test]
        fn a_page_with_more_after_it_is_not_empty(
            answers in prop::collection::vec(
                (
                    any::<bool>(),
                    any::<bool>(),
                    prop::collection::btree_map("[a-e]", 1_u64..9, 1..4),
                ),
                1..4,
            ),
        ) {
            let answers: Vec<_> = answers
                .iter()
                .map(|(covers, more, names)| {
                    let names = names.iter().map(|(name, &count)| (name.as_str(), count));
                    let names: Vec<_> = names.collect();
                    let page = page(&names, *more);
                    if *covers { page } else { not_covering(page) }
                })
                .collect();
            let (names, more) = listing(Partitioning::SINGLE, 10, &answers);
            prop_assert!(!more || !names.is_empty());
            if let Some(winner) = answers.iter().find(|answer| answer.cover.is_full()) {
                let counts = winner.tenants.iter().map(|(name, counts)| (name.clone(), counts[0]));
                prop_assert_eq!(names, counts.collect::<Vec<_>>());
                prop_assert_eq!(more, winner.more);
            }
        }

        /// In any order of answers, an exact count is that of a covering counter, and an inexact
        /// count is the greatest of all answers.
        #[test]
        fn merged_counts_are_somebodys(
            answers in prop::collection::vec((any::<bool>(), 0_u64..50), 0..6),
        ) {
            let answers: Vec<_> = answers
                .iter()
                .map(|&(covers, count)| answer(&[(0, covers)], &[&[count]]))
                .collect();
            let merged = counts(Partitioning::SINGLE, 1, &answers)[0];
            let covers = |answer: &&Counts| answer.cover.partitions[0].1;
            match answers.iter().find(covers) {
                Some(first) => prop_assert_eq!(merged, first.counts[0][0]),
                None => {
                    let greatest = answers.iter().map(|answer| answer.counts[0][0]).max();
                    prop_assert_eq!(merged, greatest.unwrap_or(0));
                }
            }
        }
    }
}
