//! A task: where its documents are, how they become text, what is measured.

use crate::EvalError;
use crate::dataset::Document;
use crate::generation::Generation;
use crate::task_file::{ChoiceField, Counts, Fields, MetricField, TextField, nearest};
use serde_json::Value;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// What a task asks of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputType {
    /// Which of several continuations is the likeliest?
    MultipleChoice,
    /// How likely is one continuation, and is it the likeliest of all?
    Loglikelihood,
    /// How likely is a text of any length?
    LoglikelihoodRolling,
    /// How does a text go on?
    GenerateUntil,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Metric {
    /// The likeliest choice is right; of one continuation: greedy decoding gives it.
    Acc,
    /// The choice with the highest log-probability per code point is right.
    AccNorm,
    /// The same, per byte.
    AccBytes,
    /// exp(−mean log-probability) of the continuations.
    Perplexity,
    /// exp(−Σ log-probability / Σ words).
    WordPerplexity,
    /// exp(−Σ log-probability / Σ bytes).
    BytePerplexity,
    /// −Σ log-probability / Σ bytes / ln 2.
    BitsPerByte,
    /// What was written is the target.
    ExactMatch,
    /// The first program is right.
    PassAt1,
    /// How likely one of so many programs is right.
    PassAt(u32),
}

const METRICS: [(&str, Metric, &[OutputType], &str); 10] = {
    use OutputType::{GenerateUntil, Loglikelihood, LoglikelihoodRolling, MultipleChoice};
    [
        ("acc", Metric::Acc, &[MultipleChoice, Loglikelihood], "mean"),
        ("acc_norm", Metric::AccNorm, &[MultipleChoice], "mean"),
        ("acc_bytes", Metric::AccBytes, &[MultipleChoice], "mean"),
        ("perplexity", Metric::Perplexity, &[Loglikelihood], "perplexity"),
        ("word_perplexity", Metric::WordPerplexity, &[LoglikelihoodRolling], "weighted_perplexity"),
        ("byte_perplexity", Metric::BytePerplexity, &[LoglikelihoodRolling], "weighted_perplexity"),
        ("bits_per_byte", Metric::BitsPerByte, &[LoglikelihoodRolling], "bits_per_byte"),
        ("exact_match", Metric::ExactMatch, &[GenerateUntil], "mean"),
        ("pass_at_1", Metric::PassAt1, &[GenerateUntil], "mean"),
        ("pass_at_k", Metric::PassAt(0), &[GenerateUntil], "mean"),
    ]
};

impl Metric {
    /// Its name in files.
    pub fn name(self) -> Cow<'static, str> {
        match self {
            Self::PassAt(count) => format!("pass@{count}").into(),
            _ => METRICS.iter().find(|row| row.1 == self).map_or("", |row| row.0).into(),
        }
    }

    /// How values of documents become one.
    pub fn aggregation(self) -> &'static str {
        METRICS.iter().find(|row| row.1 == self).map_or("mean", |row| row.3)
    }

    /// Whether more is better.
    pub fn higher_is_better(self) -> bool {
        !matches!(self, Self::Perplexity | Self::WordPerplexity | Self::BytePerplexity | Self::BitsPerByte)
    }
}

/// How examples are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sampler {
    /// At random, anew for each document.
    Random,
    /// The first ones, for every document.
    FirstN,
}

/// A task, its file understood and checked.
#[derive(Clone, Debug)]
pub struct Task {
    /// Its name.
    pub name: String,
    /// What reports call it.
    pub alias: String,
    /// Names under which it can be asked for together with others.
    pub tags: Vec<String>,
    /// What it asks.
    pub output_type: OutputType,
    /// What is measured.
    pub metrics: Vec<Metric>,
    /// The version of its rules.
    pub version: Value,
    pub(crate) dataset_path: String,
    pub(crate) dataset_name: Option<String>,
    pub(crate) dataset_where: BTreeMap<String, Value>,
    pub(crate) training_split: Option<String>,
    pub(crate) validation_split: Option<String>,
    pub(crate) test_split: Option<String>,
    pub(crate) fewshot_split: Option<String>,
    pub(crate) sampler: Sampler,
    pub(crate) num_fewshot: Option<usize>,
    pub(crate) description: String,
    pub(crate) doc_to_text: TextField,
    pub(crate) doc_to_target: TextField,
    pub(crate) doc_to_choice: Option<ChoiceField>,
    pub(crate) doc_to_count: Option<String>,
    pub(crate) doc_to_labels: Option<String>,
    pub(crate) target_delimiter: String,
    pub(crate) fewshot_delimiter: String,
    pub(crate) gen_prefix: Option<String>,
    /// The text by which a document is found in training text.
    pub(crate) query: Option<String>,
    /// Examples of the task file itself, instead of a split.
    pub(crate) samples: Vec<Document>,
    pub(crate) example_text: Option<TextField>,
    pub(crate) example_target: Option<TextField>,
    /// How text is generated, if it is.
    pub(crate) generation: Option<Generation>,
    /// Whether what was written is a program that must be run.
    pub runs_programs: bool,
}

