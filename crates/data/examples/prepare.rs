//! `prepare RECIPE TOKENIZER OUT [THREADS]`: the data section of a recipe, with the rate at the end.
#![allow(clippy::print_stdout)]
use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let data: recipe::Data = toml_data(&arguments[1])?;
    let tokenizer = tokenizer::Tokenizer::load(Path::new(&arguments[2]))?;
    let threads = arguments.get(4).map_or(Ok(2), |threads| threads.parse())?;
    let began = std::time::Instant::now();
    let options = data::PrepareOptions { threads, ..Default::default() };
    let manifest = data::prepare(&data, &tokenizer, Path::new(&arguments[3]), &options)?;
    let seconds = began.elapsed().as_secs_f64();
    for source in &manifest.sources {
        println!("{}: {:?}", source.name, source.account);
    }
    let bytes: u64 = manifest.sources.iter().map(|source| source.account.read.bytes).sum();
    println!("{bytes} bytes in {seconds:.2} s: {:.1} MB/s", bytes as f64 / 1e6 / seconds);
    Ok(())
}

fn toml_data(path: &str) -> Result<recipe::Data, Box<dyn std::error::Error>> {
    Ok(serde_json::from_str(&std::fs::read_to_string(path)?)?)
}
