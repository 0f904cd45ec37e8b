//! Requests that were scored and texts that were written before a run was killed: `finished.jsonl` in the folder of the
//! results.
//!
//! The first line says what computed them. A request is named by its content, so the file serves any tasks.

use crate::encode::Request;
use crate::generation::{Generation, Prompt};
use crate::{EvalError, Score};
use formats::file::{self, AppendFile};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// The file's name.
pub(crate) const FILE_NAME: &str = "finished.jsonl";

/// What is the same for all requests of a run: model, precision, level.
pub(crate) type RunFacts = BTreeMap<String, String>;

/// The name of a request.
pub(crate) type Key = String;

/// One line.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Line {
    Score {
        key: Key,
        /// The bits of an f64: no digit is lost.
        log_probability_bits: u64,
        greedy: Option<bool>,
    },
    Text {
        key: Key,
        text: String,
    },
}

/// Finished requests, on the disk and here.
pub struct Finished {
    file: AppendFile,
    scores: HashMap<Key, Score>,
    texts: HashMap<Key, String>,
}

impl Finished {
    /// Opens or begins the file of a folder.
    ///
    /// # Errors
    /// The disk; a file of another run.
    pub(crate) fn open(folder: &Path, facts: &RunFacts) -> Result<Self, EvalError> {
        let path = folder.join(FILE_NAME);
        let head = serde_json::to_string(facts).unwrap_or_default();
        let (mut scores, mut texts) = (HashMap::new(), HashMap::new());
        let mut whole = 0; // bytes of lines that were written to their end
        if file::exists(&path) {
            let bytes = file::read(&path, file::TEXT_LIMIT_BYTES)?;
            for (index, line) in bytes.split_inclusive(|&byte| byte == b'\n').enumerate() {
                if !line.ends_with(b"\n") {
                    break; // the kill came in the middle of it
                }
                if index == 0 {
                    check(&path, line, facts)?;
                } else {
                    match serde_json::from_slice(line) {
                        Ok(Line::Score { key, log_probability_bits, greedy }) => {
                            let log_probability = f64::from_bits(log_probability_bits);
                            scores.insert(key, Score { log_probability, greedy });
                        }
                        Ok(Line::Text { key, text }) => _ = texts.insert(key, text),
                        Err(_) => break,
                    }
                }
                whole += line.len();
            }
        }
        let mut file = file::open_append(&path)?;
        file.truncate(whole as u64)?;
        if whole == 0 {
            file.append_line(&head)?;
        }
        Ok(Self { file, scores, texts })
    }

    pub(crate) fn get(&self, key: &Key) -> Option<Score> {
        self.scores.get(key).copied()
    }

    /// Keeps the scores of a batch.
    pub(crate) fn add(&mut self, scores: impl IntoIterator<Item = (Key, Score)>) -> Result<(), EvalError> {
        let mut text = String::new();
        for (key, score) in scores {
            let log_probability_bits = score.log_probability.to_bits();
            let line = Line::Score { key: key.clone(), log_probability_bits, greedy: score.greedy };
            text += &serde_json::to_string(&line).unwrap_or_default();
            text.push('\n');
            self.scores.insert(key, score);
        }
        Ok(self.file.append(text.as_bytes())?)
    }

    pub(crate) fn text(&self, key: &Key) -> Option<&str> {
        self.texts.get(key).map(String::as_str)
    }

    /// Keeps a text.
    pub(crate) fn add_text(&mut self, key: &Key, text: String) -> Result<(), EvalError> {
        let line = Line::Text { key: key.clone(), text: text.clone() };
        self.file.append_line(&serde_json::to_string(&line).unwrap_or_default())?;
        self.texts.insert(key.clone(), text);
        Ok(())
    }
}

fn check(path: &Path, line: &[u8], facts: &RunFacts) -> Result<(), EvalError> {
    let found: RunFacts = serde_json::from_slice(line).unwrap_or_default();
    let differs = |name: &&String| found.get(*name) != facts.get(*name);
    match facts.keys().chain(found.keys()).find(differs) {
        None => Ok(()),
        Some(name) => {
            let say = |facts: &RunFacts| facts.get(name).map_or("nothing", String::as_str).to_owned();
            let differs = format!("{name}: {} there, {} now", say(&found), say(facts));
            Err(EvalError::OtherRun { path: path.into(), differs })
        }
    }
}

/// The name of a text: a hash of what it continues, and of how.
pub(crate) fn prompt_key(prompt: &Prompt, generation: &Generation) -> Key {
    let mut how = format!("{} {} {:?}", generation.to_json(), generation.keeps_space, prompt.ids);
    if generation.sampling.temperature > 0.0 {
        how += &format!(" {} {}", generation.sampling.seed, prompt.sample);
    }
    blake3::hash(how.as_bytes()).to_hex()[..32].to_owned()
}

/// The name of a request: a hash of what it asks.
pub(crate) fn key(request: &Request) -> Key {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(request.scored as u64).to_le_bytes());
    hasher.update(&[u8::from(request.greedy)]);
    request.ids.iter().for_each(|id| {
        hasher.update(&id.to_le_bytes());
    });
    hasher.finalize().to_hex()[..32].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(model: &str) -> RunFacts {
        RunFacts::from([("model".into(), model.into())])
    }

    #[test]
    fn what_was_finished_is_found_again_and_a_torn_line_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let request = |id| Request { ids: vec![1, id], scored: 1, greedy: false };
        let score = Score { log_probability: -0.1 - 1e-17, greedy: Some(true) };
        let mut finished = Finished::open(folder.path(), &facts("a")).unwrap();
        finished.add([(key(&request(5)), score), (key(&request(6)), score)]).unwrap();
        let path = folder.path().join(FILE_NAME);
        let bytes = file::read(&path, 1 << 20).unwrap();
        file::write_bytes(&path, &bytes[..bytes.len() - 7]).unwrap();
        let mut again = Finished::open(folder.path(), &facts("a")).unwrap();
        assert_eq!(again.get(&key(&request(5))), Some(score));
        assert_eq!(again.get(&key(&request(6))), None);
        again.add([(key(&request(6)), score)]).unwrap();
        assert_eq!(file::read(&path, 1 << 20).unwrap(), bytes);
        let error = Finished::open(folder.path(), &facts("b")).err().unwrap().to_string();
        assert!(error.contains("model: a there, b now"), "{error}");
    }
}
