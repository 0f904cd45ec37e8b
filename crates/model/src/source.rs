//! A model as it lies on the disk, whatever the format: its config, and its tensors by role in one order of rows.

use crate::tensors::{self, PairOrder, Role, Tensor};
use crate::{Architecture, Config, ModelError};
use formats::gguf::Gguf;
use formats::hf_config::{CONFIG_NAME, GenerationConfig, HfConfig};
use formats::llama2c::Llama2c;
use formats::safetensors::Weights;
use formats::{Encoding, StoredTensor, file, quant};
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A model on the disk, all its tensors known to be there and of the right shape.
#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    config: Config,
    files: Files,
}

#[derive(Debug)]
enum Files {
    HuggingFace(Weights),
    Gguf(Gguf),
    Llama2c(Llama2c),
}

/// A tensor's rows as they are encoded, in half-split order of pairs.
#[derive(Debug)]
pub struct Encoded<'a> {
    /// How they are encoded.
    pub encoding: Encoding,
    /// All rows.
    pub bytes: Cow<'a, [u8]>,
}

impl Source {
    /// Opens a Hugging Face folder (a checkpoint of ours is one), a run folder's latest checkpoint, a `.gguf` file or a
    /// llama2.c `.bin` file. Weights are mapped, not read.
    ///
    /// # Errors
    /// [`ModelError`]: another format or architecture, or a tensor that is missing, misshaped or not understood.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        let latest = path.join("checkpoints/latest");
        match extension.to_ascii_lowercase().as_str() {
            _ if file::is_dir(&latest) && !file::exists(&path.join(CONFIG_NAME)) => Self::open_folder(&latest),
            _ if file::is_dir(path) => Self::open_folder(path),
            "gguf" => Self::open_gguf(path),
            "bin" => Self::open_llama2c(path),
            _ => Err(ModelError::UnknownFormat { path: path.into() }),
        }
    }

    fn open_folder(path: &Path) -> Result<Self, ModelError> {
        let hf = HfConfig::read(path)?;
        let mut config = Config::from_hf(&hf).map_err(|error| ModelError::config(path, error))?;
        let generation = GenerationConfig::read(path)?;
        if !generation.eos_token_id.is_empty() {
            config.eos = generation.eos_token_id;
            config.validate().map_err(|error| ModelError::config(path, error))?;
        }
        Self::checked(path, config, Files::HuggingFace(Weights::open(path)?))
    }

    /// Opens a GGUF file, whatever its name.
    pub(crate) fn open_gguf(path: &Path) -> Result<Self, ModelError> {
        let gguf = Gguf::open(path)?;
        Self::checked(path, Config::from_gguf(&gguf)?, Files::Gguf(gguf))
    }

    fn open_llama2c(path: &Path) -> Result<Self, ModelError> {
        let llama2c = Llama2c::open(path)?;
        let config = Config::from_llama2c(llama2c.shape()).map_err(|error| ModelError::config(path, error))?;
        Self::checked(path, config, Files::Llama2c(llama2c))
    }

    fn checked(path: &Path, config: Config, files: Files) -> Result<Self, ModelError> {
        let source = Self { path: path.into(), config, files };
        source.check()?;
        Ok(source)
    }

    /// The shape.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The encoding of most of its weights.
    ///
    /// # Errors
    /// As [`Source::encoded`].
    pub fn encoding(&self) -> Result<Encoding, ModelError> {
        let mut counts: Vec<(Encoding, usize)> = Vec::new();
        for tensor in tensors::all(&self.config) {
            let encoding = self.stored(&tensor)?.encoding;
            match counts.iter_mut().find(|(counted, _)| *counted == encoding) {
                Some((_, count)) => *count += tensor.len(),
                None => counts.push((encoding, tensor.len())),
            }
        }
        Ok(counts.into_iter().max_by_key(|&(_, count)| count).map_or(Encoding::F32, |(encoding, _)| encoding))
    }

    /// A tensor's encoded rows.
    ///
    /// # Errors
    /// [`ModelError`] for one that the model does not have (a tied model's head).
    pub fn encoded(&self, tensor: &Tensor) -> Result<Encoded<'_>, ModelError> {
        let stored = self.stored(tensor)?;
        let encoding = stored.encoding;
        if self.is_transposed(tensor) {
            return Ok(Encoded { encoding, bytes: Cow::Owned(tensors::transpose(stored.bytes, tensor)) });
        }
        if !tensor.role.is_rotated() || self.order() == PairOrder::Halves {
            return Ok(Encoded { encoding, bytes: Cow::Borrowed(stored.bytes) });
        }
        let bytes = tensors::reorder_pairs(stored.bytes, self.config.heads.head_dim, tensor, PairOrder::Halves);
        Ok(Encoded { encoding, bytes: Cow::Owned(bytes) })
    }

    /// Whether the file has the tensor's columns as rows.
    fn is_transposed(&self, tensor: &Tensor) -> bool {
        let transposed = self.config.architecture.description().transposed;
        matches!(self.files, Files::HuggingFace(_)) && transposed.contains(&tensor.role)
    }

    /// A tensor's values, row-major.
    ///
    /// # Errors
    /// As [`Source::encoded`].
    pub fn values(&self, tensor: &Tensor) -> Result<Vec<f32>, ModelError> {
        let Encoded { encoding, bytes } = self.encoded(tensor)?;
        quant::decode_all(encoding, &bytes).map_err(|error| ModelError::Decode { tensor: self.name(tensor), error })
    }

    fn order(&self) -> PairOrder {
        match self.files {
            Files::HuggingFace(_) => PairOrder::Halves,
            Files::Gguf(_) => self.config.gguf_pair_order(),
            Files::Llama2c(_) => PairOrder::Neighbours,
        }
    }

    /// The tensor's name in this format.
    fn name(&self, tensor: &Tensor) -> String {
        match &self.files {
            Files::HuggingFace(weights) => folder_name(weights, tensor.name()),
            Files::Gguf(_) => tensor.gguf_name(),
            Files::Llama2c(_) => tensor.llama2c_name(),
        }
    }

    fn names(&self) -> BTreeSet<String> {
        match &self.files {
            Files::HuggingFace(weights) => weights.names().map(String::from).collect(),
            Files::Gguf(gguf) => gguf.tensors().map(|tensor| tensor.name).collect(),
            Files::Llama2c(llama2c) => llama2c.names().map(String::from).collect(),
        }
    }

    fn stored(&self, tensor: &Tensor) -> Result<StoredTensor<'_>, ModelError> {
        let name = self.name(tensor);
        let stored = match &self.files {
            Files::HuggingFace(weights) => weights.tensor(&name)?,
            Files::Gguf(gguf) => gguf.tensor(&name)?,
            Files::Llama2c(llama2c) => llama2c.tensor(&name)?,
        };
        let mut expected = tensor.shape();
        if self.is_transposed(tensor) {
            expected.reverse();
        }
        if stored.shape != expected {
            return Err(ModelError::Misshaped { path: self.path.clone(), name, found: stored.shape, expected });
        }
        Ok(stored)
    }

    /// Every tensor is there once, has its shape, and there is no other.
    fn check(&self) -> Result<(), ModelError> {
        let mut names = self.names();
        for tensor in tensors::all(&self.config) {
            self.stored(&tensor)?;
            names.remove(&self.name(&tensor));
        }
        if self.config.tied {
            self.check_tied(&mut names)?;
        }
        names.retain(|name| !is_derived(self.config.architecture, name));
        match names.first() {
            None => Ok(()),
            Some(first) => Err(ModelError::Surplus {
                path: self.path.clone(),
                architecture: self.config.architecture.name(),
                first: first.clone(),
                count: names.len(),
            }),
        }
    }

    /// Some writers store the head of a tied model too; it must then be the embedding.
    fn check_tied(&self, names: &mut BTreeSet<String>) -> Result<(), ModelError> {
        let head = Tensor::new(&self.config, Role::Head, 0);
        let name = self.name(&head);
        if !names.remove(&name) {
            return Ok(());
        }
        let embedding = self.stored(&Tensor::new(&self.config, Role::Embedding, 0))?;
        let stored = self.stored(&head)?;
        if (stored.encoding, stored.bytes) == (embedding.encoding, embedding.bytes) {
            Ok(())
        } else {
            Err(ModelError::HeadOfTied { path: self.path.clone(), name })
        }
    }
}

