//! Attention without a cache, forward and backward.

use super::reference::{gradient, objective};
use super::{Check, Lab, assert_close, assert_same, bf16, random, reference, wide};
use crate::{Backend, Heads, Precision, Sequences};

pub(super) const CHECKS: &[(&str, Check)] = &[
    ("attention is near its formula", forward),
    ("attention's gradient is near finite differences", backward),
    ("sequences of a batch do not meet", sequences_do_not_meet),
    ("attention's rows are exact", rows_are_exact),
    ("documents do not meet under a mask", documents_do_not_meet),
    ("large scores do not overflow", large_scores),
];

/// Many and single key heads, narrow heads, heads that are no power of two.
pub(super) const SHAPES: [Heads; 4] = [
    Heads { heads: 2, kv_heads: 2, head_dim: 64 },
    Heads { heads: 6, kv_heads: 2, head_dim: 16 },
    Heads { heads: 3, kv_heads: 1, head_dim: 8 },
    Heads { heads: 2, kv_heads: 1, head_dim: 80 },
];

/// Precisions of the products.
const PRECISIONS: [Precision; 2] = [Precision::F32, Precision::Bf16];

/// What a forward and a backward return.
pub(super) struct Outputs {
    pub(super) out: Vec<f32>,
    pub(super) logsumexp: Vec<f32>,
    pub(super) d_qkv: Vec<f32>,
}

/// Runs both directions.
pub(super) fn run(
    b: &dyn Backend,
    qkv: &[f32],
    d_out: &[f32],
    sequences: Sequences,
    heads: Heads,
    first_key: Option<&[u32]>,
    precision: Precision,
) -> Outputs {
    let (lab, rows) = (Lab::new(b), sequences.rows());
    let (out, logsumexp) = (lab.output(rows * heads.query_width()), lab.output(rows * heads.heads));
    let (qkv, d_out, d_qkv) = (lab.with_tail(qkv), lab.with_tail(d_out), lab.output(rows * heads.qkv_width()));
    let first_key = first_key.map(|first| lab.ids(first));
    b.attention(out, logsumexp, qkv, sequences, heads, first_key, precision);
    b.attention_backward(d_qkv, d_out, out, logsumexp, qkv, sequences, heads, first_key, precision);
    Outputs {
        out: lab.read_before_tail(out, rows * heads.query_width()),
        logsumexp: lab.read_before_tail(logsumexp, rows * heads.heads),
        d_qkv: lab.read_before_tail(d_qkv, rows * heads.qkv_width()),
    }
}

/// The first token of each row's document, documents being `length` tokens long, in a batch of sequences.
fn documents(sequences: Sequences, length: usize) -> Vec<u32> {
    (0..sequences.rows()).map(|row| (row % sequences.tokens / length * length) as u32).collect()
}

fn inputs(sequences: Sequences, heads: Heads) -> (Vec<f32>, Vec<f32>) {
    let qkv = random(1, sequences.rows() * heads.qkv_width()).iter().map(|x| 2.0 * x).collect();
    (qkv, random(2, sequences.rows() * heads.query_width()))
}

/// Queries, keys and values as the products in `precision` see them.
fn operands(qkv: &[f32], heads: Heads, precision: Precision) -> Vec<f64> {
    let mut qkv = wide(qkv);
    if precision != Precision::F32 {
        let root = (heads.head_dim as f32).sqrt();
        for row in qkv.chunks_mut(heads.qkv_width()) {
            for (column, x) in row.iter_mut().enumerate() {
                let narrow = *x as f32;
                let scaled = || f64::from(bf16(narrow * (1.0 / root))) * f64::from(heads.head_dim as f32).sqrt();
                *x = if column < heads.query_width() { scaled() } else { f64::from(bf16(narrow)) };
            }
        }
    }
    qkv
}

fn forward(b: &dyn Backend) {
    for heads in SHAPES {
        for (batch, tokens) in [(1, 1), (2, 70), (1, 130)] {
            let sequences = Sequences { batch, tokens };
            let (qkv, d_out) = inputs(sequences, heads);
            let documents = documents(sequences, 29);
            for (precision, first_key) in cases(&documents) {
                let got = run(b, &qkv, &d_out, sequences, heads, first_key, precision);
                let operands = operands(&qkv, heads, precision);
                let (out, logsumexp) = reference::attention(&operands, sequences, heads, first_key);
                let masked = if first_key.is_some() { "masked" } else { "" };
                let what = format!("{precision:?} {heads:?} {sequences:?} {masked}");
                // Exponentials are rounded too, by 1/512 of them at most, and the largest value is hardly more than the
                // largest output.
                let most = if precision == Precision::F32 { 1e-5 } else { 1.0 / 256.0 };
                assert_close(&format!("out {what}"), &got.out, &out, most);
                assert_close(&format!("logsumexp {what}"), &got.logsumexp, &logsumexp, 1e-5);
            }
        }
    }
}

/// Every precision, with documents and without.
fn cases(documents: &[u32]) -> impl Iterator<Item = (Precision, Option<&[u32]>)> {
    PRECISIONS.into_iter().flat_map(move |precision| [(precision, None), (precision, Some(documents))])
}

