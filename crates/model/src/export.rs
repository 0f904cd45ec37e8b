//! Writing a model in another format or type, and proving that what was written is the same model: it is read back,
//! and its weights and its logits on a fixed probe are compared with the source's, before it gets its name.

mod probe;

use crate::config::gguf::ROPE_DIVISORS;
use crate::source::{Encoded, Source};
use crate::tensors::{self, PairOrder, Role, Tensor};
use crate::{Model, ModelError};
use backend::{Backend, Precision};
use formats::file::{self, FileError};
use formats::gguf::{self, Value};
use formats::hf_config::{CONFIG_NAME, GENERATION_CONFIG_NAME, GenerationConfig};
use formats::safetensors::{self, SINGLE_NAME};
use formats::{Encoding, TensorPlan, quant};
use std::borrow::Cow;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// What was written, and how far its logits are from the source's.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Report {
    /// Tensors written.
    pub tensors: usize,
    /// Bytes of their data.
    pub bytes: usize,
    /// Tokens of the probe.
    pub tokens: usize,
    /// Largest |Δlogit| over probe and vocabulary.
    pub max_logit_difference: f64,
    /// Root mean square of Δlogit over that of the logits about each row's mean.
    pub relative_difference: f64,
    /// Largest `relative_difference` that would have been accepted.
    pub bound: f64,
    /// Mean Kullback–Leibler divergence of the written model's next-token distribution from the source's, nats per
    /// token.
    pub kl_divergence: f64,
}

/// How a written model does on a text beside its source, both computed in f32 from the weights as they are stored.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct OnText {
    /// Tokens of the text.
    pub tokens: usize,
    /// Perplexity of the source.
    pub source_perplexity: f64,
    /// Perplexity of what was written.
    pub perplexity: f64,
    /// Mean Kullback–Leibler divergence of the written model's next-token distribution from the source's, nats per
    /// token.
    pub kl_divergence: f64,
}

/// Perplexity and divergence on the text `ids`, in windows of 256 tokens or the context. The source's logits are held:
/// `4 · ids.len() · vocab` bytes.
///
/// # Errors
/// [`ModelError`] where a model cannot be read or memory is short.
///
/// # Panics
/// If there are no ids, or one is outside the vocabulary.
pub fn compare_on_text(b: &dyn Backend, source: &Path, written: &Path, ids: &[u32]) -> Result<OnText, ModelError> {
    let logits = |path| probe::logits_of(b, Model::from_source_decoded(b, &Source::open(path)?)?, ids);
    let (expected, found) = (logits(source)?, logits(written)?);
    Ok(OnText {
        tokens: ids.len(),
        source_perplexity: expected.perplexity(ids),
        perplexity: found.perplexity(ids),
        kl_divergence: expected.compare(&found).kl_divergence,
    })
}

/// Largest relative differences that a sound export shows, of any tensor's weights and of the logits: root mean square
/// of the difference over that of the values.
///
/// The weights are the sharp test. Normally distributed ones rounded to f16, bf16, q8_0, q6_k, q5_0, q4_0, q3_k, q2_k
/// are off by 2e-4, 2e-3, 5e-3, 2e-2, 4e-2, 9e-2, 0.15, 0.3; the bounds are several times that, for weights with outliers. Rows in a wrong order are off
/// by about 1, whatever the type.
///
/// Logits show what else may be wrong (the config, the tokens' order). How far rounding moves them is the model's
/// affair: on the probe, which is no text, a small random model's move by 6e-4, 5e-3, 2e-2, 0.1, 0.3 and SmolLM2-135M's
/// by 4e-3, 2e-2, 6e-2, 0.8, 0.8. Logits that have nothing to do with each other are √2 apart.
const fn bounds(encoding: Encoding) -> Bounds {
    let (weights, logits) = match encoding {
        Encoding::F32 => (0.0, 1e-4),
        Encoding::F16 => (2e-3, 3e-2),
        Encoding::Bf16 => (5e-3, 1e-1),
        Encoding::Q8_0 => (3e-2, 3e-1),
        Encoding::Q6K => (6e-2, 6e-1),
        Encoding::Q5_0 | Encoding::Q5_1 | Encoding::Q5K => (2e-1, 1.3),
        Encoding::Q4_0 | Encoding::Q4_1 | Encoding::Q4K | Encoding::Iq4Nl | Encoding::Iq4Xs => (4e-1, 1.3),
        // Nothing to be told from the logits of so few bits.
        Encoding::Q3K | Encoding::Q2K => (6e-1, f64::INFINITY),
    };
    Bounds { weights, logits }
}

struct Bounds {
    weights: f64,
    logits: f64,
}

