use crate::{Recipe, RecipeError};
use std::path::Path;

const GOOD: &str = r#"
[model]
width = 64
layers = 2
heads = 4
ffn_width = 128
context = 128

[tokenizer]
train_vocab = 512

[[data.sources]]
name = "prose"
corpus = "crates_prose"

[train]
batch_tokens = 1024
steps = 10
"#;

fn parse(text: &str, overrides: &[&str]) -> Result<Recipe, RecipeError> {
    let overrides = overrides.iter().map(|&argument| argument.to_owned()).collect::<Vec<_>>();
    Recipe::parse(text, Path::new("r.toml"), &overrides)
}

fn refusal(text: &str, overrides: &[&str]) -> String {
    parse(text, overrides).expect_err("this recipe must be refused").to_string()
}

#[test]
fn the_resolved_form_reads_back_as_itself() {
    let recipe = parse(GOOD, &[]).expect("a good recipe");
    let again = parse(&recipe.to_toml(), &[]).expect("its resolved form");
    assert_eq!(recipe, again);
}

#[test]
fn overrides_set_values_of_every_type() {
    let overrides = ["train.steps=7", "model.tied=true", "data.sources.0.weight=2.5", "run.description=two words"];
    let recipe = parse(GOOD, &overrides).expect("a good recipe");
    assert_eq!(recipe.train.steps, Some(7));
    assert!(recipe.model.tied);
    assert!((recipe.data.sources[0].weight - 2.5).abs() < 1e-12);
    assert_eq!(recipe.run.description, "two words");
}

#[test]
fn an_override_may_supply_a_missing_section() {
    let without = GOOD.replace("[tokenizer]\ntrain_vocab = 512\n", "");
    insta::assert_snapshot!(refusal(&without, &[]), @"r.toml: tokenizer = neither path nor train_vocab: give exactly one of `path` (an existing tokenizer) and `train_vocab` (how many tokens to train)");
    let recipe = parse(&without, &["tokenizer.train_vocab=600"]).expect("complete");
    assert_eq!(recipe.tokenizer.train_vocab, Some(600));
}

#[test]
fn an_unknown_key_is_named_with_its_place_and_the_nearest_known_one() {
    let text = GOOD.replace("steps = 10", "steps = 10\nmicrobatch = 2");
    insta::assert_snapshot!(refusal(&text, &[]), @"r.toml:19:1: unknown key `train.microbatch`; did you mean `train.micro_batch`?");
    let text = GOOD.replace("corpus =", "tekst = \"x\"\ncorpus =");
    insta::assert_snapshot!(refusal(&text, &[]), @"r.toml:14:1: unknown key `data.sources.0.tekst`; did you mean `data.sources.text`?");
    insta::assert_snapshot!(refusal(GOOD, &["train.stepz=5"]), @"--set train.stepz=5: there is no key `train.stepz`; did you mean `train.steps`?");
}

#[test]
fn a_wrong_type_is_told_with_its_place() {
    let text = GOOD.replace("layers = 2", "layers = \"two\"");
    insta::assert_snapshot!(refusal(&text, &[]), @r#"r.toml:4:10: invalid type: string "two", expected a whole number, 0 or more"#);
    insta::assert_snapshot!(refusal(GOOD, &["model.layers=two"]), @r#"--set model.layers=two: invalid type: string "two", expected a whole number, 0 or more; see `recipes/` for every key there is"#);
    insta::assert_snapshot!(refusal(GOOD, &["train.steps"]), @"--set train.steps: write it as `section.key=value`, for example `train.steps=100`; see `recipes/` for every key there is");
}

#[test]
fn values_out_of_range_are_refused_with_the_rule() {
    let cases = [
        "model.heads=5",
        "train.batch_tokens=1000",
        "train.tokens=5",
        "data.validation_fraction=0.9",
        "data.sources.0.name=a b",
        "train.schedule.learning_rate=0",
        "model.kv_heads=3",
    ];
    let all = cases.map(|case| refusal(GOOD, &[case])).join("\n");
    insta::assert_snapshot!(all, @"
    r.toml: model.width = 64: must be a multiple of model.heads = 5, or give model.head_dim
    r.toml: train.batch_tokens = 1000: must be a multiple of the sequence of 128 tokens
    r.toml: train.steps = given beside train.tokens: give exactly one of `steps` and `tokens`
    r.toml: data.validation_fraction = 0.9: must be 0 to 0.5
    r.toml: data.sources.0.name = \"a b\": must be letters, digits, `-` and `_`
    r.toml: train.schedule.learning_rate = 0: must lie between 0 and 10
    r.toml: model.kv_heads = 3: must divide model.heads = 4
    ");
}

#[test]
fn broken_toml_never_panics() {
    for cut in 0..GOOD.len() {
        let _ = parse(&GOOD[..cut], &[]);
    }
    for text in
        ["", "=", "[", "[[data.sources]]\n[[data.sources]]", "train = 3", "data.sources = 5", "[train]\nsteps=-1"]
    {
        assert!(parse(text, &["data.sources.0.name=x"]).is_err(), "{text:?}");
    }
}

/// The recipes that the repository ships parse, and hold what they promise.
#[test]
fn the_shipped_recipes_are_good() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes");
    for name in ["amd-135m", "amd-135m-code", "smollm-135m", "tiny", "laptop"] {
        let file = folder.join(format!("{name}.toml"));
        let recipe = Recipe::load(&file, &[]).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(recipe, parse(&recipe.to_toml(), &[]).expect("its resolved form"), "{name}");
    }
}
