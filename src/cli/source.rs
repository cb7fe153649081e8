//! Reads files of items and cuts them into batches of NDJSON.
//!
//! Invariant: every item of every file is in exactly one batch, in order, and its line is known.
//! The number of batches read ahead is bounded.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::str::Utf8Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;
use thiserror::Error;
use tokio::sync::mpsc;

use super::batch::SourceBatch;
use super::csv::{CsvError, CsvReader, Record};
use crate::model::BYTE_ORDER_MARK;

/// Maximum size of a batch in bytes, far below the service's limit on request bodies.
const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Maximum size of a line or CSV record in bytes, far more than an item needs.
const LINE_BYTES_MAX: usize = 1024 * 1024;
/// Size of the read buffer in bytes.
const READ_BYTES: usize = 256 * 1024;
/// Byte order marks of UTF-16.
const UTF_16_MARKS: [&[u8]; 2] = [b"\xff\xfe", b"\xfe\xff"];
/// Maximum number of bytes of a header that a message shows.
const SHOWN_BYTES_MAX: usize = 200;

/// The reason why a file can't be read to its end.
#[derive(Debug, Error)]
pub enum SourceError {
    /// An I/O error.
    #[error("{file}: {error}")]
    Io {
        /// The file.
        file: String,
        /// The error of the operating system.
        error: io::Error,
    },
    /// A line is longer than any line with an item.
    #[error("{file}, line {line}: longer than {LINE_BYTES_MAX} bytes")]
    Line {
        /// The file.
        file: String,
        /// The line, from 1; for a CSV record its first line.
        line: u64,
    },
    /// A line violates the format.
    #[error("{file}, line {line}: {detail}")]
    Format {
        /// The file.
        file: String,
        /// The line, from 1.
        line: u64,
        /// What is wrong.
        detail: String,
    },
}

/// How files are cut into batches.
#[derive(Debug, Clone)]
pub(super) struct Cutting {
    /// Items per batch.
    pub batch_items: usize,
    /// `ndjson` or `csv` for all files; if not given, each file's name decides.
    pub format: Option<String>,
}

/// Progress of reading, over all files.
#[derive(Debug, Default)]
pub(super) struct ReadSoFar {
    /// Lines read, including headers and blank lines.
    pub lines: AtomicU64,
    /// CSV records from which spaces around a field were removed.
    pub trimmed: AtomicU64,
}

/// Total size of all files in bytes, if it is known.
pub(super) fn total_bytes(files: &[String]) -> Option<u64> {
    let sizes = files.iter().map(|file| {
        let metadata = std::fs::metadata(file).ok()?;
        metadata.is_file().then_some(metadata.len())
    });
    sizes.sum()
}

/// Reads the files one after another and sends their batches to `batches`. If the receiver is
/// dropped, it returns early without an error.
pub(super) fn read_files(
    files: &[String],
    cutting: &Cutting,
    read_so_far: &ReadSoFar,
    batches: &mpsc::Sender<SourceBatch>,
) -> Result<(), SourceError> {
    for file in files {
        let fault = |error| SourceError::Io {
            file: file.clone(),
            error,
        };
        let input: Box<dyn Read> = match file.as_str() {
            "-" => Box::new(io::stdin().lock()),
            path => Box::new(File::open(path).map_err(fault)?),
        };
        let mut input = BufReader::with_capacity(READ_BYTES, input);
        let mark_bytes = skip_mark(file, &mut input)?;
        let mut cutter = Cutter {
            file: file.as_str().into(),
            cutting,
            read_so_far,
            batches,
            body: Vec::new(),
            lines: Vec::new(),
            source_bytes: mark_bytes,
        };
        let cut = if is_csv(file, cutting) {
            cut_csv(input, &mut cutter)
        } else {
            cut_ndjson(input, &mut cutter)
        };
        // The items before a fault are loaded too.
        let open = cutter.send();
        if !(cut? && open) {
            return Ok(());
        }
    }
    Ok(())
}

