//! Simulated files in folders: they keep what was synced, and of the rest what chance says.
//!
//! Invariant: what [`SimFiles::crash`] leaves is a state that the contracts of [`Files`] and
//! [`Nested`] allow.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::files::{FileId, Files, Nested, RawFile};

#[path = "sim_file.rs"]
mod file;
#[path = "sim_folders.rs"]
mod folders;

/// What a disk keeps or loses at once.
const SECTOR_BYTES: u64 = 512;

/// A small generator of random numbers (splitmix64, <https://prng.di.unimi.it/splitmix64.c>).
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

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The machine dies: this operation is half done, none follows.
    Crash,
    /// This operation fails. A write may have written a part; what a sync should have synced never
    /// will be, though it can still be read.
    Error,
    /// From here on there is room for so many bytes more.
    Full(u64),
    /// The same on a disk that takes room for what is overwritten, too, once for each sync.
    FullCopying(u64),
}

/// What a name stands for: one of the disk's contents, or one of its folders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    File(usize),
    Folder(usize),
}

type Names = BTreeMap<String, Entry>;

/// One change of names: what each stands for afterwards.
type Change = Vec<(String, Option<Entry>)>;

#[derive(Default)]
struct Content {
    /// What a reader sees.
    seen: Vec<u8>,
    /// What is on disk.
    kept: Vec<u8>,
    /// Writes since the last sync.
    unsynced: Vec<(u64, Vec<u8>)>,
}

#[derive(Default)]
struct Folder {
    /// The folder above; the topmost is its own.
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
    /// Another one, so that a full disk can crash.
    second: Option<(Fault, u64)>,
    /// Bytes that files with a name may take.
    capacity: Option<u64>,
    is_copying: bool,
    is_down: bool,
}

/// A folder of the disk. Clones are the same folder.
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
    /// Counts an operation; the fault that hits it, if one does.
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

    /// Like [`Self::step`], for operations that a fault leaves undone.
    fn whole(&mut self) -> io::Result<()> {
        match self.step()? {
            None => Ok(()),
            Some(fault) => Err(error(fault)),
        }
    }

    /// Bytes of all files with a name.
    fn used(&self) -> u64 {
        let entries = self.folders.iter().flat_map(|folder| folder.seen.values());
        let bytes = entries.map(|entry| match entry {
            Entry::File(content) => self.contents[*content].seen.len() as u64,
            Entry::Folder(_) => 0,
        });
        bytes.sum()
    }

    /// Bytes that there is room for.
    fn free(&self) -> u64 {
        let free = |capacity: u64| capacity.saturating_sub(self.used());
        self.capacity.map_or(u64::MAX, free)
    }

    /// How many of `bytes` at `at` of a content have room.
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
        Fault::Error => io::Error::other("injected"),
        Fault::Full(_) | Fault::FullCopying(_) => io::ErrorKind::StorageFull.into(),
    }
}

impl SimFiles {
    /// The topmost folder of a new disk.
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

    /// Lets `fault` hit the operation that is `after` operations ahead; any earlier fault is over,
    /// and so is want of room.
    pub(super) fn inject(&self, fault: Option<(Fault, u64)>) {
        self.inject_both(fault, None);
    }

    /// The same with two faults.
    pub(super) fn inject_both(&self, fault: Option<(Fault, u64)>, second: Option<(Fault, u64)>) {
        let mut disk = self.disk.lock();
        let now = disk.operations;
        let at = |(fault, after)| (fault, now + after);
        (disk.fault, disk.second) = (fault.map(at), second.map(at));
        (disk.capacity, disk.is_copying) = (None, false);
    }

    /// Leaves room for so many bytes from now on; for what is overwritten, too, where the disk
    /// `is_copying`.
    pub(super) fn leave_room(&self, bytes: u64, is_copying: bool) {
        let mut disk = self.disk.lock();
        disk.capacity = Some(disk.used() + bytes);
        disk.is_copying = is_copying;
    }

    /// From now on there is room for anything.
    pub(super) fn lift_capacity(&self) {
        self.disk.lock().capacity = None;
    }

    /// How many operations there were.
    pub(super) fn operations(&self) -> u64 {
        self.disk.lock().operations
    }

    /// Whether a crash was injected and hit.
    pub(super) fn is_down(&self) -> bool {
        self.disk.lock().is_down
    }

    /// The machine dies, if it did not already, and starts again.
    pub(super) fn crash(&self, random: &mut Random) {
        let mut disk = self.disk.lock();
        for content in &mut disk.contents {
            // Of each write all, none, the start, or any of its sectors.
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
