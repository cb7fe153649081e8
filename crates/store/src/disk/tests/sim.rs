//! Simulated files in directories. After a crash they contain the synced data and a random part of
//! the unsynced data.
//!
//! Invariant: the contracts of [`Files`] and [`Nested`] allow the state that [`SimFiles::crash`]
//! leaves.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::vfs::{FileId, Files, Nested, RawFile};

#[path = "sim_file.rs"]
mod file;
#[path = "sim_folders.rs"]
mod folders;

/// Size in bytes of the unit that a disk keeps or loses as a whole.
const SECTOR_BYTES: u64 = 512;

/// A small random number generator (splitmix64, <https://prng.di.unimi.it/splitmix64.c>).
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// A fault to inject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The machine crashes: this operation is half done, and none follows.
    Crash,
    /// This operation fails. A failed write may have written a part. After a failed sync the
    /// unsynced data can still be read, but is never synced.
    Error,
    /// From now on there is space for this number of bytes.
    Full(u64),
    /// Like `Full`, on a copy-on-write disk: overwriting also takes space, once per sync.
    FullCopying(u64),
}

/// The target of a name: a content or a directory of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    File(usize),
    Folder(usize),
}

type Names = BTreeMap<String, Entry>;

/// One change of names, with their new targets.
type Change = Vec<(String, Option<Entry>)>;

#[derive(Default)]
struct Content {
    /// The content that a reader sees.
    seen: Vec<u8>,
    /// The content that is durable.
    kept: Vec<u8>,
    /// Writes since the last sync.
    unsynced: Vec<(u64, Vec<u8>)>,
}

#[derive(Default)]
struct Folder {
    /// The parent directory. The root is its own parent.
    above: usize,
    seen: Names,
    kept: Names,
    unsynced: Vec<Change>,
}

#[derive(Default)]
struct Disk {
    contents: Vec<Content>,
    folders: Vec<Folder>,
    operations: u64,
    fault: Option<(Fault, u64)>,
    /// A second fault, so that a full disk can crash.
    second: Option<(Fault, u64)>,
    /// Maximum number of bytes of all files with a name.
    capacity: Option<u64>,
    is_copying: bool,
    is_down: bool,
}

/// A directory of the disk. Clones are the same directory.
#[derive(Clone)]
pub(super) struct SimFiles {
    folder: PathBuf,
    number: usize,
    disk: Arc<Mutex<Disk>>,
}

struct SimFile {
    disk: Arc<Mutex<Disk>>,
    content: usize,
}

fn put(bytes: &mut Vec<u8>, at: u64, new: &[u8]) {
    let end = at as usize + new.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[at as usize..end].copy_from_slice(new);
}

fn change(names: &mut Names, change: &Change) {
    for (name, entry) in change {
        match entry {
            Some(entry) => names.insert(name.clone(), *entry),
            None => names.remove(name),
        };
    }
}

impl Disk {
    /// Counts an operation. Returns the fault that hits it, if any.
    fn step(&mut self) -> io::Result<Option<Fault>> {
        if self.is_down {
            return Err(io::Error::other("the machine is down"));
        }
        self.operations += 1;
        let mut hits = None;
        for (fault, at) in [self.fault, self.second].into_iter().flatten() {
            if self.operations != at {
                continue;
            }
            match fault {
                Fault::Crash => {
                    self.is_down = true;
                    return Ok(Some(fault));
                }
                Fault::Error => hits = Some(fault),
                Fault::Full(bytes) | Fault::FullCopying(bytes) => {
                    self.capacity = Some(self.used() + bytes);
                    self.is_copying = matches!(fault, Fault::FullCopying(_));
                }
            }
        }
        Ok(hits)
    }

    /// Like [`Self::step`], for operations that have no effect if a fault hits them.
    fn whole(&mut self) -> io::Result<()> {
        match self.step()? {
            None => Ok(()),
            Some(fault) => Err(error(fault)),
        }
    }

    /// Number of bytes of all files with a name.
    fn used(&self) -> u64 {
        let entries = self.folders.iter().flat_map(|folder| folder.seen.values());
        let bytes = entries.map(|entry| match entry {
            Entry::File(content) => self.contents[*content].seen.len() as u64,
            Entry::Folder(_) => 0,
        });
        bytes.sum()
    }

    /// Number of free bytes.
    fn free(&self) -> u64 {
        let free = |capacity: u64| capacity.saturating_sub(self.used());
        self.capacity.map_or(u64::MAX, free)
    }

    /// The number of bytes, of `bytes` at offset `at` of a content, for which there is space.
    fn fits(&self, content: usize, at: u64, bytes: u64) -> u64 {
        let content = &self.contents[content];
        let is_in = |from: u64, len: u64| from <= at && at + bytes <= from + len;
        let mut unsynced = content.unsynced.iter();
        let is_paid = unsynced.any(|(from, other)| is_in(*from, other.len() as u64));
        let there = match self.is_copying && !is_paid {
            true => 0,
            false => (content.seen.len() as u64).saturating_sub(at).min(bytes),
        };
        (there.saturating_add(self.free())).min(bytes)
    }

    fn rename_all(&mut self, folder: usize, change_made: Change) {
        let folder = &mut self.folders[folder];
        change(&mut folder.seen, &change_made);
        folder.unsynced.push(change_made);
    }

    fn entry(&self, folder: usize, name: &str) -> io::Result<Entry> {
        let entry = self.folders[folder].seen.get(name);
        entry.copied().ok_or_else(not_found)
    }

