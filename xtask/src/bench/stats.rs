//! Medians, spreads and ratios over rounds.
//!
//! Invariant: contenders are compared within a round, where the machine was the same for both.

use std::collections::BTreeMap;

/// One number for each round that has it.
pub type Series = BTreeMap<u32, f64>;

/// What stands in a table for a series.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    /// The middle one, or the mean of the two in the middle.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
}

/// Sums up a series; none is of no rounds.
pub fn summary(series: &Series) -> Option<Summary> {
    let mut values: Vec<f64> = series.values().copied().collect();
    values.sort_by(f64::total_cmp);
    let (min, max) = (*values.first()?, *values.last()?);
    let middle = values.len() / 2;
    let median = if values.len() % 2 == 1 {
        values[middle]
    } else {
        f64::midpoint(values[middle - 1], values[middle])
    };
    Some(Summary { median, min, max })
}

/// The quotients of the rounds that both have.
pub fn ratio(of: &Series, to: &Series) -> Series {
    of.iter()
        .filter_map(|(round, value)| Some((*round, value / to.get(round).filter(|to| **to > 0.0)?)))
        .collect()
}

/// The one with the greatest median.
pub fn best(of: impl IntoIterator<Item = Series>) -> Series {
    let median = |series: &Series| summary(series).map_or(f64::MIN, |summary| summary.median);
    of.into_iter()
        .max_by(|a, b| median(a).total_cmp(&median(b)))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(values: &[f64]) -> Series {
        (1..).zip(values.iter().copied()).collect()
    }

    #[test]
    fn the_median_is_in_the_middle() {
        let odd = summary(&series(&[3.0, 1.0, 2.0])).expect("three");
        assert_eq!((odd.median, odd.min, odd.max), (2.0, 1.0, 3.0));
        let even = summary(&series(&[4.0, 1.0, 2.0, 3.0])).expect("four");
        assert_eq!(even.median, 2.5);
        assert_eq!(summary(&series(&[])), None);
    }

    #[test]
    fn ratios_pair_the_rounds() {
        let of = Series::from([(1, 10.0), (2, 30.0), (3, 7.0)]);
        let to = Series::from([(1, 5.0), (2, 10.0), (4, 1.0)]);
        assert_eq!(ratio(&of, &to), Series::from([(1, 2.0), (2, 3.0)]));
        assert!(ratio(&of, &series(&[0.0, 0.0])).is_empty());
    }

    #[test]
    fn the_best_has_the_greatest_median() {
        let steady = series(&[5.0, 5.0, 5.0]);
        let lucky = series(&[1.0, 100.0, 2.0]);
        assert_eq!(best([lucky, steady.clone()]), steady);
        assert!(best([]).is_empty());
    }
}
