//! What Python does and the harness therefore does: random numbers, white space, numbers and lists as text.

use minijinja::value::{Value, ValueKind};
use std::fmt::Write;

/// Words of the generator's state (Matsumoto and Nishimura, 1998).
const WORDS: usize = 624;
const SHIFTED: usize = 397;

/// Python's `random.Random`: the Mersenne Twister MT19937, seeded with a whole number.
pub(crate) struct Random {
    state: [u32; WORDS],
    next: usize,
}

impl Random {
    /// `random.Random(seed)` for a seed below 2³² (`init_by_array` with one key).
    pub(crate) fn new(seed: u32) -> Self {
        let mut state = [0u32; WORDS];
        state[0] = 19_650_218;
        for i in 1..WORDS {
            state[i] = next_seed(state[i - 1], 1_812_433_253).wrapping_add(i as u32);
        }
        let mut i = 1;
        for _ in 0..WORDS {
            state[i] = (state[i] ^ next_seed(state[i - 1], 1_664_525)).wrapping_add(seed);
            i = wrap(&mut state, i + 1);
        }
        for _ in 1..WORDS {
            state[i] = (state[i] ^ next_seed(state[i - 1], 1_566_083_941)).wrapping_sub(i as u32);
            i = wrap(&mut state, i + 1);
        }
        state[0] = 1 << 31;
        Self { state, next: WORDS }
    }

