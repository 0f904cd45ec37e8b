//! The fields of a task file applied to a document: to the character as the harness does (`ConfigurableTask` in its
//! `api/task.py`).

use crate::dataset::Document;
use crate::fewshot::Examples;
use crate::python::{requires_delimiter, words};
use crate::requests::Item;
use crate::task_file::{ChoiceField, TextField};
use crate::template::{self, Written};
use crate::turns::{self, Turn};
use crate::{EvalError, OutputType, Task};
use minijinja::Environment;
use minijinja::value::{Serde, Value};
use std::path::Path;
use tokenizer::{Message, Tokenizer};

/// Names of the fields that examples may have of their own.
const EXAMPLE_TEXT: &str = "fewshot_config.doc_to_text";
const EXAMPLE_TARGET: &str = "fewshot_config.doc_to_target";

const QUERY: &str = "doc_to_decontamination_query";

/// A rendered text, or the index that it is.
enum Rendered {
    Index(i64),
    Text(String),
}

/// The fields of a task, ready to be rendered.
pub(crate) struct Templates<'t> {
    task: &'t Task,
    columns: Vec<String>,
    path: &'t Path,
    text: Environment<'static>,
    json: Environment<'static>,
    /// Whose chat template contexts are written with.
    chat: Option<&'t Tokenizer>,
}

/// A document, and where errors say that it is.
struct Place<'d> {
    document: &'d Document,
    value: Value,
    index: usize,
}

