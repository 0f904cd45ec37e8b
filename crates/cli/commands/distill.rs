//! `slm distill`: a draft for the very file that will be served.

use crate::inputs::{self, CacheType, Dtype};
use crate::machine::MachineArguments;
use crate::preparation::{self, Prepared};
use crate::progress::TrainView;
use crate::{draft_vocabulary, output, signals, training};
use anyhow::{Context, Result, bail};
use clap::Args;
use formats::file;
use infer::DraftVocabulary;
use model::{Model, Source};
use recipe::{Distill, Recipe};
use serde::Serialize;
use std::path::{Path, PathBuf};
use tokenizer::{Message, Tokenizer};
use train::distill::{self, Acceptance, AcceptanceReport, Teacher};
use train::{Resume, Summary};

/// Train a draft for a target: it learns what the target says, on text that target and draft write
#[derive(Args)]
#[command(after_help = "\
Examples:
  slm distill recipes/draft.toml --target smollm2.gguf --draft runs/draft
  slm distill recipes/draft.toml --target smollm2.gguf --draft runs/draft --resume auto
  slm generate --model smollm2.gguf --draft runs/draft --prompt \"def fib(n):\" --show-drafts

The recipe has a section [distill] and no [tokenizer]: the draft has the target's. Every so many steps a round of
sequences is collected, read by the target as it will be served, and kept in the draft's folder. Acceptance on held-out
prompts is measured before the first step and after the last. Ctrl-C writes a checkpoint and leaves.")]
pub(crate) struct Arguments {
    /// The recipe
    recipe: PathBuf,
    /// The model that the draft is for
    #[arg(long, value_name = "MODEL")]
    target: PathBuf,
    /// The run folder of the draft
    #[arg(long, value_name = "DIR")]
    draft: PathBuf,
    /// Change a value of the recipe; can be given again
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Go on from the run's newest checkpoint (`auto`; from the beginning if there is none), or from this one
    #[arg(long, value_name = "auto|DIR")]
    resume: Option<PathBuf>,
    /// Go on although this machine or recipe computes other bits than the run so far
    #[arg(long)]
    allow_other_bits: bool,
    /// How the target's products are computed
    #[arg(long, value_enum, default_value = "auto")]
    dtype: Dtype,
    /// How the target's keys and values are kept [default: as `generate` does]
    #[arg(long, value_enum, value_name = "TYPE")]
    cache_type: Option<CacheType>,
    /// Print the summary as one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    machine: MachineArguments,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    summary: Summary,
    acceptance: AcceptanceReport,
}

pub(crate) fn run(arguments: Arguments) -> Result<()> {
    let recipe = Recipe::load(&arguments.recipe, &arguments.set)?;
    let Some(distill) = &recipe.distill else {
        bail!(
            "{}: the recipe has no section [distill]; train it with `slm train`, or add the section",
            arguments.recipe.display()
        );
    };
    let run = &arguments.draft;
    let resume = match &arguments.resume {
        None => Resume::No,
        Some(auto) if auto == Path::new("auto") => Resume::Auto,
        Some(folder) => Resume::From(folder.clone()),
    };
    train::check_folder(run, &resume)?;
    let stop = signals::stop_flag()?;
    let path = inputs::model_path(&arguments.target)?;
    let tokenizer = inputs::load_tokenizer(&path, None).context("the target")?;
    if !distill.requests.is_empty() && tokenizer.chat_template().is_none() {
        bail!("{}: came without a chat template, so leave distill.requests out", path.display());
    }
    let cpu = arguments.machine.open()?;
    let source = Source::open(&path)?;
    let target = inputs::load_model(&cpu, &path, arguments.dtype)?;
    let data = preparation::data_folder(&recipe, run).join("tokens");
    let manifest = preparation::shards(&recipe.data, &tokenizer, &data, arguments.machine.threads(), &stop)?;
    let (tokenizer_folder, vocabulary) = vocabulary(distill, &recipe, run, &data, &tokenizer, &target)?;
    if let Some(from) = &recipe.model.from
        && draft_vocabulary::read(&inputs::model_path(from)?)? != vocabulary
    {
        bail!(
            "{}: model.from has other ids than this draft would; give it the distill.frequent_tokens and the data of that draft",
            from.display()
        );
    }
    let hash = distill::target_hash(&path)?;
    let prepared = Prepared { data, tokenizer_folder, tokenizer, manifest };
    let tokenizer = &prepared.tokenizer;
    let teacher = Teacher {
        source: &source,
        model: &target,
        kv_type: inputs::kv_type(arguments.cache_type, target.precision),
        hash: &hash,
        vocabulary: vocabulary.as_ref(),
        stop: &target.config.eos,
        chat: &|message| tokenizer.encode_chat(&[Message::user(message)]).ok(),
        decode: &|ids| tokenizer.decode(ids),
    };
    let options =
        training::RunOptions { resume, allow_other_bits: arguments.allow_other_bits, teacher: Some(&teacher) };
    let mut view = TrainView::new();
    let summary = training::run(&cpu, &recipe, run, &prepared, options, &mut |event| view.show(event), &stop)?;
    view.finish();
    tell(&arguments, summary)
}

