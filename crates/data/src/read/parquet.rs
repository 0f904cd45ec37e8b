//! Rows of parquet files: the text column and the columns of drop rules, nothing else is unpacked.

use super::{BLOCK_BYTES, Block, BlockReader, Fields, ReadError, Record, Shape, hash_file};
use crate::account::Reason;
use bytes::Bytes;
use formats::file;
use parquet::basic::Type;
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, DataType};
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, FileReader, Length, SerializedFileReader};
use recipe::DropRule;
use std::fs::File;
use std::io::{BufReader, ErrorKind, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// Rows that are unpacked at once. Few, because one may hold many megabytes.
const ROWS: usize = 16;

/// A leaf column.
struct Column {
    index: usize,
    /// Definition level of a value that is there.
    defined: i16,
}

/// Rules on a column: on its value, or on what the JSON text in it holds.
struct RuleColumn {
    column: Column,
    values: Vec<String>,
    fields: Option<Fields>,
}

/// A file whose end is an error: the parquet crate skips what a page's header claims one piece at a time, and at an end
/// that only yields nothing it would go on for hours.
struct Whole(File);

impl Length for Whole {
    fn len(&self) -> u64 {
        self.0.len()
    }
}

impl ChunkReader for Whole {
    type T = ToEnd;

    fn get_read(&self, start: u64) -> Result<ToEnd, ParquetError> {
        self.0.get_read(start).map(ToEnd)
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        if start.checked_add(length as u64).is_none_or(|end| end > self.0.len()) {
            return Err(ParquetError::EOF(format!("{length} bytes at {start} are more than the file holds")));
        }
        self.0.get_bytes(start, length)
    }
}

struct ToEnd(BufReader<File>);

impl Read for ToEnd {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        match self.0.read(out)? {
            0 if !out.is_empty() => Err(ErrorKind::UnexpectedEof.into()),
            read => Ok(read),
        }
    }
}

/// Reader of rows.
pub(crate) struct Rows {
    path: PathBuf,
    file: SerializedFileReader<Whole>,
    text: Column,
    rules: Vec<RuleColumn>,
    /// Readers of the current row group: the text's, then the rules'.
    open: Vec<ColumnReader>,
    /// Rows left in it.
    left: usize,
    next_group: usize,
    row: u64,
    rows: u64,
    bytes: u64,
}

impl Rows {
    pub(crate) fn open(path: &Path, source: &recipe::Source) -> Result<Self, ReadError> {
        let bytes = file::size_bytes(path)?;
        let fail = |cause: ParquetError| ReadError::Parquet { path: path.into(), cause: cause.to_string() };
        let opened = file::open_read(path)?;
        let file = guarded(|| SerializedFileReader::new(Whole(opened))).map_err(fail)?;
        let text = text_column(&file, path, &source.text)?;
        let rules = rule_columns(&file, &source.drop_where);
        let rows = file.metadata().file_metadata().num_rows().max(0) as u64;
        Ok(Self { path: path.into(), file, text, rules, open: Vec::new(), left: 0, next_group: 0, row: 0, rows, bytes })
    }

    fn fail(&self, cause: &ParquetError) -> ReadError {
        ReadError::Parquet { path: self.path.clone(), cause: cause.to_string() }
    }

    /// Goes to the next row group; whether there is one.
    fn next_group(&mut self) -> Result<bool, ParquetError> {
        if self.next_group >= self.file.num_row_groups() {
            return Ok(false);
        }
        let group = self.file.get_row_group(self.next_group)?;
        let columns = [&self.text].into_iter().chain(self.rules.iter().map(|rule| &rule.column));
        self.open = columns.map(|column| group.get_column_reader(column.index)).collect::<Result<_, _>>()?;
        self.left = usize::try_from(group.metadata().num_rows()).unwrap_or(0);
        self.next_group += 1;
        Ok(true)
    }

    /// Appends a few rows.
    fn append(&mut self, block: &mut Block) -> Result<(), ParquetError> {
        let count = self.left.min(ROWS);
        let mut columns = Vec::with_capacity(self.open.len());
        let defined = [self.text.defined].into_iter().chain(self.rules.iter().map(|rule| rule.column.defined));
        for (reader, defined) in self.open.iter_mut().zip(defined) {
            columns.push(values(reader, count, defined)?);
        }
        self.left -= count;
        for row in 0..count {
            self.row += 1;
            let start = block.bytes.len();
            let mut dropped = None;
            match &columns[0][row] {
                Some(text) => {
                    if self.rules.iter().zip(&columns[1..]).any(|(rule, values)| rule.holds(values[row].as_deref())) {
                        dropped = Some((Reason::DropRule, text.len() as u64));
                    } else {
                        block.bytes.extend_from_slice(text);
                    }
                }
                None => dropped = Some((Reason::MissingText, 0)),
            }
            block.records.push(Record { start, end: block.bytes.len(), input: 0, number: self.row, dropped });
        }
        Ok(())
    }
}

impl BlockReader for Rows {
    fn next_block(&mut self) -> Result<Option<Block>, ReadError> {
        let mut block = Block::new(Shape::Text);
        while block.bytes.len() < BLOCK_BYTES {
            if self.left > 0 {
                guarded(|| self.append(&mut block)).map_err(|cause| self.fail(&cause))?;
            } else if !guarded(|| self.next_group()).map_err(|cause| self.fail(&cause))? {
                break;
            }
        }
        block.position = (self.bytes as f64 * (self.row as f64 / self.rows.max(1) as f64).min(1.0)) as u64;
        Ok((!block.records.is_empty()).then_some(block))
    }

