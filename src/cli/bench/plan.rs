//! The requests of one connection: the contents of the next request, and its bytes.
//!
//! Invariant: a new id consists of run, connection and counter, so that no two are equal, and its
//! tenant is drawn from these alone. A duplicate repeats an id of an earlier request of the same
//! connection, with the same tenant.

use std::ops::Range;
use std::sync::Arc;

use super::draw::{Draws, Tenants, below};

/// Width of `Content-Length`. HTTP ignores spaces before a header value, so that the value can be
/// filled in later.
const LENGTH_DIGITS: usize = 8;
/// Maximum number of digits of a number.
const NUMBER_DIGITS_MAX: usize = 20;

/// Kind of the requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Post items.
    Items,
    /// Read counts.
    Counts,
}

/// Settings of all connections.
#[derive(Debug)]
pub(super) struct Recipe {
    pub(super) work: Work,
    /// Value of the `Host` header.
    pub(super) authority: String,
    /// Path before `/items`.
    pub(super) base: String,
    /// Prefix of tenant names.
    pub(super) prefix: String,
    /// Prefix of ids, different for each run.
    pub(super) run: String,
    pub(super) tenants: Tenants,
    pub(super) seed: u64,
    pub(super) items_per_request: u64,
    /// Fraction of items that repeat an earlier id.
    pub(super) duplicates: f64,
    /// Consistency level of reads.
    pub(super) consistency: Option<String>,
}

/// The requests of one connection.
#[derive(Debug)]
pub(super) struct Plan {
    recipe: Arc<Recipe>,
    /// Draws the tenant of each id or of each read.
    of_tenants: Draws,
    /// Draws whether an item is a duplicate, and of which id.
    of_duplicates: Draws,
    /// Number of draws for duplicates so far.
    drawn: u64,
    /// Counters of the new ids in the last request.
    new: Range<u64>,
    /// Bytes of the last request.
    bytes: Vec<u8>,
    /// Length of the head, which is the same in each request.
    head_bytes: usize,
    /// Bytes before the counter of an id.
    before_id: Vec<u8>,
    /// Bytes between an id and its tenant's number, or before the tenant's number of a read.
    before_tenant: Vec<u8>,
    /// Bytes after the tenant's number.
    after_tenant: Vec<u8>,
}

impl Plan {
    /// Creates the plan of connection number `connection`.
    pub(super) fn new(recipe: Arc<Recipe>, connection: u32) -> Self {
        let Recipe {
            authority,
            base,
            prefix,
            run,
            ..
        } = &*recipe;
        let consistency = recipe.consistency.as_deref();
        let query = consistency.map_or(String::new(), |level| format!("?consistency={level}"));
        let (head, before_id, before_tenant, after_tenant) = match recipe.work {
            Work::Items => (
                format!(
                    "POST {base}/items HTTP/1.1\r\nHost: {authority}\r\n\
                     Content-Type: application/json\r\nContent-Length:{:LENGTH_DIGITS$}\r\n\r\n",
                    ""
                ),
                format!("{{\"id\":\"{run}-{connection}-"),
                format!("\",\"tenant\":\"{prefix}-t"),
                "\"}".to_owned(),
            ),
            Work::Counts => (
                String::new(),
                String::new(),
                format!("GET {base}/items/{prefix}-t"),
                format!("/count{query} HTTP/1.1\r\nHost: {authority}\r\n\r\n"),
            ),
        };
        let stream = 2 * u64::from(connection);
        Self {
            of_tenants: Draws::new(recipe.seed, stream),
            of_duplicates: Draws::new(recipe.seed, stream + 1),
            drawn: 0,
            new: 0..0,
            head_bytes: head.len(),
            bytes: head.into_bytes(),
            before_id: before_id.into_bytes(),
            before_tenant: before_tenant.into_bytes(),
            after_tenant: after_tenant.into_bytes(),
            recipe,
        }
    }

