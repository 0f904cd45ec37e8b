//! `results.json` and `samples_TASK.jsonl`, in the layout of the harness.

use crate::metrics::{self, Estimate, Outcome, Value};
use crate::task_file::{ChoiceField, TextField};
use crate::{BosMode, EvalError, Group, Item, OutputType, Score, Task, TaskRequests, Verdict};
use formats::file;
use serde_json::{Map, Value as Json, json};
use std::collections::BTreeMap;
use std::path::Path;

/// What the report says of the run.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The model, as it was named.
    pub model: String,
    /// `f32` or `bf16`.
    pub dtype: String,
    /// How texts begin.
    pub bos: BosMode,
    /// The chat template that contexts were written with, if they were.
    pub chat_template: Option<String>,
    /// What computed.
    pub device: String,
    /// Documents of each task, if limited.
    pub limit: Option<usize>,
    /// Seconds since 1970 at the start.
    pub started: f64,
    /// How long it took.
    pub seconds: f64,
}

/// The metrics of a task, each with the name of a filter.
type Estimates = Vec<(crate::Metric, String, Estimate)>;

/// What the model answered, a list for each task.
#[derive(Clone, Debug, Default)]
pub struct Answers {
    /// To [`TaskRequests::requests`].
    pub scores: Vec<Vec<Score>>,
    /// To [`TaskRequests::prompts`].
    pub texts: Vec<Vec<String>>,
    /// To [`crate::programs`].
    pub verdicts: Vec<Vec<Verdict>>,
}

/// A metric of a task or group.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// Its name.
    pub metric: String,
    /// What was taken of generated texts; `none` for most tasks.
    pub filter: String,
    /// The number.
    pub value: f64,
    /// Its standard error.
    pub stderr: Option<f64>,
}

/// A line of the table that a person sees: a task or a group, a metric, its value and standard error.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskResults {
    /// The name.
    pub name: String,
    /// Examples before each document.
    pub shots: Option<usize>,
    /// Documents.
    pub documents: usize,
    /// Numbers.
    pub metrics: Vec<Measured>,
}

/// Writes `results.json` and the samples into a folder, and returns the table.
///
/// # Errors
/// The disk; filters that fail on a text.
pub fn write_results(
    folder: &Path,
    tasks: &[TaskRequests],
    answers: &Answers,
    groups: &[Group],
    facts: &Facts,
) -> Result<Vec<TaskResults>, EvalError> {
    let mut table = Vec::new();
    let mut estimates: BTreeMap<&str, (Estimates, usize)> = BTreeMap::new();
    for (index, task) in tasks.iter().enumerate() {
        let texts = answers.texts.get(index).map_or(&[][..], Vec::as_slice);
        let verdicts = answers.verdicts.get(index).map_or(&[][..], Vec::as_slice);
        let outcomes = metrics::outcomes(task, &answers.scores[index], texts, verdicts)?;
        write_samples(folder, task, &outcomes)?;
        let of_metric = |(filter, outcomes): &(String, Vec<Outcome>), metric: crate::Metric| {
            let values: Vec<Value> = outcomes.iter().map(|outcome| outcome.values[&metric]).collect();
            (metric, filter.clone(), metrics::aggregate(metric, &values))
        };
        let measured = task.metrics();
        let of_filter = |filtered| measured.iter().map(move |&metric| of_metric(filtered, metric));
        let found: Vec<_> = outcomes.iter().flat_map(of_filter).collect();
        table.push(row(&task.task.name, Some(task.shots), task.items.len(), &found));
        estimates.insert(&task.task.name, (found, task.items.len()));
    }
    for group in groups {
        let below = group.leaves.iter().filter_map(|name| estimates.get(name.as_str()));
        let documents = below.clone().map(|task| task.1).sum();
        let of_metric = |&(metric, by_size): &(crate::Metric, bool)| {
            let parts = below.clone().filter_map(|(found, size)| {
                found.iter().find(|estimate| estimate.0 == metric).map(|estimate| (estimate.2, *size))
            });
            (metric, "none".to_owned(), metrics::aggregate_group(&parts.collect::<Vec<_>>(), by_size))
        };
        let found: Vec<_> = group.metrics.iter().map(of_metric).collect();
        table.push(row(&group.name, None, documents, &found));
    }
    let text = serde_json::to_string_pretty(&report(&table, tasks, groups, facts)).unwrap_or_default();
    file::write_bytes(&folder.join("results.json"), text.as_bytes())?;
    Ok(table)
}

