//! How a task has text generated, and what becomes of it: stop texts, sampling, filters (`generate_until` of the harness).

use crate::EvalError;
use crate::filters::{ExactMatch, Filter};
use crate::task_file::{Fields, GenerationField, Names};
use infer::SamplingOptions;

/// The harness's `max_gen_toks` where a task does not say.
const MAX_TOKENS: usize = 256;

/// How texts are generated.
#[derive(Clone, Debug)]
pub struct Generation {
    /// A text ends before the first of these.
    pub until: Vec<String>,
    /// Most tokens of a text.
    pub max_tokens: usize,
    /// How tokens are chosen.
    pub sampling: SamplingOptions,
    /// Texts of each document.
    pub repeats: usize,
    /// Whether a space that a text begins with stays. The harness decodes a text alone, and tokenizers that mark word
    /// beginnings then drop it, so that indented programs no longer parse.
    pub keeps_space: bool,
    /// What is measured of the texts; results name the filter.
    pub(crate) filters: Vec<Filter>,
    /// What `exact_match` ignores.
    pub(crate) exact_match: ExactMatch,
}

/// What a user wants otherwise than tasks say.
#[derive(Clone, Copy, Debug, Default)]
pub struct Overrides {
    /// Texts of each document.
    pub samples: Option<usize>,
    /// 0 is greedy.
    pub temperature: Option<f32>,
    /// The nucleus.
    pub top_p: Option<f32>,
    /// Most tokens of a text.
    pub max_tokens: Option<usize>,
    /// Key of random numbers.
    pub seed: u64,
    /// [`Generation::keeps_space`].
    pub keeps_space: bool,
}

/// A text to be continued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// Its tokens.
    pub ids: Vec<u32>,
    /// Which of the document's texts this will be, from 0.
    pub sample: usize,
}

impl Generation {
    /// What a task file says.
    ///
    /// # Errors
    /// A sentence about what is wrong with it.
    pub(crate) fn new(fields: &Fields) -> Result<Self, String> {
        let own = fields.generation_kwargs.clone().unwrap_or_default();
        let GenerationField { until, max_gen_toks, do_sample, temperature, top_p, top_k } = own;
        let until =
            until.map_or(vec![fields.fewshot_delimiter.clone().unwrap_or_else(|| "\n\n".into())], Names::into_vec);
        let temperature = temperature.unwrap_or(if do_sample == Some(true) { 1.0 } else { 0.0 });
        let sampling = SamplingOptions {
            temperature: if do_sample == Some(false) { 0.0 } else { temperature },
            top_p: top_p.unwrap_or(1.0),
            top_k: top_k.unwrap_or(0),
            ..SamplingOptions::default()
        };
        let filters = match fields.filter_list.as_slice() {
            [] => vec![Filter::take_first()],
            fields => fields.iter().map(Filter::new).collect::<Result<_, _>>()?,
        };
        let matching = fields.metric_list.iter().find(|field| field.metric == "exact_match");
        let repeats = fields.repeats.unwrap_or(1);
        if repeats == 0 {
            return Err("`repeats` is 0, but it must be 1 or more".into());
        }
        Ok(Self {
            until: until.into_iter().filter(|term| !term.is_empty()).collect(),
            max_tokens: max_gen_toks.unwrap_or(MAX_TOKENS),
            sampling,
            repeats,
            keeps_space: false,
            filters,
            exact_match: matching.map_or(Ok(ExactMatch::default()), ExactMatch::new)?,
        })
    }

    /// The same, with what a user wants otherwise.
    ///
    /// # Errors
    /// An option outside its range.
    pub(crate) fn with(&self, overrides: &Overrides) -> Result<Self, EvalError> {
        let mut own = self.clone();
        own.repeats = overrides.samples.unwrap_or(own.repeats);
        own.max_tokens = overrides.max_tokens.unwrap_or(own.max_tokens);
        own.sampling.temperature = overrides.temperature.unwrap_or(own.sampling.temperature);
        own.sampling.top_p = overrides.top_p.unwrap_or(own.sampling.top_p);
        own.sampling.seed = overrides.seed;
        own.keeps_space = overrides.keeps_space;
        own.sampling.validate()?;
        if overrides.samples.is_some_and(|samples| samples > 1) && own.sampling.temperature == 0.0 {
            return Err(EvalError::Option {
                flag: "temperature",
                value: "0".into(),
                rule: "above 0 with several --samples: greedy texts are all the same",
            });
        }
        Ok(own)
    }

    /// The harness's `generation_kwargs`.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        let SamplingOptions { temperature, top_p, top_k, .. } = self.sampling;
        let sampled = temperature > 0.0;
        let mut kwargs =
            serde_json::json!({"until": self.until, "max_gen_toks": self.max_tokens, "do_sample": sampled});
        if sampled {
            kwargs["temperature"] = temperature.into();
            kwargs["top_p"] = top_p.into();
            kwargs["top_k"] = top_k.into();
        }
        kwargs
    }

    /// A text up to the first place where one of `until` begins, each in its order as the harness has it.
    pub(crate) fn cut<'t>(&self, text: &'t str) -> &'t str {
        self.until.iter().fold(text, |text, term| text.split(term.as_str()).next().unwrap_or_default())
    }
}
