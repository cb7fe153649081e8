//! A file of checksummed frames: the container format of a checkpoint.
//!
//! Invariant: a frame that a reader returns was written at that place. The reader keeps one frame
//! in memory at a time, and never more bytes than the file has.
//!
//! Layout, little-endian: magic `HCCP`, version (u32), number (u64), CRC-32 of these; then frames,
//! each with the length of its content in bytes (u32), CRC-32 (u32) of its offset in the file (u64)
//! and its content, content.

use super::super::StoreError;
use crate::bytes::{Cursor, START_BYTES};
use crate::vfs::{DiskFile, Files};

const MAGIC: [u8; 4] = *b"HCCP";
const VERSION: u32 = 1;
pub(super) const HEAD_BYTES: usize = 20;
const FRAME_HEAD_BYTES: usize = 8;
/// Size in bytes at which a frame ends.
const FRAME_BYTES: usize = 64 * 1024;

/// Writes a file of frames.
pub(super) struct FrameWriter {
    file: DiskFile,
    at: u64,
    /// The content of the current frame.
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

    /// Ends the frame if it has reached its size.
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

    /// Ends the last frame and syncs the file. Returns the length of the file.
    pub(super) fn finish(mut self) -> Result<u64, StoreError> {
        self.end_frame()?;
        self.file.sync()?;
        Ok(self.at)
    }
}

/// Encodes a frame with this content at offset `at`.
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

/// Reads the frames of a file one by one, so that little memory is needed beyond the committed
/// state.
pub(super) struct FrameReader {
    file: DiskFile,
    len: u64,
    /// The offsets of the frame in `frame` and of the next frame.
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
            return Err(file.damaged(len, "the file is shorter than its header"));
        }
        file.read_at(&mut head, 0)?;
        file.check_head(&head, MAGIC, VERSION, "a checkpoint")?;
        let mut cursor = Cursor::new(&head[START_BYTES..]);
        let crc = crc32fast::hash(&head[..16]);
        if cursor.u64() != Some(number) || cursor.u32() != Some(crc) {
            return Err(file.damaged(0, "the header is corrupt"));
        }
        Ok(Self {
            file,
            len,
            at: 0,
            next: HEAD_BYTES as u64,
            frame: Vec::new(),
        })
    }

    /// Loads the next frame. Returns `false` at the end of the file.
    pub(super) fn load(&mut self) -> Result<bool, StoreError> {
        self.at = self.next;
        if self.at == self.len {
            return Ok(false);
        }
        let content_at = self.at + FRAME_HEAD_BYTES as u64;
        if content_at > self.len {
            return Err(self.bad("the file is truncated"));
        }
        let mut head = [0; FRAME_HEAD_BYTES];
        self.file.read_at(&mut head, self.at)?;
        let mut cursor = Cursor::new(&head);
        let (bytes, crc) = (cursor.u32().unwrap_or_default(), cursor.u32());
        self.next = content_at + u64::from(bytes);
        if self.next > self.len {
            return Err(self.bad("a frame extends beyond the end of the file"));
        }
        self.frame.resize(bytes as usize, 0);
        self.file.read_at(&mut self.frame, content_at)?;
        if crc != Some(checksum(self.at, &self.frame)) {
            return Err(self.bad("a frame does not match its checksum"));
        }
        Ok(true)
    }

    /// Makes an error about the frame that was loaded last.
    pub(super) fn bad(&self, detail: &str) -> StoreError {
        self.file.damaged(self.at, detail)
    }
}
