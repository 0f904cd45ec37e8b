"""Makes the golden files of crates/model/tests/whole_model/golden.rs: tiny models and what PyTorch computes with them.

    python3 -m venv VENV && VENV/bin/pip install torch transformers safetensors
    VENV/bin/python tests/golden/make_model.py [NAME…]

Writes the folders of `SHAPES` below tests/golden (or those named): `gqa_tied` (4 query heads on 2 key heads, embedding shared
with the head) and `mha_untied` (3 heads, Llama-3 rope scaling, widths that no vector register divides), which are trained;
and one for each architecture, and each form of one, that is read. In each folder:

    config.json, model.safetensors     the model, written by transformers, f32
    reference.json                     batch, learning rates, losses, gradient norms, a greedy continuation
    reference.safetensors              logprobs, masked_logprobs, grad.NAME, after.NAME

(of those that are not trained here the batch, the logprobs and the continuation alone).

Everything is computed in f64 from the f32 weights (rotary angles in f32, as transformers has them) and rounded to f32
at the end, so that the files hold the true values and the tolerances of the test are the error of our f32 alone.
The weights are drawn by torch from a fixed seed; made with torch 2.15.0 and transformers 5.24.0.
"""

import json
import pathlib
import sys

import torch
from safetensors.torch import save_file
from transformers import (
    GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM, Qwen2Config, Qwen2ForCausalLM,
    Qwen3Config, Qwen3ForCausalLM, SmolLM3Config, SmolLM3ForCausalLM,
)

SEQUENCES, TOKENS = 3, 14
NO_TARGET = -100
LEARNING_RATES = [1e-2, 8e-3, 5e-3]
OPTIMIZER = {"beta1": 0.9, "beta2": 0.95, "epsilon": 1e-8, "weight_decay": 0.1, "clip": 1.0}

SHAPES = {
    "gqa_tied": dict(
        vocab_size=48, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=24, tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    ),
    "mha_untied": dict(
        vocab_size=40, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, num_key_value_heads=3,
        intermediate_size=36, tie_word_embeddings=False,
        rope_parameters={
            "rope_type": "llama3", "rope_theta": 500.0, "factor": 4.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
        },
    ),
    "qwen2": dict(
        vocab_size=48, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=24, tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    ),
    "gpt2": dict(vocab_size=44, n_embd=20, n_layer=2, n_head=4, n_positions=32, layer_norm_epsilon=1e-5),
    "opt": dict(
        vocab_size=44, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, ffn_dim=40, max_position_embeddings=32,
        pad_token_id=1, bos_token_id=2, eos_token_id=2,
    ),
    # As OPT-350m: norms after the additions, none at the end, narrower token vectors.
    "opt_norms_after": dict(
        vocab_size=44, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, ffn_dim=40, max_position_embeddings=32,
        pad_token_id=1, bos_token_id=2, eos_token_id=2, do_layer_norm_before=False, word_embed_proj_dim=12,
    ),
    # Biases everywhere and heads that are not a share of the width.
    "llama_biases": dict(
        vocab_size=40, hidden_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=10,
        intermediate_size=36, tie_word_embeddings=False, attention_bias=True, mlp_bias=True,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    ),
    "qwen3": dict(
        vocab_size=48, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
        intermediate_size=24, tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    ),
    "smollm3": dict(
        vocab_size=48, hidden_size=16, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, pad_token_id=0,
        intermediate_size=24, tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": 1e4},
    ),
    "llama_yarn": dict(
        vocab_size=40, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
        intermediate_size=36, tie_word_embeddings=False,
        rope_parameters={
            "rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0, "original_max_position_embeddings": 16,
            "beta_fast": 4.0, "beta_slow": 0.5,
        },
    ),
    "llama_dynamic": dict(
        vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=36, tie_word_embeddings=False,
        rope_parameters={"rope_type": "dynamic", "rope_theta": 100.0, "factor": 4.0},
    ),
}
TRAINED = ("gqa_tied", "mha_untied")
CLASSES = {
    "qwen2": (Qwen2Config, Qwen2ForCausalLM), "gpt2": (GPT2Config, GPT2LMHeadModel), "opt": (OPTConfig, OPTForCausalLM),
    "opt_norms_after": (OPTConfig, OPTForCausalLM), "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "smollm3": (SmolLM3Config, SmolLM3ForCausalLM),
}
ENDS = dict(bos_token_id=1, eos_token_id=2)
# What all have but GPT-2 and OPT.
COMMON = dict(max_position_embeddings=64, rms_norm_eps=1e-5, **ENDS)


