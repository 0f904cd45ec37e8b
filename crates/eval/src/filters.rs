//! From what a model wrote to what is measured: the harness's filters, and its `exact_match`.

use crate::dataset::Document;
use crate::python;
use crate::task_file::{FilterField, MetricField, StepField};
use crate::template::{self, Written};
use fancy_regex::Regex;
use minijinja::value::{Serde, Value};
use std::collections::BTreeMap;

/// A named chain of steps.
#[derive(Clone, Debug)]
pub(crate) struct Filter {
    pub(crate) name: String,
    steps: Vec<Step>,
}

#[derive(Clone, Debug)]
enum Step {
    /// The `group`-th match, counted from the end if negative, else `fallback`.
    Regex {
        regex: Regex,
        group: i64,
        fallback: String,
    },
    TakeFirst(usize),
    MajorityVote,
    RemoveWhitespace,
    Lowercase,
    Uppercase,
    Map {
        to: BTreeMap<String, String>,
        default: String,
    },
    /// Ours: a template over the document's columns and `response`.
    Template(String),
}

/// Python's `re` in the writing of another library: its white space has four characters more, and `$` also stands
/// before a last line feed.
fn pattern(python: &str) -> Result<Regex, String> {
    let mut out = String::new();
    let (mut in_class, mut chars) = (false, python.chars());
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('s') => out.push_str(if in_class { r"\s\x1c-\x1f" } else { r"[\s\x1c-\x1f]" }),
                Some('Z') => out.push_str(r"\z"),
                next => out.extend(std::iter::once('\\').chain(next)),
            },
            '[' if in_class => out.push_str(r"\["),
            '[' | ']' => {
                in_class = c == '[';
                out.push(c);
            }
            '$' if !in_class => out.push_str(r"(?=\n?\z)"),
            '&' | '~' if in_class => out.extend(['\\', c]),
            c => out.push(c),
        }
    }
    Regex::new(&out).map_err(|error| {
        let problem = error.to_string().replace('\n', " ");
        format!("the pattern {python:?} cannot be used ({problem})")
    })
}

impl Filter {
    /// What tasks without a filter have.
    pub(crate) fn take_first() -> Self {
        Self { name: "none".into(), steps: vec![Step::TakeFirst(1)] }
    }

    pub(crate) fn new(field: &FilterField) -> Result<Self, String> {
        let steps = field.filter.iter().map(Step::new).collect::<Result<_, _>>();
        let steps = steps.map_err(|problem| format!("filter {}: {problem}", field.name))?;
        Ok(Self { name: field.name.clone(), steps })
    }

    /// Whether it leaves a list, even if of one text.
    pub(crate) fn leaves_list(&self) -> bool {
        !self.steps.iter().any(|step| matches!(step, Step::TakeFirst(1)))
    }

    /// What is left of the texts that were generated for one document.
    ///
    /// # Errors
    /// A sentence about a template that fails.
    pub(crate) fn apply(&self, responses: &[String], document: &Document) -> Result<Vec<String>, String> {
        self.steps.iter().try_fold(responses.to_vec(), |responses, step| step.apply(responses, document))
    }
}

impl Step {
    fn new(field: &StepField) -> Result<Self, String> {
        Ok(match field.function.as_str() {
            "regex" => Self::Regex {
                regex: pattern(field.regex_pattern.as_deref().unwrap_or(r"#### (\-?[0-9\.\,]+)"))?,
                group: field.group_select.unwrap_or(0),
                fallback: field.fallback.clone().unwrap_or_else(|| "[invalid]".into()),
            },
            "take_first" => Self::TakeFirst(1),
            "take_first_k" => Self::TakeFirst(field.k.ok_or("take_first_k needs `k`")?),
            "majority_vote" => Self::MajorityVote,
            "remove_whitespace" => Self::RemoveWhitespace,
            "lowercase" => Self::Lowercase,
            "uppercase" => Self::Uppercase,
            "map" => Self::Map {
                to: field.mapping_dict.clone().ok_or("map needs `mapping_dict`")?,
                default: field.default_value.clone().unwrap_or_default(),
            },
            "template" => Self::Template(field.template.clone().ok_or("template needs `template`")?),
            other => {
                let known = "regex, take_first, take_first_k, majority_vote, remove_whitespace, lowercase, uppercase, map and template";
                return Err(format!("the function {other:?} is unknown; there are {known}"));
            }
        })
    }