    fn refill(&mut self) {
        for i in 0..WORDS {
            let joined = (self.state[i] & (1 << 31)) | (self.state[(i + 1) % WORDS] & !(1 << 31));
            let twist = if joined & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + SHIFTED) % WORDS] ^ (joined >> 1) ^ twist;
        }
        self.next = 0;
    }

    fn word(&mut self) -> u32 {
        if self.next == WORDS {
            self.refill();
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    /// `random()`: 53 random bits, below 1.
    pub(crate) fn uniform(&mut self) -> f64 {
        let (high, low) = (self.word() >> 5, self.word() >> 6);
        (f64::from(high) * 67_108_864.0 + f64::from(low)) / 9_007_199_254_740_992.0
    }

    /// `_randbelow(n)`, for 0 < n < 2³².
    fn below(&mut self, n: usize) -> usize {
        let bits = usize::BITS - n.leading_zeros();
        loop {
            let drawn = (self.word() >> (32 - bits)) as usize;
            if drawn < n {
                return drawn;
            }
        }
    }

    /// `sample(range(n), k)`, for k ≤ n.
    pub(crate) fn sample(&mut self, n: usize, k: usize) -> Vec<usize> {
        let mut set_size = 21;
        if k > 5 {
            set_size += 4usize.pow((((3 * k) as f64).ln() / 4f64.ln()).ceil() as u32);
        }
        if n <= set_size {
            let mut pool: Vec<usize> = (0..n).collect();
            return (0..k)
                .map(|i| {
                    let j = self.below(n - i);
                    let drawn = pool[j];
                    pool[j] = pool[n - i - 1];
                    drawn
                })
                .collect();
        }
        let mut drawn: Vec<usize> = Vec::with_capacity(k);
        while drawn.len() < k {
            let j = self.below(n);
            if !drawn.contains(&j) {
                drawn.push(j);
            }
        }
        drawn
    }
}

fn next_seed(previous: u32, factor: u32) -> u32 {
    (previous ^ (previous >> 30)).wrapping_mul(factor)
}

fn wrap(state: &mut [u32; WORDS], i: usize) -> usize {
    if i < WORDS {
        return i;
    }
    state[0] = state[WORDS - 1];
    1
}

/// `str.isspace()` of one character.
pub(crate) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// `str.capitalize()`: the first character in title case, the others in lower case.
pub(crate) fn capitalize(text: &str) -> String {
    let mut chars = text.chars();
    let Some(first) = chars.next() else { return String::new() };
    let upper: Vec<char> = first.to_uppercase().collect();
    let mut out = String::with_capacity(text.len());
    out.push(upper[0]);
    upper[1..].iter().for_each(|c| out.extend(c.to_lowercase())); // title case of ß is Ss
    out + &chars.as_str().to_lowercase()
}

/// `str(value)`, or `repr(value)` of what is inside a list.
pub(crate) fn write_str(out: &mut impl Write, value: &Value, inside: bool) -> std::fmt::Result {
    match value.kind() {
        ValueKind::None => out.write_str("None"),
        ValueKind::Bool => out.write_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::String if inside => write_repr(out, value.as_str().unwrap_or_default()),
        ValueKind::Seq | ValueKind::Iterable => {
            out.write_str("[")?;
            for (i, item) in value.try_iter().into_iter().flatten().enumerate() {
                out.write_str(if i > 0 { ", " } else { "" })?;
                write_str(out, &item, true)?;
            }
            out.write_str("]")
        }
        ValueKind::Map => {
            out.write_str("{")?;
            for (i, key) in value.try_iter().into_iter().flatten().enumerate() {
                out.write_str(if i > 0 { ", " } else { "" })?;
                write_str(out, &key, true)?;
                out.write_str(": ")?;
                write_str(out, &value.get_item(&key).unwrap_or_default(), true)?;
            }
            out.write_str("}")
        }
        _ => write!(out, "{value}"),
    }
}

/// `repr` of a text: single quotes unless it holds some and no double ones.
fn write_repr(out: &mut impl Write, text: &str) -> std::fmt::Result {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.write_char(quote)?;
    for c in text.chars() {
        match c {
            '\n' => out.write_str("\\n")?,
            '\r' => out.write_str("\\r")?,
            '\t' => out.write_str("\\t")?,
            '\\' => out.write_str("\\\\")?,
            c if c == quote => write!(out, "\\{c}")?,
            c if c.is_control() && (c as u32) < 256 => write!(out, "\\x{:02x}", c as u32)?,
            c => out.write_char(c)?,
        }
    }
    out.write_char(quote)
}

/// Whether neither side of a border has white space.
pub(crate) fn requires_delimiter(before: &str, after: &str) -> bool {
    match (before.chars().next_back(), after.chars().next()) {
        (Some(last), Some(first)) => !is_space(last) && !is_space(first),
        _ => false,
    }
}

/// `len(re.split(r"\s+", text))`: stretches between white space, empty ones at the ends included.
pub(crate) fn words(text: &str) -> usize {
    let mut stretches = 1;
    let mut in_space = false;
    for c in text.chars() {
        let space = is_space(c);
        stretches += usize::from(space && !in_space);
        in_space = space;
    }
    stretches
}

#[cfg(test)]
mod tests {
    use super::*;
    use minijinja::value::Serde;

    /// From CPython 3.11: `r = random.Random(1234)`, then the calls in this order.
    #[test]
    fn the_generator_is_pythons() {
        let mut random = Random::new(1234);
        assert_eq!(random.word(), 4_150_886_329);
        assert_eq!([random.word(), random.word(), random.word()], [3_342_196_574, 1_892_932_127, 501_869_158]);
    }

    #[test]
    fn samples_are_pythons() {
        let mut random = Random::new(1234);
        assert_eq!(random.sample(10, 3), [7, 1, 0]);
        assert_eq!(random.sample(1000, 5), [92, 932, 965, 961, 826]);
        assert_eq!(random.sample(90, 8), [74, 4, 85, 88, 10, 12, 45, 30]);
        assert_eq!(random.sample(100, 8), [2, 3, 44, 82, 79, 61, 78, 59]);
        assert_eq!(random.uniform(), 0.148_554_638_708_287_56);
    }

    #[test]
    fn words_are_capitalized_as_python_does() {
        assert_eq!(["", "hE", "ÉA B", "ßx", "1A"].map(capitalize), ["", "He", "Éa b", "Ssx", "1a"]);
    }

    #[test]
    fn values_are_written_as_python_does() {
        let value = Value::from(Serde(serde_json::json!([1, 2.5, "it's", "a\"b'\n", null, true, {"k": []}])));
        let mut text = String::new();
        write_str(&mut text, &value, false).unwrap();
        assert_eq!(text, r#"[1, 2.5, "it's", 'a"b\'\n', None, True, {'k': []}]"#);
    }
}
