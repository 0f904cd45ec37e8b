//! Scores → metrics of a document, of a task, of a group, with the harness's standard errors.

use crate::bootstrap::{self, mean, sample_deviation};
use crate::filters::Filter;
use crate::{EvalError, Generation, Item, Metric, OutputType, Score, Task, TaskRequests};
use std::collections::BTreeMap;

/// A metric's value for one document.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Value {
    /// A number to be averaged.
    Number(f64),
    /// A log-probability, and the words or bytes that it is of.
    Weighted(f64, usize),
}

/// What a document's scores amount to.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// One a choice.
    pub(crate) log_probabilities: Vec<f64>,
    /// Whether greedy decoding gives it, where that was asked.
    pub(crate) greedy: Vec<Option<bool>>,
    /// What was written, where text is generated, and what the filter leaves of it.
    pub(crate) texts: Vec<String>,
    pub(crate) filtered: Vec<String>,
    /// The metrics of the task.
    pub(crate) values: BTreeMap<Metric, Value>,
}

/// A number and its standard error; `None` where the harness says `N/A`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Estimate {
    pub(crate) value: f64,
    pub(crate) stderr: Option<f64>,
}

/// The metrics of all documents, by the name of the filter; without generated text that is `none`.
///
/// # Errors
/// Filters that fail on a text.
pub(crate) fn outcomes(
    task: &TaskRequests,
    scores: &[Score],
    texts: &[String],
) -> Result<Vec<(String, Vec<Outcome>)>, EvalError> {
    let Some(generation) = &task.generation else {
        return Ok(vec![("none".into(), task.items.iter().map(|item| outcome(&task.task, item, scores)).collect())]);
    };
    let of_filter = |filter: &Filter| {
        let written = task.items.iter().zip(texts.chunks(generation.repeats));
        let outcomes = written.map(|(item, texts)| {
            let filtered = filter.apply(texts, &item.document).map_err(|problem| EvalError::Document {
                task: task.task.name.clone(),
                field: "filter_list",
                document: item.doc_id,
                problem,
            })?;
            Ok(text_outcome(task, generation, item, texts, filtered))
        });
        Ok((filter.name.clone(), outcomes.collect::<Result<_, EvalError>>()?))
    };
    generation.filters.iter().map(of_filter).collect()
}

fn text_outcome(
    task: &TaskRequests,
    generation: &Generation,
    item: &Item,
    texts: &[String],
    filtered: Vec<String>,
) -> Outcome {
    let target = item.target.as_str().unwrap_or_default();
    let value = |_: Metric| {
        let holds = filtered.first().is_some_and(|response| generation.exact_match.holds(response, target));
        Value::Number(f64::from(u8::from(holds)))
    };
    let values = task.task.metrics.iter().map(|&metric| (metric, value(metric))).collect();
    Outcome { log_probabilities: Vec::new(), greedy: Vec::new(), texts: texts.to_vec(), filtered, values }
}

/// The metrics of one document.
pub(crate) fn outcome(task: &Task, item: &Item, scores: &[Score]) -> Outcome {
    let sum = |range: &std::ops::Range<usize>| scores[range.clone()].iter().map(|score| score.log_probability).sum();
    let log_probabilities: Vec<f64> = item.requests.iter().map(sum).collect();
    let greedy: Vec<Option<bool>> = item.requests.iter().map(|range| scores[range.start].greedy).collect();
    let value = |metric: Metric| match task.output_type {
        OutputType::MultipleChoice => Value::Number(choice_metric(metric, item, &log_probabilities)),
        OutputType::Loglikelihood if metric == Metric::Acc => {
            Value::Number(f64::from(u8::from(greedy.first() == Some(&Some(true)))))
        }
        OutputType::Loglikelihood | OutputType::GenerateUntil => Value::Number(log_probabilities[0]),
        OutputType::LoglikelihoodRolling => {
            let (words, bytes) = item.size;
            Value::Weighted(log_probabilities[0], if metric == Metric::WordPerplexity { words } else { bytes })
        }
    };
    let values = task.metrics.iter().map(|&metric| (metric, value(metric))).collect();
    Outcome { log_probabilities, greedy, texts: Vec::new(), filtered: Vec::new(), values }
}

fn choice_metric(metric: Metric, item: &Item, log_probabilities: &[f64]) -> f64 {
    if let (Metric::Acc, Some(labels)) = (metric, &item.labels) {
        let probabilities: Vec<f64> = log_probabilities.iter().map(|log| log.exp()).collect();
        let sum: f64 = probabilities.iter().sum();
        // In the harness's order: each divided by the sum first.
        return probabilities.iter().zip(labels).filter(|(_, label)| **label).map(|(p, _)| p / sum).sum();
    }
    let length = |choice: &String| match metric {
        Metric::AccNorm => choice.chars().count() as f64,
        Metric::AccBytes => choice.len() as f64,
        _ => 1.0,
    };
    let scaled = log_probabilities.iter().zip(&item.choices).map(|(log, choice)| log / length(choice));
    f64::from(u8::from(Some(first_greatest(scaled)) == item.gold))
}

