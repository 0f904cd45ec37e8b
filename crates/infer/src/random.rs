//! Random numbers without a state: Philox 4×32-10 (Salmon et al., 2011), a function of a key and a counter.

/// What a random number decides. Each purpose has its own stream, so that the numbers of one are independent of those
/// of another at the same position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Draw {
    /// The token at a position, without speculation, after a rejected proposal, or after the last accepted one.
    Token = 0,
    /// Whether the token that was proposed for a position is accepted.
    Accept = 1,
    /// The token that a draft model proposes for a position.
    Proposal = 2,
}

/// The number of stream `draw` that belongs to `position` (the index of the token it decides, counted from the start
/// of the prompt): in [0, 1), a multiple of 2⁻⁵³.
///
/// A position is decided once, so its `Token` and `Accept` numbers are used once. A `Proposal` number may be used again
/// for the same position after an earlier rejection; what was proposed behind the rejected token has influenced
/// nothing, so the numbers in use are still independent.
pub fn uniform(seed: u64, draw: Draw, position: usize) -> f64 {
    let position = position as u64;
    let [a, b, ..] =
        philox([position as u32, (position >> 32) as u32, draw as u32, 0], [seed as u32, (seed >> 32) as u32]);
    let bits = (u64::from(a) << 32 | u64::from(b)) >> 11;
    bits as f64 * (1.0 / (1u64 << 53) as f64)
}

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const KEY_STEPS: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;

fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..ROUNDS {
        let [low0, high0] = product(MULTIPLIERS[0], counter[0]);
        let [low1, high1] = product(MULTIPLIERS[1], counter[2]);
        counter = [high1 ^ counter[1] ^ key[0], low1, high0 ^ counter[3] ^ key[1], low0];
        key = [key[0].wrapping_add(KEY_STEPS[0]), key[1].wrapping_add(KEY_STEPS[1])];
    }
    counter
}

/// Both halves of a 64-bit product, low first.
fn product(a: u32, b: u32) -> [u32; 2] {
    let product = u64::from(a) * u64::from(b);
    [product as u32, (product >> 32) as u32]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers that accompany the authors' implementation.
    #[test]
    fn philox_gives_the_published_answers() {
        let answers = [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (counter, key, expected) in answers {
            assert_eq!(philox(counter, key), expected);
        }
    }

    #[test]
    fn numbers_are_uniform_and_streams_differ() {
        let count = 20_000;
        let mean: f64 =
            (0..count).map(|position| uniform(7, Draw::Token, position)).sum::<f64>() / f64::from(count as u32);
        assert!((mean - 0.5).abs() < 0.01, "{mean}"); // five standard deviations: 5 / √(12 · 20 000)
        assert_ne!(uniform(7, Draw::Token, 1), uniform(7, Draw::Accept, 1));
        assert_ne!(uniform(7, Draw::Token, 1), uniform(8, Draw::Token, 1));
        assert_ne!(uniform(7, Draw::Token, 1), uniform(7 + (1 << 32), Draw::Token, 1));
    }
}
