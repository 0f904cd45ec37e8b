"""Trains the same model on the same batches in PyTorch and in slm, and compares the loss of every step.

    python3 -m venv VENV && VENV/bin/pip install torch transformers safetensors numpy blake3
    VENV/bin/python tests/golden/loss_curve.py --slm target/release/slm --work loss-curve

To be started in the repository's folder: `tests/golden/loss_curve.toml` names its text relative to it. What happens:

1. `slm prepare` writes the token shards.
2. transformers draws the weights of AMD-Llama-135M's shape from a torch seed and writes them as a folder.
3. `slm train` starts from that folder (`model.from`), once in bf16 and once in f32.
4. PyTorch starts from the same folder, in f32, with torch.optim.AdamW, on the same windows of the same shards: the order
   of samples is computed here again, from the description at the head of `crates/data/src/order.rs`.
5. The losses of all steps go to `tests/golden/loss_curve.json`. The exit code is 1 where a loss of slm's differs from
   PyTorch's by more than 1 % (f32) or 2 % (bf16).

`--steps N` runs fewer steps than the recipe's 30 (the schedule then ends at N), `--batch-tokens N` smaller batches than
its 8,192 tokens. The whole takes about an hour on two cores.
"""

import argparse
import json
import math
import pathlib
import platform
import subprocess
import time
import tomllib

import blake3
import numpy as np
import torch
import transformers

HERE = pathlib.Path(__file__).parent
RECIPE = HERE / "loss_curve.toml"
SHAPE = dict(
    vocab_size=32000, hidden_size=768, num_hidden_layers=12, num_attention_heads=12, num_key_value_heads=12,
    intermediate_size=2048, max_position_embeddings=2048, rms_norm_eps=1e-5, tie_word_embeddings=False,
    initializer_range=0.02, bos_token_id=1, eos_token_id=2,
)
LIMITS = {"f32": 0.01, "bf16": 0.02}
WORD = (1 << 64) - 1


def length_and_text(text):
    return len(text.encode()).to_bytes(8, "little") + text.encode()


def content_hash(manifest):
    """`Manifest::content_hash`, for the separator rule "eos"."""
    parts = [manifest["tokenizer_hash"], f"SeparatorIds {{ rule: Eos, bos: None, eos: Some({manifest['separator']['eos']}) }}"]
    for source in manifest["sources"]:
        parts.append(source["name"])
        for part in ["train", "validation"]:
            parts.append(part)
            for shard in source[part]["shards"]:
                parts += [shard["hash"], str(shard["tokens"])]
    data = b"".join(map(length_and_text, parts))
    return blake3.blake3(data, derive_key_context="slm 2026 content of token shards v1").hexdigest()


def permutation(n, key):
    """The Feistel network of `crates/data/src/order.rs`."""
    half = max(1, ((n - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    stream = blake3.blake3(b"", key=key).digest(64)
    keys = [int.from_bytes(stream[at : at + 8], "little") for at in range(0, 64, 8)]

    def mix(value):
        z = (value + 0x9E3779B97F4A7C15) & WORD
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & WORD
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & WORD
        return z ^ (z >> 31)

    def turn(value):
        left, right = value >> half & mask, value & mask
        for key in keys:
            left, right = right, left ^ (mix(right ^ key) & mask)
        return left << half | right

    def at(index):
        value = turn(index)
        while value >= n:
            value = turn(value)
        return value

    return at


class Batches:
    """The batches of a data set of one unweighted source, in slm's order."""

    def __init__(self, folder, seed, sequence, rows):
        manifest = json.loads((folder / "manifest.json").read_text())
        (source,) = manifest["sources"]
        files = [folder / shard["file"] for shard in source["train"]["shards"]]
        self.tokens = np.concatenate([np.fromfile(file, "<u2", offset=256) for file in files]).astype(np.int64)
        self.sequence, self.rows = sequence, rows
        self.samples = (len(self.tokens) - 1) // sequence
        data = seed.to_bytes(8, "little") + (0).to_bytes(8, "little")
        data += length_and_text(content_hash(manifest)) + length_and_text("")
        key = blake3.blake3(data, derive_key_context="slm 2026 order of training samples v1").digest()
        self.order = permutation(self.samples, key)

    def batch(self, step):
        first = step * self.rows
        assert first + self.rows <= self.samples, "more than one epoch; prepare more text"
        starts = [self.order(index) * self.sequence for index in range(first, first + self.rows)]
        windows = [self.tokens[start : start + self.sequence + 1] for start in starts]
        return torch.from_numpy(np.stack(windows))


def learning_rate(schedule, step, steps):
    """Cosine with warm-up; the first step is 1."""
    peak, least, warmup = (schedule[key] for key in ["learning_rate", "min_learning_rate", "warmup_steps"])
    if step < warmup:
        return peak * step / warmup
    return least + 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) * (peak - least)


def train_in_pytorch(recipe, steps, work):
    model = transformers.LlamaForCausalLM.from_pretrained(work / "initial", dtype=torch.float32)
    train, optimizer = recipe["train"], recipe["train"]["optimizer"]
    adamw = torch.optim.AdamW(
        model.parameters(), lr=0.0, betas=(optimizer["beta1"], optimizer["beta2"]), eps=optimizer["epsilon"],
        weight_decay=optimizer["weight_decay"],
    )
    sequence, rows = train["sequence"], train["batch_tokens"] // train["sequence"]
    batches = Batches(work / "data" / "tokens", recipe["run"]["seed"], sequence, rows)
    micro = train["micro_batch"]
    losses, norms = [], []
    for step in range(1, steps + 1):
        started, total = time.time(), 0.0
        adamw.zero_grad()
        for part in batches.batch(step - 1).split(micro):
            logits = model(part[:, :-1]).logits
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), part[:, 1:].flatten()) * len(part) / rows
            loss.backward()
            total += loss.item()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), optimizer["clip_norm"]).item()
        adamw.param_groups[0]["lr"] = learning_rate(train["schedule"], step, steps)
        adamw.step()
        losses.append(total)
        norms.append(norm)
        print(f"pytorch f32 step {step} loss {total:.6f} norm {norm:.4f} ({time.time() - started:.1f} s)", flush=True)
    return {"loss": losses, "gradient_norm": norms}


