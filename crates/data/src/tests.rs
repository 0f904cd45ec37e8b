//! Preparing and loading, as the command line does them.

mod inputs;
mod real;
mod restart;

use crate::*;
use formats::file;
use recipe::{Data, Source};
use std::path::{Path, PathBuf};
use tokenizer::Tokenizer;

/// A byte-level vocabulary of the 256 bytes and an end token (id 256).
pub(crate) fn bytes_tokenizer() -> Tokenizer {
    // GPT-2's table: printable bytes stand for themselves, the others for characters from U+0100 on.
    let printable = |byte: u32| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let mut other = 0x100;
    let mut vocab = serde_json::Map::new();
    for byte in 0..256u32 {
        let character = if printable(byte) {
            byte
        } else {
            other += 1;
            other - 1
        };
        vocab.insert(char::from_u32(character).unwrap().to_string(), byte.into());
    }
    vocab.insert("<|endoftext|>".into(), 256.into());
    let json = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "added_tokens": [{"id": 256, "content": "<|endoftext|>", "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true}],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": []}
    });
    Tokenizer::from_json_bytes(json.to_string().as_bytes()).unwrap()
}

pub(crate) struct Scene {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) data: Data,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let data = Data { validation_fraction: 0.2, shard_tokens: 1 << 10, ..Data::default() };
        Self { dir: tempfile::tempdir().unwrap(), data }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn file(&self, name: &str, bytes: &[u8]) -> &Self {
        let path = self.path(name);
        file::create_dir_all(path.parent().unwrap()).unwrap();
        file::write_bytes(&path, bytes).unwrap();
        self
    }

    pub(crate) fn source(&mut self, name: &str, glob: &str) -> &mut Source {
        let files = vec![self.path(glob).display().to_string()];
        self.data.sources.push(Source { name: name.into(), files, ..Source::default() });
        self.data.sources.last_mut().unwrap()
    }

    pub(crate) fn prepare(&self, out: &str, threads: usize) -> Result<Manifest, DataError> {
        let options = PrepareOptions { threads, ..PrepareOptions::default() };
        prepare(&self.data, &bytes_tokenizer(), &self.path(out), &options)
    }
}

/// Every file of a folder with its content, but for the lock.
pub(crate) fn content(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    plan::walk(folder, &mut |path| {
        let name = path.strip_prefix(folder).unwrap().display().to_string();
        if name != ".lock" {
            files.push((name, file::read(path, 1 << 30).unwrap()));
        }
    })
    .unwrap();
    files
}

fn dirty_lines(count: usize) -> Vec<u8> {
    let mut lines = String::new();
    for index in 0..count {
        lines.push_str(&match index % 10 {
            0 => format!("{{\"text\": \"document {}\"}}\n", index % 50),
            1 => "not json\n".into(),
            2 => "{\"other\": 1}\n".into(),
            3 => "{\"text\": 5}\n".into(),
            4 => "{\"text\": \"with \\u0000 nul\"}\n".into(),
            5 => "\n".into(),
            6 => format!("{{\"meta\": {{\"set\": \"Book\"}}, \"text\": \"book {index}\"}}\n"),
            _ => format!("{{\"text\": \"the {index}th of them\\nwith a line\", \"meta\": {{\"set\": \"Web\"}}}}\n"),
        });
    }
    lines.into_bytes()
}

#[test]
fn dirty_lines_are_counted_under_their_reasons() {
    let mut scene = Scene::new();
    scene.file("in/a.jsonl", &dirty_lines(1000));
    scene.source("web", "in/*.jsonl").drop_where =
        vec![recipe::DropRule { field: "meta.set".into(), equals: "Book".into() }];
    let manifest = scene.prepare("out", 2).unwrap();
    let account = &manifest.sources[0].account;
    let dropped = |reason| account.dropped.get(&reason).map_or(0, |tally| tally.documents);
    assert_eq!(account.read.documents, 900); // blank lines are no documents
    assert_eq!(dropped(Reason::BadJson), 100);
    assert_eq!(dropped(Reason::MissingText), 100);
    assert_eq!(dropped(Reason::TextNotString), 100);
    assert_eq!(dropped(Reason::Nul), 100);
    assert_eq!(dropped(Reason::DropRule), 100);
    assert_eq!(dropped(Reason::Duplicate), 95);
    assert_eq!(account.train.documents + account.validation.documents, 305);
    assert!(account.places[&Reason::BadJson][0].ends_with("a.jsonl:2"));
    manifest.verify(&scene.path("out")).unwrap();
    assert!(manifest.tokens(Part::Validation) > 0);
}

#[test]
fn threads_do_not_change_a_byte() {
    let mut scene = Scene::new();
    for file in ["in/a.jsonl", "in/b.jsonl", "in/c.jsonl"] {
        scene.file(file, &dirty_lines(3000));
    }
    scene.file("in/x.txt", b"a text").file("in/y.txt", b"another text").file("in/z.md", b"a text");
    scene.source("lines", "in/*.jsonl");
    scene.source("texts", "in/*.{txt,md}");
    scene.prepare("one", 1).unwrap();
    scene.prepare("four", 4).unwrap();
    assert!(content(&scene.path("one")) == content(&scene.path("four")));
}

