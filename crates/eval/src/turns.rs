//! What a model is told before it answers: as one text, or as a chat.

use tokenizer::{Message, Problem, Tokenizer};

/// A message, and what follows it where messages are one text.
#[derive(Clone)]
pub(crate) struct Turn {
    message: Message,
    delimiter: String,
}

impl Turn {
    pub(crate) fn new(message: Message, delimiter: impl Into<String>) -> Self {
        Self { message, delimiter: delimiter.into() }
    }
}

/// The text that turns make, by the chat template of `chat` if there is one. As the harness does, a template that refuses
/// is tried without the system's message.
///
/// # Errors
/// A template that cannot be rendered.
pub(crate) fn context(turns: &[Turn], chat: Option<&Tokenizer>) -> Result<String, Problem> {
    let Some(chat) = chat else {
        return Ok(turns.iter().flat_map(|turn| [turn.message.content.as_str(), &turn.delimiter]).collect());
    };
    let messages: Vec<Message> = turns.iter().map(|turn| turn.message.clone()).collect();
    match messages.split_first() {
        Some((first, rest)) if first.role == "system" => {
            chat.render_chat(&messages).or_else(|_| chat.render_chat(rest))
        }
        _ => chat.render_chat(&messages),
    }
}