def train_in_slm(slm, precision, recipe, steps, work):
    out = work / f"slm-{precision}"
    settings = [
        f"model.from={work / 'initial'}", f"data.dir={work / 'data'}", f"train.precision={precision}",
        f"train.steps={steps}", f"train.batch_tokens={recipe['train']['batch_tokens']}",
    ]
    command = [slm, "train", str(RECIPE), "--out", str(out)]
    subprocess.run(command + [word for setting in settings for word in ("--set", setting)], check=True)
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    records = [record for record in records if "loss" in record]
    return {key: [record[key] for record in records] for key in ["loss", "gradient_norm"]}


def draw_weights(folder):
    torch.manual_seed(3407)
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPE)).save_pretrained(folder)


def compare(curves):
    """Greatest relative difference from PyTorch's, by precision, and whether all are within the limits."""
    result, good = {}, True
    for precision, limit in LIMITS.items():
        pairs = list(zip(curves[f"slm {precision}"]["loss"], curves["pytorch f32"]["loss"], strict=True))
        worst = max(abs(ours - theirs) / theirs for ours, theirs in pairs)
        result[precision] = {"max_relative_difference": worst, "limit": limit}
        good &= worst <= limit
        print(f"{'ok' if worst <= limit else 'FAIL'} {precision}: max relative difference {worst:.2e}, limit {limit}")
    return result, good


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slm", default="target/release/slm")
    parser.add_argument("--work", type=pathlib.Path, required=True, help="a new folder for weights, tokens and runs")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--batch-tokens", type=int)
    parser.add_argument("--out", type=pathlib.Path, default=HERE / "loss_curve.json")
    options = parser.parse_args()
    work = options.work.resolve()
    work.mkdir(parents=True)
    recipe = tomllib.loads(RECIPE.read_text())
    steps = options.steps or recipe["train"]["steps"]
    recipe["train"]["batch_tokens"] = options.batch_tokens or recipe["train"]["batch_tokens"]
    version = subprocess.run([options.slm, "--version"], check=True, capture_output=True, text=True).stdout.strip()

    draw_weights(work / "initial")
    subprocess.run([options.slm, "prepare", str(RECIPE), "--out", str(work / "data")], check=True)
    curves = {"slm bf16": train_in_slm(options.slm, "bf16", recipe, steps, work)}
    curves["pytorch f32"] = train_in_pytorch(recipe, steps, work)
    curves["slm f32"] = train_in_slm(options.slm, "f32", recipe, steps, work)

    differences, good = compare(curves)
    versions = {
        "slm": version, "torch": torch.__version__, "transformers": transformers.__version__, "machine": platform.machine(),
    }
    report = {"steps": steps, "recipe_steps": recipe["train"]["steps"], "batch_tokens": recipe["train"]["batch_tokens"]}
    report |= {"versions": versions, "differences": differences}
    options.out.write_text(json.dumps(report | {"curves": curves}, indent=1) + "\n")
    raise SystemExit(0 if good else 1)


if __name__ == "__main__":
    main()
