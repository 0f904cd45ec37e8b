//! A folder with text, a recipe and the program in it, as a user would have them.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

/// The program under test.
pub(crate) const SLM: &str = env!("CARGO_BIN_EXE_slm");

/// Steps of the recipe.
pub(crate) const STEPS: usize = 40;

const RECIPE: &str = r#"[run]
seed = 3

[model]
width = 32
layers = 2
heads = 4
kv_heads = 2
ffn_width = 64
context = 64
tied = true

[tokenizer]
train_vocab = 400
train_bytes = 200000

[data]
dir = "data"
validation_fraction = 0.05

[[data.sources]]
name = "prose"
files = ["text/*.jsonl"]

[train]
batch_tokens = 1024
micro_batch = 8
steps = 40
precision = "f32"

[train.schedule]
kind = "wsd"
learning_rate = 6e-3
warmup_steps = 3

[train.evaluation]
every_steps = 20
tokens = 2048

[train.checkpoints]
every_steps = 5
every_minutes = 0
keep_last = 2
"#;

/// A small generator, so that texts and moments are the same on every machine.
pub(crate) struct Random(pub u64);

impl Random {
    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// Documents of invented words, each a line of JSON, `bytes` in all.
pub(crate) fn documents(seed: u64, bytes: usize) -> String {
    const SYLLABLES: [&str; 12] = ["ba", "ke", "lo", "mi", "nu", "ra", "se", "ti", "vo", "za", "é", "schn"];
    let mut random = Random(seed);
    let mut dictionary = Random(7);
    let words = (0..300)
        .map(|_| (0..1 + dictionary.below(3)).map(|_| SYLLABLES[dictionary.below(12) as usize]).collect::<String>())
        .collect::<Vec<_>>();
    let mut text = String::new();
    while text.len() < bytes {
        text.push_str("{\"text\": \"");
        for _ in 0..8 + random.below(20) {
            for _ in 0..3 + random.below(6) {
                // Few words are frequent, many are rare, as in a language.
                let rank = random.below(300).min(random.below(300)).min(random.below(300));
                text.push_str(&words[rank as usize]);
                text.push(' ');
            }
            text.pop();
            text.push_str(". ");
        }
        text.push_str("\"}\n");
    }
    text
}

/// The user's folder; commands run in it, so that paths in messages are the same everywhere.
pub(crate) struct Lab {
    folder: tempfile::TempDir,
}

impl Lab {
    /// Text and a recipe.
    pub(crate) fn new() -> Self {
        let lab = Self { folder: tempfile::tempdir().expect("a temporary folder") };
        lab.write("text/a.jsonl", documents(1, 150_000));
        lab.write("text/b.jsonl", documents(2, 100_000));
        lab.write("recipe.toml", RECIPE);
        lab
    }

    /// Text, a recipe, and the finished run `run`.
    pub(crate) fn trained() -> Self {
        let lab = Self::new();
        lab.ok(&["train", "recipe.toml", "--out", "run"]);
        lab
    }

    /// A path in the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file, its folder included.
    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder can be made");
        std::fs::write(path, bytes).expect("a file can be written");
    }

    /// The bytes of a file.
    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// The program, to be run in the folder.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(SLM);
        command.args(args).current_dir(self.folder.path()).env_remove("SLM_LOG").stdin(Stdio::null());
        command.env("XDG_CACHE_HOME", self.folder.path().join("cache"));
        command
    }

    /// Starts the program and leaves it running.
    pub(crate) fn start(&self, args: &[&str]) -> Child {
        self.command(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts")
    }

    /// Runs the program to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("the program starts")
    }

    /// What it printed; it must succeed.
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "slm {}: {}\n{stderr}", args.join(" "), output.status);
        String::from_utf8(output.stdout).expect("the program prints UTF-8")
    }

    /// The last line it printed, as JSON; it must succeed.
    pub(crate) fn json(&self, args: &[&str]) -> serde_json::Value {
        let printed = self.ok(args);
        let line = printed.lines().last().unwrap_or_default();
        serde_json::from_str(line).unwrap_or_else(|error| panic!("slm {}: {error}: {line}", args.join(" ")))
    }

    /// The program with something on its standard input; it must succeed.
    pub(crate) fn filter(&self, args: &[&str], input: &str) -> String {
        let done = assert_cmd::Command::from_std(self.command(args)).write_stdin(input).unwrap();
        String::from_utf8(done.stdout).expect("the program prints UTF-8")
    }

    /// The error of a command that must fail: exit code 1, and one sentence as the last line.
    pub(crate) fn refused(&self, args: &[&str]) -> String {
        refusal(&self.run(args), &args.join(" "))
    }

    /// Files below `name`, locks excepted, with their contents.
    pub(crate) fn files(&self, name: &str) -> Vec<(PathBuf, Vec<u8>)> {
        let root = self.path(name);
        let mut files = Vec::new();
        for entry in walkdir::WalkDir::new(&root).sort_by_file_name() {
            let entry = entry.expect("a folder can be walked");
            if entry.file_type().is_file() && entry.file_name() != ".lock" {
                let inside = entry.path().strip_prefix(&root).expect("below the root").to_owned();
                files.push((inside, std::fs::read(entry.path()).expect("a file can be read")));
            }
        }
        files
    }

    /// Whether two folders hold the same files; says the first that differs.
    pub(crate) fn assert_same_files(&self, one: &str, other: &str) {
        let (one_files, other_files) = (self.files(one), self.files(other));
        let names = |files: &[(PathBuf, Vec<u8>)]| files.iter().map(|file| file.0.clone()).collect::<Vec<_>>();
        assert_eq!(names(&one_files), names(&other_files), "{one} and {other} hold different files");
        for ((name, bytes), (_, others)) in one_files.iter().zip(&other_files) {
            assert!(bytes == others, "{} differs between {one} and {other}", name.display());
        }
    }

    /// Whether two finished runs are the same to the bit.
    pub(crate) fn assert_same_run(&self, one: &str, other: &str) {
        let last = format!("checkpoints/step-{STEPS:08}");
        for file in
            [format!("{last}/model.safetensors"), format!("{last}/optimizer.safetensors"), "metrics.jsonl".into()]
        {
            let same = self.read(&format!("{one}/{file}")) == self.read(&format!("{other}/{file}"));
            assert!(same, "{file} differs between {one} and {other}");
        }
    }
}

/// Checks the form of a refusal, and returns its sentence.
pub(crate) fn refusal(output: &Output, command: &str) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "slm {command}: {stderr}");
    assert!(!stderr.contains("panicked"), "slm {command}: {stderr}");
    let errors = stderr.lines().filter(|line| line.starts_with("error: ")).collect::<Vec<_>>();
    assert_eq!(errors.len(), 1, "slm {command}: not one error but {}:\n{stderr}", errors.len());
    assert_eq!(stderr.lines().last(), errors.first().copied(), "slm {command}: something behind the error:\n{stderr}");
    errors[0].to_owned()
}

/// Waits until the run in `folder` has written the metrics of `steps` steps, or the program has ended.
pub(crate) fn wait_for_steps(child: &mut Child, folder: &Path, steps: usize) {
    let metrics = folder.join("metrics.jsonl");
    loop {
        let done = std::fs::read(&metrics).map_or(0, |bytes| bytes.iter().filter(|byte| **byte == b'\n').count());
        if done >= steps || child.try_wait().expect("the program can be waited for").is_some() {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
