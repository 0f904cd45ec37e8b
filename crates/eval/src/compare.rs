//! Results beside each other: models × tasks with intervals, which differences are real, and what was published.

mod pages;
mod published;
mod statistics;

use crate::EvalError;
use formats::file;
pub use published::Published;
use serde_json::Value;
use statistics::Paired;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A difference is called real if the chance of one as large without a cause is below this, after Holm's correction for
/// the number of comparisons.
const SIGNIFICANCE: f64 = 0.05;

/// Half the width of a 95 % interval, in standard errors.
const INTERVAL: f64 = 1.96;

/// A metric of a task or group.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Number {
    pub(crate) value: f64,
    pub(crate) stderr: Option<f64>,
}

/// One model's results.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What it is called.
    pub name: String,
    /// Of `results.json`.
    pub path: PathBuf,
    /// Task or group → metric → number.
    numbers: BTreeMap<String, BTreeMap<String, Number>>,
    /// Task → documents that were scored.
    documents: BTreeMap<String, u64>,
    folder: PathBuf,
}

/// Two models on the same documents of one task.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// The task.
    pub task: String,
    /// Indices of the two models.
    pub models: (usize, usize),
    /// Documents that both scored.
    pub documents: usize,
    /// Documents that only the first has right, and only the second.
    pub only: (usize, usize),
    /// Value of the second minus that of the first.
    pub difference: f64,
    /// Its 95 % interval, by resampling documents.
    pub interval: (f64, f64),
    /// McNemar's exact test: how likely is so uneven a split, if none is better?
    pub p_value: f64,
    /// Whether the difference is real, by Holm's correction of all comparisons of the report.
    pub is_real: bool,
}

/// A whole comparison.
#[derive(Clone, Debug)]
pub struct Report {
    /// The metric that is compared where a task has it.
    pub metric: String,
    /// The models.
    pub models: Vec<Loaded>,
    /// Tasks that any of them was evaluated on, those of AMD's table first.
    pub tasks: Vec<String>,
    /// All pairs on all tasks that they share.
    pub comparisons: Vec<Comparison>,
    /// Published results to stand beside.
    pub published: Vec<Published>,
}

impl Loaded {
    /// Reads `results.json`, or the folder that it is in; files of lm-evaluation-harness are read too.
    ///
    /// # Errors
    /// No such file, or one that is no result.
    pub fn read(path: &Path) -> Result<Self, EvalError> {
        let path = if file::is_dir(path) { results_in(path)? } else { path.to_owned() };
        let problem = |problem: &str| EvalError::Results { path: path.clone(), problem: problem.into() };
        let text = file::read_to_string(&path)?;
        let json: Value = serde_json::from_str(&text).map_err(|error| problem(&format!("not JSON ({error})")))?;
        let results = json["results"].as_object().ok_or_else(|| problem("it has no `results`; give a results.json"))?;
        let mut numbers = BTreeMap::new();
        for (task, metrics) in results {
            let Some(metrics) = metrics.as_object() else { continue };
            let mut found = BTreeMap::new();
            for (key, value) in metrics {
                let Some((metric, filter)) = key.split_once(',') else { continue };
                let Some(value) = value.as_f64().filter(|_| !metric.ends_with("_stderr")) else { continue };
                let stderr = metrics.get(&format!("{metric}_stderr,{filter}")).and_then(Value::as_f64);
                let name = if filter == "none" { metric.to_owned() } else { format!("{metric} ({filter})") };
                found.insert(name, Number { value, stderr });
            }
            numbers.insert(task.clone(), found);
        }
        let documents = json["n-samples"].as_object().into_iter().flatten();
        let documents = documents.filter_map(|(task, count)| Some((task.clone(), count["effective"].as_u64()?)));
        let folder = path.parent().unwrap_or(Path::new(".")).to_owned();
        let name = json["model_name"].as_str().map_or_else(|| folder.display().to_string(), str::to_owned);
        Ok(Self { name, numbers, documents: documents.collect(), folder, path })
    }

    pub(crate) fn number(&self, task: &str, metric: &str) -> Option<(&str, &Number)> {
        let metrics = self.numbers.get(task)?;
        let named = metrics.get_key_value(metric).or_else(|| metrics.get_key_value("acc"));
        named.or_else(|| metrics.iter().next()).map(|(metric, number)| (metric.as_str(), number))
    }

