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

/// Rates of the machine, all threads together.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Ceilings {
    /// f32 fused multiply-adds, in floating-point operations per second.
    pub f32_flops: f64,
    /// bf16 products summed in f32 by the fastest instruction that the level has, in operations per second.
    pub bf16_flops: f64,
    /// Bytes read per second from a working set of [`Ceilings::READ_BYTES`].
    pub read_bandwidth: f64,
}

impl Ceilings {
    /// Working set of the bandwidth probe: about the bf16 weights of a 135M model, beyond every cache but the largest.
    pub const READ_BYTES: usize = 256 << 20;

    /// Measures the machine in about a second.
    pub fn measure(cpu: &Cpu) -> Self {
        Self {
            f32_flops: ceiling::fma_flops(cpu.pool(), cpu.level()),
            bf16_flops: ceiling::bf16_flops(cpu.pool(), cpu.level()),
            read_bandwidth: ceiling::read_bandwidth(cpu.pool(), Self::READ_BYTES),
        }
    }

    /// Arithmetic rate at a precision.
    pub fn flops(&self, precision: backend::Precision) -> f64 {
        match precision {
            backend::Precision::F32 => self.f32_flops,
            backend::Precision::Bf16 | backend::Precision::Int8 => self.bf16_flops,
        }
    }

    /// Tokens per second where each costs `flops` operations.
    pub fn by_arithmetic(&self, precision: backend::Precision, flops: f64) -> Ceiling {
        let rate = self.flops(precision);
        Ceiling { value: rate / flops, by: format!("{:.0} GFLOP/s", rate / 1e9) }
    }

    /// Passes per second where each reads `bytes`.
    pub fn by_reading(&self, bytes: f64) -> Ceiling {
        Ceiling { value: self.read_bandwidth / bytes, by: format!("reading {:.1} GB/s", self.read_bandwidth / 1e9) }
    }
}
