//! Verification of counts: counts the stored keys of every tenant and compares the result with the
//! stored count.
//!
//! Invariant: it only reads.

use super::{Snapshot, StoreError, StoreReader};
use headcount_model::TenantName;

/// A tenant with a stored count that is not the number of its stored keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The tenant; `None` for keys of a tenant that the dictionary does not contain.
    pub tenant: Option<TenantName>,
    /// The stored count, over all partitions.
    pub stored: u64,
    /// The number of stored keys.
    pub recounted: u64,
}

/// The result of a recount.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Number of tenants recounted.
    pub tenants: u64,
    /// Number of keys read.
    pub items: u64,
    /// All tenants with a difference, in order of their numbers.
    pub differences: Vec<Difference>,
}

/// Recounts every tenant of the reader's last commit.
///
/// # Errors
/// When a key cannot be read. For a damaged file, the error has the path and the offset.
pub fn recount(reader: &impl StoreReader) -> Result<Report, StoreError> {
    let Snapshot { committed, keys } = reader.snapshot()?;
    let partitions = usize::from(committed.partitioning().count());
    let mut recounted = vec![0_u64; committed.names().len() * partitions];
    let mut unknown = 0;
    let mut report = Report {
        tenants: committed.tenants(),
        ..Report::default()
    };
    for key in keys {
        let key = key?;
        report.items += 1;
        let partition = committed.partitioning().of(&key.hash());
        let at = key.tenant().0 as usize * partitions + usize::from(partition.0);
        match recounted.get_mut(at) {
            Some(count) => *count += 1,
            None => unknown += 1,
        }
    }
    for (name, recounted) in committed.names().iter().zip(recounted.chunks(partitions)) {
        let stored = committed.counts(name.as_str());
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
