//! Text that the build has put on this machine: the packages of Cargo.lock, unpacked in Cargo's home.

use crate::DataError;
use crate::manifest::Input;
use crate::plan::{InputPlan, walk};
use formats::file;
use recipe::Corpus;
use std::path::{Path, PathBuf};

/// Where the text of the build is.
#[derive(Clone, Debug)]
pub struct CorpusPlace {
    /// The content of Cargo.lock: which packages, in which order.
    pub lock: String,
    /// Cargo's home (`$CARGO_HOME`, usually `~/.cargo`).
    pub cargo_home: PathBuf,
}

/// `name` and `version` of the packages that come from a registry, in the order of the file.
fn packages(lock: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let quoted = |line: &str, key: &str| {
        let value = line.strip_prefix(key)?.trim_start().strip_prefix('=')?.trim();
        value.strip_prefix('"')?.strip_suffix('"').map(str::to_owned)
    };
    for entry in lock.split("[[package]]").skip(1) {
        let field = |key| entry.lines().find_map(|line| quoted(line, key));
        if let (Some(name), Some(version), Some(source)) = (field("name"), field("version"), field("source")) {
            // A name that would leave the folder is no package's.
            let plain = |text: &str| !text.contains(['/', '\\']) && !text.contains("..");
            if source.starts_with("registry+") && plain(&name) && plain(&version) {
                found.push((name, version));
            }
        }
    }
    found
}

/// The files of a corpus: packages in the order of Cargo.lock, in each the files by path.
pub(crate) fn inputs(source: &str, corpus: Corpus, place: &CorpusPlace) -> Result<Vec<InputPlan>, DataError> {
    let sources = place.cargo_home.join("registry").join("src");
    let registries = if file::is_dir(&sources) { file::list(&sources)? } else { Vec::new() };
    let mut inputs = Vec::new();
    for (name, version) in packages(&place.lock) {
        let folder = format!("{name}-{version}");
        let Some(package) = registries.iter().map(|registry| registry.join(&folder)).find(|path| file::is_dir(path))
        else {
            continue; // needed on another platform only
        };
        let mut files = Vec::new();
        walk(&package, &mut |path| {
            if wanted(corpus, path) {
                files.push(path.to_owned());
            }
        })?;
        // By the bytes of the path below the package, so that the order is the same on every machine.
        let mut named: Vec<(String, PathBuf)> = files
            .into_iter()
            .filter_map(|path| Some((path.strip_prefix(&package).ok()?.to_str()?.replace('\\', "/"), path)))
            .collect();
        named.sort();
        for (relative, path) in named {
            let entry = Input {
                path: format!("{folder}/{relative}"),
                bytes: file::size_bytes(&path)?,
                modified_ns: None,
                hash: None,
            };
            inputs.push(InputPlan { path, entry });
        }
    }
    if inputs.is_empty() {
        return Err(DataError::NoCorpus { source_name: source.into(), place: sources });
    }
    Ok(inputs)
}

fn wanted(corpus: Corpus, path: &Path) -> bool {
    let ending = path.extension().unwrap_or_default();
    match corpus {
        Corpus::CratesProse => ending == "md" || ending == "rs",
        Corpus::CratesCode => ending == "rs",
    }
}

/// The documentation comments of a Rust source (`///`, `//!`), without their marks; blocks that other lines stand
/// between are set apart by an empty line.
pub(crate) fn doc_comments(source: &[u8]) -> Vec<u8> {
    let mut docs = Vec::new();
    let mut in_block = false;
    for line in source.split(|&byte| byte == b'\n') {
        let line = line.trim_ascii();
        let text =
            line.strip_prefix(b"//!").or_else(|| line.strip_prefix(b"///").filter(|rest| !rest.starts_with(b"/")));
        match text {
            Some(text) => {
                if !in_block && !docs.is_empty() {
                    docs.push(b'\n');
                }
                docs.extend_from_slice(text.strip_prefix(b" ").unwrap_or(text));
                docs.push(b'\n');
            }
            // An attribute between the lines of one comment does not end it.
            None if line.starts_with(b"#[") || line.starts_with(b"#![") => continue,
            None => {}
        }
        in_block = text.is_some();
    }
    docs
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCK: &str = r#"
version = 4

[[package]]
name = "zeta"
version = "1.0.0"
source = "registry+https://example.invalid/index"

[[package]]
name = "own"
version = "0.1.0"

[[package]]
name = "alpha"
version = "2.0.0"
source = "registry+https://example.invalid/index"
checksum = "00"
"#;

    #[test]
    fn packages_come_in_the_order_of_the_lock_file() {
        let names: Vec<String> = packages(LOCK).into_iter().map(|package| package.0).collect();
        assert_eq!(names, ["zeta", "alpha"]);
    }

    #[test]
    fn doc_comments_are_joined() {
        let source = "//! Head.\n//!\n//! More.\nuse x;\n    /// Item\n    #[inline]\n    /// goes on.\n    fn f() {} // not this\n//// nor this\n";
        assert_eq!(doc_comments(source.as_bytes()), b"Head.\n\nMore.\n\nItem\ngoes on.\n");
    }

    #[test]
    fn files_are_found_and_their_absence_is_told() {
        let home = tempfile::tempdir().unwrap();
        let place = CorpusPlace { lock: LOCK.into(), cargo_home: home.path().into() };
        let message = inputs("prose", Corpus::CratesProse, &place).unwrap_err().to_string();
        assert!(message.contains("--text GLOB --code GLOB"), "{message}");
        for name in ["zeta-1.0.0/src/lib.rs", "zeta-1.0.0/README.md", "alpha-2.0.0/src/a.rs", "other-1.0.0/x.rs"] {
            let path = home.path().join("registry/src/index").join(name);
            file::create_dir_all(path.parent().unwrap()).unwrap();
            file::write_bytes(&path, b"text").unwrap();
        }
        let shown = |corpus| {
            let found = inputs("s", corpus, &place).unwrap();
            found.into_iter().map(|input| input.entry.path).collect::<Vec<_>>()
        };
        assert_eq!(
            shown(Corpus::CratesProse),
            ["zeta-1.0.0/README.md", "zeta-1.0.0/src/lib.rs", "alpha-2.0.0/src/a.rs"]
        );
        assert_eq!(shown(Corpus::CratesCode), ["zeta-1.0.0/src/lib.rs", "alpha-2.0.0/src/a.rs"]);
    }
}
