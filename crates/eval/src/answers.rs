//! Prompts → texts, one after the other: equal beginnings are read once, finished texts not written again.

use crate::finished::{Finished, Key, prompt_key};
use crate::generation::{Generation, Prompt};
use crate::score::Status;
use crate::{EvalError, TaskRequests};
use infer::{Sampler, SamplingOptions, Session};
use tokenizer::Tokenizer;

/// A model that writes.
pub struct Writer<'w, 'b> {
    session: Session<'b>,
    tokenizer: &'w Tokenizer,
    eos: Vec<u32>,
    /// The prompt that the session begins with.
    held: Vec<u32>,
}

/// Tokens that a session must hold for the prompts of some tasks; 0 if there are none.
pub fn longest_text(tasks: &[TaskRequests]) -> usize {
    let of_task = |task: &TaskRequests| {
        let longest = task.prompts.iter().map(|prompt| prompt.ids.len()).max();
        longest.zip(task.generation.as_ref()).map(|(prompt, generation)| prompt + generation.max_tokens)
    };
    tasks.iter().filter_map(of_task).max().unwrap_or(0)
}

/// Continues the prompts of some tasks; the answer has a list for each task, in the order of its prompts. `progress` is
/// told often, and stops the run with `false`; the text at hand is then lost.
///
/// # Errors
/// The disk, the model, [`EvalError::Stopped`].
pub fn write(
    writer: &mut Writer<'_, '_>,
    tasks: &[TaskRequests],
    finished: &mut Finished,
    progress: &mut dyn FnMut(Status) -> bool,
) -> Result<Vec<Vec<String>>, EvalError> {
    let mut open: Vec<(&Prompt, &Generation, Key)> = Vec::new();
    let mut all = 0;
    for task in tasks {
        let Some(generation) = &task.generation else { continue };
        all += task.prompts.len();
        let keyed = task.prompts.iter().map(|prompt| (prompt, generation, prompt_key(prompt, generation)));
        open.extend(keyed.filter(|(.., key)| finished.text(key).is_none()));
    }
    open.sort_by(|one, other| one.0.ids.cmp(&other.0.ids).then(one.2.cmp(&other.2))); // equal beginnings side by side
    open.dedup_by(|one, other| one.2 == other.2);
    let done = all - open.len();
    let mut status = Status { requests: done, of: all, rows: 0, of_rows: open.len(), unit: "texts" };
    for (prompt, generation, key) in &open {
        let Some(text) = writer.text(prompt, generation, &mut || progress(status))? else {
            return Err(EvalError::Stopped { done: status.requests, total: status.of });
        };
        finished.add_text(key, text)?;
        status.requests += 1;
        status.rows += 1;
    }
    progress(status);
    let text = |prompt: &Prompt, generation: &Generation| {
        finished.text(&prompt_key(prompt, generation)).unwrap_or_default().to_owned()
    };
    let of_task = |task: &TaskRequests| match &task.generation {
        Some(generation) => task.prompts.iter().map(|prompt| text(prompt, generation)).collect(),
        None => Vec::new(),
    };
    Ok(tasks.iter().map(of_task).collect())
}

impl<'w, 'b> Writer<'w, 'b> {
    /// `session` has room for [`longest_text`] tokens; `eos` end a text.
    pub fn new(session: Session<'b>, tokenizer: &'w Tokenizer, eos: Vec<u32>) -> Self {
        Self { session, tokenizer, eos, held: Vec::new() }
    }

    /// One text; `None` if `goes_on` says no.
    fn text(
        &mut self,
        prompt: &Prompt,
        generation: &Generation,
        goes_on: &mut dyn FnMut() -> bool,
    ) -> Result<Option<String>, EvalError> {
        let mut sampler = Sampler::new(SamplingOptions { seed: seed(prompt, generation), ..generation.sampling })?;
        let mut history = prompt.ids.clone();
        let mut id = sampler.sample(self.read(&prompt.ids)?, &history)?;
        let mut text = String::new();
        for written in 1..=generation.max_tokens {
            if self.eos.contains(&id) || self.is_stop(id, generation) {
                break;
            }
            history.push(id);
            text = self.decode(&history[prompt.ids.len()..], generation.keeps_space);
            if generation.cut(&text).len() < text.len() || written == generation.max_tokens {
                break;
            }
            if !goes_on() {
                return Ok(None);
            }
            let logits = self.session.extend(&[id])?;
            id = sampler.sample(logits.row(0), &history)?;
        }
        Ok(Some(generation.cut(&text).to_owned()))
    }

    /// Reads a prompt, but for the beginning that the session holds, and returns the logits that follow.
    fn read(&mut self, ids: &[u32]) -> Result<&[f32], EvalError> {
        let (session, held) = (&mut self.session, &mut self.held);
        let shared = held.iter().zip(&ids[..ids.len() - 1]).take_while(|(one, other)| one == other).count();
        session.truncate(shared);
        held.clear();
        let logits = session.prefill(&ids[shared..])?;
        held.extend_from_slice(ids);
        Ok(logits)
    }

    /// Whether a token is a mark, such as `<|im_end|>`, that the task stops at: decoding leaves marks out.
    fn is_stop(&self, id: u32, generation: &Generation) -> bool {
        let spelled = self.tokenizer.token_text(id).filter(|_| self.tokenizer.is_special(id));
        spelled.is_some_and(|mark| generation.until.iter().any(|term| mark.contains(term.as_str())))
    }

    fn decode(&self, ids: &[u32], keeps_space: bool) -> String {
        if keeps_space { self.tokenizer.decode_continuation(ids) } else { self.tokenizer.decode(ids) }
    }
}

/// Random numbers of one text: those of no other, and the same in every run.
fn seed(prompt: &Prompt, generation: &Generation) -> u64 {
    let hash = blake3::hash(format!("{} {} {:?}", generation.sampling.seed, prompt.sample, prompt.ids).as_bytes());
    hash.as_bytes()[..8].iter().fold(0, |seed, &byte| seed << 8 | u64::from(byte))
}
