//! Checking items one by one, and gathering them by tenant or their faults.
//!
//! Invariant: once there is a fault, no items come out, unless those without faults were asked for.

use super::json::{Field, RawItem};
use super::{INVALID_ITEMS_MAX, Invalid, ItemError, Items, ParseError};
use headcount_model::{
    ItemHash, NameError, TenantItems, TenantName, check_item_id, check_tenant, merge_by_tenant,
};

/// Bytes that a fault takes beside its texts, which are kept once and written once: about, and
/// rather too many.
const FAULT_BYTES: usize = size_of::<ItemError>() + 64;

/// Gathers valid items by tenant, and faults.
pub(super) struct Collector<'r> {
    items_max: usize,
    /// Items read, valid or not.
    read: usize,
    items: Items,
    errors: Vec<ItemError>,
    invalid_items: usize,
    invalid: Invalid<'r>,
    stopped: Option<Stop>,
}

/// Why no more is read.
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

    /// Forgets what it has gathered, to read the same body in another way.
    pub(super) fn start_again(&mut self) {
        self.read = 0;
        self.items = Items::default();
        self.errors.clear();
        self.invalid_items = 0;
        self.stopped = None;
    }

    /// Whether nothing more is to be read: whatever follows, the body is refused.
    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.is_some()
    }

    /// Whether the valid items count without the others.
    pub(super) fn leaves_out(&self) -> bool {
        matches!(self.invalid, Invalid::IsLeftOut(_))
    }

    /// Takes the item of `index`; `position` is its place in the body's array, if that is one.
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

    /// Takes what stands in the place of the item of `index` and is none by its form.
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
            Field::Repeated => format!("{name} is there more than once"),
            Field::Unpaired => {
                format!("{name} must not contain one half of a surrogate pair (\\ud800 to \\udfff)")
            }
            Field::Other(found) => format!("{name} must be a string, not {found}"),
        };
        self.fault(index, format!("{base}/{name}"), detail);
        None
    }

    fn fault(&mut self, index: usize, pointer: String, detail: String) {
        // An item's faults come one after another.
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
        // Neighbours often share their tenant.
        if let Some(last) = self.items.tenants.last_mut()
            && last.tenant.as_str() == tenant
        {
            last.hashes.push(hash);
            return;
        }
        // The check above passed, so the name is valid.
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
