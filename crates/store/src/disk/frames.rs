//! A file of checksummed frames: what a checkpoint is made of.
//!
//! Invariant: a frame that is handed out is one that was written at that place; memory holds one
//! frame at a time, and never more than the file has bytes.
//!
//! Layout, little-endian: magic `HCCP`, version (u32), number (u64), CRC-32 of these; then frames,
//! each bytes of content (u32), CRC-32 (u32) of its offset in the file (u64) and its content,
//! content.

use super::super::StoreError;
use crate::bytes::Cursor;
use crate::files::{DiskFile, Files};

const MAGIC: [u8; 4] = *b"HCCP";
const VERSION: u32 = 1;
pub(super) const HEAD_BYTES: usize = 20;
const FRAME_HEAD_BYTES: usize = 8;
/// A frame is ended once it has so many bytes.
const FRAME_BYTES: usize = 64 * 1024;

/// Writes a file of frames.
pub(super) struct FrameWriter {
    file: DiskFile,
    at: u64,
    /// The content of the frame that is being made.
    pub(super) frame: Vec<u8>,
}

impl FrameWriter {
    pub(super) fn create(files: &dyn Files, name: &str, number: u64) -> Result<Self, StoreError> {
        let file = files.create_file(name)?;
        let mut head = Vec::with_capacity(HEAD_BYTES);
        head.extend_from_slice(&MAGIC);
        head.extend_from_slice(&VERSION.to_le_bytes());
        head.extend_from_slice(&number.to_le_bytes());
        let crc = crc32fast::hash(&head);
        head.extend_from_slice(&crc.to_le_bytes());
        file.write_at(&head, 0)?;
        Ok(Self {
            file,
            at: HEAD_BYTES as u64,
            frame: Vec::new(),
        })
    }

    /// Ends the frame if it is long enough.
    pub(super) fn end_full_frame(&mut self) -> Result<(), StoreError> {
        if self.frame.len() >= FRAME_BYTES {
            self.end_frame()?;
        }
        Ok(())
    }

    /// Ends the frame, unless it is empty.
    pub(super) fn end_frame(&mut self) -> Result<(), StoreError> {
        if self.frame.is_empty() {
            return Ok(());
        }
        let bytes = frame(self.at, &self.frame);
        self.file.write_at(&bytes, self.at)?;
        self.at += bytes.len() as u64;
        self.frame.clear();
        Ok(())
    }

    /// Ends the last frame and syncs the file; returns its length.
    pub(super) fn finish(mut self) -> Result<u64, StoreError> {
        self.end_frame()?;
        self.file.sync()?;
        Ok(self.at)
    }
}

/// The bytes of a frame at `at` with this content.
pub(super) fn frame(at: u64, content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(FRAME_HEAD_BYTES + content.len());
    bytes.extend_from_slice(&(content.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&checksum(at, content).to_le_bytes());
    bytes.extend_from_slice(content);
    bytes
}

fn checksum(at: u64, content: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&at.to_le_bytes());
    crc.update(content);
    crc.finalize()
}

/// Reads a file of frames one by one, so that memory beyond the cut stays small.
pub(super) struct FrameReader {
    file: DiskFile,
    len: u64,
    /// Where the frame that `frame` holds starts, and where the next one does.
    at: u64,
    next: u64,
    pub(super) frame: Vec<u8>,
}

impl FrameReader {
    pub(super) fn open(files: &dyn Files, name: &str, number: u64) -> Result<Self, StoreError> {
        let file = files.open_file(name)?;
        let len = file.len()?;
        let mut head = [0; HEAD_BYTES];
        if len < HEAD_BYTES as u64 {
            return Err(file.damaged(len, "it is shorter than its head"));
        }
        file.read_at(&mut head, 0)?;
        let mut cursor = Cursor::new(&head);
        if cursor.array() != Some(MAGIC) {
            return Err(file.damaged(0, "it does not start as a checkpoint does"));
        }
        match cursor.u32() {
            Some(VERSION) => {}
            found => return Err(file.unknown_version(found.unwrap_or_default(), VERSION)),
        }
        let crc = crc32fast::hash(&head[..16]);
        if cursor.u64() != Some(number) || cursor.u32() != Some(crc) {
            return Err(file.damaged(0, "its head is not what was written"));
        }
        Ok(Self {
            file,
            len,
            at: 0,
            next: HEAD_BYTES as u64,
            frame: Vec::new(),
        })
    }

    /// Loads the next frame; `false` at the end of the file.
    pub(super) fn load(&mut self) -> Result<bool, StoreError> {
        self.at = self.next;
        if self.at == self.len {
            return Ok(false);
        }
        let content_at = self.at + FRAME_HEAD_BYTES as u64;
        if content_at > self.len {
            return Err(self.bad("it ends too early"));
        }
        let mut head = [0; FRAME_HEAD_BYTES];
        self.file.read_at(&mut head, self.at)?;
        let mut cursor = Cursor::new(&head);
        let (bytes, crc) = (cursor.u32().unwrap_or_default(), cursor.u32());
        self.next = content_at + u64::from(bytes);
        if self.next > self.len {
            return Err(self.bad("a frame is longer than the file"));
        }
        self.frame.resize(bytes as usize, 0);
        self.file.read_at(&mut self.frame, content_at)?;
        if crc != Some(checksum(self.at, &self.frame)) {
            return Err(self.bad("a frame is not what was written"));
        }
        Ok(true)
    }

    /// An error about the frame that was loaded last.
    pub(super) fn bad(&self, detail: &str) -> StoreError {
        self.file.damaged(self.at, detail)
    }
}
