//! The journal: the commits since the last checkpoint, in numbered segments, one segment per
//! memtable.
//!
//! Invariant: the records of a segment are the commits from its base on, without a gap. The bytes
//! after the last record are zeros, records of older segments with their own salts, or remains of
//! records without their headers: of a record that was in flight when the process or the machine
//! died, and of records for which there was no space.
//!
//! Layout of a segment, little-endian: header, [`HEAD_BYTES`]: magic `HCJS`, version (u32), segment
//! (u64), base (u64, the number of its first commit), salt (u64, random), bytes after the header
//! when the segment was made (u64; the file never has fewer), CRC-32 of these (u32), zeros; then
//! records (see [`super::record`]). A segment gets its name after its header is on disk.
//!
//! Overwriting and syncing is almost twice as fast as appending. Therefore a segment grows by zeros
//! that are written ahead of the records, and a flushed segment becomes the space of the next one:
//! its old records do not have the new salt.

use super::super::{Key, StoreError, WriteBatch};
use super::memtable::random;
use super::record::{self, ALIGN_BYTES, Commit, Head};
use crate::bytes::{Cursor, START_BYTES};
use crate::vfs::{DiskFile, FileId, Files, TEMPORARY};

const MAGIC: [u8; 4] = *b"HCJS";
const VERSION: u32 = 1;
pub(super) const HEAD_BYTES: usize = 64;
/// Bytes of the header before its checksum.
pub(super) const HEAD_FIELDS_BYTES: usize = 40;
/// Size in bytes of one write of zeros, and of one read in the search after the last record.
const CHUNK_BYTES: usize = 256 * 1024;

/// Returns the file name of a segment.
pub(super) fn name(segment: u64) -> String {
    format!("journal-{segment:016x}")
}

/// Returns the file name of the spare segment: a flushed segment that becomes the space of the next
/// one. Its content is not needed.
pub(super) fn spare_name() -> String {
    format!("journal-spare{TEMPORARY}")
}

/// The segment that commits are appended to.
pub(super) struct Journal {
    file: DiskFile,
    /// The file's name, and its identity at the time it was opened.
    name: String,
    id: FileId,
    pub(super) segment: u64,
    salt: u64,
    position: u64,
    /// The length of the file. All bytes before it were written at least once.
    written: u64,
    ahead_bytes: u64,
    record: Vec<u8>,
}

impl Journal {
    /// Makes a new segment with `base` as its first commit. Reuses the spare segment of
    /// `spare_bytes`, if there is one.
    pub(super) fn create(
        files: &dyn Files,
        segment: u64,
        base: u64,
        ahead_bytes: u64,
        spare_bytes: Option<u64>,
    ) -> Result<Self, StoreError> {
        let temporary = match spare_bytes {
            Some(_) => spare_name(),
            None => format!("{}{TEMPORARY}", name(segment)),
        };
        let made = Self::make(files, segment, base, ahead_bytes, &temporary, spare_bytes);
        made.inspect_err(|error| {
            if error.is_full() && spare_bytes.is_none() {
                // If the removal fails, the next attempt overwrites the file, or the next opening
                // removes it.
                let _ = files.remove(&temporary);
            }
        })
    }

    fn make(
        files: &dyn Files,
        segment: u64,
        base: u64,
        ahead_bytes: u64,
        temporary: &str,
        spare_bytes: Option<u64>,
    ) -> Result<Self, StoreError> {
        let name = name(segment);
        let (file, written) = match spare_bytes {
            Some(bytes) => (files.open_file(temporary)?, bytes),
            None => {
                let file = files.create_file(temporary)?;
                let end = HEAD_BYTES as u64 + ahead_bytes;
                write_zeros(&file, HEAD_BYTES as u64, end)?;
                (file, end)
            }
        };
        let salt = random();
        let behind_bytes = written - HEAD_BYTES as u64;
        file.write_at(&encode_head(segment, base, salt, behind_bytes), 0)?;
        file.sync()?;
        files.settle_name(temporary, &name)?;
        Ok(Self {
            id: file.id()?,
            file,
            name,
            segment,
            salt,
            position: HEAD_BYTES as u64,
            written,
            ahead_bytes,
            record: Vec::new(),
        })
    }

