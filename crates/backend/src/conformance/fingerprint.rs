//! The bits of every operation on fixed inputs, as one number each.

use super::{Lab, attention, random, random_ids};
use crate::{AdamW, Backend, Divergence, Heads, KvType, Precision, Rows, Sequences, Teacher};

const HEADS: Heads = Heads { heads: 6, kv_heads: 2, head_dim: 48 };
const ROWS: usize = 130;

/// A number for each operation that changes if a bit of its output does. Names end in the precision or the cache's type where there is one.
pub fn fingerprints(b: &dyn Backend) -> Vec<(String, u64)> {
    let mut all = Vec::new();
    elementwise(b, &mut all);
    attended(b, &mut all);
    for precision in [Precision::F32, Precision::Bf16] {
        multiplied(b, precision, &mut all);
    }
    for kv_type in KvType::ALL {
        cached(b, kv_type, &mut all);
    }
    all
}

/// FNV-1a over the bits.
fn hash(values: &[f32]) -> u64 {
    values
        .iter()
        .flat_map(|x| x.to_bits().to_le_bytes())
        .fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3))
}

fn elementwise(b: &dyn Backend, all: &mut Vec<(String, u64)>) {
    let (lab, width) = (Lab::new(b), 300);
    let len = ROWS * width;
    let [x, d_out] = [1, 2].map(|seed| lab.floats(&random(seed, len)));
    let (weight, g) = (lab.floats(&random(3, width)), lab.floats(&random(4, width)));
    let (out, rstd, d_x) = (lab.output(len), lab.output(ROWS), lab.output(len));
    b.rmsnorm(out, rstd, x, weight, 1e-5, ROWS);
    b.rmsnorm_backward_add(d_x, g, d_out, out, x, rstd, weight, ROWS);
    all.push(("rmsnorm".into(), hash(&lab.read(out, len))));
    all.push(("rmsnorm_backward_add d_x".into(), hash(&lab.read(d_x, len))));
    all.push(("rmsnorm_backward_add g_weight".into(), hash(&lab.read(g, width))));
    b.layer_norm(out, x, weight, g, 1e-5, ROWS);
    all.push(("layer_norm".into(), hash(&lab.read(out, len))));
    b.gelu(out, len);
    all.push(("gelu".into(), hash(&lab.read(out, len))));
    b.swiglu(out, x, width / 2, ROWS);
    all.push(("swiglu".into(), hash(&lab.read(out, len / 2))));
    b.swiglu_backward(d_x, out, x, width / 2, ROWS);
    all.push(("swiglu_backward".into(), hash(&lab.read(d_x, len))));
    let (ids, table) = (lab.ids(&random_ids(5, ROWS, 20)), lab.floats(&random(6, 20 * width)));
    b.embed_backward(table, d_out, ids, width, ROWS);
    all.push(("embed_backward".into(), hash(&lab.read(table, 20 * width))));
    let (m, v) = (lab.floats(&vec![0.1; len]), lab.floats(&vec![0.2; len]));
    let step = AdamW {
        learning_rate: 1e-2,
        beta1: 0.9,
        beta2: 0.95,
        epsilon: 1e-8,
        weight_decay: 0.1,
        step: 3,
        gradient_scale: 0.3,
    };
    b.adamw(x, d_out, m, v, &step);
    all.push(("adamw".into(), hash(&lab.read(x, len))));
    all.push(("sum_of_squares".into(), b.sum_of_squares(d_out).to_bits()));
}

