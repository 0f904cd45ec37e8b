//! The whole life of a model in a few minutes: each stage calls what a command of its own would call.
//!
//! tokenizer → prepare → pretrain target and draft → finetune both on code → held-out losses → export, re-read and
//! compared → generation with and without speculation → `report.html` and `summary.json`.

mod budget;
mod recipes;
mod report;
mod speculation;
mod summary;

use crate::commands::export;
use crate::preparation::{self, Prepared};
use crate::progress::{TrainView, duration};
use crate::training::{self, RunOptions};
use crate::{inputs, output};
use anyhow::{Context, Result, bail};
use backend::{Backend, Precision};
use budget::Budget;
use cpu::Cpu;
use data::Part;
use formats::{Encoding, file};
use model::{Model, Parameters};
use recipe::Recipe;
use recipes::{Corpora, Role};
use report::{Curve, Report, Sample};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use summary::{Held, Summary};
use train::Resume;

/// What was asked for.
pub(crate) struct Options {
    /// How long all of it may take.
    pub minutes: f64,
    /// Globs of prose; empty takes the default corpus.
    pub text: Vec<String>,
    /// Globs of code; empty takes the default corpus.
    pub code: Vec<String>,
    /// Folder that receives everything.
    pub out: PathBuf,
    /// Seed of weights and data order.
    pub seed: u64,
    /// Threads.
    pub threads: usize,
}

/// Tokens of held-out text that are evaluated.
const HELD_OUT_TOKENS: u64 = 40_000;

/// What the stages hand on.
struct Life<'a> {
    cpu: &'a Cpu,
    options: &'a Options,
    stop: &'a AtomicBool,
    budget: Budget,
    curves: Vec<Curve>,
    facts: Vec<(String, String)>,
}

/// Prose and code as shards, of one tokenizer.
struct Texts {
    prose: Prepared,
    code: Prepared,
}

/// Checkpoints of one model: after pretraining and after finetuning.
struct Trained {
    base: PathBuf,
    code: PathBuf,
}

/// Runs every stage.
pub(crate) fn run(cpu: &Cpu, options: &Options, stop: &AtomicBool) -> Result<()> {
    let about = cpu.describe();
    output::note(format!(
        "A language model from text to speculation in about {} ({}, {} threads), in {}",
        duration(60.0 * options.minutes),
        about.level,
        about.threads,
        options.out.display()
    ));
    let mut life = Life {
        cpu,
        options,
        stop,
        budget: Budget::new(60.0 * options.minutes),
        curves: Vec::new(),
        facts: vec![("machine".into(), format!("{} at level {}, {} threads", about.name, about.level, about.threads))],
    };
    let texts = life.prepare()?;
    let target = life.train(Role::Target, &texts)?;
    let draft = life.train(Role::Draft, &texts)?;
    let (base, code) = life.held_out(&texts, &target)?;
    let (export, gguf) = life.export(&target, &draft, &texts)?;
    let (speculation, samples) = life.generate(&target, &draft, &texts)?;
    let summary = Summary { base, code, speculation, export };
    life.report(&summary, &samples, &gguf)
}