/// numpy's `argmax`: the first of equals.
fn first_greatest(values: impl Iterator<Item = f64>) -> usize {
    let mut best = (0, f64::NEG_INFINITY);
    for (index, value) in values.enumerate() {
        if value > best.1 {
            best = (index, value);
        }
    }
    best.0
}

/// A metric of a whole task.
pub(crate) fn aggregate(metric: Metric, values: &[Value]) -> Estimate {
    let numbers: Vec<f64> = values.iter().map(|value| value.number()).collect();
    let weights: usize = values.iter().map(|value| value.weight()).sum();
    let per_weight = -numbers.iter().sum::<f64>() / weights as f64;
    let several = numbers.len() > 1;
    match metric {
        Metric::Acc | Metric::AccNorm | Metric::AccBytes | Metric::ExactMatch => {
            let stderr = several.then(|| sample_deviation(&numbers) / (numbers.len() as f64).sqrt());
            Estimate { value: mean(&numbers), stderr }
        }
        Metric::Perplexity => {
            let perplexity = |mean: f64| (-mean).exp();
            let stderr = several.then(|| bootstrap::stderr(&numbers, perplexity));
            Estimate { value: perplexity(mean(&numbers)), stderr }
        }
        Metric::WordPerplexity | Metric::BytePerplexity => Estimate { value: per_weight.exp(), stderr: None },
        Metric::BitsPerByte => Estimate { value: per_weight / std::f64::consts::LN_2, stderr: None },
    }
}

/// A metric of a group: the mean of its tasks, weighted by their documents or not, and the error of that mean
/// (`pooled_sample_stderr`, `unweighted_mean_stderr`).
pub(crate) fn aggregate_group(tasks: &[(Estimate, usize)], by_size: bool) -> Estimate {
    let count = tasks.len() as f64;
    let all: usize = tasks.iter().map(|task| task.1).sum();
    let weight = |size: usize| if by_size { size as f64 / all as f64 } else { 1.0 / count };
    let value = tasks.iter().map(|(estimate, size)| estimate.value * weight(*size)).sum();
    let errors: Option<Vec<f64>> = tasks.iter().map(|task| task.0.stderr).collect();
    let stderr = errors.map(|errors| {
        if !by_size {
            return errors.iter().map(|error| error * error).sum::<f64>().sqrt() / count;
        }
        let pooled = errors.iter().zip(tasks).map(|(error, (_, size))| {
            let size = *size as f64;
            (size - 1.0) * error * error * size
        });
        (pooled.sum::<f64>() / (all as f64 - count) / all as f64).sqrt()
    });
    Estimate { value, stderr }
}

impl Value {
    pub(crate) fn number(self) -> f64 {
        match self {
            Self::Number(number) | Self::Weighted(number, _) => number,
        }
    }

    fn weight(self) -> usize {
        match self {
            Self::Number(_) => 1,
            Self::Weighted(_, weight) => weight,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(values: &[f64]) -> Vec<Value> {
        values.iter().map(|&value| Value::Number(value)).collect()
    }

    fn close(found: f64, expected: f64) {
        assert!((found - expected).abs() <= 1e-12 * expected.abs(), "{found}, but the harness says {expected}");
    }

    /// Numbers of lm-evaluation-harness 0.4.13 for the same values.
    #[test]
    fn estimates_are_the_harnesss() {
        let acc = aggregate(Metric::Acc, &numbers(&[1.0, 0.0, 1.0, 1.0]));
        close(acc.value, 0.75);
        close(acc.stderr.unwrap(), 0.25);
        assert_eq!(aggregate(Metric::Acc, &numbers(&[1.0])).stderr, None);
        let perplexity = aggregate(Metric::Perplexity, &numbers(&[-1.5, -2.25, -0.5, -4.0, -3.0]));
        close(perplexity.value, 9.487_735_836_358_526);
        close(perplexity.stderr.unwrap(), 6.228_522_253_438_088);
        let weighted = [Value::Weighted(-100.0, 20), Value::Weighted(-50.0, 30)];
        close(aggregate(Metric::WordPerplexity, &weighted).value, 3f64.exp());
        close(aggregate(Metric::BitsPerByte, &weighted).value, 3.0 / std::f64::consts::LN_2);
        assert_eq!(aggregate(Metric::BytePerplexity, &weighted).stderr, None);
    }

    #[test]
    fn groups_are_pooled_as_in_the_harness() {
        let task = |value, stderr, size| (Estimate { value, stderr: Some(stderr) }, size);
        let tasks = [task(0.25, 0.04, 100), task(0.5, 0.1, 20), task(0.3, 0.05, 60)];
        let pooled = aggregate_group(&tasks, true);
        close(pooled.value, 0.294_444_444_444_444_45);
        close(pooled.stderr.unwrap(), 0.029_903_590_640_720_457);
        close(aggregate_group(&tasks, false).stderr.unwrap(), 0.039_581_140_290_126_396);
    }
}
