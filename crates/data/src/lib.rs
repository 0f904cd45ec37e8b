//! Text in, batches out.
//!
//! **Holds** reading of text and tokens, filters, exact deduplication, decontamination, the books of what was dropped and why, token
//! shards and their manifest, the order of samples, the loader.
//! **Never** sees a loss or an optimizer.
//! **Start reading at** [`prepare`] (text → shards) and [`Loader`] (shards → samples).

mod account;
mod collect;
mod compare;
mod contamination;
mod corpus;
mod decontaminate;
mod dedup;
mod entropy;
mod error;
mod filter;
mod journal;
mod loader;
mod manifest;
mod order;
mod pipeline;
mod plan;
mod prepare;
mod process;
mod read;
mod sample;
mod shard;
mod write;

#[cfg(test)]
mod tests;

pub use account::{Account, Changed, Reason, Tally};
pub use compare::Difference;
pub use contamination::{Contamination, ItemId, TaskIndex, TaskItems};
pub use corpus::CorpusPlace;
pub use decontaminate::{Scan, ScanOptions, TaskScan, scan, scan_into};
pub use entropy::unigram_entropy;
pub use error::DataError;
pub use loader::{Loader, Sample, weights};
pub use manifest::{
    Input, MANIFEST_FILE, Manifest, ManifestProblem, Part, PartEntry, SeparatorIds, ShardEntry, SourceEntry,
};
pub use order::{Draw, Mixture, Order, Permutation};
pub use prepare::{PrepareOptions, Progress, Silent, Status, prepare};
pub use read::{DOCUMENT_LIMIT_BYTES, ReadError};
pub use sample::{SampleTexts, sample_texts};
pub use shard::{Dtype, Shard, ShardError, ShardHeader, ShardProblem, write as write_shard};