fn row(name: &str, shots: Option<usize>, documents: usize, found: &Estimates) -> TaskResults {
    let metrics = found.iter().map(|(metric, filter, Estimate { value, stderr })| Measured {
        metric: metric.name().into_owned(),
        filter: filter.clone(),
        value: *value,
        stderr: *stderr,
    });
    TaskResults { name: name.into(), shots, documents, metrics: metrics.collect() }
}

fn report(table: &[TaskResults], tasks: &[TaskRequests], groups: &[Group], facts: &Facts) -> Json {
    let alias = |name: &str| {
        let task = tasks.iter().map(|task| (&task.task.name, &task.task.alias));
        let group = groups.iter().map(|group| (&group.name, &group.alias));
        task.chain(group).find(|known| known.0 == name).map_or(name.to_owned(), |known| known.1.clone())
    };
    let numbers = |row: &TaskResults| {
        let mut numbers = Map::new();
        numbers.insert("name".into(), row.name.clone().into());
        numbers.insert("alias".into(), alias(&row.name).into());
        numbers.insert("sample_len".into(), row.documents.into());
        for Measured { metric, filter, value, stderr } in &row.metrics {
            numbers.insert(format!("{metric},{filter}"), (*value).into());
            let stderr = stderr.map_or(Json::from("N/A"), Json::from);
            numbers.insert(format!("{metric}_stderr,{filter}"), stderr);
        }
        (row.name.clone(), Json::Object(numbers))
    };
    let is_group = |row: &&TaskResults| groups.iter().any(|group| group.name == row.name);
    let of_tasks = |value: &dyn Fn(&TaskRequests) -> Json| -> Map<String, Json> {
        tasks.iter().map(|task| (task.task.name.clone(), value(task))).collect()
    };
    let mut versions = of_tasks(&|task| task.task.version.clone());
    versions.extend(groups.iter().map(|group| (group.name.clone(), group.version.clone())));
    json!({
        "results": table.iter().map(numbers).collect::<Map<_, _>>(),
        "groups": table.iter().filter(is_group).map(numbers).collect::<Map<_, _>>(),
        "group_subtasks": groups.iter().map(|group| (group.name.clone(), group.members.clone().into()))
            .collect::<Map<String, Json>>(),
        "configs": of_tasks(&|task| config(task)),
        "versions": versions,
        "n-shot": of_tasks(&|task| task.shots.into()),
        "higher_is_better": of_tasks(&|task| {
            let of = |metric: &crate::Metric| (metric.name().into_owned(), metric.higher_is_better().into());
            Json::Object(task.metrics().iter().map(of).collect())
        }),
        "n-samples": of_tasks(&|task| json!({"original": task.documents, "effective": task.items.len()})),
        "config": {
            "model": "slm",
            "model_args": format!("pretrained={},dtype={}", facts.model, facts.dtype),
            "dtype": facts.dtype,
            "bos": facts.bos,
            "device": facts.device,
            "limit": facts.limit,
            "bootstrap_iters": 100_000,
            "fewshot_seed": 1234,
            "truncated_requests": of_tasks(&|task| task.truncated.into()),
        },
        "chat_template": facts.chat_template,
        "fewshot_as_multiturn": facts.chat_template.is_some(),
        "date": facts.started,
        "total_evaluation_time_seconds": facts.seconds.to_string(),
        "model_source": "slm",
        "model_name": facts.model,
        "slm_version": env!("CARGO_PKG_VERSION"),
    })
}