    fn apply(&self, mut responses: Vec<String>, document: &Document) -> Result<Vec<String>, String> {
        let of_each = |change: &dyn Fn(&str) -> String| responses.iter().map(|text| change(text)).collect();
        Ok(match self {
            Self::Regex { regex, group, fallback } => {
                of_each(&|text| select(regex, text, *group).unwrap_or_else(|| fallback.clone()))
            }
            Self::TakeFirst(count) => {
                responses.truncate(*count);
                responses
            }
            Self::MajorityVote => {
                let votes = |text: &String| responses.iter().filter(|other| *other == text).count();
                let most = responses.iter().map(votes).max();
                let winner = responses.iter().find(|text| Some(votes(text)) == most).cloned(); // the first of equals
                winner.into_iter().collect()
            }
            Self::RemoveWhitespace => of_each(&|text| strip(text).to_owned()),
            Self::Lowercase => of_each(&str::to_lowercase),
            Self::Uppercase => of_each(&str::to_uppercase),
            Self::Map { to, default } => of_each(&|text| to.get(text).unwrap_or(default).clone()),
            Self::Template(source) => {
                let environment = template::environment(Written::Text);
                let render = |response: &String| {
                    let mut columns = document.clone();
                    columns.insert("response".into(), response.clone().into());
                    let rendered = environment.render_str(source, Value::from(Serde(&columns)));
                    rendered.map_err(|error| template::problem(&error))
                };
                responses.iter().map(render).collect::<Result<_, _>>()?
            }
        })
    }
}

fn strip(text: &str) -> &str {
    text.trim_matches(python::is_space)
}

/// `findall(text)[group]`: with several groups in the pattern, the first that is not empty; without white space around.
fn select(regex: &Regex, text: &str, group: i64) -> Option<String> {
    let found: Vec<_> = regex.captures_iter(text).map_while(Result::ok).collect();
    let index = if group < 0 { found.len().checked_sub(group.unsigned_abs() as usize)? } else { group as usize };
    let captures = found.get(index)?;
    let groups: Vec<&str> = (1..captures.len()).map(|i| captures.get(i).map_or("", |group| group.as_str())).collect();
    let chosen = match groups.as_slice() {
        [] => captures.get(0)?.as_str(),
        [one] => one,
        several => several.iter().find(|group| !group.is_empty())?,
    };
    Some(strip(chosen).to_owned())
}

/// What `exact_match` ignores.
#[derive(Clone, Debug, Default)]
pub(crate) struct ExactMatch {
    regexes: Vec<Regex>,
    case: bool,
    punctuation: bool,
    numbers: bool,
}

impl ExactMatch {
    pub(crate) fn new(field: &MetricField) -> Result<Self, String> {
        let regexes = field.regexes_to_ignore.iter().map(|regex| pattern(regex)).collect::<Result<_, _>>();
        Ok(Self {
            regexes: regexes.map_err(|problem| format!("exact_match: {problem}"))?,
            case: field.ignore_case,
            punctuation: field.ignore_punctuation,
            numbers: field.ignore_numbers,
        })
    }

    /// Whether a response is the target.
    pub(crate) fn holds(&self, response: &str, target: &str) -> bool {
        self.normalized(response) == self.normalized(target)
    }

