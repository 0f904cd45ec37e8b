//! What the machine could do at most, measured here and now: arithmetic rates and read bandwidth.

use cpu::{Cpu, ceiling};
use serde::Serialize;

/// A limit in the unit of a measurement.
#[derive(Clone, Debug, Serialize)]
pub struct Ceiling {
    /// The most that could be reached.
    pub value: f64,
    /// Which limit of the machine it follows from.
    pub by: String,
}

/// Arithmetic rates of the machine, all threads together.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Ceilings {
    /// f32 fused multiply-adds, in floating-point operations per second.
    pub f32_flops: f64,
    /// bf16 products summed in f32 by the fastest instruction that the level has, in operations per second.
    pub bf16_flops: f64,
    /// Products of 8-bit integers summed in 32 bits by the fastest instruction that the level has, in operations per
    /// second.
    pub int8_ops: f64,
}

impl Ceilings {
    /// Measures the machine in a fraction of a second.
    pub fn measure(cpu: &Cpu) -> Self {
        Self {
            f32_flops: ceiling::fma_flops(cpu.pool(), cpu.level()),
            bf16_flops: ceiling::bf16_flops(cpu.pool(), cpu.level()),
            int8_ops: ceiling::int8_ops(cpu.pool(), cpu.level()),
        }
    }

    /// Arithmetic rate at a precision.
    pub fn flops(&self, precision: backend::Precision) -> f64 {
        match precision {
            backend::Precision::F32 => self.f32_flops,
            backend::Precision::Bf16 => self.bf16_flops,
            backend::Precision::Int8 => self.int8_ops,
        }
    }

    /// Tokens per second where each costs `flops` operations.
    pub fn by_arithmetic(&self, precision: backend::Precision, flops: f64) -> Ceiling {
        let rate = self.flops(precision);
        Ceiling { value: rate / flops, by: format!("{:.0} GFLOP/s", rate / 1e9) }
    }
}

/// Memory at one moment. A hypervisor may move two cores between one shared last cache and two within seconds, which
/// changes both numbers; so they are taken before and after whatever is bound by memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Moment {
    /// Nanoseconds that a cache line needs from one core to another: about 25 within a shared cache, 200 and more
    /// between two. `None` on one thread, or where the other core was taken.
    pub(crate) placement_ns: Option<f64>,
    /// Bytes per second read from a working set of the size that was asked for.
    pub(crate) bandwidth: f64,
}

impl Moment {
    /// Reading `bytes` bytes again and again: what fits a cache comes from there, as it would for the work itself.
    pub(crate) fn now(cpu: &Cpu, bytes: f64) -> Self {
        Self {
            placement_ns: (cpu.pool().threads() > 1).then(ceiling::handover_nanoseconds).flatten(),
            bandwidth: ceiling::read_bandwidth(cpu.pool(), bytes as usize),
        }
    }
}

/// Passes per second where each reads `bytes` at `bandwidth`.
pub(crate) fn by_reading(bandwidth: f64, bytes: f64) -> Ceiling {
    Ceiling { value: bandwidth / bytes, by: format!("reading {:.1} GB/s", bandwidth / 1e9) }
}
