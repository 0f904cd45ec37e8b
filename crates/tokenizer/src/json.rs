//! `tokenizer.json` → vocabulary.

use serde_json::{Map, Value, json};

use crate::problem::Problem;
use crate::vocabulary::{Added, Family, PIECES_MAX, Piece, PieceKind, Prefix, SPACE_MARK, Vocabulary, byte_of_piece};

/// Reads a `tokenizer.json` with a BPE model.
pub(crate) fn read(bytes: &[u8]) -> Result<Vocabulary, Problem> {
    let root = parse(bytes)?;
    let root = root.as_object().ok_or_else(|| wrong_type("(top level)", "an object"))?;
    let model = root.get("model").and_then(Value::as_object).ok_or_else(|| wrong_type("model", "an object"))?;
    check_model(model)?;

    let mut vocabulary = rules(root)?;
    let flag = |key: &str| model.get(key).and_then(Value::as_bool).unwrap_or(false);
    vocabulary.byte_fallback = flag("byte_fallback");
    vocabulary.fuse_unknown = flag("fuse_unk");
    vocabulary.ignore_merges = flag("ignore_merges");
    read_pieces(model, &mut vocabulary)?;
    let unknown = model.get("unk_token").and_then(Value::as_str);
    read_merges(model, &mut vocabulary)?;
    for token in list(root, "added_tokens")? {
        let id = token.get("id").and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok());
        let id = id.ok_or_else(|| wrong_type("added_tokens[].id", "an id"))?;
        add_token(&added_token(id, token)?, &mut vocabulary)?;
    }
    vocabulary.unknown = unknown.and_then(|text| vocabulary.ids_by_text().get(text).copied());
    if let Some(id) = vocabulary.unknown {
        vocabulary.pieces[id as usize].kind = PieceKind::Unknown;
    }
    read_template(root.get("post_processor").unwrap_or(&Value::Null), &mut vocabulary);
    guess_ends(&mut vocabulary);
    vocabulary.check()?;
    Ok(vocabulary)
}

/// Parses JSON of any shape.
pub(crate) fn parse(bytes: &[u8]) -> Result<Value, Problem> {
    serde_json::from_slice(bytes).map_err(|error| {
        let what = error.to_string();
        let what = what.split(" at line ").next().unwrap_or_default().to_owned();
        Problem::Json { line: error.line(), column: error.column(), what }
    })
}

pub(crate) fn wrong_type(key: &str, expected: &'static str) -> Problem {
    Problem::JsonType { key: key.to_owned(), expected }
}

/// The list under `key`, empty if the key is missing or null.
fn list<'v>(map: &'v Map<String, Value>, key: &str) -> Result<&'v [Value], Problem> {
    match map.get(key) {
        None | Some(Value::Null) => Ok(&[]),
        Some(Value::Array(list)) => Ok(list),
        Some(_) => Err(wrong_type(key, "a list")),
    }
}

fn check_model(model: &Map<String, Value>) -> Result<(), Problem> {
    match model.get("type").and_then(Value::as_str) {
        Some("BPE") => {}
        None if model.contains_key("merges") => {}
        found => return Err(Problem::NotBpe { found: found.unwrap_or("nameless").to_owned() }),
    }
    for setting in ["continuing_subword_prefix", "end_of_word_suffix"] {
        if let Some(found) = model.get(setting).and_then(Value::as_str).filter(|text| !text.is_empty()) {
            return Err(Problem::Setting { setting, found: format!("`{found}`"), expected: "none" });
        }
    }
    Ok(())
}

fn read_pieces(model: &Map<String, Value>, vocabulary: &mut Vocabulary) -> Result<(), Problem> {
    let vocab = model.get("vocab").and_then(Value::as_object).ok_or_else(|| wrong_type("model.vocab", "an object"))?;
    for (text, id) in vocab {
        let id = id.as_u64().ok_or_else(|| wrong_type(&format!("model.vocab.{text}"), "an id"))?;
        let byte = if vocabulary.byte_fallback { byte_of_piece(text) } else { None };
        let kind = byte.map_or(PieceKind::Normal, PieceKind::Byte);
        place(Piece { text: text.clone(), kind }, id, vocab.len(), vocabulary)?;
    }
    Ok(())
}

