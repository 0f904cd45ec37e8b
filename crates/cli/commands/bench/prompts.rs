//! Prompts of the protocols: HumanEval's as AMD asks them, or questions of one JSON object a line.

use anyhow::{Context, Result, bail};
use bench::SpeculativePrompt;
use formats::file;
use serde::Deserialize;
use std::io::{BufRead, BufReader};
use std::path::Path;
use tokenizer::{Message, Tokenizer};

/// What stands before each HumanEval prompt: an instruction and one solved example in Code Llama's marks, ending in a
/// comment sign, so that the prompt's first line becomes a comment. AMD's own words come with `--prefix`.
const PREFIX: &str = "# Complete the Python function. # Write a function that adds up a list of whole numbers. [PYTHON]\n\
                      def total(numbers):\n  result = 0\n  for number in numbers:\n    result += number\n  return result\n\
                      [/PYTHON]\n#";

/// A line of a prompt file, in the layout of HumanEval or of Spec-Bench.
#[derive(Deserialize)]
struct Line {
    task_id: Option<String>,
    prompt: Option<String>,
    test: Option<String>,
    entry_point: Option<String>,
    question_id: Option<serde_json::Value>,
    category: Option<String>,
    turns: Option<Vec<String>>,
}

/// A prompt, and for HumanEval what decides whether its answer is right.
pub(super) struct Asked {
    pub(super) prompt: SpeculativePrompt,
    pub(super) check: Option<Check>,
}

/// The parts of a program that tests an answer.
pub(super) struct Check {
    prompt: String,
    test: String,
    entry_point: String,
}

impl Check {
    /// The program: as the benchmark's own, with the prompt as published.
    pub(super) fn program(&self, completion: &str) -> String {
        let Self { prompt, test, entry_point } = self;
        format!("{prompt}{completion}\n{test}\ncheck({entry_point})")
    }
}

/// The prompts of `path` (plain or gzip), at most `limit`, spread evenly over the file; with `chat` as messages of a user.
pub(super) fn read(
    path: &Path,
    prefix: Option<&Path>,
    tokenizer: &Tokenizer,
    chat: bool,
    limit: usize,
) -> Result<Vec<Asked>> {
    let prefix = prefix.map(file::read_to_string).transpose()?.unwrap_or_else(|| PREFIX.to_owned());
    let lines = lines(path)?;
    if lines.is_empty() {
        bail!("{}: no prompts in this file", path.display());
    }
    let count = limit.min(lines.len()).max(1);
    let mut prompts = Vec::with_capacity(count);
    for index in 0..count {
        let number = index * lines.len() / count;
        let line: Line = serde_json::from_str(&lines[number])
            .with_context(|| format!("{}: line {}: not a prompt", path.display(), number + 1))?;
        let mut check = None;
        let (name, category, text) = match line {
            Line { prompt: Some(prompt), task_id, test, entry_point, .. } => {
                let text = format!("{prefix}{prompt}");
                check = test.zip(entry_point).map(|(test, entry_point)| Check { prompt, test, entry_point });
                (task_id.unwrap_or_else(|| (number + 1).to_string()), "code".into(), text)
            }
            Line { turns: Some(turns), question_id, category, .. } if !turns.is_empty() => {
                let name = question_id.map_or_else(|| (number + 1).to_string(), |id| id.to_string());
                (name, category.unwrap_or_else(|| "question".into()), format!("{}\n\n", turns[0]))
            }
            _ => bail!("{}: line {}: neither `prompt` nor `turns` is there", path.display(), number + 1),
        };
        let ids = if chat {
            let message = Message::user(text.trim_end());
            tokenizer.encode_chat(&[message]).with_context(|| format!("{}: line {}", path.display(), number + 1))?
        } else {
            let bos = tokenizer.bos().filter(|_| tokenizer.adds_bos());
            bos.into_iter().chain(tokenizer.encode(&text)).collect()
        };
        prompts.push(Asked { prompt: SpeculativePrompt { name, category, ids }, check });
    }
    Ok(prompts)
}

fn lines(path: &Path) -> Result<Vec<String>> {
    /// More than any set of prompts; a packed file could unpack to anything.
    const LIMIT_BYTES: u64 = 256 << 20;
    let file = file::open_read(path)?;
    let packed = path.extension().is_some_and(|ending| ending == "gz");
    let reader: Box<dyn std::io::Read> =
        if packed { Box::new(flate2::read::MultiGzDecoder::new(file)) } else { Box::new(file) };
    let lines = BufReader::new(std::io::Read::take(reader, LIMIT_BYTES)).lines();
    let lines: Vec<String> =
        lines.collect::<Result<_, _>>().with_context(|| format!("{}: cannot be read", path.display()))?;
    Ok(lines.into_iter().filter(|line| !line.trim().is_empty()).collect())
}

/// Whether a function's body has ended: a line begins without an indent, and something was written before it.
pub(super) fn function_ended(text: &str) -> bool {
    body(text).len() < text.len()
}

/// The body of a function, to the line that begins without an indent.
pub(super) fn body(text: &str) -> &str {
    let mut begun = false;
    let mut end = 0;
    for line in text.split_inclusive('\n') {
        // Comments and decorators at the margin end a body too; a closing bracket does not.
        if begun && line.starts_with(|c: char| !c.is_whitespace() && !")]}".contains(c)) {
            return &text[..end];
        }
        begun |= !line.trim().is_empty();
        end += line.len();
    }
    text
}

/// What AMD keeps of a text: indents filled up to even widths (their decoder drops the first space), then everything to
/// the first blank line.
pub(super) fn first_paragraph(text: &str) -> String {
    let even = |line: &str| {
        let indent = line.len() - line.trim_start_matches(' ').len();
        format!("{}{line}", " ".repeat(indent % 2))
    };
    let text = text.split('\n').map(even).collect::<Vec<_>>().join("\n");
    text.trim_start_matches('\n').split("\n\n").next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_ends_at_the_margin() {
        assert!(!function_ended(""));
        assert!(!function_ended("\n\n"));
        assert!(!function_ended("    return 1\n\n    # more\n"));
        assert!(function_ended("    return 1\n\ndef other():\n"));
        assert!(function_ended("    return 1\n# done"));
        assert!(!function_ended("    return f(\n1\n".replace("\n1", "\n    1").as_str()));
        assert!(!function_ended("    return [\n]"));
    }

    #[test]
    fn what_is_kept_of_a_text() {
        assert_eq!(body("    return 1\n\ndef other():\n"), "    return 1\n\n");
        assert_eq!(first_paragraph("\n   x = 1\n    return x\n\nprint()"), "    x = 1\n    return x");
    }

    #[test]
    fn both_layouts_are_read() {
        let humaneval: Line =
            serde_json::from_str(r#"{"task_id": "HumanEval/0", "prompt": "def f():", "test": ""}"#).unwrap();
        assert_eq!(
            (humaneval.task_id.as_deref(), humaneval.prompt.as_deref()),
            (Some("HumanEval/0"), Some("def f():"))
        );
        let spec: Line =
            serde_json::from_str(r#"{"question_id": 81, "category": "writing", "turns": ["a", "b"]}"#).unwrap();
        assert_eq!((spec.turns.map(|turns| turns.len()), spec.category.as_deref()), (Some(2), Some("writing")));
    }
}