def make_model(name, shape, seed):
    torch.manual_seed(seed)
    config_class, model_class = CLASSES.get(name, (LlamaConfig, LlamaForCausalLM))
    config = config_class(**(ENDS if config_class in (GPT2Config, OPTConfig) else COMMON) | shape)
    config._attn_implementation = "eager"
    model = model_class(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Large enough that attention is far from uniform, and norms that are not 1.
            norm = any(part in name for part in ("norm", "ln_")) and name.endswith("weight")
            parameter.normal_(1.0, 0.2) if norm else parameter.normal_(0.0, 0.25)
    return model.eval()


def make_batch(vocab, seed):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, vocab, (SEQUENCES, TOKENS + 1), generator=generator)
    ids, targets = tokens[:, :-1], tokens[:, 1:].clone()
    targets[0, 3] = targets[2, TOKENS - 1] = NO_TARGET
    # First token of the own document: sequence 0 is one document, the others hold two and three.
    first_key = torch.zeros(SEQUENCES, TOKENS, dtype=torch.int64)
    first_key[1, 5:] = 5
    first_key[2, 1:9] = 1
    first_key[2, 9:] = 9
    return ids, targets, first_key


def document_mask(first_key):
    key = torch.arange(TOKENS)
    allowed = (key[None, None, :] <= key[None, :, None]) & (key[None, None, :] >= first_key[:, :, None])
    return torch.zeros(allowed.shape, dtype=torch.float64).masked_fill(~allowed, -1e30)[:, None]


def logprobs_of(model, ids, mask=None):
    # OPT would take positions from the mask.
    positions = torch.arange(ids.shape[1])[None].expand(ids.shape)
    return torch.log_softmax(model(input_ids=ids, attention_mask=mask, position_ids=positions).logits, dim=-1)


@torch.no_grad()
def greedy(model, ids, count):
    """The likeliest token each time, `count` of them, whether or not they end the text."""
    ids = list(ids)
    for _ in range(count):
        ids.append(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax().item())
    return ids[-count:]


def loss_of(model, ids, targets):
    logprobs = logprobs_of(model, ids)
    return torch.nn.functional.nll_loss(logprobs.flatten(0, 1), targets.flatten(), ignore_index=NO_TARGET)


def train(model, ids, targets, tensors):
    """Three steps; gradients of the first and the weights after the last go into `tensors`."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=0.0, betas=(OPTIMIZER["beta1"], OPTIMIZER["beta2"]), eps=OPTIMIZER["epsilon"],
        weight_decay=OPTIMIZER["weight_decay"], foreach=False,
    )
    losses, norms = [], []
    for step, learning_rate in enumerate(LEARNING_RATES):
        loss = loss_of(model, ids, targets)
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            tensors |= {f"grad.{n}": p.grad.clone() for n, p in model.named_parameters()}
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), OPTIMIZER["clip"]).item())
        optimizer.param_groups[0]["lr"] = learning_rate
        optimizer.step()
        losses.append(loss.item())
    tensors |= {f"after.{n}": p.detach() for n, p in model.named_parameters()}
    return losses, norms


def main():
    here = pathlib.Path(__file__).parent
    for seed, (name, shape) in enumerate(SHAPES.items(), start=1):
        if sys.argv[1:] and name not in sys.argv[1:]:
            continue
        folder = here / name
        model = make_model(name, shape, seed)
        model.save_pretrained(folder)
        (folder / "generation_config.json").unlink(missing_ok=True)
        model = model.double()
        ids, targets, first_key = make_batch(shape["vocab_size"], seed)

        tensors = {}
        with torch.no_grad():
            tensors["logprobs"] = logprobs_of(model, ids)
            tensors["masked_logprobs"] = logprobs_of(model, ids, document_mask(first_key))

        continuation = greedy(model, ids[0, :5].tolist(), 12)
        losses, norms = train(model, ids, targets, tensors) if name in TRAINED else ([], [])
        save_file({n: t.float().contiguous() for n, t in tensors.items()}, folder / "reference.safetensors")
        reference = {
            "sequences": SEQUENCES, "tokens": TOKENS, "ids": ids.flatten().tolist(),
            "targets": [None if t == NO_TARGET else t for t in targets.flatten().tolist()],
            "first_key": first_key.flatten().tolist(), "learning_rates": LEARNING_RATES, "optimizer": OPTIMIZER,
            "losses": losses, "gradient_norms": norms, "greedy": continuation,
        }
        (folder / "reference.json").write_text(json.dumps(reference, indent=1) + "\n")
        print(name, losses, norms)


if __name__ == "__main__":
    main()
