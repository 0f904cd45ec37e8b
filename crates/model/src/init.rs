//! First weights: by a named scheme, from a seed, the same bits on every machine for ever.
//!
//! The value of an element is a function of (seed, tensor name, element index) alone: no generator has a state, so
//! neither the number of threads nor the order of the tensors matters.

use crate::Config;
use crate::tensors::{Role, Tensor};
use serde::{Deserialize, Serialize};

/// How the first weights are drawn. Norm weights are 1 in every scheme.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scheme {
    /// N(0, √(2/(5·width))), and N(0, 1/(√width·layers)) for the projections back into the residual stream
    /// (`o_proj`, `down_proj`): TinyLlama's and AMD-135M's.
    Amd,
    /// N(0, 0.02), projections into the residual stream divided by √(2·layers): GPT-2's.
    Gpt2,
    /// N(0, 1/√width), projections into the residual stream divided by √(2·layers): SmolLM's, which was trained with
    /// nanotron, whose standard initialisation scales its row-parallel layers so.
    Smollm,
    /// N(0, std) everywhere.
    Normal {
        /// Standard deviation.
        std: f32,
    },
}

impl Scheme {
    /// Standard deviation of the elements of a tensor; `None` for norm weights, which are 1.
    pub(crate) fn deviation(self, config: &Config, role: Role) -> Option<f64> {
        let width = config.width as f64;
        let layers = config.layers as f64;
        if role.is_vector() {
            return None;
        }
        let into_residual = matches!(role, Role::AttentionOut | Role::Down);
        let (plain, residual) = match self {
            Self::Amd => ((2.0 / (5.0 * width)).sqrt(), 1.0 / (width.sqrt() * layers)),
            Self::Gpt2 => (0.02, 0.02 / (2.0 * layers).sqrt()),
            Self::Smollm => (1.0 / width.sqrt(), 1.0 / (width * 2.0 * layers).sqrt()),
            Self::Normal { std } => (f64::from(std), f64::from(std)),
        };
        Some(if into_residual { residual } else { plain })
    }
}

/// The first values of `tensor`, row-major.
pub(crate) fn values(config: &Config, scheme: Scheme, seed: u64, tensor: &Tensor) -> Vec<f32> {
    let mut out = vec![1.0; tensor.len()];
    let Some(deviation) = scheme.deviation(config, tensor.role) else { return out };
    let stream = mix(seed ^ mix(hash(tensor.name().as_bytes())));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    // Even parts, so that a pair of normals never lies across two of them.
    let part = out.len().div_ceil(threads).next_multiple_of(2);
    std::thread::scope(|scope| {
        for (index, chunk) in out.chunks_mut(part).enumerate() {
            scope.spawn(move || fill(chunk, stream, (index * part) as u64 / 2, deviation));
        }
    });
    out
}

fn fill(out: &mut [f32], stream: u64, first_pair: u64, deviation: f64) {
    for (pair, two) in out.chunks_mut(2).enumerate() {
        let normals = normal_pair(stream, first_pair + pair as u64);
        for (value, normal) in two.iter_mut().zip(normals) {
            *value = (normal * deviation) as f32;
        }
    }
}

/// Two independent standard normal numbers: Marsaglia's polar method, whose attempts are numbered too. It needs a
/// logarithm and a root but no sine, and the root is exact in IEEE arithmetic.
fn normal_pair(stream: u64, pair: u64) -> [f64; 2] {
    let mut attempt = 0;
    loop {
        let state = mix(stream ^ mix(pair.wrapping_mul(0x1_0000).wrapping_add(attempt)));
        let u = symmetric(mix(state ^ 0x5851_f42d_4c95_7f2d));
        let v = symmetric(mix(state ^ 0x1405_7b7e_f767_814f));
        let s = u * u + v * v;
        if s < 1.0 && s > 0.0 {
            let factor = (-2.0 * ln(s) / s).sqrt();
            return [u * factor, v * factor];
        }
        attempt += 1;
    }
}

