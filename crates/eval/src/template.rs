//! Templates of task files: Jinja with the methods of Python's texts and lists, as the harness renders them.

use crate::python;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Value, ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind, Output, State, UndefinedBehavior};
use minijinja_contrib::pycompat;
use regex::Regex;
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{LazyLock, Mutex};

/// How values are written into the text.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Written {
    /// As Python's `str` does.
    Text,
    /// Lists as JSON, so that they can be read back.
    Json,
}

/// An environment whose templates behave as the harness's: undefined names are errors, a last line feed is kept.
pub(crate) fn environment(written: Written) -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    let syntax = SyntaxConfig::builder().keep_trailing_newline(true).build();
    environment.set_syntax(syntax.unwrap_or_default()); // only delimiters can be invalid
    environment.add_filter("regex_replace", regex_replace);
    environment.add_filter("capitalize", |text: Cow<'_, str>| python::capitalize(&text));
    environment.set_unknown_method_callback(method);
    environment.set_formatter(move |out: &mut Output<'_>, _: &mut State<'_, '_>, value: &Value| {
        if value.is_undefined() {
            return Err(Error::from(ErrorKind::UndefinedError));
        }
        let done = match written {
            Written::Json if matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable) => {
                let text = serde_json::to_string(value)
                    .map_err(|error| Error::new(ErrorKind::BadSerialization, error.to_string()))?;
                out.write_str(&text)
            }
            _ => python::write_str(out, value, false),
        };
        done.map_err(|_| Error::from(ErrorKind::WriteFailure))
    });
    environment
}

/// What went wrong, in one line.
pub(crate) fn problem(error: &Error) -> String {
    let detail = error.detail().map_or(String::new(), |detail| format!(": {detail}"));
    format!("{}{detail}", error.kind()).replace('\n', " ")
}

/// Methods of Python that texts and lists lack: white space is Python's, and `list.index`.
fn method(state: &mut State<'_, '_>, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    let text = value.as_str();
    match (text, method) {
        (Some(text), "strip" | "lstrip" | "rstrip") if args.is_empty() => {
            let text = if method == "rstrip" { text } else { text.trim_start_matches(python::is_space) };
            Ok(Value::from(if method == "lstrip" { text } else { text.trim_end_matches(python::is_space) }))
        }
        (Some(text), "split") if args.is_empty() => {
            Ok(text.split(python::is_space).filter(|word| !word.is_empty()).map(Value::from).collect())
        }
        (Some(text), "capitalize") => Ok(Value::from(python::capitalize(text))),
        (None, "index") => {
            let (wanted,): (&Value,) = from_args(args)?;
            let position = value.try_iter()?.position(|item| item == *wanted);
            position.map(Value::from).ok_or_else(|| {
                Error::new(ErrorKind::InvalidOperation, format!("{wanted:?} is not in the list {value}"))
            })
        }
        _ => pycompat::unknown_method_callback(state, value, method, args),
    }
}

static PATTERNS: LazyLock<Mutex<HashMap<String, Regex>>> = LazyLock::new(Mutex::default);

/// `re.sub(pattern, replacement, text)`, for patterns that mean the same in both languages.
fn regex_replace(text: Cow<'_, str>, pattern: &str, replacement: &str) -> Result<String, Error> {
    let invalid = |error: &dyn std::fmt::Display| {
        Error::new(ErrorKind::InvalidOperation, format!("the pattern {pattern:?} cannot be used ({error})"))
    };
    let mut patterns = PATTERNS.lock().map_err(|_| invalid(&"a thread failed"))?;
    if !patterns.contains_key(pattern) {
        // Python's white space has four characters more.
        let compiled = Regex::new(&pattern.replace(r"\s", r"[\s\x1c-\x1f]")).map_err(|error| {
            let last = error.to_string();
            invalid(&last.lines().last().unwrap_or_default())
        })?;
        patterns.insert(pattern.to_owned(), compiled);
    }
    Ok(patterns[pattern].replace_all(&text, groups(replacement).as_str()).into_owned())
}

/// A replacement as Python writes it (`\1`, `\\`) in the form of the regex crate (`${1}`, `\`).
fn groups(replacement: &str) -> String {
    let mut out = String::new();
    let mut chars = replacement.chars();
    while let Some(c) = chars.next() {
        match c {
            '$' => out.push_str("$$"),
            '\\' => match chars.next() {
                Some(digit @ '0'..='9') => out.push_str(&format!("${{{digit}}}")),
                Some('n') => out.push('\n'),
                Some(other) => out.push(other),
                None => out.push('\\'),
            },
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use minijinja::value::Serde;

    fn render(template: &str, document: serde_json::Value) -> String {
        environment(Written::Text)
            .render_str(template, Value::from(Serde(document)))
            .map_err(|error| problem(&error))
            .unwrap()
    }

    /// Each as Jinja2 3.1 renders it.
    #[test]
    fn templates_render_as_in_python() {
        let document = serde_json::json!({"a": " x\u{1f}", "l": ["p", "q"], "n": 3, "t": true, "d": {"text": ["u"]}});
        for (template, expected) in [
            ("{{a.strip()}}|{{a.lstrip()}}|", "x|x\u{1f}|"),
            ("{{l.index('q')}}{{n}}{{t}}{{none}}", "13TrueNone"),
            ("{{l}} {{d.text}}\n", "['p', 'q'] ['u']\n"),
            ("{{'a b  c'.split(' ')[:-1]|join(' ')}}", "a b "),
            ("{{'a b\tc'.split()|length}}{{'xyz'[1:]}}{{'xyz'[0]}}", "3yzx"),
            ("{{'aXbX'|replace('X', '')}}{{'hE'.capitalize()}}{{'hE'|capitalize}}", "abHeHe"),
            (r#"{{"( a ) it 's $5 ,"|regex_replace("\\(\\s*([^\\)]*?)\\s*\\)", "(\\1)")}}"#, "(a) it 's $5 ,"),
            (r#"{{"a .b"|regex_replace(" (['.,])", "\\1$")}}"#, "a.$b"),
        ] {
            assert_eq!(render(template, document.clone()), expected, "{template}");
        }
    }

    #[test]
    fn undefined_names_and_bad_patterns_are_errors() {
        for template in ["{{nothing}}", "{{a.b.c}}", "{{'x'|regex_replace('(', '')}}", "{{['a'].index('b')}}"] {
            let error =
                environment(Written::Text).render_str(template, Value::from(Serde(serde_json::json!({"a": {}}))));
            let message = problem(&error.unwrap_err());
            assert!(!message.contains('\n') && message.len() > 8, "{message}");
        }
    }
}
