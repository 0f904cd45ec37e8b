//! The types with a super-block of 256 values, and the IQ4 types: encoding.
//!
//! The format says what a block means and leaves open how to fill it. Codes and scale depend on each other: here each
//! group of values tries scales about the one that spans its range; the codes that a trial gives have a best scale (and
//! minimum), which is linear least squares, and the trial with the least weighted error
//! ```text
//! E = Σ wᵢ·(xᵢ − x̂ᵢ)²,   wᵢ = |xᵢ| + √(Σ x² / n)
//! ```
//! wins. The weight lets large values count for more, as they do in a product. Scales are then rounded to the bits that a
//! super-block has for them, and codes are chosen once more, for the scales that a reader will find.

use super::blocks::{BlockIq4Nl, BlockIq4Xs, BlockQ2K, BlockQ3K, BlockQ4K, BlockQ5K, BlockQ6K, F16, IQ4_STEPS};
use super::simple::{inverse, pack_nibbles};

/// Trials on each side of the scale that spans the range.
const TRIALS: i32 = 10;

/// `wᵢ` of the error.
fn weights<const N: usize>(values: &[f32; N]) -> [f32; N] {
    let mean_square = values.iter().map(|v| v * v).sum::<f32>() / N as f32;
    values.map(|v| v.abs() + mean_square.sqrt())
}

/// The value farthest from 0, with its sign.
fn extreme(values: &[f32]) -> f32 {
    values.iter().fold(0.0f32, |extreme, &v| if v.abs() > extreme.abs() { v } else { extreme })
}

/// The scale `s` of `x ≈ s·step(x / s)`, where `step` gives the nearest number that a code stands for. Trials map the
/// extreme value to `limit·(1 ± reach)`.
fn fit_scale<const N: usize>(values: &[f32; N], limit: f32, reach: f32, step: impl Fn(f32) -> f32) -> f32 {
    let (weights, extreme) = (weights(values), extreme(values));
    if extreme == 0.0 {
        return 0.0;
    }
    let (mut scale, mut most) = (0.0, 0.0);
    for trial in -TRIALS..=TRIALS {
        let inverse = limit * (1.0 + reach * trial as f32 / TRIALS as f32) / extreme;
        let (mut products, mut squares) = (0.0, 0.0);
        for (&value, &weight) in values.iter().zip(&weights) {
            let q = step(value * inverse);
            products += weight * value * q;
            squares += weight * q * q;
        }
        // With s = products / squares the error is Σ w·x² − products² / squares.
        if squares > 0.0 && products * products > most * squares {
            (scale, most) = (products / squares, products * products / squares);
        }
    }
    scale
}

/// `s ≥ 0` and `m ≥ 0` of `x ≈ s·q − m`, `q` in `0..=top`.
fn fit_scale_and_minimum<const N: usize>(values: &[f32; N], top: f32) -> (f32, f32) {
    let weights = weights(values);
    let least = values.iter().copied().fold(0.0, f32::min); // a minimum cannot be above 0
    let range = values.iter().copied().fold(least, f32::max) - least;
    if range == 0.0 {
        return (0.0, -least);
    }
    let (mut best, mut least_error) = ((range / top, -least), f32::INFINITY);
    for trial in -TRIALS..=TRIALS {
        let inverse = (top + trial as f32 / TRIALS as f32) / range;
        let codes = values.map(|v| ((v - least) * inverse).round().clamp(0.0, top));
        let (scale, shift) = least_squares(values, &codes, &weights);
        let error = values.iter().zip(&codes).zip(&weights);
        let error = error.map(|((v, q), w)| w * (scale * q + shift - v).powi(2)).sum();
        if scale > 0.0 && error < least_error {
            (best, least_error) = ((scale, -shift), error);
        }
    }
    best
}

/// `s` and `b ≤ 0` with the least `Σ w·(s·q + b − x)²`.
fn least_squares<const N: usize>(values: &[f32; N], codes: &[f32; N], weights: &[f32; N]) -> (f32, f32) {
    let (mut w1, mut wq, mut wqq, mut wx, mut wqx) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for ((&x, &q), &w) in values.iter().zip(codes).zip(weights) {
        w1 += w;
        wq += w * q;
        wqq += w * q * q;
        wx += w * x;
        wqx += w * q * x;
    }
    let determinant = w1 * wqq - wq * wq;
    let shift = if determinant > 0.0 { (wqq * wx - wq * wqx) / determinant } else { 0.0 };
    let shift = shift.min(0.0);
    (if wqq > 0.0 { (wqx - wq * shift) / wqq } else { 0.0 }, shift)
}

/// A code in `0..=top`; NaN becomes 0.
fn code(value: f32, top: u8) -> u8 {
    (value.round() as i32).clamp(0, i32::from(top)) as u8
}

