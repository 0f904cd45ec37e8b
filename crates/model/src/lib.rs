//! Models: what they are, their weights, their forward and backward pass as calls to a backend, and their costs.
//!
//! Holds: [`Config`], [`Architecture`] and [`Form`], [`Model`] (weights for inference), [`Parameters`] (weights in training),
//! [`Activations`], the passes in [`pass`], the blocks in [`llama`] and `gpt2`, first weights, costs, and verified export.
//! Never: training loops, sampling, slices of numbers to compute with, a particular backend.
//! Start reading at [`llama`].

mod activations;
mod architecture;
mod batch;
mod config;
pub mod cost;
mod cut;
mod error;
pub mod export;
mod gpt2;
mod init;
pub mod llama;
mod memory;
mod not_finite;
mod parameters;
pub mod pass;
mod prefix_tree;
mod source;
pub mod tensors;
mod text_logits;
mod weights;

pub use activations::{ActivationGradients, Activations, BlockActivations};
pub use architecture::{Activation, Architecture, Form};
pub use batch::Batch;
pub use config::{Config, ConfigError, Rope, RopeScaling};
pub use cut::Cut;
pub use error::ModelError;
pub use init::Scheme;
pub use not_finite::{Stage, first_not_finite};
pub use parameters::{Kind, Parameter, Parameters, Part};
pub use prefix_tree::{PrefixTree, TreeBuffers};
pub use source::{Encoded, Source};
pub use text_logits::text_logits;
pub use weights::{Block, Linear, Model, Norm};
