//! A model's life as a user lives it: text, tokens, training that is interrupted, exports, generated text.

use crate::support::{Lab, Random, STEPS, documents, wait_for_steps};
use std::process::Command;
use std::time::Duration;

const TRAIN: [&str; 4] = ["train", "recipe.toml", "--out", "run"];
const KILLED: [&str; 6] = ["train", "recipe.toml", "--out", "killed", "--resume", "auto"];

#[test]
fn a_killed_run_ends_with_the_bytes_of_one_that_was_not() {
    let lab = Lab::new();
    lab.ok(&TRAIN);
    let mut random = Random(11);
    let mut kills = 0;
    for moment in [0, 3, 7, 12, 18, 26, 33] {
        let mut child = lab.start(&KILLED);
        wait_for_steps(&mut child, &lab.path("killed"), moment);
        std::thread::sleep(Duration::from_millis(random.below(15)));
        kills += usize::from(child.try_wait().expect("a child").is_none());
        child.kill().expect("the program can be killed");
        child.wait().expect("the program has ended");
    }
    assert!(kills >= 4, "only {kills} of 7 kills met a running program");
    lab.ok(&KILLED);
    lab.assert_same_run("run", "killed");
}

#[test]
fn a_signal_ends_a_run_with_a_checkpoint_and_it_goes_on_from_there() {
    let lab = Lab::new();
    lab.ok(&TRAIN);
    let mut child = lab.start(&KILLED);
    wait_for_steps(&mut child, &lab.path("killed"), 7);
    let sent = Command::new("sh").args(["-c", &format!("kill -TERM {}", child.id())]).status().expect("a shell");
    let ended = child.wait().expect("the program ends");
    assert!(sent.success() && ended.success(), "{ended}");
    let steps = lab.read("killed/metrics.jsonl").iter().filter(|byte| **byte == b'\n').count();
    assert!((7..STEPS).contains(&steps), "stopped after step {steps}");
    assert!(lab.path(&format!("killed/checkpoints/step-{steps:08}/model.safetensors")).exists());
    lab.ok(&KILLED);
    lab.assert_same_run("run", "killed");
}

#[test]
fn one_thread_computes_the_bits_of_two() {
    let lab = Lab::new();
    for (threads, out) in [("1", "one"), ("2", "two")] {
        lab.ok(&["train", "recipe.toml", "--out", out, "--threads", threads, "--set", "train.precision=\"bf16\""]);
    }
    lab.assert_same_run("one", "two");
}

#[test]
fn preparation_that_was_killed_ends_with_the_same_shards() {
    let lab = Lab::new();
    for file in 0..6 {
        lab.write(&format!("text/more-{file}.jsonl"), documents(20 + file, 1_500_000));
    }
    lab.ok(&["prepare", "recipe.toml", "--out", "whole"]);
    let mut random = Random(5);
    let mut kills = 0;
    for longest in [20, 100, 200, 300, 400] {
        let mut child = lab.start(&["prepare", "recipe.toml", "--out", "killed"]);
        std::thread::sleep(Duration::from_millis(random.below(longest)));
        kills += usize::from(child.try_wait().expect("a child").is_none());
        child.kill().expect("the program can be killed");
        child.wait().expect("the program has ended");
    }
    assert!(kills >= 2, "only {kills} of 5 kills met a running program");
    lab.ok(&["prepare", "recipe.toml", "--out", "killed"]);
    lab.assert_same_files("whole", "killed");
}

#[test]
fn a_run_a_folder_and_a_gguf_file_say_the_same() {
    let lab = Lab::trained();
    for (format, out) in [("hf", "exported"), ("gguf", "exported.gguf")] {
        let report = lab.json(&["export", "--model", "run", "--to", format, "--out", out, "--json"]);
        assert!(report["max_logit_difference"].as_f64().expect("a number") < 1e-4, "{report}");
    }
    let checkpoint = format!("run/checkpoints/step-{STEPS:08}");
    let said = ["run", &checkpoint, "exported", "exported.gguf"].map(|model| {
        lab.ok(&["generate", "--model", model, "--prompt", "Balo ke", "--dtype", "f32", "--max-tokens", "40"])
    });
    assert!(said[0].trim().len() > 20, "{said:?}");
    assert!(said.iter().all(|text| *text == said[0]), "{said:#?}");
    for encoding in ["f16", "bf16", "q8_0", "q4_0"] {
        let out = format!("{encoding}.gguf");
        lab.ok(&["export", "--model", "run", "--to", "gguf", "--type", encoding, "--out", &out]);
        lab.ok(&["generate", "--model", &out, "--prompt", "Balo ke", "--max-tokens", "5"]);
    }
}

