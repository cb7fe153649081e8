//! Files of items, cut into batches of NDJSON.
//!
//! Invariant: every line of every file is in exactly one batch, in order; what is read ahead is bounded.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::rc::Rc;

use bytes::Bytes;
use thiserror::Error;
use tokio::sync::mpsc;

/// Bytes of a batch; far below the service's limit on bodies.
const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes of one line, or of one CSV record: far more than an item takes.
const LINE_BYTES_MAX: usize = 1024 * 1024;
/// What some programs put at the start of UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A part of a file, ready to be posted.
pub struct SourceBatch {
    /// The file's name.
    pub file: String,
    /// The line in it, from 1, that is the body's first.
    pub first_line: u64,
    /// NDJSON.
    pub body: Bytes,
    /// Bytes of the file that it stands for.
    pub source_bytes: u64,
}

/// Why a file can't be read to its end.
#[derive(Debug, Error)]
pub enum SourceError {
    /// The system refused.
    #[error("{file}: {error}")]
    Io {
        /// The file.
        file: String,
        /// The system's word.
        error: io::Error,
    },
    /// A line is longer than any that holds an item.
    #[error("{file}, line {line}: longer than {LINE_BYTES_MAX} bytes")]
    Line {
        /// The file.
        file: String,
        /// The line, from 1; of CSV the record.
        line: u64,
    },
    /// It is not CSV, or lacks a column.
    #[error("{file}: {detail}")]
    Csv {
        /// The file.
        file: String,
        /// What is wrong.
        detail: String,
    },
}

/// How files are cut.
#[derive(Debug, Clone)]
pub struct Cutting {
    /// Items in a batch.
    pub batch_items: usize,
    /// `ndjson` or `csv` for all files; by their names if not given.
    pub format: Option<String>,
}

/// The bytes of all files together, when they are known.
pub fn total_bytes(files: &[String]) -> Option<u64> {
    let sizes = files.iter().map(|file| {
        let metadata = std::fs::metadata(file).ok()?;
        metadata.is_file().then_some(metadata.len())
    });
    sizes.sum()
}

/// Reads the files one after another into `batches`. Ends early, without an error, when nobody receives.
pub fn read_files(
    files: &[String],
    cutting: &Cutting,
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
        let mut cutter = Cutter {
            file,
            cutting,
            batches,
            body: Vec::new(),
            items: 0,
            first_line: 1,
            next_line: 1,
            source_bytes: 0,
        };
        let csv_name = Path::new(file)
            .extension()
            .is_some_and(|ending| ending == "csv");
        let csv = cutting
            .format
            .as_deref()
            .map_or(csv_name, |format| format == "csv");
        let cut = if csv {
            cut_csv(input, &mut cutter)
        } else {
            cut_ndjson(BufReader::with_capacity(1 << 18, input), &mut cutter)
        };
        // What comes before a fault is loaded too.
        let open = cutter.send();
        if !(cut? && open) {
            return Ok(());
        }
    }
    Ok(())
}

/// Gathers lines of one file into batches.
struct Cutter<'a> {
    file: &'a str,
    cutting: &'a Cutting,
    batches: &'a mpsc::Sender<SourceBatch>,
    body: Vec<u8>,
    items: usize,
    first_line: u64,
    next_line: u64,
    source_bytes: u64,
}

impl Cutter<'_> {
    /// Adds the next line, which took `source_bytes` of the file. False: nobody receives.
    fn add(&mut self, text: &[u8], source_bytes: usize) -> bool {
        // With its end, which the last line of a file may lack.
        if self.body.len() + text.len() + 1 > BATCH_BYTES_MAX && !self.send() {
            return false;
        }
        self.source_bytes += source_bytes as u64;
        self.next_line += 1;
        if text.iter().all(u8::is_ascii_whitespace) {
            if self.items == 0 {
                self.first_line = self.next_line;
                return true;
            }
            // Between items it is kept, so that indexes in answers stay lines of the file.
        } else {
            self.items += 1;
        }
        self.body.extend_from_slice(text);
        self.body.push(b'\n');
        self.items < self.cutting.batch_items || self.send()
    }

    /// Sends what was gathered, if that is anything. False: nobody receives.
    fn send(&mut self) -> bool {
        let first_line = std::mem::replace(&mut self.first_line, self.next_line);
        if self.items == 0 {
            return true;
        }
        self.items = 0;
        let batch = SourceBatch {
            file: self.file.to_owned(),
            first_line,
            body: std::mem::take(&mut self.body).into(),
            source_bytes: std::mem::take(&mut self.source_bytes),
        };
        self.batches.blocking_send(batch).is_ok()
    }

    fn line_too_long(&self) -> SourceError {
        SourceError::Line {
            file: self.file.to_owned(),
            line: self.next_line,
        }
    }
}

fn cut_ndjson(mut input: impl BufRead, cutter: &mut Cutter<'_>) -> Result<bool, SourceError> {
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut bounded = input.by_ref().take(LINE_BYTES_MAX as u64 + 1);
        let read = bounded
            .read_until(b'\n', &mut line)
            .map_err(|error| SourceError::Io {
                file: cutter.file.to_owned(),
                error,
            })?;
        if read == 0 {
            return Ok(true);
        }
        if line.ends_with(b"\n") {
            line.pop();
        } else if read > LINE_BYTES_MAX {
            return Err(cutter.line_too_long());
        }
        let text = match line.strip_prefix(BYTE_ORDER_MARK) {
            Some(rest) if cutter.next_line == 1 => rest,
            _ => &line,
        };
        if !cutter.add(text, read) {
            return Ok(false);
        }
    }
}

