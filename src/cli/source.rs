//! Files of items, cut into batches of NDJSON.
//!
//! Invariant: every line of every file is in exactly one batch, in order; what is read ahead is bounded.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use bytes::Bytes;
use thiserror::Error;
use tokio::sync::mpsc;

/// Bytes after which a batch takes no further line; far below the service's limit on bodies.
const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;

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
            source_bytes: 0,
        };
        let csv_name = Path::new(file)
            .extension()
            .is_some_and(|ending| ending == "csv");
        let csv = cutting
            .format
            .as_deref()
            .map_or(csv_name, |format| format == "csv");
        let open = if csv {
            cut_csv(input, &mut cutter)?
        } else {
            cut_ndjson(BufReader::with_capacity(1 << 18, input), &mut cutter).map_err(fault)?
        };
        if !open {
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
    source_bytes: u64,
}

impl Cutter<'_> {
    /// Notes that the item on `line`, of `source_bytes` of the file, is in the body. False: nobody receives.
    fn added(&mut self, line: u64, source_bytes: u64) -> bool {
        self.items += 1;
        self.source_bytes += source_bytes;
        if self.items >= self.cutting.batch_items || self.body.len() >= BATCH_BYTES_MAX {
            return self.send(line + 1);
        }
        true
    }

    fn send(&mut self, next_line: u64) -> bool {
        let batch = SourceBatch {
            file: self.file.to_owned(),
            first_line: self.first_line,
            body: std::mem::take(&mut self.body).into(),
            source_bytes: self.source_bytes,
        };
        self.first_line = next_line;
        self.items = 0;
        self.source_bytes = 0;
        self.batches.blocking_send(batch).is_ok()
    }
}

fn cut_ndjson(mut input: impl BufRead, cutter: &mut Cutter<'_>) -> io::Result<bool> {
    let mut line = 0;
    loop {
        let before = cutter.body.len();
        let read = input.read_until(b'\n', &mut cutter.body)?;
        if read == 0 {
            break;
        }
        line += 1;
        if !cutter.body.ends_with(b"\n") {
            cutter.body.push(b'\n');
        }
        let blank = cutter.body[before..].iter().all(u8::is_ascii_whitespace);
        if blank {
            // Kept in the body, so that indexes in answers stay lines of the file.
            cutter.source_bytes += read as u64;
        } else if !cutter.added(line, read as u64) {
            return Ok(false);
        }
    }
    Ok(cutter.items == 0 || cutter.send(line + 1))
}

fn cut_csv(input: Box<dyn Read>, cutter: &mut Cutter<'_>) -> Result<bool, SourceError> {
    let file = cutter.file.to_owned();
    let fault = |detail: String| SourceError::Csv {
        file: file.clone(),
        detail,
    };
    let mut reader = csv::Reader::from_reader(input);
    let header = reader.headers().map_err(|error| fault(error.to_string()))?;
    let column = |name: &str| {
        header
            .iter()
            .position(|column| column.trim() == name)
            .ok_or_else(|| fault(format!("its first line does not name a column {name}")))
    };
    let (id, tenant) = (column("id")?, column("tenant")?);
    let mut record = csv::StringRecord::new();
    let mut position = reader.position().byte();
    let mut row = 1;
    cutter.first_line = 2;
    while reader
        .read_record(&mut record)
        .map_err(|error| fault(error.to_string()))?
    {
        row += 1;
        let item = serde_json::json!({
            "id": record.get(id).unwrap_or_default(),
            "tenant": record.get(tenant).unwrap_or_default(),
        });
        cutter.body.extend_from_slice(item.to_string().as_bytes());
        cutter.body.push(b'\n');
        let read_to = reader.position().byte();
        if !cutter.added(row, read_to - position) {
            return Ok(false);
        }
        position = read_to;
    }
    Ok(cutter.items == 0 || cutter.send(row + 1))
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
