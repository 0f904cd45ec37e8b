//! The loop: steps, metrics, evaluations, checkpoints.

use crate::batch::TokenBatch;
use crate::distill::{self, Acceptance, AcceptanceReport, Rounds, Teacher};
use crate::held::Held;
use crate::metrics::{self, EvaluationRecord, Journal, Record, SkippedRecord, StepRecord};
use crate::observer::{Event, Observer};
use crate::start::{self, Start};
use crate::state::State;
use crate::step::{BatchShape, Outcome, Trainer};
use crate::{Evaluation, Inputs, Resume, TrainError, checkpoint, evaluate, plan, shape};
use backend::Backend;
use data::{Loader, Manifest};
use model::{Cut, Parameters, Source, cost};
use recipe::{Distill, Recipe};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Steps done, those of earlier sessions included.
    pub steps: u64,
    /// Training tokens read.
    pub tokens: u64,
    /// Steps that were skipped.
    pub skipped: u64,
    /// Whether it was stopped before its last step.
    pub stopped: bool,
    /// Mean loss of the last batch of this session, in nats per token.
    pub loss: Option<f64>,
    /// The evaluation after the last step.
    pub evaluation: Option<Evaluation>,
    /// The newest checkpoint; none where the run was stopped before its first step.
    pub checkpoint: Option<PathBuf>,
    /// Time of this session.
    pub seconds: f64,
}

/// A checkpoint that is there.
struct Saved {
    step: u64,
    evaluation_due: bool,
    folder: PathBuf,
}

/// A run under way.
pub(crate) struct Session<'a> {
    b: &'a dyn Backend,
    recipe: &'a Recipe,
    run: &'a Path,
    inputs: &'a Inputs<'a>,
    observer: &'a mut dyn Observer,
    trainer: Trainer<'a>,
    loader: Loader,
    /// Where a draft learns from its target.
    rounds: Option<Rounds<'a>>,
    shape: BatchShape,
    steps: u64,
    flops_per_token: f64,
    state: State,
    journal: Journal,
    /// The newest checkpoint.
    saved: Option<Saved>,
    saved_at: Instant,
    started: Instant,
    loss: Option<f64>,
    evaluation: Option<Evaluation>,
    _start: Start,
}

impl Saved {
    fn new(state: &State, folder: PathBuf) -> Self {
        Self { step: state.step, evaluation_due: state.evaluation_due, folder }
    }
}

impl<'a> Session<'a> {
    /// Checks everything, loads or draws the weights, plans all memory, opens the files.
    pub(crate) fn open(
        b: &'a dyn Backend,
        recipe: &'a Recipe,
        run: &'a Path,
        resume: &Resume,
        inputs: &'a Inputs<'a>,
        observer: &'a mut dyn Observer,
    ) -> Result<Self, TrainError> {
        let started = Instant::now();
        let train = &recipe.train;
        let manifest = Manifest::load(inputs.data)?;
        let sum = data_sum(&manifest, inputs.teacher);
        let present = State::new(recipe, sum.clone(), inputs.tokenizer.hash.to_owned(), b.describe());
        let start = start::find(run, recipe, resume, &present, inputs.allow_other_bits)?;

        let checkpoint = start.from.as_ref().map(|(folder, _)| folder.as_path());
        let parameters = first_weights(b, recipe, checkpoint, inputs)?;
        let config = parameters.config.clone();
        let shape = shape::batch_shape(train, config.context)?;
        // A draft's own vocabulary may be smaller: its ids are mapped.
        let known = inputs.teacher.map_or(config.vocab, |teacher| teacher.model.config.vocab);
        manifest.check(inputs.tokenizer.hash, known)?;
        let loader = Loader::open(inputs.data, &data::weights(&recipe.data), shape.tokens, recipe.run.seed)?;
        let taught = recipe.distill.as_ref().zip(inputs.teacher);
        let divergence =
            taught.and_then(|(distill, _)| Some((distill.top_k, distill::divergence(distill.divergence)?)));
        let mut trainer = Trainer::new(b, parameters, shape, &train.optimizer, train.document_mask, divergence)?;
        let rounds =
            |(distill, teacher)| Rounds::new(b, teacher, (recipe, distill), run, (shape.tokens, config.vocab), &sum);
        let rounds = taught.map(rounds).transpose()?;
        let state = match &start.from {
            Some((folder, before)) => {
                checkpoint::read_moments(b, folder, &trainer)?;
                State {
                    step: before.step,
                    tokens: before.tokens,
                    updates: before.updates,
                    skipped: before.skipped,
                    evaluation_due: before.evaluation_due,
                    metrics_bytes: before.metrics_bytes,
                    ..present
                }
            }
            None => present,
        };
        trainer.updates = state.updates;
        let mut journal = Journal::open(run, state.metrics_bytes, state.step + 1)?;
        journal.log(&opening_words(&start, &state, &config_words(b, &config)))?;
        Ok(Self {
            b,
            recipe,
            run,
            inputs,
            observer,
            trainer,
            loader,
            rounds,
            shape,
            steps: shape::steps(recipe),
            flops_per_token: cost::flops_per_token(&config, shape.tokens).training,
            saved: start.from.as_ref().map(|(folder, state)| Saved::new(state, folder.clone())),
            state,
            journal,
            saved_at: started,
            started,
            loss: None,
            evaluation: None,
            _start: start,
        })
    }

