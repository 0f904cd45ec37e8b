//! The rounds of a run: which there are, which is due, and which of their sequences a step reads.

use super::collect::Collector;
use super::round::{self, Round, RoundShape};
use super::{TEACHER_FOLDER, Teacher};
use crate::TrainError;
use crate::batch::TokenBatch;
use crate::observer::Observer;
use backend::Backend;
use data::Loader;
use formats::file;
use model::Model;
use recipe::{Distill, Recipe};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

/// All rounds that steps have drawn from so far.
pub(crate) struct Rounds<'a> {
    collector: Collector<'a>,
    folder: PathBuf,
    origin: String,
    open: Vec<Round>,
}

impl<'a> Rounds<'a> {
    /// For a run in the folder `run` on sequences of `length` tokens, a draft of `vocab` ids; `inputs` is the sum of
    /// data and target.
    ///
    /// # Errors
    /// The disk.
    pub(crate) fn new(
        b: &'a dyn Backend,
        teacher: &'a Teacher<'a>,
        (recipe, distill): (&'a Recipe, &'a Distill),
        run: &Path,
        (length, vocab): (usize, usize),
        inputs: &str,
    ) -> Result<Self, TrainError> {
        let folder = run.join(TEACHER_FOLDER);
        file::create_dir_all(&folder)?;
        file::remove_leftovers(&folder)?;
        let Distill { divergence, round_sequences, top_k, .. } = *distill;
        let Distill { text_share, target_share, ref temperatures, ref requests, .. } = *distill;
        let made = format!("{divergence:?} {text_share} {target_share} {temperatures:?} {requests:?}");
        let seed = recipe.run.seed;
        let origin = blake3::hash(format!("{inputs} {seed} {made}").as_bytes()).to_hex().to_string();
        let shape = RoundShape { sequences: round_sequences, length, top_k, vocab };
        Ok(Self { collector: Collector { b, teacher, distill, seed, shape }, folder, origin, open: Vec::new() })
    }

    /// Collects the round that is due before the step that follows `steps` steps, by a draft that has done as many;
    /// `false` if it was given up because `stop` was set.
    ///
    /// # Errors
    /// What collecting meets; a round that is gone and cannot be collected again, since the draft has learnt since.
    pub(crate) fn ensure(
        &mut self,
        steps: u64,
        loader: &Loader,
        draft: &Model,
        observer: &mut dyn Observer,
        stop: &AtomicBool,
    ) -> Result<bool, TrainError> {
        let every = self.collector.distill.round_steps;
        while (self.open.len() as u64) <= steps / every {
            let round = self.open.len() as u64;
            let path = self.folder.join(format!("round-{round:06}.safetensors"));
            let shape = self.collector.shape;
            if !file::exists(&path) {
                if steps != round * every {
                    return Err(TrainError::Round { file: path, reason: "it is gone".into() });
                }
                let Some(taught) = self.collector.collect(round, loader, draft, observer, stop)? else {
                    return Ok(false);
                };
                round::write(&path, shape, &taught, &self.origin)?;
            }
            self.open.push(Round::open(&path, shape, &self.origin)?);
        }
        Ok(true)
    }

    /// Puts samples `first..first + count` of the run into the batch: each any sequence of the rounds so far.
    ///
    /// # Errors
    /// [`TrainError::Round`].
    pub(crate) fn fill(&self, first: u64, count: u64, batch: &mut TokenBatch) -> Result<(), TrainError> {
        let each = self.collector.shape.sequences as u64;
        let of = self.open.len() as u64 * each;
        for index in first..first + count {
            let drawn = number(self.collector.seed, "sample", index) % of;
            let taught = self.open[(drawn / each) as usize].sequence((drawn % each) as usize)?;
            batch.push_taught(&taught.tokens, &taught.ids, &taught.probabilities);
        }
        Ok(())
    }
}

/// A random number that follows from its arguments.
pub(crate) fn number(seed: u64, purpose: &str, index: u64) -> u64 {
    let hash = blake3::hash(format!("{seed} {purpose} {index}").as_bytes());
    u64::from_le_bytes(*hash.as_bytes().first_chunk().unwrap_or(&[0; 8]))
}
