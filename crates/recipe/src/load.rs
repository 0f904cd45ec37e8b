//! Reading a recipe: TOML, `--set` overrides, unknown keys and the nearest known one.

use crate::{Recipe, check};
use std::path::{Path, PathBuf};
use toml_edit::{DocumentMut, Item, Value};

/// Why a recipe was refused.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    /// The file could not be read.
    #[error("{file}: the recipe cannot be read ({source}); give the path of a recipe, for example `recipes/tiny.toml`")]
    Unreadable {
        /// The recipe.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Not TOML, or a value of the wrong type.
    #[error("{file}:{line}:{column}: {message}")]
    Syntax {
        /// The recipe.
        file: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// What the TOML reader said, in one line.
        message: String,
    },
    /// A key that no section has.
    #[error("{file}:{line}:{column}: unknown key `{key}`{}", did_you_mean(nearest.as_deref()))]
    UnknownKey {
        /// The recipe.
        file: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// The key with its section.
        key: String,
        /// The known key that is most like it.
        nearest: Option<String>,
    },
    /// A `--set` that names no key, or has no value.
    #[error("--set {argument}: {reason}{}", did_you_mean(nearest.as_deref()))]
    BadOverride {
        /// What was typed.
        argument: String,
        /// What is wrong with it.
        reason: String,
        /// The known key that is most like it.
        nearest: Option<String>,
    },
    /// A value outside its range, or values that contradict each other.
    #[error("{file}: {key} = {found}: {rule}")]
    OutOfRange {
        /// The recipe.
        file: PathBuf,
        /// The key with its section.
        key: String,
        /// What it says.
        found: String,
        /// What it must be.
        rule: String,
    },
}

fn did_you_mean(nearest: Option<&str>) -> String {
    nearest.map_or_else(
        || "; see `recipes/` for every key there is".to_owned(),
        |nearest| format!("; did you mean `{nearest}`?"),
    )
}

impl Recipe {
    /// Reads the recipe at `file` and applies `overrides` (`train.steps=100`, `data.sources.0.weight=2`).
    ///
    /// # Errors
    /// [`RecipeError`], with line and column where the file is at fault and the argument where an override is.
    pub fn load(file: &Path, overrides: &[String]) -> Result<Self, RecipeError> {
        let text = std::fs::read_to_string(file)
            .map_err(|source| RecipeError::Unreadable { file: file.to_owned(), source })?;
        Self::parse(&text, file, overrides)
    }

    /// Reads a recipe from `text`; `file` is the name used in errors.
    ///
    /// # Errors
    /// As [`Recipe::load`].
    pub fn parse(text: &str, file: &Path, overrides: &[String]) -> Result<Self, RecipeError> {
        let mut document =
            text.parse::<DocumentMut>().map_err(|error| syntax(file, text, error.span(), error.message()))?;
        for argument in overrides {
            apply(&mut document, argument)?;
        }
        // The file is read before the overrides, so that its own faults are told with their place; an override that
        // supplies a missing key is looked at afterwards.
        if let Err(error) = read(text, text, file, &[])
            && (overrides.is_empty() || !is_missing_key(&error))
        {
            return Err(error);
        }
        let recipe = read(&document.to_string(), text, file, overrides)?;
        check::recipe(&recipe, file)?;
        Ok(recipe)
    }

    /// The recipe with every default written out, as TOML.
    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(self)
            .unwrap_or_else(|error| format!("# this recipe cannot be written as TOML: {error}\n"))
    }
}

fn is_missing_key(error: &RecipeError) -> bool {
    matches!(error, RecipeError::Syntax { message, .. } if message.starts_with("missing field"))
}

/// Deserializes `resolved`; places are looked up in `original`, the text that the user wrote.
fn read(resolved: &str, original: &str, file: &Path, overrides: &[String]) -> Result<Recipe, RecipeError> {
    let mut unknown = Vec::new();
    let parsed = toml::Deserializer::parse(resolved).and_then(|deserializer| {
        serde_ignored::deserialize::<_, _, Recipe>(deserializer, |path| unknown.push(path.to_string()))
    });
    if let Some(key) = unknown.first() {
        return Err(unknown_key(key, original, file, overrides));
    }
    parsed.map_err(|error| match (resolved == original, overrides.last()) {
        (false, Some(_)) => RecipeError::BadOverride {
            argument: overrides.join(" --set "),
            reason: one_line(error.message()),
            nearest: None,
        },
        _ => syntax(file, original, error.span(), error.message()),
    })
}

fn unknown_key(key: &str, original: &str, file: &Path, overrides: &[String]) -> RecipeError {
    let nearest = nearest_key(key);
    let typed = overrides.iter().find(|argument| argument.split('=').next() == Some(key));
    if let Some(argument) = typed {
        return RecipeError::BadOverride {
            argument: argument.clone(),
            reason: format!("there is no key `{key}`"),
            nearest,
        };
    }
    let (line, column) = place_of_key(key, original).map_or((1, 1), |at| line_and_column(original, at));
    RecipeError::UnknownKey { file: file.to_owned(), line, column, key: key.to_owned(), nearest }
}