fn backward(b: &dyn Backend) {
    let small = [
        (Heads { heads: 2, kv_heads: 2, head_dim: 4 }, Sequences { batch: 2, tokens: 5 }, 2),
        (Heads { heads: 4, kv_heads: 2, head_dim: 6 }, Sequences { batch: 1, tokens: 7 }, 3),
        // More than a block of keys, and more than one.
        (Heads { heads: 1, kv_heads: 1, head_dim: 2 }, Sequences { batch: 1, tokens: 70 }, 50),
    ];
    for (heads, sequences, length) in small {
        let (qkv, d_out) = inputs(sequences, heads);
        let documents = documents(sequences, length);
        for (precision, first_key) in cases(&documents) {
            let got = run(b, &qkv, &d_out, sequences, heads, first_key, precision);
            let loss =
                |qkv: &[f64]| objective(&reference::attention(qkv, sequences, heads, first_key).0, &wide(&d_out));
            let what = format!("d_qkv {precision:?} {heads:?} {sequences:?}");
            // P, dO and dS are rounded too, and O is that of rounded weights: four errors of 1/512 of what they are
            // summed with, which is here no more than four times the largest sum.
            let most = if precision == Precision::F32 { 1e-5 } else { 1.0 / 32.0 };
            assert_close(&what, &got.d_qkv, &gradient(&operands(&qkv, heads, precision), loss), most);
        }
    }
}

fn sequences_do_not_meet(b: &dyn Backend) {
    for (heads, precision) in SHAPES.into_iter().flat_map(|heads| PRECISIONS.map(|precision| (heads, precision))) {
        let sequences = Sequences { batch: 3, tokens: 67 };
        let (qkv, d_out) = inputs(sequences, heads);
        let whole = run(b, &qkv, &d_out, sequences, heads, None, precision);
        let alone = Sequences { batch: 1, ..sequences };
        for i in 0..sequences.batch {
            let part = |width: usize| i * 67 * width..(i + 1) * 67 * width;
            let (q, o, l) = (part(heads.qkv_width()), part(heads.query_width()), part(heads.heads));
            let got = run(b, &qkv[q.clone()], &d_out[o.clone()], alone, heads, None, precision);
            assert_same("out of a sequence alone", &got.out, &whole.out[o]);
            assert_same("logsumexp of a sequence alone", &got.logsumexp, &whole.logsumexp[l]);
            assert_same("d_qkv of a sequence alone", &got.d_qkv, &whole.d_qkv[q]);
        }
    }
}

fn rows_are_exact(b: &dyn Backend) {
    for (heads, precision) in SHAPES.into_iter().flat_map(|heads| PRECISIONS.map(|precision| (heads, precision))) {
        let sequences = Sequences { batch: 1, tokens: 150 };
        let (qkv, d_out) = inputs(sequences, heads);
        let whole = run(b, &qkv, &d_out, sequences, heads, None, precision);
        for tokens in [1, 2, 64, 65, 149] {
            let (qkv, d_out) = (&qkv[..tokens * heads.qkv_width()], &d_out[..tokens * heads.query_width()]);
            let got = run(b, qkv, d_out, Sequences { batch: 1, tokens }, heads, None, precision);
            assert_same("out of the first tokens alone", &got.out, &whole.out[..tokens * heads.query_width()]);
            assert_same("logsumexp of the first", &got.logsumexp, &whole.logsumexp[..tokens * heads.heads]);
        }
    }
}

/// Changing a document changes nothing in the others: not forward, not backward.
fn documents_do_not_meet(b: &dyn Backend) {
    PRECISIONS.into_iter().for_each(|precision| documents_do_not_meet_in(b, precision));
}

fn documents_do_not_meet_in(b: &dyn Backend, precision: Precision) {
    let (heads, sequences) = (SHAPES[1], Sequences { batch: 1, tokens: 160 });
    let (qkv, d_out) = inputs(sequences, heads);
    let documents = documents(sequences, 40);
    let before = run(b, &qkv, &d_out, sequences, heads, Some(&documents), precision);
    let mut changed = qkv;
    changed[40 * heads.qkv_width()..80 * heads.qkv_width()].copy_from_slice(&random(8, 40 * heads.qkv_width()));
    let after = run(b, &changed, &d_out, sequences, heads, Some(&documents), precision);
    for document in [0..40, 80..120, 120..160] {
        let part = |width: usize| document.start * width..document.end * width;
        let (q, o) = (part(heads.qkv_width()), part(heads.query_width()));
        assert_same("out of another document", &after.out[o.clone()], &before.out[o]);
        assert_same("d_qkv of another document", &after.d_qkv[q.clone()], &before.d_qkv[q]);
    }
}

fn large_scores(b: &dyn Backend) {
    let (heads, sequences) = (SHAPES[0], Sequences { batch: 1, tokens: 80 });
    let (qkv, d_out) = inputs(sequences, heads);
    let qkv: Vec<f32> = qkv.iter().map(|x| 100.0 * x).collect();
    for precision in PRECISIONS {
        let got = run(b, &qkv, &d_out, sequences, heads, None, precision);
        for values in [&got.out, &got.logsumexp, &got.d_qkv] {
            assert!(values.iter().all(|x| x.is_finite()), "scores of a few thousand must stay finite");
        }
    }
}
