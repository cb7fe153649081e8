//! A strict reader for CSV as in RFC 4180. A violation of its rules is an error that names the
//! line.
//!
//! Invariant: a record is either read as it was written or rejected. No fault makes one record
//! swallow others.
//!
//! The crate `csv` is not strict: "this reader will never return an error and will always find *a*
//! parse" (csv-core). With an unclosed quote it reads all rows up to the next quote as one field.
//! In addition to the RFC, lines may end with LF alone, blank lines are skipped, and spaces and
//! tabs around a field are removed unless they are inside quotes.

use std::io::{self, BufRead, Read};

use thiserror::Error;

/// The reason why a file can't be read as CSV.
#[derive(Debug, Error)]
pub(super) enum CsvError {
    /// An I/O error.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A record exceeds the size limit; the line on which it begins, from 1.
    #[error("line {0}: the record is too long")]
    TooLong(u64),
    /// This line violates a rule; lines are counted from 1.
    #[error("line {line}: {fault}")]
    Fault { line: u64, fault: CsvFault },
}

/// The fault on a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(super) enum CsvFault {
    #[error("the quote that opens a field here is never closed")]
    Unclosed,
    #[error(
        "there is text after the closing quote of a field; inside quotes, write each quote twice"
    )]
    BehindQuote,
    #[error(
        "there is a quote inside an unquoted field; put the field in quotes and write each quote \
         in it twice"
    )]
    BareQuote,
    #[error("there is a carriage return inside an unquoted field; lines must end with LF or CR LF")]
    BareReturn,
}

/// One record. Its memory is reused for the next one.
#[derive(Debug, Default)]
pub(super) struct Record {
    text: Vec<u8>,
    /// End of each field in `text`.
    ends: Vec<usize>,
    /// Line on which the record begins, from 1.
    pub line: u64,
    /// Whether spaces around a field were removed.
    pub trimmed: bool,
}

impl Record {
    /// The number of fields.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The bytes of a field; `None` if there is no field `index`.
    pub(super) fn get(&self, index: usize) -> Option<&[u8]> {
        let end = *self.ends.get(index)?;
        let start = match index {
            0 => 0,
            _ => self.ends[index - 1],
        };
        Some(&self.text[start..end])
    }

    fn clear(&mut self) {
        self.text.clear();
        self.ends.clear();
        self.trimmed = false;
    }
}

/// Reads records from `input`.
pub(super) struct CsvReader<R> {
    input: R,
    /// The current line with its line end.
    row: Vec<u8>,
    /// Number of the current line, from 1; 0 before the first.
    line: u64,
    /// Maximum size of a record in bytes.
    record_bytes_max: usize,
    /// Bytes read of the current record.
    record_bytes: usize,
    /// Total number of bytes read.
    bytes: u64,
}

impl<R: BufRead> CsvReader<R> {
    pub(super) fn new(input: R, record_bytes_max: usize) -> Self {
        Self {
            input,
            row: Vec::new(),
            line: 0,
            record_bytes_max,
            record_bytes: 0,
            bytes: 0,
        }
    }

    /// Number of lines read so far, including blank ones.
    pub(super) fn lines(&self) -> u64 {
        self.line
    }

    /// Number of bytes read so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Reads the next record into `record`. Returns false at the end of the input.
    pub(super) fn read(&mut self, record: &mut Record) -> Result<bool, CsvError> {
        record.clear();
        loop {
            record.line = self.line + 1;
            self.record_bytes = 0;
            if !self.next_row(record.line)? {
                return Ok(false);
            }
            if !self.row.iter().all(u8::is_ascii_whitespace) {
                break;
            }
        }
        let mut at = 0;
        loop {
            at = self.field(at, record)?;
            record.ends.push(record.text.len());
            // `at` is at the comma after the field or at the end of the row.
            if self.row.get(at) != Some(&b',') {
                return Ok(true);
            }
            at += 1;
        }
    }