    /// All steps that are left, or those until `stop` is set.
    pub(crate) fn run(mut self, stop: &AtomicBool) -> Result<Summary, TrainError> {
        self.announce();
        if self.state.evaluation_due {
            self.evaluate(stop)?;
        }
        if self.state.step == 0 {
            self.measure_acceptance(|report, found| report.before = found)?;
        }
        let listed = self.recipe.distill.as_ref().map_or(0, |distill| distill.top_k);
        let mut batch = TokenBatch::new(self.shape.sequences, self.shape.tokens, listed);
        while self.state.step < self.steps && !stop.load(Ordering::Relaxed) {
            if !self.step(&mut batch, stop)? {
                break;
            }
            self.state.evaluation_due = self.evaluation_is_due();
            if self.state.evaluation_due {
                self.evaluate(stop)?;
            }
            if self.checkpoint_is_due() {
                self.save()?;
            }
        }
        let now = (self.state.step, self.state.evaluation_due);
        let unsaved = self.saved.as_ref().is_none_or(|saved| (saved.step, saved.evaluation_due) != now);
        if unsaved && self.state.step > 0 {
            self.save()?;
        }
        if self.state.step == self.steps {
            self.measure_acceptance(|report, found| report.after = found)?;
        }
        self.summarize()
    }

    /// One step and its metrics; `false` if it was given up because `stop` was set.
    fn step(&mut self, batch: &mut TokenBatch, stop: &AtomicBool) -> Result<bool, TrainError> {
        let began = Instant::now();
        let samples = self.shape.sequences as u64;
        let first_sample = self.state.step * samples;
        let step = self.state.step + 1;
        if !self.fill(batch, first_sample, samples, stop)? {
            return Ok(false);
        }
        let learning_rate = crate::learning_rate(&self.recipe.train.schedule, step, self.steps);
        let Some(outcome) = self.trainer.step(batch, learning_rate, stop) else { return Ok(false) };

        let seconds = began.elapsed().as_secs_f64();
        let tokens_per_second = self.shape.batch_tokens() as f64 / seconds;
        self.state.step = step;
        self.state.tokens += self.shape.batch_tokens() as u64;
        self.state.updates = self.trainer.updates;
        self.state.skipped.count(outcome.fault);
        self.loss = Some(outcome.loss);
        let finite = |value: f64| Some(value).filter(|value| value.is_finite());
        let skipped = outcome.fault.map(|reason| SkippedRecord { skipped: true, reason, first_sample, samples });
        let record = StepRecord {
            step,
            tokens: self.state.tokens,
            loss: finite(outcome.loss),
            learning_rate,
            gradient_norm: finite(outcome.gradient_norm),
            skipped,
        };
        self.journal.step(&record, seconds, tokens_per_second)?;
        self.observer.observe(&Event::Step {
            step,
            of: self.steps,
            tokens: self.state.tokens,
            loss: outcome.loss,
            learning_rate,
            gradient_norm: outcome.gradient_norm,
            seconds,
            tokens_per_second,
            peak_share: self.inputs.peak_flops.map(|peak| tokens_per_second * self.flops_per_token / peak),
        });
        self.judge(&outcome, first_sample)?;
        Ok(true)
    }

    /// Samples `first..first + count` into the batch; `false` if that was given up because `stop` was set.
    fn fill(&mut self, batch: &mut TokenBatch, first: u64, count: u64, stop: &AtomicBool) -> Result<bool, TrainError> {
        batch.clear();
        let Some(rounds) = &mut self.rounds else {
            for index in first..first + count {
                batch.push(&self.loader.sample(index)?);
            }
            return Ok(true);
        };
        let draft = self.trainer.parameters().model();
        if !rounds.ensure(self.state.step, &self.loader, &draft, self.observer, stop)? {
            return Ok(false);
        }
        rounds.fill(first, count, batch)?;
        Ok(true)
    }

