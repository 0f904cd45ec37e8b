//! One file a command: its arguments with examples, and `run`.

pub(crate) mod bench;
pub(crate) mod compare;
pub(crate) mod decontaminate;
pub(crate) mod distill;
pub(crate) mod eval;
pub(crate) mod export;
pub(crate) mod generate;
pub(crate) mod plan;
pub(crate) mod prepare;
pub(crate) mod quickstart;
pub(crate) mod sandbox;
pub(crate) mod score;
pub(crate) mod tokenizer;
pub(crate) mod train;
