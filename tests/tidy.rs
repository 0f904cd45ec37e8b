//! The house rules that a machine can check: who may import whom, where `unsafe` may stand, how long a file and a
//! function may be, and that the documents name files that exist.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Who may import whom (ARCHITECTURE.md, "Rooms"); the binary may import everything.
const EDGES: [(&str, &[&str]); 11] = [
    ("backend", &[]),
    ("cpu", &["backend", "formats"]),
    ("formats", &[]),
    ("tokenizer", &["formats"]),
    ("model", &["backend", "formats"]),
    ("recipe", &["model"]),
    ("data", &["tokenizer", "recipe", "formats"]),
    ("infer", &["backend", "model", "tokenizer"]),
    ("eval", &["model", "infer", "tokenizer", "formats"]),
    ("train", &["backend", "model", "data", "recipe", "infer", "formats"]),
    ("bench", &["backend", "cpu", "model", "infer", "train"]),
];

/// Most lines of code (neither blank nor comment, before the tests) in a file.
const FILE_LINES: usize = 400;
/// Most lines of a function.
const FUNCTION_LINES: usize = 70;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files() -> Vec<(String, String)> {
    let mut files = Vec::new();
    for entry in walkdir::WalkDir::new(root().join("crates")).sort_by_file_name() {
        let entry = entry.expect("the crates folder can be walked");
        if entry.path().extension().is_some_and(|ending| ending == "rs") {
            let name = entry.path().strip_prefix(root()).expect("below the root").display().to_string();
            files.push((name, std::fs::read_to_string(entry.path()).expect("a source file")));
        }
    }
    assert!(files.len() > 50, "the sources were not found");
    files
}

#[test]
fn crates_import_only_what_they_may() {
    let metadata = cargo_metadata::MetadataCommand::new().no_deps().exec().expect("cargo metadata");
    let ours = metadata.packages.iter().map(|package| package.name.to_string()).collect::<BTreeSet<_>>();
    let allowed = EDGES.iter().map(|(name, edges)| (*name, *edges)).collect::<BTreeMap<_, _>>();
    for package in &metadata.packages {
        if package.name == "slm" {
            continue;
        }
        let edges =
            allowed.get(package.name.as_str()).unwrap_or_else(|| panic!("{} is a room without edges", package.name));
        for dependency in &package.dependencies {
            let normal = dependency.kind == cargo_metadata::DependencyKind::Normal;
            if normal && ours.contains(&dependency.name) {
                assert!(
                    edges.contains(&dependency.name.as_str()),
                    "crate `{}` imports `{}`, which DESIGN does not allow",
                    package.name,
                    dependency.name
                );
            }
        }
    }
    assert_eq!(ours.len(), EDGES.len() + 1);
}

#[test]
fn unsafe_stands_in_two_rooms_only() {
    for (name, text) in rust_files() {
        let allowed = name.starts_with("crates/cpu/") || name == "crates/formats/src/file/mapped.rs";
        // What stands between quotation marks is no code: a flag has the word in its name.
        let code = |line: &str| line.split('"').step_by(2).collect::<String>();
        let uses = text.lines().any(|line| !line.trim_start().starts_with("//") && has_word(&code(line), "unsafe"));
        assert!(
            allowed || !uses,
            "{name}: unsafe code lives in `cpu` and in the one function of `formats::file` that maps a file"
        );
    }
}

fn has_word(line: &str, word: &str) -> bool {
    line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|part| part == word)
}

#[test]
fn files_can_be_read_in_one_sitting() {
    let mut long = Vec::new();
    for (name, text) in rust_files() {
        let before_tests = text.split("#[cfg(test)]").next().unwrap_or(&text);
        let code =
            before_tests.lines().filter(|line| !line.trim().is_empty() && !line.trim_start().starts_with("//")).count();
        if code > FILE_LINES && !name.contains("/tests") {
            long.push(format!("{name}: {code} lines of code"));
        }
    }
    assert!(long.is_empty(), "longer than {FILE_LINES} lines of code:\n{}", long.join("\n"));
}

#[test]
fn functions_do_one_thing() {
    let mut long = Vec::new();
    // Tests are exempt, as in the rule above: a list of cases is not made clearer by cutting it.
    for (name, text) in rust_files().into_iter().filter(|(name, _)| !name.contains("/tests")) {
        let before_tests = text.split("#[cfg(test)]").next().unwrap_or(&text);
        let lines = before_tests.lines().collect::<Vec<_>>();
        for (start, line) in lines.iter().enumerate() {
            if !is_function_start(line) {
                continue;
            }
            let indent = line.len() - line.trim_start().len();
            let close = format!("{}}}", " ".repeat(indent));
            let signature_ends =
                lines[start..].iter().position(|line| line.trim_end().ends_with(['{', ';', '}'])).unwrap_or(0);
            if lines[start + signature_ends].trim_end().ends_with(['}', ';']) {
                continue;
            }
            let length = lines[start..].iter().position(|line| **line == close).map_or(0, |end| end + 1);
            if length > FUNCTION_LINES {
                long.push(format!("{name}:{}: {length} lines", start + 1));
            }
        }
    }
    assert!(long.is_empty(), "longer than {FUNCTION_LINES} lines:\n{}", long.join("\n"));
}

fn is_function_start(line: &str) -> bool {
    let line = line.trim_start();
    let line =
        ["pub(crate) ", "pub(super) ", "pub "].iter().find_map(|prefix| line.strip_prefix(prefix)).unwrap_or(line);
    ["fn ", "const fn ", "unsafe fn ", "async fn "].iter().any(|start| line.starts_with(start))
}

/// Words in back-ticks that look like a path of this repository must be one.
#[test]
fn documents_name_files_that_exist() {
    let tops = ["crates/", "recipes/", "docs/", "records/", "fuzz/", "tests/", ".ci/"];
    for document in
        ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "docs/BENCHMARKS.md", "docs/numerics.md", "docs/profile.md"]
    {
        let text = std::fs::read_to_string(root().join(document)).unwrap_or_else(|error| panic!("{document}: {error}"));
        for word in text.split('`').skip(1).step_by(2) {
            let path = word.split([' ', ':']).next().unwrap_or(word);
            let pattern = path.contains(['*', '<', '{', '…', '$', 'X']);
            if tops.iter().any(|top| path.starts_with(top)) && !pattern {
                assert!(Path::new(&root().join(path)).exists(), "{document} names `{path}`, which does not exist");
            }
        }
    }
}
