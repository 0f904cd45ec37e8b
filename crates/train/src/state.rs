//! `state.json`: where a run stands at a checkpoint, and what must be the same for it to go on with the same bits.

use crate::TrainError;
use crate::guard::Streak;
use backend::Description;
use formats::file;
use recipe::Recipe;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Name of the file in a checkpoint.
pub(crate) const STATE_FILE: &str = "state.json";

/// The layout of `state.json` that is written, and the only one that is read.
const VERSION: u32 = 1;

/// A state is a few kilobytes, most of them the recipe.
const LIMIT_BYTES: u64 = 16 << 20;

/// Where a run stands. The order of data follows from `step` alone, so nothing else of it is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Layout of this file.
    pub version: u32,
    /// Steps done, skipped ones among them.
    pub step: u64,
    /// Training tokens read.
    pub tokens: u64,
    /// Updates done: steps that were not skipped.
    pub updates: u64,
    /// Skipped steps.
    pub skipped: Streak,
    /// Whether the evaluation after this step is still to be made.
    pub evaluation_due: bool,
    /// Length of `metrics.jsonl`; what follows belongs to steps that will be done again.
    pub metrics_bytes: u64,
    /// BLAKE3 sum of the data's manifest.
    pub data_hash: String,
    /// Hash of the tokenizer.
    pub tokenizer_hash: String,
    /// Who computed, and at which level.
    pub backend: Description,
    /// BLAKE3 sum of `recipe`, without the keys that may change.
    pub recipe_hash: String,
    /// The resolved recipe.
    pub recipe: Value,
    /// BLAKE3 sums of the other files of the checkpoint, by name.
    pub files: BTreeMap<String, String>,
}

impl State {
    /// The state before the first step.
    pub(crate) fn new(recipe: &Recipe, data_hash: String, tokenizer_hash: String, backend: Description) -> Self {
        Self {
            version: VERSION,
            step: 0,
            tokens: 0,
            updates: 0,
            skipped: Streak::default(),
            evaluation_due: false,
            metrics_bytes: 0,
            data_hash,
            tokenizer_hash,
            backend,
            recipe_hash: recipe_hash(recipe),
            recipe: to_value(recipe),
            files: BTreeMap::new(),
        }
    }

    /// Reads the state of a checkpoint.
    ///
    /// # Errors
    /// [`TrainError::State`], [`TrainError::File`].
    pub fn read(checkpoint: &Path) -> Result<Self, TrainError> {
        let path = checkpoint.join(STATE_FILE);
        let refuse = |reason: String| TrainError::State { file: path.clone(), reason };
        let value: Value =
            serde_json::from_slice(&file::read(&path, LIMIT_BYTES)?).map_err(|e| refuse(e.to_string()))?;
        let version = value.get("version").and_then(Value::as_u64);
        if version != Some(u64::from(VERSION)) {
            let found = version.map_or("missing".into(), |version| version.to_string());
            return Err(refuse(format!("its version is {found}, and this program reads version {VERSION}")));
        }
        serde_json::from_value(value).map_err(|e| refuse(e.to_string()))
    }

    /// The file's text.
    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }
}

/// Keys that a resumed run may have otherwise: they change neither weights nor the order of data. (The micro-batch is
/// looked at apart, since it does so in a tied model; data and tokenizer are compared by their sums, not their paths.)
const FREE: [&str; 7] = [
    "run.description",
    "tokenizer.path",
    "data.dir",
    "data.memory_mib",
    "train.evaluation",
    "train.checkpoints",
    "train.max_bad_steps",
];

/// The key that a resumed run may only have otherwise where it leaves the same bits.
pub(crate) const MICRO_BATCH: &str = "train.micro_batch";

/// Keys that a resumed run may have otherwise where its bits need not be those of the uninterrupted run.
const ADJUSTABLE: [&str; 5] = ["train.optimizer", "train.schedule", "train.steps", "train.tokens", "train.precision"];

/// A key of a recipe that differs from that of an earlier session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyDifference {
    pub(crate) key: String,
    pub(crate) before: String,
    pub(crate) now: String,
    /// Whether a run may go on with it, if other bits are accepted.
    pub(crate) adjustable: bool,
}

/// The keys that bind and that differ.
pub(crate) fn differences(before: &Value, now: &Value) -> Vec<KeyDifference> {
    let (before, now) = (binding(before), binding(now));
    let told = |keys: &BTreeMap<String, Value>, key: &String| keys.get(key).map_or("absent".into(), Value::to_string);
    let keys: BTreeSet<&String> = before.keys().chain(now.keys()).collect();
    let differing = keys.into_iter().filter(|key| before.get(*key) != now.get(*key));
    let difference = |key: &String| KeyDifference {
        key: key.clone(),
        before: told(&before, key),
        now: told(&now, key),
        adjustable: is_in(key, &ADJUSTABLE),
    };
    differing.map(difference).collect()
}