    /// Builds the next request.
    pub(super) fn advance(&mut self) {
        self.bytes.truncate(self.head_bytes);
        self.new = self.new.end..self.new.end;
        match self.recipe.work {
            Work::Items => self.make_post(),
            Work::Counts => {
                self.new.end += 1;
                self.push_tenant(self.new.start);
            }
        }
    }

    /// The bytes of the last request.
    pub(super) fn request(&self) -> &[u8] {
        &self.bytes
    }

    /// The tenant of each new id in the last request.
    pub(super) fn new_tenants(&self) -> impl ExactSizeIterator<Item = u32> {
        let new = match self.recipe.work {
            Work::Items => self.new.clone(),
            Work::Counts => 0..0,
        };
        (new.start as usize..new.end as usize).map(|counter| self.tenant(counter as u64))
    }

    /// The number of items per request.
    pub(super) fn items(&self) -> u64 {
        match self.recipe.work {
            Work::Items => self.recipe.items_per_request,
            Work::Counts => 0,
        }
    }

    fn make_post(&mut self) {
        let many = self.recipe.items_per_request > 1;
        if many {
            self.bytes.push(b'[');
        }
        for item in 0..self.recipe.items_per_request {
            if item > 0 {
                self.bytes.push(b',');
            }
            let counter = self.next_counter();
            self.bytes.extend_from_slice(&self.before_id);
            push_number(&mut self.bytes, counter);
            self.push_tenant(counter);
        }
        if many {
            self.bytes.push(b']');
        }
        let body_bytes = (self.bytes.len() - self.head_bytes) as u64;
        let digits = Digits::of(body_bytes);
        let end = self.head_bytes - "\r\n\r\n".len();
        self.bytes[end - LENGTH_DIGITS..end].fill(b' ');
        self.bytes[end - digits.text().len()..end].copy_from_slice(digits.text());
    }

    /// The counter of a new id or, with the probability `duplicates`, of an id in an earlier
    /// request.
    fn next_counter(&mut self) -> u64 {
        let earlier = self.new.start;
        if self.recipe.duplicates > 0.0 && earlier > 0 {
            let coin = self.of_duplicates.bits(self.drawn);
            let pick = self.of_duplicates.bits(self.drawn + 1);
            self.drawn += 2;
            if (coin as f64) < self.recipe.duplicates * u64::MAX as f64 {
                return below(pick, earlier);
            }
        }
        let counter = self.new.end;
        self.new.end += 1;
        counter
    }

    fn tenant(&self, counter: u64) -> u32 {
        self.recipe.tenants.draw(self.of_tenants.bits(counter))
    }

    fn push_tenant(&mut self, counter: u64) {
        let tenant = self.tenant(counter);
        self.bytes.extend_from_slice(&self.before_tenant);
        push_number(&mut self.bytes, tenant.into());
        self.bytes.extend_from_slice(&self.after_tenant);
    }
}

/// The decimal digits of a number, formatted without the cost of `fmt`.
struct Digits {
    digits: [u8; NUMBER_DIGITS_MAX],
    start: usize,
}

impl Digits {
    fn of(mut number: u64) -> Self {
        let mut digits = [0; NUMBER_DIGITS_MAX];
        let mut start = NUMBER_DIGITS_MAX;
        loop {
            start -= 1;
            digits[start] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                return Self { digits, start };
            }
        }
    }

    fn text(&self) -> &[u8] {
        &self.digits[self.start..]
    }
}

