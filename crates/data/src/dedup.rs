//! Which texts came before: an exact set of 128-bit hashes within bounded memory.
//!
//! New hashes go into a table in memory. A full table becomes a sorted file (a *run*); eight runs of a size are merged
//! into one. A hash is looked up in the table, then with one read of 4 KiB in each run: in memory a run keeps the first
//! hash of each such page only, 8 bytes for 256 texts. Ten million texts stay in memory; a billion need 16 GB of disk
//! and 40 MB of memory.

use crate::DataError;
use formats::file::{self, FileError};
use std::collections::HashSet;
use std::fs::File;
use std::hash::{BuildHasherDefault, Hasher};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Hashes in a page.
const PAGE: usize = 256;
/// Runs of one level that are merged.
const FAN: usize = 8;
/// Memory of a table: hashbrown keeps 17 bytes a slot and fills seven of eight.
const SLOT_BYTES: usize = 17;

/// The hashes are uniform already.
#[derive(Default)]
pub(crate) struct LowBits(u64);

impl Hasher for LowBits {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        let mut low = [0; 8];
        let count = bytes.len().min(8);
        low[..count].copy_from_slice(&bytes[..count]);
        self.0 ^= u64::from_le_bytes(low);
    }
    fn write_u128(&mut self, value: u128) {
        self.0 = value as u64;
    }
}

type Table = HashSet<u128, BuildHasherDefault<LowBits>>;

/// Hashes of the texts that were kept.
pub(crate) struct Seen {
    recent: Table,
    limit: usize,
    runs: Vec<Run>,
    folder: PathBuf,
    next_run: usize,
}

struct Run {
    path: PathBuf,
    file: File,
    hashes: u64,
    /// High half of the first hash of each page.
    fences: Vec<u64>,
    level: usize,
}

impl Seen {
    /// An empty set whose table takes at most `memory_bytes` and whose runs lie in `folder`.
    pub(crate) fn new(folder: &Path, memory_bytes: usize) -> Self {
        let slots = (memory_bytes / SLOT_BYTES).max(64);
        let slots = 1usize << slots.ilog2();
        Self { recent: Table::default(), limit: slots / 8 * 7, runs: Vec::new(), folder: folder.into(), next_run: 0 }
    }

    /// Whether `identity` is new; it is not any more.
    pub(crate) fn insert(&mut self, identity: u128) -> Result<bool, DataError> {
        if self.recent.contains(&identity) {
            return Ok(false);
        }
        for run in &mut self.runs {
            if run.contains(identity)? {
                return Ok(false);
            }
        }
        self.insert_new(identity)?;
        Ok(true)
    }

    /// Adds a hash that is known to be new.
    pub(crate) fn insert_new(&mut self, identity: u128) -> Result<(), DataError> {
        self.recent.insert(identity);
        if self.recent.len() >= self.limit {
            let mut sorted: Vec<u128> = self.recent.drain().collect();
            sorted.sort_unstable();
            let run = self.write_run(0, &mut sorted.into_iter().map(Ok))?;
            self.runs.push(run);
            self.merge()?;
        }
        Ok(())
    }

    /// Merges the runs of a level that is full, and of the next one if that fills it.
    fn merge(&mut self) -> Result<(), DataError> {
        while let Some(level) = self.runs.last().map(|run| run.level) {
            let first = self.runs.partition_point(|run| run.level > level);
            if self.runs.len() - first < FAN {
                return Ok(());
            }
            let old = self.runs.split_off(first);
            let mut streams = Vec::new();
            for run in &old {
                streams.push(Stream::open(run)?);
            }
            let merged = self.write_run(level + 1, &mut Merged { streams })?;
            self.runs.push(merged);
            for run in old {
                drop(run.file);
                file::remove_file(&run.path)?;
            }
        }
        Ok(())
    }

