//! Benchmarks: tasks, their requests, scores, and reports, item for item as lm-evaluation-harness has them.
//!
//! Holds: task files ([`Catalog`]), what they ask of a model ([`TaskRequests`]), scoring and writing that go on after a
//! kill ([`score`], [`write()`]), filters, programs in a sandbox
//! ([`Sandbox`]), metrics with the harness's errors, `results.json` and samples
//! ([`write_results`]), comparisons.
//! Never: HTTP, a backend, a model's arithmetic ([`infer::ContinuationScorer`] and [`infer::Session`] have it), printing.
//! Start reading at `templates.rs`: how a document becomes contexts and continuations.
//!
//! # What is promised
//! - The same documents, prompts, few-shot examples, token ids, truncation, predictions, metrics and standard errors as
//!   version 0.4.13 of lm-evaluation-harness with a Hugging Face model (`tests/interop/harness.py` compares them).
//! - A request's number has the same bits whatever it is scored with, so a run that was killed ends as one that was not.

mod answers;
mod bootstrap;
mod catalog;
mod compare;
mod dataset;
mod encode;
mod error;
mod fewshot;
mod filters;
mod finished;
mod generation;
mod metrics;
mod python;
mod requests;
mod results;
mod sandbox;
mod score;
mod task;
mod task_file;
mod template;
mod templates;
mod turns;

pub use answers::{Writer, longest_text, write};
pub use catalog::{Catalog, Group, Selection};
pub use compare::{Comparison, Loaded, Published, Report};
pub use encode::{BosMode, Encoder, Request};
pub use error::EvalError;
pub use finished::Finished;
pub use generation::{Generation, Overrides, Prompt};
pub use metrics::programs;
pub use requests::item_texts;
pub use requests::{Item, Options, TaskRequests};
pub use results::{Answers, Facts, Measured, TaskResults, write_results};
pub use sandbox::{Confinement, Limits, Sandbox, Verdict, again, enter};
pub use score::{Score, Status, finished, score};
pub use task::{Metric, OutputType, Task};
