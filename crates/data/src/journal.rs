//! How far preparing has come, so that a killed run goes on instead of beginning again.
//!
//! The journal is replaced as a whole, after everything that it speaks of is on the disk. What the disk holds beyond it
//! is cut off when the run goes on. So the result is, byte for byte, that of a run that nobody killed.

use crate::DataError;
use crate::account::Account;
use crate::dedup::Seen;
use crate::manifest::{Input, SeparatorIds, SourceEntry};
use crate::write::PartState;
use formats::file::{self, AppendFile};
use serde::{Deserialize, Serialize};
use std::io::Read;
use std::path::{Path, PathBuf};

const JOURNAL_FILE: &str = "journal.json";
const SEEN_FILE: &str = "seen.bin";
const JOURNAL_LIMIT_BYTES: u64 = 1 << 30;
/// Version of the journal and of how inputs are cut into blocks: another version's work is not continued.
const VERSION: u32 = 1;

/// What the result depends on beside the inputs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Head {
    pub(crate) tokenizer_hash: String,
    pub(crate) vocab: u64,
    pub(crate) separator: SeparatorIds,
    pub(crate) recipe: recipe::Data,
}

/// How far a source has come.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct SourceState {
    /// Tasks that are done, and blocks of the next one.
    pub(crate) task: usize,
    pub(crate) block: u64,
    pub(crate) account: Account,
    pub(crate) train: PartState,
    pub(crate) validation: PartState,
    /// The inputs of the tasks that are done (with hashes) and of the next one if any of its blocks is.
    pub(crate) inputs: Vec<Input>,
}

/// The whole state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Journal {
    version: u32,
    pub(crate) head: Head,
    /// Sources that are done.
    pub(crate) done: Vec<SourceEntry>,
    /// The one that is being worked on.
    pub(crate) current: SourceState,
    /// Number of hashes in the file of texts seen.
    seen: u64,
}

impl Journal {
    pub(crate) fn new(head: Head) -> Self {
        Self { version: VERSION, head, done: Vec::new(), current: SourceState::default(), seen: 0 }
    }
}

/// The work folder: the journal and the hashes of kept texts.
pub(crate) struct WorkFolder {
    pub(crate) path: PathBuf,
    out: PathBuf,
    log: AppendFile,
    pending: Vec<u8>,
    written: u64,
    pub(crate) seen: Seen,
}

impl WorkFolder {
    /// Opens the work folder of `out` and what an earlier run left in it, if anything. Hashes of kept texts take at most
    /// `memory_bytes`.
    pub(crate) fn open(out: &Path, memory_bytes: usize) -> Result<(Self, Option<Journal>), DataError> {
        let path = out.join(".work");
        let journal_path = path.join(JOURNAL_FILE);
        if !file::exists(&journal_path) {
            file::remove_dir_all(&path)?; // killed before the first entry
        }
        file::create_dir_all(&path)?;
        file::remove_leftovers(&path)?;
        for left in file::list(&path)?.iter().filter(|left| left.extension().is_some_and(|ending| ending == "run")) {
            file::remove_file(left)?; // made again from the list of hashes
        }
        let bad = |path: &Path, problem| DataError::BadJournal { path: path.into(), problem, dir: out.into() };
        let mut journal: Option<Journal> = None;
        if file::exists(&journal_path) {
            let bytes = file::read(&journal_path, JOURNAL_LIMIT_BYTES)?;
            let read: Journal =
                serde_json::from_slice(&bytes).map_err(|error| bad(&journal_path, error.to_string()))?;
            if read.version != VERSION {
                return Err(bad(&journal_path, format!("version {}, this program's is {VERSION}", read.version)));
            }
            journal = Some(read);
        }
        let count = journal.as_ref().map_or(0, |journal| journal.seen);
        let seen_path = path.join(SEEN_FILE);
        let log = file::open_append(&seen_path)?;
        let found = file::size_bytes(&seen_path)?;
        if found / 16 < count {
            return Err(bad(&seen_path, format!("{found} bytes long, {} were written", count.saturating_mul(16))));
        }
        log.truncate(count * 16)?;
        let seen = Seen::new(&path, memory_bytes);
        let mut folder = Self { path, out: out.into(), log, pending: Vec::new(), written: count, seen };
        folder.refill(&seen_path)?;
        Ok((folder, journal))
    }

    /// Reads the hashes of an earlier run.
    fn refill(&mut self, path: &Path) -> Result<(), DataError> {
        let mut log = std::io::BufReader::with_capacity(1 << 20, file::open_read(path)?);
        let mut hash = [0; 16];
        for _ in 0..self.written {
            log.read_exact(&mut hash).map_err(|cause| file::FileError::io("read it", path, cause))?;
            self.seen.insert_new(u128::from_le_bytes(hash))?;
        }
        Ok(())
    }

    /// Whether a text is new; it is not any more.
    pub(crate) fn is_new(&mut self, identity: u128) -> Result<bool, DataError> {
        let new = self.seen.insert(identity)?;
        if new {
            self.pending.extend(identity.to_le_bytes());
        }
        Ok(new)
    }

    /// Makes the hashes durable, then the journal.
    pub(crate) fn commit(&mut self, journal: &mut Journal) -> Result<(), DataError> {
        self.log.append(&self.pending)?;
        self.log.sync()?;
        self.written += (self.pending.len() / 16) as u64;
        self.pending.clear();
        journal.seen = self.written;
        let path = self.path.join(JOURNAL_FILE);
        let json = serde_json::to_vec(journal).map_err(|error| DataError::BadJournal {
            path: path.clone(),
            problem: error.to_string(),
            dir: self.out.clone(),
        })?;
        file::write_bytes(&path, &json)?;
        Ok(())
    }

    /// Removes the folder.
    pub(crate) fn remove(self) -> Result<(), DataError> {
        file::remove_dir_all(&self.path)?;
        Ok(())
    }
}