/// A reader that gives at most `left` bytes until it is set again: a quote that never ends can't fill memory.
struct Bounded<R> {
    input: R,
    left: Rc<Cell<usize>>,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.left.get();
        if left == 0 {
            return Err(io::Error::other("the record is too long"));
        }
        let wanted = buffer.len().min(left);
        let read = self.input.read(&mut buffer[..wanted])?;
        self.left.set(left - read);
        Ok(read)
    }
}

fn cut_csv(input: Box<dyn Read>, cutter: &mut Cutter<'_>) -> Result<bool, SourceError> {
    let file = cutter.file.to_owned();
    let left = Rc::new(Cell::new(LINE_BYTES_MAX));
    let fault = |detail: String| SourceError::Csv {
        file: file.clone(),
        detail,
    };
    let mut reader = csv::Reader::from_reader(Bounded {
        input,
        left: Rc::clone(&left),
    });
    let header = match reader.headers() {
        Ok(header) => header,
        Err(_) if left.get() == 0 => return Err(cutter.line_too_long()),
        Err(error) => return Err(fault(error.to_string())),
    };
    let column = |name: &str| {
        header
            .iter()
            .position(|column| column.trim() == name)
            .ok_or_else(|| fault(format!("its first line does not name a column {name}")))
    };
    let (id, tenant) = (column("id")?, column("tenant")?);
    let mut record = csv::StringRecord::new();
    let mut position = reader.position().byte();
    cutter.first_line = 2;
    cutter.next_line = 2;
    loop {
        left.set(LINE_BYTES_MAX);
        match reader.read_record(&mut record) {
            Ok(true) => {}
            Ok(false) => return Ok(true),
            Err(_) if left.get() == 0 => return Err(cutter.line_too_long()),
            Err(error) => return Err(fault(error.to_string())),
        }
        let item = serde_json::json!({
            "id": record.get(id).unwrap_or_default(),
            "tenant": record.get(tenant).unwrap_or_default(),
        });
        let read_to = reader.position().byte();
        if !cutter.add(item.to_string().as_bytes(), (read_to - position) as usize) {
            return Ok(false);
        }
        position = read_to;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(name: &str, content: &str, batch_items: usize) -> Result<Vec<(u64, String)>, String> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(name);
        std::fs::write(&path, content).expect("written");
        let files = vec![path.display().to_string()];
        let cutting = Cutting {
            batch_items,
            format: None,
        };
        let (sender, mut receiver) = mpsc::channel(100);
        read_files(&files, &cutting, &sender).map_err(|error| error.to_string())?;
        drop(sender);
        let mut batches = Vec::new();
        let mut bytes = 0;
        while let Some(batch) = receiver.blocking_recv() {
            bytes += batch.source_bytes;
            let body = String::from_utf8(batch.body.to_vec()).expect("UTF-8");
            batches.push((batch.first_line, body));
        }
        assert!(bytes <= total_bytes(&files).expect("known"));
        Ok(batches)
    }

    #[test]
    fn ndjson_is_cut_by_items_and_keeps_its_lines() {
        let batches = cut("a.ndjson", "1\n\n2\n3", 2).expect("read");
        assert_eq!(batches, [(1, "1\n\n2\n".to_owned()), (4, "3\n".to_owned())]);
    }

    #[test]
    fn a_byte_order_mark_and_blank_lines_leave_line_numbers_right() {
        let content = "\u{feff}1\n\n\n2\n";
        let batches = cut("a.ndjson", content, 1).expect("read");
        assert_eq!(batches, [(1, "1\n".to_owned()), (4, "2\n".to_owned())]);
        assert_eq!(cut("a.ndjson", "\n \r\n\n", 1), Ok(vec![]));
    }

    #[test]
    fn no_batch_is_longer_than_its_limit() {
        let long = "x".repeat(LINE_BYTES_MAX - 1);
        let content = format!("{}1\n{}{long}\n2", "\n".repeat(10), "\n".repeat(9_000_000));
        let batches = cut("a.ndjson", &content, 100).expect("read");
        let first: Vec<u64> = batches.iter().map(|(first, _)| *first).collect();
        assert_eq!(first, [11, 9_000_012]);
        assert_eq!(batches[1].1, format!("{long}\n2\n"));
        let batches = cut("a.ndjson", &format!("{long}\n").repeat(9), 100).expect("read");
        let first: Vec<u64> = batches.iter().map(|(first, _)| *first).collect();
        assert_eq!(first, [1, 5, 9]);
        assert!(
            batches
                .iter()
                .all(|(_, body)| body.len() <= BATCH_BYTES_MAX)
        );
    }

    #[test]
    fn a_line_that_is_too_long_is_named() {
        let long = "x".repeat(2 * LINE_BYTES_MAX);
        for (name, head) in [("a.ndjson", "\n\n"), ("a.csv", "id,tenant\n1,a\n")] {
            let error = cut(name, &format!("{head}\"{long}\n1,a\n"), 100).expect_err("refused");
            assert!(
                error.contains(", line 3: longer than 1048576 bytes"),
                "{error}"
            );
        }
    }

    #[test]
    fn csv_columns_are_found_by_name_and_values_escaped() {
        let content = "tenant,note,id\na,x,1\n\"b \"\"q\"\"\",,\"2,2\"\n";
        let batches = cut("a.csv", content, 1).expect("read");
        let first = "{\"id\":\"1\",\"tenant\":\"a\"}\n".to_owned();
        let second = "{\"id\":\"2,2\",\"tenant\":\"b \\\"q\\\"\"}\n".to_owned();
        assert_eq!(batches, [(2, first), (3, second)]);
        let error = cut("a.csv", "id,name\n1,2\n", 1).expect_err("refused");
        assert!(
            error.ends_with("its first line does not name a column tenant"),
            "{error}"
        );
    }
}
