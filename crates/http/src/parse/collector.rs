//! Validates items one by one, and collects them by tenant, or collects their errors.
//!
//! Invariant: after the first error no items are returned, unless invalid items are left out.

use super::json::{Field, RawItem};
use super::{INVALID_ITEMS_MAX, Invalid, ItemError, Items, ParseError};
use headcount_model::{
    ItemHash, NameError, TenantItems, TenantName, check_item_id, check_tenant, merge_by_tenant,
};

/// Size of an error without its texts, in bytes: an estimate that is rather too large. The texts
/// count twice, because they are kept once and written once.
const FAULT_BYTES: usize = size_of::<ItemError>() + 64;

/// Collects valid items by tenant, and errors.
pub(super) struct Collector<'r> {
    items_max: usize,
    /// The number of items read, valid or not.
    read: usize,
    items: Items,
    errors: Vec<ItemError>,
    invalid_items: usize,
    invalid: Invalid<'r>,
    stopped: Option<Stop>,
}

/// Why reading stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    TooMany,
    NoRoom,
}

impl<'r> Collector<'r> {
    pub(super) fn new(items_max: usize, invalid: Invalid<'r>) -> Self {
        Self {
            items_max,
            read: 0,
            items: Items::default(),
            errors: Vec::new(),
            invalid_items: 0,
            invalid,
            stopped: None,
        }
    }

    /// Discards everything collected, to read the same body in another way.
    pub(super) fn start_again(&mut self) {
        self.read = 0;
        self.items = Items::default();
        self.errors.clear();
        self.invalid_items = 0;
        self.stopped = None;
    }

    /// Whether reading must stop: the body is rejected, whatever follows.
    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.is_some()
    }

    /// Whether invalid items are left out.
    pub(super) fn leaves_out(&self) -> bool {
        matches!(self.invalid, Invalid::IsLeftOut(_))
    }

    /// Adds the item with this index. `position` is its place in the array, if the body is one.
    pub(super) fn take(&mut self, index: usize, position: Option<usize>, item: &RawItem<'_>) {
        if !self.has_room() {
            return;
        }
        let base = position.map_or(String::new(), |position| format!("/{position}"));
        match item {
            RawItem::Other(found) => {
                let detail =
                    format!("must be an object with the fields id and tenant, not {found}");
                self.fault(index, base, detail);
            }
            RawItem::Object { id, tenant } => {
                let id = self.field(index, &base, "id", id, check_item_id);
                let tenant = self.field(index, &base, "tenant", tenant, check_tenant);
                if let (Some(id), Some(tenant)) = (id, tenant) {
                    self.add(tenant, ItemHash::of_id(id));
                }
            }
        }
    }

    /// Adds the error of an element with this index that is not valid JSON.
    pub(super) fn take_broken(&mut self, index: usize, detail: String) {
        if self.has_room() {
            self.fault(index, String::new(), detail);
        }
    }

    fn has_room(&mut self) -> bool {
        if self.read >= self.items_max {
            self.stopped = Some(Stop::TooMany);
            return false;
        }
        self.read += 1;
        true
    }

    fn field<'i>(
        &mut self,
        index: usize,
        base: &str,
        name: &str,
        field: &'i Field<'_>,
        check: fn(&str) -> Result<(), NameError>,
    ) -> Option<&'i str> {
        let detail = match field {
            Field::Text(text) => match check(text) {
                Ok(()) => return Some(text),
                Err(error) => format!("{name} {error}"),
            },
            Field::Missing => format!("{name} is missing"),
            Field::Repeated => format!("{name} occurs more than once"),
            Field::Unpaired => {
                format!("{name} must not contain one half of a surrogate pair (\\ud800 to \\udfff)")
            }
            Field::Other(found) => format!("{name} must be a string, not {found}"),
        };
        self.fault(index, format!("{base}/{name}"), detail);
        None
    }

    fn fault(&mut self, index: usize, pointer: String, detail: String) {
        // The errors of an item are consecutive.
        if self.errors.last().is_none_or(|last| last.index != index) {
            self.invalid_items += 1;
        }
        let is_named = match &mut self.invalid {
            Invalid::RefusesAll => self.invalid_items <= INVALID_ITEMS_MAX,
            Invalid::IsLeftOut(room) => {
                let has_room = room(FAULT_BYTES + 2 * (pointer.len() + detail.len()));
                if !has_room {
                    self.stopped = Some(Stop::NoRoom);
                }
                has_room
            }
        };
        if is_named {
            self.errors.push(ItemError {
                index,
                pointer,
                detail,
            });
        }
    }

    fn add(&mut self, tenant: &str, hash: ItemHash) {
        if !self.errors.is_empty() && !self.leaves_out() {
            return;
        }
        // Consecutive items often have the same tenant.
        if let Some(last) = self.items.tenants.last_mut()
            && last.tenant.as_str() == tenant
        {
            last.hashes.push(hash);
            return;
        }
        // `check_tenant` passed, so the name is valid.
        if let Ok(tenant) = TenantName::new(tenant) {
            let hashes = [hash].into();
            self.items.tenants.push(TenantItems { tenant, hashes });
        }
    }

    pub(super) fn finish(self) -> Result<Items, ParseError> {
        match self.stopped {
            Some(Stop::TooMany) => return Err(ParseError::TooMany(self.items_max)),
            Some(Stop::NoRoom) => return Err(ParseError::NoRoom),
            None => {}
        }
        if !self.errors.is_empty() && !self.leaves_out() {
            return Err(ParseError::Invalid(self.errors));
        }
        Ok(Items {
            tenants: merge_by_tenant(self.items.tenants),
            count: self.read - self.invalid_items,
            left_out: self.errors,
        })
    }
}
