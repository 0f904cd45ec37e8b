//! Where a run begins: a fresh folder, the newest checkpoint, or a given one; and what must be the same to go on.

use crate::state::{self, KeyDifference, STATE_FILE, State};
use crate::{RECIPE_FILE, Resume, TrainError, checkpoint, metrics};
use formats::file::{self, FolderLock};
use model::Source;
use recipe::Recipe;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// A run folder that is ours, and where the run begins in it.
#[derive(Debug)]
pub(crate) struct Start {
    /// Keeps other processes out until the run is over.
    pub(crate) _lock: FolderLock,
    /// The checkpoint to go on from, whose files were checked.
    pub(crate) from: Option<(PathBuf, State)>,
    /// Whether an earlier session of the run was found.
    pub(crate) resumed: bool,
}

/// Refuses a folder that a run may not begin in, before anything is prepared for it.
///
/// # Errors
/// [`TrainError::HoldsARun`] for a fresh run into a folder that is in use, [`TrainError::NoCheckpoint`] where the folder
/// to resume from has none.
pub fn check_folder(run: &Path, resume: &Resume) -> Result<(), TrainError> {
    match resume {
        Resume::No if holds_a_run(run) => Err(TrainError::HoldsARun { folder: run.into() }),
        Resume::No | Resume::Auto => Ok(()),
        Resume::From(given) => named(given).map(|_| ()),
    }
}

/// Locks the folder and finds where to begin. `present` is the state that a fresh run would begin with.
///
/// # Errors
/// [`TrainError`]: a folder in use, no checkpoint where one was named, or one that the run cannot go on from.
pub(crate) fn find(
    run: &Path,
    recipe: &Recipe,
    resume: &Resume,
    present: &State,
    allow_other_bits: bool,
) -> Result<Start, TrainError> {
    file::create_dir_all(run)?;
    let lock = file::lock_folder(run)?;
    check_folder(run, resume)?;
    let used = holds_a_run(run);
    clear_leftovers(run)?;
    let found = match resume {
        Resume::No => None,
        Resume::Auto => checkpoint::newest(run)?,
        Resume::From(given) => Some(named(given)?),
    };
    let from = match found {
        Some(folder) => {
            let before = State::read(&folder)?;
            compare(&folder, &before, present, allow_other_bits)?;
            checkpoint::verify(&folder, &before)?;
            if let Resume::From(_) = resume {
                adopt(run, &folder, &before, used)?;
            }
            Some((folder, before))
        }
        None => {
            let path = run.join(RECIPE_FILE);
            if file::exists(&path) {
                let before = state::to_value(&Recipe::load(&path, &[])?);
                same_recipe(run, &before, &present.recipe, allow_other_bits)?;
            }
            None
        }
    };
    file::write_atomic(&run.join(RECIPE_FILE), |writer| writer.write_all(recipe.to_toml().as_bytes()))?;
    Ok(Start { _lock: lock, from, resumed: used })
}

fn holds_a_run(run: &Path) -> bool {
    [RECIPE_FILE, metrics::METRICS_FILE, checkpoint::CHECKPOINTS_FOLDER]
        .iter()
        .any(|name| file::exists(&run.join(name)))
}

fn clear_leftovers(run: &Path) -> Result<(), TrainError> {
    for folder in [run.to_owned(), run.join(checkpoint::CHECKPOINTS_FOLDER)] {
        if file::is_dir(&folder) {
            let removed = file::remove_leftovers(&folder)?;
            if removed > 0 {
                tracing::info!("{}: removed {removed} half-written entries of a killed process", folder.display());
            }
        }
    }
    Ok(())
}

/// The checkpoint that was named: itself, or the newest of the run.
fn named(given: &Path) -> Result<PathBuf, TrainError> {
    if file::is_file(&given.join(STATE_FILE)) {
        return Ok(given.to_owned());
    }
    checkpoint::newest(given)?.ok_or_else(|| TrainError::NoCheckpoint { folder: given.into() })
}

/// Makes a checkpoint that was named the newest of the run. One of another run brings the beginning of its metrics.
fn adopt(run: &Path, named: &Path, state: &State, used: bool) -> Result<(), TrainError> {
    let own = checkpoint::folder(run, state.step);
    if file::is_file(&own.join(STATE_FILE)) && State::read(&own)? == *state {
        return Ok(checkpoint::point_latest(run, &own)?);
    }
    if used {
        return Err(TrainError::HoldsARun { folder: run.into() });
    }
    let other = named.parent().and_then(Path::parent).unwrap_or(Path::new("..")).join(metrics::METRICS_FILE);
    if file::is_file(&other) {
        let bytes = file::read(&other, u64::MAX)?;
        let whole = bytes.len().min(usize::try_from(state.metrics_bytes).unwrap_or(usize::MAX));
        file::write_bytes(&run.join(metrics::METRICS_FILE), &bytes[..whole])?;
    }
    Ok(())
}