/// Scales of groups as multiples, in `0..=top`, of one half-precision number.
fn unsigned_multiples<const G: usize>(scales: [f32; G], top: u8) -> (F16, [u8; G]) {
    let unit = F16::from_f32(scales.iter().copied().fold(0.0, f32::max) / f32::from(top));
    let inverse = inverse(unit.to_f32());
    (unit, scales.map(|s| code(s * inverse, top)))
}

/// Scales of groups as multiples, in `-least..least`, of one half-precision number.
fn signed_multiples<const G: usize>(scales: [f32; G], least: i32) -> (F16, [i8; G]) {
    let unit = F16::from_f32(extreme(&scales) / -(least as f32));
    let inverse = inverse(unit.to_f32());
    (unit, scales.map(|s| ((s * inverse).round() as i32).clamp(-least, least - 1) as i8))
}

/// Codes of groups of `N` values for `x ≈ s[g]·(q − offset) − m[g]`.
fn codes<const N: usize>(values: &[f32; 256], offset: f32, top: u8, group: impl Fn(usize) -> (f32, f32)) -> [u8; 256] {
    let mut out = [0; 256];
    for (g, (out, values)) in out.as_chunks_mut::<N>().0.iter_mut().zip(values.as_chunks::<N>().0).enumerate() {
        let (scale, minimum) = group(g);
        let inverse = inverse(scale);
        *out = values.map(|v| code((v + minimum) * inverse + offset, top));
    }
    out
}

/// The packing of two bits that Q2_K, Q3_K and the high bits of Q6_K share; the low two bits of `codes` count.
fn pack_two_bits(codes: [u8; 256]) -> [u8; 64] {
    let mut packed = [0; 64];
    for (v, code) in codes.into_iter().enumerate() {
        packed[32 * (v / 128) + v % 32] |= (code & 3) << (2 * (v / 32 % 4));
    }
    packed
}

/// The packing of four bits that Q4_K and Q5_K share; the low four bits of `codes` count.
fn pack_four_bits(codes: &[u8; 256]) -> [u8; 128] {
    let mut packed = [0; 128];
    for (v, code) in codes.iter().enumerate() {
        packed[v / 64 * 32 + v % 32] |= (code & 15) << (v / 32 % 2 * 4);
    }
    packed
}

/// The opposite of [`super::k_scale_and_minimum`].
fn pack_scales_and_minima(scales: [u8; 8], minima: [u8; 8]) -> [u8; 12] {
    let mut packed = [0; 12];
    for g in 0..4 {
        packed[g] = scales[g] | scales[g + 4] >> 4 << 6;
        packed[g + 4] = minima[g] | minima[g + 4] >> 4 << 6;
        packed[g + 8] = scales[g + 4] & 15 | minima[g + 4] << 4;
    }
    packed
}

/// What Q4_K and Q5_K share: scale, scale of minima, both by group, packed, and the codes.
fn with_minima(values: &[f32; 256], top: u8) -> (F16, F16, [u8; 12], [u8; 256]) {
    let groups = values.as_chunks::<32>().0;
    let fitted: [(f32, f32); 8] = std::array::from_fn(|g| fit_scale_and_minimum(&groups[g], f32::from(top)));
    let (scale, scales) = unsigned_multiples(fitted.map(|(s, _)| s), 63);
    let (minimum, minima) = unsigned_multiples(fitted.map(|(_, m)| m), 63);
    let codes = codes::<32>(values, 0.0, top, |g| {
        (scale.to_f32() * f32::from(scales[g]), minimum.to_f32() * f32::from(minima[g]))
    });
    (scale, minimum, pack_scales_and_minima(scales, minima), codes)
}

impl BlockQ2K {
    /// Groups of 16 fitted with minima (the head of this file).
    pub fn encode(values: &[f32; 256]) -> Self {
        let groups = values.as_chunks::<16>().0;
        let fitted: [(f32, f32); 16] = std::array::from_fn(|g| fit_scale_and_minimum(&groups[g], 3.0));
        let (scale, s) = unsigned_multiples(fitted.map(|(s, _)| s), 15);
        let (minimum, m) = unsigned_multiples(fitted.map(|(_, m)| m), 15);
        let codes =
            codes::<16>(values, 0.0, 3, |g| (scale.to_f32() * f32::from(s[g]), minimum.to_f32() * f32::from(m[g])));
        Self { scales: std::array::from_fn(|g| s[g] | m[g] << 4), q: pack_two_bits(codes), scale, minimum }
    }
}

