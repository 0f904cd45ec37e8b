//! The whole model over the CPU backend: passes, files, and PyTorch's numbers.

mod batch;
mod files;
mod golden;
mod passes;
