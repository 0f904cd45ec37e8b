//! Any text is a file of evaluation tasks or is refused.
#![no_main]

use eval::Catalog;
use std::path::PathBuf;

libfuzzer_sys::fuzz_target!(|text: &str| {
    let parent = if PathBuf::from("/dev/shm").is_dir() { "/dev/shm".into() } else { std::env::temp_dir() };
    let path = parent.join(format!("slm-fuzz-task-{}.yaml", std::process::id()));
    std::fs::write(&path, text).expect("room for the input");
    let mut catalog = Catalog::default();
    if catalog.add_path(&path).is_ok() {
        let names: Vec<String> = catalog.names().into_iter().map(String::from).collect();
        let _ = catalog.select(&names);
    }
});
