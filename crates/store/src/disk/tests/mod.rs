//! Crashes and failing disks: the store on simulated files that lose unsynced data.
//!
//! Invariant: whichever operation fails, and at any time, a reopened store contains the last commit
//! that returned, or the complete commit that was in flight. It stays at that commit through later
//! crashes.

mod checkpoint;
mod crash;
mod garbage;
mod memory;
mod sim;
