//! Crashes and failing disks: the store on simulated files that lose what was not synced.
//!
//! Invariant: whatever fails and whenever, a reopened store holds the last commit that returned, or
//! the one that was being made, whole; and it stays at that through later crashes.

mod checkpoint;
mod crash;
mod garbage;
mod memory;
mod sim;
