//! What the program says: its help, and why it refuses. The pages in `tests/snapshots/` are meant to be read; after a
//! change that is wanted, `INSTA_UPDATE=always cargo test --test end_to_end messages` writes them anew.

use crate::support::{Lab, documents, refusal};
use std::fmt::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Refusals on one page.
#[derive(Default)]
struct Page(String);

impl Page {
    fn add(&mut self, what: &str, sentence: &str) {
        writeln!(self.0, "{what}\n    {sentence}").expect("a string can be written");
    }

    fn refused(&mut self, lab: &Lab, what: &str, args: &[&str]) {
        self.add(what, &lab.refused(args));
    }

    fn compare(&self, name: &str) {
        // What differs between machines: the folder's name, what a full disk cut short, levels.
        let filters = vec![
            (r"/\S*/\.tmp\w+/", "FOLDER/"),
            (r"step-\d+\.\w{6}\.partial/\w+", "step-NUMBER.RANDOM.partial/FILE"),
            (r"this machine has .*", "this machine has LEVELS"),
        ];
        insta::with_settings!({filters => filters, prepend_module_to_snapshot => false, omit_expression => true}, {
            insta::assert_snapshot!(name, self.0);
        });
    }
}

/// A zstd frame with one raw block, written by hand; short by a few bytes.
fn truncated_zst() -> Vec<u8> {
    let text = b"{\"text\": \"a document that is long enough\"}\n";
    let header = ((text.len() as u32) << 3 | 1).to_le_bytes();
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x20, text.len() as u8];
    frame.extend_from_slice(&header[..3]);
    frame.extend_from_slice(&text[..text.len() - 9]);
    frame
}

#[test]
fn every_command_explains_itself() {
    let lab = Lab::new();
    let mut page = String::new();
    for command in [
        "",
        "quickstart",
        "prepare",
        "decontaminate",
        "tokenizer",
        "tokenizer train",
        "tokenizer encode",
        "tokenizer decode",
        "tokenizer show",
        "train",
        "distill",
        "plan",
        "score",
        "eval",
        "compare",
        "generate",
        "export",
        "bench",
        "bench kernels",
        "bench train",
        "bench prefill",
        "bench decode",
        "bench verify",
    ] {
        let args = command.split_whitespace().chain(["--help"]).collect::<Vec<_>>();
        let output = lab.command(&args).env("COLUMNS", "100").output().expect("the program starts");
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        let help = String::from_utf8(output.stdout).expect("UTF-8");
        let lines = help.lines().map(str::trim_end).collect::<Vec<_>>().join("\n");
        write!(page, "$ slm {}\n{lines}\n\n", args.join(" ")).expect("a string can be written");
    }
    insta::with_settings!({prepend_module_to_snapshot => false, omit_expression => true}, {
        insta::assert_snapshot!("help", page);
    });
}

#[test]
fn recipes_are_refused_with_line_and_column() {
    let lab = Lab::new();
    let recipe = String::from_utf8(lab.read("recipe.toml")).expect("UTF-8");
    let mut page = Page::default();
    for (what, old, new) in [
        ("unknown key", "micro_batch = 8", "micro_bach = 8"),
        ("unknown section", "[train.schedule]", "[train.shedule]"),
        ("text where a number belongs", "steps = 40", "steps = \"many\""),
        ("a value that does not exist", "kind = \"wsd\"", "kind = \"wds\""),
        ("out of range", "micro_batch = 8", "micro_batch = 0"),
        ("not TOML", "width = 32", "width = = 32"),
        ("heads that do not divide", "kv_heads = 2", "kv_heads = 3"),
        ("no file matches", "text/*.jsonl", "texts/*.jsonl"),
        ("a vocabulary that no tokenizer can have", "train_vocab = 400", "train_vocab = 2"),
    ] {
        let broken = recipe.replace(old, new);
        assert_ne!(broken, recipe, "{what}");
        lab.write("broken.toml", broken);
        page.refused(&lab, what, &["train", "broken.toml", "--out", "run"]);
        assert!(!lab.path("run/checkpoints").exists(), "{what}");
    }
    let train = ["train", "recipe.toml", "--out", "run"];
    page.refused(&lab, "no recipe", &["train", "recpie.toml"]);
    page.refused(&lab, "no sources", &[&train[..], &["--set", "data.sources=[]"]].concat());
    page.refused(&lab, "--set of an unknown key", &[&train[..], &["--set", "train.step=3"]].concat());
    page.refused(&lab, "--set of the wrong type", &[&train[..], &["--set", "train.steps=x"]].concat());
    page.refused(&lab, "--set without a value", &[&train[..], &["--set", "train.steps"]].concat());
    page.compare("refused_recipes");
}

