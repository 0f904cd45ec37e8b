//! Ranges of a recipe's values, and what must fit together. The first fault is told.

use crate::{Data, Distill, ModelShape, Recipe, RecipeError, Schedule, Source, TokenizerChoice, Train};
use std::fmt::Display;
use std::path::Path;

/// A fault: which key, what it says, what it must be.
struct Fault {
    key: String,
    found: String,
    rule: String,
}

type Checked = Result<(), Fault>;

fn require(holds: bool, key: impl Into<String>, found: impl Display, rule: impl Into<String>) -> Checked {
    if holds { Ok(()) } else { Err(Fault { key: key.into(), found: found.to_string(), rule: rule.into() }) }
}

/// Checks everything that can be known without reading another file.
pub(crate) fn recipe(recipe: &Recipe, file: &Path) -> Result<(), RecipeError> {
    tokenizer(&recipe.tokenizer, recipe.distill.is_some())
        .and_then(|()| first_weights(recipe))
        .and_then(|()| data(&recipe.data))
        .and_then(|()| train(&recipe.train, shape_of(recipe)))
        .and_then(|()| recipe.distill.as_ref().map_or(Ok(()), distill))
        .map_err(|Fault { key, found, rule }| RecipeError::OutOfRange { file: file.to_owned(), key, found, rule })
}

/// What the weights come from: a shape, a folder, or layers of the target.
fn first_weights(recipe: &Recipe) -> Checked {
    let layers = recipe.distill.as_ref().map_or(&[][..], |distill| &distill.layers_of_target);
    if layers.is_empty() {
        return model(&recipe.model);
    }
    require(
        recipe.model == ModelShape::default(),
        "distill.layers_of_target",
        format!("{layers:?}"),
        "goes without `[model]`: the draft has the target's shape, and these layers",
    )
}

fn distill(distill: &Distill) -> Checked {
    let key = |name: &str| format!("distill.{name}");
    require((1..=64).contains(&distill.top_k), key("top_k"), distill.top_k, "must be 1 to 64")?;
    require(
        distill.frequent_tokens <= 1 << 20,
        key("frequent_tokens"),
        distill.frequent_tokens,
        "must be at most 1048576 (0 takes all of the target's)",
    )?;
    for (name, value) in [
        ("round_sequences", distill.round_sequences),
        ("heldout_prompts", distill.heldout_prompts),
        ("heldout_tokens", distill.heldout_tokens),
    ] {
        require((1..=1 << 20).contains(&value), key(name), value, "must be 1 to 1048576")?;
    }
    require(distill.round_steps >= 1, key("round_steps"), distill.round_steps, "must be at least 1")?;
    require((1..=16).contains(&distill.draft_length), key("draft_length"), distill.draft_length, "must be 1 to 16")?;
    let shares = [distill.text_share, distill.target_share, distill.draft_share];
    let sum: f64 = shares.iter().sum();
    require(
        shares.iter().all(|&share| share >= 0.0) && (sum - 1.0).abs() < 1e-6,
        key("text_share"),
        format!("{} with target_share = {} and draft_share = {}", shares[0], shares[1], shares[2]),
        "must add up to 1, none of them negative",
    )?;
    let hot = distill.temperatures.iter().all(|&temperature| (0.0..=10.0).contains(&temperature));
    let temperatures = format!("{:?}", distill.temperatures);
    require(
        hot && !distill.temperatures.is_empty(),
        key("temperatures"),
        temperatures,
        "must be at least one, each 0 to 10",
    )?;
    let without = distill.requests.iter().find(|request| !request.contains("{text}"));
    require(
        without.is_none(),
        key("requests"),
        format!("{:?}", without.map_or("", String::as_str)),
        "must hold `{text}`, where a passage of the training text is put",
    )
}

