//! A draft's own vocabulary on the disk: a file in its folder, or two keys of its GGUF file.

use anyhow::{Context, Result, bail};
use formats::file;
use formats::gguf::{Gguf, Value};
use infer::{DRAFT_VOCABULARY_FILE, DraftVocabulary};
use std::path::Path;

/// Hash of the target's tokenizer.
const HASH_KEY: &str = "slm.draft.tokenizer_hash";
/// The target's id for each of the draft's but its last.
const IDS_KEY: &str = "slm.draft.target_ids";

/// The vocabulary of the draft in this folder or GGUF file, if it has one of its own.
pub(crate) fn read(path: &Path) -> Result<Option<DraftVocabulary>> {
    if path.extension().is_some_and(|extension| extension == "gguf") {
        let gguf = Gguf::open(path)?;
        let Some(ids) = gguf.find::<Vec<u32>>(IDS_KEY)? else { return Ok(None) };
        return match DraftVocabulary::new(gguf.require::<&str>(HASH_KEY)?.to_owned(), ids) {
            Some(vocabulary) => Ok(Some(vocabulary)),
            None => bail!("{}: `{IDS_KEY}` must be ids in ascending order; export the draft again", path.display()),
        };
    }
    let path = path.join(DRAFT_VOCABULARY_FILE);
    if !file::is_file(&path) {
        return Ok(None);
    }
    let vocabulary = serde_json::from_str(&file::read_to_string(&path)?);
    vocabulary.map(Some).with_context(|| format!("{}: not the vocabulary of a draft", path.display()))
}

/// Writes the file of a folder.
pub(crate) fn save(vocabulary: &DraftVocabulary, folder: &Path) -> Result<()> {
    Ok(file::write_bytes(&folder.join(DRAFT_VOCABULARY_FILE), &serde_json::to_vec(vocabulary)?)?)
}

/// The keys of a GGUF file.
pub(crate) fn gguf_entries(vocabulary: &DraftVocabulary) -> Vec<(String, Value)> {
    let ids: Value = vocabulary.target_ids().to_vec().into();
    vec![(HASH_KEY.into(), vocabulary.tokenizer_hash().into()), (IDS_KEY.into(), ids)]
}