/// A tensor's name in a folder: the full one or, where the folder was written from the model without its head (as GPT-2's
/// own is), the one without what stands before the first dot.
fn folder_name(weights: &Weights, full: String) -> String {
    match full.split_once('.') {
        Some((_, bare)) if !weights.contains(&full) && weights.contains(bare) => bare.into(),
        _ => full,
    }
}

/// Tensors that some writers store although the config gives them: rotary frequencies and cosines, GPT-2's causal masks.
fn is_derived(architecture: Architecture, name: &str) -> bool {
    let mask = || name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias");
    name.ends_with("rotary_emb.inv_freq") || name == "rope_freqs.weight" || architecture == Architecture::Gpt2 && mask()
}

/// The backend's word for an encoding.
pub(crate) const fn computable(encoding: Encoding) -> backend::Encoding {
    use backend::Encoding as Computable;
    match encoding {
        Encoding::F32 => Computable::F32,
        Encoding::F16 => Computable::F16,
        Encoding::Bf16 => Computable::Bf16,
        Encoding::Q8_0 => Computable::Q8_0,
        Encoding::Q4_0 => Computable::Q4_0,
        Encoding::Q4_1 => Computable::Q4_1,
        Encoding::Q5_0 => Computable::Q5_0,
        Encoding::Q5_1 => Computable::Q5_1,
        Encoding::Q4K => Computable::Q4K,
        Encoding::Q5K => Computable::Q5K,
        Encoding::Q6K => Computable::Q6K,
        Encoding::Q2K => Computable::Q2K,
        Encoding::Q3K => Computable::Q3K,
        Encoding::Iq4Nl => Computable::Iq4Nl,
        Encoding::Iq4Xs => Computable::Iq4Xs,
    }
}
