//! What the tests of several modules need: a small recipe, small shards, a backend.

use crate::distill::Teacher;
use crate::{Event, Inputs, Resume, Summary, Tokenizer, TrainError};
use backend::Backend;
use formats::file;
use infer::DraftVocabulary;
use recipe::Recipe;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

const RECIPE: &str = r#"
[run]
seed = 3
[model]
vocab = 64
width = 32
layers = 2
heads = 4
kv_heads = 2
ffn_width = 48
context = 32
init = "gpt2"
[tokenizer]
path = "tokenizer.json"
[data]
[[data.sources]]
name = "text"
files = ["*.txt"]
[train]
sequence = 16
batch_tokens = 64
micro_batch = 2
steps = 6
precision = "f32"
[train.schedule]
learning_rate = 1e-2
warmup_steps = 2
[train.evaluation]
every_steps = 3
prompts = ["ab"]
sample_tokens = 4
[train.checkpoints]
every_steps = 2
every_minutes = 0
keep_last = 2
"#;

/// A recipe of six steps for a model of a few thousand weights.
pub(crate) fn recipe(overrides: &[&str]) -> Recipe {
    let overrides: Vec<String> = overrides.iter().map(|&argument| argument.to_owned()).collect();
    Recipe::parse(RECIPE, Path::new("test.toml"), &overrides).unwrap()
}

/// The same without a tokenizer, for a draft: rounds of four sequences, every two steps.
pub(crate) fn draft_recipe(overrides: &[&str]) -> Recipe {
    let text = RECIPE.replace("[tokenizer]\npath = \"tokenizer.json\"\n", "")
        + "[distill]\ntop_k = 8\nround_sequences = 4\nround_steps = 2\nheldout_prompts = 4\nheldout_tokens = 6\n";
    let overrides: Vec<String> = overrides.iter().map(|&argument| argument.to_owned()).collect();
    Recipe::parse(&text, Path::new("draft.toml"), &overrides).unwrap()
}

/// Shards, a tokenizer's folder, and runs on them, in a folder that goes away.
pub(crate) struct World {
    folder: tempfile::TempDir,
}

pub(crate) const TOKENIZER_HASH: &str = "tokenizer";
const VOCAB: u32 = 64;

