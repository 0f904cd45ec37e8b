//! The whole model over the CPU backend: passes, files, and PyTorch's numbers.

#![allow(clippy::unwrap_used)] // helpers of tests, which the lint takes for the program

mod architectures;
mod batch;
mod files;
mod golden;
mod passes;
mod refusals;