fn tokenizer(tokenizer: &TokenizerChoice, distilled: bool) -> Checked {
    if distilled {
        return require(
            *tokenizer == TokenizerChoice::default(),
            "tokenizer",
            "given",
            "must be left out: a draft has the tokenizer of its target (`slm distill --target`)",
        );
    }
    let both = tokenizer.path.is_some() == tokenizer.train_vocab.is_some();
    require(
        !both,
        "tokenizer",
        if tokenizer.path.is_some() { "path and train_vocab" } else { "neither path nor train_vocab" },
        "give exactly one of `path` (an existing tokenizer) and `train_vocab` (how many tokens to train)",
    )?;
    let vocab = tokenizer.train_vocab.unwrap_or(300);
    require((300..=1_000_000).contains(&vocab), "tokenizer.train_vocab", vocab, "must be 300 to 1000000")
}

fn model(model: &ModelShape) -> Checked {
    if model.from.is_some() {
        return Ok(());
    }
    for (key, value, most) in [
        ("width", model.width, 1 << 16),
        ("layers", model.layers, 1 << 10),
        ("heads", model.heads, 1 << 10),
        ("ffn_width", model.ffn_width, 1 << 18),
        ("context", model.context, 1 << 20),
    ] {
        let rule = format!("must be 1 to {most} (or give `model.from`, a folder whose shape and weights are taken)");
        require((1..=most).contains(&value), format!("model.{key}"), value, rule)?;
    }
    require(model.vocab <= 1 << 20, "model.vocab", model.vocab, "must be at most 1048576 (0 takes the tokenizer's)")?;
    require(
        model.kv_heads == 0 || model.heads.is_multiple_of(model.kv_heads),
        "model.kv_heads",
        model.kv_heads,
        format!("must divide model.heads = {}", model.heads),
    )?;
    require(
        model.head_dim != 0 || model.width.is_multiple_of(model.heads),
        "model.width",
        model.width,
        format!("must be a multiple of model.heads = {}, or give model.head_dim", model.heads),
    )?;
    let head_dim = if model.head_dim == 0 { model.width / model.heads } else { model.head_dim };
    require(
        head_dim.is_multiple_of(2) && head_dim <= 1024,
        "model.head_dim",
        head_dim,
        "must be even and at most 1024",
    )?;
    require(
        model.norm_epsilon > 0.0 && model.norm_epsilon < 1.0,
        "model.norm_epsilon",
        model.norm_epsilon,
        "must lie between 0 and 1",
    )?;
    require(
        model.rope_theta.is_finite() && model.rope_theta >= 1.0,
        "model.rope_theta",
        model.rope_theta,
        "must be at least 1",
    )?;
    require(
        model.init_std > 0.0 && model.init_std < 10.0,
        "model.init_std",
        model.init_std,
        "must lie between 0 and 10",
    )
}

fn data(data: &Data) -> Checked {
    require(!data.sources.is_empty(), "data.sources", "[]", "name at least one source (`[[data.sources]]`)")?;
    require(
        (0.0..=0.5).contains(&data.validation_fraction),
        "data.validation_fraction",
        data.validation_fraction,
        "must be 0 to 0.5",
    )?;
    require(
        (1 << 10..=1 << 30).contains(&data.shard_tokens),
        "data.shard_tokens",
        data.shard_tokens,
        "must be 1024 to 1073741824",
    )?;
    require(data.memory_mib >= 64, "data.memory_mib", data.memory_mib, "must be at least 64")?;
    if let Some(own) = &data.decontaminate {
        require(!own.tasks.is_empty(), "data.decontaminate.tasks", "[]", "must name at least one task of `slm eval`")?;
        require(
            !own.dir.as_os_str().is_empty(),
            "data.decontaminate.dir",
            own.dir.display(),
            "must be the folder with the tasks' documents",
        )?;
        require((2..=100).contains(&own.ngram), "data.decontaminate.ngram", own.ngram, "must be 2 to 100")?;
    }
    for (index, entry) in data.sources.iter().enumerate() {
        source(entry, index)?;
        let twice = data.sources[..index].iter().any(|other| other.name == entry.name);
        require(
            !twice,
            format!("data.sources.{index}.name"),
            &entry.name,
            "is used twice; names of sources are unique",
        )?;
    }
    let weighted = data.sources.iter().filter(|entry| entry.weight > 0.0).count();
    let trained = data.sources.iter().filter(|entry| entry.split != crate::Split::Validation).count();
    require(
        weighted == 0 || weighted == trained,
        "data.sources.*.weight",
        format!("{weighted} of {trained} given"),
        "give every training source a weight, or none (then each counts by its tokens)",
    )
}