/// The fields of the task that shape a score.
fn config(task: &TaskRequests) -> Json {
    let text = |field: &TextField| match field {
        TextField::Number(number) => Json::from(*number),
        TextField::Text(text) => text.clone().into(),
    };
    let Task { name, dataset_path, output_type, description, target_delimiter, fewshot_delimiter, .. } = &*task.task;
    let metric = |metric: &crate::Metric| json!({"metric": metric.name(), "aggregation": metric.aggregation(), "higher_is_better": metric.higher_is_better()});
    json!({
        "task": name,
        "dataset_path": dataset_path,
        "split": task.task.split(),
        "output_type": output_type,
        "description": description,
        "doc_to_text": text(&task.task.doc_to_text),
        "doc_to_target": text(&task.task.doc_to_target),
        "doc_to_choice": match &task.task.doc_to_choice {
            None => Json::Null,
            Some(ChoiceField::Text(text)) => text.clone().into(),
            Some(ChoiceField::List(choices)) => choices.clone().into(),
        },
        "target_delimiter": target_delimiter,
        "fewshot_delimiter": fewshot_delimiter,
        "num_fewshot": task.shots,
        "generation_kwargs": task.generation.as_ref().map(crate::Generation::to_json),
        "keeps_leading_space": task.generation.as_ref().map(|generation| generation.keeps_space),
        "repeats": task.generation.as_ref().map_or(1, |generation| generation.repeats),
        "metric_list": task.metrics().iter().map(metric).collect::<Vec<_>>(),
    })
}

fn write_samples(folder: &Path, task: &TaskRequests, outcomes: &[(String, Vec<Outcome>)]) -> Result<(), EvalError> {
    let path = folder.join(format!("samples_{}.jsonl", task.task.name));
    file::write_atomic(&path, |writer| {
        for (filter, outcomes) in outcomes {
            for (item, outcome) in task.items.iter().zip(outcomes) {
                serde_json::to_writer(&mut *writer, &sample(task, filter, item, outcome))?;
                writer.write_all(b"\n")?;
            }
        }
        Ok(())
    })?;
    Ok(())
}

/// One line of the samples. As in the harness's files, answers and targets are texts, also where they are numbers;
/// ours adds `loglikelihoods`, which are numbers.
fn sample(task: &TaskRequests, filter: &str, item: &Item, outcome: &Outcome) -> Json {
    let is_rolling = task.task.output_type == OutputType::LoglikelihoodRolling;
    let argument = |(index, (context, continuation)): (usize, &(String, String))| {
        let fields = match &task.generation {
            Some(generation) => json!({"arg_0": context, "arg_1": generation.to_json()}),
            None if is_rolling => json!({"arg_0": continuation}),
            None => json!({"arg_0": context, "arg_1": continuation}),
        };
        (format!("gen_args_{index}"), fields)
    };
    let response = |(log, greedy): (&f64, &Option<bool>)| match is_rolling {
        true => json!(log.to_string()),
        false => json!([log.to_string(), python_word(*greedy)]),
    };
    let (responses, filtered) = if let Some(generation) = &task.generation {
        let leaves_list = generation.filters.iter().any(|known| known.name == filter && known.leaves_list());
        (json!([outcome.texts]), if leaves_list { json!([outcome.filtered]) } else { json!(outcome.filtered) })
    } else {
        let responses = outcome.log_probabilities.iter().zip(&outcome.greedy).map(response);
        let responses: Vec<Json> = responses.collect();
        (responses.iter().map(|response| json!([response])).collect(), responses.into())
    };
    let mut sample = json!({
        "doc_id": item.doc_id,
        "doc": item.document,
        "target": item.target.as_str().map_or_else(|| item.target.to_string(), str::to_owned),
        "arguments": item.pairs.iter().enumerate().map(argument).collect::<Map<_, _>>(),
        "resps": responses,
        "filtered_resps": filtered,
        "filter": filter,
        "metrics": outcome.values.keys().map(|metric| metric.name()).collect::<Vec<_>>(),
        "loglikelihoods": outcome.log_probabilities,
    });
    if task.task.runs_programs {
        sample["verdicts"] = outcome.verdicts.iter().map(Verdict::to_string).collect();
    }
    for (metric, value) in &outcome.values {
        sample[&*metric.name()] = match value {
            Value::Number(number) => (*number).into(),
            Value::Weighted(log_probability, weight) => json!([log_probability, weight]),
        };
    }
    sample
}

/// `str` of what may be a truth value: `None` where it was not asked (only tasks that measure greedy decoding ask).
fn python_word(greedy: Option<bool>) -> &'static str {
    match greedy {
        None => "None",
        Some(true) => "True",
        Some(false) => "False",
    }
}
