//! Whole runs of a small model: what is promised of a run that is interrupted, changed, or goes wrong.

use crate::metrics::{self, Record};
use crate::testing::{Session, World};
use crate::{Event, Fault, Resume, State, TrainError};
use backend::Backend;
use formats::file;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

fn records(run: &Path) -> Vec<Record> {
    metrics::read(&run.join(metrics::METRICS_FILE)).unwrap()
}

#[test]
fn a_run_learns_and_leaves_what_it_promises() {
    let world = World::new();
    let overrides = ["train.steps=60", "train.evaluation.every_steps=20"];
    let summary = world.train("run", &overrides, &Session::FRESH, None).unwrap();
    assert_eq!((summary.steps, summary.tokens, summary.skipped, summary.stopped), (60, 60 * 64, 0, false));
    let first = match &records(&world.path("run"))[0] {
        Record::Step(step) => step.loss.unwrap(),
        Record::Evaluation(_) => panic!("a step comes first"),
    };
    assert!((first - 64f64.ln()).abs() < 0.2, "an untrained model is as good as chance: {first}");
    assert!(summary.loss.unwrap() < first - 0.3, "{first} → {:?}", summary.loss);
    let evaluation = summary.evaluation.unwrap();
    assert_eq!(evaluation.tokens, 74);
    let (nats, bits) = (evaluation.nats_per_token.unwrap(), evaluation.bits_per_byte.unwrap());
    assert!((bits - nats / std::f64::consts::LN_2 / 3.0).abs() < 1e-12);
    let latest = world.path("run/checkpoints/latest");
    for name in
        ["model.safetensors", "optimizer.safetensors", "config.json", "generation_config.json", "tokenizer.json"]
    {
        assert!(file::is_file(&latest.join(name)), "{name}");
    }
    for name in ["recipe.toml", "log.txt", "timing.jsonl"] {
        assert!(file::is_file(&world.path("run").join(name)), "{name}");
    }
    let evaluations =
        records(&world.path("run")).iter().filter(|record| matches!(record, Record::Evaluation(_))).count();
    assert_eq!(evaluations, 3);
}

#[test]
fn stopped_and_resumed_runs_leave_the_bits_of_an_uninterrupted_one() {
    let world = World::new();
    for (index, more) in
        [&["train.precision=\"f32\""][..], &["train.precision=\"bf16\"", "model.tied=true"]].iter().enumerate()
    {
        let whole = format!("whole-{index}");
        assert!(!world.train(&whole, more, &Session::FRESH, None).unwrap().stopped);
        for stop_at in 1..=5 {
            let name = format!("stopped-{index}-{stop_at}");
            let summary = world.train(&name, more, &Session::FRESH, Some(stop_at)).unwrap();
            assert_eq!((summary.steps, summary.stopped), (stop_at, true));
            let summary = world.train(&name, more, &Session::RESUMED, None).unwrap();
            assert_eq!((summary.steps, summary.stopped), (6, false));
            assert!(world.bits(&name) == world.bits(&whole), "{more:?} stopped at {stop_at}");
        }
    }
}

#[test]
fn threads_and_micro_batches_do_not_change_the_bits() {
    let world = World::new();
    world.train("whole", &[], &Session::FRESH, None).unwrap();
    for micro_batch in ["train.micro_batch=1", "train.micro_batch=3", "train.micro_batch=4"] {
        let two_threads = Session { threads: 2, ..Session::FRESH };
        world.train(micro_batch, &[micro_batch], &two_threads, None).unwrap();
        assert!(world.bits(micro_batch) == world.bits("whole"), "{micro_batch}");
    }
    world.train("changed", &[], &Session::FRESH, Some(3)).unwrap();
    let two_threads = Session { threads: 2, ..Session::RESUMED };
    world.train("changed", &["train.micro_batch=4"], &two_threads, None).unwrap();
    assert!(world.bits("changed") == world.bits("whole"));
}

