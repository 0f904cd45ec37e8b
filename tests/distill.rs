//! A draft as a user makes one: distilled for the very file that is served, interrupted, and used.

use crate::support::{Lab, wait_for_steps};
use std::path::Path;

const SECTION: &str =
    "\n[distill]\ntop_k = 8\nround_sequences = 12\nround_steps = 4\nheldout_prompts = 6\nheldout_tokens = 12\n";

/// A trained target as a GGUF file, and the recipe of a draft of one layer of it.
fn lab() -> Lab {
    let lab = Lab::trained();
    lab.ok(&["export", "--model", "run", "--to", "gguf", "--type", "q8_0", "--out", "target.gguf"]);
    let recipe = String::from_utf8(lab.read("recipe.toml")).expect("UTF-8");
    let without = |text: &str, section: &str| {
        let from = text.find(section).expect("the section");
        let to = from + text[from..].find("\n\n").expect("its end") + 2;
        [&text[..from], &text[to..]].concat()
    };
    let recipe = without(&without(&recipe, "[model]"), "[tokenizer]");
    let recipe =
        recipe.replace("batch_tokens = 1024", "sequence = 32\nbatch_tokens = 256").replace("steps = 40", "steps = 12");
    lab.write(
        "draft.toml",
        recipe.replace("dir = \"data\"\n", "") + SECTION + "layers_of_target = [1]\nfrequent_tokens = 300\n",
    );
    lab
}

fn distill<'a>(draft: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["distill", "draft.toml", "--target", "target.gguf", "--draft", draft], more].concat()
}

#[test]
fn a_distilled_draft_is_resumed_to_the_bit_and_changes_no_text() {
    let lab = lab();
    let report = lab.json(&distill("draft", &["--json"]));
    let (before, after) = (&report["acceptance"]["before"], &report["acceptance"]["after"]);
    assert_eq!(
        (report["steps"].as_u64(), before["steps"].as_u64(), after["steps"].as_u64()),
        (Some(12), Some(0), Some(12))
    );
    assert!(after["drafted"].as_u64() > Some(0), "{report}");

    let mut child = lab.start(&distill("killed", &["--resume", "auto"]));
    wait_for_steps(&mut child, &lab.path("killed"), 6);
    child.kill().expect("the program can be killed");
    child.wait().expect("the program has ended");
    lab.ok(&distill("killed", &["--resume", "auto"]));
    for file in ["checkpoints/step-00000012/model.safetensors", "metrics.jsonl", "acceptance.json"] {
        assert!(lab.read(&format!("draft/{file}")) == lab.read(&format!("killed/{file}")), "{file}");
    }
    lab.assert_same_files("draft/teacher", "killed/teacher");

    let exported = ["export", "--model", "draft", "--to", "gguf", "--type", "q8_0", "--out", "draft.gguf"];
    assert_eq!(
        lab.refused(&exported),
        "error: draft: a draft with ids of its own has no tokenizer; name its target with --tokenizer"
    );
    lab.ok(&[&exported[..], &["--tokenizer", "target.gguf"]].concat());
    let plain = ["generate", "--model", "target.gguf", "--prompt", "Ke lo", "--max-tokens", "40", "--json"];
    let text = lab.json(&plain)["text"].clone();
    for length in ["1", "4", "auto"] {
        for draft in ["draft", "draft.gguf"] {
            let with = lab.json(&[&plain[..], &["--draft", draft, "--draft-length", length]].concat());
            assert_eq!(with["text"], text, "{draft} {length}");
            assert!(length == "auto" || with["drafted"].as_u64() > Some(0), "{with}");
        }
    }
}

#[test]
fn what_cannot_be_distilled_is_said() {
    let lab = lab();
    let refused = |args: &[&str]| lab.refused(args);
    assert_eq!(
        refused(&["distill", "recipe.toml", "--target", "target.gguf", "--draft", "new"]),
        "error: recipe.toml: the recipe has no section [distill]; train it with `slm train`, or add the section"
    );
    assert_eq!(
        refused(&["train", "draft.toml", "--out", "new"]),
        "error: draft.toml: a draft is trained beside its target; use `slm distill --target MODEL --draft DIR`, or take the section [distill] out"
    );
    assert_eq!(
        refused(&["prepare", "draft.toml", "--out", "new"]),
        "error: a draft has the tokenizer of its target, so its text is prepared by `slm distill`"
    );
    assert_eq!(
        refused(&["plan", "draft.toml"]),
        "error: a draft's shape and vocabulary come from its target; `slm distill` tells them before the first step"
    );
    assert_eq!(
        refused(&distill("new", &["--set", "distill.requests=[\"{text}\"]"])),
        "error: target.gguf: came without a chat template, so leave distill.requests out"
    );
    assert_eq!(
        refused(&distill("new", &["--set", "distill.layers_of_target=[7]"])),
        "error: target.gguf: layers_of_target is 7, but it must be below 2"
    );
    assert_eq!(
        refused(&distill("new", &["--set", "distill.text_share=0.9"])),
        "error: draft.toml: distill.text_share = 0.9 with target_share = 0.4 and draft_share = 0.1: must add up to 1, none of them negative"
    );
    assert_eq!(
        refused(&["generate", "--model", "target.gguf", "--chat", "--prompt", "Ke"]),
        "error: no chat template came with this vocabulary, so a chat cannot be written; give a text instead"
    );
    assert!(!Path::new(&lab.path("new/checkpoints")).exists());
    lab.ok(&distill("draft", &["--set", "train.steps=1"]));
    lab.ok(&[
        "train",
        "recipe.toml",
        "--out",
        "other",
        "--set",
        "train.steps=1",
        "--set",
        "data.dir=other-data",
        "--set",
        "tokenizer.train_vocab=380",
    ]);
    let from = distill("again", &["--set", "model.from=draft", "--set", "distill.layers_of_target=[]"]);
    assert_eq!(
        refused(&[&from[..], &["--set", "distill.frequent_tokens=200"]].concat()),
        "error: draft: model.from has other ids than this draft would; give it the distill.frequent_tokens and the data of that draft"
    );
    lab.ok(&[&from[..], &["--set", "train.steps=1"]].concat());
    assert_eq!(
        refused(&["generate", "--model", "other", "--draft", "draft", "--prompt", "Ke"]),
        "error: draft: this draft was distilled for a target with another tokenizer; distil one for this target"
    );
}