    /// Makes one commit durable. If there is no space for it ([`StoreError::Full`]), the journal
    /// does not change.
    pub(super) fn append(
        &mut self,
        commit: u64,
        staged: &WriteBatch,
        keys: &[Key],
    ) -> Result<(), StoreError> {
        if !record::encode(&mut self.record, self.salt, commit, staged, keys) {
            return Err(StoreError::CommitTooLarge {
                bytes_max: record::PAYLOAD_BYTES_MAX as u64,
            });
        }
        let end = self.position + self.record.len() as u64;
        if end > self.written {
            write_zeros(&self.file, end, end + self.ahead_bytes)?;
            self.written = end + self.ahead_bytes;
        }
        if let Err(error) = self.file.write_at(&self.record, self.position) {
            if error.is_full() {
                self.retract().map_err(StoreError::final_now)?;
            }
            return Err(error);
        }
        self.file.sync()?;
        self.position = end;
        // Releases the memory of a huge commit.
        self.record.shrink_to(CHUNK_BYTES);
        Ok(())
    }

    /// Ensures that no opening takes the last record, which failed for lack of space, for a commit.
    /// It may be written completely except for the zeros at its end. Without its header it is not a
    /// record. A partial header never matches its checksum, so it can stay.
    #[cold]
    fn retract(&self) -> Result<(), StoreError> {
        let mut head = [0; record::HEAD_BYTES];
        if self.file.len()? < self.position + head.len() as u64 {
            return Ok(());
        }
        self.file.read_at(&mut head, self.position)?;
        if !self.record.starts_with(&head) {
            return Ok(());
        }
        self.file
            .write_at(&[0; record::HEAD_BYTES], self.position)?;
        // The sync must end before the commit is reported as failed.
        self.file.sync()
    }

    /// Checks that the segment's name still leads to this file. If not, the next start would not
    /// find its commits.
    pub(super) fn check_name(&self, files: &dyn Files) -> Result<(), StoreError> {
        files.check_name(&self.name, &self.file, self.id)
    }

    /// Size of header and records so far, in bytes.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Size of the file in bytes.
    pub(super) fn disk_bytes(&self) -> u64 {
        self.written
    }

    /// Whether the segment contains no commit.
    pub(super) fn is_empty(&self) -> bool {
        self.position == HEAD_BYTES as u64
    }
}

fn encode_head(segment: u64, base: u64, salt: u64, behind_bytes: u64) -> Vec<u8> {
    let mut head = Vec::with_capacity(HEAD_BYTES);
    head.extend_from_slice(&MAGIC);
    head.extend_from_slice(&VERSION.to_le_bytes());
    head.extend_from_slice(&segment.to_le_bytes());
    head.extend_from_slice(&base.to_le_bytes());
    head.extend_from_slice(&salt.to_le_bytes());
    head.extend_from_slice(&behind_bytes.to_le_bytes());
    let crc = crc32fast::hash(&head);
    head.extend_from_slice(&crc.to_le_bytes());
    head.resize(HEAD_BYTES, 0);
    head
}

fn write_zeros(file: &DiskFile, from: u64, to: u64) -> Result<(), StoreError> {
    let zeros = vec![0; CHUNK_BYTES.min(to.saturating_sub(from) as usize)];
    let mut at = from;
    while at < to {
        let bytes = zeros.len().min((to - at) as usize);
        file.write_at(&zeros[..bytes], at)?;
        at += bytes as u64;
    }
    Ok(())
}

/// Reads a segment at opening. It writes nothing before [`Self::into_journal`].
pub(super) struct SegmentReader {
    file: DiskFile,
    segment: u64,
    salt: u64,
    len: u64,
    /// The offset of the last commit's record, if there is one.
    last_at: Option<u64>,
    position: u64,
    next_commit: u64,
}

impl SegmentReader {
    /// Opens the segment and checks its header.
    pub(super) fn open(files: &dyn Files, segment: u64) -> Result<Self, StoreError> {
        let file = files.open_file(&name(segment))?;
        let len = file.len()?;
        let mut head = [0; HEAD_BYTES];
        if len < HEAD_BYTES as u64 {
            return Err(file.damaged(len, "the file is shorter than its header"));
        }
        file.read_at(&mut head, 0)?;
        file.check_head(&head, MAGIC, VERSION, "a journal segment")?;
        let mut cursor = Cursor::new(&head[START_BYTES..]);
        let (its_segment, base, salt) = (cursor.u64(), cursor.u64(), cursor.u64());
        let behind_bytes = cursor.u64().unwrap_or_default();
        let crc = crc32fast::hash(&head[..HEAD_FIELDS_BYTES]);
        if cursor.u32() != Some(crc) || its_segment != Some(segment) {
            return Err(file.damaged(0, "the header is corrupt"));
        }
        if len < (HEAD_BYTES as u64).saturating_add(behind_bytes) {
            return Err(file.damaged(len, "the file is shorter than when it was made"));
        }
        Ok(Self {
            file,
            segment,
            salt: salt.unwrap_or_default(),
            len,
            last_at: None,
            position: HEAD_BYTES as u64,
            next_commit: base.unwrap_or_default(),
        })
    }

