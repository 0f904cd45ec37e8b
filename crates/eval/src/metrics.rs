//! Scores → metrics of a document, of a task, of a group, with the harness's standard errors.

use crate::bootstrap::{self, mean, sample_deviation};
use crate::filters::Filter;
use crate::{EvalError, Generation, Item, Metric, OutputType, Score, Task, TaskRequests, Verdict};
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
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    /// One a choice.
    pub(crate) log_probabilities: Vec<f64>,
    /// Whether greedy decoding gives it, where that was asked.
    pub(crate) greedy: Vec<Option<bool>>,
    /// What was written, where text is generated, and what the filter leaves of it.
    pub(crate) texts: Vec<String>,
    pub(crate) filtered: Vec<String>,
    /// How these went as programs.
    pub(crate) verdicts: Vec<Verdict>,
    /// The metrics of the task.
    pub(crate) values: BTreeMap<Metric, Value>,
}

/// A number and its standard error; `None` where the harness says `N/A`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Estimate {
    pub(crate) value: f64,
    pub(crate) stderr: Option<f64>,
}

/// What a filter leaves: its name, and a list of texts for each document.
type Left = (String, Vec<Vec<String>>);

/// What each filter leaves of a task's texts.
fn filtered(task: &TaskRequests, texts: &[String]) -> Result<Vec<Left>, EvalError> {
    let Some(generation) = &task.generation else { return Ok(Vec::new()) };
    let of_filter = |filter: &Filter| {
        let written = task.items.iter().zip(texts.chunks(generation.repeats));
        let left = written.map(|(item, texts)| {
            filter.apply(texts, &item.document).map_err(|problem| EvalError::Document {
                task: task.task.name.clone(),
                field: "filter_list",
                document: item.doc_id,
                problem,
            })
        });
        Ok((filter.name.clone(), left.collect::<Result<_, EvalError>>()?))
    };
    generation.filters.iter().map(of_filter).collect()
}

/// The programs that decide a task: what filters leave of the texts, and the document's test after each.
///
/// # Errors
/// Filters that fail on a text.
pub fn programs(task: &TaskRequests, texts: &[String]) -> Result<Vec<String>, EvalError> {
    let mut programs = Vec::new();
    for (_, left) in filtered(task, texts)?.into_iter().filter(|_| task.task.runs_programs) {
        for (item, candidates) in task.items.iter().zip(left) {
            let test = item.target.as_str().unwrap_or_default();
            programs.extend(candidates.into_iter().map(|candidate| format!("{candidate}\n{test}")));
        }
    }
    Ok(programs)
}

/// The metrics of all documents, by the name of the filter; without generated text that is `none`. `verdicts` are those
/// of [`programs`].
///
/// # Errors
/// Filters that fail on a text.
pub(crate) fn outcomes(
    task: &TaskRequests,
    scores: &[Score],
    texts: &[String],
    verdicts: &[Verdict],
) -> Result<Vec<(String, Vec<Outcome>)>, EvalError> {
    let Some(generation) = &task.generation else {
        return Ok(vec![("none".into(), task.items.iter().map(|item| outcome(&task.task, item, scores)).collect())]);
    };
    let mut verdicts = verdicts.iter();
    let mut all = Vec::new();
    for (filter, left) in filtered(task, texts)? {
        let written = task.items.iter().zip(texts.chunks(generation.repeats)).zip(left);
        let outcomes = written.map(|((item, texts), filtered)| {
            let verdicts = verdicts.by_ref().take(if task.task.runs_programs { filtered.len() } else { 0 });
            text_outcome(
                task,
                generation,
                item,
                Outcome {
                    texts: texts.to_vec(),
                    verdicts: verdicts.cloned().collect(),
                    filtered,
                    ..Outcome::default()
                },
            )
        });
        all.push((filter, outcomes.collect()));
    }
    Ok(all)
}

fn text_outcome(task: &TaskRequests, generation: &Generation, item: &Item, mut outcome: Outcome) -> Outcome {
    let target = item.target.as_str().unwrap_or_default();
    let all = outcome.verdicts.len();
    let right = outcome.verdicts.iter().filter(|&verdict| *verdict == Verdict::Passed).count();
    let value = |metric: Metric| match metric {
        Metric::PassAt1 => f64::from(u8::from(outcome.verdicts.first() == Some(&Verdict::Passed))),
        Metric::PassAt(count) => pass_at(all, right, count as usize),
        _ => {
            let holds = |response: &String| generation.exact_match.holds(response, target);
            f64::from(u8::from(outcome.filtered.first().is_some_and(holds)))
        }
    };
    let values = task.metrics().into_iter().map(|metric| (metric, Value::Number(value(metric)))).collect();
    outcome.values = values;
    outcome
}

/// 1 − C(n−c, k) / C(n, k): the chance that one of `k` programs drawn from `all` is among the `right` ones, without bias
/// (Chen et al., 2021, equation 1).
pub(crate) fn pass_at(all: usize, right: usize, k: usize) -> f64 {
    if all - right < k {
        return 1.0;
    }
    1.0 - (all - right + 1..=all).map(|i| 1.0 - k as f64 / i as f64).product::<f64>()
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
    Outcome { log_probabilities, greedy, values, ..Outcome::default() }
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
        Metric::Perplexity => {
            let perplexity = |mean: f64| (-mean).exp();
            let stderr = several.then(|| bootstrap::stderr(&numbers, perplexity));
            Estimate { value: perplexity(mean(&numbers)), stderr }
        }
        Metric::WordPerplexity | Metric::BytePerplexity => Estimate { value: per_weight.exp(), stderr: None },
        Metric::BitsPerByte => Estimate { value: per_weight / std::f64::consts::LN_2, stderr: None },
        _ => {
            let stderr = several.then(|| sample_deviation(&numbers) / (numbers.len() as f64).sqrt());
            Estimate { value: mean(&numbers), stderr }
        }
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

    /// 1 − C(n−c, k) / C(n, k) in whole numbers.
    #[test]
    fn passes_are_estimated_without_bias() {
        close(pass_at(1, 1, 1), 1.0);
        assert_eq!(pass_at(5, 0, 3), 0.0);
        close(pass_at(10, 3, 1), 0.3);
        close(pass_at(10, 3, 5), 0.916_666_666_666_666_6);
        close(pass_at(200, 7, 100), 0.992_991_117_241_812_3);
        close(pass_at(4, 2, 3), 1.0);
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