    fn sync_names(&mut self, folder: usize) -> io::Result<()> {
        self.whole()?;
        let folder = &mut self.folders[folder];
        folder.kept = folder.seen.clone();
        folder.unsynced.clear();
        Ok(())
    }
}

fn error(fault: Fault) -> io::Error {
    match fault {
        Fault::Crash => io::Error::other("the machine went down"),
        Fault::Error => io::Error::other("injected fault"),
        Fault::Full(_) | Fault::FullCopying(_) => io::ErrorKind::StorageFull.into(),
    }
}

impl SimFiles {
    /// Returns the root directory of a new disk.
    pub(super) fn new() -> Self {
        let disk = Disk {
            folders: vec![Folder::default()],
            ..Disk::default()
        };
        Self {
            folder: PathBuf::from("/simulated"),
            number: 0,
            disk: Arc::new(Mutex::new(disk)),
        }
    }

    /// Injects `fault` at the operation that is `after` operations ahead. Removes any earlier fault
    /// and limit of space.
    pub(super) fn inject(&self, fault: Option<(Fault, u64)>) {
        self.inject_both(fault, None);
    }

    /// Like [`Self::inject`], with two faults.
    pub(super) fn inject_both(&self, fault: Option<(Fault, u64)>, second: Option<(Fault, u64)>) {
        let mut disk = self.disk.lock();
        let now = disk.operations;
        let at = |(fault, after)| (fault, now + after);
        (disk.fault, disk.second) = (fault.map(at), second.map(at));
        (disk.capacity, disk.is_copying) = (None, false);
    }

    /// Leaves space for `bytes` from now on. If `is_copying`, overwriting takes space too.
    pub(super) fn leave_room(&self, bytes: u64, is_copying: bool) {
        let mut disk = self.disk.lock();
        disk.capacity = Some(disk.used() + bytes);
        disk.is_copying = is_copying;
    }

    /// Removes the limit of space.
    pub(super) fn lift_capacity(&self) {
        self.disk.lock().capacity = None;
    }

    /// Number of operations so far.
    pub(super) fn operations(&self) -> u64 {
        self.disk.lock().operations
    }

    /// Whether an injected crash has occurred.
    pub(super) fn is_down(&self) -> bool {
        self.disk.lock().is_down
    }

    /// Crashes the machine, unless it is down already, and restarts it.
    pub(super) fn crash(&self, random: &mut Random) {
        let mut disk = self.disk.lock();
        for content in &mut disk.contents {
            // Each write keeps all, none, a prefix, or any subset of its sectors.
            for (at, bytes) in content.unsynced.drain(..) {
                let fate = random.below(4);
                let prefix = random.below(bytes.len() as u64 + 1);
                let mut start = 0;
                while start < bytes.len() as u64 {
                    let end = ((at + start) / SECTOR_BYTES + 1) * SECTOR_BYTES - at;
                    let end = end.min(bytes.len() as u64);
                    let is_kept = match fate {
                        0 => true,
                        1 => false,
                        2 => end <= prefix,
                        _ => random.below(2) == 0,
                    };
                    if is_kept {
                        let sector = &bytes[start as usize..end as usize];
                        put(&mut content.kept, at + start, sector);
                    }
                    start = end;
                }
            }
            content.seen = content.kept.clone();
        }
        for folder in &mut disk.folders {
            for made in std::mem::take(&mut folder.unsynced) {
                if random.below(2) == 0 {
                    change(&mut folder.kept, &made);
                }
            }
            folder.seen = folder.kept.clone();
        }
        disk.is_down = false;
        (disk.fault, disk.second) = (None, None);
    }

    fn file(&self, content: usize) -> Box<dyn RawFile> {
        Box::new(SimFile {
            disk: Arc::clone(&self.disk),
            content,
        })
    }
}

fn not_found() -> io::Error {
    io::Error::from(io::ErrorKind::NotFound)
}

impl Files for SimFiles {
    fn folder(&self) -> &Path {
        &self.folder
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn RawFile>> {
        let mut disk = self.disk.lock();
        disk.whole()?;
        if disk.free() == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        disk.contents.push(Content::default());
        let content = disk.contents.len() - 1;
        let entry = Some(Entry::File(content));
        disk.rename_all(self.number, vec![(name.to_owned(), entry)]);
        Ok(self.file(content))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn RawFile>> {
        let mut disk = self.disk.lock();
        disk.whole()?;
        match disk.entry(self.number, name)? {
            Entry::File(content) => Ok(self.file(content)),
            Entry::Folder(_) => Err(io::ErrorKind::IsADirectory.into()),
        }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.whole()?;
        let entry = disk.entry(self.number, from)?;
        let change = vec![(from.to_owned(), None), (to.to_owned(), Some(entry))];
        disk.rename_all(self.number, change);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.whole()?;
        disk.entry(self.number, name)?;
        disk.rename_all(self.number, vec![(name.to_owned(), None)]);
        Ok(())
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut disk = self.disk.lock();
        disk.whole()?;
        Ok(disk.folders[self.number].seen.keys().cloned().collect())
    }

    fn id_of(&self, name: &str) -> io::Result<FileId> {
        self.open(name)?.id()
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.disk.lock().sync_names(self.number)
    }

    fn room(&self) -> io::Result<Option<u64>> {
        let mut disk = self.disk.lock();
        disk.whole()?;
        Ok(disk.capacity.map(|_| disk.free()))
    }
}
