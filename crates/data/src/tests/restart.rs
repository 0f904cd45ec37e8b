//! Stopped and killed runs end as the ones that nobody disturbed.

use super::{Scene, bytes_tokenizer, content, dirty_lines};
use crate::*;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Stops a run after some calls.
struct StopAfter(AtomicUsize);

impl Progress for StopAfter {
    fn stop(&self) -> bool {
        self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_err()
    }
}

fn scene() -> Scene {
    let mut scene = Scene::new();
    scene.data.shard_tokens = 1 << 20;
    for file in 0..3 {
        // Several blocks a file, and a copy of each document in the next file.
        let lines: String = (0..4000)
            .map(|index| format!("{{\"text\": \"text {} {}\"}}\n", index + file * 2000, "words ".repeat(200)))
            .collect();
        scene.file(&format!("in/{file}.jsonl"), lines.as_bytes());
    }
    scene.file("in/x.txt", b"a text").file("in/y.txt", b"another text");
    scene.file("dirty/a.jsonl", &dirty_lines(2000));
    scene.source("lines", "in/*.jsonl");
    scene.source("texts", "in/*.txt");
    scene.source("dirty", "dirty/*.jsonl").max_bytes = 20_000;
    scene
}

#[test]
fn a_run_stopped_anywhere_goes_on_to_the_same_bytes() {
    let scene = scene();
    scene.prepare("whole", 3).unwrap();
    let tokenizer = bytes_tokenizer();
    let mut stops = 0;
    for step in 0..40 {
        let progress = StopAfter(AtomicUsize::new(step % 3));
        let options = PrepareOptions { threads: 1 + step % 3, progress: &progress, ..PrepareOptions::default() };
        match prepare(&scene.data, &tokenizer, &scene.path("stopped"), &options) {
            Err(DataError::Stopped { .. }) => stops += 1,
            other => {
                other.unwrap();
                break;
            }
        }
    }
    assert!(stops > 5, "{stops}");
    assert!(content(&scene.path("whole")) == content(&scene.path("stopped")));
}

/// Not a test of its own: what the next one kills. Runs where the environment says so only.
#[test]
fn child_that_is_killed() {
    let Ok(root) = std::env::var("SLM_TEST_PREPARE_ROOT") else { return };
    let root = Path::new(&root);
    let data: recipe::Data = serde_json::from_slice(&std::fs::read(root.join("data.json")).unwrap()).unwrap();
    let options = PrepareOptions { threads: 2, commit_every: Duration::from_millis(5), ..PrepareOptions::default() };
    prepare(&data, &bytes_tokenizer(), &root.join("killed"), &options).unwrap();
}

#[test]
fn a_run_killed_anywhere_goes_on_to_the_same_bytes() {
    let scene = scene();
    scene.prepare("whole", 2).unwrap();
    let data = serde_json::to_vec(&scene.data).unwrap();
    scene.file("data.json", &data);
    let run = || {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "tests::restart::child_that_is_killed", "--nocapture"]);
        command.env("SLM_TEST_PREPARE_ROOT", scene.dir.path()).stdout(std::process::Stdio::null());
        command.spawn().unwrap()
    };
    let mut kills = 0;
    for attempt in 0.. {
        let mut child = run();
        let limit = Duration::from_millis(30 + attempt * 17 % 150 + attempt * 4);
        let began = std::time::Instant::now();
        let ended = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break Some(status);
            }
            if began.elapsed() >= limit {
                break None;
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        if let Some(status) = ended {
            assert!(status.success());
            break;
        }
        child.kill().unwrap(); // SIGKILL: nothing is written after it
        child.wait().unwrap();
        kills += 1;
    }
    println!("killed {kills} times");
    assert!(content(&scene.path("whole")) == content(&scene.path("killed")));
}

#[test]
fn other_data_is_refused_and_the_same_is_left_alone() {
    let mut scene = Scene::new();
    scene.file("in/a.txt", b"a text").file("in/b.txt", b"b text");
    scene.source("texts", "in/*.txt");
    let first = scene.prepare("out", 1).unwrap();
    let before = content(&scene.path("out"));
    scene.data.sources[0].weight = 2.0; // changes the mixture, not the shards
    scene.data.memory_mib = 100;
    assert_eq!(scene.prepare("out", 1).unwrap(), first);

    scene.data.min_chars = 3;
    let message = scene.prepare("out", 1).unwrap_err().to_string();
    assert!(message.contains("`recipe.min_chars` is 1 there, wanted 3; remove it"), "{message}");
    scene.data.min_chars = 1;
    scene.file("in/c.txt", b"c text");
    let message = scene.prepare("out", 1).unwrap_err().to_string();
    assert!(message.contains("`sources.texts.inputs` is 2 files there, wanted 3 files"), "{message}");
    std::fs::remove_file(scene.path("in/c.txt")).unwrap();
    scene.file("in/b.txt", b"B text");
    let message = scene.prepare("out", 1).unwrap_err().to_string();
    assert!(message.contains("b.txt of 6 bytes, with another content there"), "{message}");
    scene.file("in/b.txt", b"b text"); // another time, the same content
    assert_eq!(scene.prepare("out", 1).unwrap(), first);
    assert!(before == content(&scene.path("out")));

    scene.file("mine/letter.txt", b"dear");
    let message = scene.prepare("mine", 1).unwrap_err().to_string();
    assert!(message.contains("not empty"), "{message}");
    assert_eq!(content(&scene.path("mine")).len(), 1);
}

#[test]
fn half_done_work_of_another_recipe_is_refused() {
    let mut scene = scene();
    let progress = StopAfter(AtomicUsize::new(1));
    let options = PrepareOptions { threads: 1, progress: &progress, ..PrepareOptions::default() };
    prepare(&scene.data, &bytes_tokenizer(), &scene.path("out"), &options).unwrap_err();
    scene.data.dedup = false;
    let message = scene.prepare("out", 1).unwrap_err().to_string();
    assert!(message.contains("`recipe.dedup` is true there, wanted false"), "{message}");
    scene.data.dedup = true;
    scene.file("in/0.jsonl", b"{\"text\": \"changed\"}\n");
    let message = scene.prepare("out", 1).unwrap_err().to_string();
    assert!(message.contains("`sources.lines.inputs`") && message.contains("0.jsonl"), "{message}");
}
