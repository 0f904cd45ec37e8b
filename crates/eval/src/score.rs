//! Requests → scores: equal requests once, finished ones not again, the rest in batches.

use crate::encode::Request;
use crate::finished::{Finished, Key, RunFacts, key};
use crate::{EvalError, TaskRequests};
use infer::{Continuation, ContinuationScorer};
use std::collections::HashMap;
use std::path::Path;

/// What the model says to a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    /// Log-probability of the continuation in nats.
    pub log_probability: f64,
    /// Whether greedy decoding gives it, where that was asked.
    pub greedy: Option<bool>,
}

/// How far the scoring is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Requests that are finished, those of an earlier run included.
    pub requests: usize,
    /// Requests in all, equal ones counted once.
    pub of: usize,
    /// Tokens, texts or programs that this run has done.
    pub rows: usize,
    /// Those that it does in all.
    pub of_rows: usize,
    /// Which of them.
    pub unit: &'static str,
}

/// What an earlier run of the same model left in `folder`; `facts` say what computes now.
///
/// # Errors
/// The disk, the model, finished requests of another run.
pub fn finished(
    folder: &Path,
    scorer: &ContinuationScorer<'_>,
    facts: &[(&str, String)],
) -> Result<Finished, EvalError> {
    let mut run: RunFacts = facts.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    run.insert("fingerprint".into(), fingerprint(scorer)?);
    Finished::open(folder, &run)
}

/// Scores the requests of some tasks; the answer has a list for each task, in the order of its requests. `progress` is
/// told after each batch, and stops the run with `false`.
///
/// # Errors
/// The disk, the model, [`EvalError::Stopped`].
pub fn score(
    scorer: &ContinuationScorer<'_>,
    tasks: &[TaskRequests],
    finished: &mut Finished,
    progress: &mut dyn FnMut(Status) -> bool,
) -> Result<Vec<Vec<Score>>, EvalError> {
    let keys: Vec<Vec<Key>> = tasks.iter().map(|task| task.requests.iter().map(key).collect()).collect();
    let requests = tasks.iter().flat_map(|task| &task.requests);
    let distinct: HashMap<&Key, &Request> = keys.iter().flatten().zip(requests).collect();
    let mut open: Vec<(&Key, &Request)> =
        distinct.iter().filter(|(key, _)| finished.get(key).is_none()).map(|(key, request)| (*key, *request)).collect();
    open.sort_unstable_by_key(|(key, _)| *key); // a map has no order, and batches should not change from run to run
    let continuations: Vec<Continuation<'_>> = open.iter().map(|(_, request)| continuation(request)).collect();
    let batches = scorer.batches(&continuations);

    let mut status = Status {
        requests: distinct.len() - open.len(),
        of: distinct.len(),
        rows: 0,
        of_rows: batches.iter().map(|batch| batch.rows).sum(),
        unit: "tokens",
    };
    for batch in batches {
        if !progress(status) {
            return Err(EvalError::Stopped { done: status.requests, total: status.of });
        }
        let asked: Vec<Continuation<'_>> = batch.indices.iter().map(|&index| continuations[index]).collect();
        let scores = scorer.score(&asked)?.into_iter();
        let scores = scores.map(|score| Score { log_probability: score.log_probability, greedy: score.greedy });
        finished.add(batch.indices.iter().map(|&index| open[index].0.clone()).zip(scores))?;
        status.requests += batch.indices.len();
        status.rows += batch.rows;
    }
    progress(status);
    let found = |key: &Key| finished.get(key).unwrap_or(Score { log_probability: f64::NAN, greedy: None });
    Ok(keys.iter().map(|keys| keys.iter().map(found).collect()).collect())
}

fn continuation(request: &Request) -> Continuation<'_> {
    let ids = &request.ids;
    Continuation { inputs: &ids[..ids.len() - 1], targets: &ids[ids.len() - request.scored..], greedy: request.greedy }
}

/// What the model says to a fixed text, to the bit: another model, precision or level says something else.
fn fingerprint(scorer: &ContinuationScorer<'_>) -> Result<String, EvalError> {
    let length = scorer.longest().min(24) + 1;
    let ids: Vec<u32> = (0..length as u64).map(|i| ((i * i * 7919 + 31) % scorer.vocab() as u64) as u32).collect();
    let asked = Continuation { inputs: &ids[..length - 1], targets: &ids[1..], greedy: false };
    let scores = scorer.score(&[asked])?;
    Ok(scores.iter().map(|score| format!("{:016x}", score.log_probability.to_bits())).collect())
}