#[test]
fn a_stop_during_an_evaluation_leaves_it_for_the_resumed_run() {
    let world = World::new();
    world.train("whole", &[], &Session::FRESH, None).unwrap();
    let summary = world.train_watched("stopped", &[], &Session::FRESH, &|event, stop| {
        stop.store(matches!(event, Event::Evaluating { .. }), Ordering::Relaxed);
    });
    assert_eq!(summary.unwrap().steps, 3);
    assert!(State::read(&world.path("stopped/checkpoints/latest")).unwrap().evaluation_due);
    world.train("stopped", &[], &Session::RESUMED, None).unwrap();
    assert!(world.bits("stopped") == world.bits("whole"));
}

/// What a kill leaves at its worst moments: a checkpoint half written, `latest` still at the one before or nowhere,
/// metrics that have gone on and end within a line.
#[test]
fn a_run_killed_at_any_moment_goes_on() {
    let world = World::new();
    world.train("whole", &[], &Session::FRESH, None).unwrap();
    world.train("killed", &[], &Session::FRESH, Some(4)).unwrap();
    let run = world.path("killed");
    let half = run.join("checkpoints/.step-00000006.abc.partial");
    file::create_dir_all(&half).unwrap();
    file::write_bytes(&half.join("model.safetensors"), b"half").unwrap();
    let mut metrics = file::open_append(&run.join("metrics.jsonl")).unwrap();
    metrics.append(b"{\"step\":5,\"tokens\":1}\n{\"step\":6,\"tok").unwrap();
    file::remove_file(&run.join("checkpoints/latest")).unwrap();
    world.train("killed", &[], &Session::RESUMED, None).unwrap();
    assert!(world.bits("killed") == world.bits("whole"));
    assert!(!file::exists(&half));

    // Killed between the rename of a checkpoint and that of `latest`: it is written again.
    world.train("older", &["train.checkpoints.keep_last=9"], &Session::FRESH, Some(4)).unwrap();
    let checkpoints = world.path("older/checkpoints");
    file::replace_symlink(&checkpoints.join("latest"), Path::new("step-00000002")).unwrap();
    world.train("older", &[], &Session::RESUMED, None).unwrap();
    assert!(world.bits("older") == world.bits("whole"));

    // Killed before its first checkpoint.
    world.train("early", &[], &Session::FRESH, Some(1)).unwrap();
    file::remove_dir_all(&world.path("early/checkpoints")).unwrap();
    world.train("early", &[], &Session::RESUMED, None).unwrap();
    assert!(world.bits("early") == world.bits("whole"));
}

#[test]
fn a_finished_run_is_not_changed_by_resuming_it() {
    let world = World::new();
    let summary = world.train("run", &[], &Session::FRESH, None).unwrap();
    let bits = world.bits("run");
    let again = world.train("run", &[], &Session::RESUMED, None).unwrap();
    assert!(world.bits("run") == bits);
    assert_eq!((again.steps, again.evaluation, again.stopped), (summary.steps, summary.evaluation, false));
}

#[test]
fn checkpoints_are_kept_as_the_recipe_says() {
    let world = World::new();
    let overrides = ["train.checkpoints.every_steps=1", "train.checkpoints.keep_every_steps=3", "train.steps=7"];
    world.train("run", &overrides, &Session::FRESH, None).unwrap();
    let names: Vec<String> = file::list(&world.path("run/checkpoints"))
        .unwrap()
        .iter()
        .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    assert_eq!(names, ["latest", "step-00000003", "step-00000006", "step-00000007"]);
}

