//! Sessions, speculation and scores with tiny models on the CPU, at every level that the machine has.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod borders;
mod bridged;
mod common;
mod continuations;
mod drafts;
mod not_finite;
mod quantized;
mod rollback;
mod scoring;
mod sessions;
mod speculation;
mod stories;
mod texts;
