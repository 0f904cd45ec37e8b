//! From a task's documents to requests: contexts and continuations to be scored, prompts to be continued.

use crate::dataset::{self, Document};
use crate::encode::{Encoder, Request};
use crate::fewshot::Examples;
use crate::generation::{Generation, Overrides, Prompt};
use crate::templates::Templates;
use crate::{EvalError, Metric, OutputType, Task};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// What of a task is evaluated.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Only so many documents, the first ones.
    pub limit: Option<usize>,
    /// So many examples before each, where the task does not forbid it.
    pub shots: Option<usize>,
    /// Whether contexts are chats, written with the model's chat template; examples are turns of it.
    pub chat: bool,
    /// How texts are generated, where not as the task says.
    pub generation: Overrides,
}

/// A document as the task sees it.
#[derive(Clone, Debug)]
pub struct Item {
    /// Its index in the split.
    pub doc_id: usize,
    /// Its columns.
    pub document: Document,
    /// The choices; of tasks without choices, the one text that is scored.
    pub choices: Vec<String>,
    /// What is scored: contexts and continuations, one pair a choice; where text is generated, a prompt and nothing.
    pub pairs: Vec<(String, String)>,
    /// The right choice, if it is one of them.
    pub gold: Option<usize>,
    /// The target as the task file gives it: an index, or a text.
    pub target: serde_json::Value,
    /// Which choices are true, where there may be several.
    pub labels: Option<Vec<bool>>,
    /// Words and bytes that a perplexity is per.
    pub size: (usize, usize),
    /// Requests of each pair, as a range of the task's requests (several only for long texts).
    pub requests: Vec<Range<usize>>,
}

/// A task's documents and requests.
pub struct TaskRequests {
    /// The task.
    pub task: Arc<Task>,
    /// Examples before each document.
    pub shots: usize,
    /// Documents of the split, evaluated or not.
    pub documents: usize,
    /// The documents that are evaluated.
    pub items: Vec<Item>,
    /// What the model is to score.
    pub requests: Vec<Request>,
    /// What the model is to continue: for each item, one after the other, as many as the task has texts of it.
    pub prompts: Vec<Prompt>,
    /// How it continues them.
    pub generation: Option<Generation>,
    /// Requests and prompts whose context was cut from the left.
    pub truncated: usize,
}

/// The texts by which a task's items are found in training text: what the task file says
/// (`doc_to_decontamination_query`), else the question with the right answer, without description and examples.
///
/// # Errors
/// Data files that are missing or damaged, templates that fail.
pub fn item_texts(task: &Task, folder: &Path) -> Result<Vec<String>, EvalError> {
    let split = dataset::read(folder, task, task.split())?;
    let templates = Templates::new(task, &split.path, &split.documents[0], task.query.as_deref())?;
    let documents = split.documents.into_iter().enumerate();
    documents.map(|(index, document)| templates.item_text(index, document)).collect()
}

impl TaskRequests {
    /// Reads a task's documents from a data folder and builds its requests.
    ///
    /// # Errors
    /// Data files that are missing or damaged, templates that fail, continuations that do not fit.
    pub fn build(
        task: &Arc<Task>,
        folder: &Path,
        options: Options,
        encoder: &mut Encoder<'_>,
    ) -> Result<Self, EvalError> {
        let split = dataset::read(folder, task, task.split())?;
        let shots = task.shots(options.shots);
        let drawn = if task.output_type == OutputType::LoglikelihoodRolling { 0 } else { shots }; // they have no context
        let pool = match drawn {
            0 => Vec::new(),
            _ if !task.samples.is_empty() => task.samples.clone(),
            _ if task.example_split() == task.split() => split.documents.clone(),
            _ => dataset::read(folder, task, task.example_split())?.documents,
        };
        let mut examples = Examples::new(task, pool, drawn);
        let chat = options.chat.then(|| encoder.tokenizer());
        let templates = Templates::new(task, &split.path, &split.documents[0], None)?.with_chat(chat);
        let documents = split.documents.len();
        let count = options.limit.unwrap_or(documents).min(documents);
        let mut built = Self {
            task: Arc::clone(task),
            shots,
            documents,
            items: Vec::with_capacity(count),
            requests: Vec::new(),
            prompts: Vec::new(),
            generation: task.generation.as_ref().map(|own| own.with(&options.generation)).transpose()?,
            truncated: 0,
        };
        for (index, document) in split.documents.into_iter().take(count).enumerate() {
            let mut item = templates.item(index, document, &mut examples)?;
            built.encode(&mut item, encoder)?;
            built.items.push(item);
        }
        Ok(built)
    }

    /// What is measured. Of several programs a document, how likely 1, 10 and 100 hold a right one is measured as well,
    /// as far as there are so many.
    pub fn metrics(&self) -> Vec<Metric> {
        let repeats = self.generation.as_ref().map_or(1, |generation| generation.repeats);
        let fits = |metric: &Metric| !matches!(metric, Metric::PassAt(count) if *count as usize > repeats);
        let mut metrics = self.task.metrics.clone();
        if metrics.iter().any(|metric| matches!(metric, Metric::PassAt(_))) {
            metrics.extend([1, 10, 100].map(Metric::PassAt));
            metrics.sort_unstable();
            metrics.dedup();
        }
        metrics.retain(fits);
        metrics
    }

    fn encode(&mut self, item: &mut Item, encoder: &mut Encoder<'_>) -> Result<(), EvalError> {
        if let Some(generation) = &self.generation {
            let most = generation.max_tokens;
            let (ids, cut) = encoder.prompt(&item.pairs[0].0, most).ok_or_else(|| EvalError::NoRoom {
                task: self.task.name.clone(),
                tokens: most,
                context: encoder.context(),
            })?;
            self.truncated += usize::from(cut > 0);
            let prompt = |sample| Prompt { ids: ids.clone(), sample };
            self.prompts.extend((0..generation.repeats).map(prompt));
            return Ok(());
        }
        for (context, continuation) in &item.pairs {
            let first = self.requests.len();
            if self.task.output_type == OutputType::LoglikelihoodRolling {
                self.requests.extend(encoder.rolling(continuation));
            } else {
                let greedy = self.task.output_type == OutputType::Loglikelihood;
                let (request, cut) = encoder.pair(context, continuation, greedy).map_err(|tokens| {
                    let text = continuation.chars().take(40).collect();
                    let most = encoder.context();
                    EvalError::Continuation { task: self.task.name.clone(), document: item.doc_id, text, tokens, most }
                })?;
                self.truncated += usize::from(cut > 0);
                self.requests.push(request);
            }
            item.requests.push(first..self.requests.len());
        }
        Ok(())
    }
}