/// Writes `source` as a Hugging Face folder `out`, which must not exist. `others` is called with the folder in the
/// making, to put beside the weights what the model crate knows nothing of (the tokenizer's files).
///
/// # Errors
/// [`ModelError`]; `out` is then not there. [`ModelError::Unfaithful`] if weights or logits differ too much.
pub fn to_hf_folder(
    b: &dyn Backend,
    source: &Path,
    encoding: Encoding,
    out: &Path,
    others: &mut dyn FnMut(&Path) -> Result<(), FileError>,
) -> Result<Report, ModelError> {
    let dtype = match encoding {
        Encoding::F32 => "float32",
        Encoding::F16 => "float16",
        Encoding::Bf16 => "bfloat16",
        _ => return Err(ModelError::NotForFolder { path: out.into(), encoding }),
    };
    refuse_existing(out)?;
    let source = Source::open(source)?;
    let config = source.config().to_hf(dtype).map_err(|error| ModelError::config(source.path(), error))?;
    let generation = if file::is_dir(source.path()) {
        GenerationConfig::read(source.path())?
    } else {
        let (bos_token_id, eos_token_id) = (source.config().bos, source.config().eos.clone());
        GenerationConfig { bos_token_id, eos_token_id, ..GenerationConfig::default() }
    };
    let expected =
        probe::logits_of(b, Model::from_source_decoded(b, &source)?, &probe::scattered_ids(source.config()))?;
    let mut report = Report::default();
    file::write_folder(out, |folder| {
        config.write(&folder.join(CONFIG_NAME))?;
        generation.write(&folder.join(GENERATION_CONFIG_NAME))?;
        let tensors = tensors::all(source.config());
        let plans: Vec<TensorPlan> =
            tensors.iter().map(|tensor| TensorPlan { name: tensor.name(), encoding, shape: tensor.shape() }).collect();
        let metadata = safetensors::Metadata::new();
        safetensors::write_with(&folder.join(SINGLE_NAME), &plans, &metadata, |index, writer| {
            write_encoded(&source, &tensors[index], encoding, writer)
        })?;
        others(folder)?;
        report = verify(b, &source, &Source::open(folder)?, &expected, encoding, out)?;
        Ok::<(), ModelError>(())
    })?;
    Ok(report)
}

/// Writes `source` as a GGUF file `out`, which must not exist: matrices in `encoding`, norms and
/// biases in f32. `entries` are the tokenizer's keys and whatever else is to be said; they win over the
/// config's own.
///
/// Types of 5 bits or fewer keep the head (of a tied model, the embedding) in more (`head_encoding`); rows that are no
/// whole blocks take a type with shorter ones (`shorter_blocks`). Both much as llama.cpp does.
///
/// # Errors
/// [`ModelError`]; `out` is then not there. [`ModelError::Unfaithful`] if weights or logits differ too much.
pub fn to_gguf(
    b: &dyn Backend,
    source: &Path,
    encoding: Encoding,
    out: &Path,
    entries: &[(String, Value)],
) -> Result<Report, ModelError> {
    refuse_existing(out)?;
    let source = Source::open(source)?;
    let config = source.config();
    config.check_gguf().map_err(|error| ModelError::config(source.path(), error))?;
    let mut all_entries = config.gguf_entries(encoding);
    // Where a chat model has two ends, the first ends a text and the second a turn.
    let end = |index| config.eos.get(index).copied();
    let stated = [("bos", config.bos), ("eos", end(0)), ("eot", end(1))];
    all_entries.extend(
        stated
            .into_iter()
            .filter_map(|(token, id)| Some((format!("tokenizer.ggml.{token}_token_id"), Value::U32(id?)))),
    );
    all_entries.retain(|(key, _)| entries.iter().all(|(other, _)| other != key));
    all_entries.extend_from_slice(entries);

    let tensors = tensors::all(config);
    let is_head = |tensor: &Tensor| tensor.role == Role::Head || config.tied && tensor.role == Role::Embedding;
    let mut plans: Vec<TensorPlan> =
        tensors.iter().map(|tensor| gguf_plan(tensor, encoding, is_head(tensor))).collect();
    let divisors = config.gguf_rope_divisors();
    plans.extend(divisors.as_ref().map(|divisors| TensorPlan {
        name: ROPE_DIVISORS.into(),
        encoding: Encoding::F32,
        shape: vec![divisors.len()],
    }));
    let expected =
        probe::logits_of(b, Model::from_source_decoded(b, &source)?, &probe::scattered_ids(source.config()))?;
    let unverified = unverified_name(out);
    gguf::write_with(&unverified, &all_entries, &plans, |index, writer| match tensors.get(index) {
        Some(tensor) => write_gguf_tensor(&source, tensor, plans[index].encoding, writer),
        None => {
            let values = divisors.as_deref().unwrap_or_default();
            writer.write_all(&quant::encode(Encoding::F32, values).map_err(io::Error::other)?)
        }
    })?;
    let verified =
        Source::open_gguf(&unverified).and_then(|written| verify(b, &source, &written, &expected, encoding, out));
    match verified {
        Ok(report) => {
            file::rename(&unverified, out)?;
            Ok(report)
        }
        Err(error) => {
            file::remove_file(&unverified)?;
            Err(error)
        }
    }
}

fn refuse_existing(out: &Path) -> Result<(), FileError> {
    if file::exists(out) { Err(FileError::Exists { path: out.into() }) } else { Ok(()) }
}

/// Beside `out`, and named as `formats::file` names things in the making.
fn unverified_name(out: &Path) -> PathBuf {
    let name = out.file_name().unwrap_or_default().to_string_lossy();
    out.with_file_name(format!(".{name}.unverified{}", file::PARTIAL_SUFFIX))
}