/// 53 random bits as a number in (−1, 1).
fn symmetric(bits: u64) -> f64 {
    (bits >> 11) as f64 * (2.0 / (1u64 << 53) as f64) - 1.0 + 1.0 / (1u64 << 53) as f64
}

/// Natural logarithm of a normal positive number, by additions, products and one quotient alone: the system's `ln` may
/// differ in the last bit from one library to the next. Relative error below 1e-14.
fn ln(x: f64) -> f64 {
    const EXPONENT_ONE: u64 = 1023 << 52;
    let bits = x.to_bits();
    let mut exponent = (bits >> 52) as i64 - 1023;
    let mut mantissa = f64::from_bits((bits & ((1 << 52) - 1)) | EXPONENT_ONE);
    if mantissa > std::f64::consts::SQRT_2 {
        mantissa *= 0.5;
        exponent += 1;
    }
    // ln m = 2·atanh(t), t = (m − 1)/(m + 1), |t| ≤ 0.172: the term t²⁵/25 is below 1e-20.
    let t = (mantissa - 1.0) / (mantissa + 1.0);
    let square = t * t;
    let series = (0..12).rev().fold(0.0, |sum, k| sum * square + 1.0 / f64::from(2 * k + 1));
    2.0 * t * series + exponent as f64 * std::f64::consts::LN_2
}

/// SplitMix64's finaliser (Steele, Lea and Flood, 2014): every input bit changes half of the output bits.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// FNV-1a, 64 bits.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::small;

    #[test]
    fn ln_agrees_with_the_library() {
        for x in [1e-300, 1e-9, 0.1, 0.5, 0.99999, 1.0, 1.41, 1.42, 1.5, 2.0, 1e9] {
            assert!((ln(x) - f64::ln(x)).abs() <= 4e-16 * f64::ln(x).abs().max(1e-3), "{x}");
        }
    }

    #[test]
    fn bits_are_fixed_for_ever() {
        let tensor = Tensor { rows: 3, cols: 5, ..Tensor::new(&small(2, true), Role::Embedding, 0) };
        let drawn = values(&small(2, true), Scheme::Normal { std: 1.0 }, 7, &tensor);
        let bits: Vec<u32> = drawn.iter().take(4).map(|value| value.to_bits()).collect();
        assert_eq!(bits, FIRST_FOUR, "{drawn:?}");
    }
    const FIRST_FOUR: [u32; 4] = [0xbeef_db94, 0xbeac_f186, 0x3f03_9082, 0xbfbf_e825];

    #[test]
    fn moments_are_those_of_a_normal() {
        let tensor = Tensor { rows: 400, cols: 500, ..Tensor::new(&small(2, true), Role::Gate, 0) };
        let drawn = values(&small(2, true), Scheme::Normal { std: 2.0 }, 1, &tensor);
        let n = drawn.len() as f64;
        let moment = |power: i32| drawn.iter().map(|&x| (f64::from(x) / 2.0).powi(power)).sum::<f64>() / n;
        assert!(moment(1).abs() < 0.01 && (moment(2) - 1.0).abs() < 0.01);
        assert!(moment(3).abs() < 0.05 && (moment(4) - 3.0).abs() < 0.1);
        let lagged = drawn.windows(2).map(|pair| f64::from(pair[0] * pair[1]) / 4.0).sum::<f64>() / n;
        assert!(lagged.abs() < 0.01, "{lagged}");
    }

    #[test]
    fn deviations_of_the_amd_shape() {
        let mut config = small(4, false);
        (config.width, config.layers) = (768, 12);
        let deviation = |role| Scheme::Amd.deviation(&config, role).unwrap();
        assert!((deviation(Role::Query) - 0.022_822).abs() < 1e-6);
        assert!((deviation(Role::Down) - 0.003_007).abs() < 1e-6);
        assert_eq!(Scheme::Amd.deviation(&config, Role::FfnNorm), None);
    }
}
