//! The CPU as a backend.
//!
//! Holds: kernels, the threads and the memory they work on.
//! Never: a model's name, a file, the environment; `unsafe` is written here and nowhere else but in one function of
//! `formats`.
//! Start reading at [`Level`].
#![allow(unsafe_code, reason = "kernels are where unsafe code lives")]

mod activation;
mod adamw;
mod attention;
pub mod ceiling;
mod embedding;
mod kv_cache;
mod level;
mod lines;
mod norm;
mod pool;
mod reduce;
mod rope;
mod simd;
mod split;
#[cfg(test)]
mod test_data;

pub use level::{CpuError, Level, available, detect};
pub use pool::Pool;
