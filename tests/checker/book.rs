//! One tenant's items as clients know them.
//!
//! Invariant: for each coordinator, how many ids an exact answer must count is kept along, never
//! counted anew.

use std::collections::HashMap;

use super::{Consistency, Read};

/// What is known of one id. Bits stand for coordinators.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    acknowledged: bool,
    acknowledged_by: u32,
    /// An exact answer of this coordinator's present life has shown it.
    shown_by: u32,
}

impl Known {
    /// Whether every exact session answer of the coordinator must count it.
    fn is_certain(self, face: usize) -> bool {
        (self.acknowledged_by | self.shown_by) & (1 << face) != 0
    }

    /// Whether every exact answer of the coordinator must count it that is to hold what anyone
    /// acknowledged.
    fn is_certain_strongly(self, face: usize) -> bool {
        self.acknowledged || self.is_certain(face)
    }
}

/// What one coordinator must count.
#[derive(Debug, Clone, Copy, Default)]
struct Sight {
    /// In which of its lives it has shown what it has shown.
    life: u64,
    /// The greatest exact count that it has shown.
    count: u64,
    certain: u64,
    certain_strongly: u64,
}

/// What is known of one tenant.
pub(super) struct Book {
    ids: HashMap<String, Known>,
    /// The same ids as they came.
    order: Vec<String>,
    acknowledged: u64,
    sights: Vec<Sight>,
}

impl Book {
    pub fn new(faces: usize) -> Self {
        assert!(faces <= 32, "a bit for each");
        Self {
            ids: HashMap::new(),
            order: Vec::new(),
            acknowledged: 0,
            sights: vec![Sight::default(); faces],
        }
    }

    pub fn attempted(&self) -> u64 {
        self.order.len() as u64
    }

    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    pub fn id(&self, number: u64) -> Option<&str> {
        self.order.get(number as usize).map(String::as_str)
    }

    pub fn was_attempted(&self, id: &str) -> bool {
        self.ids.contains_key(id)
    }

    pub fn attempt(&mut self, id: &str) {
        if !self.was_attempted(id) {
            self.ids.insert(id.to_owned(), Known::default());
            self.order.push(id.to_owned());
        }
    }

    pub fn acknowledge(&mut self, face: usize, id: &str) {
        self.learn(id, |known| {
            known.acknowledged = true;
            known.acknowledged_by |= 1 << face;
        });
    }

    fn learn(&mut self, id: &str, learn: impl FnOnce(&mut Known)) {
        let known = self.ids.get_mut(id).expect("attempted before");
        let before = *known;
        learn(known);
        let after = *known;
        self.acknowledged += u64::from(after.acknowledged && !before.acknowledged);
        for (face, sight) in self.sights.iter_mut().enumerate() {
            let gained = after.is_certain(face) && !before.is_certain(face);
            sight.certain += u64::from(gained);
            let gained = after.is_certain_strongly(face) && !before.is_certain_strongly(face);
            sight.certain_strongly += u64::from(gained);
        }
    }

    /// A new life of a coordinator has shown nothing yet. What an earlier one acknowledged it must
    /// still count: its first exact answer holds all that anyone had acknowledged when it started.
    pub fn enter(&mut self, face: usize, life: u64) {
        if life <= self.sights[face].life {
            return;
        }
        let mut sight = Sight {
            life,
            ..Sight::default()
        };
        for known in self.ids.values_mut() {
            known.shown_by &= !(1 << face);
            sight.certain += u64::from(known.is_certain(face));
            sight.certain_strongly += u64::from(known.is_certain_strongly(face));
        }
        self.sights[face] = sight;
    }

    /// What an exact answer must count at least; `token` are distinct ids that it must hold as
    /// well.
    pub fn floor<'a>(&self, read: &Read, token: impl Iterator<Item = &'a str>) -> u64 {
        let sight = &self.sights[read.face];
        if !self.demands(read) {
            return 0;
        }
        let strong = read.consistency == Consistency::Strong;
        let certain = match strong {
            true => sight.certain_strongly,
            false => sight.certain,
        };
        let beside = |id: &&str| {
            let known = self.ids[*id];
            match strong {
                true => !known.is_certain_strongly(read.face),
                false => !known.is_certain(read.face),
            }
        };
        sight
            .count
            .max(certain + token.filter(beside).count() as u64)
    }

    /// Whether an exact answer must count the id, were it given without a token.
    pub fn is_certain(&self, read: &Read, id: &str) -> bool {
        let Some(known) = self.ids.get(id) else {
            return false;
        };
        let certain = match read.consistency {
            Consistency::Strong => known.is_certain_strongly(read.face),
            _ => known.is_certain(read.face),
        };
        self.demands(read) && certain
    }

    /// Nobody asks a life that has ended: what came since says nothing of it.
    fn demands(&self, read: &Read) -> bool {
        read.life == self.sights[read.face].life && read.consistency != Consistency::Eventual
    }

    /// An exact answer has shown this count.
    pub fn note_count(&mut self, read: &Read, count: u64) {
        let attempted = self.attempted();
        let sight = &mut self.sights[read.face];
        if read.life != sight.life {
            return;
        }
        sight.count = sight.count.max(count);
        // A count of everything shows each of the items.
        if count == attempted && sight.certain < attempted {
            for id in self.order.clone() {
                self.note_item(read, &id);
            }
        }
    }

    /// An exact answer has shown that this item is counted.
    pub fn note_item(&mut self, read: &Read, id: &str) {
        if read.life == self.sights[read.face].life {
            self.learn(id, |known| known.shown_by |= 1 << read.face);
        }
    }
}
