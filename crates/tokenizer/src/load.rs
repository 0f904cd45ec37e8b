//! From a path to a tokenizer: which file it is, and which files beside it name its special tokens.

use std::path::{Path, PathBuf};

use formats::file;
use formats::gguf::Gguf;
use formats::llama2c::TokBin;
use serde_json::Value;

use crate::problem::{Problem, TokenizerError};
use crate::vocabulary::{Added, Piece, PieceKind, Vocabulary};
use crate::{Original, Tokenizer, chat, json, llama2c};

/// Largest tokenizer file that is read.
const FILE_BYTES_MAX: u64 = 128 << 20;
/// Largest settings file beside it that is read.
const SETTINGS_BYTES_MAX: u64 = 16 << 20;

impl Tokenizer {
    /// Loads a tokenizer from a `tokenizer.json`, a SentencePiece `tokenizer.model`, a GGUF file, a llama2.c
    /// `tok*.bin`, or a folder that holds one of them (the first of that order).
    ///
    /// Begin and end tokens are taken from `tokenizer_config.json` beside a `tokenizer.json` where there is one.
    pub fn load(path: &Path) -> Result<Self, TokenizerError> {
        let path = if file::is_dir(path) { find_in_folder(path)? } else { path.to_owned() };
        let refused = |problem| TokenizerError::Refused { file: path.clone(), problem };
        let extension = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
        match extension.as_str() {
            "gguf" => Self::from_gguf(&Gguf::open(&path)?),
            "bin" => {
                let vocabulary = llama2c::read(TokBin::open(&path)?).map_err(refused)?;
                Self::build(vocabulary, Original::default()).map_err(refused)
            }
            "json" => Self::load_json(&path),
            _ => Self::from_model_bytes(&file::read(&path, FILE_BYTES_MAX)?).map_err(refused),
        }
    }

    fn load_json(path: &Path) -> Result<Self, TokenizerError> {
        let refused = |problem| TokenizerError::Refused { file: path.to_owned(), problem };
        let bytes = file::read(path, FILE_BYTES_MAX)?;
        let mut vocabulary = json::read(&bytes).map_err(refused)?;
        let mut original = Original { json: Some(bytes), ..Original::default() };
        let beside = path.with_file_name("tokenizer_config.json");
        if file::is_file(&beside) {
            let settings = file::read(&beside, SETTINGS_BYTES_MAX)?;
            let refused = |problem| TokenizerError::Refused { file: beside, problem };
            original.chat_template = apply_settings(&settings, &mut vocabulary).map_err(refused)?;
            original.settings = Some(settings);
        }
        let template = path.with_file_name("chat_template.jinja");
        if file::is_file(&template) {
            original.chat_template = Some(file::read_to_string(&template)?);
        }
        Self::build(vocabulary, original).map_err(refused)
    }
}

/// The tokenizer file of a folder.
fn find_in_folder(folder: &Path) -> Result<PathBuf, TokenizerError> {
    let named = ["tokenizer.json", "tokenizer.model"].map(|name| folder.join(name));
    if let Some(path) = named.into_iter().find(|path| file::is_file(path)) {
        return Ok(path);
    }
    let files = file::list(folder)?;
    let is_gguf = |path: &&PathBuf| path.extension().is_some_and(|extension| extension == "gguf");
    let is_tok_bin = |path: &&PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("tok") && name.ends_with(".bin")
    };
    let found = files.iter().find(is_gguf).or_else(|| files.iter().find(is_tok_bin));
    found.cloned().ok_or_else(|| TokenizerError::NothingInFolder { folder: folder.to_owned() })
}

/// Takes begin and end tokens, and added tokens that `tokenizer.json` lacks, from a `tokenizer_config.json`; returns its
/// chat template.
fn apply_settings(bytes: &[u8], vocabulary: &mut Vocabulary) -> Result<Option<String>, Problem> {
    let settings: Value = json::parse(bytes)?;
    let listed = settings["added_tokens_decoder"].as_object().into_iter().flatten();
    let mut more: Vec<Added> = Vec::new();
    for (id, token) in listed {
        let id: u32 = id.parse().map_err(|_| json::wrong_type("added_tokens_decoder", "an object with ids as keys"))?;
        let unused = |piece: &Piece| piece.kind == PieceKind::Unused;
        if vocabulary.pieces.get(id as usize).is_none_or(unused) {
            more.push(json::added_token(id, token)?);
        }
    }
    more.sort_by_key(|token| token.id);
    more.iter().try_for_each(|token| json::add_token(token, vocabulary))?;
    vocabulary.check()?;
    let ids = vocabulary.ids_by_text();
    let spelling = |key: &str| settings[key].as_str().or_else(|| settings[key]["content"].as_str());
    let token = |key: &str| spelling(key).and_then(|text| ids.get(text).copied());
    let (bos, eos) = (token("bos_token"), token("eos_token"));
    if settings.get("bos_token").is_some() {
        vocabulary.bos = bos;
    }
    if settings.get("eos_token").is_some() {
        vocabulary.eos = eos;
    }
    if let Some(adds) = settings["add_bos_token"].as_bool() {
        vocabulary.adds_bos = adds;
    }
    if let Some(adds) = settings["add_eos_token"].as_bool() {
        vocabulary.adds_eos = adds;
    }
    Ok(chat::of_settings(&settings))
}
