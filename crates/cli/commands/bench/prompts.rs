//! Prompts of the protocols: HumanEval's as AMD asks them, or questions of one JSON object a line.

use anyhow::{Context, Result, bail};
use bench::SpeculativePrompt;
use formats::file;
use serde::Deserialize;
use std::io::{BufRead, BufReader};
use std::path::Path;
use tokenizer::Tokenizer;

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
    question_id: Option<serde_json::Value>,
    category: Option<String>,
    turns: Option<Vec<String>>,
}

/// The prompts of `path` (plain or gzip), at most `limit`, spread evenly over the file.
pub(super) fn read(
    path: &Path,
    prefix: Option<&Path>,
    tokenizer: &Tokenizer,
    limit: usize,
) -> Result<Vec<SpeculativePrompt>> {
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
        let (name, category, text) = match line {
            Line { prompt: Some(prompt), task_id, .. } => {
                (task_id.unwrap_or_else(|| (number + 1).to_string()), "code".into(), format!("{prefix}{prompt}"))
            }
            Line { turns: Some(turns), question_id, category, .. } if !turns.is_empty() => {
                let name = question_id.map_or_else(|| (number + 1).to_string(), |id| id.to_string());
                (name, category.unwrap_or_else(|| "question".into()), format!("{}\n\n", turns[0]))
            }
            _ => bail!("{}: line {}: neither `prompt` nor `turns` is there", path.display(), number + 1),
        };
        let mut ids = tokenizer.encode(&text);
        if tokenizer.adds_bos() {
            ids.splice(0..0, tokenizer.bos());
        }
        prompts.push(SpeculativePrompt { name, category, ids });
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
    let mut lines = text.split_inclusive('\n');
    let first = lines.by_ref().find(|line| !line.trim().is_empty());
    // Comments and decorators at the margin end a body too; a closing bracket of a long signature does not begin one.
    first.is_some() && lines.any(|line| line.starts_with(|c: char| !c.is_whitespace() && !")]}".contains(c)))
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
