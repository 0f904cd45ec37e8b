//! Text for training a tokenizer.

use crate::DataError;
use crate::corpus::CorpusPlace;

/// Documents of the training part, evenly from all sources.
#[derive(Debug)]
pub struct SampleTexts;

/// About `bytes` of text, evenly from the training sources of a recipe.
pub fn sample_texts(
    _data: &recipe::Data,
    _bytes: u64,
    _corpus: Option<&CorpusPlace>,
) -> Result<SampleTexts, DataError> {
    Ok(SampleTexts)
}

impl Iterator for SampleTexts {
    type Item = String;
    fn next(&mut self) -> Option<String> {
        None
    }
}
