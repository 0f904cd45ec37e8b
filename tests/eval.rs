//! Benchmarks with a tiny model: results in the harness's layout, going on after a kill, comparing, refusing.

use crate::support::Lab;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// A document of sciq.
fn question(i: usize) -> Value {
    json!({"question": format!("ke mi {i}?"), "support": format!("  balo {i} é"), "correct_answer": "balo",
        "distractor1": "ke mi", "distractor2": "zano é", "distractor3": format!("nu {i}")})
}

fn lines(documents: &[Value]) -> String {
    documents.iter().map(|document| format!("{document}\n")).collect()
}

/// A lab with a trained model and a few documents of several kinds of tasks.
fn lab() -> Lab {
    let lab = Lab::trained();
    lab.write("data/sciq/test.jsonl", lines(&(0..12).map(question).collect::<Vec<_>>()));
    lab.write("data/sciq/train.jsonl", lines(&(20..40).map(question).collect::<Vec<_>>()));
    let sentence = |i: usize| json!({"sentence": format!("balo ke {i} _ mi ra."), "option1": "zano", "option2": "nu", "answer": (1 + i % 2).to_string()});
    lab.write("data/winogrande/validation.jsonl", lines(&(0..5).map(sentence).collect::<Vec<_>>()));
    lab.write("data/winogrande/train_xl.jsonl", lines(&(5..9).map(sentence).collect::<Vec<_>>()));
    lab.write(
        "data/lambada_openai/test.jsonl",
        lines(&[json!({"text": "balo ke mi. ke"}), json!({"text": "ra se ti"})]),
    );
    let page = "balo ke mi . ".repeat(60); // longer than the context
    lab.write("data/wikitext/test.jsonl", lines(&[json!({"page": page}), json!({"page": " = ke = "})]));
    let subject = |subject: &str, i: i64| json!({"question": format!("ke {i} "), "subject": subject, "choices": ["ba", "ke", "lo", "mi"], "answer": i % 4});
    let subjects: Vec<Value> = (0..8).map(|i| subject(if i % 2 == 0 { "anatomy" } else { "virology" }, i)).collect();
    lab.write("data/mmlu/test.jsonl", lines(&subjects));
    lab.write("data/mmlu/dev.jsonl", lines(&[subject("virology", 3), subject("anatomy", 5)]));
    lab
}

const TASKS: &str = "sciq,winogrande,lambada_openai,wikitext,mmlu_anatomy";

