//! Any text is a recipe or is refused; what is read survives writing.
#![no_main]

use recipe::Recipe;

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(recipe) = Recipe::parse(text, "fuzz.toml".as_ref(), &[]) {
        Recipe::parse(&recipe.to_toml(), "fuzz.toml".as_ref(), &[]).expect("our own text");
    }
});