/// Byte offset of the key `a.b.0.c` in `text`.
fn place_of_key(key: &str, text: &str) -> Option<usize> {
    let document = toml_edit::Document::parse(text).ok()?;
    let mut item = document.as_item();
    let mut place = None;
    for part in key.split('.') {
        if let Some(table) = item.as_table_like() {
            let (found, next) = table.get_key_value(part)?;
            place = found.span().map(|span| span.start);
            item = next;
        } else if let Ok(index) = part.parse::<usize>() {
            item = item.get(index)?;
        }
    }
    place
}

fn line_and_column(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

fn syntax(file: &Path, text: &str, span: Option<std::ops::Range<usize>>, message: &str) -> RecipeError {
    let (line, column) = line_and_column(text, span.map_or(0, |span| span.start));
    RecipeError::Syntax { file: file.to_owned(), line, column, message: one_line(message) }
}

/// One line, in the words of a recipe instead of Rust's types.
fn one_line(message: &str) -> String {
    let line = message.split_whitespace().collect::<Vec<_>>().join(" ");
    let Some((found, wanted)) = line.split_once(", expected ") else { return line };
    let wanted = match wanted {
        "u64" | "usize" | "u32" => "a whole number, 0 or more",
        "f64" | "f32" => "a number",
        "a boolean" | "bool" => "true or false",
        "a string" => "text in quotes",
        other => other,
    };
    format!("{found}, expected {wanted}")
}

/// `a.b=c` into the document. The value is TOML if it parses as such, a string otherwise.
fn apply(document: &mut DocumentMut, argument: &str) -> Result<(), RecipeError> {
    let refuse = |reason: &str| RecipeError::BadOverride {
        argument: argument.to_owned(),
        reason: reason.to_owned(),
        nearest: None,
    };
    let (key, value) = argument
        .split_once('=')
        .ok_or_else(|| refuse("write it as `section.key=value`, for example `train.steps=100`"))?;
    let value = value.trim();
    let value = value.parse::<Value>().unwrap_or_else(|_| Value::from(value));
    let mut item = document.as_item_mut();
    let parts = key.trim().split('.').collect::<Vec<_>>();
    if parts.iter().any(|part| part.is_empty()) {
        return Err(refuse("the key has an empty part; write it as `section.key=value`"));
    }
    for part in parts {
        item = match part.parse::<usize>() {
            Ok(index) => element(item, index).ok_or_else(|| refuse("there is no entry of that number"))?,
            Err(_) => {
                if item.is_none() {
                    *item = Item::Table(toml_edit::Table::new());
                }
                let table =
                    item.as_table_like_mut().ok_or_else(|| refuse("a part before the last is not a section"))?;
                table.entry(part).or_insert(Item::None)
            }
        };
    }
    *item = Item::Value(value);
    Ok(())
}

fn element(item: &mut Item, index: usize) -> Option<&mut Item> {
    if item.is_array_of_tables() || item.as_array().is_some_and(|array| index < array.len()) {
        item.get_mut(index)
    } else {
        None
    }
}

/// The known key most like `key`, entries of lists written as they were.
fn nearest_key(key: &str) -> Option<String> {
    let without_numbers = |key: &str| {
        key.split('.').filter(|part| part.parse::<usize>().is_err()).map(str::to_owned).collect::<Vec<_>>().join(".")
    };
    let wanted = without_numbers(key);
    let mut best: Option<(f64, String)> = None;
    for known in known_keys() {
        let likeness = strsim::jaro_winkler(&wanted, &known);
        if best.as_ref().is_none_or(|(score, _)| likeness > *score) {
            best = Some((likeness, known));
        }
    }
    best.filter(|(score, _)| *score > 0.8).map(|(_, known)| known)
}

/// Every key there is, from a recipe in which every optional key is present.
fn known_keys() -> Vec<String> {
    let mut recipe = Recipe {
        run: crate::Run::default(),
        model: crate::ModelShape { from: Some(PathBuf::new()), ..Default::default() },
        tokenizer: crate::TokenizerChoice { path: Some(PathBuf::new()), train_vocab: Some(0), ..Default::default() },
        data: crate::Data { dir: Some(PathBuf::new()), ..Default::default() },
        train: crate::Train { steps: Some(0), tokens: Some(0), ..Default::default() },
        distill: Some(crate::Distill::default()),
    };
    recipe.data.sources.push(crate::Source {
        corpus: Some(crate::Corpus::CratesProse),
        drop_where: vec![crate::DropRule { field: String::new(), equals: String::new() }],
        ..Default::default()
    });
    let mut keys = Vec::new();
    if let Ok(toml::Value::Table(table)) = toml::Value::try_from(&recipe) {
        collect_keys("", &toml::Value::Table(table), &mut keys);
    }
    keys
}

fn collect_keys(prefix: &str, value: &toml::Value, keys: &mut Vec<String>) {
    match value {
        toml::Value::Table(table) => {
            for (name, inner) in table {
                let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
                keys.push(key.clone());
                collect_keys(&key, inner, keys);
            }
        }
        toml::Value::Array(items) => items.iter().for_each(|item| collect_keys(prefix, item, keys)),
        _ => {}
    }
}