impl<'t> Templates<'t> {
    /// The fields of `task`, whose documents (the `first` is one of them) are in `path`, and a `query` if there is to be
    /// one.
    ///
    /// # Errors
    /// Fields that are no templates, or need columns that the documents lack.
    pub(crate) fn new(
        task: &'t Task,
        path: &'t Path,
        first: &Document,
        query: Option<&'t str>,
    ) -> Result<Self, EvalError> {
        let (mut text, mut json) = (template::environment(Written::Text), template::environment(Written::Json));
        let columns: Vec<String> = first.keys().cloned().collect();
        let choices = match &task.doc_to_choice {
            Some(ChoiceField::Text(choices)) => Some(choices.as_str()),
            _ => None,
        };
        let source = |field: &'t TextField| match field {
            TextField::Text(text) => Some(text.as_str()),
            TextField::Number(_) => None,
        };
        let own = task.example_fields();
        let fields = [
            ("description", Some(task.description.as_str()), false),
            ("doc_to_text", source(&task.doc_to_text), false),
            ("doc_to_target", source(&task.doc_to_target), false),
            (EXAMPLE_TEXT, source(own.0), false),
            (EXAMPLE_TARGET, source(own.1), false),
            ("gen_prefix", task.gen_prefix.as_deref(), false),
            (QUERY, query, false),
            ("doc_to_choice", choices, true),
            ("doc_to_count", task.doc_to_count.as_deref(), false),
            ("doc_to_labels", task.doc_to_labels.as_deref(), true),
        ];
        for (field, source, list) in fields {
            let Some(source) = source.filter(|source| !columns.iter().any(|column| column == source)) else { continue };
            let environment = if list { &mut json } else { &mut text };
            environment.add_template_owned(field, source.to_owned()).map_err(|error| EvalError::TaskFile {
                file: format!("task {}", task.name),
                problem: format!("{field}: {}", template::problem(&error)),
            })?;
            let names = environment.get_template(field).map(|template| template.undeclared_variables(false));
            let of_example = |name: &String| task.samples.first().is_some_and(|sample| sample.contains_key(name));
            let known = |name: &&String| !columns.contains(name) && name.as_str() != "namespace" && !of_example(name);
            let missing = names.unwrap_or_default().iter().filter(known).min().cloned();
            // A field that is one word is a column; in the harness a missing one would silently be that word.
            let is_word = !source.is_empty() && source.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            let word = (is_word && !["description", "gen_prefix"].contains(&field)).then(|| source.to_owned());
            if let Some(column) = missing.or(word) {
                let (path, found) = (path.to_owned(), columns.join(", "));
                return Err(EvalError::MissingColumn { task: task.name.clone(), field, column, path, found });
            }
        }
        Ok(Self { task, columns, path, text, json, chat: None })
    }

    /// The same, with contexts as chats.
    pub(crate) fn with_chat(self, chat: Option<&'t Tokenizer>) -> Self {
        Self { chat, ..self }
    }

    /// The document at `index` as the task sees it, after the examples that are drawn for it.
    ///
    /// # Errors
    /// Templates that fail, too few examples.
    pub(crate) fn item(&self, index: usize, document: Document, examples: &mut Examples) -> Result<Item, EvalError> {
        let task = self.task;
        self.check_columns(index, &document)?;
        let place = Place::new(index, &document);
        let description = self.text_of("description", &task.description, &place)?;
        let mut turns = Vec::new();
        if !description.is_empty() {
            turns.push(Turn::new(Message::system(description), ""));
        }
        for example in examples.draw(task, &document)? {
            if task.samples.is_empty() {
                self.check_columns(index, example)?;
            }
            turns.extend(self.example(&Place::new(index, example))?);
        }
        let mut item = Item {
            doc_id: index,
            choices: self.choices(&place)?,
            pairs: Vec::new(),
            gold: None,
            target: serde_json::Value::Null,
            labels: self.labels(&place)?,
            size: (0, 0),
            requests: Vec::new(),
            document: Document::new(),
        };
        let question = self.field("doc_to_text", &task.doc_to_text, &place)?;
        let target = self.field("doc_to_target", &task.doc_to_target, &place)?;
        item.target = match &target {
            Rendered::Index(index) => (*index).into(),
            Rendered::Text(text) => text.clone().into(),
        };
        match task.output_type {
            OutputType::MultipleChoice => self.ask_choices(&mut item, &turns, question, target, &place)?,
            OutputType::Loglikelihood => {
                let (question, target) = (question.into_text(), target.into_text());
                item.choices = vec![target.clone()];
                item.pairs = vec![(self.context(&turns, question, &place)?, target)];
            }
            OutputType::GenerateUntil => {
                let question = question.into_text();
                let prefix = self.prefix(&place)?;
                let delimiter =
                    if requires_delimiter(&question, &prefix) { task.target_delimiter.as_str() } else { "" };
                let target = match target {
                    Rendered::Index(index) if !item.choices.is_empty() => self.choice(&item.choices, index, &place)?,
                    target => target.into_text(),
                };
                item.target = target.into();
                turns.push(Turn::new(Message::user(question), delimiter));
                if !prefix.is_empty() {
                    turns.push(Turn::new(Message::assistant(prefix), ""));
                }
                item.pairs = vec![(self.render_turns(&turns, &place)?, String::new())];
            }
            OutputType::LoglikelihoodRolling => {
                let text = target.into_text();
                let counted = match &task.doc_to_count {
                    Some(field) => self.text_of("doc_to_count", field, &place)?,
                    None => text.clone(),
                };
                item.size = (words(&counted), counted.len());
                item.choices = vec![text.clone()];
                item.pairs = vec![(String::new(), text)];
            }
        }
        drop(place);
        item.document = document;
        Ok(item)
    }

    /// The text by which the document at `index` is found in training text.
    ///
    /// # Errors
    /// Templates that fail.
    pub(crate) fn item_text(&self, index: usize, document: Document) -> Result<String, EvalError> {
        let place = Place::new(index, &document);
        if let Some(query) = &self.task.query {
            self.check_columns(index, &document)?;
            return self.text_of(QUERY, query, &place);
        }
        let description = self.text_of("description", &self.task.description, &place)?;
        drop(place);
        let item = self.item(index, document, &mut Examples::new(self.task, Vec::new(), 0))?;
        let (context, answer) = &item.pairs[item.gold.filter(|&gold| gold < item.pairs.len()).unwrap_or(0)];
        let question = context.strip_prefix(&description).unwrap_or(context);
        Ok(match self.task.output_type {
            OutputType::GenerateUntil => format!("{question} {}", item.target.as_str().unwrap_or_default()),
            _ => format!("{question}{answer}"),
        })
    }

    /// Contexts, continuations and the right one. A question that is a number means that the choices are contexts, the
    /// number is the right one, and the target is the continuation of all.
    fn ask_choices(
        &self,
        item: &mut Item,
        before: &[Turn],
        question: Rendered,
        target: Rendered,
        place: &Place<'_>,
    ) -> Result<(), EvalError> {
        // A chat's answer begins where the assistant's turn does.
        let delimiter = if self.chat.is_some() { "" } else { self.task.target_delimiter.as_str() };
        if item.choices.is_empty() || item.choices.iter().any(String::is_empty) {
            return Err(self.fails("doc_to_choice", place, "it gives no choice, or an empty one".into()));
        }
        let right = match question {
            Rendered::Index(right) => {
                let continuation = format!("{delimiter}{}", target.into_text());
                let contexts = item.choices.iter().map(|choice| self.context(before, choice.clone(), place));
                let pairs = contexts.map(|context| Ok((context?, continuation.clone())));
                item.pairs = pairs.collect::<Result<_, EvalError>>()?;
                Rendered::Index(right)
            }
            Rendered::Text(question) => {
                let context = self.context(before, question, place)?;
                let continuations = item.choices.iter().map(|choice| format!("{delimiter}{choice}"));
                item.pairs = continuations.map(|continuation| (context.clone(), continuation)).collect();
                target
            }
        };
        item.gold = match &right {
            Rendered::Index(index) => usize::try_from(*index).ok().filter(|&index| index < item.choices.len()),
            Rendered::Text(text) => item.choices.iter().position(|choice| choice == text),
        };
        if item.labels.as_ref().is_some_and(|labels| labels.len() != item.choices.len()) {
            let problem = format!("there must be one label for each of the {} choices", item.choices.len());
            return Err(self.fails("doc_to_labels", place, problem));
        }
        Ok(())
    }

    /// What the model is told before it answers a question.
    fn context(&self, before: &[Turn], question: String, place: &Place<'_>) -> Result<String, EvalError> {
        self.render_turns(&[before, &[Turn::new(Message::user(question), "")]].concat(), place)
    }

    fn render_turns(&self, turns: &[Turn], place: &Place<'_>) -> Result<String, EvalError> {
        turns::context(turns, self.chat).map_err(|problem| self.fails("--chat", place, problem.to_string()))
    }

    /// An example: question, delimiter, answer (after what texts begin with), and the delimiter of examples.
    fn example(&self, place: &Place<'_>) -> Result<Vec<Turn>, EvalError> {
        let task = self.task;
        let choices = self.choices(place)?;
        let (text, target) = task.example_fields();
        let question = self.field(EXAMPLE_TEXT, text, place)?;
        let target = self.field(EXAMPLE_TARGET, target, place)?;
        let (question, answer) = match (question, target) {
            (Rendered::Index(index), target) => (self.choice(&choices, index, place)?, target.into_text()),
            (Rendered::Text(question), Rendered::Index(index)) if !choices.is_empty() => {
                (question, self.choice(&choices, index, place)?)
            }
            (Rendered::Text(question), target) => (question, target.into_text()),
        };
        if answer.is_empty() {
            return Ok(vec![Turn::new(Message::user(question), "")]);
        }
        let prefix = self.prefix(place)?;
        let meets = prefix.is_empty() || requires_delimiter(&question, &prefix);
        let delimiter = if meets { task.target_delimiter.as_str() } else { "" };
        let space = if requires_delimiter(&prefix, &answer) { " " } else { "" };
        let answer = Message::assistant(format!("{prefix}{space}{answer}"));
        Ok(vec![Turn::new(Message::user(question), delimiter), Turn::new(answer, task.fewshot_delimiter.as_str())])
    }

    fn choice(&self, choices: &[String], index: i64, place: &Place<'_>) -> Result<String, EvalError> {
        let chosen = usize::try_from(index).ok().and_then(|index| choices.get(index).cloned());
        chosen.ok_or_else(|| self.fails("doc_to_target", place, format!("there is no choice {index}")))
    }

    /// What a text begins with; nothing for most tasks.
    fn prefix(&self, place: &Place<'_>) -> Result<String, EvalError> {
        self.task.gen_prefix.as_ref().map_or(Ok(String::new()), |field| self.text_of("gen_prefix", field, place))
    }

    fn choices(&self, place: &Place<'_>) -> Result<Vec<String>, EvalError> {
        match &self.task.doc_to_choice {
            None => Ok(Vec::new()),
            Some(ChoiceField::List(choices)) => Ok(choices.clone()),
            Some(ChoiceField::Text(field)) => self.list("doc_to_choice", field, place, "texts"),
        }
    }

    fn labels(&self, place: &Place<'_>) -> Result<Option<Vec<bool>>, EvalError> {
        let Some(field) = &self.task.doc_to_labels else { return Ok(None) };
        let labels: Vec<i64> = self.list("doc_to_labels", field, place, "0 and 1")?;
        Ok(Some(labels.into_iter().map(|label| label == 1).collect()))
    }

    /// A list: a column, or what a template writes as one.
    fn list<T: serde::de::DeserializeOwned>(
        &self,
        field: &'static str,
        source: &str,
        place: &Place<'_>,
        what: &str,
    ) -> Result<Vec<T>, EvalError> {
        let value = match place.document.get(source).filter(|_| self.is_column(source)) {
            Some(value) => value.clone(),
            None => {
                let text = self.render(&self.json, field, place)?;
                serde_json::from_str(text.trim())
                    .map_err(|_| self.fails(field, place, format!("it gives {text:?}, which is no list")))?
            }
        };
        serde_json::from_value(value).map_err(|_| self.fails(field, place, format!("it must give a list of {what}")))
    }

    /// A text or an index: a column as it is, a number of the task file, or a rendered template, which is an index if
    /// it is digits and there are choices.
    fn field(&self, field: &'static str, source: &TextField, place: &Place<'_>) -> Result<Rendered, EvalError> {
        let source = match source {
            TextField::Number(index) => return Ok(Rendered::Index(*index)),
            TextField::Text(source) => source,
        };
        if self.is_column(source) {
            return match place.document.get(source) {
                Some(serde_json::Value::String(text)) => Ok(Rendered::Text(text.clone())),
                Some(serde_json::Value::Number(index)) if index.is_i64() => {
                    Ok(Rendered::Index(index.as_i64().unwrap_or_default()))
                }
                Some(serde_json::Value::Bool(index)) => Ok(Rendered::Index(i64::from(*index))),
                other => {
                    Err(self.fails(field, place, format!("the column {source} is {other:?}, neither text nor number")))
                }
            };
        }
        let text = self.render(&self.text, field, place)?;
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        Ok(match text.parse().ok().filter(|_| digits && self.task.doc_to_choice.is_some()) {
            Some(index) => Rendered::Index(index),
            None => Rendered::Text(text),
        })
    }

    fn text_of(&self, field: &'static str, source: &str, place: &Place<'_>) -> Result<String, EvalError> {
        match place.document.get(source).filter(|_| self.is_column(source)) {
            Some(serde_json::Value::String(text)) => Ok(text.clone()),
            Some(_) => Err(self.fails(field, place, format!("the column {source} is no text"))),
            None => self.render(&self.text, field, place),
        }
    }

    fn is_column(&self, name: &str) -> bool {
        self.columns.iter().any(|column| column == name)
    }

    /// Every document must have the columns of the first.
    fn check_columns(&self, index: usize, document: &Document) -> Result<(), EvalError> {
        let Some(column) = self.columns.iter().find(|column| !document.contains_key(column.as_str())) else {
            return Ok(());
        };
        let problem = format!("it lacks the column {column} (in {})", self.path.display());
        Err(EvalError::Document { task: self.task.name.clone(), field: "data", document: index, problem })
    }

    fn render(
        &self,
        environment: &Environment<'static>,
        field: &'static str,
        place: &Place<'_>,
    ) -> Result<String, EvalError> {
        let rendered = environment.get_template(field).and_then(|template| template.render(&place.value));
        rendered.map_err(|error| self.fails(field, place, template::problem(&error)))
    }

    fn fails(&self, field: &'static str, place: &Place<'_>, problem: String) -> EvalError {
        EvalError::Document { task: self.task.name.clone(), field, document: place.index, problem }
    }
}

impl<'d> Place<'d> {
    fn new(index: usize, document: &'d Document) -> Self {
        Self { document, value: Value::from(Serde(document)), index }
    }
}

impl Rendered {
    fn into_text(self) -> String {
        match self {
            Self::Index(index) => index.to_string(),
            Self::Text(text) => text,
        }
    }
}