    /// Reads the field that begins at `at`. Returns its end: a comma or the end of the row.
    fn field(&mut self, at: usize, record: &mut Record) -> Result<usize, CsvError> {
        let start = at + spaces(&self.row[at..]);
        if self.row.get(start) == Some(&b'"') {
            let behind = self.quoted(start + 1, record)?;
            let end = behind + spaces(&self.row[behind..]);
            record.trimmed |= start > at || end > behind;
            return match self.row[end..] {
                [] | [b',', ..] | [b'\n', ..] | [b'\r'] | [b'\r', b'\n', ..] => Ok(end),
                _ => Err(self.fault(CsvFault::BehindQuote)),
            };
        }
        let end = find(&self.row[start..], b",\n").map_or(self.row.len(), |length| start + length);
        let mut field = &self.row[start..end];
        if self.row.get(end) != Some(&b',') {
            field = field.strip_suffix(b"\r").unwrap_or(field);
        }
        let text = field.trim_ascii_end();
        record.trimmed |= start > at || text.len() < field.len();
        match find(text, b"\"\r") {
            None => record.text.extend_from_slice(text),
            Some(found) if text[found] == b'"' => return Err(self.fault(CsvFault::BareQuote)),
            Some(_) => return Err(self.fault(CsvFault::BareReturn)),
        }
        Ok(end)
    }

    /// Reads a quoted field; `at` is after the opening quote. Returns the position after the
    /// closing quote.
    fn quoted(&mut self, mut at: usize, record: &mut Record) -> Result<usize, CsvError> {
        let opened = self.line;
        loop {
            let Some(length) = find(&self.row[at..], b"\"") else {
                record.text.extend_from_slice(&self.row[at..]);
                if !self.next_row(record.line)? {
                    return Err(CsvError::Fault {
                        line: opened,
                        fault: CsvFault::Unclosed,
                    });
                }
                at = 0;
                continue;
            };
            record.text.extend_from_slice(&self.row[at..at + length]);
            at += length + 1;
            if self.row.get(at) != Some(&b'"') {
                return Ok(at);
            }
            record.text.push(b'"');
            at += 1;
        }
    }

    /// Reads the next line of a record that began on line `begun`. Returns false at the end of the
    /// input.
    fn next_row(&mut self, begun: u64) -> Result<bool, CsvError> {
        self.row.clear();
        let left = self.record_bytes_max - self.record_bytes;
        let mut bounded = self.input.by_ref().take(left as u64 + 1);
        let read = bounded.read_until(b'\n', &mut self.row)?;
        if read > left {
            return Err(CsvError::TooLong(begun));
        }
        self.record_bytes += read;
        self.bytes += read as u64;
        self.line += u64::from(read > 0);
        Ok(read > 0)
    }

    fn fault(&self, fault: CsvFault) -> CsvError {
        CsvError::Fault {
            line: self.line,
            fault,
        }
    }
}

/// The number of spaces and tabs at the start of `text`.
fn spaces(text: &[u8]) -> usize {
    let is_space = |byte: &&u8| matches!(byte, b' ' | b'\t');
    text.iter().take_while(is_space).count()
}

