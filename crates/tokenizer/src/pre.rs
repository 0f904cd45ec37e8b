//! Pre-tokenizers by name: what GGUF calls them, and the `tokenizer.json` value that splits text the same way.

use serde_json::{Value, json};

/// GPT-2's words, also the last step of several others.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// Llama 3: numbers by up to three digits, line ends with the symbols before them.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Qwen 2: as Llama 3 with single digits.
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// A known way to cut text into words before BPE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pre {
    Gpt2,
    /// GPT-2's words after cutting out every digit (StarCoder, SmolLM).
    Smollm,
    Llama3,
    Qwen2,
    /// What llama.cpp uses for files that name none.
    LlamaCpp,
}

impl Pre {
    const ALL: [Pre; 5] = [Pre::Gpt2, Pre::Smollm, Pre::Llama3, Pre::Qwen2, Pre::LlamaCpp];

    /// The known pre-tokenizer behind `tokenizer.ggml.pre`.
    pub(crate) fn from_gguf(name: &str) -> Option<Self> {
        Some(match name {
            "gpt-2" | "phi-2" | "mpt" | "olmo" | "gigachat" | "jina-es" | "jina-de" | "jina-v2-es" | "jina-v2-de"
            | "a.x-4.0" | "mellum" => Self::Gpt2,
            "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" | "exaone" | "minerva-7b" => Self::Smollm,
            "llama-bpe" | "llama3" | "llama-v3" | "falcon3" | "pixtral" | "lfm2" => Self::Llama3,
            "qwen2" | "deepseek-r1-qwen" | "stablelm2" | "megrez" => Self::Qwen2,
            "default" => Self::LlamaCpp,
            _ => return None,
        })
    }

    /// The name to write as `tokenizer.ggml.pre`.
    pub(crate) fn gguf_name(self) -> &'static str {
        match self {
            Self::Gpt2 => "gpt-2",
            Self::Smollm => "smollm",
            Self::Llama3 => "llama-bpe",
            Self::Qwen2 => "qwen2",
            Self::LlamaCpp => "default",
        }
    }

    /// The pre-tokenizer as a value of `tokenizer.json`.
    pub(crate) fn to_json(self) -> Value {
        let split = |regex: &str| json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
        let bytes = |use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex});
        let sequence = |steps: Vec<Value>| json!({"type": "Sequence", "pretokenizers": steps});
        match self {
            Self::Gpt2 => bytes(true),
            Self::Smollm => sequence(vec![json!({"type": "Digits", "individual_digits": true}), bytes(true)]),
            Self::Llama3 => sequence(vec![split(LLAMA3), bytes(false)]),
            Self::Qwen2 => sequence(vec![split(QWEN2), bytes(false)]),
            Self::LlamaCpp => sequence(vec![
                split(r"[\p{P}\$\+<=>\^~\|]+"),
                split(GPT2),
                split(r"\p{N}+"),
                split("[0-9][0-9][0-9]"),
                bytes(false),
            ]),
        }
    }

    /// The known pre-tokenizer that a value of `tokenizer.json` describes.
    pub(crate) fn from_json(value: &Value) -> Option<Self> {
        let found = canonical(value);
        Self::ALL.into_iter().find(|pre| canonical(&pre.to_json()) == found)
    }
}

/// One spelling for values that mean the same: defaults that may be left out, and offsets, are dropped.
pub(crate) fn canonical(value: &Value) -> String {
    let Value::Object(map) = value else {
        return value.to_string();
    };
    let kind = map.get("type").and_then(Value::as_str).unwrap_or_default();
    if kind == "Sequence" {
        let steps = map.get("pretokenizers").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        return format!("[{}]", steps.iter().map(canonical).collect::<Vec<_>>().join(","));
    }
    let mut kept = map.clone();
    kept.remove("trim_offsets");
    let defaults = [("use_regex", true), ("add_prefix_space", false), ("invert", false)];
    for (key, default) in defaults {
        if kept.get(key).and_then(Value::as_bool) == Some(default) {
            kept.remove(key);
        }
    }
    let sorted: std::collections::BTreeMap<&String, String> =
        kept.iter().map(|(key, value)| (key, value.to_string())).collect();
    format!("{sorted:?}")
}
