//! Special and added tokens in text: where they are, and the stretches between them.

use crate::vocabulary::Added;

/// A part of a text.
#[derive(Debug, PartialEq)]
pub(crate) enum Part<'a> {
    /// Ordinary text, and whether it is the beginning of the whole.
    Text { text: &'a str, first: bool },
    /// A token that was spelled out.
    Token(u32),
}

/// Finds the spellings of a set of tokens: leftmost first, the longest among those that begin together.
#[derive(Default)]
pub(crate) struct Matcher {
    /// Longest first.
    tokens: Vec<Added>,
    /// Whether any spelling begins with a byte.
    begins: Vec<bool>,
}

impl Matcher {
    pub(crate) fn new(tokens: impl Iterator<Item = Added>) -> Self {
        let mut tokens: Vec<Added> = tokens.filter(|token| !token.text.is_empty()).collect();
        if tokens.is_empty() {
            return Self::default();
        }
        tokens.sort_by(|a, b| b.text.len().cmp(&a.text.len()).then(a.id.cmp(&b.id)));
        let mut begins = vec![false; 256];
        for token in &tokens {
            begins[usize::from(token.text.as_bytes()[0])] = true;
        }
        Self { tokens, begins }
    }

    /// Cuts `text` at the tokens spelled in it.
    pub(crate) fn split<'a>(&self, text: &'a str) -> Vec<Part<'a>> {
        let mut parts = Vec::new();
        let (mut done, mut at) = (0, 0);
        while !self.tokens.is_empty() && at < text.len() {
            let rest = &text.as_bytes()[at..];
            let Some(skip) = rest.iter().position(|&byte| self.begins[usize::from(byte)]) else { break };
            at += skip;
            let Some(token) = self.tokens.iter().find(|token| found(token, text, at)) else {
                at += 1;
                continue;
            };
            let before = &text[done..at];
            let before = if token.strip_left { before.trim_end() } else { before };
            push_text(&mut parts, before, done);
            parts.push(Part::Token(token.id));
            at += token.text.len();
            if token.strip_right {
                at = text.len() - text[at..].trim_start().len();
            }
            done = at;
        }
        push_text(&mut parts, &text[done..], done);
        parts
    }
}

fn push_text<'a>(parts: &mut Vec<Part<'a>>, text: &'a str, at: usize) {
    if !text.is_empty() {
        parts.push(Part::Text { text, first: at == 0 });
    }
}

/// Whether `token` is spelled at byte `at`, which is the first byte of a character if it is.
fn found(token: &Added, text: &str, at: usize) -> bool {
    if !text.as_bytes()[at..].starts_with(token.text.as_bytes()) {
        return false;
    }
    let word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let (before, after) = (&text[..at], &text[at + token.text.len()..]);
    !token.single_word || !(word(before.chars().next_back()) || word(after.chars().next()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(id: u32, text: &str) -> Added {
        Added { id, text: text.into(), special: true, strip_left: false, strip_right: false, single_word: false }
    }

    fn text(text: &str, first: bool) -> Part<'_> {
        Part::Text { text, first }
    }

    #[test]
    fn the_longest_token_at_the_leftmost_place_wins() {
        let matcher = Matcher::new([token(1, "<s>"), token(2, "<s>>"), token(3, "é")].into_iter());
        let parts = matcher.split("a<<s>>é<s>");
        assert_eq!(parts, [text("a<", true), Part::Token(2), Part::Token(3), Part::Token(1)]);
        assert_eq!(matcher.split(""), []);
        assert_eq!(Matcher::default().split("<s>"), [text("<s>", true)]);
    }

    #[test]
    fn flags_of_tokens_are_kept() {
        let strip = Added { strip_left: true, strip_right: true, ..token(1, "<m>") };
        let word = Added { single_word: true, ..token(2, "et") };
        let matcher = Matcher::new([strip, word].into_iter());
        assert_eq!(matcher.split("a <m>  b"), [text("a", true), Part::Token(1), text("b", false)]);
        assert_eq!(matcher.split("beta et"), [text("beta ", true), Part::Token(2)]);
    }
}
