//! How much of what a draft proposes its target accepts.

use super::{Teacher, prompts};
use crate::TrainError;
use backend::Backend;
use data::Loader;
use formats::file;
use infer::{GenerateOptions, ModelDrafter, Session};
use model::Model;
use recipe::Distill;
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;
use std::path::Path;

/// The file of an [`AcceptanceReport`] in a run folder.
pub const ACCEPTANCE_FILE: &str = "acceptance.json";

/// Greedy speculation over held-out prompts, with a fixed number of drafted tokens.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Acceptance {
    /// Steps that the draft had done.
    pub steps: u64,
    /// Prompts that were continued.
    pub prompts: usize,
    /// Tokens that the target's passes yielded, those for the prompts left out.
    pub tokens: usize,
    /// Passes of the target.
    pub rounds: usize,
    /// Tokens that were proposed.
    pub drafted: usize,
    /// Those of them that were accepted.
    pub accepted: usize,
    /// `accepted / drafted`.
    pub acceptance: f64,
    /// `tokens / rounds`: tokens that a pass of the target yields, its own included.
    pub mean_accepted_length: f64,
}

/// Before the first step and after the last.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AcceptanceReport {
    /// By the draft's first weights.
    pub before: Option<Acceptance>,
    /// By its last.
    pub after: Option<Acceptance>,
}

impl AcceptanceReport {
    /// The report of the run in this folder; an empty one where there is none yet.
    ///
    /// # Errors
    /// The disk; what is no report.
    pub fn read(run: &Path) -> Result<Self, TrainError> {
        let path = run.join(ACCEPTANCE_FILE);
        if !file::exists(&path) {
            return Ok(Self::default());
        }
        let text = file::read_to_string(&path)?;
        serde_json::from_str(&text).map_err(|error| TrainError::Round { file: path, reason: error.to_string() })
    }

    /// Writes the report; atomic.
    ///
    /// # Errors
    /// The disk.
    pub(crate) fn write(&self, run: &Path) -> Result<(), TrainError> {
        let text = serde_json::to_string_pretty(self).unwrap_or_default() + "\n";
        Ok(file::write_bytes(&run.join(ACCEPTANCE_FILE), text.as_bytes())?)
    }
}

/// Continues prompts of held-out text greedily, `draft` proposing; `None` where nothing is held out.
///
/// # Errors
/// Shards, passes, no memory.
pub(crate) fn measure(
    b: &dyn Backend,
    teacher: &Teacher<'_>,
    draft: &Model,
    distill: &Distill,
    loader: &Loader,
    steps: u64,
) -> Result<Option<Acceptance>, TrainError> {
    let length = loader.sequence();
    let most = distill.heldout_tokens.min(length / 2);
    let options = GenerateOptions {
        max_tokens: most,
        stop: teacher.stop.to_vec(),
        draft_length: distill.draft_length,
        ..GenerateOptions::default()
    };
    let capacity = length + 1;
    let mut target = Session::with_cache(b, teacher.model, capacity, teacher.kv_type)?;
    let session = Session::with_cache(b, draft, capacity, teacher.kv_type)?;
    let mut drafter = ModelDrafter::from_session(session, teacher.model.config.vocab);
    if let Some(vocabulary) = teacher.vocabulary {
        drafter = drafter.with_vocabulary(vocabulary.clone());
    }
    let mut found = Acceptance { steps, ..Acceptance::default() };
    let samples = loader.validation_samples((distill.heldout_prompts * length) as u64);
    for (index, sample) in samples.enumerate() {
        let prompt = prompts::prompt(teacher, distill, &sample?, index as u64, length / 2);
        if prompt.is_empty() {
            continue;
        }
        let outcome =
            infer::generate(&mut target, Some(&mut drafter), &prompt, &options, &mut |_| ControlFlow::Continue(()))?;
        found.prompts += 1;
        found.rounds += outcome.rounds;
        found.drafted += outcome.drafted;
        found.accepted += outcome.accepted;
        found.tokens += (outcome.mean_accepted_length * outcome.rounds as f64).round() as usize;
    }
    if found.prompts == 0 {
        return Ok(None);
    }
    found.acceptance = found.accepted as f64 / found.drafted.max(1) as f64;
    found.mean_accepted_length = found.tokens as f64 / found.rounds.max(1) as f64;
    Ok(Some(found))
}
