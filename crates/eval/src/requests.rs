//! From a task's documents to requests: contexts and continuations, to the character as the harness builds them
//! (`ConfigurableTask` in its `api/task.py`).

use crate::dataset::{self, Document};
use crate::encode::{Encoder, Request};
use crate::fewshot::Examples;
use crate::task_file::{ChoiceField, TextField};
use crate::template::{self, Written};
use crate::{EvalError, OutputType, Task};
use minijinja::Environment;
use minijinja::value::{Serde, Value};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// What of a task is evaluated.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Only so many documents, the first ones.
    pub limit: Option<usize>,
    /// So many examples before each, where the task does not forbid it.
    pub shots: Option<usize>,
}

/// A document as the task sees it.
#[derive(Clone, Debug)]
pub struct Item {
    /// Its index in the split.
    pub doc_id: usize,
    /// Its columns.
    pub document: serde_json::Map<String, serde_json::Value>,
    /// The choices; of tasks without choices, the one text that is scored.
    pub choices: Vec<String>,
    /// What is scored: contexts and continuations, one pair a choice.
    pub pairs: Vec<(String, String)>,
    /// The right choice, if it is one of them.
    pub gold: Option<usize>,
    /// The target as the task file gives it: an index, or a text.
    pub target: serde_json::Value,
    /// Which choices are true, where there may be several.
    pub labels: Option<Vec<bool>>,
    /// Words and bytes that a perplexity is per.
    pub size: (usize, usize),
    /// Requests of each pair, as a range of the task's requests (several only for long texts).
    pub requests: Vec<Range<usize>>,
}

/// A task's documents and requests.
pub struct TaskRequests {
    /// The task.
    pub task: Arc<Task>,
    /// Examples before each document.
    pub shots: usize,
    /// Documents of the split, evaluated or not.
    pub documents: usize,
    /// The documents that are evaluated.
    pub items: Vec<Item>,
    /// What the model is asked.
    pub requests: Vec<Request>,
    /// Requests whose context was cut from the left.
    pub truncated: usize,
}

/// A rendered text, or the index that it is.
enum Rendered {
    Index(i64),
    Text(String),
}

/// The fields of a task, ready to be rendered.
struct Templates<'t> {
    task: &'t Task,
    columns: Vec<String>,
    path: &'t Path,
    text: Environment<'static>,
    json: Environment<'static>,
}

/// A document, and where errors say that it is.
struct Place<'d> {
    document: &'d Document,
    value: Value,
    index: usize,
}

impl TaskRequests {
    /// Reads a task's documents from a data folder and builds its requests.
    ///
    /// # Errors
    /// Data files that are missing or damaged, templates that fail, continuations that do not fit.
    pub fn build(
        task: &Arc<Task>,
        folder: &Path,
        options: Options,
        encoder: &mut Encoder<'_>,
    ) -> Result<Self, EvalError> {
        let split = dataset::read(folder, task, task.split())?;
        let shots = task.shots(options.shots);
        let drawn = if task.output_type == OutputType::LoglikelihoodRolling { 0 } else { shots }; // they have no context
        let pool = match drawn {
            0 => Vec::new(),
            _ if task.example_split() == task.split() => split.documents.clone(),
            _ => dataset::read(folder, task, task.example_split())?.documents,
        };
        let mut examples = Examples::new(task, pool, drawn);
        let templates = Templates::new(task, &split.path, &split.documents[0])?;
        let documents = split.documents.len();
        let count = options.limit.unwrap_or(documents).min(documents);
        let mut built = Self {
            task: Arc::clone(task),
            shots,
            documents,
            items: Vec::with_capacity(count),
            requests: Vec::new(),
            truncated: 0,
        };
        for (index, document) in split.documents.into_iter().take(count).enumerate() {
            let mut item = templates.item(index, document, &mut examples)?;
            built.encode(&mut item, encoder)?;
            built.items.push(item);
        }
        Ok(built)
    }

    fn encode(&mut self, item: &mut Item, encoder: &mut Encoder<'_>) -> Result<(), EvalError> {
        for (context, continuation) in &item.pairs {
            let first = self.requests.len();
            if self.task.output_type == OutputType::LoglikelihoodRolling {
                self.requests.extend(encoder.rolling(continuation));
            } else {
                let greedy = self.task.output_type == OutputType::Loglikelihood;
                let (request, cut) = encoder.pair(context, continuation, greedy).map_err(|tokens| {
                    let text = continuation.chars().take(40).collect();
                    let most = encoder.context();
                    EvalError::Continuation { task: self.task.name.clone(), document: item.doc_id, text, tokens, most }
                })?;
                self.truncated += usize::from(cut > 0);
                self.requests.push(request);
            }
            item.requests.push(first..self.requests.len());
        }
        Ok(())
    }
}

