//! Limits of the machine itself.

use super::{Case, Found};
use crate::BenchError;
use crate::bench::Bench;
use cpu::{Pool, ceiling};

/// Working sets whose bandwidth tells the caches from memory, in MiB.
const MEBIBYTES: [usize; 6] = [2, 20, 64, 128, 256, 1024];

pub(super) fn cases() -> Vec<Case> {
    let mut cases = vec![
        arithmetic("f32", "GFLOP/s", |bench| bench.ceilings.f32_flops),
        arithmetic("bf16", "GFLOP/s", |bench| bench.ceilings.bf16_flops),
        arithmetic("int8", "GOP/s", |bench| bench.ceilings.int8_ops),
    ];
    for mebibytes in MEBIBYTES {
        cases.push(case("read", format!("{mebibytes} MiB, all threads"), "GB/s", move |bench| {
            Ok(Found::limit(ceiling::read_bandwidth(bench.cpu.pool(), mebibytes << 20) / 1e9))
        }));
        cases.push(case("read", format!("{mebibytes} MiB, one thread"), "GB/s", move |_| {
            Ok(Found::limit(ceiling::read_bandwidth(&Pool::new(1), mebibytes << 20) / 1e9))
        }));
    }
    cases.push(case("cache line", "from core to core".into(), "ns", |_| {
        Ok(Found::limit(ceiling::handover_nanoseconds().unwrap_or(f64::NAN)))
    }));
    cases.push(case("job of the pool", "a part a thread".into(), "ns", |bench| {
        Ok(Found::limit(ceiling::job_nanoseconds(bench.cpu.pool()).unwrap_or(f64::NAN)))
    }));
    cases
}

fn arithmetic(dtype: &'static str, unit: &'static str, rate: fn(&Bench<'_>) -> f64) -> Case {
    let measure = move |bench: &Bench<'_>| Ok(Found::limit(rate(bench) / 1e9));
    Case { name: "multiply-add", shape: "registers only".into(), dtype, unit, measure: Box::new(measure) }
}

fn case(
    name: &'static str,
    shape: String,
    unit: &'static str,
    measure: impl Fn(&Bench<'_>) -> Result<Found, BenchError> + 'static,
) -> Case {
    Case { name, shape, dtype: "", unit, measure: Box::new(measure) }
}
