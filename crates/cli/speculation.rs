//! Who proposes tokens, how many, and what that costs on this machine: shared by `slm generate` and `slm bench speculative`.

use crate::inputs::{self, CacheType, Dtype};
use crate::{draft_vocabulary, env};
use anyhow::{Context, Result, bail};
use backend::Backend;
use clap::{Args, ValueEnum};
use cpu::Cpu;
use formats::file;
use infer::{
    BridgedDrafter, Chain, Costs, DraftVocabulary, Drafter, InferError, MAX_DRAFT_LENGTH, ModelDrafter, NgramDrafter,
    Schedule, Session,
};
use model::{Model, cost};
use serde::{Deserialize, Serialize};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use tokenizer::Tokenizer;

/// Who proposes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Speculate {
    /// Nobody.
    Off,
    /// Repetitions first, then the draft model if there is one.
    Auto,
    /// The longest match in prompt and output.
    Suffix,
    /// The latest occurrence of the last three tokens, or two, or one.
    Ngram,
    /// The model of --draft.
    Draft,
}

/// Tokens proposed at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DraftLength {
    /// What pays, by costs measured on this machine and by what was accepted so far.
    Auto,
    /// That of AMD's measurements: [`Schedule::Heuristic`].
    Amd,
    /// Always as many.
    Fixed(usize),
}

fn parse_draft_length(text: &str) -> Result<DraftLength, String> {
    match text.parse() {
        _ if text == "auto" => Ok(DraftLength::Auto),
        _ if text == "amd" => Ok(DraftLength::Amd),
        Ok(length) if (1..=MAX_DRAFT_LENGTH).contains(&length) => Ok(DraftLength::Fixed(length)),
        _ => Err(format!("give `auto`, `amd` or 1 to {MAX_DRAFT_LENGTH}")),
    }
}

/// Arguments of commands that speculate.
#[derive(Args, Clone, Debug)]
pub(crate) struct SpeculationArguments {
    /// A smaller model that proposes tokens
    #[arg(long, value_name = "MODEL")]
    pub(crate) draft: Option<PathBuf>,
    /// Who proposes tokens: one, or several in the order they are asked [default: auto with --draft, off without]
    #[arg(long, value_enum, value_delimiter = ',')]
    pub(crate) speculate: Vec<Speculate>,
    /// Tokens proposed at a time; `auto` measures what pays here (once, for a second) and proposes none where nothing
    /// does; `amd` begins with 5, and takes 2 more after each round in which all were accepted, else 1 fewer
    #[arg(long, value_name = "N", default_value = "auto", value_parser = parse_draft_length)]
    pub(crate) draft_length: DraftLength,
    /// Let a draft with another tokenizer propose by way of text; without this it is refused
    #[arg(long, requires = "draft")]
    pub(crate) bridge_vocab: bool,
}

/// A draft model.
pub(crate) struct Draft<'t> {
    pub(crate) path: PathBuf,
    pub(crate) model: Model,
    pub(crate) vocabulary: Vocabulary<'t>,
}

/// How the draft's ids become the target's.
pub(crate) enum Vocabulary<'t> {
    /// They are the same, but for ids that mean another thing to the draft.
    Shared { foreign: Vec<u32> },
    /// The draft has ids of its own for some of the target's.
    Own(DraftVocabulary),
    /// By way of text.
    Bridged { target: &'t Tokenizer, draft: Box<Tokenizer> },
}

/// What the drafters of a target are made of.
pub(crate) struct Cast<'m> {
    pub(crate) cpu: &'m Cpu,
    pub(crate) path: &'m Path,
    pub(crate) target: &'m Model,
    pub(crate) draft: Option<&'m Draft<'m>>,
    pub(crate) cache_type: Option<CacheType>,
}