/// Puts a piece at its id; ids may leave gaps, but not so many that they must be a mistake.
fn place(piece: Piece, id: u64, count: usize, vocabulary: &mut Vocabulary) -> Result<(), Problem> {
    let limit = PIECES_MAX.min(2 * count + 100_000);
    let Some(at) = usize::try_from(id).ok().filter(|&at| at < limit) else {
        return Err(Problem::IdOutOfRange { id, count: limit });
    };
    let pieces = &mut vocabulary.pieces;
    if at >= pieces.len() {
        pieces.resize(at + 1, Piece { text: String::new(), kind: PieceKind::Unused });
    }
    if pieces[at].kind != PieceKind::Unused && pieces[at].text != piece.text {
        let first = std::mem::take(&mut pieces[at].text);
        return Err(Problem::SharedId { id: at as u32, first, second: piece.text });
    }
    pieces[at] = piece;
    Ok(())
}

fn read_merges(model: &Map<String, Value>, vocabulary: &mut Vocabulary) -> Result<(), Problem> {
    let mut merges = Vec::new();
    let ids = vocabulary.ids_by_text();
    for (rank, merge) in list(model, "merges")?.iter().enumerate() {
        let halves = match merge {
            Value::String(both) => both.split_once(' '),
            Value::Array(two) if two.len() == 2 => two[0].as_str().zip(two[1].as_str()),
            _ => None,
        };
        let found = halves.and_then(|(left, right)| Some((*ids.get(left)?, *ids.get(right)?)));
        merges.push(found.ok_or_else(|| Problem::Merge { rank, merge: merge.to_string() })?);
    }
    vocabulary.merges = merges;
    Ok(())
}

/// One entry of `added_tokens`, or of `added_tokens_decoder`.
pub(crate) fn added_token(id: u32, token: &Value) -> Result<Added, Problem> {
    let text = token.get("content").and_then(Value::as_str);
    let text = text.ok_or_else(|| wrong_type("added_tokens[].content", "a string"))?.to_owned();
    let flag = |key: &str| token.get(key).and_then(Value::as_bool).unwrap_or(false);
    Ok(Added {
        id,
        text,
        special: flag("special"),
        strip_left: flag("lstrip"),
        strip_right: flag("rstrip"),
        single_word: flag("single_word"),
    })
}

/// Enters an added token into the vocabulary.
pub(crate) fn add_token(token: &Added, vocabulary: &mut Vocabulary) -> Result<(), Problem> {
    let kind = if token.special { PieceKind::Control } else { PieceKind::UserDefined };
    let count = vocabulary.pieces.len();
    place(Piece { text: token.text.clone(), kind }, u64::from(token.id), count, vocabulary)?;
    if !token.text.is_empty() {
        vocabulary.added.push(token.clone());
    }
    Ok(())
}

/// The steps before BPE: family, prefix rule, normalizer and pre-tokenizer.
fn rules(root: &Map<String, Value>) -> Result<Vocabulary, Problem> {
    let normalizers = steps(root.get("normalizer").unwrap_or(&Value::Null), "normalizers");
    let pre_value = root.get("pre_tokenizer").unwrap_or(&Value::Null);
    let pres = steps(pre_value, "pretokenizers");
    let marks_spaces = |step: &&Value| {
        kind(step) == "Replace" && pattern(step) == Some(" ") && step["content"].as_str() == Some("\u{2581}")
    };
    if normalizers.iter().any(marks_spaces) || pres.iter().any(|step| kind(step) == "Metaspace") {
        return spaced_rules(&normalizers, &pres);
    }
    if !pres.iter().any(|step| kind(step) == "ByteLevel") {
        let found = pres.last().map_or("none", |step| kind(step)).to_owned();
        return Err(Problem::Setting { setting: "pre_tokenizer", found, expected: "ByteLevel or Metaspace" });
    }
    let mut vocabulary = Vocabulary::new(Family::ByteLevel);
    vocabulary.normalizer = root.get("normalizer").cloned().unwrap_or(Value::Null);
    vocabulary.pre_tokenizer = pre_value.clone();
    if take_prefix(&mut vocabulary.pre_tokenizer) {
        vocabulary.prefix = Prefix::UnlessSpaced;
    }
    Ok(vocabulary)
}

/// Sets `add_prefix_space` of every ByteLevel step to false, and tells whether one was true.
fn take_prefix(pre: &mut Value) -> bool {
    let mut found = false;
    if let Some(steps) = pre.get_mut("pretokenizers").and_then(Value::as_array_mut) {
        for step in steps {
            found |= take_prefix(step);
        }
    }
    if kind(pre) == "ByteLevel" {
        found |= pre["add_prefix_space"].as_bool() == Some(true);
        pre["add_prefix_space"] = json!(false);
    }
    found
}

