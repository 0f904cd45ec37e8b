//! The recipes of a quickstart, for as many minutes as there are.

use super::Options;
use super::summary::Summary;
use model::Scheme;
use recipe::{Corpus, Data, Init, ModelShape, Precision, Recipe, Run, ScheduleKind, Source, TokenizerChoice, Train};
use std::path::Path;

/// First weights of both models; the recipe's name of it is [`Init::Gpt2`].
pub(super) const SCHEME: Scheme = Scheme::Gpt2;

/// Tokens of a sample.
const SEQUENCE: usize = 256;

/// Tokens of an optimizer step: few, since a few minutes of training need many steps more than large batches.
const BATCH_TOKENS: usize = 2048;

/// Which of the two models.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The one whose text counts.
    Target,
    /// The one that proposes.
    Draft,
}

impl Role {
    /// For people and folders.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Target => "target",
            Self::Draft => "draft",
        }
    }

    /// Share of all training time for pretraining.
    pub(super) fn pretrain_share(self) -> f64 {
        match self {
            Self::Target => 0.58,
            Self::Draft => 0.10,
        }
    }

    /// Share of all training time for finetuning.
    pub(super) fn finetune_share(self) -> f64 {
        match self {
            Self::Target => 0.25,
            Self::Draft => 0.07,
        }
    }

    /// The shape, larger where there is time for it.
    fn shape(self, minutes: f64) -> ModelShape {
        let (width, layers, heads, ffn_width) = match (self, minutes) {
            (Self::Target, minutes) if minutes >= 30.0 => (384, 8, 6, 1024),
            (Self::Target, minutes) if minutes >= 10.0 => (256, 8, 4, 704),
            (Self::Target, _) => (192, 6, 6, 512),
            (Self::Draft, minutes) if minutes >= 10.0 => (128, 2, 4, 352),
            (Self::Draft, _) => (96, 1, 3, 256),
        };
        ModelShape {
            width,
            layers,
            heads,
            kv_heads: heads / if heads.is_multiple_of(2) { 2 } else { 1 },
            ffn_width,
            context: SEQUENCE,
            tied: true,
            init: Init::Gpt2,
            ..ModelShape::default()
        }
    }
}

/// The tokenizer that both models share.
pub(super) fn tokenizer(minutes: f64) -> TokenizerChoice {
    let vocab = if minutes >= 10.0 { 4096 } else { 2048 };
    TokenizerChoice { train_vocab: Some(vocab), train_bytes: 3 << 20, ..TokenizerChoice::default() }
}

/// Which text.
pub(super) struct Corpora {
    /// For pretraining.
    pub(super) prose: Data,
    /// For finetuning.
    pub(super) code: Data,
}

impl Corpora {
    pub(super) fn new(options: &Options) -> Self {
        // Beyond what can be read in the time, more text would only take longer to prepare.
        let max_bytes = (options.minutes * 4e6).clamp(6e6, 100e6) as u64;
        let data = |name: &str, files: &[String], corpus| {
            let source = Source {
                name: name.into(),
                files: files.to_vec(),
                corpus: files.is_empty().then_some(corpus),
                max_bytes,
                ..Source::default()
            };
            Data { sources: vec![source], validation_fraction: 0.03, min_chars: 200, ..Data::default() }
        };
        Self {
            prose: data("prose", &options.text, Corpus::CratesProse),
            code: data("code", &options.code, Corpus::CratesCode),
        }
    }

    /// Both, for the tokenizer.
    pub(super) fn both(&self) -> Data {
        let mut both = self.prose.clone();
        both.sources.extend(self.code.sources.iter().cloned());
        both
    }
}

/// A model from nothing, on prose.
pub(super) fn pretraining(role: Role, options: &Options) -> Recipe {
    let corpora = Corpora::new(options);
    recipe(options, role.shape(options.minutes), corpora.prose, 5e-3)
}

/// The model at `base` on code, with a fresh optimizer.
pub(super) fn finetuning(options: &Options, base: &Path) -> Recipe {
    let corpora = Corpora::new(options);
    let shape = ModelShape { from: Some(base.to_owned()), ..ModelShape::default() };
    recipe(options, shape, corpora.code, 3e-3)
}

fn recipe(options: &Options, model: ModelShape, data: Data, learning_rate: f64) -> Recipe {
    let mut train = Train {
        sequence: SEQUENCE,
        batch_tokens: BATCH_TOKENS,
        micro_batch: BATCH_TOKENS / SEQUENCE,
        precision: Precision::Bf16,
        ..Train::default()
    };
    train.schedule.kind = ScheduleKind::Wsd;
    train.schedule.learning_rate = learning_rate;
    train.schedule.min_learning_rate = 0.0;
    train.schedule.decay_fraction = 0.3;
    train.evaluation.tokens = super::HELD_OUT_TOKENS / 4;
    train.checkpoints.every_minutes = 5.0;
    train.checkpoints.keep_last = 1;
    Recipe {
        run: Run { description: "quickstart".into(), seed: options.seed },
        model,
        tokenizer: tokenizer(options.minutes),
        data,
        train,
        distill: None,
    }
}

/// Fixes the length of a run, and what follows from it.
pub(super) fn set_steps(recipe: &mut Recipe, steps: u64) {
    recipe.train.steps = Some(steps);
    recipe.train.schedule.warmup_steps = (steps / 20).clamp(1, 100);
    recipe.train.evaluation.every_steps = (steps / 8).max(1);
}

/// Commands to try next, with what they do.
pub(super) fn what_next(summary: &Summary, gguf: &Path, out: &Path) -> Vec<(String, String)> {
    let model = summary.export.display();
    vec![
        (
            format!("slm generate --model {model} --draft {} --prompt 'fn main() {{'", out.join("draft").display()),
            "Write code with the pair:".into(),
        ),
        (
            format!("slm score --model {model} --text README.md"),
            "See what the model finds likely in a text of yours:".into(),
        ),
        (
            format!("llama-cli -m {} -p 'fn main() {{' --temp 0", gguf.display()),
            "Run the same model in llama.cpp:".into(),
        ),
        ("slm train recipes/laptop.toml".into(), "Train a larger one, in an hour, whose text reads as English:".into()),
    ]
}
