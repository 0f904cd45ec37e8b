//! The real, dirty data beside the repository; skipped where it is not there.

use super::Scene;
use crate::*;
use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::path::PathBuf;

/// The folder `shared` beside the repository, or where `SLM_SHARED` says.
fn shared(below: &str) -> Option<PathBuf> {
    let beside = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().map(|folder| folder.join("shared"));
    let mut places = std::env::var("SLM_SHARED").ok().map(PathBuf::from).into_iter().chain(beside);
    let found = places.find(|place| place.join(below).exists()).map(|place| place.join(below));
    if found.is_none() {
        println!("skipped: {below} is not beside the repository");
    }
    found
}

/// Lines of the manifest of the data set: file, line, kind.
fn dirt(folder: &std::path::Path) -> Vec<(String, usize, String)> {
    let mut text = String::new();
    let file = std::fs::File::open(folder.join("manifest.tsv.gz")).unwrap();
    flate2::read::MultiGzDecoder::new(file).read_to_string(&mut text).unwrap();
    let mut rows = text.lines().map(|line| line.split('\t').collect::<Vec<_>>());
    let head = rows.next().unwrap();
    let column = |name: &str| head.iter().position(|other| *other == name).unwrap();
    let (file, line, kind) = (column("file"), column("line"), column("kind"));
    rows.map(|row| (row[file].to_owned(), row[line].parse().unwrap(), row[kind].to_owned())).collect()
}

#[test]
fn every_exact_copy_in_slimpajama_is_dropped_and_nothing_else() {
    let Some(folder) = shared("data/slimpajama") else { return };
    let mut scene = Scene::new();
    scene.data.shard_tokens = 1 << 24;
    let glob = |part: &str| vec![folder.join(part).join("**/*.jsonl.zst").display().to_string()];
    for (name, split) in [("train", recipe::Split::Train), ("validation", recipe::Split::Validation)] {
        let files = glob(name);
        scene.data.sources.push(recipe::Source { name: name.into(), files, split, ..Default::default() });
    }
    let manifest = scene.prepare("out", 2).unwrap();
    manifest.verify(&scene.path("out")).unwrap();
    let kinds = dirt(&folder);
    let count = |kind: &str| kinds.iter().filter(|row| row.2 == kind).count() as u64;
    let dropped = |reason| {
        let tallies = manifest.sources.iter().filter_map(|source| source.account.dropped.get(&reason));
        tallies.map(|tally| tally.documents).sum::<u64>()
    };
    let read: u64 = manifest.sources.iter().map(|source| source.account.read.documents).sum();
    assert_eq!(read, kinds.len() as u64);
    println!("duplicates {}, dirt {:?}", dropped(Reason::Duplicate), manifest.sources[0].account.dropped);

    // What is byte-equal, by comparing all texts that pass the filters with each other.
    let mut seen = HashSet::new();
    let mut copies = HashMap::<bool, u64>::new();
    for (name, is_validation) in [("train", false), ("validation", true)] {
        let data = recipe::Data {
            sources: vec![recipe::Source { name: name.into(), files: glob(name), ..Default::default() }],
            validation_fraction: 0.0,
            ..Default::default()
        };
        for text in sample_texts(&data, u64::MAX, None).unwrap() {
            if !seen.insert(*blake3::hash(text.as_bytes()).as_bytes()) {
                *copies.entry(is_validation).or_default() += 1;
            }
        }
    }
    assert_eq!(dropped(Reason::Duplicate), copies.values().sum::<u64>());
    assert!(dropped(Reason::Duplicate) >= count("dup_exact") + count("dup_exact_natural"));
    let leaked = manifest.sources[1].account.dropped[&Reason::Duplicate].documents;
    assert_eq!(leaked, copies[&true]);
    assert!(leaked >= 17, "{leaked}"); // those that the set puts into validation on purpose
}

#[test]
fn real_parquet_columns_are_read() {
    let (Some(books), Some(code)) = (shared("data/gutenberg"), shared("data/starcoder")) else { return };
    let mut scene = Scene::new();
    scene.data.shard_tokens = 1 << 24;
    let first = |folder: &std::path::Path, name: &str| vec![folder.join(name).display().to_string()];
    let english = recipe::DropRule { field: "METADATA.language".into(), equals: "en".into() };
    scene.data.sources.push(recipe::Source {
        name: "books".into(),
        files: first(&books, "train-00000-of-00003.parquet"),
        text: "TEXT".into(),
        drop_where: vec![english],
        ..Default::default()
    });
    let message = scene.prepare("nothing", 2).unwrap_err().to_string();
    assert!(message.contains("of 41 read, 41 drop_rule"), "{message}"); // all are English: the JSON column was entered
    for (source, files, text) in [
        ("manu", first(&books, "manu_style/*.parquet"), "text"),
        ("code", first(&code, "python/train-00000-of-00003.parquet"), "content"),
    ] {
        scene.data.sources =
            vec![recipe::Source { name: source.into(), files, text: text.into(), ..Default::default() }];
        let manifest = scene.prepare(source, 2).unwrap();
        let account = &manifest.sources[0].account;
        assert_eq!(account.train.documents + account.validation.documents, account.read.documents, "{account:?}");
    }
}
