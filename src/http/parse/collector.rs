//! Checking items one by one, and gathering them by tenant or their faults.
//!
//! Invariant: once there is a fault, no items come out.

use super::json::{Field, RawItem};
use super::{INVALID_ITEMS_MAX, ItemError, Items, ParseError};
use crate::model::{
    ItemHash, NameError, TenantItems, TenantName, check_item_id, check_tenant, merge_by_tenant,
};

/// Gathers valid items by tenant, and faults.
pub(super) struct Collector {
    items_max: usize,
    items: Items,
    errors: Vec<ItemError>,
    invalid_items: usize,
    pub too_many: bool,
}

impl Collector {
    pub fn new(items_max: usize) -> Self {
        Self {
            items_max,
            items: Items::default(),
            errors: Vec::new(),
            invalid_items: 0,
            too_many: false,
        }
    }

    /// Takes the item of `index`; `position` is its place in the body's array, if that is one.
    pub fn take(&mut self, index: usize, position: Option<usize>, item: &RawItem<'_>) {
        if self.items.count >= self.items_max {
            self.too_many = true;
            return;
        }
        self.items.count += 1;
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
        if self.invalid_items <= INVALID_ITEMS_MAX {
            self.errors.push(ItemError {
                index,
                pointer,
                detail,
            });
        }
    }

    fn add(&mut self, tenant: &str, hash: ItemHash) {
        if !self.errors.is_empty() {
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

    pub fn finish(self) -> Result<Items, ParseError> {
        if self.errors.is_empty() {
            Ok(Items {
                tenants: merge_by_tenant(self.items.tenants),
                count: self.items.count,
            })
        } else {
            Err(ParseError::Invalid(self.errors))
        }
    }
}