#[test]
fn an_older_checkpoint_or_another_runs_can_be_named() {
    let world = World::new();
    let kept = ["train.checkpoints.keep_last=9"];
    world.train("whole", &kept, &Session::FRESH, None).unwrap();
    let bits = world.bits("whole");
    let older = world.path("whole/checkpoints/step-00000002");
    let from = Session { resume: Resume::From(older), ..Session::FRESH };
    world.train("copy", &kept, &from, None).unwrap();
    assert!(world.bits("copy") == bits, "a new folder gets the beginning of the metrics too");
    world.train("whole", &kept, &from, None).unwrap();
    assert!(world.bits("whole") == bits, "steps are done again in the same folder");
    let error =
        world.train("copy", &kept, &Session { resume: Resume::From(world.path("data")), ..Session::FRESH }, None);
    assert!(matches!(error, Err(TrainError::NoCheckpoint { .. })), "{error:?}");
}

#[test]
fn finetuning_takes_the_weights_and_nothing_else() {
    let world = World::new();
    world.train("base", &[], &Session::FRESH, None).unwrap();
    let from = format!("model.from={:?}", world.path("base/checkpoints/latest"));
    let overrides =
        [from.as_str(), "model.width=0", "train.schedule.learning_rate=1e-9", "train.schedule.min_learning_rate=0"];
    let mut shape = overrides.to_vec();
    shape.extend(["model.layers=2", "train.steps=1"]);
    world.train("tuned", &shape, &Session::FRESH, None).unwrap();
    let state = State::read(&world.path("tuned/checkpoints/latest")).unwrap();
    assert_eq!((state.step, state.updates), (1, 1));
    let last = |run: &str| {
        records(&world.path(run)).into_iter().rev().find_map(|record| match record {
            Record::Evaluation(record) => record.validation_loss,
            Record::Step(_) => None,
        })
    };
    let (base, tuned) = (last("base").unwrap(), last("tuned").unwrap());
    assert!((base - tuned).abs() < 1e-6, "{base} {tuned}");

    shape.push("model.layers=3");
    let error = world.train("other", &shape, &Session::FRESH, None).unwrap_err().to_string();
    assert!(error.starts_with("model.layers = 3: the folder to start from has 2"), "{error}");
}

#[test]
fn what_a_run_cannot_go_on_with_is_named() {
    let world = World::new();
    world.train("run", &[], &Session::FRESH, Some(2)).unwrap();
    let told =
        |overrides: &[&str], session: &Session| world.train("run", overrides, session, None).unwrap_err().to_string();
    let error = told(&[], &Session::FRESH);
    assert!(
        error.ends_with("holds a run already; continue it with `--resume auto`, or give another `--out`"),
        "{error}"
    );
    let error = told(&["run.seed=4"], &Session::RESUMED);
    assert!(error.contains("begun with run.seed = 3, and the recipe now says 4"), "{error}");
    let error = told(&["train.optimizer.weight_decay=0"], &Session::RESUMED);
    assert!(error.contains("train.optimizer.weight_decay was") && error.contains("`--allow-other-bits`"), "{error}");

    let path = world.path("run/checkpoints/latest/state.json");
    let state = file::read_to_string(&path).unwrap();
    let level = State::read(&world.path("run/checkpoints/latest")).unwrap().backend.level;
    file::write_bytes(&path, state.replace(&format!("\"level\": \"{level}\""), "\"level\": \"other\"").as_bytes())
        .unwrap();
    let error = told(&[], &Session::RESUMED);
    assert!(error.contains("the backend was cpu other so far") && error.contains("`--allow-other-bits`"), "{error}");

    file::write_bytes(&path, state.replace("\"data_hash\": \"", "\"data_hash\": \"0").as_bytes()).unwrap();
    assert!(told(&[], &Session::RESUMED).contains("begun with other data"));

    file::write_bytes(&path, state.as_bytes()).unwrap();
    let weights = world.path("run/checkpoints/latest/model.safetensors");
    let mut bytes = file::read(&weights, u64::MAX).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    file::write_bytes(&weights, &bytes).unwrap();
    let error = told(&[], &Session::RESUMED);
    assert!(error.contains("model.safetensors: has changed or was damaged"), "{error}");
    bytes[last] ^= 1;
    file::write_bytes(&weights, &bytes).unwrap();

    let accepting = Session { allow_other_bits: true, ..Session::RESUMED };
    world.train("run", &["train.optimizer.weight_decay=0"], &accepting, None).unwrap();
}

