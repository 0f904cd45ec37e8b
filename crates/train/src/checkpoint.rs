//! Checkpoints: a Hugging Face folder, with the optimizer's moments and the state of the run beside the weights.
//!
//! ```text
//! checkpoints/step-00000100/   model.safetensors (f32)  config.json  generation_config.json  tokenizer files
//!                              optimizer.safetensors    state.json
//! checkpoints/latest           a link to the newest
//! ```
//! A checkpoint is written beside its place, flushed to the disk and renamed, then `latest` is moved to it, and only
//! then are older ones removed: a kill at any moment leaves the last good one.

use crate::TrainError;
use crate::state::{STATE_FILE, State};
use crate::step::Trainer;
use backend::{Backend, Buf};
use formats::file::{self, FileError, MappedFile};
use formats::hf_config::GenerationConfig;
use formats::safetensors::{self, SafetensorsError, Weights};
use formats::{Encoding, TensorPlan};
use model::{Config, Parameters, Part};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The folder of checkpoints in a run folder.
pub const CHECKPOINTS_FOLDER: &str = "checkpoints";
/// The newest checkpoint, in the folder of checkpoints.
pub const LATEST: &str = "latest";
/// The moments, in a checkpoint.
pub const OPTIMIZER_FILE: &str = "optimizer.safetensors";

/// What a tokenizer consists of, or what stands for it in a draft; nothing else is copied from its folder.
const TOKENIZER_FILES: [&str; 10] = [
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "tokenizer.bin",
    infer::DRAFT_VOCABULARY_FILE,
];

/// The folder of the checkpoint after `step` steps.
pub(crate) fn folder(run: &Path, step: u64) -> PathBuf {
    run.join(CHECKPOINTS_FOLDER).join(format!("step-{step:08}"))
}

/// Writes a checkpoint and points `latest` to it. One of the same step that is there is replaced.
///
/// # Errors
/// The disk; older checkpoints are intact then.
pub(crate) fn write(
    b: &dyn Backend,
    run: &Path,
    trainer: &Trainer<'_>,
    state: &State,
    tokenizer: &Path,
) -> Result<PathBuf, TrainError> {
    let path = folder(run, state.step);
    file::create_dir_all(&run.join(CHECKPOINTS_FOLDER))?;
    let aside = hidden(&path);
    let replaces = file::exists(&path);
    if replaces {
        file::rename(&path, &aside)?;
    }
    let written = file::write_folder(&path, |folder| write_files(b, folder, trainer, state, tokenizer));
    if replaces {
        if written.is_err() {
            file::rename(&aside, &path)?;
        } else {
            file::remove_dir_all(&aside)?;
        }
    }
    written?;
    point_latest(run, &path)?;
    Ok(path)
}

fn write_files(
    b: &dyn Backend,
    folder: &Path,
    trainer: &Trainer<'_>,
    state: &State,
    tokenizer: &Path,
) -> Result<(), TrainError> {
    let parameters = trainer.parameters();
    write_weights(b, &folder.join(safetensors::SINGLE_NAME), parameters)?;
    write_moments(b, &folder.join(OPTIMIZER_FILE), trainer)?;
    write_configs(folder, &parameters.config)?;
    copy_tokenizer(tokenizer, folder)?;
    let mut state = state.clone();
    for path in file::list(folder)? {
        state.files.insert(name_of(&path), hash_file(&path)?);
    }
    Ok(file::write_bytes(&folder.join(STATE_FILE), state.to_json().as_bytes())?)
}

fn write_weights(b: &dyn Backend, path: &Path, parameters: &Parameters) -> Result<(), SafetensorsError> {
    let parts = parameters.parts();
    let plans: Vec<_> = parts.iter().map(|part| plan(part, part.tensor.name())).collect();
    safetensors::write_with(path, &plans, &BTreeMap::new(), |index, writer| {
        let part = &parts[index];
        write_floats(writer, &parameters.read_part(b, parameters.list[part.parameter].master, part))
    })
}

fn write_moments(b: &dyn Backend, path: &Path, trainer: &Trainer<'_>) -> Result<(), SafetensorsError> {
    let tensors = moment_tensors(trainer);
    let plans: Vec<_> = tensors.iter().map(|(name, part, _)| plan(part, name.clone())).collect();
    safetensors::write_with(path, &plans, &BTreeMap::new(), |index, writer| {
        let (_, part, buf) = &tensors[index];
        write_floats(writer, &trainer.parameters().read_part(b, *buf, part))
    })
}

/// Names, places and buffers of all moments: `m.NAME` and `v.NAME` for the weight `NAME`.
fn moment_tensors(trainer: &Trainer<'_>) -> Vec<(String, Part, Buf)> {
    let both = |part: Part| {
        let (name, moments) = (part.tensor.name(), trainer.moments()[part.parameter]);
        [(format!("m.{name}"), part.clone(), moments.m), (format!("v.{name}"), part, moments.v)]
    };
    trainer.parameters().parts().into_iter().flat_map(both).collect()
}

/// Reads the moments of a checkpoint into the trainer, whose weights are the checkpoint's.
///
/// # Errors
/// The file is missing, damaged, or another model's.
pub(crate) fn read_moments(b: &dyn Backend, checkpoint: &Path, trainer: &Trainer<'_>) -> Result<(), TrainError> {
    let path = checkpoint.join(OPTIMIZER_FILE);
    let weights = Weights::open(&path)?;
    for (name, part, buf) in moment_tensors(trainer) {
        let stored = weights.tensor(&name)?;
        let expected = part.tensor.len();
        if stored.shape != part.tensor.shape() || stored.encoding != Encoding::F32 {
            return Err(TrainError::MomentShape { file: path, tensor: name, found: stored.shape, expected });
        }
        let floats: Vec<f32> = stored.bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        b.write(buf, part.at, &floats);
    }
    Ok(())
}