/// The position of the first byte in `text` that is one of `wanted`.
fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.iter().position(|byte| wanted.contains(byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The line and the fields of a record.
    type Row = (u64, Vec<String>);

    /// The records, and the fault that ended the reading.
    fn read(text: &str) -> (Vec<Row>, Option<(u64, CsvFault)>) {
        let mut reader = CsvReader::new(text.as_bytes(), 1_000_000);
        let (mut record, mut records) = (Record::default(), Vec::new());
        loop {
            match reader.read(&mut record) {
                Ok(true) => {}
                Ok(false) => return (records, None),
                Err(CsvError::Fault { line, fault }) => return (records, Some((line, fault))),
                Err(error) => panic!("{error}"),
            }
            let field = |index| {
                let bytes = record.get(index).expect("a field").to_vec();
                String::from_utf8(bytes).expect("UTF-8")
            };
            records.push((record.line, (0..record.len()).map(field).collect()));
        }
    }

    fn rows(text: &str) -> Vec<Vec<String>> {
        let (records, fault) = read(text);
        assert_eq!(fault, None, "{text:?}");
        records.into_iter().map(|(_, fields)| fields).collect()
    }

    #[test]
    fn what_the_rfc_shows_is_read() {
        assert_eq!(
            rows("aaa,bbb,ccc\r\nzzz,yyy,xxx"),
            [["aaa", "bbb", "ccc"], ["zzz", "yyy", "xxx"]]
        );
        assert_eq!(
            rows("\"aaa\",\"b \r\nbb\",\"ccc\"\r\n\"a\"\"b\",,\r\n"),
            [["aaa", "b \r\nbb", "ccc"], ["a\"b", "", ""]]
        );
        assert_eq!(rows("\"\",\"\"\"\"\n"), [["", "\""]]);
        assert_eq!(rows(""), [[""; 0]; 0]);
        assert_eq!(rows("a\r"), [["a"]]);
        assert_eq!(rows("\"a\"\r"), [["a"]]);
    }

    #[test]
    fn spaces_around_fields_are_left_out_and_those_between_quotes_stay() {
        assert_eq!(rows(" a ,\tb c\t, \" d \" \r\n"), [["a", "b c", " d "]]);
        let mut reader = CsvReader::new(&b"a,b\n \"a\",b\na,b \r\n"[..], 100);
        let mut record = Record::default();
        let mut trimmed = Vec::new();
        while reader.read(&mut record).expect("read") {
            trimmed.push(record.trimmed);
        }
        assert_eq!(trimmed, [false, true, true]);
    }

    #[test]
    fn records_have_the_lines_on_which_they_begin() {
        let (records, fault) = read("h,i\n\n\"a\n\nb\",1\n \r\nc,2");
        let lines: Vec<u64> = records.iter().map(|(line, _)| *line).collect();
        assert_eq!((lines, fault), (vec![1, 3, 7], None));
    }

    #[test]
    fn a_stray_quote_is_an_error_with_its_line() {
        for (text, line, fault) in [
            ("id,note\n1,\"x\n2,y\n", 2, CsvFault::Unclosed),
            ("id,note\n1,\"x\n2,\"y\n", 3, CsvFault::BehindQuote),
            ("1,\"x\"y\n", 1, CsvFault::BehindQuote),
            ("1,\"x\" \"y\"\n", 1, CsvFault::BehindQuote),
            ("1,2\n5\" pipe,1\n", 2, CsvFault::BareQuote),
            ("1,2\rb,3\n", 1, CsvFault::BareReturn),
            ("1,\"2\"\rb,3\n", 1, CsvFault::BehindQuote),
        ] {
            let (_, found) = read(text);
            assert_eq!(found, Some((line, fault)), "{text:?}");
        }
    }

    #[test]
    fn a_record_is_bounded() {
        let text = format!("a\n\"{}\n1\n", "x\n".repeat(100));
        let mut reader = CsvReader::new(text.as_bytes(), 50);
        let mut record = Record::default();
        assert!(reader.read(&mut record).expect("read"));
        let error = reader.read(&mut record).expect_err("refused");
        assert!(matches!(error, CsvError::TooLong(2)), "{error}");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            table in prop::collection::vec(prop::collection::vec("[a\",\r\n é]{0,6}", 2..4), 0..6),
        ) {
            let mut text = String::new();
            for row in &table {
                let fields: Vec<String> = row
                    .iter()
                    .map(|field| format!("\"{}\"", field.replace('"', "\"\"")))
                    .collect();
                text.push_str(&fields.join(","));
                text.push_str("\r\n");
            }
            prop_assert_eq!(rows(&text), table);
        }

        #[test]
        fn any_bytes_are_read_or_refused(
            bytes in prop::collection::vec(
                prop::sample::select(b"a\", \r\n\t\xff".to_vec()),
                0..40,
            ),
        ) {
            let mut reader = CsvReader::new(&bytes[..], 100);
            let mut record = Record::default();
            let mut records = 0;
            while let Ok(true) = reader.read(&mut record) {
                records += 1;
                prop_assert!(record.len() > 0);
            }
            prop_assert!(records <= bytes.len());
        }
    }
}