#[test]
fn a_tied_model_keeps_its_micro_batch() {
    let world = World::new();
    world.train("run", &["model.tied=true"], &Session::FRESH, Some(2)).unwrap();
    let other = ["model.tied=true", "train.micro_batch=1"];
    let error = world.train("run", &other, &Session::RESUMED, None).unwrap_err().to_string();
    assert!(error.contains("train.micro_batch was 2 so far and is 1 now"), "{error}");
    world.train("run", &other, &Session { allow_other_bits: true, ..Session::RESUMED }, None).unwrap();
}

/// Weights that are not numbers make every loss so: no step may touch them, and the run must stop.
#[test]
fn steps_that_are_not_finite_touch_nothing_and_stop_the_run() {
    let world = World::new();
    world.train("base", &[], &Session::FRESH, None).unwrap();
    let weights = world.path("base/checkpoints/latest/model.safetensors");
    let mut bytes = file::read(&weights, u64::MAX).unwrap();
    let last = bytes.len() - 4;
    bytes[last..].copy_from_slice(&f32::NAN.to_le_bytes());
    file::write_bytes(&weights, &bytes).unwrap();
    let from = format!("model.from={:?}", world.path("base/checkpoints/latest"));
    let overrides = [from.as_str(), "train.max_bad_steps=3", "train.checkpoints.every_steps=1"];
    let error = world.train("bad", &overrides, &Session::FRESH, None).unwrap_err();
    let TrainError::NotFinite { step: 3, fault: Fault::Loss, in_a_row: 3, last_good: Some(_), .. } = &error else {
        panic!("{error:?}");
    };
    let records = records(&world.path("bad"));
    let skipped = records.iter().filter_map(|record| match record {
        Record::Step(step) => step.skipped.as_ref().map(|skipped| (step.step, skipped.first_sample, skipped.samples)),
        Record::Evaluation(_) => None,
    });
    assert_eq!(skipped.collect::<Vec<_>>(), [(1, 0, 4), (2, 4, 4), (3, 8, 4)]);
    let kept = world.path("bad/checkpoints/latest");
    assert_eq!(file::read(&kept.join("model.safetensors"), u64::MAX).unwrap(), bytes);
    assert_eq!(State::read(&kept).unwrap().updates, 0);
}

#[test]
fn two_processes_do_not_share_a_run() {
    let world = World::new();
    world.train("run", &[], &Session::FRESH, Some(1)).unwrap();
    let _held = file::lock_folder(&world.path("run")).unwrap();
    let error = world.train("run", &[], &Session::RESUMED, None).unwrap_err().to_string();
    assert!(error.contains("another process is using this folder"), "{error}");
}

/// Whether a run ends well or not, it gives back what it took (the backend's own scratch stays).
#[test]
fn a_run_gives_its_memory_back() {
    let world = World::new();
    let cpu = cpu::Cpu::new(1, None).unwrap();
    let nothing = |_: &Event<'_>, _: &AtomicBool| ();
    world.train_on(&cpu, "first", &[], &Session::FRESH, &nothing).unwrap();
    let kept = cpu.allocated_bytes();
    world.train_on(&cpu, "second", &[], &Session::FRESH, &nothing).unwrap();
    assert_eq!(cpu.allocated_bytes(), kept);
    file::write_bytes(&world.path("second/checkpoints/latest/optimizer.safetensors"), b"").unwrap();
    world.train_on(&cpu, "second", &[], &Session::RESUMED, &nothing).unwrap_err();
    world.train_on(&cpu, "third", &["model.vocab=32"], &Session::FRESH, &nothing).unwrap_err();
    assert_eq!(cpu.allocated_bytes(), kept);
}
