//! A task file: YAML, the fields of lm-evaluation-harness that need no Python, and a few of ours.
//!
//! Ours are `dataset_where` (only documents with these values), `doc_to_count` (the text whose words and bytes a
//! perplexity is per), `doc_to_labels` (which choices are true: `acc` becomes their share of probability), `variants`
//! (one task for each name, `{variant}` in the file standing for it), the filter `template`, and the metrics `pass_at_k`
//! and `pass_at_1`, which are Python functions there.

use crate::EvalError;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Fields with a meaning here.
const FIELDS: [&str; 28] = [
    "task",
    "task_alias",
    "tag",
    "dataset_path",
    "dataset_name",
    "dataset_where",
    "training_split",
    "validation_split",
    "test_split",
    "fewshot_split",
    "fewshot_config",
    "num_fewshot",
    "description",
    "doc_to_text",
    "doc_to_target",
    "doc_to_choice",
    "doc_to_count",
    "doc_to_labels",
    "target_delimiter",
    "fewshot_delimiter",
    "output_type",
    "metric_list",
    "generation_kwargs",
    "filter_list",
    "repeats",
    "gen_prefix",
    "unsafe_code",
    "doc_to_decontamination_query",
];

/// Fields that are read elsewhere, or change no score.
const OTHERS: [&str; 8] = [
    "include",
    "variants",
    "metadata",
    "dataset_kwargs",
    "should_decontaminate",
    "group",
    "group_alias",
    "aggregate_metric_list",
];

/// Fields of the harness that a task here cannot have.
const REFUSED: [(&str, &str); 6] = [
    ("process_docs", "write what it does into the templates"),
    ("process_results", "use metric_list, doc_to_labels or doc_to_count"),
    ("custom_dataset", "put the documents into JSON Lines files"),
    ("use_prompt", "write the prompt into doc_to_text"),
    ("doc_to_image", "models here read text"),
    ("doc_to_audio", "models here read text"),
];

/// A column's name, a template, or a number.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(untagged)]
pub(crate) enum TextField {
    Number(i64),
    Text(String),
}

/// The choices of a document.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(untagged)]
pub(crate) enum ChoiceField {
    Text(String),
    List(Vec<String>),
}

/// One name, or several.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Names {
    One(String),
    Many(Vec<String>),
}

impl Names {
    pub(crate) fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(name) => vec![name],
            Self::Many(names) => names,
        }
    }
}

/// How examples are chosen.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FewshotField {
    pub(crate) sampler: Option<String>,
    pub(crate) split: Option<String>,
    /// The examples themselves.
    #[serde(default)]
    pub(crate) samples: Vec<Map<String, Value>>,
    pub(crate) doc_to_text: Option<TextField>,
    pub(crate) doc_to_target: Option<TextField>,
}

/// A metric of a task, or one that a group puts together.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MetricField {
    pub(crate) metric: String,
    pub(crate) aggregation: Option<String>,
    #[serde(rename = "higher_is_better")]
    pub(crate) _higher_is_better: Option<bool>,
    pub(crate) weight_by_size: Option<bool>,
    #[serde(rename = "filter_list")]
    pub(crate) _filter_list: Option<Value>,
    /// Of `exact_match`.
    #[serde(default)]
    pub(crate) ignore_case: bool,
    #[serde(default)]
    pub(crate) ignore_punctuation: bool,
    #[serde(default)]
    pub(crate) ignore_numbers: bool,
    #[serde(default)]
    pub(crate) regexes_to_ignore: Vec<String>,
    /// Of `pass_at_k`.
    pub(crate) k: Option<Counts>,
}

/// One number, or several.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Counts {
    One(u32),
    Many(Vec<u32>),
}

impl Counts {
    pub(crate) fn into_vec(self) -> Vec<u32> {
        match self {
            Self::One(count) => vec![count],
            Self::Many(counts) => counts,
        }
    }
}

/// How text is generated: names of the harness and of Hugging Face's `generate`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GenerationField {
    pub(crate) until: Option<Names>,
    #[serde(alias = "max_new_tokens", alias = "max_tokens", alias = "max_completion_tokens")]
    pub(crate) max_gen_toks: Option<usize>,
    pub(crate) do_sample: Option<bool>,
    pub(crate) temperature: Option<f32>,
    pub(crate) top_p: Option<f32>,
    pub(crate) top_k: Option<usize>,
}

/// A chain of steps from what the model wrote to what is measured.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FilterField {
    pub(crate) name: String,
    pub(crate) filter: Vec<StepField>,
}

/// One step of a filter.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StepField {
    pub(crate) function: String,
    pub(crate) regex_pattern: Option<String>,
    pub(crate) group_select: Option<i64>,
    pub(crate) fallback: Option<String>,
    pub(crate) k: Option<usize>,
    pub(crate) mapping_dict: Option<BTreeMap<String, String>>,
    pub(crate) default_value: Option<String>,
    /// Of our `template`, which sees the document's columns and the text as `response`.
    pub(crate) template: Option<String>,
}