    fn normalized(&self, text: &str) -> String {
        let text = self.regexes.iter().fold(text.to_owned(), |text, regex| regex.replace_all(&text, "").into_owned());
        let mut text = if self.case { text.to_lowercase() } else { text };
        text.retain(|c| !(self.punctuation && c.is_ascii_punctuation() || self.numbers && c.is_ascii_digit()));
        // numpy, which the harness compares with, drops null characters at the end of texts.
        text.truncate(text.trim_end_matches('\0').len());
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(function: &str, regex: &str, group: i64) -> Filter {
        let step = StepField {
            function: function.into(),
            regex_pattern: Some(regex.into()),
            group_select: Some(group),
            ..StepField::default()
        };
        Filter::new(&FilterField { name: "f".into(), filter: vec![step] }).unwrap()
    }

    fn apply(filter: &Filter, texts: &[&str]) -> Vec<String> {
        let texts: Vec<String> = texts.iter().map(|&text| text.into()).collect();
        filter.apply(&texts, &Document::new()).unwrap()
    }

    /// Each as lm-evaluation-harness 0.4.13 filters it.
    #[test]
    fn patterns_select_what_the_harness_selects() {
        let strict = step("regex", r"#### (\-?[0-9\.\,]+)", 0);
        let texts = ["so 3+4 = 7\n#### 7\n\n#### 8", "#### -1,234.5 ducks", "7", "#### x"];
        assert_eq!(apply(&strict, &texts), ["7", "-1,234.5", "[invalid]", "[invalid]"]);
        let flexible = step("regex", "(-?[$0-9.,]{2,})|(-?[0-9]+)", -1);
        let texts = ["She has $18. It is 5 more", "a 7, then $1,200.50.", "nothing", "ends in ..", "-3"];
        assert_eq!(apply(&flexible, &texts), ["5", "$1,200.50.", "[invalid]", "..", "-3"]);
        assert_eq!(apply(&step("regex", r"a\s$", 0), &["a\u{1c}\n", "a\u{1c}b"]), ["a", "[invalid]"]);
    }

    #[test]
    fn the_other_filters_do_what_their_names_say() {
        assert_eq!(apply(&step("majority_vote", "", 0), &["a", "b", "b", "a", "c"]), ["a"]);
        assert_eq!(apply(&step("take_first", "", 0), &["a", "b"]), ["a"]);
        assert_eq!(apply(&step("remove_whitespace", "", 0), &[" a\u{1f}\n", "b "]), ["a", "b"]);
        assert_eq!(apply(&step("uppercase", "", 0), &["aß"]), ["ASS"]);
        let unknown = StepField { function: "pos".into(), ..StepField::default() };
        let refused = Filter::new(&FilterField { name: "f".into(), filter: vec![unknown] }).unwrap_err();
        assert!(refused.starts_with("filter f: the function \"pos\" is unknown; there are regex"), "{refused}");
    }

    #[test]
    fn templates_see_the_document_and_the_text() {
        let template = Some("{{prompt}}{{response.split('```')[0]}}".into());
        let step = StepField { function: "template".into(), template, ..StepField::default() };
        let filter = Filter::new(&FilterField { name: "f".into(), filter: vec![step] }).unwrap();
        let document = serde_json::from_str(r#"{"prompt": "def f():\n"}"#).unwrap();
        let texts = ["    return 1\n```\nbye".to_owned(), "  pass".to_owned()];
        assert_eq!(filter.apply(&texts, &document).unwrap(), ["def f():\n    return 1\n", "def f():\n  pass"]);
    }

    #[test]
    fn what_is_ignored_does_not_count() {
        let gsm8k = ExactMatch {
            regexes: [",", r"\$", "(?s).*#### ", r"\.$"].iter().map(|regex| pattern(regex).unwrap()).collect(),
            case: true,
            ..ExactMatch::default()
        };
        assert!(gsm8k.holds("$1,200.", "a\nb\n#### 1200"));
        assert!(!gsm8k.holds("1200.50", "#### 1200"));
        let loose = ExactMatch { punctuation: true, numbers: true, ..ExactMatch::default() };
        assert!(loose.holds("a-1b!", "ab") && !loose.holds("A", "a"));
    }
}