fn plan(part: &Part, name: String) -> TensorPlan {
    TensorPlan { name, encoding: Encoding::F32, shape: part.tensor.shape() }
}

fn write_floats(writer: &mut dyn Write, floats: &[f32]) -> io::Result<()> {
    /// 64 KiB at a time: one call to the writer for many floats, without a second copy of the tensor.
    const AT_ONCE: usize = 16 << 10;
    let mut bytes = Vec::with_capacity(4 * AT_ONCE);
    for chunk in floats.chunks(AT_ONCE) {
        bytes.clear();
        chunk.iter().for_each(|float| bytes.extend(float.to_le_bytes()));
        writer.write_all(&bytes)?;
    }
    Ok(())
}

fn write_configs(folder: &Path, config: &Config) -> Result<(), TrainError> {
    let stated = config.to_hf("float32").map_err(|error| TrainError::Model(error.into()))?;
    stated.write(&folder.join(formats::hf_config::CONFIG_NAME))?;
    let generation =
        GenerationConfig { bos_token_id: config.bos, eos_token_id: config.eos.clone(), ..Default::default() };
    Ok(generation.write(&folder.join(formats::hf_config::GENERATION_CONFIG_NAME))?)
}

fn copy_tokenizer(from: &Path, to: &Path) -> Result<(), FileError> {
    for name in TOKENIZER_FILES {
        let source = from.join(name);
        if file::is_file(&source) {
            file::copy(&source, &to.join(name))?;
        }
    }
    Ok(())
}

/// Checks that the files of a checkpoint are those that were written.
///
/// # Errors
/// [`TrainError::Damaged`] for the first that is not.
pub(crate) fn verify(checkpoint: &Path, state: &State) -> Result<(), TrainError> {
    for (name, expected) in &state.files {
        // Names come from a file: one that leads elsewhere is no file of the checkpoint.
        let path = checkpoint.join(Path::new(name).file_name().unwrap_or_default());
        let found = hash_file(&path)?;
        if found != *expected {
            return Err(TrainError::Damaged { file: path, found, expected: expected.clone() });
        }
    }
    Ok(())
}

pub(crate) fn hash_file(path: &Path) -> Result<String, FileError> {
    let mapped = MappedFile::open(path)?;
    Ok(blake3::hash(&mapped).to_string())
}

/// The checkpoint that the run in folder `run` goes on from: what `latest` points to, else the one with the most steps;
/// `None` where there is none.
///
/// # Errors
/// [`TrainError::State`], [`TrainError::File`].
pub fn newest(run: &Path) -> Result<Option<PathBuf>, TrainError> {
    let latest = run.join(CHECKPOINTS_FOLDER).join(LATEST);
    if file::is_file(&latest.join(STATE_FILE)) {
        return Ok(Some(folder(run, State::read(&latest)?.step)));
    }
    Ok(all(run)?.pop().map(|(_, path)| path))
}

/// Every checkpoint of a run, by steps.
pub(crate) fn all(run: &Path) -> Result<Vec<(u64, PathBuf)>, FileError> {
    let folder = run.join(CHECKPOINTS_FOLDER);
    if !file::is_dir(&folder) {
        return Ok(Vec::new());
    }
    let step = |path: &Path| name_of(path).strip_prefix("step-")?.parse::<u64>().ok();
    let entries = file::list(&folder)?.into_iter().filter(|path| file::is_file(&path.join(STATE_FILE)));
    let mut found: Vec<_> = entries.filter_map(|path| Some((step(&path)?, path))).collect();
    found.sort();
    Ok(found)
}

/// Removes the checkpoints that `keep` does not keep, of those up to `newest`.
///
/// # Errors
/// The disk.
pub(crate) fn retire(run: &Path, keep: &recipe::Checkpoints, newest: u64) -> Result<(), FileError> {
    let mut found = all(run)?;
    found.retain(|(step, _)| *step <= newest);
    let old = found.len().saturating_sub(keep.keep_last.max(1));
    for (step, path) in &found[..old] {
        if keep.keep_every_steps == 0 || !step.is_multiple_of(keep.keep_every_steps) {
            // Renamed first, so that no half-removed checkpoint is ever seen.
            let hidden = hidden(path);
            file::rename(path, &hidden)?;
            file::remove_dir_all(&hidden)?;
        }
    }
    Ok(())
}

/// A name that [`file::remove_leftovers`] clears away, should this process not get to it.
fn hidden(path: &Path) -> PathBuf {
    path.with_file_name(format!(".{}.old{}", name_of(path), file::PARTIAL_SUFFIX))
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(unix)]
pub(crate) fn point_latest(run: &Path, checkpoint: &Path) -> Result<(), FileError> {
    file::replace_symlink(&run.join(CHECKPOINTS_FOLDER).join(LATEST), Path::new(&name_of(checkpoint)))
}

/// Without links, the one with the most steps counts.
#[cfg(not(unix))]
pub(crate) fn point_latest(_: &Path, _: &Path) -> Result<(), FileError> {
    Ok(())
}
