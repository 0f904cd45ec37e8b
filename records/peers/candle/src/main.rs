//! Tokens a second of candle's quantised Llama on a GGUF file: `candle-peer prefill|decode FILE RUNS`; one JSON line.

use candle_core::quantized::gguf_file::Content;
use candle_core::{Device, Tensor};
use candle_transformers::models::quantized_llama::ModelWeights;
use std::fs::File;
use std::time::Instant;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [what, file, runs] = arguments.as_slice() else {
        return Err("usage: candle-peer prefill|decode FILE RUNS".into());
    };
    let run = match what.as_str() {
        "prefill" => prefill,
        "decode" => decode,
        other => return Err(format!("`{other}` is neither prefill nor decode").into()),
    };
    // Each run has a new model, for its cache of keys cannot be emptied; the first is not counted.
    let mut rates = Vec::new();
    for _ in 0..=runs.parse::<usize>()? {
        let mut opened = File::open(file)?;
        let content = Content::read(&mut opened)?;
        rates.push(run(ModelWeights::from_gguf(content, &mut opened, &Device::Cpu)?)?);
    }
    let rates = &mut rates[1..];
    rates.sort_by(f64::total_cmp);
    let [least, middle, most] = [rates[0], rates[rates.len() / 2], rates[rates.len() - 1]];
    println!("{{\"median\": {middle}, \"min\": {least}, \"max\": {most}}}");
    Ok(())
}

fn prefill(mut model: ModelWeights) -> Result<f64, Failure> {
    const TOKENS: u32 = 512;
    let prompt: Vec<u32> = (0..TOKENS).map(|i| i * 7919 % 32_000).collect();
    let started = Instant::now();
    model.forward(&Tensor::new(prompt, &Device::Cpu)?.unsqueeze(0)?, 0)?;
    Ok(f64::from(TOKENS) / started.elapsed().as_secs_f64())
}

fn decode(mut model: ModelWeights) -> Result<f64, Failure> {
    const TOKENS: usize = 64;
    let step = |model: &mut ModelWeights, id: u32, at: usize| -> Result<u32, Failure> {
        let logits = model.forward(&Tensor::new(&[id], &Device::Cpu)?.unsqueeze(0)?, at)?;
        Ok(logits.squeeze(0)?.argmax(0)?.to_scalar()?)
    };
    let mut id = step(&mut model, 1, 0)?;
    let started = Instant::now();
    for at in 1..=TOKENS {
        id = step(&mut model, id, at)?;
    }
    Ok(TOKENS as f64 / started.elapsed().as_secs_f64())
}
