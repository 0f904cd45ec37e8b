//! Generation with and without the draft, on the same prompts.

use super::report::Sample;
use super::summary::Speculation;
use anyhow::Result;
use backend::Backend;
use cpu::Cpu;
use infer::{Drafter, GenerateOptions, ModelDrafter, Outcome, SamplingOptions, Session};
use model::Model;
use std::ops::ControlFlow;
use tokenizer::Tokenizer;

/// Code to continue, for the finetuned model.
const CODE_PROMPTS: [&str; 4] = [
    "/// Returns the number of bytes.\npub fn len(&self)",
    "impl fmt::Display for Error {\n",
    "#[cfg(test)]\nmod tests {\n",
    "use std::collections::HashMap;\n\nfn main() {\n    let mut",
];

/// Prose to continue, for the base model.
const PROSE_PROMPT: &str = "This crate provides";

/// Tokens that are generated for each prompt.
const TOKENS: usize = 96;

/// Tokens that the draft proposes at a time.
const DRAFT_LENGTH: usize = 4;

/// The models that write.
pub(super) struct Pair {
    /// After pretraining.
    pub(super) base: Model,
    /// After finetuning.
    pub(super) target: Model,
    /// The finetuned draft.
    pub(super) draft: Model,
}

impl Pair {
    /// Gives the memory back.
    pub(super) fn free(self, b: &dyn Backend) {
        [self.base, self.target, self.draft].into_iter().for_each(|model| model.free(b));
    }
}

/// Sums over the prompts.
#[derive(Default)]
struct Totals {
    tokens: f64,
    seconds: f64,
    drafted: usize,
    accepted: usize,
    rounds: f64,
    yielded: f64,
}

impl Totals {
    fn add(&mut self, outcome: &Outcome) {
        self.tokens += outcome.tokens_per_second * outcome.decode_seconds;
        self.seconds += outcome.decode_seconds;
        self.drafted += outcome.drafted;
        self.accepted += outcome.accepted;
        self.rounds += outcome.rounds as f64;
        self.yielded += outcome.mean_accepted_length * outcome.rounds as f64;
    }

    fn tokens_per_second(&self) -> f64 {
        self.tokens / self.seconds.max(1e-9)
    }
}

/// Greedy text of every prompt by the target alone and with the draft; what each cost, whether they are the same, and
/// samples to show.
pub(super) fn compare(cpu: &Cpu, models: &Pair, tokenizer: &Tokenizer) -> Result<(Speculation, Vec<Sample>)> {
    let (mut plain, mut drafted) = (Totals::default(), Totals::default());
    let mut samples = Vec::new();
    let drawn = SamplingOptions { temperature: 0.7, top_p: 0.95, ..SamplingOptions::default() };
    let (_, prose) = write(cpu, &models.base, None, tokenizer, PROSE_PROMPT, drawn)?;
    samples.push(Sample {
        model: "Base model, on prose (temperature 0.7)".into(),
        prompt: PROSE_PROMPT.into(),
        pieces: prose,
    });
    let greedy = SamplingOptions::default();
    let mut identical = true;
    for prompt in CODE_PROMPTS {
        let (alone, _) = write(cpu, &models.target, None, tokenizer, prompt, greedy)?;
        let (paired, pieces) = write(cpu, &models.target, Some(&models.draft), tokenizer, prompt, greedy)?;
        identical &= alone.ids == paired.ids;
        plain.add(&alone);
        drafted.add(&paired);
        samples.push(Sample {
            model: "Finetuned model, with its draft (greedy)".into(),
            prompt: prompt.into(),
            pieces,
        });
    }
    let speculation = Speculation {
        plain_tokens_per_second: plain.tokens_per_second(),
        speculative_tokens_per_second: drafted.tokens_per_second(),
        acceptance: drafted.accepted as f64 / drafted.drafted.max(1) as f64,
        mean_accepted_length: drafted.yielded / drafted.rounds.max(1.0),
        identical,
    };
    Ok((speculation, samples))
}

/// Continues a prompt; the pieces of text say whether the draft proposed them.
fn write(
    cpu: &Cpu,
    model: &Model,
    draft: Option<&Model>,
    tokenizer: &Tokenizer,
    prompt: &str,
    sampling: SamplingOptions,
) -> Result<(Outcome, Vec<(String, bool)>)> {
    let mut ids = tokenizer.encode(prompt);
    ids.splice(0..0, tokenizer.eos());
    let capacity = (ids.len() + TOKENS).min(model.config.context);
    let mut session = Session::new(cpu, model, capacity)?;
    let mut drafter = draft.map(|draft| ModelDrafter::new(cpu, draft, model.config.vocab, capacity)).transpose()?;
    let options =
        GenerateOptions { max_tokens: TOKENS, stop: model.config.eos.clone(), sampling, draft_length: DRAFT_LENGTH };
    let mut decoder = tokenizer.stream_continuation();
    let mut pieces: Vec<(String, bool)> = Vec::new();
    let drafter = drafter.as_mut().map(|drafter| drafter as &mut dyn Drafter);
    let outcome = infer::generate(&mut session, drafter, &ids, &options, &mut |token| {
        pieces.push((decoder.push(token.id), token.drafted));
        ControlFlow::Continue(())
    })?;
    pieces.push((decoder.finish(), false));
    Ok((outcome, pieces))
}
