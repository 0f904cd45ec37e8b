use super::*;
use crate::test_data::{bits, floats, pools};
use backend::KvType;

/// Equal and grouped heads, heads of whole blocks of 32 and of others.
const SHAPES: [Heads; 5] = [
    Heads { heads: 2, kv_heads: 2, head_dim: 64 },
    Heads { heads: 3, kv_heads: 1, head_dim: 48 },
    Heads { heads: 6, kv_heads: 2, head_dim: 32 },
    Heads { heads: 4, kv_heads: 2, head_dim: 80 },
    Heads { heads: 1, kv_heads: 1, head_dim: 18 },
];
/// Sixteen rows in calls of several widths.
const COUNTS: [&[usize]; 7] = [&[16], &[1, 15], &[7, 9], &[2, 3, 5, 6], &[4, 12], &[13, 3], &[10, 6]];
/// Two chunks and a little.
const POSITIONS: usize = 2 * CHUNK + 20;

/// A cache of random keys and values at every position, and the buffer that they came from.
fn filled(level: Level, kv_type: KvType, heads: Heads) -> (KvStore, Vec<f32>) {
    let qkv: Vec<f32> = floats(3, POSITIONS * heads.qkv_width()).iter().map(|x| 2.0 * x).collect();
    let mut cache = KvStore::new(2, POSITIONS, heads, kv_type).unwrap();
    cache.store(&Pool::new(1), level, 1, 0, &qkv, POSITIONS);
    (cache, qkv)
}

/// Attention of the rows from `at` on, in calls of `counts` rows.
fn run(pool: &Pool, level: Level, cache: &KvStore, qkv: &[f32], mut at: usize, counts: &[usize]) -> Vec<f32> {
    let (heads, scratch) = (cache.heads(), Scratch::default());
    let mut all = Vec::new();
    for &rows in counts {
        let mut out = vec![f32::NAN; rows * heads.query_width()];
        attend(pool, level, &scratch, &mut out, &qkv[at * heads.qkv_width()..], cache, 1, at, rows);
        all.extend(out);
        at += rows;
    }
    all
}

/// Attention of a row in f64 over keys and values as they were before they were kept.
fn exact(qkv: &[f32], row: usize, heads: Heads) -> Vec<f64> {
    let at = |row: usize, column: usize| f64::from(qkv[row * heads.qkv_width() + column]);
    let mut out = Vec::new();
    for head in 0..heads.heads {
        let key = heads.query_width() + head / heads.group() * heads.head_dim;
        let score = |s: usize| {
            let dot: f64 = (0..heads.head_dim).map(|d| at(row, head * heads.head_dim + d) * at(s, key + d)).sum();
            (dot / (heads.head_dim as f64).sqrt()).exp()
        };
        let weights: Vec<f64> = (0..=row).map(score).collect();
        let total: f64 = weights.iter().sum();
        let value = |s: usize, d: usize| at(s, key + heads.kv_width() + d);
        out.extend(
            (0..heads.head_dim)
                .map(|d| weights.iter().enumerate().map(|(s, weight)| weight * value(s, d)).sum::<f64>() / total),
        );
    }
    out
}

/// Numbers are below 2, so half a step is 1/127 in 8 bits and 1/256 in bf16, for keys and for values.
#[test]
fn rows_are_near_the_exact_values() {
    let level = crate::detect();
    for heads in SHAPES {
        for (kv_type, most) in [(KvType::F32, 5e-6), (KvType::F16, 2e-3), (KvType::Bf16, 1.5e-2), (KvType::Q8_0, 2e-2)]
        {
            let (cache, qkv) = filled(level, kv_type, heads);
            for at in [0, 1, 63, 200, CHUNK - 1, CHUNK, 2 * CHUNK + 3] {
                let got = run(&Pool::new(2), level, &cache, &qkv, at, &[3]);
                for (row, got) in got.chunks(heads.query_width()).enumerate() {
                    for (got, want) in got.iter().zip(exact(&qkv, at + row, heads)) {
                        let error = (f64::from(*got) - want).abs();
                        assert!(error < most, "{heads:?} {kv_type:?} at {at} + {row}: {got}, not {want}");
                    }
                }
            }
        }
    }
}

/// Rows alone at the scalar level on one thread, and in groups of any width, at any level, on any number of threads,
/// across the borders of blocks and chunks.
#[test]
fn rows_have_the_same_bits_in_any_number_at_every_level_on_any_threads() {
    for heads in SHAPES {
        for kv_type in KvType::ALL {
            let (cache, qkv) = filled(Level::Scalar, kv_type, heads);
            for at in [0, CHUNK - 7, 2 * CHUNK - 9] {
                let want = run(&Pool::new(1), Level::Scalar, &cache, &qkv, at, &[1; 16]);
                for level in crate::available() {
                    let (cache, _) = filled(level, kv_type, heads);
                    // The scalar level is slow, and the same source: one width is enough.
                    let few = level == Level::Scalar;
                    for pool in pools().into_iter().skip(if few { 1 } else { 0 }) {
                        for &counts in if few { &COUNTS[..1] } else { &COUNTS } {
                            let got = run(&pool, level, &cache, &qkv, at, counts);
                            assert_eq!(bits(&got), bits(&want), "{level} {heads:?} {kv_type:?} {at} {counts:?}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn rows_do_not_depend_on_what_is_stored_behind_them() {
    let level = crate::detect();
    for heads in SHAPES {
        for kv_type in KvType::ALL {
            let (mut cache, qkv) = filled(level, kv_type, heads);
            let at = CHUNK + 37;
            let want = run(&Pool::new(2), level, &cache, &qkv, at, &[5]);
            let behind = at + 5;
            cache.store(&Pool::new(1), level, 1, behind, &vec![f32::NAN; qkv.len()], POSITIONS - behind);
            cache.store(&Pool::new(1), level, 0, 0, &vec![f32::NAN; qkv.len()], POSITIONS);
            let got = run(&Pool::new(2), level, &cache, &qkv, at, &[5]);
            assert_eq!(bits(&got), bits(&want), "{heads:?} {kv_type:?}");
            assert!(run(&Pool::new(2), level, &cache, &qkv, behind, &[1]).iter().all(|x| x.is_nan()), "{kv_type:?}");
        }
    }
}

/// Whatever the parts, they cover every chunk of every key head once, in order.
#[test]
fn parts_cover_all_chunks() {
    for (positions, kv_heads) in [(1, 1), (255, 3), (257, 2), (1024, 12), (1100, 3), (5000, 5)] {
        let units = kv_heads * usize::div_ceil(positions, CHUNK);
        for parts in 1..=units {
            let cuts: Vec<usize> = (0..=parts).map(|part| unit_at(part, parts, positions, kv_heads)).collect();
            assert!(cuts.is_sorted() && cuts[0] == 0 && cuts[parts] == units, "{cuts:?} of {units}");
        }
    }
}