    /// The number of the next commit.
    pub(super) fn next_commit(&self) -> u64 {
        self.next_commit
    }

    /// Makes an error about the record that was read last.
    pub(super) fn bad_record(&self, detail: &str) -> StoreError {
        self.file
            .damaged(self.last_at.unwrap_or(self.position), detail)
    }

    /// Makes an error about the bytes after the last record, or about the header if there is no
    /// record.
    pub(super) fn bad_end(&self, detail: &str) -> StoreError {
        self.file.damaged(self.position, detail)
    }

    /// Reads the next commit. Returns `None` at the end of the valid records.
    pub(super) fn next(&mut self) -> Result<Option<Commit>, StoreError> {
        let Some((head, payload)) = self.record_at(self.position)? else {
            return Ok(None);
        };
        if head.commit != self.next_commit {
            let detail = format!("commit {} is missing", self.next_commit);
            return Err(self.file.damaged(self.position, detail));
        }
        let commit = Commit::decode(&payload).ok_or_else(|| {
            self.file
                .damaged(self.position, "the record of a commit has an invalid field")
        })?;
        self.last_at = Some(self.position);
        self.position += head.record_bytes();
        self.next_commit += 1;
        Ok(Some(commit))
    }

    /// Reads the record of this segment at `offset`. Returns `None` if there is no valid record.
    fn record_at(&self, offset: u64) -> Result<Option<(Head, Vec<u8>)>, StoreError> {
        let mut head = [0; record::HEAD_BYTES];
        let payload_at = offset + record::HEAD_BYTES as u64;
        if payload_at > self.len {
            return Ok(None);
        }
        self.file.read_at(&mut head, offset)?;
        let Some(head) = Head::decode(&head).filter(|head| head.salt == self.salt) else {
            return Ok(None);
        };
        if head.payload_bytes as usize > record::PAYLOAD_BYTES_MAX {
            let detail = "the record of a commit exceeds the maximum length";
            return Err(self.file.damaged(offset, detail));
        }
        if payload_at + u64::from(head.payload_bytes) > self.len {
            return Ok(None);
        }
        let mut payload = vec![0; head.payload_bytes as usize];
        self.file.read_at(&mut payload, payload_at)?;
        let intact = crc32fast::hash(&payload) == head.payload_crc;
        Ok(intact.then_some((head, payload)))
    }

    /// Checks that no valid record follows the last one. One commit is in flight at a time, so an
    /// invalid record before a valid one was acknowledged earlier, and is damage rather than a torn
    /// write.
    pub(super) fn check_tail(&self) -> Result<(), StoreError> {
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut at = self.position;
        while at < self.len {
            let bytes = chunk.len().min((self.len - at) as usize);
            self.file.read_at(&mut chunk[..bytes], at)?;
            for (slot, start) in (at..)
                .step_by(ALIGN_BYTES)
                .zip(chunk[..bytes].chunks(ALIGN_BYTES))
            {
                if start.starts_with(&record::MAGIC) && self.record_at(slot)?.is_some() {
                    let detail = format!(
                        "the record of a commit is corrupt, but a later one, at byte {slot}, \
                         is valid"
                    );
                    return Err(self.file.damaged(self.position, detail));
                }
            }
            at += bytes as u64;
        }
        Ok(())
    }

    /// Continues the segment after its last record.
    ///
    /// Writes the last record again: the process that wrote it may have died before the sync, or
    /// the sync may have failed, after which an operating system may treat its pages as clean
    /// (<https://lwn.net/Articles/752063/>). Overwrites the remains of a torn record with zeros.
    pub(super) fn into_journal(self, ahead_bytes: u64) -> Result<Journal, StoreError> {
        if let Some(last_at) = self.last_at {
            let mut record = vec![0; (self.position - last_at).min(self.len - last_at) as usize];
            self.file.read_at(&mut record, last_at)?;
            self.file.write_at(&record, last_at)?;
        }
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut at = self.position;
        while at < self.len {
            let bytes = chunk.len().min((self.len - at) as usize);
            self.file.read_at(&mut chunk[..bytes], at)?;
            if chunk[..bytes].iter().any(|byte| *byte != 0) {
                write_zeros(&self.file, at, at + bytes as u64)?;
            }
            at += bytes as u64;
        }
        self.file.sync()?;
        Ok(Journal {
            id: self.file.id()?,
            file: self.file,
            name: name(self.segment),
            segment: self.segment,
            salt: self.salt,
            position: self.position,
            written: self.len.max(self.position),
            ahead_bytes,
            record: Vec::new(),
        })
    }
}
