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
        let template = self.chat_template().ok_or(Problem::NoChatTemplate)?;
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
        let spelling = |id: Option<u32>| id.and_then(|id| self.token_text(id)).unwrap_or_default();
        let text = render(template, messages, spelling(self.bos()), spelling(self.eos()))
            .map_err(|error| Problem::ChatTemplate { what: one_line(&error) })?;
        Ok(self.encode_with_specials(&text))
    }
}

/// The template's text, with the settings of transformers: blocks take the line feed behind them and the blanks before.
fn render(template: &str, messages: &[Message], bos: &str, eos: &str) -> Result<String, Error> {
    let mut environment = Environment::new();
    environment.set_fuel(Some(FUEL));
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_unknown_method_callback(pycompat::unknown_method_callback);
    environment.add_function("raise_exception", |what: String| -> Result<(), Error> {
        Err(Error::new(ErrorKind::InvalidOperation, what))
    });
    let said = |Message { role, content }: &Message| context! { role => role.as_str(), content => content.as_str() };
    let messages: Vec<Value> = messages.iter().map(said).collect();
    let context = context! { messages, bos_token => bos, eos_token => eos, add_generation_prompt => true };
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
        render(template, &messages, "<s>", "</s>").unwrap()
    }

    #[test]
    fn templates_are_rendered_as_transformers_does() {
        let chatml = "{% for m in messages %}{{'<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
        let want = "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n";
        assert_eq!(rendered(chatml, &["hello"]), want);
        let blocks = "{{ bos_token }}\n  {% for m in messages %}\n  [{{ m.content.strip() }}]\n  {% endfor %}\nend";
        assert_eq!(rendered(blocks, &[" a ", "b"]), "<s>\n  [a]\n  [b]\nend");
        let endless = "{% for a in range(9999) %}{% for b in range(9999) %}{{ a }}{% endfor %}{% endfor %}";
        assert!(one_line(&render(endless, &[], "", "").unwrap_err()).contains("fuel"));
        let refused = render("{{ raise_exception('one turn only') }}", &[], "", "").unwrap_err();
        assert_eq!(one_line(&refused), "invalid operation: one turn only");
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