/// Whether a file is CSV, by the given format or else by its name.
fn is_csv(file: &str, cutting: &Cutting) -> bool {
    let by_name = || {
        Path::new(file)
            .extension()
            .is_some_and(|ending| ending.eq_ignore_ascii_case("csv"))
    };
    cutting
        .format
        .as_deref()
        .map_or_else(by_name, |format| format == "csv")
}

/// Skips a UTF-8 byte order mark at the start of a file. Returns the number of bytes skipped.
fn skip_mark(file: &str, input: &mut impl BufRead) -> Result<u64, SourceError> {
    // A byte order mark that arrives in pieces, as it could through a pipe, is not recognized: that
    // is too rare to wait for.
    let start = input.fill_buf().map_err(|error| SourceError::Io {
        file: file.to_owned(),
        error,
    })?;
    if UTF_16_MARKS.iter().any(|mark| start.starts_with(mark)) {
        return Err(SourceError::Format {
            file: file.to_owned(),
            line: 1,
            detail: "the file is UTF-16; save it as UTF-8".to_owned(),
        });
    }
    let has_mark = start.starts_with(BYTE_ORDER_MARK.as_bytes());
    let mark_bytes = if has_mark { BYTE_ORDER_MARK.len() } else { 0 };
    input.consume(mark_bytes);
    Ok(mark_bytes as u64)
}

/// Collects the items of one file into batches.
struct Cutter<'a> {
    file: Arc<str>,
    cutting: &'a Cutting,
    read_so_far: &'a ReadSoFar,
    batches: &'a mpsc::Sender<SourceBatch>,
    body: Vec<u8>,
    lines: Vec<u64>,
    source_bytes: u64,
}

impl Cutter<'_> {
    /// Adds the item of `line`, which occupies `source_bytes` in the file. Returns false if the
    /// receiver is gone.
    fn add(&mut self, line: u64, item: &[u8], source_bytes: u64) -> bool {
        // Includes the line end, which the last line of a file may lack.
        if self.body.len() + item.len() + 1 > BATCH_BYTES_MAX && !self.send() {
            return false;
        }
        self.source_bytes += source_bytes;
        self.lines.push(line);
        self.body.extend_from_slice(item);
        self.body.push(b'\n');
        self.lines.len() < self.cutting.batch_items || self.send()
    }

    /// Sends the collected items, if there are any. Returns false if the receiver is gone.
    fn send(&mut self) -> bool {
        if self.lines.is_empty() {
            return true;
        }
        let batch = SourceBatch {
            file: Arc::clone(&self.file),
            lines: std::mem::take(&mut self.lines),
            body: std::mem::take(&mut self.body).into(),
            source_bytes: std::mem::take(&mut self.source_bytes),
        };
        self.batches.blocking_send(batch).is_ok()
    }

    fn note_lines(&self, lines: u64) {
        self.read_so_far.lines.fetch_add(lines, Ordering::Relaxed);
    }

    fn io(&self, error: io::Error) -> SourceError {
        SourceError::Io {
            file: self.file.to_string(),
            error,
        }
    }

    fn too_long(&self, line: u64) -> SourceError {
        SourceError::Line {
            file: self.file.to_string(),
            line,
        }
    }

    fn format(&self, line: u64, detail: String) -> SourceError {
        SourceError::Format {
            file: self.file.to_string(),
            line,
            detail,
        }
    }

    fn csv(&self, error: CsvError) -> SourceError {
        match error {
            CsvError::Io(error) => self.io(error),
            CsvError::TooLong(line) => self.too_long(line),
            CsvError::Fault { line, fault } => self.format(line, fault.to_string()),
        }
    }
}

fn cut_ndjson(mut input: impl BufRead, cutter: &mut Cutter<'_>) -> Result<bool, SourceError> {
    let mut text = Vec::new();
    let mut line = 0;
    loop {
        text.clear();
        let mut bounded = input.by_ref().take(LINE_BYTES_MAX as u64 + 1);
        let read = bounded
            .read_until(b'\n', &mut text)
            .map_err(|error| cutter.io(error))?;
        if read == 0 {
            return Ok(true);
        }
        line += 1;
        cutter.note_lines(1);
        if text.ends_with(b"\n") {
            text.pop();
        } else if read > LINE_BYTES_MAX {
            return Err(cutter.too_long(line));
        }
        if text.iter().all(u8::is_ascii_whitespace) {
            cutter.source_bytes += read as u64;
        } else if !cutter.add(line, &text, read as u64) {
            return Ok(false);
        }
    }
}

