//! The block of GPT-2 (Radford et al., 2019) and OPT (Zhang et al., 2022), forward.
//!
//! With `x` the residual stream and `act` GELU or ReLU:
//! ```text
//! mid = x   + Wₒ · attend(Wqkv · norm₁(x) + bqkv) + bₒ
//! out = mid + W↓ · act(W↑ · norm₂(mid) + b↑) + b↓
//! ```
//! OPT-350m normalizes sums instead:
//! ```text
//! mid = norm₁(x   + Wₒ · attend(Wqkv · x + bqkv) + bₒ)
//! out = norm₂(mid + W↓ · act(W↑ · mid + b↑) + b↓)
//! ```

use crate::pass::{Pass, linear, linear_add};
use crate::{Activation, Block, BlockActivations, Norm};
use backend::{Backend, Buf};

/// The block's two equations.
pub(crate) fn block_forward(b: &dyn Backend, w: &Block, a: &BlockActivations, p: Pass, attend: &dyn Fn()) {
    if p.norms_after {
        return block_forward_norms_after(b, w, a, p, attend);
    }
    layer_norm(b, a.normed, a.x, w.norm1, p);
    linear(b, a.qkv, a.normed, w.qkv, p.rows);
    attend();
    linear_add(b, a.mid, a.x, a.attended, w.attention_out, p.rows);

    layer_norm(b, a.normed, a.mid, w.norm2, p);
    linear(b, a.gate_up, a.normed, w.gate_up, p.rows);
    activate(b, a.gate_up, p);
    linear_add(b, a.out, a.mid, a.gate_up, w.down, p.rows);
}

/// The same with norms of sums; `normed` holds what is called `mid` above.
fn block_forward_norms_after(b: &dyn Backend, w: &Block, a: &BlockActivations, p: Pass, attend: &dyn Fn()) {
    linear(b, a.qkv, a.x, w.qkv, p.rows);
    attend();
    linear_add(b, a.mid, a.x, a.attended, w.attention_out, p.rows);
    layer_norm(b, a.normed, a.mid, w.norm1, p);

    linear(b, a.gate_up, a.normed, w.gate_up, p.rows);
    activate(b, a.gate_up, p);
    linear_add(b, a.normed, a.normed, a.gate_up, w.down, p.rows);
    layer_norm(b, a.out, a.normed, w.norm2, p);
}

fn layer_norm(b: &dyn Backend, out: Buf, x: Buf, w: Norm, p: Pass) {
    let Some(bias) = w.bias else { panic!("a layer norm was loaded without its bias") };
    b.layer_norm(out, x, w.weight, bias, p.epsilon, p.rows.count);
}

fn activate(b: &dyn Backend, x: Buf, p: Pass) {
    let len = p.rows.count * p.ffn_width;
    match p.activation {
        Activation::Gelu => b.gelu(x, len),
        Activation::Relu => b.relu(x, len),
        Activation::SwiGlu => panic!("a gated layer in a block without gates"),
    }
}
