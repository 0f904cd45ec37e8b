//! Contexts and continuations as token ids, cut where the harness cuts them.

use crate::{EvalError, python};
use infer::rolling_windows;
use tokenizer::Tokenizer;

/// Whether a beginning-of-text token is put before texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BosMode {
    /// As the tokenizer says: the harness since version 0.4.9.2.
    Auto,
    /// Yes: `add_bos_token=True`.
    Always,
    /// No: the harness up to version 0.4.9.1.
    Never,
}

/// One sequence for the model: the last `scored` tokens of `ids` are to be predicted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Request {
    /// Context and continuation, at most one more than the model's context.
    pub ids: Vec<u32>,
    /// Length of the continuation.
    pub scored: usize,
    /// Whether to find out if greedy decoding gives the continuation.
    pub greedy: bool,
}

/// Text → requests, for one model.
pub struct Encoder<'t> {
    tokenizer: &'t Tokenizer,
    bos: Option<u32>,
    eos: Option<u32>,
    prefix: u32,
    prefix_text: String,
    context: usize,
    /// The last text and its ids: continuations of one context come one after the other.
    last: Option<(String, Vec<u32>)>,
}

impl<'t> Encoder<'t> {
    /// For a model that reads up to `context` tokens.
    ///
    /// # Errors
    /// A vocabulary without the tokens that are needed.
    pub fn new(tokenizer: &'t Tokenizer, mode: BosMode, context: usize) -> Result<Self, EvalError> {
        let Some(prefix) = tokenizer.bos().or(tokenizer.eos()) else {
            return Err(EvalError::NoToken {
                token: "beginning- or end-of-text",
                purpose: "stands before a text that has no context",
            });
        };
        let bos = match mode {
            BosMode::Never => None,
            BosMode::Auto => tokenizer.bos().filter(|_| tokenizer.adds_bos()),
            BosMode::Always => Some(tokenizer.bos().ok_or(EvalError::NoToken {
                token: "beginning-of-text",
                purpose: "--bos always puts before every text; use --bos auto or --bos never",
            })?),
        };
        let eos = tokenizer.eos().filter(|_| mode == BosMode::Auto && tokenizer.adds_eos());
        let prefix_text = tokenizer.token_text(prefix).unwrap_or_default().to_owned();
        Ok(Self { tokenizer, bos, eos, prefix, prefix_text, context, last: None })
    }

    /// Tokens that the model reads at most.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Ids of a text. A text that begins with the spelling of the first token does not get another.
    fn encode(&self, text: &str) -> Vec<u32> {
        let ids = self.tokenizer.encode_with_specials(text);
        if !self.prefix_text.is_empty() && text.starts_with(&self.prefix_text) {
            return ids;
        }
        self.bos.into_iter().chain(ids).chain(self.eos).collect()
    }

    fn encode_context(&mut self, text: &str) -> Vec<u32> {
        if let Some((_, ids)) = self.last.as_ref().filter(|last| last.0 == text) {
            return ids.clone();
        }
        let ids = self.encode(text);
        self.last = Some((text.to_owned(), ids.clone()));
        ids
    }

    /// The request for a continuation of a context, and how many tokens were cut from its left. White space at the end
    /// of the context goes to the continuation; both are encoded together, and what the context's own ids do not cover
    /// is the continuation.
    ///
    /// # Errors
    /// The continuation's length, if that is 0 or more than the model's context.
    pub fn pair(&mut self, context: &str, continuation: &str, greedy: bool) -> Result<(Request, usize), usize> {
        let (mut ids, scored) = if context.is_empty() {
            let ids = self.tokenizer.encode_with_specials(continuation);
            match ids.first() {
                Some(first) if *first == self.prefix => {
                    let scored = ids.len() - 1;
                    (ids, scored)
                }
                _ => {
                    let scored = ids.len();
                    ([&[self.prefix][..], &ids].concat(), scored)
                }
            }
        } else {
            let trimmed = context.trim_end_matches(python::is_space);
            let whole = self.encode(&format!("{context}{continuation}"));
            let before = self.encode_context(trimmed).len();
            let scored = whole.len().saturating_sub(before);
            (whole, scored)
        };
        if scored == 0 || scored > self.context || scored >= ids.len() {
            return Err(scored);
        }
        let cut = ids.len().saturating_sub(self.context + 1);
        ids.drain(..cut);
        Ok((Request { ids, scored, greedy }, cut))
    }

    /// The windows of a text of any length; every token is scored once, the first as what follows the prefix token.
    pub fn rolling(&self, text: &str) -> Vec<Request> {
        let ids: Vec<u32> = std::iter::once(self.prefix).chain(self.encode(text)).collect();
        let windows = rolling_windows(ids.len() - 1, self.context);
        windows
            .map(|window| Request {
                ids: ids[window.inputs.start..window.inputs.end + 1].to_vec(),
                scored: window.scored,
                greedy: false,
            })
            .collect()
    }
}
