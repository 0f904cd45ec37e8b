//! The backend's conformance suite, at every level that this machine has and with several numbers of threads.

use backend::conformance::{all, fingerprints};
use cpu::{Cpu, Level, available};

const LEVELS: [&str; 5] = ["scalar", "avx2", "avx512", "avx512bf16", "amx"];

fn machine(threads: usize, level: Level) -> Cpu {
    Cpu::new(threads, Some(level)).expect("a few threads")
}

#[test]
fn every_level_conforms() {
    let available = available();
    for name in LEVELS.iter().filter(|name| !available.iter().any(|level| level.name() == **name)) {
        println!("skipped: level {name}, which this machine does not have");
    }
    let mut failures = Vec::new();
    for level in available {
        let cpu = machine(2, level);
        for (name, check) in all() {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(&cpu)));
            if result.is_err() {
                failures.push(format!("{level}: {name}"));
            }
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    for level in available() {
        let want = fingerprints(&machine(1, level));
        for threads in [2, 3, 5] {
            assert_eq!(fingerprints(&machine(threads, level)), want, "{level} on {threads} threads");
        }
    }
}

/// Scalar, AVX2 and AVX-512 agree in every bit; the bf16 instructions differ in products of bf16 matrices alone, tiles in
/// those of prompts and gradients.
#[test]
fn levels_agree() {
    let want = fingerprints(&machine(2, Level::parse("scalar").unwrap()));
    for level in available() {
        let got = fingerprints(&machine(2, level));
        for ((name, got), (_, want)) in got.iter().zip(&want) {
            let multiplied = name.ends_with("Bf16") && !name.starts_with("attention");
            let otherwise = match level.name() {
                "avx512bf16" => multiplied,
                "amx" => multiplied && !name.contains("generated"),
                _ => false,
            };
            if !otherwise {
                assert_eq!(got, want, "{level}: {name}");
            }
        }
    }
}