#[test]
fn texts_are_refused_or_counted() {
    let lab = Lab::new();
    let recipe = String::from_utf8(lab.read("recipe.toml")).expect("UTF-8");
    let mut page = Page::default();
    let mut case = |what: &str, file: &str, bytes: &[u8]| {
        lab.write(file, bytes);
        lab.write("case.toml", recipe.replace("text/*.jsonl", file));
        page.refused(&lab, what, &["prepare", "case.toml", "--out", "case"]);
        assert!(!lab.path("case/tokens/manifest.json").exists(), "{what}: a manifest was written");
        let _ = std::fs::remove_dir_all(lab.path("case"));
    };
    case("an empty file", "bad/empty.txt", b"");
    case("truncated zst", "bad/short.jsonl.zst", &truncated_zst());
    case("truncated gz", "bad/short.jsonl.gz", &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 1, 9]);
    case("truncated parquet", "bad/short.parquet", b"PAR1 and then nothing of use");
    case("lines without text", "bad/key.jsonl", b"{\"txt\": \"a document\"}\n");
    page.compare("refused_texts");

    lab.write("bad/latin.txt", b"caf\xe9 au lait, for documents that are not UTF-8");
    lab.write(
        "case.toml",
        recipe.replace("\"text/*.jsonl\"", "\"text/*.jsonl\", \"bad/latin.txt\", \"bad/line.jsonl\""),
    );
    lab.write("bad/line.jsonl", "{\"text\": \n");
    let manifest = lab.json(&["prepare", "case.toml", "--out", "counted", "--json"]);
    for reason in ["invalid_utf8", "bad_json"] {
        assert_eq!(manifest["sources"][0]["account"]["dropped"][reason]["documents"], 1, "{reason}: {manifest}");
    }
}

