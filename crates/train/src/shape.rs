//! From a recipe to the numbers of a run: the model's config, how batches are cut, how many steps there are.

use crate::{BatchShape, TrainError};
use backend::{Heads, Precision};
use model::{Config, Rope, RopeScaling, Scheme};
use recipe::{Init, ModelShape, Recipe, Train};

fn unfit(key: &'static str, found: impl ToString, rule: String) -> TrainError {
    TrainError::Unfit { key, found: found.to_string(), rule }
}

/// The config of a model that begins with random weights, for a tokenizer of `vocab` ids.
///
/// # Errors
/// A vocabulary smaller than the tokenizer's; what [`Config::validate`] refuses.
pub fn model_config(
    shape: &ModelShape,
    vocab: usize,
    bos: Option<u32>,
    eos: Option<u32>,
) -> Result<Config, TrainError> {
    let wanted = if shape.vocab == 0 { vocab } else { shape.vocab };
    let config = Config {
        vocab: wanted,
        width: shape.width,
        layers: shape.layers,
        heads: Heads {
            heads: shape.heads,
            kv_heads: if shape.kv_heads == 0 { shape.heads } else { shape.kv_heads },
            head_dim: if shape.head_dim == 0 { shape.width / shape.heads.max(1) } else { shape.head_dim },
        },
        ffn_width: shape.ffn_width,
        context: shape.context,
        norm_epsilon: shape.norm_epsilon,
        rope: Rope { theta: shape.rope_theta, scaling: RopeScaling::None },
        tied: shape.tied,
        bos,
        eos: eos.into_iter().collect(),
        architecture: model::Architecture::Llama,
        form: model::Form::LLAMA,
        initializer_range: match shape.init {
            Init::Amd => (2.0 / (5.0 * shape.width.max(1) as f32)).sqrt(),
            Init::Gpt2 => 0.02,
            Init::Smollm => 1.0 / (shape.width.max(1) as f32).sqrt(),
            Init::Normal => shape.init_std,
        },
    };
    check_vocabulary(&config, vocab, "model.vocab")?;
    config.validate().map_err(model::ModelError::from)?;
    Ok(config)
}

/// Checks that a model that is there fits the tokenizer and whatever shape the recipe states beside `model.from`.
pub(crate) fn check_folder(shape: &ModelShape, config: &Config, vocab: usize) -> Result<(), TrainError> {
    let stated = [
        ("model.vocab", shape.vocab, config.vocab),
        ("model.width", shape.width, config.width),
        ("model.layers", shape.layers, config.layers),
        ("model.heads", shape.heads, config.heads.heads),
        ("model.kv_heads", shape.kv_heads, config.heads.kv_heads),
        ("model.head_dim", shape.head_dim, config.heads.head_dim),
        ("model.ffn_width", shape.ffn_width, config.ffn_width),
        ("model.context", shape.context, config.context),
    ];
    for (key, stated, found) in stated {
        if stated != 0 && stated != found {
            return Err(unfit(
                key,
                stated,
                format!("the folder to start from has {found}; leave the key out or take another folder"),
            ));
        }
    }
    check_vocabulary(config, vocab, "model.from's vocabulary")
}

/// Checks that every id of the tokenizer has an embedding.
fn check_vocabulary(config: &Config, vocab: usize, key: &'static str) -> Result<(), TrainError> {
    if config.vocab >= vocab {
        return Ok(());
    }
    let rule = format!(
        "the model's vocabulary must hold the tokenizer's {vocab} ids; give the model's own tokenizer, or a larger vocabulary"
    );
    Err(unfit(key, config.vocab, rule))
}

/// The scheme of first weights.
pub(crate) fn scheme(shape: &ModelShape) -> Scheme {
    match shape.init {
        Init::Amd => Scheme::Amd,
        Init::Gpt2 => Scheme::Gpt2,
        Init::Smollm => Scheme::Smollm,
        Init::Normal => Scheme::Normal { std: shape.init_std },
    }
}

/// The backend's word for the arithmetic.
pub(crate) const fn precision(train: &Train) -> Precision {
    match train.precision {
        recipe::Precision::F32 => Precision::F32,
        recipe::Precision::Bf16 => Precision::Bf16,
    }
}

/// How batches are cut for a model of this context.
///
/// # Errors
/// A sequence longer than the context, a batch that is no whole number of sequences.
pub fn batch_shape(train: &Train, context: usize) -> Result<BatchShape, TrainError> {
    let tokens = if train.sequence == 0 { context } else { train.sequence };
    if !(2..=context).contains(&tokens) {
        return Err(unfit("train.sequence", tokens, format!("must be 2 to the model's context, {context}")));
    }
    if train.batch_tokens < tokens || !train.batch_tokens.is_multiple_of(tokens) {
        let rule = format!("must be a multiple of the sequence of {tokens} tokens");
        return Err(unfit("train.batch_tokens", train.batch_tokens, rule));
    }
    let sequences = train.batch_tokens / tokens;
    Ok(BatchShape { tokens, sequences, micro_batch: train.micro_batch.clamp(1, sequences) })
}

/// Optimizer steps of a recipe.
pub fn steps(recipe: &Recipe) -> u64 {
    let train = &recipe.train;
    let of_tokens = |tokens: u64| tokens.div_ceil(train.batch_tokens.max(1) as u64);
    train.steps.or(train.tokens.map(of_tokens)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn numbers_of_a_run() {
        let recipe = testing::recipe(&[]);
        let config = model_config(&recipe.model, 50, Some(1), Some(2)).unwrap();
        assert_eq!((config.vocab, config.heads.kv_heads, config.heads.head_dim), (64, 2, 8));
        let shape = batch_shape(&recipe.train, config.context).unwrap();
        assert_eq!(shape, BatchShape { tokens: 16, sequences: 4, micro_batch: 2 });
        assert_eq!((shape.batch_tokens(), shape.micro_batches()), (64, 2));
        assert_eq!(steps(&recipe), 6);
        let mut by_tokens = recipe;
        (by_tokens.train.steps, by_tokens.train.tokens) = (None, Some(65));
        assert_eq!(steps(&by_tokens), 2);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let recipe = testing::recipe(&[]);
        let error = model_config(&recipe.model, 65, None, None).unwrap_err().to_string();
        assert!(
            error.starts_with("model.vocab = 64: the model's vocabulary must hold the tokenizer's 65 ids"),
            "{error}"
        );
        let error = batch_shape(&recipe.train, 8).unwrap_err().to_string();
        assert_eq!(error, "train.sequence = 16: must be 2 to the model's context, 8");
    }
}
