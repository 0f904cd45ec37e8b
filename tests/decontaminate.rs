//! Benchmarks in training text: found, left out, and left out while preparing.

use crate::support::Lab;
use serde_json::{Value, json};

const QUESTION: &str = "If a farmer has seven goats and buys four more at the market, how many goats has he then?";

fn lab() -> Lab {
    let lab = Lab::new();
    let lines = |documents: &[Value]| documents.iter().map(|document| format!("{document}\n")).collect::<String>();
    lab.write(
        "eval/gsm8k/test.jsonl",
        lines(&[
            json!({"question": QUESTION, "answer": "7 + 4 = 11\n#### 11"}),
            json!({"question": "Why?", "answer": "1"}),
        ]),
    );
    let copied = format!("A page of sums. {} It is eleven.", QUESTION.to_uppercase().replace(',', " --"));
    let texts = [copied, "If a farmer has seven goats, he is rich.".into(), "Another page.".into()];
    lab.write("text/web.jsonl", lines(&texts.map(|text| json!({"id": 7, "text": text}))));
    lab
}

#[test]
fn documents_with_items_are_reported_and_left_out() {
    let lab = lab();
    let command = ["decontaminate", "text/web.jsonl", "--tasks", "gsm8k", "--data", "eval"];
    let said = lab.ok(&command);
    let expected = "gsm8k: 1 of 2 items (1 of them too short to be found) share 13 words with 1 documents, first text/web.jsonl:1\n\
                    3 documents read = 2 without + 1 with shared words";
    assert!(said.starts_with(expected), "{said}");
    let report = lab.json(&[&command[..], &["--json", "--remove", "--output", "clean.jsonl.zst"]].concat());
    assert_eq!(report["tasks"][0]["found_items"], 1);
    assert_eq!(report["account"]["dropped"]["contaminated"]["documents"], 1);
    let said = lab.ok(&["decontaminate", "clean.jsonl.zst", "--tasks", "gsm8k", "--data", "eval", "--ngram", "5"]);
    assert!(said.contains("share 5 words with 1 documents") && said.contains("2 documents read"), "{said}");
}

/// In that corpus 16 pages hold an item of gsm8k and 12 a problem of humaneval, put there on purpose; one more page
/// quotes words of a problem.
#[test]
fn everything_that_was_hidden_in_a_corpus_is_found() {
    let shared = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data");
    if !shared.join("slimpajama").exists() {
        println!("skipped: no `shared/data/slimpajama` beside the repository");
        return;
    }
    let lab = Lab::new();
    let (files, items) = (shared.join("slimpajama/**/*.jsonl.zst"), shared.join("eval"));
    let (files, items) = (files.to_str().expect("UTF-8"), items.to_str().expect("UTF-8"));
    let report = lab.json(&["decontaminate", files, "--tasks", "gsm8k,humaneval", "--data", items, "--json"]);
    assert_eq!(
        (&report["tasks"][0]["documents"], &report["tasks"][1]["documents"]),
        (&json!(16), &json!(13)),
        "{report}"
    );
    assert_eq!(report["account"]["dropped"]["contaminated"]["documents"], 29);
}

#[test]
fn a_recipe_leaves_them_out_of_its_shards() {
    let lab = lab();
    let recipe = String::from_utf8(lab.read("recipe.toml")).expect("UTF-8");
    let section = "[data.decontaminate]\ntasks = [\"gsm8k\"]\ndir = \"eval\"\n\n[train]";
    lab.write("recipe.toml", recipe.replace("[train]", section));
    let manifest = lab.json(&["prepare", "recipe.toml", "--out", "clean", "--json"]);
    let account = &manifest["sources"][0]["account"];
    assert_eq!(account["dropped"]["contaminated"]["documents"], 1, "{account}");
    assert_eq!(account["places"]["contaminated"][0], "text/web.jsonl:1");
    assert_eq!(manifest["recipe"]["decontaminate"]["ngram"], 13);
    let again = lab.json(&["prepare", "recipe.toml", "--out", "clean", "--json"]);
    assert_eq!(again, manifest, "what is there is taken as it is");
    lab.write("recipe.toml", recipe);
    assert!(lab.refused(&["prepare", "recipe.toml", "--out", "clean"]).contains("decontaminate"));
}