/// Whether `key` is one of `sections`, or in one of them.
fn is_in(key: &str, sections: &[&str]) -> bool {
    let holds =
        |section: &&str| key.strip_prefix(*section).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    sections.iter().any(holds)
}

/// Value of `train.micro_batch` in a resolved recipe.
pub(crate) fn micro_batch(recipe: &Value) -> Option<u64> {
    recipe.pointer("/train/micro_batch")?.as_u64()
}

/// Value of `train.sequence` in a resolved recipe: tokens, or 0 for the model's context.
pub(crate) fn sequence(recipe: &Value) -> Option<u64> {
    recipe.pointer("/train/sequence")?.as_u64()
}

/// Whether `train.precision` of a resolved recipe is bf16.
pub(crate) fn is_bf16(recipe: &Value) -> bool {
    recipe.pointer("/train/precision").and_then(Value::as_str) == Some("bf16")
}

/// A recipe as JSON.
pub(crate) fn to_value(recipe: &Recipe) -> Value {
    // A recipe is tables, lists, numbers and text: nothing that JSON cannot hold.
    serde_json::to_value(recipe).unwrap_or_default()
}

fn recipe_hash(recipe: &Recipe) -> String {
    let mut hasher = blake3::Hasher::new();
    for (key, value) in binding(&to_value(recipe)) {
        hasher.update(format!("{key}={value}\n").as_bytes());
    }
    hasher.finalize().to_string()
}

/// The keys of a recipe that bind, with their values.
fn binding(recipe: &Value) -> BTreeMap<String, Value> {
    let mut keys = BTreeMap::new();
    flatten("", recipe, &mut keys);
    keys.retain(|key, _| key != MICRO_BATCH && !is_in(key, &FREE));
    keys
}

fn flatten(prefix: &str, value: &Value, keys: &mut BTreeMap<String, Value>) {
    let name = |part: &str| if prefix.is_empty() { part.to_owned() } else { format!("{prefix}.{part}") };
    match value {
        Value::Object(entries) => entries.iter().for_each(|(key, inner)| flatten(&name(key), inner, keys)),
        Value::Array(items) if items.iter().any(Value::is_object) => {
            items.iter().enumerate().for_each(|(index, inner)| flatten(&name(&index.to_string()), inner, keys));
        }
        _ => {
            keys.insert(prefix.to_owned(), value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn description() -> Description {
        Description { name: "cpu".into(), level: "scalar".into(), threads: 2 }
    }

    #[test]
    fn a_state_reads_back_and_another_version_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mut state = State::new(&testing::recipe(&[]), "d".into(), "t".into(), description());
        state.step = 7;
        let path = folder.path().join(STATE_FILE);
        file::write_bytes(&path, state.to_json().as_bytes()).unwrap();
        assert_eq!(State::read(folder.path()).unwrap(), state);

        state.version = 9;
        file::write_bytes(&path, state.to_json().as_bytes()).unwrap();
        let error = State::read(folder.path()).unwrap_err().to_string();
        assert!(error.contains("its version is 9, and this program reads version 1"), "{error}");
        for broken in ["", "{", "[]", "{\"version\":1}", "null"] {
            file::write_bytes(&path, broken.as_bytes()).unwrap();
            assert!(matches!(State::read(folder.path()), Err(TrainError::State { .. })), "{broken}");
        }
    }

    #[test]
    fn a_recipe_tells_how_its_gradients_are_summed() {
        let told = |sets: &[&str]| {
            let recipe = to_value(&testing::recipe(sets));
            (sequence(&recipe), is_bf16(&recipe))
        };
        assert_eq!(told(&["train.precision=bf16"]), (Some(16), true));
        assert_eq!(told(&["train.precision=f32", "train.sequence=0"]), (Some(0), false));
    }

    #[test]
    fn only_keys_that_bind_are_compared() {
        let before = testing::recipe(&[]);
        let differing = |overrides: &[&str]| differences(&to_value(&before), &to_value(&testing::recipe(overrides)));
        let free = [
            "run.description=x",
            "train.micro_batch=1",
            "train.evaluation.every_steps=7",
            "train.checkpoints.keep_last=9",
        ];
        assert_eq!(differing(&free), []);
        assert_eq!(recipe_hash(&before), recipe_hash(&testing::recipe(&free)));
        let found = differing(&["train.optimizer.beta1=0.5", "data.sources.0.weight=2.0"]);
        let told =
            found.iter().map(|difference| (difference.key.as_str(), difference.now.as_str(), difference.adjustable));
        let expected = [("data.sources.0.weight", "2.0", false), ("train.optimizer.beta1", "0.5", true)];
        assert_eq!(told.collect::<Vec<_>>(), expected);
        assert_ne!(recipe_hash(&before), recipe_hash(&testing::recipe(&["run.seed=5"])));
    }
}