#[test]
fn models_are_refused_by_their_files() {
    let lab = Lab::trained();
    let mut page = Page::default();
    lab.ok(&["export", "--model", "run", "--to", "gguf", "--out", "good.gguf"]);
    lab.ok(&["export", "--model", "run", "--to", "hf", "--out", "good"]);
    let gguf = lab.read("good.gguf");
    let patched = |at: usize, bytes: &[u8]| {
        let mut gguf = gguf.clone();
        gguf[at..at + bytes.len()].copy_from_slice(bytes);
        gguf
    };
    let generate = |model| ["generate", "--model", model, "--prompt", "Ke"];
    page.refused(&lab, "no such model", &generate("nowhere"));
    page.refused(&lab, "not a model", &generate("recipe.toml"));
    page.refused(&lab, "a folder without a model", &generate("text"));
    for (what, bytes) in [
        ("GGUF: half a file", gguf[..gguf.len() / 2].to_vec()),
        ("GGUF: only a header", gguf[..24].to_vec()),
        ("GGUF: a count of tensors that lies", patched(8, &u64::MAX.to_le_bytes())),
        ("GGUF: a few tensors too many", patched(8, &[200])),
        ("GGUF: a count of keys that lies", patched(16, &(1u64 << 40).to_le_bytes())),
        ("GGUF: a version from the future", patched(4, &99u32.to_le_bytes())),
    ] {
        lab.write("bad.gguf", bytes);
        page.refused(&lab, what, &generate("bad.gguf"));
    }
    let weights = lab.read("good/model.safetensors");
    lab.write("good/model.safetensors", &weights[..weights.len() / 2]);
    page.refused(&lab, "safetensors: half a file", &generate("good"));
    lab.write("good/model.safetensors", u64::MAX.to_le_bytes());
    page.refused(&lab, "safetensors: a header length that lies", &generate("good"));
    lab.write("good/model.safetensors", &weights);
    let config = String::from_utf8(lab.read("good/config.json")).expect("UTF-8");
    let wide = config.replace("\"hidden_size\": 32", "\"hidden_size\": 48");
    assert_ne!(config, wide);
    lab.write("good/config.json", wide);
    page.refused(&lab, "weights of another shape than config.json", &generate("good"));
    lab.write("good/config.json", config.replace("\"vocab_size\": 400", "\"vocab_size\": 300"));
    page.refused(&lab, "a vocabulary that is larger than the model's", &generate("good"));
    let long = "Balo ke mi. ".repeat(100);
    page.refused(&lab, "a prompt longer than the context", &["generate", "--model", "run", "--prompt", &long]);
    lab.write("ids.json", "[1, 2, 70000]");
    page.refused(&lab, "an id outside the vocabulary", &["score", "--model", "run", "--ids", "ids.json"]);
    page.refused(&lab, "the same in a prompt", &["generate", "--model", "run", "--prompt-ids", "ids.json"]);
    lab.write("ids.json", "[1]");
    page.refused(&lab, "too few ids", &["score", "--model", "run", "--ids", "ids.json"]);
    lab.write("ids.json", "1 2 3");
    page.refused(&lab, "ids that are not JSON", &["score", "--model", "run", "--ids", "ids.json"]);
    page.refused(&lab, "a draft that is missing", &[&generate("run")[..], &["--speculate", "draft"]].concat());
    page.refused(&lab, "off and on at once", &[&generate("run")[..], &["--speculate", "off,suffix"]].concat());
    let five_steps = ["train", "recipe.toml", "--set", "train.steps=5"];
    lab.ok(&[&five_steps[..], &["--out", "large", "--set", "model.width=48"]].concat());
    page.refused(&lab, "a draft larger than its target", &[&generate("run")[..], &["--draft", "large"]].concat());
    let other = ["--set", "tokenizer.kind=sentencepiece", "--set", "data.dir=other", "--set", "model.width=16"];
    lab.ok(&[&five_steps[..], &["--out", "foreign"], &other].concat());
    page.refused(&lab, "a draft of another tokenizer", &[&generate("run")[..], &["--draft", "foreign"]].concat());
    page.compare("refused_models");
}