impl SpeculationArguments {
    /// The model of `--draft`, for `target` and its tokenizer.
    pub(crate) fn load_draft<'t>(
        &self,
        cpu: &Cpu,
        dtype: Dtype,
        target: &Model,
        tokenizer: Option<&'t Tokenizer>,
    ) -> Result<Option<Draft<'t>>> {
        let Some(path) = &self.draft else { return Ok(None) };
        let model = inputs::load_model(cpu, path, dtype).context("the draft")?;
        let [own, others] = [target, &model].map(|model| cost::parameters(&model.config).total());
        if others > own {
            bail!(
                "the draft has {others} parameters and the target {own}, so drafting takes longer than the text by itself; take a smaller draft, or exchange --model and --draft"
            );
        }
        if let Some(vocabulary) = draft_vocabulary::read(&inputs::model_path(path)?)? {
            if tokenizer.is_some_and(|own| own.hash() != vocabulary.tokenizer_hash()) {
                bail!(
                    "{}: this draft was distilled for a target with another tokenizer; distil one for this target",
                    path.display()
                );
            }
            return Ok(Some(Draft { path: path.clone(), model, vocabulary: Vocabulary::Own(vocabulary) }));
        }
        // Without a tokenizer on either side there is nothing to compare; the ids then speak for themselves.
        let vocabulary = match (tokenizer, inputs::load_tokenizer(path, None)) {
            (Some(own), Ok(others)) => match infer::check_vocabularies(own, &others) {
                Ok(foreign) => Vocabulary::Shared { foreign },
                Err(_) if self.bridge_vocab => Vocabulary::Bridged { target: own, draft: Box::new(others) },
                Err(error) => return Err(error.into()),
            },
            _ => Vocabulary::Shared { foreign: Vec::new() },
        };
        Ok(Some(Draft { path: path.clone(), model, vocabulary }))
    }

    /// Who was asked to propose, in order; nobody where that is off.
    fn drafters(&self, has_draft: bool) -> Result<Vec<Speculate>> {
        let asked = match (&self.speculate[..], has_draft) {
            ([], true) => vec![Speculate::Auto],
            (asked, _) => asked.to_vec(),
        };
        let mut drafters = Vec::new();
        for who in asked {
            match who {
                Speculate::Off if self.speculate.len() > 1 => bail!("--speculate off goes with nothing else"),
                Speculate::Off => {}
                Speculate::Auto => {
                    drafters.push(Speculate::Suffix);
                    drafters.extend(has_draft.then_some(Speculate::Draft));
                }
                Speculate::Draft if !has_draft => {
                    bail!("--speculate draft needs a model to draft with; name one with --draft")
                }
                who => drafters.push(who),
            }
        }
        Ok(drafters)
    }

    /// Most tokens that are proposed at a time.
    pub(crate) fn most(&self) -> usize {
        match self.draft_length {
            DraftLength::Auto | DraftLength::Amd => MAX_DRAFT_LENGTH,
            DraftLength::Fixed(length) => length,
        }
    }

    /// The drafters that were asked for, for texts of up to `capacity` tokens, and the costs that were measured for them.
    pub(crate) fn chain<'m>(&self, cast: &Cast<'m>, capacity: usize) -> Result<Option<(Chain<'m>, Option<Costs>)>> {
        let drafters = self.drafters(cast.draft.is_some())?;
        if drafters.is_empty() {
            return Ok(None);
        }
        let costs = match self.draft_length {
            DraftLength::Auto => Some(costs(cast, drafters.contains(&Speculate::Draft))?),
            DraftLength::Amd | DraftLength::Fixed(_) => None,
        };
        let schedule = match (&costs, self.draft_length) {
            (Some(costs), _) => Schedule::Adaptive(costs.clone()),
            (None, DraftLength::Amd) => Schedule::Heuristic,
            (None, _) => Schedule::Fixed,
        };
        Ok(Some((build(cast, &drafters, schedule, capacity)?, costs)))
    }
}

fn build<'m>(cast: &Cast<'m>, drafters: &[Speculate], schedule: Schedule, capacity: usize) -> Result<Chain<'m>> {
    let mut chain = Chain::new(schedule);
    for who in drafters {
        chain = match (who, cast.draft) {
            (Speculate::Suffix, _) => chain.then_suffix(),
            (Speculate::Ngram, _) => chain.then_ngram(NgramDrafter::default()),
            (Speculate::Draft, Some(draft)) => chain.then_model(drafter(cast, draft, capacity)?),
            _ => chain,
        };
    }
    Ok(chain)
}