    fn hashes(&mut self) -> Result<Vec<String>, ReadError> {
        Ok(vec![hash_file(&self.path)?])
    }
}

/// What `work` gives. The parquet crate trusts a page's counts and panics at a page that has fewer bytes than they need;
/// whoever calls this drops the reader at an error, so that nothing half-read is used.
fn guarded<T>(work: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, ParquetError> {
    let lie = |_| Err(ParquetError::General("a page holds less than it says".into()));
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(lie)
}

impl RuleColumn {
    fn holds(&self, value: Option<&[u8]>) -> bool {
        let Some(value) = value else { return false };
        match &self.fields {
            Some(fields) => fields.parse(value).is_ok_and(|line| line.rule_holds),
            None => self.values.iter().any(|equals| equals.as_bytes() == value),
        }
    }
}

/// Names of the leaf columns that are no lists.
fn leaves(file: &SerializedFileReader<Whole>) -> Vec<(String, Column, Type)> {
    let schema = file.metadata().file_metadata().schema_descr();
    let leaf = |(index, column): (usize, &parquet::schema::types::ColumnDescPtr)| {
        (column.max_rep_level() == 0).then(|| {
            (column.path().string(), Column { index, defined: column.max_def_level() }, column.physical_type())
        })
    };
    schema.columns().iter().enumerate().filter_map(leaf).collect()
}

fn text_column(file: &SerializedFileReader<Whole>, path: &Path, name: &str) -> Result<Column, ReadError> {
    let columns = leaves(file);
    let names: Vec<String> = columns.iter().map(|column| format!("`{}`", column.0)).collect();
    let found = columns.into_iter().find(|column| column.0 == name && column.2 == Type::BYTE_ARRAY);
    found.map(|column| column.1).ok_or_else(|| ReadError::NoColumn {
        path: path.into(),
        column: name.into(),
        columns: names.join(", "),
    })
}

/// The columns that rules look at: a column of the rule's name, or a text column that its name begins with. A rule
/// whose column is not there never holds.
fn rule_columns(file: &SerializedFileReader<Whole>, rules: &[DropRule]) -> Vec<RuleColumn> {
    let mut found: Vec<RuleColumn> = Vec::new();
    for rule in rules {
        for (name, column, physical) in leaves(file) {
            if name == rule.field {
                found.push(RuleColumn { column, values: vec![rule.equals.clone()], fields: None });
            } else if let Some(rest) = rule.field.strip_prefix(&format!("{name}."))
                && physical == Type::BYTE_ARRAY
            {
                let inner = DropRule { field: rest.into(), equals: rule.equals.clone() };
                found.push(RuleColumn { column, values: Vec::new(), fields: Some(Fields::new(None, &[inner])) });
            }
        }
    }
    found
}

/// A value's bytes: a text's own, a number's digits.
#[derive(Clone)]
enum Value {
    Bytes(ByteArray),
    Digits(String),
}

impl std::ops::Deref for Value {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes.data(),
            Self::Digits(digits) => digits.as_bytes(),
        }
    }
}

/// The next `count` values of a column; `None` for null.
fn values(reader: &mut ColumnReader, count: usize, defined: i16) -> Result<Vec<Option<Value>>, ParquetError> {
    use ColumnReader::{
        BoolColumnReader, ByteArrayColumnReader, DoubleColumnReader, FixedLenByteArrayColumnReader, FloatColumnReader,
        Int32ColumnReader, Int64ColumnReader, Int96ColumnReader,
    };
    match reader {
        ByteArrayColumnReader(reader) => typed(reader, count, defined, Value::Bytes),
        FixedLenByteArrayColumnReader(reader) => typed(reader, count, defined, |value| Value::Bytes(value.into())),
        BoolColumnReader(reader) => typed(reader, count, defined, |value| Value::Digits(value.to_string())),
        Int32ColumnReader(reader) => typed(reader, count, defined, |value| Value::Digits(value.to_string())),
        Int64ColumnReader(reader) => typed(reader, count, defined, |value| Value::Digits(value.to_string())),
        Int96ColumnReader(reader) => typed(reader, count, defined, |value| Value::Digits(value.to_string())),
        FloatColumnReader(reader) => typed(reader, count, defined, |value| Value::Digits(value.to_string())),
        DoubleColumnReader(reader) => typed(reader, count, defined, |value| Value::Digits(value.to_string())),
    }
}

fn typed<T: DataType>(
    reader: &mut ColumnReaderImpl<T>,
    count: usize,
    defined: i16,
    value: impl Fn(T::T) -> Value,
) -> Result<Vec<Option<Value>>, ParquetError> {
    let (mut levels, mut found) = (Vec::new(), Vec::new());
    let (rows, ..) = reader.read_records(count, Some(&mut levels), None, &mut found)?;
    if rows != count {
        return Err(ParquetError::EOF(format!("a column ends {} rows early", count - rows)));
    }
    let mut found = found.into_iter().map(value);
    if defined == 0 {
        return Ok(found.map(Some).collect());
    }
    Ok(levels.into_iter().map(|level| if level == defined { found.next() } else { None }).collect())
}