#[test]
fn tasks_are_refused_by_their_files() {
    let lab = Lab::trained();
    let mut page = Page::default();
    let eval = |task: &'static str| ["eval", "--model", "run", "--data", "data", "--out", "out", "--tasks", task];
    let document = "{\"question\": \"ke\", \"support\": \"\", \"distractor1\": \"a\", \"distractor2\": \"b\", \"distractor3\": \"c\", \"correct_answer\": \"d\"}\n";
    let good = "task: mine\ndataset_path: sciq\noutput_type: generate_until\ntest_split: test\ndoc_to_text: question\ndoc_to_target: correct_answer\nmetric_list: [{metric: exact_match}]\n";
    lab.write("data/sciq/test.jsonl", document.repeat(3));
    for (what, old, new) in [
        ("an unknown field", "doc_to_text", "doc_to_txt"),
        ("an unknown kind", "generate_until", "generate_untill"),
        ("a metric of another kind", "exact_match", "acc"),
        ("a metric that runs programs", "exact_match", "pass_at_k"),
        ("a Python function", "doc_to_text: question", "doc_to_text: !function utils.text"),
        ("an unknown filter", "metric_list", "filter_list: [{name: f, filter: [{function: regx}]}]\nmetric_list"),
        ("a bad pattern", "metric: exact_match", "metric: exact_match, regexes_to_ignore: ['(']"),
        ("an unknown setting", "metric_list", "generation_kwargs: {beams: 4}\nmetric_list"),
        ("a column that is not there", "doc_to_text: question", "doc_to_text: '{{questions}} {{support}}'"),
        ("a split that is not there", "test_split: test", "test_split: dev"),
    ] {
        lab.write("mine.yaml", good.replace(old, new));
        page.refused(&lab, what, &[&eval("mine")[..], &["--task-file", "mine.yaml"]].concat());
    }
    page.refused(&lab, "an unknown task", &eval("sqic"));
    lab.write("data/sciq/test.jsonl", document.replace("distractor2", "distractor"));
    page.refused(&lab, "a data file without a column", &eval("sciq"));
    lab.write("data/sciq/test.jsonl", &document[..40]);
    page.refused(&lab, "a line cut short", &eval("sciq"));
    std::fs::remove_file(lab.path("data/sciq/test.jsonl")).expect("it is there");
    lab.write("data/sciq/test.jsonl.gz", [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 1, 9]);
    page.refused(&lab, "a truncated archive", &eval("sciq"));
    lab.write("data/sciq/test.jsonl", document.repeat(3));
    for split in ["test", "train"] {
        lab.write(&format!("data/gsm8k/{split}.jsonl"), "{\"question\": \"ke\", \"answer\": \"1\"}\n".repeat(9));
    }
    page.refused(&lab, "more text than the context holds", &[&eval("gsm8k")[..], &["--max-gen-toks", "64"]].concat());
    lab.write("data/sciq/train.jsonl", document.repeat(40));
    let output = lab.run(&[&eval("sciq")[..], &["--fewshot", "20"]].concat());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    page.add(
        "examples that do not fit (a note)",
        said.lines().find(|line| line.contains("cut")).unwrap_or_default().trim(),
    );
    let results: serde_json::Value = serde_json::from_slice(&lab.read("out/results.json")).expect("JSON");
    assert_eq!(results["config"]["truncated_requests"]["sciq"], 12);
    // A vocabulary with nothing but ordinary tokens.
    let own = lab.files("run").into_iter().find(|(name, _)| name.ends_with("tokenizer.json")).expect("a tokenizer");
    let mut tokenizer: serde_json::Value = serde_json::from_slice(&own.1).expect("JSON");
    tokenizer["added_tokens"] = serde_json::json!([]);
    tokenizer["post_processor"] = serde_json::Value::Null;
    lab.write("bare/tokenizer.json", tokenizer.to_string());
    page.refused(&lab, "a vocabulary without ends", &[&eval("sciq")[..], &["--tokenizer", "bare"]].concat());
    let find = ["decontaminate", "text/a.jsonl", "--data", "data", "--tasks"];
    page.refused(&lab, "items that are not there", &[&find[..], &["piqa"]].concat());
    page.compare("refused_tasks");
}

#[test]
fn runs_are_not_mixed_up() {
    let lab = Lab::trained();
    let before = lab.files("run");
    let mut page = Page::default();
    let train = ["train", "recipe.toml", "--out", "run"];
    let resume = [&train[..], &["--resume", "auto"]].concat();
    page.refused(&lab, "a folder that holds a run", &train);
    page.refused(&lab, "a checkpoint of another shape", &[&resume[..], &["--set", "model.width=64"]].concat());
    page.refused(&lab, "another learning rate", &[&resume[..], &["--set", "train.schedule.warmup_steps=4"]].concat());
    page.refused(&lab, "a checkpoint that is missing", &[&train[..], &["--resume", "nowhere"]].concat());
    page.refused(&lab, "a folder below a file", &["train", "recipe.toml", "--out", "recipe.toml/run"]);
    page.refused(&lab, "a folder that cannot be written", &["train", "recipe.toml", "--out", "/proc/run"]);
    page.refused(&lab, "shards below a file", &["prepare", "recipe.toml", "--out", "recipe.toml/data"]);
    page.refused(&lab, "a model with fewer ids than the tokenizer", &{
        ["train", "recipe.toml", "--out", "small", "--set", "model.vocab=300"]
    });
    let other = ["train", "recipe.toml", "--out", "other", "--set", "tokenizer.train_vocab=500"];
    page.refused(&lab, "another tokenizer than the folder's", &other);
    lab.ok(&["tokenizer", "train", "--vocab", "500", "--out", "tok", "text/a.jsonl"]);
    let recipe = String::from_utf8(lab.read("recipe.toml")).expect("UTF-8");
    lab.write("named.toml", recipe.replace("train_vocab = 400", "path = \"tok\""));
    page.refused(&lab, "shards of another tokenizer", &["train", "named.toml", "--out", "other"]);
    page.refused(
        &lab,
        "a folder that holds a tokenizer",
        &["tokenizer", "train", "--vocab", "500", "--out", "tok", "text/a.jsonl"],
    );
    let export = ["export", "--model", "run", "--to", "hf", "--out", "text"];
    page.refused(&lab, "an export onto something", &export);
    let shard = lab.read("data/tokens/prose/train-00000.bin");
    lab.write("data/tokens/prose/train-00000.bin", &shard[..shard.len() / 2]);
    page.refused(&lab, "a truncated shard", &["train", "recipe.toml", "--out", "other"]);
    assert!(lab.files("run") == before, "a refusal changed the run");
    page.compare("refused_runs");
}

