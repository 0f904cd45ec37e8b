//! The CPU as a backend.
//!
//! Holds: kernels, the threads and the memory they work on.
//! Never: a model's name, a file, the environment; `unsafe` is written here and nowhere else but in one function of
//! `formats`.
//! Start reading at [`Level`].
#![allow(unsafe_code, reason = "kernels are where unsafe code lives")]

pub mod ceiling;
mod level;
mod pool;

pub use level::{CpuError, Level, available, detect};
pub use pool::Pool;