fn source(source: &Source, index: usize) -> Checked {
    let key = |name: &str| format!("data.sources.{index}.{name}");
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    require(
        !source.name.is_empty() && source.name.chars().all(plain),
        key("name"),
        format!("{:?}", source.name),
        "must be letters, digits, `-` and `_`",
    )?;
    require(
        source.files.is_empty() == source.corpus.is_some(),
        key("files"),
        format!("{:?}", source.files),
        "give exactly one of `files` (globs) and `corpus`",
    )?;
    require(source.weight >= 0.0 && source.weight.is_finite(), key("weight"), source.weight, "must not be negative")
}

/// The shape that the recipe itself states.
fn shape_of(recipe: &Recipe) -> Option<&ModelShape> {
    let cut = recipe.distill.as_ref().is_some_and(|distill| !distill.layers_of_target.is_empty());
    Some(&recipe.model).filter(|model| model.from.is_none() && !cut)
}

fn train(train: &Train, model: Option<&ModelShape>) -> Checked {
    require(
        train.steps.is_some() != train.tokens.is_some(),
        "train.steps",
        if train.steps.is_some() { "given beside train.tokens" } else { "absent, and train.tokens too" },
        "give exactly one of `steps` and `tokens`",
    )?;
    require(train.steps != Some(0) && train.tokens != Some(0), "train.steps", 0, "must be at least 1")?;
    require(
        train.micro_batch >= 1 && train.micro_batch <= 1 << 16,
        "train.micro_batch",
        train.micro_batch,
        "must be 1 to 65536",
    )?;
    let sequence = if train.sequence == 0 { model.map_or(0, |model| model.context) } else { train.sequence };
    if let Some(model) = model {
        require(
            (2..=model.context).contains(&sequence),
            "train.sequence",
            sequence,
            format!("must be 2 to model.context = {}", model.context),
        )?;
    }
    if sequence > 0 {
        require(
            train.batch_tokens >= sequence && train.batch_tokens.is_multiple_of(sequence),
            "train.batch_tokens",
            train.batch_tokens,
            format!("must be a multiple of the sequence of {sequence} tokens"),
        )?;
    }
    let optimizer = &train.optimizer;
    for (key, value) in [("beta1", optimizer.beta1), ("beta2", optimizer.beta2)] {
        require((0.0..1.0).contains(&value), format!("train.optimizer.{key}"), value, "must be 0 or more and below 1")?;
    }
    require(optimizer.epsilon > 0.0, "train.optimizer.epsilon", optimizer.epsilon, "must be greater than 0")?;
    for (key, value) in [("weight_decay", optimizer.weight_decay), ("clip_norm", optimizer.clip_norm)] {
        require(value >= 0.0 && value.is_finite(), format!("train.optimizer.{key}"), value, "must not be negative")?;
    }
    require(train.max_bad_steps >= 1, "train.max_bad_steps", train.max_bad_steps, "must be at least 1")?;
    let minutes = train.checkpoints.every_minutes;
    require(minutes >= 0.0 && minutes.is_finite(), "train.checkpoints.every_minutes", minutes, "must not be negative")?;
    require(train.checkpoints.keep_last >= 1, "train.checkpoints.keep_last", 0, "must be at least 1")?;
    schedule(&train.schedule)
}

fn schedule(schedule: &Schedule) -> Checked {
    let key = |name: &str| format!("train.schedule.{name}");
    let rate = schedule.learning_rate;
    require(rate > 0.0 && rate < 10.0, key("learning_rate"), rate, "must lie between 0 and 10")?;
    let least = schedule.min_learning_rate;
    require((0.0..=rate).contains(&least), key("min_learning_rate"), least, "must be 0 to the learning rate")?;
    let decay = schedule.decay_fraction;
    require((0.0..=1.0).contains(&decay), key("decay_fraction"), decay, "must be 0 to 1")
}
