//! Which documents stand before another as examples, drawn as the harness draws them.

use crate::dataset::Document;
use crate::python::Random;
use crate::task::Sampler;
use crate::{EvalError, Task};

/// The harness's `fewshot_seed`.
const SEED: u32 = 1234;

/// Examples of one task: one generator over its documents in order.
pub(crate) struct Examples {
    random: Random,
    pool: Vec<Document>,
    shots: usize,
    /// Whether the document at hand may be in the pool and must be left out. The harness asks whether the splits have
    /// the same name, of which both may be none.
    leaves_out: bool,
}

impl Examples {
    /// `shots` examples for each document, out of `pool`.
    pub(crate) fn new(task: &Task, pool: Vec<Document>, shots: usize) -> Self {
        Self { random: Random::new(SEED), pool, shots, leaves_out: task.fewshot_split == task.test_split }
    }

    /// The examples of the next document.
    ///
    /// # Errors
    /// Fewer documents than are needed.
    pub(crate) fn draw(&mut self, task: &Task, document: &Document) -> Result<Vec<&Document>, EvalError> {
        if self.shots == 0 {
            return Ok(Vec::new());
        }
        let other = |example: &&Document| !self.leaves_out || *example != document;
        let few = |found| EvalError::TooFewExamples { task: task.name.clone(), wanted: self.shots, found };
        if task.sampler == Sampler::FirstN {
            let first: Vec<&Document> = self.pool.iter().filter(other).take(self.shots).collect();
            return if first.len() < self.shots { Err(few(first.len())) } else { Ok(first) };
        }
        let drawn = self.shots + usize::from(self.leaves_out);
        if drawn > self.pool.len() {
            return Err(few(self.pool.len()));
        }
        let mut indices = self.random.sample(self.pool.len(), drawn);
        indices.retain(|&index| other(&&self.pool[index]));
        if indices.len() < self.shots {
            // Several copies of the document were drawn: the harness draws again from what is left.
            let rest: Vec<usize> = (0..self.pool.len()).filter(|&index| other(&&self.pool[index])).collect();
            if rest.len() < self.shots {
                return Err(few(rest.len()));
            }
            indices = self.random.sample(rest.len(), self.shots).into_iter().map(|index| rest[index]).collect();
        }
        indices.truncate(self.shots);
        Ok(indices.into_iter().map(|index| &self.pool[index]).collect())
    }
}
