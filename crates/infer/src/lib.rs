//! A model in use: sessions with a key-value cache, sampling, lossless speculation, and the scoring of text.
//!
//! Holds: [`Session`], [`Sampler`], the [`Drafter`]s, [`generate`], [`score`], [`score_rolling`] and the
//! [`ContinuationScorer`].
//! Never: text (ids in, ids out), printing, HTTP, tasks, a particular backend.
//! Start reading at [`generate`], then `speculate.rs`: one round of proposing and verifying; `chain.rs`: who proposes how
//! much, by the arithmetic of `width.rs`.
//!
//! # What is promised
//! - A generated row's logits and its cached keys and values have the same bits, whatever the number of rows they were
//!   computed with. So greedy output is the same with and without speculation, byte for byte.
//! - With sampling, output with speculation has exactly the distribution of output without (Leviathan et al., 2023).
//! - Every random number is a function of (seed, purpose, position): the same call gives the same ids.

mod acceptance;
mod bridged_drafter;
mod chain;
mod continuations;
mod costs;
mod distribution;
mod draft;
mod draft_vocabulary;
mod error;
mod generate;
mod model_drafter;
mod ngram;
mod planned;
mod random;
mod sample;
mod score;
mod session;
mod speculate;
mod suffix;
mod texts;
mod vocabulary;
mod width;

pub use bridged_drafter::BridgedDrafter;
pub use chain::{Chain, Schedule};
pub use continuations::{Continuation, ContinuationBatch, ContinuationScore, ContinuationScorer};
pub use costs::{measure_costs, measure_step};
pub use distribution::Distribution;
pub use draft::{Drafter, Pace, Proposal, Request, Unhurried};
pub use draft_vocabulary::{DRAFT_VOCABULARY_FILE, DraftVocabulary};
pub use error::InferError;
pub use generate::{GenerateOptions, Outcome, PositionCount, StopReason, TokenEvent, generate};
pub use model_drafter::ModelDrafter;
pub use ngram::NgramDrafter;
pub use random::{Draw, uniform};
pub use sample::{Sampler, SamplingOptions};
pub use score::{Scorer, Window, rolling_windows, score, score_rolling, score_windows, strided_windows};
pub use session::{Logits, MAX_GENERATED_ROWS, PROMPT_CHUNK, Session};
pub use speculate::MAX_DRAFT_LENGTH;
pub use suffix::SuffixDrafter;
pub use texts::Texts;
pub use vocabulary::check_vocabularies;
pub use width::{Costs, expected_tokens};
