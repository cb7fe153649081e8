//! Simulated files in folders: they keep what was synced, and of the rest what chance says.
//!
//! Invariant: what [`SimFiles::crash`] leaves is a state that the contracts of [`Files`] and [`Nested`] allow.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::store::files::{FileId, Files, Nested, RawFile};

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
    /// This operation fails. A write may have written a part; what a sync should have synced never will be,
    /// though it can still be read.
    Error,
    /// From here on the disk is full.
    Full,
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
    fn step(&mut self, writes: bool) -> io::Result<Option<Fault>> {
        if self.is_down {
            return Err(io::Error::other("the machine is down"));
        }
        self.operations += 1;
        match self.fault {
            Some((Fault::Crash, at)) if self.operations == at => {
                self.is_down = true;
                Ok(Some(Fault::Crash))
            }
            Some((Fault::Error, at)) if self.operations == at => Ok(Some(Fault::Error)),
            Some((Fault::Full, at)) if self.operations >= at && writes => Ok(Some(Fault::Full)),
            _ => Ok(None),
        }
    }

    /// Like [`Self::step`], for operations that a fault leaves undone.
    fn whole(&mut self, writes: bool) -> io::Result<()> {
        match self.step(writes)? {
            None => Ok(()),
            Some(fault) => Err(error(fault)),
        }
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
        self.whole(false)?;
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
        Fault::Full => io::Error::from(io::ErrorKind::StorageFull),
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

    /// Lets `fault` hit the operation that is `after` operations ahead; any earlier fault is over.
    pub(super) fn inject(&self, fault: Option<(Fault, u64)>) {
        let mut disk = self.disk.lock();
        let now = disk.operations;
        disk.fault = fault.map(|(fault, after)| (fault, now + after));
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
        disk.fault = None;
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
        disk.whole(true)?;
        disk.contents.push(Content::default());
        let content = disk.contents.len() - 1;
        let entry = Some(Entry::File(content));
        disk.rename_all(self.number, vec![(name.to_owned(), entry)]);
        Ok(self.file(content))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn RawFile>> {
        let mut disk = self.disk.lock();
        disk.whole(false)?;
        match disk.entry(self.number, name)? {
            Entry::File(content) => Ok(self.file(content)),
            Entry::Folder(_) => Err(io::ErrorKind::IsADirectory.into()),
        }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.whole(false)?;
        let entry = disk.entry(self.number, from)?;
        let change = vec![(from.to_owned(), None), (to.to_owned(), Some(entry))];
        disk.rename_all(self.number, change);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.whole(false)?;
        disk.entry(self.number, name)?;
        disk.rename_all(self.number, vec![(name.to_owned(), None)]);
        Ok(())
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut disk = self.disk.lock();
        disk.whole(false)?;
        Ok(disk.folders[self.number].seen.keys().cloned().collect())
    }

    fn id_of(&self, name: &str) -> io::Result<FileId> {
        self.open(name)?.id()
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.disk.lock().sync_names(self.number)
    }
}

impl Nested for SimFiles {
    fn enter(&self, name: &OsStr) -> io::Result<Option<Self>> {
        let name = name.to_string_lossy();
        let mut disk = self.disk.lock();
        disk.whole(false)?;
        match disk.entry(self.number, &name) {
            Ok(Entry::Folder(number)) => Ok(Some(Self {
                folder: self.folder.join(&*name),
                number,
                disk: Arc::clone(&self.disk),
            })),
            Ok(Entry::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            Err(_) => Ok(None),
        }
    }

    fn make(&self, name: &OsStr) -> io::Result<()> {
        let name = name.to_string_lossy().into_owned();
        let mut disk = self.disk.lock();
        disk.whole(true)?;
        disk.folders.push(Folder {
            above: self.number,
            ..Folder::default()
        });
        let entry = Some(Entry::Folder(disk.folders.len() - 1));
        disk.rename_all(self.number, vec![(name, entry)]);
        Ok(())
    }

    fn settle(&self) -> io::Result<()> {
        let mut disk = self.disk.lock();
        let above = disk.folders[self.number].above;
        disk.sync_names(above)
    }
}

impl RawFile for SimFile {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.whole(false)?;
        let seen = &disk.contents[self.content].seen;
        let stored = seen.get(offset as usize..offset as usize + bytes.len());
        let stored = stored.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        bytes.copy_from_slice(stored);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut disk = self.disk.lock();
        let fault = disk.step(true)?;
        let content = &mut disk.contents[self.content];
        let bytes = match fault {
            // What a full or failing disk took before it failed.
            Some(Fault::Full | Fault::Error) => &bytes[..bytes.len() / 2],
            _ => bytes,
        };
        put(&mut content.seen, offset, bytes);
        content.unsynced.push((offset, bytes.to_owned()));
        fault.map_or(Ok(()), |fault| Err(error(fault)))
    }

    fn sync(&self) -> io::Result<()> {
        let mut disk = self.disk.lock();
        let fault = disk.step(false)?;
        let content = &mut disk.contents[self.content];
        match fault {
            None => {
                for (at, bytes) in content.unsynced.drain(..) {
                    put(&mut content.kept, at, &bytes);
                }
                Ok(())
            }
            Some(fault) => {
                if fault == Fault::Error {
                    content.unsynced.clear();
                }
                Err(error(fault))
            }
        }
    }

    fn len(&self) -> io::Result<u64> {
        let mut disk = self.disk.lock();
        disk.whole(false)?;
        Ok(disk.contents[self.content].seen.len() as u64)
    }

    fn id(&self) -> io::Result<FileId> {
        let number = self.content as u64;
        Ok(FileId { device: 0, number })
    }
}