fn spaced_rules(normalizers: &[&Value], pres: &[&Value]) -> Result<Vocabulary, Problem> {
    let mut vocabulary = Vocabulary::new(Family::Spaced);
    vocabulary.prefix = Prefix::Never;
    for step in normalizers {
        match (kind(step), pattern(step), step["content"].as_str(), step["prepend"].as_str()) {
            ("Prepend", _, _, Some("\u{2581}")) => vocabulary.prefix = Prefix::Always,
            ("Replace", Some(" "), Some("\u{2581}"), _) => {}
            (found, ..) => {
                let found = found.to_owned();
                let expected = "Prepend `▁` and Replace ` ` by `▁`";
                return Err(Problem::Setting { setting: "normalizer", found, expected });
            }
        }
    }
    for step in pres {
        match kind(step) {
            "Metaspace" => metaspace(step, &mut vocabulary)?,
            // No space is left to split at once spaces are marked.
            "Split" if pattern(step) == Some(" ") && !normalizers.is_empty() => {}
            found => {
                let found = found.to_owned();
                return Err(Problem::Setting { setting: "pre_tokenizer", found, expected: "Metaspace or none" });
            }
        }
    }
    Ok(vocabulary)
}

fn metaspace(step: &Value, vocabulary: &mut Vocabulary) -> Result<(), Problem> {
    let replacement = step["replacement"].as_str().unwrap_or("\u{2581}");
    if replacement.chars().ne([SPACE_MARK]) {
        let found = format!("`{replacement}`");
        return Err(Problem::Setting { setting: "pre_tokenizer.replacement", found, expected: "`▁`" });
    }
    let added = step["add_prefix_space"].as_bool().unwrap_or(true);
    let prefix = match step["prepend_scheme"].as_str().unwrap_or(if added { "always" } else { "never" }) {
        "never" => Prefix::Never,
        "first" => Prefix::FirstUnlessSpaced,
        _ => Prefix::UnlessSpaced,
    };
    if vocabulary.prefix == Prefix::Never {
        vocabulary.prefix = prefix;
    }
    if step["split"].as_bool().unwrap_or(true) {
        vocabulary.pre_tokenizer = split_at_marks();
    }
    Ok(())
}

/// Words begin at `▁`: what Metaspace does besides marking spaces.
pub(crate) fn split_at_marks() -> Value {
    json!({"type": "Split", "pattern": {"String": "\u{2581}"}, "behavior": "MergedWithNext", "invert": false})
}

/// The steps of a sequence, or the one step, or none.
fn steps<'v>(value: &'v Value, key: &str) -> Vec<&'v Value> {
    match value.get(key).and_then(Value::as_array) {
        Some(list) => list.iter().flat_map(|step| steps(step, key)).collect(),
        None if value.is_object() => vec![value],
        None => Vec::new(),
    }
}

fn kind(step: &Value) -> &str {
    step["type"].as_str().unwrap_or("nameless")
}

/// The pattern of a Replace or Split step, if it is a plain string.
fn pattern(step: &Value) -> Option<&str> {
    step["pattern"]["String"].as_str()
}

/// Special tokens that the post-processor puts around a text.
fn read_template(post: &Value, vocabulary: &mut Vocabulary) {
    let ids = vocabulary.ids_by_text();
    let (mut first, mut last) = (None, None);
    for step in steps(post, "processors") {
        let mut seen_text = false;
        for part in step["single"].as_array().map(Vec::as_slice).unwrap_or_default() {
            match part["SpecialToken"]["id"].as_str() {
                None => seen_text = true,
                Some(text) if seen_text => last = ids.get(text).copied(),
                Some(text) => first = ids.get(text).copied(),
            }
        }
    }
    (vocabulary.adds_bos, vocabulary.adds_eos) = (first.is_some(), last.is_some());
    (vocabulary.bos, vocabulary.eos) = (first, last);
}

/// Begin and end tokens by their usual spellings, where no file beside `tokenizer.json` names them.
fn guess_ends(vocabulary: &mut Vocabulary) {
    const BEGINS: [&str; 4] = ["<s>", "<|begin_of_text|>", "<bos>", "<|startoftext|>"];
    const ENDS: [&str; 5] = ["</s>", "<|end_of_text|>", "<|endoftext|>", "<eos>", "<|im_end|>"];
    let find = |spellings: &[&str]| {
        let token = |spelling: &&str| vocabulary.added.iter().find(|token| token.special && token.text == **spelling);
        spellings.iter().find_map(token).map(|token| token.id)
    };
    let (bos, eos) = (find(&BEGINS), find(&ENDS));
    vocabulary.bos = vocabulary.bos.or(bos);
    vocabulary.eos = vocabulary.eos.or(eos);
}
