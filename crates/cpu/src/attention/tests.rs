use super::*;
use crate::test_data::{bits, floats, pools};
use backend::KvType;
use proptest::prelude::*;

const SHAPES: [Heads; 5] = [
    Heads { heads: 2, kv_heads: 2, head_dim: 64 },
    Heads { heads: 3, kv_heads: 1, head_dim: 48 },
    Heads { heads: 2, kv_heads: 1, head_dim: 8 },
    Heads { heads: 4, kv_heads: 2, head_dim: 80 },
    Heads { heads: 1, kv_heads: 1, head_dim: 18 },
];

const PRECISIONS: [Precision; 2] = [Precision::F32, Precision::Bf16];

fn documents(rows: usize, tokens: usize, length: usize) -> Vec<u32> {
    (0..rows).map(|row| (row % tokens / length * length) as u32).collect()
}

struct Run {
    out: Vec<f32>,
    logsumexp: Vec<f32>,
    d_qkv: Vec<f32>,
}

fn run(
    pool: &Pool,
    level: Level,
    sequences: Sequences,
    heads: Heads,
    first_key: Option<&[u32]>,
    precision: Precision,
) -> Run {
    let rows = sequences.rows();
    let qkv: Vec<f32> = floats(1, rows * heads.qkv_width()).iter().map(|x| 2.0 * x).collect();
    let d_out = floats(2, rows * heads.query_width());
    let mut out = vec![0.0; rows * heads.query_width()];
    let mut logsumexp = vec![0.0; rows * heads.heads];
    let scratch = Scratch::default();
    let mut d_qkv = vec![f32::NAN; rows * heads.qkv_width()];
    attention(pool, level, &scratch, &mut out, &mut logsumexp, &qkv, sequences, heads, first_key, precision);
    attention_backward(
        pool, level, &scratch, &mut d_qkv, &d_out, &out, &logsumexp, &qkv, sequences, heads, first_key, precision,
    );
    Run { out, logsumexp, d_qkv }
}