    /// Measures what the target accepts of the draft's proposals, where there is one, and notes it.
    fn measure_acceptance(&mut self, place: fn(&mut AcceptanceReport, Option<Acceptance>)) -> Result<(), TrainError> {
        let Some((distill, teacher)) = self.recipe.distill.as_ref().zip(self.inputs.teacher) else { return Ok(()) };
        let draft = self.trainer.parameters().model();
        let found = distill::measure(self.b, teacher, &draft, distill, &self.loader, self.state.step)?;
        let mut report = AcceptanceReport::read(self.run)?;
        place(&mut report, found);
        report.write(self.run)
    }

    /// Tells of a skipped step, and stops the run after too many in a row.
    fn judge(&mut self, outcome: &Outcome, first_sample: u64) -> Result<(), TrainError> {
        let Some(fault) = outcome.fault else { return Ok(()) };
        let (step, in_a_row) = (self.state.step, self.state.skipped.in_a_row);
        let samples = self.shape.sequences as u64;
        let last_sample = first_sample + samples - 1;
        self.journal.log(&format!("step {step} skipped: {fault} (samples {first_sample} to {last_sample})"))?;
        self.observer.observe(&Event::Skipped { step, fault, in_a_row, first_sample, samples });
        if in_a_row < self.recipe.train.max_bad_steps {
            return Ok(());
        }
        Err(TrainError::NotFinite {
            step,
            fault,
            in_a_row,
            log: self.run.join(metrics::LOG_FILE),
            metrics: self.run.join(metrics::METRICS_FILE),
            last_good: self.saved.as_ref().map(|saved| saved.folder.clone()),
        })
    }

    fn evaluation_is_due(&self) -> bool {
        let every = self.recipe.train.evaluation.every_steps;
        self.state.step == self.steps || (every > 0 && self.state.step.is_multiple_of(every))
    }

    /// Evaluates and notes it; where `stop` was set meanwhile, the evaluation stays due.
    fn evaluate(&mut self, stop: &AtomicBool) -> Result<(), TrainError> {
        let began = Instant::now();
        let model = self.trainer.parameters().model();
        let observer = &mut *self.observer;
        let mut progress = |tokens, of| observer.observe(&Event::Evaluating { tokens, of });
        let scorer = self.trainer.scorer(&model);
        let evaluation = &self.recipe.train.evaluation;
        let vocabulary = self.inputs.teacher.and_then(|teacher| teacher.vocabulary);
        let (loader, most) = (&self.loader, evaluation.tokens);
        let found = evaluate::held_out_loss(&scorer, loader, vocabulary, most, &mut progress, stop)?;
        let Some(found) = found else { return Ok(()) };
        let continuations = evaluate::continue_prompts(self.b, &model, &self.inputs.tokenizer, evaluation)?;
        let finite = |value: Option<f64>| value.filter(|value| value.is_finite());
        let record = EvaluationRecord {
            step: self.state.step,
            validation_loss: finite(found.nats_per_token),
            bits_per_byte: finite(found.bits_per_byte),
            validation_tokens: found.tokens,
            continuations,
        };
        self.journal.evaluation(&record)?;
        self.state.evaluation_due = false;
        self.evaluation = Some(found);
        let loss = found.nats_per_token.map_or("no held-out text".into(), |nats| format!("{nats:.4} nats per token"));
        self.journal.log(&format!("evaluated after step {}: {loss}", self.state.step))?;
        self.observer.observe(&Event::Evaluated { record: &record, seconds: began.elapsed().as_secs_f64() });
        Ok(())
    }

    fn checkpoint_is_due(&self) -> bool {
        let due = &self.recipe.train.checkpoints;
        let minutes = self.saved_at.elapsed().as_secs_f64() / 60.0;
        (due.every_steps > 0 && self.state.step.is_multiple_of(due.every_steps))
            || (due.every_minutes > 0.0 && minutes >= due.every_minutes)
    }

    fn save(&mut self) -> Result<(), TrainError> {
        let began = Instant::now();
        let step = self.state.step;
        self.state.metrics_bytes = self.journal.synced_metrics_bytes()?;
        let folder = checkpoint::write(self.b, self.run, &self.trainer, &self.state, self.inputs.tokenizer.folder)?;
        checkpoint::retire(self.run, &self.recipe.train.checkpoints, step)?;
        self.journal.log(&format!("saved {} after step {step}", folder.display()))?;
        self.observer.observe(&Event::Saved { step, folder: &folder, seconds: began.elapsed().as_secs_f64() });
        self.saved = Some(Saved::new(&self.state, folder));
        self.saved_at = Instant::now();
        Ok(())
    }

