//! The Llama model: what it is, its weights, its forward and backward pass as calls to a backend, and its costs.
//!
//! Holds: [`Config`], [`Model`] (weights for inference), [`Parameters`] (weights in training), [`Activations`],
//! the passes in [`llama`], first weights, costs, and verified export.
//! Never: training loops, sampling, slices of numbers to compute with, a particular backend.
//! Start reading at [`llama`].

mod activations;
mod batch;
mod config;
pub mod cost;
mod error;
pub mod export;
mod init;
pub mod llama;
mod memory;
mod parameters;
mod prefix_tree;
mod source;
pub mod tensors;
mod weights;

pub use activations::{ActivationGradients, Activations, BlockActivations};
pub use config::{Architecture, Config, ConfigError, Rope, RopeScaling};
pub use error::ModelError;
pub use init::Scheme;
pub use parameters::{Kind, Parameter, Parameters, Part};
pub use prefix_tree::{PrefixTree, TreeBuffers};
pub use source::{Encoded, Source};
pub use weights::{Block, Model};