#[test]
fn samples_are_windows_of_the_stream() {
    let mut scene = Scene::new();
    scene.data.validation_fraction = 0.0;
    scene.file("in/a.jsonl", &dirty_lines(400));
    scene.source("web", "in/*.jsonl");
    scene.prepare("out", 2).unwrap();
    let loader = Loader::open(&scene.path("out"), &weights(&scene.data), 16, 1).unwrap();
    let mut predicted = 0;
    let mut seen = std::collections::HashSet::new();
    for index in 0..loader.samples_per_epoch() {
        let sample = loader.sample(index).unwrap();
        assert_eq!((sample.tokens.len(), sample.first_key.len()), (17, 16));
        for (position, &first) in sample.first_key.iter().enumerate() {
            let ends = &sample.tokens[first as usize..position];
            assert!(!ends.contains(&256), "{sample:?}");
            assert!(first == 0 || sample.tokens[first as usize - 1] == 256);
        }
        assert!(seen.insert(loader.draw(index).sample));
        predicted += sample.targets().len() as u64;
    }
    assert_eq!(predicted + loader.tokens_left_out(), loader.train_tokens());
}

#[test]
fn validation_predicts_every_token_once_in_one_order() {
    let mut scene = Scene::new();
    scene.file("a/a.jsonl", &dirty_lines(300)).file("b/b.txt", &[b'b'; 500]).file("c/c.txt", b"some text to train on");
    scene.source("a", "a/*.jsonl");
    scene.source("b", "b/*.txt").split = recipe::Split::Validation;
    scene.source("c", "c/*.txt").split = recipe::Split::Train;
    scene.prepare("out", 2).unwrap();
    let loader = Loader::open(&scene.path("out"), &weights(&scene.data), 16, 1).unwrap();
    let all: Vec<Sample> = loader.validation_samples(0).collect::<Result<_, _>>().unwrap();
    assert_eq!(all.len() as u64, loader.validation_len(0));
    let predicted: usize = all.iter().map(|sample| sample.targets().len()).sum();
    assert_eq!(predicted as u64, loader.manifest().tokens(Part::Validation) - 2); // the first of each source
    assert!(all.iter().all(|sample| sample.tokens.len() >= 2));
    let some: Vec<Sample> = loader.validation_samples(64).collect::<Result<_, _>>().unwrap();
    assert_eq!(some.len(), 4);
    assert!(some.iter().all(|sample| all.contains(sample)));
    assert_eq!(some, loader.validation_samples(64).collect::<Result<Vec<_>, _>>().unwrap());
    assert!(unigram_entropy(&scene.path("out"), Part::Validation).unwrap() > 0.5);
}

#[test]
fn weights_mix_sources_and_unfit_tokenizers_are_refused() {
    let mut scene = Scene::new();
    scene.data.validation_fraction = 0.0;
    scene.file("a/a.txt", &[b'a'; 2000]).file("b/b.txt", &[b'b'; 200]);
    scene.source("a", "a/*.txt").weight = 1.0;
    scene.source("b", "b/*.txt").weight = 3.0;
    let manifest = scene.prepare("out", 2).unwrap();
    let open = |sequence| Loader::open(&scene.path("out"), &weights(&scene.data), sequence, 1);
    let loader = open(16).unwrap();
    let from_b = (0..400).filter(|&index| loader.draw(index).source == 1).count();
    assert_eq!(from_b, 300);
    assert!(loader.sample(1_000_000).unwrap().tokens.iter().all(|&id| id < 257));
    let message = open(300).unwrap_err().to_string();
    assert!(message.contains("b has 201 training tokens"), "{message}");
    manifest.check(bytes_tokenizer().hash(), 257).unwrap();
    let message = manifest.check("another", 257).unwrap_err().to_string();
    assert!(message.contains("`tokenizer_hash`") && message.contains("another"), "{message}");
    let message = manifest.check(bytes_tokenizer().hash(), 256).unwrap_err().to_string();
    assert!(message.contains("`vocab` is 257"), "{message}");
}

#[test]
fn damaged_manifests_are_refused() {
    let mut scene = Scene::new();
    scene.file("a.txt", b"a text");
    scene.source("s", "a.txt").split = recipe::Split::Train;
    scene.prepare("out", 1).unwrap();
    let bytes = file::read(&scene.path("out/manifest.json"), 1 << 20).unwrap();
    let text = String::from_utf8(bytes).unwrap();
    let told = |text: &str| Manifest::from_bytes(text.as_bytes()).unwrap_err().to_string();
    assert!(told(&text[..100]).contains("not a manifest"));
    assert!(told(&text.replacen("\"version\": 1", "\"version\": 9", 1)).contains("version 9"));
    assert!(told(&text.replacen("\"documents\": 1", "\"documents\": 2", 1)).contains("documents is 2, but 1"));
    assert!(told(&text.replacen("s/train-00000.bin", "../train-00000.bin", 1)).contains("not a path below"));
    for end in (0..text.len()).step_by(7) {
        assert!(Manifest::from_bytes(&text.as_bytes()[..end]).is_err());
    }
    file::remove_file(&scene.path("out/s/train-00000.bin")).unwrap();
    assert!(Manifest::load(&scene.path("out")).unwrap_err().to_string().contains("train-00000.bin"));
}
