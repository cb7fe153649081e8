//! Recounting: every tenant's count from the stored keys alone, compared with the count that is
//! answered.
//!
//! Invariant: it only reads.

use super::{Snapshot, StoreError, StoreReader};
use headcount_model::TenantName;

/// A tenant whose stored count is not the number of its stored keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Whose count it is; `None` for keys of a tenant that the dictionary does not know.
    pub tenant: Option<TenantName>,
    /// The count that the store answers, over all partitions.
    pub stored: u64,
    /// The number of its keys.
    pub recounted: u64,
}

/// What a recount found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Tenants recounted.
    pub tenants: u64,
    /// Keys read.
    pub items: u64,
    /// Every tenant that differs, by its number.
    pub differences: Vec<Difference>,
}

/// Recounts every tenant of the reader's last commit.
///
/// # Errors
/// When a key can't be read: damage is reported where it is.
pub fn recount(reader: &impl StoreReader) -> Result<Report, StoreError> {
    let Snapshot { cut, keys } = reader.snapshot()?;
    let partitions = usize::from(cut.partitioning().count());
    let mut recounted = vec![0_u64; cut.names().len() * partitions];
    let mut unknown = 0;
    let mut report = Report {
        tenants: cut.tenants(),
        ..Report::default()
    };
    for key in keys {
        let key = key?;
        report.items += 1;
        let partition = cut.partitioning().of(&key.hash());
        let at = key.tenant().0 as usize * partitions + usize::from(partition.0);
        match recounted.get_mut(at) {
            Some(count) => *count += 1,
            None => unknown += 1,
        }
    }
    for (name, recounted) in cut.names().iter().zip(recounted.chunks(partitions)) {
        let stored = cut.counts(name.as_str());
        if stored != recounted {
            report.differences.push(Difference {
                tenant: Some(name.clone()),
                stored: stored.iter().sum(),
                recounted: recounted.iter().sum(),
            });
        }
    }
    if unknown > 0 {
        report.differences.push(Difference {
            tenant: None,
            stored: 0,
            recounted: unknown,
        });
    }
    Ok(report)
}