/// The fields of one task, as written.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Fields {
    pub(crate) task: String,
    pub(crate) task_alias: Option<String>,
    pub(crate) tag: Option<Names>,
    pub(crate) dataset_path: String,
    pub(crate) dataset_name: Option<String>,
    #[serde(default)]
    pub(crate) dataset_where: BTreeMap<String, Value>,
    pub(crate) training_split: Option<String>,
    pub(crate) validation_split: Option<String>,
    pub(crate) test_split: Option<String>,
    pub(crate) fewshot_split: Option<String>,
    pub(crate) fewshot_config: Option<FewshotField>,
    pub(crate) num_fewshot: Option<usize>,
    #[serde(default)]
    pub(crate) description: String,
    pub(crate) doc_to_text: TextField,
    pub(crate) doc_to_target: TextField,
    pub(crate) doc_to_choice: Option<ChoiceField>,
    pub(crate) doc_to_count: Option<String>,
    pub(crate) doc_to_labels: Option<String>,
    pub(crate) target_delimiter: Option<String>,
    pub(crate) fewshot_delimiter: Option<String>,
    pub(crate) output_type: String,
    pub(crate) generation_kwargs: Option<GenerationField>,
    #[serde(default)]
    pub(crate) filter_list: Vec<FilterField>,
    pub(crate) repeats: Option<usize>,
    pub(crate) gen_prefix: Option<String>,
    pub(crate) doc_to_decontamination_query: Option<String>,
    #[serde(default)]
    pub(crate) unsafe_code: bool,
    pub(crate) metric_list: Vec<MetricField>,
    pub(crate) metadata: Option<Value>,
}

/// The fields of a group, as written.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct GroupFields {
    pub(crate) group: String,
    pub(crate) group_alias: Option<String>,
    pub(crate) task: Names,
    #[serde(default)]
    pub(crate) aggregate_metric_list: Vec<MetricField>,
    pub(crate) metadata: Option<Value>,
}

/// What a file holds.
pub(crate) enum Content {
    Tasks(Vec<Fields>),
    Group(GroupFields),
}

/// A file's name and text, for `include`.
pub(crate) type Included<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Reads one file; `include` finds the files beside it.
pub(crate) fn read(file: &str, text: &str, include: Included<'_>) -> Result<Content, EvalError> {
    let mut fields = object(file, text, include, 0)?;
    let problem = |problem: String| EvalError::TaskFile { file: file.into(), problem };
    if fields.contains_key("group") {
        return Ok(Content::Group(from_value(file, fields)?));
    }
    let variants = fields.remove("variants");
    for field in ["task", "dataset_path", "doc_to_text", "doc_to_target", "output_type", "metric_list"] {
        if !fields.contains_key(field) {
            return Err(problem(format!("the field `{field}` is missing")));
        }
    }
    let Some(variants) = variants else { return Ok(Content::Tasks(vec![from_value(file, fields)?])) };
    let variants: Vec<String> = serde_json::from_value(variants)
        .map_err(|_| problem("`variants` must be a list of names, such as [anatomy, astronomy]".into()))?;
    let task = |variant: &String| {
        let mut fields = Value::Object(fields.clone());
        substitute(&mut fields, variant);
        serde_json::from_value(fields).map_err(|error| problem(error.to_string()))
    };
    Ok(Content::Tasks(variants.iter().map(task).collect::<Result<_, _>>()?))
}

fn from_value<T: serde::de::DeserializeOwned>(file: &str, fields: Map<String, Value>) -> Result<T, EvalError> {
    serde_json::from_value(Value::Object(fields))
        .map_err(|error| EvalError::TaskFile { file: file.into(), problem: error.to_string() })
}

/// The fields of a file over those of the file it includes.
fn object(file: &str, text: &str, include: Included<'_>, depth: usize) -> Result<Map<String, Value>, EvalError> {
    let problem = |problem: String| EvalError::TaskFile { file: file.into(), problem };
    if let Some(line) = text.lines().find(|line| line.contains(": !function") && !line.trim_start().starts_with('#')) {
        let field = line.split(':').next().unwrap_or_default().trim();
        return Err(problem(format!("`{field}` is a Python function, which is not run; write it as a template")));
    }
    let value: Value = serde_saphyr::from_str(text).map_err(|error| problem(first_line(&error.to_string())))?;
    let Value::Object(mut fields) = value else {
        return Err(problem("a task file is a list of `field: value`".into()));
    };
    for field in fields.keys() {
        if let Some((_, instead)) = REFUSED.iter().find(|(name, _)| name == field) {
            return Err(problem(format!("the field `{field}` is not supported; {instead}")));
        }
        if !FIELDS.contains(&field.as_str()) && !OTHERS.contains(&field.as_str()) {
            let nearest = nearest(field, FIELDS.iter().chain(&OTHERS).copied());
            return Err(EvalError::UnknownField { file: file.into(), field: field.clone(), nearest });
        }
    }
    let Some(included) = fields.remove("include") else { return Ok(fields) };
    let name = included.as_str().unwrap_or_default();
    let text = include(name).ok_or_else(|| problem(format!("it includes {name:?}, which is not beside it")))?;
    if depth > 8 {
        return Err(problem("its includes go in a circle".into()));
    }
    let mut all = object(name, &text, include, depth + 1)?;
    all.extend(fields);
    Ok(all)
}

/// Puts a variant's name into every text.
fn substitute(value: &mut Value, variant: &str) {
    match value {
        Value::String(text) => {
            *text = text.replace("{variant}", variant).replace("{variant words}", &variant.replace('_', " "));
        }
        Value::Array(values) => values.iter_mut().for_each(|value| substitute(value, variant)),
        Value::Object(fields) => fields.values_mut().for_each(|value| substitute(value, variant)),
        _ => {}
    }
}

/// The most similar of some names, if one is similar at all.
pub(crate) fn nearest<'a>(name: &str, names: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let similar = names.into_iter().map(|known| (strsim::jaro_winkler(name, known), known));
    let best = similar.max_by(|one, other| one.0.total_cmp(&other.0))?;
    (best.0 > 0.8).then(|| best.1.to_owned())
}

/// Messages of the YAML reader show the text on further lines.
pub(crate) fn first_line(message: &str) -> String {
    message.lines().next().unwrap_or_default().trim().to_owned()
}