#[test]
fn speculation_changes_no_token() {
    let lab = Lab::trained();
    let draft = format!("run/checkpoints/step-{:08}", STEPS - 5);
    for dtype in ["f32", "bf16"] {
        let common =
            ["generate", "--model", "run", "--prompt", "Ke mi", "--max-tokens", "50", "--json", "--dtype", dtype];
        let plain = lab.json(&common);
        for (speculation, drafts) in [
            (["--draft", &draft].as_slice(), true),
            (&["--speculate", "ngram"], false),
            (&["--speculate", "auto"], false),
            (&["--speculate", "suffix,ngram,draft", "--draft", &draft, "--draft-length", "16"], true),
            (&["--speculate", "auto", "--draft", &draft, "--draft-length", "3"], true),
        ] {
            let fast = lab.json(&[&common, speculation].concat());
            assert_eq!(fast["ids"], plain["ids"], "{dtype} {speculation:?}");
            assert_eq!(fast["text"], plain["text"], "{dtype} {speculation:?}");
            assert!(!drafts || fast["accepted"].as_u64() > Some(0), "{dtype} {speculation:?}: {fast}");
        }
    }
}

/// What speculation costs is kept, and measured again where a step takes much less than when it was measured.
#[test]
fn costs_of_a_busy_machine_are_measured_again() {
    let lab = Lab::trained();
    let speculate = ["generate", "--model", "run", "--prompt", "Ke mi", "--max-tokens", "5", "--speculate", "suffix"];
    lab.ok(&speculate);
    let [(name, _)] = &lab.files("cache/slm/speculation")[..] else { panic!("the costs are in one file") };
    let name = format!("cache/slm/speculation/{}", name.display());
    let kept = || -> serde_json::Value { serde_json::from_slice(&lab.read(&name)).expect("the costs are JSON") };
    let measured = kept();
    for (step, stays) in [(1e-9, true), (1e3, false)] {
        let mut costs = measured.clone();
        costs["costs"]["step_seconds"] = step.into();
        lab.write(&name, costs.to_string());
        lab.ok(&speculate);
        assert_eq!(kept()["costs"]["step_seconds"] == step, stays, "{step} s: {}", kept());
        assert_eq!(kept()["key"], measured["key"]);
    }
}

/// A draft with another tokenizer is refused, and with a bridge it proposes by way of text.
#[test]
fn a_bridged_draft_changes_no_token() {
    let lab = Lab::trained();
    let settings = ["tokenizer.kind=sentencepiece", "data.dir=other", "model.width=16"];
    let settings: Vec<&str> = settings.iter().flat_map(|setting| ["--set", setting]).collect();
    lab.ok(&[&["train", "recipe.toml", "--out", "foreign"], &settings[..]].concat());
    let common = ["generate", "--model", "run", "--prompt", "Ke mi", "--max-tokens", "50", "--json"];
    let plain = lab.json(&common);
    for length in ["auto", "1", "5", "16"] {
        let fast =
            lab.json(&[&common[..], &["--draft", "foreign", "--bridge-vocab", "--draft-length", length]].concat());
        assert_eq!(fast["ids"], plain["ids"], "{length}");
        assert!(length == "auto" || fast["accepted"].as_u64() > Some(0), "{length}: {fast}");
    }
}