#[test]
fn levels_threads_and_splits_return_the_same_bits() {
    for heads in SHAPES {
        for (batch, tokens) in [(1, 1), (2, 65), (1, 200)] {
            let sequences = Sequences { batch, tokens };
            let first_key = documents(batch * tokens, tokens, 37);
            for (first_key, precision) in
                PRECISIONS.map(|p| [(None, p), (Some(&first_key[..]), p)]).into_iter().flatten()
            {
                let want = run(&Pool::new(1), Level::Scalar, sequences, heads, first_key, precision);
                for level in crate::available() {
                    // The scalar level is slow; one number of threads will do.
                    let pools = if level == Level::Scalar { vec![Pool::new(2)] } else { pools().into() };
                    for pool in pools {
                        let got = run(&pool, level, sequences, heads, first_key, precision);
                        let what = format!("{level:?} {precision:?} {heads:?} {sequences:?} {}", first_key.is_some());
                        assert_eq!(bits(&got.out), bits(&want.out), "out {what}");
                        assert_eq!(bits(&got.logsumexp), bits(&want.logsumexp), "logsumexp {what}");
                        assert_eq!(bits(&got.d_qkv), bits(&want.d_qkv), "d_qkv {what}");
                    }
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Any shape and any mask: each level, on two threads, returns the bits of the scalar level on one.
    #[test]
    fn shapes_and_masks_do_not_matter(
        kv_heads in 1usize..3,
        group in 1usize..4,
        half in 1usize..20,
        batch in 1usize..3,
        tokens in 1usize..140,
        seed in 0u32..1000,
    ) {
        let heads = Heads { heads: kv_heads * group, kv_heads, head_dim: 2 * half };
        let sequences = Sequences { batch, tokens };
        let first = |row: usize| (row as u32).wrapping_mul(seed.wrapping_mul(2_654_435_761)) >> 7;
        let first_key: Vec<u32> = (0..batch * tokens).map(|row| first(row) % (row % tokens + 1) as u32).collect();
        for precision in PRECISIONS {
            let want = run(&Pool::new(1), Level::Scalar, sequences, heads, Some(&first_key), precision);
            let pool = Pool::new(2);
            for level in crate::available() {
                let got = run(&pool, level, sequences, heads, Some(&first_key), precision);
                prop_assert_eq!(bits(&got.out), bits(&want.out), "out {} {:?}", level, precision);
                prop_assert_eq!(bits(&got.d_qkv), bits(&want.d_qkv), "d_qkv {} {:?}", level, precision);
            }
        }
    }
}

/// Queries, keys and values as the products see them, all but the weights.
fn operands(qkv: &[f32], heads: Heads, precision: Precision) -> Vec<f32> {
    if precision == Precision::F32 {
        return qkv.to_vec();
    }
    let root = (heads.head_dim as f32).sqrt();
    let round = |x: f32| half::bf16::from_f32(x).to_f32();
    let operand = |(column, &x): (usize, &f32)| {
        if column < heads.query_width() { round(x * (1.0 / root)) * root } else { round(x) }
    };
    qkv.chunks(heads.qkv_width()).flat_map(|row| row.iter().enumerate().map(operand)).collect()
}

/// Attention in f64, a row at a time.
fn exact(qkv: &[f32], sequences: Sequences, heads: Heads, first_key: Option<&[u32]>) -> Vec<f64> {
    let Heads { head_dim, .. } = heads;
    let at = |row: usize, column: usize| f64::from(qkv[row * heads.qkv_width() + column]);
    let mut out = Vec::new();
    for row in 0..sequences.rows() {
        let start = row / sequences.tokens * sequences.tokens;
        let first = start + first_key.map_or(0, |first| first[row] as usize);
        for head in 0..heads.heads {
            let key = heads.query_width() + head / heads.group() * head_dim;
            let score = |s: usize| {
                let dot: f64 = (0..head_dim).map(|d| at(row, head * head_dim + d) * at(s, key + d)).sum();
                (dot / (head_dim as f64).sqrt()).exp()
            };
            let weights: Vec<f64> = (first..=row).map(score).collect();
            let total: f64 = weights.iter().sum();
            for d in 0..head_dim {
                let value = |s: usize| at(s, key + heads.kv_width() + d);
                let sum: f64 = weights.iter().enumerate().map(|(i, w)| w * value(first + i)).sum();
                out.push(sum / total);
            }
        }
    }
    out
}

#[test]
fn forward_is_near_the_exact_values() {
    for heads in SHAPES {
        let sequences = Sequences { batch: 2, tokens: 150 };
        let first_key = documents(300, 150, 40);
        let qkv: Vec<f32> = floats(1, 300 * heads.qkv_width()).iter().map(|x| 2.0 * x).collect();
        for (first_key, precision) in
            [None, Some(&first_key[..])].into_iter().zip(PRECISIONS).chain([(None, Precision::Bf16)])
        {
            let got = run(&Pool::new(2), crate::available()[0], sequences, heads, first_key, precision);
            // Weights are rounded by 2⁻⁹ of them at most, the values are below 2.
            let most = if precision == Precision::F32 { 2e-5 } else { 2e-5 + 2.0 / 512.0 };
            let qkv = operands(&qkv, heads, precision);
            for (got, want) in got.out.iter().zip(exact(&qkv, sequences, heads, first_key)) {
                assert!((f64::from(*got) - want).abs() < most, "{precision:?} {heads:?} {got} {want}");
            }
        }
    }
}

fn cached(level: Level, kv_type: KvType, heads: Heads, qkv: &[f32], calls: &[usize]) -> Vec<f32> {
    let pool = Pool::new(2);
    let rows: usize = calls.iter().sum();
    let scratch = Scratch::default();
    let mut cache = KvStore::new(2, rows, heads, kv_type).unwrap();
    let mut out = vec![0.0; rows * heads.query_width()];
    let mut at = 0;
    for &count in calls {
        let qkv = &qkv[at * heads.qkv_width()..];
        cache.store(&pool, level, 1, at, qkv, count);
        let out = &mut out[at * heads.query_width()..];
        attention_cached(&pool, level, &scratch, out, qkv, &cache, 1, at, Rows::prompt(count), Precision::F32);
        at += count;
    }
    out
}

#[test]
fn cached_prompt_rows_have_the_same_bits_in_any_number_and_those_of_attention_without_a_cache() {
    for heads in SHAPES {
        let rows = 151;
        let qkv = floats(3, rows * heads.qkv_width());
        let mut out = vec![0.0; rows * heads.query_width()];
        let mut logsumexp = vec![0.0; rows * heads.heads];
        let sequences = Sequences { batch: 1, tokens: rows };
        attention(
            &Pool::new(1),
            Level::Scalar,
            &Scratch::default(),
            &mut out,
            &mut logsumexp,
            &qkv,
            sequences,
            heads,
            None,
            Precision::F32,
        );
        for level in crate::available() {
            for kv_type in KvType::ALL {
                let whole = cached(level, kv_type, heads, &qkv, &[rows]);
                if kv_type == KvType::F32 {
                    assert_eq!(bits(&whole), bits(&out), "{level:?} {heads:?}");
                } else {
                    let worst = whole.iter().zip(&out).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                    let most = if kv_type == KvType::Q8_0 { 2e-2 } else { 1e-2 };
                    assert!(worst < most, "{level:?} {heads:?} {worst}");
                    assert_eq!(bits(&whole), bits(&cached(Level::Scalar, kv_type, heads, &qkv, &[rows])));
                }
                for calls in [&[1; 151][..], &[60, 3, 1, 80, 7], &[150, 1]] {
                    let pieces = cached(level, kv_type, heads, &qkv, calls);
                    assert_eq!(bits(&pieces), bits(&whole), "{level:?} {heads:?} {kv_type:?} {calls:?}");
                }
            }
        }
    }
}

/// Rows of a prompt, over a cache that rounds no more than the products do.
#[test]
fn prompt_rows_have_the_bits_of_attention_without_a_cache() {
    let (rows, pool, scratch) = (99, Pool::new(2), Scratch::default());
    let cases = [(Precision::F32, KvType::F32), (Precision::Bf16, KvType::F32), (Precision::Bf16, KvType::Bf16)];
    for (heads, (precision, kv_type)) in SHAPES.into_iter().flat_map(|heads| cases.map(|case| (heads, case))) {
        let qkv = floats(3, rows * heads.qkv_width());
        let sequences = Sequences { batch: 1, tokens: rows };
        let mut want = vec![0.0; rows * heads.query_width()];
        let mut logsumexp = vec![0.0; rows * heads.heads];
        let level = *crate::available().last().unwrap();
        attention(&pool, level, &scratch, &mut want, &mut logsumexp, &qkv, sequences, heads, None, precision);
        for level in crate::available() {
            for calls in [&[99][..], &[60, 3, 1, 35]] {
                let mut cache = KvStore::new(1, rows, heads, kv_type).unwrap();
                let mut out = vec![0.0; rows * heads.query_width()];
                let mut at = 0;
                for &count in calls {
                    let qkv = &qkv[at * heads.qkv_width()..];
                    cache.store(&pool, level, 0, at, qkv, count);
                    let out = &mut out[at * heads.query_width()..];
                    attention_cached(&pool, level, &scratch, out, qkv, &cache, 0, at, Rows::prompt(count), precision);
                    at += count;
                }
                assert_eq!(bits(&out), bits(&want), "{level:?} {heads:?} {precision:?} {kv_type:?} {calls:?}");
            }
        }
    }
}

#[test]
fn stale_positions_of_a_cache_are_not_touched() {
    for level in crate::available() {
        PRECISIONS.into_iter().for_each(|precision| stale_positions_are_not_touched(level, precision));
    }
}

fn stale_positions_are_not_touched(level: Level, precision: Precision) {
    let heads = SHAPES[1];
    let (pool, scratch) = (Pool::new(1), Scratch::default());
    let qkv = floats(4, 10 * heads.qkv_width());
    let mut out = [vec![0.0; 5 * heads.query_width()], vec![0.0; 5 * heads.query_width()]];
    for (stale, out) in [1.0, f32::NAN].into_iter().zip(&mut out) {
        let mut cache = KvStore::new(1, 10, heads, KvType::F32).unwrap();
        cache.store(&pool, level, 0, 0, &vec![stale; 10 * heads.qkv_width()], 10);
        cache.store(&pool, level, 0, 0, &qkv, 5);
        attention_cached(&pool, level, &scratch, out, &qkv, &cache, 0, 0, Rows::prompt(5), precision);
    }
    assert_eq!(bits(&out[0]), bits(&out[1]), "{level} {precision:?}");
}