impl BlockQ3K {
    /// Groups of 16 fitted about 0 (the head of this file).
    pub fn encode(values: &[f32; 256]) -> Self {
        let groups = values.as_chunks::<16>().0;
        let fitted: [f32; 16] =
            std::array::from_fn(|g| fit_scale(&groups[g], -4.0, 0.25, |v| v.round().clamp(-4.0, 3.0)));
        let (scale, s) = signed_multiples(fitted, 32);
        let codes = codes::<16>(values, 4.0, 7, |g| (scale.to_f32() * f32::from(s[g]), 0.0));
        let mut scales = [0; 12];
        for (g, s) in s.into_iter().enumerate() {
            let s = (s + 32) as u8;
            scales[g % 8] |= (s & 15) << (g / 8 * 4);
            scales[8 + g % 4] |= s >> 4 << (g / 4 * 2);
        }
        let mut high = [0; 32];
        for (v, code) in codes.iter().enumerate() {
            high[v % 32] |= code >> 2 << (v / 32);
        }
        Self { high, q: pack_two_bits(codes), scales, scale }
    }
}

impl BlockQ4K {
    /// Groups of 32 fitted with minima (the head of this file).
    pub fn encode(values: &[f32; 256]) -> Self {
        let (scale, minimum, scales, codes) = with_minima(values, 15);
        Self { scale, minimum, scales, q: pack_four_bits(&codes) }
    }
}

impl BlockQ5K {
    /// Groups of 32 fitted with minima (the head of this file).
    pub fn encode(values: &[f32; 256]) -> Self {
        let (scale, minimum, scales, codes) = with_minima(values, 31);
        let mut high = [0; 32];
        for (v, code) in codes.iter().enumerate() {
            high[v % 32] |= code >> 4 << (v / 32);
        }
        Self { scale, minimum, scales, high, q: pack_four_bits(&codes) }
    }
}

impl BlockQ6K {
    /// Groups of 16 fitted about 0 (the head of this file).
    pub fn encode(values: &[f32; 256]) -> Self {
        let groups = values.as_chunks::<16>().0;
        let fitted: [f32; 16] =
            std::array::from_fn(|g| fit_scale(&groups[g], -32.0, 0.03, |v| v.round().clamp(-32.0, 31.0)));
        let (scale, scales) = signed_multiples(fitted, 128);
        let codes = codes::<16>(values, 32.0, 63, |g| (scale.to_f32() * f32::from(scales[g]), 0.0));
        let mut low = [0; 128];
        for (v, code) in codes.iter().enumerate() {
            let (half, quarter, i) = (v / 128, v / 32 % 4, v % 32);
            low[64 * half + 32 * (quarter % 2) + i] |= (code & 15) << (quarter / 2 * 4);
        }
        Self { low, high: pack_two_bits(codes.map(|code| code >> 4)), scales, scale }
    }
}

/// Number of the step nearest to `value`, the upper of two; NaN gets the first.
fn nearest_step(value: f32) -> u8 {
    IQ4_STEPS.windows(2).take_while(|pair| value >= (f32::from(pair[0]) + f32::from(pair[1])) / 2.0).count() as u8
}

/// The scale for the unequal steps, which reach farther below 0 than above.
fn fit_steps(values: &[f32; 32]) -> f32 {
    fit_scale(values, f32::from(IQ4_STEPS[0]), 0.12, |v| f32::from(IQ4_STEPS[usize::from(nearest_step(v))]))
}

/// Codes of 32 values for a scale.
fn step_codes(values: &[f32; 32], scale: f32) -> [u8; 16] {
    let inverse = inverse(scale);
    pack_nibbles(&values.map(|v| nearest_step(v * inverse)))
}

impl BlockIq4Nl {
    /// Fitted to the steps (the head of this file).
    pub fn encode(values: &[f32; 32]) -> Self {
        let scale = F16::from_f32(fit_steps(values));
        Self { scale, q: step_codes(values, scale.to_f32()) }
    }
}

impl BlockIq4Xs {
    /// Groups of 32 fitted to the steps (the head of this file).
    pub fn encode(values: &[f32; 256]) -> Self {
        let groups = values.as_chunks::<32>().0;
        let (scale, s) = signed_multiples(std::array::from_fn::<f32, 8, _>(|g| fit_steps(&groups[g])), 32);
        let (mut q, mut scales_low, mut scales_high) = ([0; 128], [0; 4], 0u16);
        for (g, q) in q.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            *q = step_codes(&groups[g], scale.to_f32() * f32::from(s[g]));
            let s = (s[g] + 32) as u8;
            scales_low[g / 2] |= (s & 15) << (g % 2 * 4);
            scales_high |= u16::from(s >> 4) << (2 * g);
        }
        Self { scale, scales_high: scales_high.to_le_bytes(), scales_low, q }
    }
}
