//! Distillation: a draft learns what its target says, on text that target and draft write themselves (Agarwal et al.,
//! 2024, on-policy distillation; Zhou et al., 2024, DistillSpec).
//!
//! Every `round_steps` steps a round of sequences is collected: training text, text by the target, and text by the draft
//! as it is by then. The target reads each once, and what it says at every place, its likeliest tokens and their
//! probabilities, is kept in a file (`round.rs`). Steps draw from all rounds so far. A round follows from the seed and
//! the draft's weights, so a killed run goes on with the same bits; rounds that are there are not collected again.

mod acceptance;
mod collect;
mod prompts;
mod round;
mod rounds;
#[cfg(test)]
mod tests;
mod vocabulary;
mod write;

pub(crate) use acceptance::measure;
pub use acceptance::{ACCEPTANCE_FILE, Acceptance, AcceptanceReport};
pub(crate) use rounds::Rounds;
pub use vocabulary::frequent_ids;

use crate::TrainError;
use crate::checkpoint::{self, OPTIMIZER_FILE};
use backend::KvType;
use formats::file;
use infer::DraftVocabulary;
use model::{Model, Source};
use std::path::{Path, PathBuf};

/// The folder of rounds in a run folder.
pub const TEACHER_FOLDER: &str = "teacher";

/// The target that a draft learns from.
pub struct Teacher<'a> {
    /// Its weights on the disk, for a draft that begins as layers of it.
    pub source: &'a Source,
    /// The model, as it will be served.
    pub model: &'a Model,
    /// How its keys and values are kept.
    pub kv_type: KvType,
    /// A sum over its file: another target is another run.
    pub hash: &'a str,
    /// The draft's own ids; `None` where it has the target's.
    pub vocabulary: Option<&'a DraftVocabulary>,
    /// Ids that end a text of the target.
    pub stop: &'a [u32],
    /// A user's message as the target's chat template has it, up to where the target answers; `None` where the message
    /// cannot be written.
    pub chat: &'a dyn Fn(&str) -> Option<Vec<u32>>,
    /// The target's ids to text.
    pub decode: &'a dyn Fn(&[u32]) -> String,
}

impl Teacher<'_> {
    /// The draft's id for one of the target's.
    pub(crate) fn own(&self, id: u32) -> u32 {
        self.vocabulary.map_or(id, |vocabulary| vocabulary.own(id))
    }

    /// The target's id for one of the draft's; none for the stand-in.
    pub(crate) fn of_target(&self, id: u32) -> Option<u32> {
        self.vocabulary.map_or(Some(id), |vocabulary| vocabulary.target_ids().get(id as usize).copied())
    }
}

/// A sum over the files that make up a target.
///
/// # Errors
/// The disk.
pub fn target_hash(path: &Path) -> Result<String, TrainError> {
    if !file::is_dir(path) {
        return Ok(checkpoint::hash_file(path)?);
    }
    let is_part = |path: &&PathBuf| {
        let extension = path.extension().unwrap_or_default();
        extension == "safetensors" || path.ends_with("config.json")
    };
    let mut hasher = blake3::Hasher::new();
    for part in file::list(path)?.iter().filter(is_part).filter(|part| !part.ends_with(OPTIMIZER_FILE)) {
        hasher.update(checkpoint::hash_file(part)?.as_bytes());
    }
    Ok(hasher.finalize().to_string())
}

/// The backend's word for a divergence; none where the draft is to predict the text itself.
pub(crate) fn divergence(wanted: recipe::Divergence) -> Option<backend::Divergence> {
    match wanted {
        recipe::Divergence::ForwardKl => Some(backend::Divergence::ForwardKl),
        recipe::Divergence::ReverseKl => Some(backend::Divergence::ReverseKl),
        recipe::Divergence::SymmetricKl => Some(backend::Divergence::SymmetricKl),
        recipe::Divergence::TotalVariation => Some(backend::Divergence::TotalVariation),
        recipe::Divergence::NextToken => None,
    }
}