    /// Each document's value of a metric, by its index; empty where there are no samples.
    fn samples(&self, task: &str, metric: &str) -> Result<BTreeMap<u64, f64>, EvalError> {
        let own = self.folder.join(format!("samples_{task}.jsonl"));
        let harness = format!("samples_{task}_2"); // a date follows
        let listed = || file::list(&self.folder).unwrap_or_default().into_iter();
        let newest =
            || listed().rfind(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&harness)));
        let Some(path) = Some(own).filter(|path| file::exists(path)).or_else(newest) else {
            return Ok(BTreeMap::new());
        };
        let (metric, filter) = match metric.strip_suffix(')').and_then(|metric| metric.split_once(" (")) {
            Some((metric, filter)) => (metric, Some(filter)),
            None => (metric, None),
        };
        let mut values = BTreeMap::new();
        for (index, line) in file::read_to_string(&path)?.lines().enumerate() {
            let sample: Value = serde_json::from_str(line).map_err(|error| EvalError::NotJson {
                path: path.clone(),
                line: index + 1,
                problem: error.to_string(),
            })?;
            let is_other = filter.is_some_and(|filter| sample["filter"] != filter);
            if let (Some(document), Some(value), false) = (sample["doc_id"].as_u64(), sample[metric].as_f64(), is_other)
            {
                values.insert(document, value);
            }
        }
        Ok(values)
    }
}

/// The results of a folder: `results.json`, or the newest of the harness, which puts them into a folder of the model.
fn results_in(folder: &Path) -> Result<PathBuf, EvalError> {
    let own = folder.join("results.json");
    if file::exists(&own) {
        return Ok(own);
    }
    let is_result = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("results") && name.ends_with(".json")
    };
    let inside = file::list(folder)?;
    let deeper = inside.iter().filter(|path| file::is_dir(path)).filter_map(|path| file::list(path).ok()).flatten();
    inside.iter().cloned().chain(deeper).filter(is_result).max().ok_or_else(|| EvalError::Results {
        path: folder.into(),
        problem: "there is no results.json in it; give the --out folder of `slm eval`".into(),
    })
}

impl Report {
    /// Compares models by `metric`, where a task has it, else by accuracy or perplexity.
    ///
    /// # Errors
    /// Samples that cannot be read.
    pub fn new(mut models: Vec<Loaded>, metric: &str, published: bool) -> Result<Self, EvalError> {
        for index in 1..models.len() {
            let taken = models[..index].iter().any(|other| other.name == models[index].name);
            if taken {
                models[index].name = format!("{} ({})", models[index].name, models[index].folder.display());
            }
        }
        let published = if published { published::all() } else { Vec::new() };
        let all: BTreeSet<&String> = models.iter().flat_map(|model| model.numbers.keys()).collect();
        let is_subject = |task: &&&String| task.starts_with("mmlu_") && all.contains(&"mmlu".to_owned());
        let mut tasks: Vec<String> = all.iter().filter(|task| !is_subject(task)).map(|task| (*task).clone()).collect();
        tasks.sort_by_key(|task| (published::place(task), task.clone()));
        let mut report = Self { metric: metric.into(), models, tasks, comparisons: Vec::new(), published };
        report.compare()?;
        Ok(report)
    }

    fn compare(&mut self) -> Result<(), EvalError> {
        for task in &self.tasks {
            let metric = match self.models.iter().find_map(|model| model.number(task, &self.metric)) {
                Some((metric, _)) => metric.to_owned(),
                None => continue,
            };
            let samples: Result<Vec<_>, EvalError> =
                self.models.iter().map(|model| model.task_samples(task, &metric)).collect();
            let samples = samples?;
            for second in 1..samples.len() {
                for first in 0..second {
                    let shared = samples[first].iter().filter_map(|(id, one)| Some((*one, *samples[second].get(id)?)));
                    let pairs: Vec<(f64, f64)> = shared.collect();
                    if pairs.is_empty() {
                        continue;
                    }
                    let Paired { only, difference, interval, p_value } = Paired::new(&pairs);
                    self.comparisons.push(Comparison {
                        task: task.clone(),
                        models: (first, second),
                        documents: pairs.len(),
                        only,
                        difference,
                        interval,
                        p_value,
                        is_real: false,
                    });
                }
            }
        }
        let real = statistics::holm(&self.comparisons.iter().map(|one| one.p_value).collect::<Vec<_>>(), SIGNIFICANCE);
        self.comparisons.iter_mut().zip(real).for_each(|(comparison, is_real)| comparison.is_real = is_real);
        Ok(())
    }
}

impl Loaded {
    /// [`Loaded::samples`] of a task; of a group of subjects, those of all of them.
    fn task_samples(&self, task: &str, metric: &str) -> Result<BTreeMap<(String, u64), f64>, EvalError> {
        let below = format!("{task}_");
        let own = self.documents.contains_key(task);
        let names = self.documents.keys().filter(|name| if own { *name == task } else { name.starts_with(&below) });
        let mut all = BTreeMap::new();
        for name in names {
            let samples = self.samples(name, metric)?;
            all.extend(samples.into_iter().map(|(document, value)| ((name.clone(), document), value)));
        }
        Ok(all)
    }
}