fn push_number(bytes: &mut Vec<u8>, number: u64) {
    bytes.extend_from_slice(Digits::of(number).text());
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use serde_json::Value;

    use super::*;

    fn recipe(work: Work, items_per_request: u64, duplicates: f64) -> Recipe {
        Recipe {
            work,
            authority: "a:1".to_owned(),
            base: "/x".to_owned(),
            prefix: "p".to_owned(),
            run: "r".to_owned(),
            tenants: Tenants::new(7, 1.0),
            seed: 1,
            items_per_request,
            duplicates,
            consistency: Some("strong".to_owned()),
        }
    }

    /// The head and the items of the next request of a plan.
    fn next(plan: &mut Plan) -> (String, Vec<(String, String)>) {
        plan.advance();
        let text = std::str::from_utf8(plan.request()).expect("UTF-8");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("Content-Length:"));
        let length: usize = length.expect("a length").trim().parse().expect("a number");
        assert_eq!(length, body.len());
        let items = match serde_json::from_str(body).expect("JSON") {
            Value::Array(items) => items,
            one => vec![one],
        };
        let text = |item: &Value, name: &str| item[name].as_str().expect("text").to_owned();
        let pairs = items
            .iter()
            .map(|item| (text(item, "id"), text(item, "tenant")));
        (head.to_owned(), pairs.collect())
    }

    #[test]
    fn a_single_item_is_an_object() {
        let mut plan = Plan::new(Arc::new(recipe(Work::Items, 1, 0.0)), 3);
        for counter in 0..1_200 {
            let (head, items) = next(&mut plan);
            assert!(
                head.starts_with("POST /x/items HTTP/1.1\r\nHost: a:1\r\n"),
                "{head}"
            );
            assert_eq!(items[0].0, format!("r-3-{counter}"));
            let tenants: Vec<String> = plan.new_tenants().map(|n| format!("p-t{n}")).collect();
            assert_eq!(tenants, [items[0].1.clone()]);
        }
        assert!(plan.request().starts_with(b"POST") && !plan.request().contains(&b'['));
    }

    #[test]
    fn duplicates_repeat_items_of_earlier_requests() {
        let mut plan = Plan::new(Arc::new(recipe(Work::Items, 10, 0.3)), 0);
        let mut seen: HashMap<String, String> = HashMap::new();
        let mut repeated = 0;
        for _ in 0..2_000 {
            let (_, items) = next(&mut plan);
            assert_eq!(items.len(), 10);
            let (old, new): (Vec<_>, Vec<_>) =
                items.into_iter().partition(|(id, _)| seen.contains_key(id));
            for (id, tenant) in &old {
                assert_eq!(seen.get(id), Some(tenant));
            }
            repeated += old.len();
            let tenants: Vec<String> = plan.new_tenants().map(|n| format!("p-t{n}")).collect();
            let of_new: Vec<&String> = new.iter().map(|(_, tenant)| tenant).collect();
            assert_eq!(of_new, tenants.iter().collect::<Vec<_>>());
            let ids: HashSet<&String> = new.iter().map(|(id, _)| id).collect();
            assert_eq!(ids.len(), new.len());
            seen.extend(new);
        }
        assert!((5_700..6_300).contains(&repeated), "{repeated}");
    }

    #[test]
    fn a_read_asks_for_a_count() {
        let mut plan = Plan::new(Arc::new(recipe(Work::Counts, 1, 0.0)), 0);
        let mut asked = HashSet::new();
        for _ in 0..200 {
            plan.advance();
            let text = String::from_utf8(plan.request().to_vec()).expect("UTF-8");
            let rest = text.strip_prefix("GET /x/items/p-t").expect("a path");
            let end = "/count?consistency=strong HTTP/1.1\r\nHost: a:1\r\n\r\n";
            asked.insert(rest.strip_suffix(end).expect("a query").to_owned());
            assert_eq!(plan.new_tenants().len(), 0);
        }
        assert_eq!(asked.len(), 7);
    }

    #[test]
    fn numbers_are_written_in_decimal() {
        for number in [0, 9, 10, 1_234_567, u64::MAX] {
            let mut bytes = Vec::new();
            push_number(&mut bytes, number);
            assert_eq!(bytes, number.to_string().as_bytes());
        }
    }
}