#[test]
fn levels_and_usage_have_their_exit_codes() {
    let lab = Lab::new();
    let mut page = Page::default();
    for level in ["nonsense", "amx"] {
        if cpu::available().iter().any(|available| available.to_string() == level) {
            println!("skipped: this machine has {level}");
            return;
        }
        let output = lab.command(&["plan", "recipe.toml", "--no-probe"]).env("SLM_CPU", level).output();
        page.add(&format!("SLM_CPU={level}"), &refusal(&output.expect("the program starts"), level));
    }
    for args in
        [&["nonsense"][..], &["train"], &["generate", "--model", "run"], &["train", "recipe.toml", "--threads", "0"]]
    {
        let output = lab.run(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(stderr.starts_with("error: ") && stderr.contains("--help"), "{stderr}");
    }
    page.compare("refused_levels");
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let lab = Lab::new();
    lab.ok(&["prepare", "recipe.toml"]);
    let script = format!(
        "'{}' tokenizer encode --tokenizer data/tokenizer --jsonl --file text/a.jsonl | head -1",
        crate::support::SLM
    );
    let output = Command::new("sh").args(["-c", &script]).current_dir(lab.path("")).output().expect("a shell");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert!(output.stdout.starts_with(b"{\"ids\":["));
}

/// A file system of one MiB; gone with the value.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(folder: PathBuf) -> Option<Self> {
        std::fs::create_dir_all(&folder).ok()?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(&folder);
        mount_quietly(&mut mount).then(|| Self(folder))
    }
}

fn mount_quietly(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        mount_quietly(Command::new("umount").arg(&self.0));
    }
}

#[test]
fn a_full_disk_leaves_what_was_there() {
    let lab = Lab::new();
    let Some(_disk) = SmallDisk::mount(lab.path("disk")) else {
        println!("skipped: a small file system can be mounted by root only");
        return;
    };
    lab.ok(&["prepare", "recipe.toml"]);
    let mut page = Page::default();
    page.refused(&lab, "a checkpoint on a full disk", &["train", "recipe.toml", "--out", "disk/run"]);
    lab.ok(&["generate", "--model", "disk/run", "--prompt", "Ke", "--max-tokens", "5"]);
    let export = ["export", "--model", "disk/run", "--to", "gguf", "--out", "disk/model.gguf"];
    lab.write("text/long.jsonl", documents(9, 3_000_000));
    std::fs::write(lab.path("disk/ballast"), vec![0; 300_000]).unwrap_or_default();
    page.refused(&lab, "an export on a full disk", &export);
    page.refused(&lab, "shards on a full disk", &["prepare", "recipe.toml", "--out", "disk/data"]);
    assert!(!lab.path("disk/model.gguf").exists() && !lab.path("disk/data/tokens/manifest.json").exists());
    std::fs::remove_file(lab.path("disk/ballast")).unwrap_or_default();
    lab.ok(&["generate", "--model", "disk/run", "--prompt", "Ke", "--max-tokens", "5"]);
    page.compare("refused_full_disk");
}