impl World {
    pub(crate) fn new() -> Self {
        let world = Self { folder: tempfile::tempdir().unwrap() };
        file::create_dir_all(&world.path("tokenizer")).unwrap();
        file::write_bytes(&world.path("tokenizer/tokenizer.json"), b"{}").unwrap();
        write_shards(&world.path("data"));
        world
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Trains [`recipe`] with `overrides` in the folder `name`. `watch` sees every event and may set the flag.
    pub(crate) fn train_watched(
        &self,
        name: &str,
        overrides: &[&str],
        session: &Session,
        watch: &dyn Fn(&Event<'_>, &AtomicBool),
    ) -> Result<Summary, TrainError> {
        self.train_on(&cpu::Cpu::new(session.threads, None).unwrap(), name, overrides, session, watch)
    }

    /// [`World::train_watched`] on a backend that is there.
    pub(crate) fn train_on(
        &self,
        b: &dyn Backend,
        name: &str,
        overrides: &[&str],
        session: &Session,
        watch: &dyn Fn(&Event<'_>, &AtomicBool),
    ) -> Result<Summary, TrainError> {
        self.run_recipe(b, name, &recipe(overrides), None, session, watch)
    }

    /// Trains any recipe; a draft's with its teacher.
    pub(crate) fn run_recipe(
        &self,
        b: &dyn Backend,
        name: &str,
        recipe: &Recipe,
        teacher: Option<&Teacher<'_>>,
        session: &Session,
        watch: &dyn Fn(&Event<'_>, &AtomicBool),
    ) -> Result<Summary, TrainError> {
        let encode = |text: &str| text.bytes().map(|byte| u32::from(byte) % VOCAB).collect();
        let decode = |ids: &[u32]| ids.iter().map(|&id| char::from(b'0' + (id % 64) as u8)).collect();
        let folder = self.path("tokenizer");
        let data = self.path("data");
        let inputs = Inputs {
            data: &data,
            tokenizer: Tokenizer {
                folder: &folder,
                hash: TOKENIZER_HASH,
                vocab: teacher.and_then(|teacher| teacher.vocabulary).map_or(VOCAB as usize, DraftVocabulary::len),
                bos: Some(1),
                eos: Some(2),
                encode: &encode,
                decode: &decode,
            },
            peak_flops: Some(1e9),
            allow_other_bits: session.allow_other_bits,
            teacher,
        };
        let stop = AtomicBool::new(false);
        let mut observer = |event: &Event<'_>| watch(event, &stop);
        let resume = session.resume.clone();
        crate::run(b, recipe, &self.path(name), resume, &inputs, &mut observer, &stop)
    }

    /// Trains until the end, or until step `stop_at` is done.
    pub(crate) fn train(
        &self,
        name: &str,
        overrides: &[&str],
        session: &Session,
        stop_at: Option<u64>,
    ) -> Result<Summary, TrainError> {
        self.train_watched(name, overrides, session, &|event, stop| {
            if let Event::Step { step, .. } = event
                && Some(*step) == stop_at
            {
                stop.store(true, Ordering::Relaxed);
            }
        })
    }

    /// What must be equal bit for bit: metrics, and weights and moments of the newest checkpoint.
    pub(crate) fn bits(&self, name: &str) -> [Vec<u8>; 3] {
        let latest = self.path(name).join("checkpoints/latest");
        let files = [
            self.path(name).join("metrics.jsonl"),
            latest.join("model.safetensors"),
            latest.join("optimizer.safetensors"),
        ];
        files.map(|path| file::read(&path, u64::MAX).unwrap())
    }
}

/// How a session of a run is begun.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) threads: usize,
    pub(crate) resume: Resume,
    pub(crate) allow_other_bits: bool,
}

impl Session {
    pub(crate) const FRESH: Self = Self { threads: 1, resume: Resume::No, allow_other_bits: false };
    pub(crate) const RESUMED: Self = Self { threads: 1, resume: Resume::Auto, allow_other_bits: false };
}

/// One source of a few hundred tokens with a pattern in them, a tenth of it held out, documents ending with id 2.
fn write_shards(folder: &Path) {
    let ids = |from: u32, count: u32| -> Vec<u32> {
        (from..from + count).map(|i| if i % 37 == 36 { 2 } else { 3 + (i * i / 5 + i % 7) % (VOCAB - 3) }).collect()
    };
    let part = |name: &str, ids: &[u32]| {
        let file = format!("text/{name}-0.bin");
        let header = data::write_shard(&folder.join(&file), ids, u64::from(VOCAB), TOKENIZER_HASH).unwrap();
        let hash = blake3::Hash::from_bytes(header.payload_hash).to_hex().to_string();
        let shards = vec![data::ShardEntry { file, tokens: ids.len() as u64, hash }];
        let tally = data::Tally { documents: 1, bytes: 3 * ids.len() as u64, tokens: ids.len() as u64 };
        (data::PartEntry { text_bytes: tally.bytes, shards }, tally)
    };
    file::create_dir_all(&folder.join("text")).unwrap();
    let (train, train_tally) = part("train", &ids(0, 700));
    let (validation, validation_tally) = part("validation", &ids(700, 75));
    let read = data::Tally { documents: 2, bytes: 3 * 775, tokens: 775 };
    let account = data::Account { read, train: train_tally, validation: validation_tally, ..Default::default() };
    let source = data::SourceEntry {
        name: "text".into(),
        stopped_at_max_bytes: false,
        account,
        train,
        validation,
        inputs: Vec::new(),
    };
    let manifest = serde_json::json!({
        "format": "slm-tokens",
        "version": 1,
        "tokenizer_hash": TOKENIZER_HASH,
        "vocab": VOCAB,
        "dtype": data::Dtype::for_vocab(u64::from(VOCAB)),
        "separator": data::SeparatorIds { rule: recipe::Separator::Eos, bos: None, eos: Some(2) },
        "recipe": recipe(&[]).data,
        "sources": [source],
    });
    file::write_bytes(&folder.join(data::MANIFEST_FILE), manifest.to_string().as_bytes()).unwrap();
}
