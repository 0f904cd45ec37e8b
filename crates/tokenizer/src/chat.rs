//! Chat templates: messages → the ids that a chat model was trained to see, as transformers and llama.cpp render them.

use crate::added::Part;
use crate::{Problem, Tokenizer};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use minijinja::{Environment, Error, ErrorKind, context};
use minijinja_contrib::pycompat;
use serde::{Deserialize, Serialize};

/// Instructions that a template may take: it comes from a file, and loops within loops would never end. Real ones take
/// some hundreds a message.
const FUEL: u64 = 1_000_000;

/// Stands behind a message that is to be continued, to be found again when the template has been rendered. Where the
/// template trims messages, the blank at its end is missing.
const MARK: &str = "\u{27e8}to be continued\u{27e9} ";

/// What is said in a chat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who says it: `system`, `user` or `assistant`.
    pub role: String,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A message of the user.
    pub fn user(content: impl Into<String>) -> Self {
        Self { role: "user".into(), content: content.into() }
    }

    /// A message of the model: an answer, or, as the last one, the beginning of an answer.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self { role: "assistant".into(), content: content.into() }
    }

    /// What is said before all else.
    pub fn system(content: impl Into<String>) -> Self {
        Self { role: "system".into(), content: content.into() }
    }
}

impl Tokenizer {
    /// The chat template (Jinja) that came with the vocabulary, if one did.
    pub fn chat_template(&self) -> Option<&str> {
        self.original.chat_template.as_deref()
    }

    /// The ids of a chat up to where the assistant is to speak.
    ///
    /// # Errors
    /// [`Problem::NoChatTemplate`], [`Problem::ChatTemplate`]; [`Problem::ControlInMessage`] where a message spells a
    /// control token, which would let it pass for the chat's own.
    pub fn encode_chat(&self, messages: &[Message]) -> Result<Vec<u32>, Problem> {
        let controls = |text: &str| {
            let parts = self.all.split(text);
            parts.iter().find_map(|part| match part {
                Part::Token(id) if self.is_special(*id) => self.token_text(*id).map(str::to_owned),
                _ => None,
            })
        };
        if let Some(token) = messages.iter().find_map(|message| controls(&message.content)) {
            return Err(Problem::ControlInMessage { token });
        }
        Ok(self.encode_with_specials(&self.render_chat(messages)?))
    }

    /// The text of a chat up to where the assistant is to speak, or, where the last message is its own, to go on.
    ///
    /// # Errors
    /// [`Problem::NoChatTemplate`], [`Problem::ChatTemplate`].
    pub fn render_chat(&self, messages: &[Message]) -> Result<String, Problem> {
        let template = self.chat_template().ok_or(Problem::NoChatTemplate)?;
        let spelling = |id: Option<u32>| id.and_then(|id| self.token_text(id)).unwrap_or_default();
        let (bos, eos) = (spelling(self.bos()), spelling(self.eos()));
        let fail = |error| Problem::ChatTemplate { what: one_line(&error) };
        match messages.split_last() {
            Some((last, before)) if last.role == "assistant" => {
                let marked = Message::assistant(format!("{}{MARK}", last.content));
                let text = render(template, &[before, &[marked]].concat(), bos, eos, false).map_err(fail)?;
                to_mark(&text).ok_or_else(|| Problem::ChatTemplate { what: "it leaves out the last message".into() })
            }
            _ => render(template, messages, bos, eos, true).map_err(fail),
        }
    }
}

/// The text before the mark.
fn to_mark(text: &str) -> Option<String> {
    let at = text.rfind(MARK.trim_end())?;
    Some(if text[at..].starts_with(MARK) { &text[..at] } else { text[..at].trim_end() }.to_owned())
}

/// The template's text, with the settings of transformers: blocks take the line feed behind them and the blanks before.
fn render(template: &str, messages: &[Message], bos: &str, eos: &str, generate: bool) -> Result<String, Error> {
    let mut environment = Environment::new();
    environment.set_fuel(Some(FUEL));
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_unknown_method_callback(pycompat::unknown_method_callback);
    environment.add_function("raise_exception", |what: String| -> Result<(), Error> {
        Err(Error::new(ErrorKind::InvalidOperation, what))
    });
    let said = |Message { role, content }: &Message| context! { role => role.as_str(), content => content.as_str() };
    let messages: Vec<Value> = messages.iter().map(said).collect();
    let context = context! { messages, bos_token => bos, eos_token => eos, add_generation_prompt => generate };
    environment.render_str(template, context)
}

fn one_line(error: &Error) -> String {
    let detail = error.detail().map_or(String::new(), |detail| format!(": {detail}"));
    format!("{}{detail}", error.kind()).replace('\n', " ")
}

/// The template in a `tokenizer_config.json`: one text, or the one called `default` of several.
pub(crate) fn of_settings(settings: &serde_json::Value) -> Option<String> {
    let template = &settings["chat_template"];
    let named = || template.as_array()?.iter().find(|entry| entry["name"] == "default")?["template"].as_str();
    template.as_str().or_else(named).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(template: &str, contents: &[&str]) -> String {
        let messages: Vec<Message> = contents.iter().map(|&content| Message::user(content)).collect();
        render(template, &messages, "<s>", "</s>", true).unwrap()
    }

    #[test]
    fn templates_are_rendered_as_transformers_does() {
        let chatml = "{% for m in messages %}{{'<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
        let want = "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n";
        assert_eq!(rendered(chatml, &["hello"]), want);
        let blocks = "{{ bos_token }}\n  {% for m in messages %}\n  [{{ m.content.strip() }}]\n  {% endfor %}\nend";
        assert_eq!(rendered(blocks, &[" a ", "b"]), "<s>\n  [a]\n  [b]\nend");
        let endless = "{% for a in range(9999) %}{% for b in range(9999) %}{{ a }}{% endfor %}{% endfor %}";
        assert!(one_line(&render(endless, &[], "", "", true).unwrap_err()).contains("fuel"));
        let refused = render("{{ raise_exception('one turn only') }}", &[], "", "", true).unwrap_err();
        assert_eq!(one_line(&refused), "invalid operation: one turn only");
    }

    #[test]
    fn an_answer_that_was_begun_stays_open() {
        let said = [Message::user("a"), Message::assistant(format!("b\n{MARK}"))];
        let keeps = "{% for m in messages %}<{{ m.content }}>{% endfor %}";
        let trims = "{% for m in messages %}<{{ m.content | trim }}>{% endfor %}";
        let open = |template| to_mark(&render(template, &said, "", "", false).unwrap()).unwrap();
        assert_eq!((open(keeps), open(trims)), ("<a><b\n".to_owned(), "<a><b".to_owned()));
        assert_eq!(to_mark("<a>"), None);
    }

    #[test]
    fn the_default_of_several_templates_is_taken() {
        let of = |json: &str| of_settings(&serde_json::from_str(json).unwrap());
        assert_eq!(of(r#"{"chat_template": "x"}"#).as_deref(), Some("x"));
        let two = r#"{"chat_template": [{"name": "tool", "template": "t"}, {"name": "default", "template": "d"}]}"#;
        assert_eq!(of(two).as_deref(), Some("d"));
        assert_eq!(of("{}"), None);
    }
}
