//! Benchmarks: tasks, their requests, scores, and reports, item for item as lm-evaluation-harness has them.
//!
//! Holds: task files ([`Catalog`]), what they ask of a model ([`TaskRequests`]), scoring that goes on after a kill
//! ([`score`]), metrics with the harness's errors, `results.json` and samples ([`write_results`]), comparisons.
//! Never: HTTP, a backend, a model's arithmetic ([`infer::ContinuationScorer`] has it), printing.
//! Start reading at `requests.rs`: how a document becomes contexts and continuations.
//!
//! # What is promised
//! - The same documents, prompts, few-shot examples, token ids, truncation, predictions, metrics and standard errors as
//!   version 0.4.13 of lm-evaluation-harness with a Hugging Face model (`tests/interop/harness.py` compares them).
//! - A request's number has the same bits whatever it is scored with, so a run that was killed ends as one that was not.

mod bootstrap;
mod catalog;
mod compare;
mod dataset;
mod encode;
mod error;
mod fewshot;
mod finished;
mod metrics;
mod python;
mod requests;
mod results;
mod score;
mod task;
mod task_file;
mod template;

pub use catalog::{Catalog, Group, Selection};
pub use compare::{Comparison, Loaded, Published, Report};
pub use encode::{BosMode, Encoder, Request};
pub use error::EvalError;
pub use requests::{Item, Options, TaskRequests};
pub use results::{Facts, TaskResults, write_results};
pub use score::{Score, Status, score};
pub use task::{Metric, OutputType, Task};