#[test]
fn generated_json_has_the_promised_fields() {
    let lab = Lab::trained();
    let args = ["generate", "--model", "run", "--prompt", "Ke", "--max-tokens", "9", "--speculate", "ngram", "--json"];
    let said = lab.json(&args);
    assert_eq!(said["ids"].as_array().map(Vec::len), Some(9), "{said}");
    assert!(said["text"].is_string());
    for field in ["tokens_per_second", "first_token_seconds", "acceptance", "mean_accepted_length"] {
        assert!(said[field].is_f64(), "{field}: {said}");
    }
    for field in ["drafted", "accepted", "rounds"] {
        assert!(said[field].is_u64(), "{field}: {said}");
    }
    let seeded = |seed| {
        let sampled = ["generate", "--model", "run", "--prompt", "Ke", "--temperature", "1", "--seed", seed];
        lab.ok(&sampled)
    };
    assert_eq!(seeded("1"), seeded("1"));
    assert_ne!(seeded("1"), seeded("2"));
}

#[test]
fn scores_have_the_promised_shape() {
    let lab = Lab::trained();
    lab.write("ids.json", "[5, 17, 300, 42]");
    let scores = lab.json(&["score", "--model", "run", "--ids", "ids.json", "--json", "--dtype", "f32"]);
    assert_eq!(scores["ids"], serde_json::json!([5, 17, 300, 42]));
    let logprobs = scores["logprobs"].as_array().expect("an array");
    assert_eq!(logprobs.len(), 4);
    assert!(logprobs[0].is_null());
    let sum = logprobs[1..].iter().map(|logprob| logprob.as_f64().expect("a number")).sum::<f64>();
    let per_token = scores["nats_per_token"].as_f64().expect("a number");
    assert!((per_token + sum / 3.0).abs() < 1e-6, "{scores}");
    assert!(scores.as_object().expect("an object").contains_key("bits_per_byte"));
    lab.write("text.txt", "Balo ke mi. Ke zano.");
    let scores = lab.json(&["score", "--model", "run", "--text", "text.txt", "--json"]);
    assert!(scores["bits_per_byte"].as_f64().expect("a number") > 0.0, "{scores}");
}

#[test]
fn text_to_ids_and_back() {
    let lab = Lab::new();
    lab.ok(&["prepare", "recipe.toml"]);
    let texts = ["Balo ke mi.", "", " two  spaces ", "naïve 🦀 日本語", "a\nb\tc\u{0}", "</s> <s> <|endoftext|>"];
    let lines = texts.map(|text| serde_json::json!({ "text": text }).to_string()).join("\n");
    for tokenizer in ["data/tokenizer", "data/tokenizer/tokenizer.json"] {
        let ids = lab.filter(&["tokenizer", "encode", "--tokenizer", tokenizer, "--jsonl"], &lines);
        assert!(ids.lines().all(|line| line.starts_with("{\"ids\":[")), "{ids}");
        let back = lab.filter(&["tokenizer", "decode", "--tokenizer", tokenizer, "--jsonl"], &ids);
        let back = back.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
        assert_eq!(back.map(|line| line["text"].as_str().expect("text").to_owned()).collect::<Vec<_>>(), texts);
    }
    let shown = lab.json(&["tokenizer", "show", "--tokenizer", "data/tokenizer", "--json"]);
    assert_eq!(shown["tokens"], 400);
}

#[test]
fn the_plan_knows_the_memory() {
    let lab = Lab::new();
    let tiny = concat!(env!("CARGO_MANIFEST_DIR"), "/recipes/tiny.toml");
    for precision in ["f32", "bf16"] {
        let set = format!("train.precision={precision:?}");
        let plan = lab.json(&["plan", tiny, "--json", "--set", &set]);
        let bytes = |what: &str| plan["memory_bytes"][what].as_f64().expect("a number");
        // A checkpoint's copy is no buffer of the machine: it comes on top, and the probe writes none.
        assert!(bytes("checkpoint") >= 4.0 * plan["parameters_embedding"].as_f64().expect("a number"));
        let planned = plan["memory_bytes_total"].as_f64().expect("a number") - bytes("checkpoint");
        let held = plan["probe"]["allocated_bytes"].as_f64().expect("a number");
        assert!((planned / held - 1.0).abs() < 0.05, "planned {planned}, held {held}");
    }
}