    fn write_run(
        &mut self,
        level: usize,
        hashes: &mut dyn Iterator<Item = Result<u128, FileError>>,
    ) -> Result<Run, DataError> {
        let path = self.folder.join(format!("seen-{}.run", self.next_run));
        self.next_run += 1;
        let (mut count, mut fences) = (0u64, Vec::new());
        let mut failed = None;
        file::write_atomic(&path, |writer| {
            for hash in hashes {
                let hash = match hash {
                    Ok(hash) => hash,
                    Err(error) => {
                        failed = Some(error);
                        return Err(io::ErrorKind::Interrupted.into());
                    }
                };
                if count.is_multiple_of(PAGE as u64) {
                    fences.push((hash >> 64) as u64);
                }
                count += 1;
                writer.write_all(&hash.to_le_bytes())?;
            }
            Ok(())
        })
        .map_err(|error| failed.unwrap_or(error))?;
        Ok(Run { file: file::open_read(&path)?, path, hashes: count, fences, level })
    }
}

impl Run {
    fn contains(&mut self, identity: u128) -> Result<bool, DataError> {
        let high = (identity >> 64) as u64;
        // Pages whose first hash has the same high half may hold it, and the one before them.
        let after = self.fences.partition_point(|&fence| fence <= high);
        let first = self.fences.partition_point(|&fence| fence < high).saturating_sub(1);
        for page in first..after {
            if self.page(page)?.binary_search(&identity).is_ok() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn page(&mut self, page: usize) -> Result<Vec<u128>, DataError> {
        let from = (page * PAGE) as u64;
        let count = (self.hashes - from).min(PAGE as u64) as usize;
        let mut bytes = [0; PAGE * 16];
        let bytes = &mut bytes[..count * 16];
        let read = self.file.seek(SeekFrom::Start(from * 16)).and_then(|_| self.file.read_exact(bytes));
        read.map_err(|cause| FileError::io("read it", &self.path, cause))?;
        Ok(bytes.as_chunks::<16>().0.iter().map(|hash| u128::from_le_bytes(*hash)).collect())
    }
}

/// A run from its beginning.
struct Stream {
    reader: BufReader<File>,
    path: PathBuf,
    left: u64,
    head: Option<u128>,
}

impl Stream {
    fn open(run: &Run) -> Result<Self, FileError> {
        let reader = BufReader::with_capacity(1 << 18, file::open_read(&run.path)?);
        let mut stream = Self { reader, path: run.path.clone(), left: run.hashes, head: None };
        stream.advance()?;
        Ok(stream)
    }

    fn advance(&mut self) -> Result<(), FileError> {
        self.head = None;
        if self.left > 0 {
            let mut hash = [0; 16];
            self.reader.read_exact(&mut hash).map_err(|cause| FileError::io("read it", &self.path, cause))?;
            self.left -= 1;
            self.head = Some(u128::from_le_bytes(hash));
        }
        Ok(())
    }
}

/// Several runs as one; no hash is in two of them.
struct Merged {
    streams: Vec<Stream>,
}

impl Iterator for Merged {
    type Item = Result<u128, FileError>;

    fn next(&mut self) -> Option<Self::Item> {
        let least = self.streams.iter_mut().filter(|stream| stream.head.is_some()).min_by_key(|stream| stream.head)?;
        let hash = least.head?;
        Some(least.advance().map(|()| hash))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn on_disk_or_in_memory_it_is_a_set(numbers in proptest::collection::vec(0u64..4000, 0..6000), high in any::<bool>()) {
            let dir = tempfile::tempdir().unwrap();
            let mut seen = Seen::new(dir.path(), 0);
            let mut reference = HashSet::new();
            for number in numbers {
                // Also hashes that share their high half, as no real ones do.
                let identity = if high { u128::from(number) << 100 | u128::from(number) } else { u128::from(number) };
                prop_assert_eq!(seen.insert(identity).unwrap(), reference.insert(identity));
            }
            prop_assert!(reference.len() < seen.limit || !seen.runs.is_empty());
        }
    }
}