fn eval(out: &str, more: &[&'static str]) -> Vec<&'static str> {
    let out: &'static str = out.to_owned().leak();
    [&["eval", "--model", "run", "--data", "data", "--json", "--dtype", "f32", "--out", out], more].concat()
}

fn samples(lab: &Lab, folder: &str, task: &str) -> Vec<Value> {
    let bytes = lab.read(&format!("{folder}/samples_{task}.jsonl"));
    let lines = String::from_utf8(bytes).expect("UTF-8");
    lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// Whether a text is this number. Reading JSON may change the last bit of a double.
fn is_written(number: f64, text: &Value) -> bool {
    let read = text.as_str().and_then(|text| text.parse::<f64>().ok());
    read.is_some_and(|read| (read - number).abs() <= 1e-12 * number.abs())
}

#[test]
fn results_have_the_harnesss_layout() {
    let lab = lab();
    let results = lab.json(&eval("out", &["--tasks", TASKS]));
    let on_disk: Value = serde_json::from_slice(&lab.read("out/results.json")).expect("JSON");
    assert_eq!(results, on_disk);
    let sciq = &results["results"]["sciq"];
    let items = samples(&lab, "out", "sciq");
    assert_eq!((items.len(), results["n-samples"]["sciq"]["effective"].as_u64()), (12, Some(12)));
    for (index, item) in items.iter().enumerate() {
        assert_eq!(item["doc_id"], index);
        assert_eq!(item["target"], "3");
        let logs: Vec<f64> =
            item["loglikelihoods"].as_array().expect("a list").iter().filter_map(Value::as_f64).collect();
        assert_eq!(logs.len(), 4);
        let response = &item["filtered_resps"][3];
        assert!(is_written(logs[3], &response[0]) && response[1] == "None", "{item}");
        let best = (0..4).max_by(|&one, &other| logs[one].total_cmp(&logs[other])).expect("four");
        assert_eq!(item["acc"], f64::from(u8::from(best == 3)), "{item}");
        assert_eq!(
            item["arguments"]["gen_args_2"]["arg_0"],
            format!("balo {index} é\nQuestion: ke mi {index}?\nAnswer:")
        );
        assert_eq!(item["arguments"]["gen_args_2"]["arg_1"], format!(" nu {index}"));
    }
    let mean = items.iter().filter_map(|item| item["acc"].as_f64()).sum::<f64>() / 12.0;
    assert!((sciq["acc,none"].as_f64().expect("a number") - mean).abs() < 1e-12);
    let stderr = (mean * (1.0 - mean) / 11.0).sqrt();
    assert!((sciq["acc_stderr,none"].as_f64().expect("a number") - stderr).abs() < 1e-12);
    assert_eq!(results["results"]["wikitext"]["word_perplexity_stderr,none"], "N/A");
    assert!(results["results"]["lambada_openai"]["perplexity,none"].as_f64() > Some(1.0));
    let blank = &samples(&lab, "out", "winogrande")[1];
    assert_eq!(blank["arguments"]["gen_args_1"], json!({"arg_0": "balo ke 1 nu", "arg_1": " mi ra."}));
    assert_eq!((&blank["target"], blank["acc"].is_f64()), (&json!("mi ra."), true));
    let cloze = &samples(&lab, "out", "lambada_openai")[0];
    assert_eq!(cloze["arguments"], json!({"gen_args_0": {"arg_0": "balo ke mi.", "arg_1": " ke"}}));
    assert!(cloze["resps"][0][0][1] == "True" || cloze["resps"][0][0][1] == "False", "{cloze}");
    let page = &samples(&lab, "out", "wikitext")[1];
    assert!(is_written(page["loglikelihoods"][0].as_f64().expect("a number"), &page["filtered_resps"][0]), "{page}");
    let subject = &samples(&lab, "out", "mmlu_anatomy")[0];
    let context = subject["arguments"]["gen_args_0"]["arg_0"].as_str().expect("text");
    assert!(
        context
            .starts_with("The following are multiple choice questions (with answers) about anatomy.\n\nke 0\nA. ba\n")
    );
}

/// Examples are turns of the chat, and an answer begins where the assistant's turn does.
#[test]
fn contexts_are_chats_where_that_is_wanted() {
    let lab = lab();
    let refused = lab.refused(&eval("out", &["--tasks", "sciq", "--chat"]));
    assert!(refused.contains("run: no chat template came with this model"), "{refused}");
    lab.ok(&["export", "--model", "run", "--to", "hf", "--out", "hf"]);
    let mut settings: Value = serde_json::from_slice(&lab.read("hf/tokenizer_config.json")).expect("JSON");
    settings["chat_template"] = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}\
        {% if add_generation_prompt %}[model]{% endif %}"
        .into();
    lab.write("hf/tokenizer_config.json", settings.to_string());
    let tasks = ["--tasks", "sciq,mmlu_anatomy", "--chat", "--fewshot", "1", "--limit", "2", "--model", "hf"];
    let mut arguments = eval("out", &tasks);
    arguments.drain(1..3); // not the model of the other tests
    let results = lab.json(&arguments);
    assert_eq!(
        (&results["chat_template"], results["fewshot_as_multiturn"].as_bool()),
        (&settings["chat_template"], Some(true))
    );
    let said = |task: &str| samples(&lab, "out", task)[1]["arguments"]["gen_args_1"].clone();
    let (science, anatomy) = (said("sciq"), said("mmlu_anatomy"));
    let context = science["arg_0"].as_str().expect("text");
    let (example, question) = context.split_once("?\nAnswer:[assistant]balo[user]").expect("an example");
    assert!(
        example.starts_with("[user]balo ") && question == "balo 1 é\nQuestion: ke mi 1?\nAnswer:[model]",
        "{context}"
    );
    assert_eq!(science["arg_1"], "zano é");
    let context = anatomy["arg_0"].as_str().expect("text");
    assert!(context.starts_with("[system]The following are multiple choice questions"), "{context}");
}

/// A sum of gsm8k.
fn sum(i: usize) -> Value {
    json!({"question": format!("ke {i} balo?"), "answer": format!("{i} mi {i} ke\n#### {}", 2 * i)})
}

#[test]
fn texts_are_written_filtered_and_measured_and_not_written_again() {
    let lab = lab();
    lab.write("data/gsm8k/test.jsonl", lines(&(0..3).map(sum).collect::<Vec<_>>()));
    lab.write("data/gsm8k/train.jsonl", lines(&(3..9).map(sum).collect::<Vec<_>>()));
    let command = |out| eval(out, &["--tasks", "gsm8k,sciq", "--fewshot", "1", "--max-gen-toks", "8"]);
    let results = lab.json(&command("out"));
    let gsm8k = &results["results"]["gsm8k"];
    assert!(gsm8k["exact_match,strict-match"].is_f64() && gsm8k["exact_match_stderr,flexible-extract"].is_f64());
    assert_eq!(results["configs"]["gsm8k"]["generation_kwargs"]["until"][0], "Question:");
    let items = samples(&lab, "out", "gsm8k");
    assert_eq!(items.len(), 6, "a line for each of three documents and two filters");
    let filters: Vec<&str> = items.iter().filter_map(|item| item["filter"].as_str()).collect();
    assert_eq!(filters, [["strict-match"; 3], ["flexible-extract"; 3]].concat());
    for (index, item) in items.iter().enumerate() {
        let prompt = item["arguments"]["gen_args_0"]["arg_0"].as_str().expect("a prompt");
        assert!(
            prompt.starts_with("Question: ke ")
                && prompt.ends_with(&format!("Question: ke {} balo?\nAnswer:", index % 3))
        );
        let text = item["resps"][0][0].as_str().expect("a text");
        let number = text.rsplit(|c: char| !c.is_ascii_digit()).find(|word| !word.is_empty());
        let filtered = item["filtered_resps"][0].as_str().expect("what the filter leaves");
        assert!(filtered == "[invalid]" || text.contains(filtered), "{item}");
        assert!(index < 3 || number.is_none_or(|_| filtered != "[invalid]"), "{item}");
    }
    let finished = lab.read("out/finished.jsonl");
    let texts =
        String::from_utf8(finished.clone()).expect("UTF-8").lines().filter(|line| line.contains("text")).count();
    assert_eq!(texts, 3);
    let cut = finished.iter().rposition(|&byte| byte == b':').expect("a colon");
    lab.write("cut/finished.jsonl", &finished[..cut]); // a kill while the last text was kept
    assert_eq!(lab.json(&command("cut"))["results"], results["results"]);
    assert!(lab.read("cut/samples_gsm8k.jsonl") == lab.read("out/samples_gsm8k.jsonl"));
    let more = ["--tasks", "gsm8k", "--samples", "3", "--max-gen-toks", "8"];
    assert!(lab.refused(&eval("many", &more)).contains("above 0 with several --samples"));
    lab.ok(&eval("many", &[&more[..], &["--temperature", "2", "--seed", "7"]].concat()));
    let texts: BTreeSet<String> = samples(&lab, "many", "gsm8k")[0]["resps"][0]
        .as_array()
        .expect("a list")
        .iter()
        .map(Value::to_string)
        .collect();
    assert!(texts.len() > 1, "three texts at temperature 2 should differ: {texts:?}");
    let refused = lab.refused(&eval("wide", &["--tasks", "gsm8k", "--max-gen-toks", "4000"]));
    assert!(refused.contains("gsm8k: it generates up to 4000 tokens, but the model's context is"), "{refused}");
}

#[test]
fn programs_are_run_and_counted() {
    let lab = lab();
    let problem = |i: usize| {
        json!({"task_id": format!("t/{i}"), "prompt": format!("def ke{i}(mi):\n    \"\"\" balo \"\"\"\n"), "entry_point": format!("ke{i}"),
            "test": "def check(candidate):\n    pass\n", "canonical_solution": ""})
    };
    lab.write("data/humaneval/test.jsonl", lines(&(0..3).map(problem).collect::<Vec<_>>()));
    let task = json!({"task_id": 1, "text": "Write ke.", "code": "ke = 1", "test_list": ["assert 1", "assert 1", "assert 1"], "test_setup_code": ""});
    lab.write("data/mbpp/test.jsonl", lines(&[task]));
    let command =
        eval("out", &["--tasks", "humaneval,mbpp", "--max-gen-toks", "4", "--samples", "2", "--temperature", "1"]);
    let output = lab.run(&command);
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("sandbox only") || said.contains("install Python 3") {
        println!("skipped: {said}");
        return;
    }
    assert!(output.status.success(), "{said}");
    let results: Value = serde_json::from_slice(&lab.read("out/results.json")).expect("JSON");
    assert!(results["results"]["humaneval"]["pass@1,create_test"].is_f64(), "{}", results["results"]);
    assert!(results["results"]["mbpp"]["pass_at_1,none"].is_f64());
    for item in samples(&lab, "out", "humaneval") {
        let programs = item["filtered_resps"][0].as_array().expect("a list in a list");
        let verdicts = item["verdicts"].as_array().expect("a list");
        assert_eq!((programs.len(), verdicts.len()), (2, 2));
        assert!(programs[0].as_str().is_some_and(|program| program.starts_with("def ke")));
        let passed = verdicts.iter().filter(|verdict| *verdict == "passed").count();
        assert_eq!(item["pass@1"], passed as f64 / 2.0, "{item}");
    }
    let prompt = &samples(&lab, "out", "mbpp")[0]["arguments"]["gen_args_0"]["arg_0"];
    let prompt = prompt.as_str().expect("a prompt");
    assert!(
        prompt
            .ends_with("task: Write ke. Your code should pass these tests:\n\nassert 1\nassert 1\nassert 1\n[BEGIN]\n")
    );
    assert_eq!(prompt.matches("\n[DONE]\n\nYou are").count(), 3, "three examples");
    let mut alone = lab.command(&eval("none", &["--tasks", "humaneval"]));
    let refused = crate::support::refusal(&alone.env("PATH", "").output().expect("the program starts"), "eval");
    assert!(refused.contains("python3 was not found") && refused.contains("install Python 3"), "{refused}");
}

#[test]
fn a_run_that_was_cut_short_goes_on_to_the_same_bits() {
    let lab = lab();
    lab.ok(&eval("whole", &["--tasks", TASKS, "--fewshot", "1"]));
    let finished = lab.read("whole/finished.jsonl");
    lab.write("cut/finished.jsonl", &finished[..finished.len() / 2]);
    lab.ok(&eval("cut", &["--tasks", TASKS, "--fewshot", "1"]));
    let sorted = |folder: &str| {
        let text = String::from_utf8(lab.read(&format!("{folder}/finished.jsonl"))).expect("UTF-8");
        text.lines().map(str::to_owned).collect::<BTreeSet<_>>()
    };
    assert_eq!(sorted("cut"), sorted("whole"));
    for task in TASKS.split(',') {
        let name = |folder: &str| lab.read(&format!("{folder}/samples_{task}.jsonl"));
        assert!(name("cut") == name("whole"), "{task}");
    }
    let refused = lab.refused(&["eval", "--model", "run", "--data", "data", "--out", "cut", "--tasks", "sciq"]);
    assert!(refused.contains("dtype: f32 there, bf16 now"), "{refused}");
}

#[test]
fn a_killed_run_goes_on_and_repeats_nothing() {
    let lab = lab();
    lab.write("data/sciq/test.jsonl", lines(&(0..800).map(question).collect::<Vec<_>>()));
    let command = |out: &str| eval(out, &["--tasks", "sciq"]);
    lab.ok(&command("whole"));
    let finished = |out: &str| {
        let bytes = std::fs::read(lab.path(&format!("{out}/finished.jsonl"))).unwrap_or_default();
        let mut lines: Vec<Vec<u8>> = bytes.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
        lines.sort_unstable();
        lines
    };
    let whole = finished("whole");
    let mut kills = 0;
    for fifth in 0..5 {
        let mut child = lab.start(&command("killed"));
        let is_running = |child: &mut std::process::Child| child.try_wait().expect("a child").is_none();
        while is_running(&mut child) && finished("killed").len() <= fifth * whole.len() / 5 {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        kills += usize::from(is_running(&mut child));
        child.kill().expect("the program can be killed");
        child.wait().expect("a child");
    }
    assert!(kills >= 2, "only {kills} of 5 kills met a running program");
    lab.ok(&command("killed"));
    assert!(finished("killed") == whole, "a request is missing, was scored twice, or has other bits");
    assert!(lab.read("killed/samples_sciq.jsonl") == lab.read("whole/samples_sciq.jsonl"));
}

#[test]
fn two_models_are_compared_on_the_same_documents() {
    let lab = lab();
    lab.ok(&eval("one", &["--tasks", "sciq,mmlu_anatomy,mmlu_virology"]));
    let early: &'static str = format!("run/checkpoints/step-{:08}", crate::support::STEPS - 5).leak();
    let mut other = eval("other", &["--tasks", "sciq"]);
    other[2] = early;
    lab.ok(&other);
    let page = lab.ok(&["compare", "one", "other", "--html", "page.html"]);
    assert!(page.contains("| AMD-Llama-135m * |") && page.contains("76.10 ± 2.65"), "{page}");
    assert!(page.contains("| sciq | run |") && page.contains("| 12 |"), "{page}");
    let html = String::from_utf8(lab.read("page.html")).expect("UTF-8");
    assert!(html.starts_with("<!doctype html>") && html.contains("AMD-Llama-135m") && !html.contains("http"), "{html}");
    let alone = lab.ok(&["compare", "one", "--no-published"]);
    assert!(!alone.contains("AMD") && !alone.contains("Differences"), "{alone}");
}

#[test]
fn a_users_task_needs_no_program() {
    let lab = lab();
    lab.write(
        "mine.yaml",
        "include: sciq.yaml\ntask: mine\ndoc_to_text: \"{{question}} =\"\ndoc_to_choice: \"{{[correct_answer, distractor1]}}\"\n\
         doc_to_target: 0\nmetric_list:\n  - metric: acc_norm\n",
    );
    let results =
        lab.json(&eval("out", &["--tasks", "mine", "--task-file", "mine.yaml", "--limit", "3", "--fewshot", "2"]));
    assert_eq!(results["n-samples"]["mine"], json!({"original": 12, "effective": 3}));
    assert!(results["results"]["mine"]["acc_norm,none"].is_f64());
    let context =
        samples(&lab, "out", "mine")[0]["arguments"]["gen_args_0"]["arg_0"].as_str().expect("text").to_owned();
    assert_eq!((context.matches(" = balo\n\n").count(), context.ends_with("ke mi 0? =")), (2, true), "{context}");
}

#[test]
fn contexts_that_are_too_long_are_cut_and_counted() {
    let lab = lab();
    let output = lab.run(&eval("out", &["--tasks", "sciq", "--fewshot", "9"]));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("  sciq: 48 of 48 contexts are longer than the model's and were cut from the left"),
        "{said}"
    );
    let results: Value = serde_json::from_slice(&lab.read("out/results.json")).expect("JSON");
    assert_eq!(results["config"]["truncated_requests"]["sciq"], 48);
}

#[test]
fn wrong_wishes_are_refused_in_a_sentence() {
    let lab = lab();
    let refused =
        |tasks: &'static str, more: &[&'static str]| lab.refused(&[&eval("out", &["--tasks", tasks]), more].concat());
    let unknown = refused("drop", &[]);
    assert!(unknown.contains("drop: there is no such task") && unknown.contains("winogrande"), "{unknown}");
    assert!(refused("scqi", &[]).contains("did you mean sciq?"));
    assert!(refused("piqa", &[]).contains("no file for the split `validation`"));
    lab.write("data/piqa/validation.jsonl", "{\"goal\": \"ke\", \"sol1\": \"a\", \"label\": 0}\n");
    assert!(refused("piqa", &[]).contains("needs the column `sol2`"));
    lab.write("data/piqa/validation.jsonl", "{\"goal\": \"ke\", \n");
    assert!(refused("piqa", &[]).contains("line 1: not a JSON object"));
    std::fs::remove_file(lab.path("data/piqa/validation.jsonl")).expect("it is there");
    lab.write("data/piqa/validation.jsonl.gz", [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 1, 9]);
    assert!(refused("piqa", &[]).contains("cannot be unpacked"));
    let choices = json!({"text": ["ba", "ke"], "label": ["A", "B"]});
    lab.write(
        "data/arc_easy/test.jsonl",
        format!("{}\n", json!({"question": "ke", "choices": choices, "answerKey": "B"})),
    );
    assert!(refused("arc_easy", &["--fewshot", "1"]).contains("no file for the split `train`"));
    lab.write("bad.yaml", "task: x\ndoc_to_txt: y\n");
    assert!(refused("sciq", &["--task-file", "bad.yaml"]).contains("did you mean `doc_to_text`?"));
    assert!(lab.refused(&["compare", "data"]).contains("no results.json"));
}
