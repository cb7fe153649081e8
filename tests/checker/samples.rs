//! Events for the checker's own tests, in short.
//!
//! Invariant: a read is of coordinator 0 in its first life, in session, unless it says otherwise.

use super::*;

pub fn item(tenant: &str, id: &str) -> Item {
    Item {
        tenant: tenant.to_owned(),
        id: id.to_owned(),
    }
}

impl Ledger {
    pub fn attempts(&mut self, tenant: &str, ids: &[&str]) {
        for id in ids {
            self.attempt(&item(tenant, id));
        }
    }

    /// Gives the token.
    pub fn posts(&mut self, face: usize, tenant: &str, ids: &[&str]) -> Token {
        self.attempts(tenant, ids);
        let items: Vec<_> = ids.iter().map(|id| item(tenant, id)).collect();
        self.acknowledge(face, &items, "a token");
        self.tokens.back().expect("just kept").clone()
    }

    /// A session read of coordinator 0 in its first life, begun and answered.
    pub fn reads(&mut self, what: What, shown: Shown) -> Result<bool, Violation> {
        self.reads_as(read(what), shown)
    }

    pub fn reads_as(&mut self, read: Read, shown: Shown) -> Result<bool, Violation> {
        let begun = self.begin(read);
        self.judge(&begun, &exact(shown))
    }
}

pub fn exact(shown: Shown) -> Answer {
    Answer { exact: true, shown }
}

pub fn inexact(shown: Shown) -> Answer {
    Answer {
        exact: false,
        shown,
    }
}

pub fn read(what: What) -> Read {
    Read {
        face: 0,
        life: 1,
        what,
        consistency: Consistency::Session,
        after: None,
        timeout_ms: 0,
    }
}

impl Read {
    pub fn at(self, face: usize, life: u64) -> Self {
        Self { face, life, ..self }
    }

    pub fn consistency(self, consistency: Consistency) -> Self {
        Self {
            consistency,
            ..self
        }
    }

    pub fn after(self, token: &Token) -> Self {
        let after = Some(token.clone());
        Self { after, ..self }
    }
}

pub fn count_of(tenant: &str) -> What {
    What::Counts(vec![tenant.to_owned()])
}

pub fn count(count: u64) -> Shown {
    Shown::Counts(vec![count])
}