fn attended(b: &dyn Backend, all: &mut Vec<(String, u64)>) {
    let (lab, sequences) = (Lab::new(b), Sequences { batch: 1, tokens: ROWS });
    let (qkv, d_out) = (random(1, ROWS * HEADS.qkv_width()), random(2, ROWS * HEADS.query_width()));
    let buf = lab.floats(&qkv);
    let (table, positions) = (lab.floats(&random(3, 40 * HEADS.head_dim)), lab.ids(&random_ids(4, ROWS, 40)));
    b.rope(buf, table, positions, HEADS, ROWS);
    all.push(("rope".into(), hash(&lab.read(buf, qkv.len()))));
    for precision in [Precision::F32, Precision::Bf16] {
        let outputs = attention::run(b, &qkv, &d_out, sequences, HEADS, None, precision);
        all.push((format!("attention {precision:?}"), hash(&outputs.out)));
        all.push((format!("attention logsumexp {precision:?}"), hash(&outputs.logsumexp)));
        all.push((format!("attention_backward {precision:?}"), hash(&outputs.d_qkv)));
    }
}

fn multiplied(b: &dyn Backend, precision: Precision, all: &mut Vec<(String, u64)>) {
    let (lab, inner, out) = (Lab::new(b), 200, 310);
    let mut push = |name: &str, values: &[f32]| all.push((format!("{name} {precision:?}"), hash(values)));
    let (x, d_y) = (lab.floats(&random(1, ROWS * inner)), lab.floats(&random(2, ROWS * out)));
    let (master, g) = (lab.floats(&random(3, out * inner)), lab.floats(&random(4, out * inner)));
    let w = lab.keep(b.trainable_matrix(master, out, inner, precision).expect("a small matrix"));
    let (y, d_x) = (lab.output(ROWS * out), lab.output(ROWS * inner));
    b.linear(y, x, w, Rows::prompt(ROWS));
    push("linear prompt", &lab.read(y, ROWS * out));
    b.linear(y, x, w, Rows::generated(7));
    push("linear generated", &lab.read(y, 7 * out));
    b.linear_backward(d_x, g, d_y, x, w, ROWS);
    push("linear_backward d_x", &lab.read(d_x, ROWS * inner));
    push("linear_backward g_w", &lab.read(g, out * inner));
    let (losses, targets) = (lab.output(ROWS), lab.ids(&random_ids(5, ROWS, out as u32)));
    b.head_loss_backward(losses, d_x, g, x, w, targets, 0.1, ROWS);
    push("head_loss", &lab.read(losses, ROWS));
    push("head_loss_backward d_x", &lab.read(d_x, ROWS * inner));
    push("head_loss_backward g_head", &lab.read(g, out * inner));
    let ids = lab.ids(&(0..ROWS as u32).flat_map(|row| [row % out as u32, (row + 1) % out as u32]).collect::<Vec<_>>());
    let teacher = Teacher { ids, probabilities: lab.floats(&[0.6, 0.3].repeat(ROWS)), tokens: 2 };
    b.head_divergence_backward(losses, d_x, g, x, w, teacher, Divergence::SymmetricKl, 0.1, ROWS);
    push("head_divergence", &lab.read(losses, ROWS));
    push("head_divergence_backward d_x", &lab.read(d_x, ROWS * inner));
    push("head_divergence_backward g_head", &lab.read(g, out * inner));
}

fn cached(b: &dyn Backend, kv_type: KvType, all: &mut Vec<(String, u64)>) {
    let lab = Lab::new(b);
    let cache = lab.keep_cache(b.new_kv_cache(1, ROWS, HEADS, kv_type).expect("a small cache"));
    let qkv = lab.floats(&random(1, ROWS * HEADS.qkv_width()));
    let out = lab.output(ROWS * HEADS.query_width());
    b.kv_store(cache, 0, 0, qkv, ROWS);
    b.attention_cached(out, qkv, cache, 0, 0, Rows::prompt(ROWS), Precision::F32);
    all.push((format!("attention_cached prompt {kv_type:?}"), hash(&lab.read(out, ROWS * HEADS.query_width()))));
    b.attention_cached(out, qkv, cache, 0, ROWS - 9, Rows::generated(9), Precision::F32);
    all.push((format!("attention_cached generated {kv_type:?}"), hash(&lab.read(out, 9 * HEADS.query_width()))));
}