/// How `tensor` is stored in a file of type `encoding`; `head` says that its values are those of the output projection.
fn gguf_plan(tensor: &Tensor, encoding: Encoding, head: bool) -> TensorPlan {
    let wanted = match encoding {
        _ if tensor.role.is_vector() => Encoding::F32,
        encoding if head => head_encoding(encoding),
        encoding => encoding,
    };
    let fits = |encoding: &Encoding| tensor.cols.is_multiple_of(quant::block_len(*encoding));
    let encoding = std::iter::successors(Some(wanted), |&encoding| shorter_blocks(encoding)).find(fits);
    let encoding = encoding.unwrap_or(Encoding::F16);
    TensorPlan { name: tensor.gguf_name(), encoding, shape: tensor.shape() }
}

/// llama.cpp keeps the head in 6 or 8 bits too. Written as q4_0, SmolLM2-135M diverges by 0.72 nats per token of the
/// probe with this head and by 0.87 with one of 4 bits; the file is 19 % longer.
const fn head_encoding(encoding: Encoding) -> Encoding {
    match encoding {
        Encoding::Q4_0 | Encoding::Q4_1 | Encoding::Q5_0 | Encoding::Q5_1 => Encoding::Q8_0,
        Encoding::Q2K | Encoding::Q3K | Encoding::Q4K | Encoding::Q5K | Encoding::Iq4Nl | Encoding::Iq4Xs => {
            Encoding::Q6K
        }
        Encoding::F32 | Encoding::F16 | Encoding::Bf16 | Encoding::Q8_0 | Encoding::Q6K => encoding,
    }
}

/// The type that stands in for one whose blocks do not fit: for super-blocks of 256 one of as many bits or a little more
/// in blocks of 32, for these a float.
const fn shorter_blocks(encoding: Encoding) -> Option<Encoding> {
    match encoding {
        Encoding::Q2K | Encoding::Q3K | Encoding::Iq4Xs => Some(Encoding::Iq4Nl),
        Encoding::Q4K => Some(Encoding::Q5_0),
        Encoding::Q5K => Some(Encoding::Q5_1),
        Encoding::Q6K => Some(Encoding::Q8_0),
        _ => None,
    }
}

fn write_gguf_tensor(source: &Source, tensor: &Tensor, encoding: Encoding, writer: &mut dyn Write) -> io::Result<()> {
    let bytes = reencode(source.encoded(tensor).map_err(io::Error::other)?, encoding).map_err(io::Error::other)?;
    if !tensor.role.is_rotated() || source.config().gguf_pair_order() == PairOrder::Halves {
        return writer.write_all(&bytes);
    }
    let head_dim = source.config().heads.head_dim;
    writer.write_all(&tensors::reorder_pairs(&bytes, head_dim, tensor, PairOrder::Neighbours))
}

/// Writes a tensor's rows in `encoding`; rows that have it already are taken as they are.
fn write_encoded(source: &Source, tensor: &Tensor, encoding: Encoding, writer: &mut dyn Write) -> io::Result<()> {
    let found = source.encoded(tensor).map_err(io::Error::other)?;
    writer.write_all(&reencode(found, encoding).map_err(io::Error::other)?)
}

fn reencode(found: Encoded<'_>, encoding: Encoding) -> Result<Cow<'_, [u8]>, quant::QuantError> {
    if found.encoding == encoding {
        return Ok(found.bytes);
    }
    Ok(quant::encode(encoding, &quant::decode_all(found.encoding, &found.bytes)?)?.into())
}

/// Compares the written model, read back, with its source: every tensor's weights, then the logits of the probe. `out`
/// is its name to be.
fn verify(
    b: &dyn Backend,
    source: &Source,
    written: &Source,
    expected: &probe::Logits,
    encoding: Encoding,
    out: &Path,
) -> Result<Report, ModelError> {
    let Bounds { weights, logits } = bounds(encoding);
    // `<=` and not `>`, so that a NaN is refused too.
    let require = |holds: bool, what: String, found: f64, bound: f64| match holds {
        true => Ok(()),
        false => Err(ModelError::Unfaithful { path: out.into(), encoding, what, found, bound }),
    };
    let tensors = tensors::all(source.config());
    let mut bytes = 0;
    for tensor in &tensors {
        bytes += written.encoded(tensor)?.bytes.len();
        let found = probe::relative_difference(&source.values(tensor)?, &written.values(tensor)?);
        require(found <= weights, format!("weights of `{}`", tensor.name()), found, weights)?;
    }
    let difference = expected.compare(&probe::logits_of(
        b,
        Model::from_source(b, written, Precision::F32)?,
        &probe::scattered_ids(source.config()),
    )?);
    require(difference.relative <= logits, "logits".into(), difference.relative, logits)?;
    Ok(Report {
        tensors: tensors.len(),
        bytes,
        tokens: expected.tokens,
        max_logit_difference: difference.largest,
        relative_difference: difference.relative,
        bound: logits,
        kl_divergence: difference.kl_divergence,
    })
}
