//! Vocabulary → the files that transformers reads.

use std::collections::HashSet;
use std::path::Path;

use formats::file;
use serde_json::{Map, Value, json};

use crate::problem::{Problem, TokenizerError};
use crate::vocabulary::{Family, PieceKind, Prefix, Vocabulary};
use crate::{Original, Tokenizer};

impl Tokenizer {
    /// Writes `tokenizer.json` and `tokenizer_config.json` into a folder that exists, so that transformers loads the
    /// same tokenizer; and `tokenizer.model` if it was loaded from one. Files that it was loaded from are written as
    /// they were.
    pub fn save(&self, dir: &Path) -> Result<(), TokenizerError> {
        let refused = |name: &str| {
            let file = dir.join(name);
            move |problem| TokenizerError::Refused { file, problem }
        };
        let Original { json, model, settings, chat_template } = &self.original;
        let json = match json {
            Some(json) => json.clone(),
            None => self.to_json_bytes().map_err(refused("tokenizer.json"))?,
        };
        file::write_bytes(&dir.join("tokenizer.json"), &json)?;
        let made = || {
            let mut made = settings_json(&self.vocabulary);
            if let Some(template) = chat_template {
                made["chat_template"] = Value::from(template.as_str());
            }
            pretty(&made)
        };
        let settings = settings.clone().unwrap_or_else(made);
        file::write_bytes(&dir.join("tokenizer_config.json"), &settings)?;
        if let Some(model) = model {
            file::write_bytes(&dir.join("tokenizer.model"), model)?;
        }
        Ok(())
    }

    /// The content of a `tokenizer.json` for this vocabulary.
    pub fn to_json_bytes(&self) -> Result<Vec<u8>, Problem> {
        let why = "its scores have ties, or pieces that its single characters do not reach";
        let scored = self.vocabulary.merges.is_empty() && !self.vocabulary.scores.is_empty();
        if scored && self.vocabulary.family == Family::Spaced && self.vocabulary.has_long_pieces() {
            return Err(Problem::NotWritable { target: "tokenizer.json", why });
        }
        Ok(pretty(&tokenizer_json(&self.vocabulary)))
    }
}

fn pretty(value: &Value) -> Vec<u8> {
    let mut text = format!("{value:#}");
    text.push('\n');
    text.into_bytes()
}

fn spelling(vocabulary: &Vocabulary, id: Option<u32>) -> Value {
    id.map_or(Value::Null, |id| Value::from(vocabulary.pieces[id as usize].text.as_str()))
}

/// `tokenizer_config.json`.
fn settings_json(vocabulary: &Vocabulary) -> Value {
    let mut settings = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": vocabulary.adds_bos,
        "add_eos_token": vocabulary.adds_eos,
        "clean_up_tokenization_spaces": false,
    });
    let tokens = [("bos_token", vocabulary.bos), ("eos_token", vocabulary.eos), ("unk_token", vocabulary.unknown)];
    for (key, id) in tokens {
        if id.is_some() {
            settings[key] = spelling(vocabulary, id);
        }
    }
    settings
}

fn tokenizer_json(vocabulary: &Vocabulary) -> Value {
    let piece = |id: u32| vocabulary.pieces[id as usize].text.as_str();
    // A word that is spelled like a special token must not become it where whole words skip the merges.
    let hidden: HashSet<u32> =
        if vocabulary.ignore_merges { vocabulary.added.iter().map(|token| token.id).collect() } else { HashSet::new() };
    let mut vocab = Map::new();
    for (piece, id) in vocabulary.pieces.iter().zip(0u32..) {
        if piece.kind != PieceKind::Unused && !hidden.contains(&id) {
            vocab.entry(piece.text.clone()).or_insert_with(|| Value::from(id));
        }
    }
    let merges: Vec<Value> =
        vocabulary.merges.iter().map(|&(left, right)| json!([piece(left), piece(right)])).collect();
    let added: Vec<Value> = vocabulary
        .added
        .iter()
        .map(|token| {
            json!({
                "id": token.id, "content": token.text, "single_word": token.single_word, "lstrip": token.strip_left,
                "rstrip": token.strip_right, "normalized": false, "special": token.special,
            })
        })
        .collect();
    let (normalizer, pre_tokenizer, decoder) = steps_json(vocabulary);
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": template_json(vocabulary),
        "decoder": decoder,
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": spelling(vocabulary, vocabulary.unknown),
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": vocabulary.fuse_unknown,
            "byte_fallback": vocabulary.byte_fallback,
            "ignore_merges": vocabulary.ignore_merges,
            "vocab": vocab,
            "merges": merges,
        },
    })
}