impl<'t> Templates<'t> {
    fn new(task: &'t Task, path: &'t Path, first: &Document) -> Result<Self, EvalError> {
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
        let fields = [
            ("description", Some(task.description.as_str()), false),
            ("doc_to_text", source(&task.doc_to_text), false),
            ("doc_to_target", source(&task.doc_to_target), false),
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
            let known = |name: &&String| !columns.contains(name) && name.as_str() != "namespace";
            let missing = names.unwrap_or_default().iter().filter(known).min().cloned();
            // A field that is one word is a column; in the harness a missing one would silently be that word.
            let is_word = !source.is_empty() && source.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            let word = (is_word && field != "description").then(|| source.to_owned());
            if let Some(column) = missing.or(word) {
                let (path, found) = (path.to_owned(), columns.join(", "));
                return Err(EvalError::MissingColumn { task: task.name.clone(), field, column, path, found });
            }
        }
        Ok(Self { task, columns, path, text, json })
    }

    fn item(&self, index: usize, document: Document, examples: &mut Examples) -> Result<Item, EvalError> {
        let task = self.task;
        let place = self.place(index, &document)?;
        let mut before = self.text_of("description", &task.description, &place)?;
        for example in examples.draw(task, &document)? {
            before.push_str(&self.example(&self.place(index, example)?)?);
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
            OutputType::MultipleChoice => self.ask_choices(&mut item, &before, question, target, &place)?,
            OutputType::Loglikelihood => {
                let (question, target) = (question.into_text(), target.into_text());
                item.choices = vec![target.clone()];
                item.pairs = vec![(before + &question, target)];
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

    /// Contexts, continuations and the right one. A question that is a number means that the choices are contexts, the
    /// number is the right one, and the target is the continuation of all.
    fn ask_choices(
        &self,
        item: &mut Item,
        before: &str,
        question: Rendered,
        target: Rendered,
        place: &Place<'_>,
    ) -> Result<(), EvalError> {
        let delimiter = &self.task.target_delimiter;
        if item.choices.is_empty() || item.choices.iter().any(String::is_empty) {
            return Err(self.fails("doc_to_choice", place, "it gives no choice, or an empty one".into()));
        }
        let right = match question {
            Rendered::Index(right) => {
                let continuation = format!("{delimiter}{}", target.into_text());
                item.pairs =
                    item.choices.iter().map(|choice| (format!("{before}{choice}"), continuation.clone())).collect();
                Rendered::Index(right)
            }
            Rendered::Text(question) => {
                let context = format!("{before}{question}");
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

    /// An example: question, delimiter, answer, and the delimiter of examples.
    fn example(&self, place: &Place<'_>) -> Result<String, EvalError> {
        let task = self.task;
        let choices = self.choices(place)?;
        let choice = |index: i64| {
            let chosen = usize::try_from(index).ok().and_then(|index| choices.get(index).cloned());
            chosen.ok_or_else(|| self.fails("doc_to_target", place, format!("there is no choice {index}")))
        };
        let question = self.field("doc_to_text", &task.doc_to_text, place)?;
        let target = self.field("doc_to_target", &task.doc_to_target, place)?;
        let (question, answer) = match (question, target) {
            (Rendered::Index(index), target) => (choice(index)?, target.into_text()),
            (Rendered::Text(question), Rendered::Index(index)) if !choices.is_empty() => (question, choice(index)?),
            (Rendered::Text(question), target) => (question, target.into_text()),
        };
        if answer.is_empty() {
            return Ok(question);
        }
        Ok(format!("{question}{}{answer}{}", task.target_delimiter, task.fewshot_delimiter))
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

    fn place<'d>(&self, index: usize, document: &'d Document) -> Result<Place<'d>, EvalError> {
        if let Some(column) = self.columns.iter().find(|column| !document.contains_key(column.as_str())) {
            let problem = format!("it lacks the column {column} (in {})", self.path.display());
            return Err(EvalError::Document { task: self.task.name.clone(), field: "data", document: index, problem });
        }
        Ok(Place { document, value: Value::from(Serde(document)), index })
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

impl Rendered {
    fn into_text(self) -> String {
        match self {
            Self::Index(index) => index.to_string(),
            Self::Text(text) => text,
        }
    }
}

/// `len(re.split(r"\s+", text))`: stretches between white space, empty ones at the ends included.
fn words(text: &str) -> usize {
    let mut stretches = 1;
    let mut in_space = false;
    for c in text.chars() {
        let space = crate::python::is_space(c);
        stretches += usize::from(space && !in_space);
        in_space = space;
    }
    stretches
}