impl Life<'_> {
    fn prepare(&mut self) -> Result<Texts> {
        let corpora = Corpora::new(self.options);
        let out = &self.options.out;
        self.budget.begin("tokenizer");
        let folder = out.join("tokenizer");
        let choice = recipes::tokenizer(self.options.minutes);
        let tokenizer =
            preparation::trained_tokenizer(&choice, &corpora.both(), &folder).map_err(Self::name_the_flags)?;
        self.budget.end(&format!("{} tokens", tokenizer.vocab_size()));

        self.budget.begin("prepare");
        let mut prepared = |data: &recipe::Data, name: &str, tokenizer| -> Result<Prepared> {
            let data_folder = out.join("data").join(name);
            let manifest = preparation::shards(data, &tokenizer, &data_folder, self.options.threads, self.stop)?;
            let (train, held_out) = (manifest.tokens(Part::Train), manifest.tokens(Part::Validation));
            if train < 50_000 || held_out < 1_000 {
                bail!(
                    "{name}: {train} tokens for training and {held_out} held out are too few to learn from; name more text \
                     with --text GLOB and --code GLOB"
                );
            }
            self.facts.push((name.into(), format!("{train} tokens for training, {held_out} held out")));
            Ok(Prepared { data: data_folder, tokenizer_folder: folder.clone(), tokenizer, manifest })
        };
        let code_tokenizer = tokenizer::Tokenizer::load(&folder)?;
        let texts = Texts {
            prose: prepared(&corpora.prose, "prose", tokenizer).map_err(Self::name_the_flags)?,
            code: prepared(&corpora.code, "code", code_tokenizer).map_err(Self::name_the_flags)?,
        };
        let tokens = |prepared: &Prepared| prepared.manifest.tokens(Part::Train);
        self.budget.end(&format!("{} tokens of prose, {} of code", tokens(&texts.prose), tokens(&texts.code)));
        Ok(texts)
    }

    fn name_the_flags(error: anyhow::Error) -> anyhow::Error {
        if format!("{error:#}").contains("--text") {
            return error;
        }
        error.context("the text to learn from cannot be used (--text GLOB and --code GLOB name your own)")
    }

    /// Pretrains and finetunes one model.
    fn train(&mut self, role: Role, texts: &Texts) -> Result<Trained> {
        let name = role.name();
        let base_recipe = recipes::pretraining(role, self.options);
        let base = self.train_run(&format!("pretrain {name}"), base_recipe, &texts.prose, role.pretrain_share())?;
        let code_recipe = recipes::finetuning(self.options, &base);
        let code = self.train_run(&format!("finetune {name}"), code_recipe, &texts.code, role.finetune_share())?;
        Ok(Trained { base, code })
    }

    /// One training run of as many steps as fit its share of the time; its newest checkpoint.
    fn train_run(&mut self, stage: &str, mut recipe: Recipe, prepared: &Prepared, share: f64) -> Result<PathBuf> {
        let seconds = self.budget.share(share);
        self.budget.begin(stage);
        let vocab = prepared.tokenizer.vocab_size();
        recipe.train.steps = Some(1);
        let plan = train::plan(self.cpu, &recipe, vocab, true)?;
        let speed = plan.probe.context("the speed of training could not be measured")?.tokens_per_second;
        let left = seconds - self.budget.stage_seconds();
        let steps = (left * speed / recipe.train.batch_tokens as f64).max(20.0) as u64;
        recipes::set_steps(&mut recipe, steps);

        let run = self.options.out.join(stage.replace(' ', "-"));
        let mut view = TrainView::new();
        let options = RunOptions { resume: Resume::No, allow_other_bits: false, teacher: None };
        let summary =
            training::run(self.cpu, &recipe, &run, prepared, options, &mut |event| view.show(event), self.stop)?;
        view.finish();
        if summary.stopped {
            bail!("stopped; what was made so far lies in {}", self.options.out.display());
        }
        self.curves.push(read_curve(stage, &run)?);
        self.facts.push((
            stage.into(),
            format!("{} parameters, {steps} steps of {} tokens", plan.parameters.total(), recipe.train.batch_tokens),
        ));
        let loss = summary.evaluation.and_then(|evaluation| evaluation.nats_per_token);
        self.budget.end(&format!("{steps} steps, held-out loss {:.3}", loss.unwrap_or(f64::NAN)));
        summary.checkpoint.context("training left no checkpoint")
    }

    /// Losses on held-out prose and code, before and after each training run of the target.
    fn held_out(&mut self, texts: &Texts, target: &Trained) -> Result<(Held, Held)> {
        self.budget.begin("evaluate");
        let recipe = recipes::pretraining(Role::Target, self.options);
        let random = {
            let config = Model::load(self.cpu, &target.base, Precision::Bf16)?;
            let parameters =
                Parameters::initialize(self.cpu, &config.config, recipes::SCHEME, self.options.seed, Precision::Bf16)?;
            let held = self.evaluate(&parameters.model(), &texts.prose, &recipe)?;
            parameters.free(self.cpu);
            config.free(self.cpu);
            held
        };
        let base = self.held(&texts.prose, &recipe, random, &target.base)?;
        let unfinetuned = self.load_and_evaluate(&target.base, &texts.code, &recipe)?;
        let code = self.held(&texts.code, &recipe, unfinetuned, &target.code)?;
        self.budget.end(&format!(
            "prose {:.3} → {:.3}, code {:.3} → {:.3} nats per token",
            base.heldout_loss_before, base.heldout_loss_after, code.heldout_loss_before, code.heldout_loss_after
        ));
        Ok((base, code))
    }

    fn held(&self, prepared: &Prepared, recipe: &Recipe, before: train::Evaluation, after: &Path) -> Result<Held> {
        let after = self.load_and_evaluate(after, prepared, recipe)?;
        Ok(Held {
            heldout_loss_before: before.nats_per_token.context("there is no held-out text")?,
            heldout_loss_after: after.nats_per_token.context("there is no held-out text")?,
            unigram_entropy: data::unigram_entropy(&prepared.data, Part::Validation)?,
            bits_per_byte: after.bits_per_byte.context("there is no held-out text")?,
        })
    }

    fn load_and_evaluate(&self, folder: &Path, prepared: &Prepared, recipe: &Recipe) -> Result<train::Evaluation> {
        let model = Model::load(self.cpu, folder, Precision::Bf16)?;
        let evaluation = self.evaluate(&model, prepared, recipe)?;
        model.free(self.cpu);
        Ok(evaluation)
    }

    fn evaluate(&self, model: &Model, prepared: &Prepared, recipe: &Recipe) -> Result<train::Evaluation> {
        let (sequence, micro_batch) = (model.config.context, recipe.train.micro_batch);
        Ok(train::evaluate(self.cpu, model, &prepared.data, sequence, micro_batch, HELD_OUT_TOKENS, false)?)
    }

    /// The finetuned pair for other programs, read back and compared.
    fn export(&mut self, target: &Trained, draft: &Trained, texts: &Texts) -> Result<(PathBuf, PathBuf)> {
        self.budget.begin("export");
        let (folder, gguf) = (self.options.out.join("model"), self.options.out.join("model.gguf"));
        let vocabulary = export::Vocabulary::Tokenizer(&texts.code.tokenizer);
        let written = export::to_hf_folder(self.cpu, &target.code, Encoding::F32, &folder, vocabulary)?;
        export::to_hf_folder(self.cpu, &draft.code, Encoding::F32, &self.options.out.join("draft"), vocabulary)?;
        let packed = export::to_gguf(self.cpu, &target.code, Encoding::F16, &gguf, vocabulary)?;
        self.budget.end(&format!(
            "read back: logits differ by {:.1e} (f32), {:.1e} (f16 GGUF)",
            written.max_logit_difference, packed.max_logit_difference
        ));
        Ok((folder, gguf))
    }

    fn generate(
        &mut self,
        target: &Trained,
        draft: &Trained,
        texts: &Texts,
    ) -> Result<(summary::Speculation, Vec<Sample>)> {
        self.budget.begin("generate");
        let tokenizer = &texts.code.tokenizer;
        let load = |path: &Path| inputs::load_model(self.cpu, path, inputs::Dtype::Bf16);
        let models =
            speculation::Pair { base: load(&target.base)?, target: load(&target.code)?, draft: load(&draft.code)? };
        let (speculation, samples) = speculation::compare(self.cpu, &models, tokenizer)?;
        models.free(self.cpu);
        self.budget.end(&format!(
            "{:.0} tokens/s alone, {:.0} with the draft, {:.0} % accepted, {}",
            speculation.plain_tokens_per_second,
            speculation.speculative_tokens_per_second,
            100.0 * speculation.acceptance,
            if speculation.identical { "identical bytes" } else { "DIFFERENT bytes" }
        ));
        if !speculation.identical {
            bail!("the text with the draft differs from the text without it: this is a defect, please report it");
        }
        Ok((speculation, samples))
    }

    fn report(&mut self, summary: &Summary, samples: &[Sample], gguf: &Path) -> Result<()> {
        self.budget.begin("report");
        let out = &self.options.out;
        let next = recipes::what_next(summary, gguf, out);
        let page = out.join("report.html");
        let report = Report {
            summary,
            stages: self.budget.stages(),
            curves: &self.curves,
            samples,
            facts: &self.facts,
            next: &next,
        };
        file::write_bytes(&page, report.html()?.as_bytes())?;
        file::write_bytes(&out.join("summary.json"), &serde_json::to_vec_pretty(summary)?)?;
        self.budget.end("");
        output::note(format!("\nDone in {}. Open {}", duration(self.budget.elapsed()), page.display()));
        for (command, purpose) in &next {
            output::note(format!("\n{purpose}\n  {command}"));
        }
        output::line(page.display().to_string())
    }
}

/// Training and held-out losses of a run, from its metrics.
fn read_curve(stage: &str, run: &Path) -> Result<Curve> {
    let mut curve = Curve { name: stage.into(), training: Vec::new(), held_out: Vec::new() };
    for record in train::metrics::read(&run.join(train::metrics::METRICS_FILE))? {
        match record {
            train::metrics::Record::Step(step) => {
                curve.training.extend(step.loss.map(|loss| (step.step as f64, loss)));
            }
            train::metrics::Record::Evaluation(evaluation) => {
                curve.held_out.extend(evaluation.validation_loss.map(|loss| (evaluation.step as f64, loss)));
            }
        }
    }
    Ok(curve)
}
