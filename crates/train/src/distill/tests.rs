use super::{AcceptanceReport, TEACHER_FOLDER, Teacher};
use crate::metrics::{self, Record};
use crate::testing::{self, Session, TOKENIZER_HASH, World};
use crate::{Event, Summary, TrainError};
use backend::{KvType, Precision};
use cpu::Cpu;
use formats::file;
use infer::DraftVocabulary;
use model::{Model, Source};
use recipe::{Distill, ModelShape, Recipe};
use std::path::PathBuf;
use std::sync::atomic::Ordering;

/// A target that was trained for some steps, and drafts of it.
struct Pair {
    world: World,
    vocabulary: Option<DraftVocabulary>,
    hash: String,
}

impl Pair {
    fn new(steps: u64) -> Self {
        let world = World::new();
        world.train("target", &[&format!("train.steps={steps}")], &Session::FRESH, None).unwrap();
        Self { world, vocabulary: None, hash: "target".into() }
    }

    fn target(&self) -> PathBuf {
        self.world.path("target/checkpoints/latest")
    }

    /// Distils in the folder `name`, until the end or until step `stop_at` is done.
    fn distill(
        &self,
        name: &str,
        recipe: &Recipe,
        session: &Session,
        stop_at: Option<u64>,
    ) -> Result<Summary, TrainError> {
        let b = Cpu::new(session.threads, None).unwrap();
        let source = Source::open(&self.target()).unwrap();
        let model = Model::from_source(&b, &source, Precision::F32).unwrap();
        let teacher = Teacher {
            source: &source,
            model: &model,
            kv_type: KvType::F32,
            hash: &self.hash,
            vocabulary: self.vocabulary.as_ref(),
            stop: &[2],
            chat: &|message| Some(message.bytes().map(|byte| u32::from(byte) % 64).collect()),
            decode: &|ids| ids.iter().map(|&id| char::from(b'0' + id as u8)).collect(),
        };
        let watch = |event: &Event<'_>, stop: &std::sync::atomic::AtomicBool| {
            if let Event::Step { step, .. } = event
                && Some(*step) == stop_at
            {
                stop.store(true, Ordering::Relaxed);
            }
        };
        self.world.run_recipe(&b, name, recipe, Some(&teacher), session, &watch)
    }

    fn acceptance(&self, name: &str) -> [f64; 2] {
        let report = AcceptanceReport::read(&self.world.path(name)).unwrap();
        [report.before, report.after].map(|found| found.unwrap().mean_accepted_length)
    }

    /// Weights, moments and metrics, and all rounds.
    fn bits(&self, name: &str) -> ([Vec<u8>; 3], Vec<Vec<u8>>) {
        let rounds = file::list(&self.world.path(name).join(TEACHER_FOLDER)).unwrap();
        let rounds = rounds.iter().map(|path| file::read(path, u64::MAX).unwrap()).collect();
        (self.world.bits(name), rounds)
    }
}

const ONE_LAYER: &str = "model.layers=1";

#[test]
fn a_draft_comes_nearer_to_its_target() {
    let pair = Pair::new(150);
    for divergence in ["forward_kl", "reverse_kl", "symmetric_kl", "total_variation"] {
        let divergence = format!("distill.divergence={divergence}");
        let recipe = testing::draft_recipe(&[ONE_LAYER, "train.steps=100", &divergence]);
        pair.distill("draft", &recipe, &Session::FRESH, None).unwrap();
        let [before, after] = pair.acceptance("draft");
        assert!(before >= 1.0 && after > before, "{divergence}: {before} {after}");
        file::remove_dir_all(&pair.world.path("draft")).unwrap();
    }
}

/// Stopped before, in and behind a round; the rounds too are the same.
#[test]
fn an_interrupted_distillation_leaves_the_same_bits() {
    let pair = Pair::new(10);
    let recipe = testing::draft_recipe(&[ONE_LAYER, "distill.requests=[\"say {text}\"]"]);
    pair.distill("whole", &recipe, &Session::FRESH, None).unwrap();
    for stop_at in [1, 2, 3, 5] {
        let name = format!("stopped-{stop_at}");
        pair.distill(&name, &recipe, &Session::FRESH, Some(stop_at)).unwrap();
        pair.distill(&name, &recipe, &Session::RESUMED, None).unwrap();
        assert_eq!(pair.bits(&name), pair.bits("whole"), "stopped after step {stop_at}");
    }
    let two = Session { threads: 2, ..Session::FRESH };
    pair.distill("two", &recipe, &two, None).unwrap();
    assert_eq!(pair.bits("two"), pair.bits("whole"));
}

#[test]
fn layers_of_the_target_and_ids_of_its_own() {
    let mut pair = Pair::new(10);
    let recipe = testing::draft_recipe(&["train.steps=1"]);
    let both_layers = Distill { layers_of_target: vec![0, 1], ..recipe.distill.clone().unwrap() };
    let whole = Recipe { model: ModelShape::default(), distill: Some(both_layers), ..recipe };
    pair.distill("whole", &whole, &Session::FRESH, None).unwrap();
    // All layers and all ids are the target itself: whatever it proposes is accepted.
    let report = AcceptanceReport::read(&pair.world.path("whole")).unwrap();
    assert_eq!(report.before.unwrap().acceptance, 1.0);

    pair.vocabulary = DraftVocabulary::new(TOKENIZER_HASH.into(), (0..64).filter(|id| id % 4 != 3).collect());
    pair.distill("some", &whole, &Session::FRESH, None).unwrap();
    let report = AcceptanceReport::read(&pair.world.path("some")).unwrap();
    assert!(report.before.unwrap().drafted > 0);
    let draft = Source::open(&pair.world.path("some/checkpoints/latest")).unwrap();
    assert_eq!((draft.config().vocab, draft.config().layers, &draft.config().eos[..]), (49, 2, &[2][..]));
}

#[test]
fn another_target_is_another_run_and_a_lost_round_is_told() {
    let mut pair = Pair::new(10);
    let recipe = testing::draft_recipe(&[ONE_LAYER]);
    pair.distill("draft", &recipe, &Session::FRESH, Some(3)).unwrap();
    pair.hash = "another".into();
    let error = pair.distill("draft", &recipe, &Session::RESUMED, None).unwrap_err().to_string();
    assert!(error.contains("the run was begun with other data"), "{error}");
    pair.hash = "target".into();
    let round = pair.world.path("draft").join(TEACHER_FOLDER).join("round-000000.safetensors");
    file::remove_file(&round).unwrap();
    let error = pair.distill("draft", &recipe, &Session::RESUMED, None).unwrap_err().to_string();
    assert!(error.contains("round-000000.safetensors: cannot be used (it is gone)"), "{error}");
}

#[test]
fn text_alone_needs_no_teacher() {
    let pair = Pair::new(10);
    let alone =
        ["distill.divergence=next_token", "distill.text_share=1", "distill.target_share=0", "distill.draft_share=0"];
    let recipe = testing::draft_recipe(&[&[ONE_LAYER, "train.steps=60"], &alone[..]].concat());
    pair.distill("draft", &recipe, &Session::FRESH, None).unwrap();
    let records = metrics::read(&pair.world.path("draft").join(metrics::METRICS_FILE)).unwrap();
    let losses = records.iter().filter_map(|record| match record {
        Record::Step(step) => step.loss,
        Record::Evaluation(_) => None,
    });
    let losses: Vec<f64> = losses.collect();
    assert!(losses[59] < losses[0] - 0.5, "{losses:?}");
}
