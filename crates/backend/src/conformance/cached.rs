//! Attention over a cache of keys and values.

use super::attention::SHAPES;
use super::{Check, Lab, assert_close, assert_same, bf16, random, reference, wide};
use crate::{Backend, Family, Heads, KvType, Precision, Rows, Sequences};

pub(super) const CHECKS: &[(&str, Check)] = &[
    ("attention over a cache is near its formula", near_its_formula),
    ("prompt rows over a cache are exact in any number", |b| rows_are_exact(b, Family::Prompt)),
    ("generated rows over a cache are exact in any number", |b| rows_are_exact(b, Family::Generated)),
    ("a cache's layers do not meet, and positions can be stored again", positions_are_stored_again),
    ("a cache's memory is counted and given back", memory_is_given_back),
];

const POSITIONS: usize = 140;

/// Stores and attends `calls` rows at a time; a prompt of `prompt` rows comes first, whose outputs are not returned.
fn run(b: &dyn Backend, heads: Heads, kv_type: KvType, qkv: &[f32], prompt: usize, calls: &[Rows]) -> Vec<f32> {
    let lab = Lab::new(b);
    let positions = prompt + calls.iter().map(|rows| rows.count).sum::<usize>();
    let cache = lab.keep_cache(b.new_kv_cache(2, positions, heads, kv_type).expect("a small cache"));
    let mut at = prompt;
    let rows_of = |at: usize, count: usize| &qkv[at * heads.qkv_width()..(at + count) * heads.qkv_width()];
    if prompt > 0 {
        b.kv_store(cache, 1, 0, lab.floats(rows_of(0, prompt)), prompt);
    }
    let mut all = Vec::new();
    for &rows in calls {
        let (buf, out) = (lab.with_tail(rows_of(at, rows.count)), lab.output(rows.count * heads.query_width()));
        b.kv_store(cache, 1, at, buf, rows.count);
        b.attention_cached(out, buf, cache, 1, at, rows, Precision::F32);
        all.extend(lab.read_before_tail(out, rows.count * heads.query_width()));
        at += rows.count;
    }
    all
}

fn near_its_formula(b: &dyn Backend) {
    for heads in SHAPES {
        let qkv = random(1, POSITIONS * heads.qkv_width());
        for (kv_type, tolerance) in
            [(KvType::F32, 2e-5), (KvType::Bf16, 2e-5), (KvType::F16, 2e-3), (KvType::Q8_0, 2e-2)]
        {
            let mut kept = qkv.clone();
            if kv_type == KvType::Bf16 {
                // Keys and values are rounded when they are stored; queries are not. The other types are compared
                // with what was not rounded.
                for row in kept.chunks_mut(heads.qkv_width()) {
                    row[heads.query_width()..].iter_mut().for_each(|x| *x = bf16(*x));
                }
            }
            let sequences = Sequences { batch: 1, tokens: POSITIONS };
            let (want, _) = reference::attention(&wide(&kept), sequences, heads, None);
            let got = run(b, heads, kv_type, &qkv, 0, &[Rows::prompt(POSITIONS)]);
            assert_close(&format!("prompt {heads:?} {kv_type:?}"), &got, &want, tolerance);
            let got = run(b, heads, kv_type, &qkv, 130, &[Rows::generated(1), Rows::generated(9)]);
            let want = &want[130 * heads.query_width()..];
            assert_close(&format!("generated {heads:?} {kv_type:?}"), &got, want, tolerance);
        }
    }
}

fn rows_are_exact(b: &dyn Backend, family: Family) {
    for heads in SHAPES {
        let qkv = random(1, 2 * POSITIONS * heads.qkv_width());
        let rows = |count| Rows { count, family };
        for kv_type in KvType::ALL {
            let (prompt, many, others) = match family {
                Family::Prompt => (0, POSITIONS, [vec![1; POSITIONS], vec![63, 2, 75], vec![100, 40]]),
                Family::Generated => (250, 16, [vec![1; 16], vec![5, 3, 8], vec![15, 1]]),
            };
            let want = run(b, heads, kv_type, &qkv, prompt, &[rows(many)]);
            for counts in others {
                let calls: Vec<Rows> = counts.iter().map(|&count| rows(count)).collect();
                let got = run(b, heads, kv_type, &qkv, prompt, &calls);
                assert_same(&format!("{heads:?} {kv_type:?} {family:?} as {counts:?}"), &got, &want);
            }
        }
    }
}

/// A rejected proposal leaves keys behind; storing over them must leave no trace.
fn positions_are_stored_again(b: &dyn Backend) {
    let heads = SHAPES[1];
    let qkv = random(1, POSITIONS * heads.qkv_width());
    let stale = vec![f32::NAN; 20 * heads.qkv_width()];
    let want = run(b, heads, KvType::F32, &qkv, 60, &[Rows::generated(4)]);
    let lab = Lab::new(b);
    let cache = lab.keep_cache(b.new_kv_cache(2, POSITIONS, heads, KvType::F32).expect("a small cache"));
    let rows = lab.floats(&qkv[60 * heads.qkv_width()..64 * heads.qkv_width()]);
    b.kv_store(cache, 1, 0, lab.floats(&qkv[..60 * heads.qkv_width()]), 60);
    b.kv_store(cache, 1, 60, lab.floats(&stale), 20);
    b.kv_store(cache, 0, 0, lab.floats(&stale), 20);
    b.kv_store(cache, 1, 60, rows, 4);
    let out = lab.output(4 * heads.query_width());
    b.attention_cached(out, rows, cache, 1, 60, Rows::generated(4), Precision::F32);
    assert_same("over stale positions", &lab.read_before_tail(out, 4 * heads.query_width()), &want);
}

fn memory_is_given_back(b: &dyn Backend) {
    let heads = SHAPES[0];
    let before = b.allocated_bytes();
    let sizes = KvType::ALL.map(|kv_type| {
        let cache = b.new_kv_cache(3, 128, heads, kv_type).expect("a small cache");
        let bytes = b.allocated_bytes() - before;
        b.free_kv_cache(cache);
        assert_eq!(b.allocated_bytes(), before);
        bytes
    });
    let floats = 3 * 128 * 2 * heads.kv_width();
    assert!(sizes[0] >= floats * 4 && sizes[3] >= floats, "{sizes:?}");
    assert!(sizes[1] < sizes[0] && sizes[2] == sizes[1] && sizes[3] < sizes[2], "narrow types take less: {sizes:?}");
}