/// Whether a run of state `before` may go on as `present` would begin.
fn compare(folder: &Path, before: &State, present: &State, allow_other_bits: bool) -> Result<(), TrainError> {
    same_recipe(folder, &before.recipe, &present.recipe, allow_other_bits)?;
    let inputs = [
        ("data", &before.data_hash, &present.data_hash),
        ("tokenizer", &before.tokenizer_hash, &present.tokenizer_hash),
    ];
    for (what, before, now) in inputs {
        if before != now {
            let (before, now) = (before.clone(), now.clone());
            return Err(TrainError::OtherInput { folder: folder.into(), what, before, now });
        }
    }
    if allow_other_bits {
        return Ok(());
    }
    let other_bits = |what: &str, before: String, now: String, remedy| {
        Err(TrainError::OtherBits { folder: folder.into(), what: what.into(), before, now, remedy })
    };
    let (was, is) = (&before.backend, &present.backend);
    if (&was.name, &was.level) != (&is.name, &is.level) {
        let told = |of: &backend::Description| format!("{} {}", of.name, of.level);
        return other_bits("the backend", told(was), told(is), "force the level with the variable SLM_CPU");
    }
    let micro_batch = |state: &State| state::micro_batch(&state.recipe).map_or("absent".into(), |n| n.to_string());
    if micro_batch(before) == micro_batch(present) {
        return Ok(());
    }
    let config = Source::open(folder)?.config().clone();
    let tokens = state::sequence(&present.recipe).filter(|&tokens| tokens > 0).unwrap_or(config.context as u64);
    // Tiles add the rows of a gradient 32 at a time, where products are bf16.
    let by_tiles = is.level == "amx" && state::is_bf16(&present.recipe);
    if config.tied || (by_tiles && !tokens.is_multiple_of(32)) {
        return other_bits(state::MICRO_BATCH, micro_batch(before), micro_batch(present), "set it back");
    }
    Ok(())
}

fn same_recipe(folder: &Path, before: &Value, now: &Value, allow_other_bits: bool) -> Result<(), TrainError> {
    let folder = folder.to_owned();
    for KeyDifference { key, before, now, adjustable } in state::differences(before, now) {
        match (adjustable, allow_other_bits) {
            (true, true) => tracing::warn!("{key} was {before} and is {now}: the bits are not those of the run so far"),
            (true, false) => {
                return Err(TrainError::OtherBits { folder, what: key, before, now, remedy: "set it back" });
            }
            (false, _) => return Err(TrainError::RecipeChanged { folder, key, before, now }),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, Session, World};
    use backend::Description;

    /// Another split of a batch at level `amx`: only where tiles of 32 rows end with a sequence does it leave the bits.
    #[test]
    fn tiles_keep_their_micro_batch_unless_a_sequence_is_whole_tiles() {
        let world = World::new();
        let accepted = |level: &str, sets: &[&str], micro_batch: &str| {
            let state = |sets: &[&str]| {
                let backend = Description { name: "cpu".into(), level: level.into(), threads: 1 };
                State::new(&testing::recipe(sets), "data".into(), "tokenizer".into(), backend)
            };
            let present = state(&[sets, &[micro_batch]].concat());
            match compare(&world.path("run/checkpoints/latest"), &state(sets), &present, false) {
                Ok(()) => true,
                Err(TrainError::OtherBits { what, before, now, .. }) => {
                    assert_eq!((what.as_str(), before.as_str(), now.as_str()), (state::MICRO_BATCH, "2", "1"));
                    assert!(compare(&world.path("run/checkpoints/latest"), &state(sets), &present, true).is_ok());
                    false
                }
                Err(other) => panic!("{other}"),
            }
        };
        world.train("run", &[], &Session::FRESH, Some(1)).unwrap();
        let (same, other) = ("train.micro_batch=2", "train.micro_batch=1");
        let bf16 = "train.precision=bf16";
        assert!(!accepted("amx", &[bf16], other), "a sequence of 16 is half a tile");
        assert!(accepted("amx", &[bf16], same));
        assert!(accepted("amx", &["train.precision=f32"], other), "f32 is not multiplied by tiles");
        assert!(accepted("avx512bf16", &[bf16], other));
        assert!(accepted("amx", &[bf16, "train.sequence=32"], other));
        assert!(accepted("amx", &[bf16, "train.sequence=0"], other), "the context is 32");

        let longer = ["model.context=40", bf16, "train.sequence=0", "train.batch_tokens=80"];
        file::remove_dir_all(&world.path("run")).unwrap();
        world.train("run", &longer, &Session::FRESH, Some(1)).unwrap();
        assert!(!accepted("amx", &longer, other), "a sequence is a context of 40");
    }
}