/// The draft's own ids, where it has its own, and the folder whose files go into every checkpoint: the tokenizer's, or
/// what stands for it.
fn vocabulary(
    distill: &Distill,
    recipe: &Recipe,
    run: &Path,
    data: &Path,
    tokenizer: &Tokenizer,
    target: &Model,
) -> Result<(PathBuf, Option<DraftVocabulary>)> {
    let folder = run.join("vocabulary");
    let most = distill.frequent_tokens;
    if most == 0 || most >= target.config.vocab {
        file::create_dir_all(&folder)?;
        file::remove_leftovers(&folder)?;
        tokenizer.save(&folder)?;
        return Ok((folder, None));
    }
    // What a run that never began has left there is no promise.
    let begun = file::exists(&run.join(train::RECIPE_FILE));
    if let Some(known) = draft_vocabulary::read(&folder)?.filter(|_| begun) {
        if known.tokenizer_hash() != tokenizer.hash() || known.target_ids().len() != most {
            bail!(
                "{}: is not for this target and {most} tokens; set distill.frequent_tokens back, or begin a new run with another --draft",
                folder.display()
            );
        }
        return Ok((folder, Some(known)));
    }
    let loader = data::Loader::open(data, &data::weights(&recipe.data), 512, recipe.run.seed)?;
    let mut always = target.config.eos.clone();
    always.extend(target.config.bos);
    if !distill.requests.is_empty() {
        always.extend(tokenizer.encode_chat(&[Message::user("")])?);
    }
    let ids = distill::frequent_ids(&loader, tokenizer.vocab_size(), &always, most)?;
    let vocabulary = DraftVocabulary::new(tokenizer.hash().to_owned(), ids).context("the target has no tokens")?;
    file::create_dir_all(&folder)?;
    draft_vocabulary::save(&vocabulary, &folder)?;
    Ok((folder, Some(vocabulary)))
}

/// Prints what became of it.
fn tell(arguments: &Arguments, summary: Summary) -> Result<()> {
    let acceptance = AcceptanceReport::read(&arguments.draft)?;
    if arguments.json {
        return output::json(&Report { summary, acceptance });
    }
    let shown = |when: &str, found: &Acceptance| {
        output::note(format!(
            "  {when}: {:.1} % of {} drafted tokens accepted, {:.3} tokens a pass of the target ({} held-out prompts)",
            100.0 * found.acceptance,
            found.drafted,
            found.mean_accepted_length,
            found.prompts
        ));
    };
    acceptance.before.iter().for_each(|found| shown("before", found));
    acceptance.after.iter().for_each(|found| shown("after ", found));
    if summary.stopped {
        output::note(format!(
            "stopped after step {}; go on with `slm distill {} --target {} --draft {} --resume auto`",
            summary.steps,
            arguments.recipe.display(),
            arguments.target.display(),
            arguments.draft.display()
        ));
    }
    if let Some(checkpoint) = &summary.checkpoint {
        output::line(checkpoint.display().to_string())?;
    }
    Ok(())
}