/// An item as it is written to a batch.
#[derive(Serialize)]
struct Item<'a> {
    id: &'a str,
    tenant: &'a str,
}

fn cut_csv(input: impl BufRead, cutter: &mut Cutter<'_>) -> Result<bool, SourceError> {
    let mut reader = CsvReader::new(input, LINE_BYTES_MAX);
    let mut record = Record::default();
    let has_header = reader
        .read(&mut record)
        .map_err(|error| cutter.csv(error))?;
    if !has_header {
        return Err(cutter.format(1, "there is no header".to_owned()));
    }
    let (columns, fields) = (Columns::find(&record), record.len());
    let columns = columns.map_err(|detail| cutter.format(record.line, detail))?;
    let (mut lines, mut bytes) = (reader.lines(), 0);
    cutter.note_lines(lines);
    let mut item = Vec::new();
    loop {
        let more = reader.read(&mut record);
        cutter.note_lines(reader.lines() - std::mem::replace(&mut lines, reader.lines()));
        if !more.map_err(|error| cutter.csv(error))? {
            return Ok(true);
        }
        if record.len() != fields {
            let detail = format!(
                "wrong number of fields: {} instead of the header's {fields}",
                record.len()
            );
            return Err(cutter.format(record.line, detail));
        }
        columns
            .write(&record, &mut item)
            .map_err(|detail| cutter.format(record.line, detail))?;
        let trimmed = u64::from(record.trimmed);
        cutter
            .read_so_far
            .trimmed
            .fetch_add(trimmed, Ordering::Relaxed);
        let source_bytes = reader.bytes() - std::mem::replace(&mut bytes, reader.bytes());
        if !cutter.add(record.line, &item, source_bytes) {
            return Ok(false);
        }
    }
}

/// The columns of an item's fields.
struct Columns {
    id: usize,
    tenant: usize,
}

impl Columns {
    /// Finds the columns in a header. Each must be present exactly once.
    fn find(header: &Record) -> Result<Self, String> {
        let column = |name: &str| {
            let named = |index: &usize| header.get(*index) == Some(name.as_bytes());
            let mut found = (0..header.len()).filter(named);
            match (found.next(), found.next()) {
                (Some(index), None) => Ok(index),
                (Some(_), Some(_)) => Err(format!("the header has the column {name} twice")),
                (None, _) => Err(format!(
                    "the header has no column {name}; it has {}, and columns are separated by \
                     commas",
                    shown(header)
                )),
            }
        };
        Ok(Self {
            id: column("id")?,
            tenant: column("tenant")?,
        })
    }

    /// Writes the item of a record to `item` as JSON.
    fn write(&self, record: &Record, item: &mut Vec<u8>) -> Result<(), String> {
        let field = |index| {
            let bytes = record.get(index).unwrap_or_default();
            std::str::from_utf8(bytes)
        };
        let no_text = |_: Utf8Error| "it is not UTF-8".to_owned();
        item.clear();
        let written = Item {
            id: field(self.id).map_err(no_text)?,
            tenant: field(self.tenant).map_err(no_text)?,
        };
        serde_json::to_writer(item, &written).map_err(|error| error.to_string())
    }
}

/// The column names of a header, for a message.
fn shown(header: &Record) -> String {
    let names = (0..header.len()).filter_map(|index| header.get(index));
    let names: Vec<_> = names
        .map(|name| format!("{:?}", String::from_utf8_lossy(name)))
        .collect();
    let mut text = names.join(" ");
    if text.len() > SHOWN_BYTES_MAX {
        text.truncate(text.floor_char_boundary(SHOWN_BYTES_MAX));
        text.push('…');
    }
    text
}

#[cfg(test)]
#[path = "source_tests.rs"]
mod tests;