fn drafter<'m>(cast: &Cast<'m>, draft: &'m Draft<'m>, capacity: usize) -> Result<Box<dyn Drafter + 'm>> {
    let session = session(cast, &draft.model, capacity)?;
    let target_vocab = cast.target.config.vocab;
    Ok(match &draft.vocabulary {
        Vocabulary::Shared { foreign } => {
            Box::new(ModelDrafter::from_session(session, target_vocab).without(foreign.clone()))
        }
        Vocabulary::Own(vocabulary) => {
            Box::new(ModelDrafter::from_session(session, target_vocab).with_vocabulary(vocabulary.clone()))
        }
        Vocabulary::Bridged { target, draft: tokenizer } => {
            let model = ModelDrafter::from_session(session, draft.model.config.vocab);
            Box::new(BridgedDrafter::new(model, tokenizer, target)?)
        }
    })
}

fn session<'m>(cast: &Cast<'m>, model: &'m Model, capacity: usize) -> Result<Session<'m>, InferError> {
    let kv_type = inputs::kv_type(cast.cache_type, model.precision);
    Session::with_cache(cast.cpu, model, capacity.min(model.config.context), kv_type)
}

/// What is kept of [`Costs`] in the user's cache folder.
#[derive(Serialize, Deserialize)]
struct Stored {
    /// For what it was measured: another machine, model or release has another one.
    key: String,
    costs: Costs,
}

/// How much of its kept time a step must take now, or the machine was busy when the costs were measured and they are
/// measured anew. A step that takes longer than it did says nothing: the machine is busy now.
const SOUND_STEP: f64 = 0.75;

/// Costs of the models on this machine: those of an earlier run, or measured now.
pub(crate) fn costs(cast: &Cast<'_>, with_draft: bool) -> Result<Costs> {
    const ROOM: usize = 64;
    let draft = cast.draft.filter(|_| with_draft);
    let key = key(cast, draft);
    let path = env::cache_folder().map(|folder| {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        folder.join("speculation").join(format!("{:016x}.json", hasher.finish()))
    });
    let mut target = session(cast, cast.target, ROOM)?;
    if let Some(costs) = path.as_deref().and_then(|path| kept(path, &key))
        && infer::measure_step(&mut target)? >= SOUND_STEP * costs.step_seconds
    {
        return Ok(costs);
    }
    let mut draft = draft.map(|draft| session(cast, &draft.model, ROOM)).transpose()?;
    let costs = infer::measure_costs(&mut target, draft.as_mut())?;
    if let Some(path) = path {
        let stored = Stored { key, costs: costs.clone() };
        // A folder that cannot be written costs a second of measuring in each run, no more.
        let _ = path.parent().map(file::create_dir_all);
        let _ = file::write_bytes(&path, &serde_json::to_vec(&stored)?);
    }
    Ok(costs)
}

/// What an earlier run measured; nothing if it is damaged or for something else.
fn kept(path: &Path, key: &str) -> Option<Costs> {
    let stored: Stored = serde_json::from_str(&file::read_to_string(path).ok()?).ok()?;
    let sound = stored.key == key && is_sound(&stored.costs);
    sound.then_some(stored.costs)
}

fn is_sound(costs: &Costs) -> bool {
    let Costs { step_seconds, verify, draft, draft_row, draft_once } = costs;
    verify.iter().chain([step_seconds, draft, draft_row, draft_once]).all(|number| number.is_finite() && *number >= 0.0)
}

/// Everything that changes what is measured.
fn key(cast: &Cast<'_>, draft: Option<&Draft<'_>>) -> String {
    let machine = cast.cpu.describe();
    let model = |path: &Path, model: &Model| {
        let kv_type = inputs::kv_type(cast.cache_type, model.precision);
        format!("{:?} {:?} {}", model.precision, kv_type, identity(path))
    };
    format!(
        "slm {} at level {} with {} threads; target {}; draft {}",
        env!("CARGO_PKG_VERSION"),
        machine.level,
        machine.threads,
        model(cast.path, cast.target),
        draft.map_or_else(|| "none".to_owned(), |draft| model(&draft.path, &draft.model))
    )
}

/// Names, sizes and times of the files that make up a model.
fn identity(path: &Path) -> String {
    let path = inputs::model_path(path).unwrap_or_else(|_| path.to_owned());
    let files = if file::is_dir(&path) { file::list(&path).unwrap_or_default() } else { vec![path] };
    let one = |path: &PathBuf| {
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.clone());
        let size = file::size_bytes(path).unwrap_or_default();
        let changed = file::modified(path).ok().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
        format!("{} {size} {}", absolute.display(), changed.unwrap_or_default().as_nanos())
    };
    files.iter().map(one).collect::<Vec<_>>().join(", ")
}