/// Normalizer, pre-tokenizer and decoder.
fn steps_json(vocabulary: &Vocabulary) -> (Value, Value, Value) {
    if vocabulary.family == Family::ByteLevel {
        let mut pre = vocabulary.pre_tokenizer.clone();
        if vocabulary.prefix != Prefix::Never {
            put_prefix(&mut pre);
        }
        let decoder = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
        return (vocabulary.normalizer.clone(), pre, decoder);
    }
    let replace = |from: &str, to: &str| json!({"type": "Replace", "pattern": {"String": from}, "content": to});
    let sequence = |key: &str, steps: Vec<Value>| json!({"type": "Sequence", key: steps});
    let metaspace = |scheme: &str| {
        let split = !vocabulary.pre_tokenizer.is_null();
        json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": scheme, "split": split})
    };
    let mark = replace(" ", "\u{2581}");
    let prepend = json!({"type": "Prepend", "prepend": "\u{2581}"});
    let (normalizer, pre) = match vocabulary.prefix {
        Prefix::Always => (sequence("normalizers", vec![prepend, mark]), Value::Null),
        Prefix::Never if vocabulary.pre_tokenizer.is_null() => (sequence("normalizers", vec![mark]), Value::Null),
        Prefix::Never => (Value::Null, metaspace("never")),
        Prefix::UnlessSpaced => (Value::Null, metaspace("always")),
        Prefix::FirstUnlessSpaced => (Value::Null, metaspace("first")),
    };
    let mut decoders = vec![replace("\u{2581}", " "), json!({"type": "ByteFallback"}), json!({"type": "Fuse"})];
    if vocabulary.prefix != Prefix::Never {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    (normalizer, pre, sequence("decoders", decoders))
}

/// Sets `add_prefix_space` of the first ByteLevel step.
fn put_prefix(pre: &mut Value) -> bool {
    if pre["type"] == "ByteLevel" {
        pre["add_prefix_space"] = json!(true);
        return true;
    }
    pre.get_mut("pretokenizers").and_then(Value::as_array_mut).is_some_and(|steps| steps.iter_mut().any(put_prefix))
}

/// The post-processor that puts begin and end tokens around a text, or null.
fn template_json(vocabulary: &Vocabulary) -> Value {
    let bos = vocabulary.bos.filter(|_| vocabulary.adds_bos);
    let eos = vocabulary.eos.filter(|_| vocabulary.adds_eos);
    if bos.is_none() && eos.is_none() {
        return Value::Null;
    }
    let special =
        |id: u32, text: usize| json!({"SpecialToken": {"id": spelling(vocabulary, Some(id)), "type_id": text}});
    let around = |name: &str, text: usize| {
        let mut parts: Vec<Value> = bos.map(|id| special(id, text)).into_iter().collect();
        parts.push(json!({"Sequence": {"id": name, "type_id": text}}));
        parts.extend(eos.map(|id| special(id, text)));
        parts
    };
    let mut tokens = Map::new();
    for id in [bos, eos].into_iter().flatten() {
        let text = vocabulary.pieces[id as usize].text.clone();
        tokens.insert(text.clone(), json!({"id": text, "ids": [id], "tokens": [text]}));
    }
    let pair: Vec<Value> = around("A", 0).into_iter().chain(around("B", 1)).collect();
    json!({"type": "TemplateProcessing", "single": around("A", 0), "pair": pair, "special_tokens": tokens})
}