    fn announce(&mut self) {
        let parameters = self.trainer.parameters();
        self.observer.observe(&Event::Started {
            parameters: parameters.count() as u64,
            flops_per_token: self.flops_per_token,
            memory: plan::memory(&parameters.config, self.shape, parameters.precision, self.recipe.train.document_mask),
            allocated_bytes: self.b.allocated_bytes() as u64,
            step: self.state.step,
            of: self.steps,
            batch_tokens: self.shape.batch_tokens(),
        });
    }

    fn summarize(mut self) -> Result<Summary, TrainError> {
        let stopped = self.state.step < self.steps || self.state.evaluation_due;
        let words = if stopped { "stopped" } else { "finished" };
        self.journal.log(&format!("{words} after step {} of {}", self.state.step, self.steps))?;
        if self.evaluation.is_none() && !stopped {
            self.evaluation = last_evaluation(&self.run.join(metrics::METRICS_FILE))?;
        }
        Ok(Summary {
            steps: self.state.step,
            tokens: self.state.tokens,
            skipped: self.state.skipped.in_all,
            stopped,
            loss: self.loss,
            evaluation: self.evaluation,
            checkpoint: self.saved.map(|saved| saved.folder),
            seconds: self.started.elapsed().as_secs_f64(),
        })
    }
}

/// A sum over everything that the order and the content of samples hang on.
fn data_sum(manifest: &Manifest, teacher: Option<&Teacher<'_>>) -> String {
    let Some(teacher) = teacher else { return manifest.content_hash() };
    let mut hasher = blake3::Hasher::new_derive_key("slm 2026 data and target of a distillation v1");
    hasher.update(manifest.content_hash().as_bytes()).update(teacher.hash.as_bytes());
    for id in teacher.vocabulary.iter().flat_map(|vocabulary| vocabulary.target_ids()) {
        hasher.update(&id.to_le_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

/// The weights that the run begins with: a checkpoint's, a folder's, layers of the target, or random ones.
fn first_weights<'b>(
    b: &'b dyn Backend,
    recipe: &Recipe,
    checkpoint: Option<&Path>,
    inputs: &Inputs<'_>,
) -> Result<Held<'b, Parameters>, TrainError> {
    let precision = shape::precision(&recipe.train);
    let tokenizer = &inputs.tokenizer;
    let parameters = if let Some(folder) = checkpoint.or(recipe.model.from.as_deref()) {
        let source = Source::open(folder)?;
        shape::check_folder(&recipe.model, source.config(), tokenizer.vocab)?;
        Parameters::from_source(b, &source, precision)?
    } else if let Some((distill, teacher)) = layers_of_target(recipe, inputs) {
        let ids = teacher.vocabulary.map(|vocabulary| vocabulary.target_ids().to_vec());
        let cut = Cut { layers: distill.layers_of_target.clone(), ids };
        Parameters::cut_from(b, teacher.source, &cut, precision)?
    } else {
        let config = shape::model_config(&recipe.model, tokenizer.vocab, tokenizer.bos, tokenizer.eos)?;
        Parameters::initialize(b, &config, shape::scheme(&recipe.model), recipe.run.seed, precision)?
    };
    Ok(Held::new(b, parameters, Parameters::free))
}

/// Whether the draft begins as layers of its target.
fn layers_of_target<'a>(recipe: &'a Recipe, inputs: &Inputs<'a>) -> Option<(&'a Distill, &'a Teacher<'a>)> {
    recipe.distill.as_ref().filter(|distill| !distill.layers_of_target.is_empty()).zip(inputs.teacher)
}

fn last_evaluation(path: &Path) -> Result<Option<Evaluation>, TrainError> {
    let last = metrics::read(path)?.into_iter().rev().find_map(|record| match record {
        Record::Evaluation(record) => Some(record),
        Record::Step(_) => None,
    });
    Ok(last.map(|record| Evaluation {
        nats_per_token: record.validation_loss,
        bits_per_byte: record.bits_per_byte,
        tokens: record.validation_tokens,
    }))
}

fn config_words(b: &dyn Backend, config: &model::Config) -> String {
    let backend = b.describe();
    let parameters = cost::parameters(config).total();
    format!("{parameters} parameters, {} {} on {} threads", backend.name, backend.level, backend.threads)
}

fn opening_words(start: &Start, state: &State, config: &str) -> String {
    match (&start.from, start.resumed) {
        (Some((folder, _)), _) => format!("resumed after step {} from {}; {config}", state.step, folder.display()),
        (None, true) => format!("begun again, since there was no checkpoint yet; {config}"),
        (None, false) => format!("begun; {config}"),
    }
}
