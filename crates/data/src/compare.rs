//! Is what a folder holds the same as what is wanted? If not, which field differs.

use crate::DataError;
use crate::journal::{Head, Journal};
use crate::manifest::{Input, Manifest};
use crate::plan::SourcePlan;
use crate::read;
use std::path::Path;

/// A field in which what a folder holds differs from what is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Which field (`tokenizer_hash`, `recipe.min_chars` …).
    pub field: String,
    /// What the folder has.
    pub found: String,
    /// What is wanted.
    pub wanted: String,
}

/// The data section without what does not change the shards.
pub(crate) fn normalized(data: &recipe::Data) -> recipe::Data {
    let mut data = recipe::Data { dir: None, memory_mib: recipe::Data::default().memory_mib, ..data.clone() };
    data.sources.iter_mut().for_each(|source| source.weight = 0.0);
    data
}

/// Where two normalized data sections differ, field by field.
fn recipe_differences(found: &recipe::Data, wanted: &recipe::Data) -> Vec<Difference> {
    let tree = |data| serde_json::to_value(data).unwrap_or_default();
    let mut differences = Vec::new();
    compare("recipe", &tree(found), &tree(wanted), &mut differences);
    differences
}

fn compare(field: &str, found: &serde_json::Value, wanted: &serde_json::Value, out: &mut Vec<Difference>) {
    use serde_json::Value::{Array, Null, Object};
    match (found, wanted) {
        (Object(left), Object(right)) => {
            let keys: std::collections::BTreeSet<&String> = left.keys().chain(right.keys()).collect();
            for key in keys {
                let [left, right] = [left, right].map(|map| map.get(key).unwrap_or(&Null));
                compare(&format!("{field}.{key}"), left, right, out);
            }
        }
        (Array(left), Array(right)) if left.len() == right.len() => {
            for (index, (left, right)) in left.iter().zip(right).enumerate() {
                compare(&format!("{field}.{index}"), left, right, out);
            }
        }
        _ if found == wanted => {}
        _ => out.push(Difference { field: field.into(), found: found.to_string(), wanted: wanted.to_string() }),
    }
}

/// Where the settings of two preparations differ.
pub(crate) fn head_differences(found: &Head, wanted: &Head) -> Vec<Difference> {
    let mut differences = Vec::new();
    for (field, found, wanted) in [
        ("tokenizer_hash", found.tokenizer_hash.clone(), wanted.tokenizer_hash.clone()),
        ("vocab", found.vocab.to_string(), wanted.vocab.to_string()),
        ("separator", format!("{:?}", found.separator), format!("{:?}", wanted.separator)),
    ] {
        if found != wanted {
            differences.push(Difference { field: field.into(), found, wanted });
        }
    }
    differences.extend(recipe_differences(&found.recipe, &wanted.recipe));
    differences
}

/// Where the inputs of a finished preparation differ from those that are there now. Files of another time are hashed.
pub(crate) fn manifest_differences(
    manifest: &Manifest,
    plans: &[SourcePlan<'_>],
) -> Result<Vec<Difference>, DataError> {
    let mut differences = Vec::new();
    for (source, plan) in manifest.sources.iter().zip(plans) {
        if source.inputs.len() != plan.inputs.len() {
            differences.push(Difference {
                field: format!("sources.{}.inputs", source.name),
                found: format!("{} files", source.inputs.len()),
                wanted: format!("{} files", plan.inputs.len()),
            });
        }
        for (found, wanted) in source.inputs.iter().zip(&plan.inputs) {
            if found.path == wanted.entry.path && found.bytes == wanted.entry.bytes {
                let touched = found.modified_ns != wanted.entry.modified_ns;
                match &found.hash {
                    Some(hash) if touched && *hash != read::hash_file(&wanted.path)? => {}
                    _ => continue,
                }
            }
            differences.push(input_difference(&source.name, found, &wanted.entry));
        }
    }
    Ok(differences)
}

fn input_difference(source: &str, found: &Input, wanted: &Input) -> Difference {
    let show = |input: &Input| format!("{} of {} bytes", input.path, input.bytes);
    let (mut found, wanted) = (show(found), show(wanted));
    if found == wanted {
        found += ", with another content";
    }
    Difference { field: format!("sources.{source}.inputs"), found, wanted }
}

/// That what a journal speaks of is what is wanted now. Files that were not reached may have changed.
pub(crate) fn check_same(
    journal: &Journal,
    head: &Head,
    plans: &[SourcePlan<'_>],
    out: &Path,
) -> Result<(), DataError> {
    let mut differences = head_differences(&journal.head, head);
    if differences.is_empty() {
        let read = journal.done.iter().map(|source| &source.inputs).chain([&journal.current.inputs]);
        for (inputs, plan) in read.zip(plans) {
            let same = |found: &Input, wanted: &Input| {
                found.path == wanted.path && found.bytes == wanted.bytes && found.modified_ns == wanted.modified_ns
            };
            let nothing = Input { path: "nothing".into(), bytes: 0, modified_ns: None, hash: None };
            for (index, found) in inputs.iter().enumerate() {
                let wanted = plan.inputs.get(index).map_or(&nothing, |input| &input.entry);
                if !same(found, wanted) {
                    differences.push(input_difference(&plan.source.name, found, wanted));
                }
            }
        }
    }
    if differences.is_empty() { Ok(()) } else { Err(DataError::OtherData { dir: out.into(), differences }) }
}