impl Task {
    pub(crate) fn new(file: &str, fields: Fields) -> Result<Self, EvalError> {
        let problem = |problem: String| EvalError::TaskFile { file: file.into(), problem };
        let output_type = match fields.output_type.as_str() {
            "multiple_choice" => OutputType::MultipleChoice,
            "loglikelihood" => OutputType::Loglikelihood,
            "loglikelihood_rolling" => OutputType::LoglikelihoodRolling,
            "generate_until" => OutputType::GenerateUntil,
            other => {
                return Err(problem(format!(
                    "output_type is {other:?}, but it must be multiple_choice, loglikelihood, loglikelihood_rolling or generate_until"
                )));
            }
        };
        if output_type == OutputType::MultipleChoice && fields.doc_to_choice.is_none() {
            return Err(problem("a multiple_choice task needs the field `doc_to_choice`".into()));
        }
        if fields.test_split.is_none() && fields.validation_split.is_none() {
            return Err(problem("one of `test_split` and `validation_split` must say what is scored".into()));
        }
        let metrics = metrics(&fields, output_type).map_err(problem)?;
        let generates = output_type == OutputType::GenerateUntil;
        let generation = generates.then(|| Generation::new(&fields)).transpose().map_err(problem)?;
        let config = fields.fewshot_config.unwrap_or_default();
        let sampler = match config.sampler.as_deref() {
            None | Some("default") => Sampler::Random,
            Some("first_n") => Sampler::FirstN,
            Some(other) => return Err(problem(format!("sampler is {other:?}, but it must be default or first_n"))),
        };
        Ok(Self {
            alias: fields.task_alias.unwrap_or_else(|| fields.task.clone()),
            name: fields.task,
            tags: fields.tag.map_or(Vec::new(), |tag| tag.into_vec()),
            output_type,
            metrics,
            version: fields.metadata.and_then(|metadata| metadata.get("version").cloned()).unwrap_or("Yaml".into()),
            dataset_path: fields.dataset_path,
            dataset_name: fields.dataset_name,
            dataset_where: fields.dataset_where,
            training_split: fields.training_split,
            validation_split: fields.validation_split,
            test_split: fields.test_split,
            fewshot_split: config.split.or(fields.fewshot_split),
            sampler,
            num_fewshot: fields.num_fewshot,
            description: fields.description,
            doc_to_text: fields.doc_to_text,
            doc_to_target: fields.doc_to_target,
            doc_to_choice: fields.doc_to_choice,
            doc_to_count: fields.doc_to_count,
            doc_to_labels: fields.doc_to_labels,
            target_delimiter: fields.target_delimiter.unwrap_or_else(|| " ".into()),
            fewshot_delimiter: fields.fewshot_delimiter.unwrap_or_else(|| "\n\n".into()),
            gen_prefix: fields.gen_prefix,
            query: fields.doc_to_decontamination_query,
            samples: config.samples,
            example_text: config.doc_to_text,
            example_target: config.doc_to_target,
            generation,
            runs_programs: fields.unsafe_code,
        })
    }

    /// The split that is scored.
    pub fn split(&self) -> &str {
        self.test_split.as_deref().or(self.validation_split.as_deref()).unwrap_or_default()
    }

    /// What examples are made of: text and target.
    pub(crate) fn example_fields(&self) -> (&TextField, &TextField) {
        (
            self.example_text.as_ref().unwrap_or(&self.doc_to_text),
            self.example_target.as_ref().unwrap_or(&self.doc_to_target),
        )
    }

    /// The split that examples come from.
    pub(crate) fn example_split(&self) -> &str {
        let named = self.fewshot_split.as_deref().or(self.training_split.as_deref());
        named.or(self.validation_split.as_deref()).or(self.test_split.as_deref()).unwrap_or_default()
    }

    /// Examples before each document, where so many are asked for: a task that says 0 stays at 0.
    pub fn shots(&self, asked: Option<usize>) -> usize {
        match self.num_fewshot {
            Some(0) => 0,
            own => asked.or(own).unwrap_or(0),
        }
    }
}

/// What is measured; of programs, one metric for each number that `k` lists.
fn metrics(fields: &Fields, output_type: OutputType) -> Result<Vec<Metric>, String> {
    let mut metrics = Vec::new();
    for field in &fields.metric_list {
        match metric(field, output_type)? {
            Metric::PassAt(_) => {
                let counts = field.k.clone().map_or(vec![1], Counts::into_vec);
                metrics.extend(counts.into_iter().filter(|&count| count > 0).map(Metric::PassAt));
            }
            metric => metrics.push(metric),
        }
    }
    let programs = |metric: &Metric| matches!(metric, Metric::PassAt1 | Metric::PassAt(_));
    if metrics.iter().any(programs) && !fields.unsafe_code {
        return Err("its metrics run programs, so it must say `unsafe_code: true`".into());
    }
    Ok(metrics)
}

fn metric(field: &MetricField, output_type: OutputType) -> Result<Metric, String> {
    let known = METRICS.iter().filter(|row| row.2.contains(&output_type));
    let names = known.clone().map(|row| row.0).collect::<Vec<_>>();
    let Some(row) = known.clone().find(|row| row.0 == field.metric) else {
        let nearest = nearest(&field.metric, names.iter().copied());
        let hint = nearest.map_or(String::new(), |name| format!(" (did you mean {name}?)"));
        return Err(format!("metric {:?} is unknown here{hint}; there are {}", field.metric, names.join(", ")));
    };
    match &field.aggregation {
        Some(other) if other != row.3 => {
            Err(format!("metric {} is aggregated by {other:?}, but it must be {:?}", field.metric, row.3))
        }
        _ => Ok(row.1),
    }
}
