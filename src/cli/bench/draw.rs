//! Random draws: the tenant of the n-th id, and which ids are repeated.
//!
//! Invariant: a draw depends only on the seed, the connection and a number. So the tenant of an
//! earlier id is drawn again instead of being remembered.

/// The increment between the inputs of the mixing function, as in SplitMix64.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// Random bits by number, different for each seed and stream.
#[derive(Debug, Clone, Copy)]
pub(super) struct Draws {
    state: u64,
}

impl Draws {
    pub(super) fn new(seed: u64, stream: u64) -> Self {
        Self {
            state: mix(seed ^ mix(stream.wrapping_add(1))),
        }
    }

    /// The random bits of number `n`.
    pub(super) fn bits(self, n: u64) -> u64 {
        mix(self.state.wrapping_add(n.wrapping_mul(GOLDEN)))
    }
}

/// The finalizer of SplitMix64: each bit of the result depends on all bits of `x`.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Maps random bits to a number below `bound`.
pub(super) fn below(bits: u64, bound: u64) -> u64 {
    ((u128::from(bits) * u128::from(bound)) >> 64) as u64
}

/// The distribution of tenants.
#[derive(Debug)]
pub(super) struct Tenants {
    count: u32,
    /// Alias table (Vose 1991): one look-up per draw for any weights. `None` is the uniform
    /// distribution.
    columns: Option<Box<[Column]>>,
}

/// A column of the alias table. All columns are equally likely; a draw selects the column itself or
/// its alias.
#[derive(Debug, Clone, Copy)]
struct Column {
    /// Number of draws, out of 2³², that select the column itself.
    own: u32,
    alias: u32,
}

impl Tenants {
    /// Creates `count` tenants; tenant n has the weight (n + 1) to the power of `-zipf`.
    pub(super) fn new(count: u32, zipf: f64) -> Self {
        let columns = (zipf > 0.0 && count > 1).then(|| {
            let weights = (0..count).map(|n| f64::from(n + 1).powf(-zipf));
            alias_table(weights.collect())
        });
        Self { count, columns }
    }

    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// The tenant that random bits select.
    pub(super) fn draw(&self, bits: u64) -> u32 {
        let column = ((bits >> 32) * u64::from(self.count)) >> 32;
        match self
            .columns
            .as_deref()
            .and_then(|all| all.get(column as usize))
        {
            Some(found) if bits as u32 > found.own => found.alias,
            _ => column as u32,
        }
    }
}

fn alias_table(mut shares: Vec<f64>) -> Box<[Column]> {
    let count = shares.len();
    let scale = count as f64 / shares.iter().sum::<f64>();
    shares.iter_mut().for_each(|share| *share *= scale);
    // A column that gets no alias because of rounding always selects itself.
    let mut columns: Vec<Column> = (0..count as u32)
        .map(|alias| Column {
            own: u32::MAX,
            alias,
        })
        .collect();
    let (mut small, mut large): (Vec<usize>, Vec<usize>) =
        (0..count).partition(|&n| shares[n] < 1.0);
    while let (Some(poor), Some(&rich)) = (small.pop(), large.last()) {
        columns[poor] = Column {
            own: (shares[poor] * f64::from(u32::MAX)) as u32,
            alias: rich as u32,
        };
        shares[rich] -= 1.0 - shares[poor];
        if shares[rich] < 1.0 {
            large.pop();
            small.push(rich);
        }
    }
    columns.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(tenants: &Tenants, draws: u64) -> Vec<f64> {
        let mut hits = vec![0_u64; tenants.count() as usize];
        let source = Draws::new(7, 0);
        for n in 0..draws {
            hits[tenants.draw(source.bits(n)) as usize] += 1;
        }
        hits.iter()
            .map(|&hits| hits as f64 / draws as f64)
            .collect()
    }

    #[test]
    fn without_an_exponent_all_tenants_are_alike() {
        for share in shares(&Tenants::new(10, 0.0), 200_000) {
            assert!((share - 0.1).abs() < 0.005, "{share}");
        }
    }

    #[test]
    fn with_an_exponent_shares_fall_as_zipf_says() {
        let drawn = shares(&Tenants::new(100, 1.1), 400_000);
        let total: f64 = (1..=100).map(|n| f64::from(n).powf(-1.1)).sum();
        for (n, share) in drawn.iter().enumerate() {
            let expected = ((n + 1) as f64).powf(-1.1) / total;
            assert!((share - expected).abs() < 0.004, "{n}: {share}, {expected}");
        }
    }

    #[test]
    fn one_tenant_is_always_drawn() {
        for zipf in [0.0, 2.0] {
            assert_eq!(shares(&Tenants::new(1, zipf), 100), [1.0]);
        }
    }

    #[test]
    fn draws_repeat_and_differ_by_seed_and_stream() {
        let bits = |seed, stream| Draws::new(seed, stream).bits(3);
        assert_eq!(bits(1, 1), bits(1, 1));
        assert_ne!(bits(1, 1), bits(2, 1));
        assert_ne!(bits(1, 1), bits(1, 2));
        assert_eq!(below(u64::MAX, 5), 4);
        assert_eq!(below(0, 5), 0);
    }
}
