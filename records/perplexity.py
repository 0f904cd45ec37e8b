#!/usr/bin/env python3
"""Perplexity of one model in every form that slm computes it in, against products of the decoded weights in f32.

    cargo build --release
    python3 records/perplexity.py --model MODEL.gguf --text wiki.test.raw.gz --work WORK

The model is scored as it is with `--dtype f32` (the oracle), `bf16` and, where its weights are in blocks, `int8`; then as
`slm export` writes it in q8_0 (`int8` and `bf16`) and in bf16. Windows of `--window` tokens, each token predicted once;
`--bytes` of the text, up to the end of a line (all of it with 0). All runs predict the same tokens, so the difference of
two means is known far better than either: its standard error is that of the differences token by token. With `--llama
FOLDER`, llama.cpp's `llama-perplexity` of that folder runs on the same text and files, in its own windows, against
itself in f32. A Markdown table goes to stdout; the exit code is 1 where a perplexity misses the oracle's by more than
`--limit`.
"""
import argparse
import gzip
import json
import math
import os
import pathlib
import re
import subprocess
import sys
import time

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--slm", default="target/release/slm")
parser.add_argument("--model", type=pathlib.Path, required=True)
parser.add_argument("--text", type=pathlib.Path, required=True, help="a text file, or one in gzip")
parser.add_argument("--work", type=pathlib.Path, required=True, help="a folder for the text and the exported models")
parser.add_argument("--bytes", type=int, default=0)
parser.add_argument("--window", type=int, default=512)
parser.add_argument("--threads", type=int, default=os.cpu_count())
parser.add_argument("--limit", type=float, default=0.001, help="largest relative difference of a perplexity")
parser.add_argument("--llama", type=pathlib.Path, help="folder with llama.cpp's llama-perplexity")
options = parser.parse_args()


def score(model, dtype):
    command = [options.slm, "score", "--model", model, "--text", options.work / "text", "--rolling",
               "--window", options.window, "--dtype", dtype, "--threads", options.threads, "--json"]
    began = time.time()
    done = json.loads(subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True).stdout)
    print(f"{model.name} {dtype}: {done['perplexity']:.4f} ({time.time() - began:.0f} s)", flush=True, file=sys.stderr)
    return done


def export(dtype):
    out = options.work / f"{dtype}.gguf"
    if not out.exists():
        subprocess.run([options.slm, "export", "--model", str(options.model), "--to", "gguf", "--type", dtype, "--out", str(out)], check=True)
    return out


def difference(ours, oracle):
    """Relative difference of two perplexities and its standard error, both in per cent."""
    pairs = [(a, b) for a, b in zip(ours["logprobs"], oracle["logprobs"], strict=True) if a is not None]
    nats = [b - a for a, b in pairs]
    mean = sum(nats) / len(nats)
    error = math.sqrt(sum((value - mean) ** 2 for value in nats) / (len(nats) - 1) / len(nats))
    return 100 * math.expm1(mean), 100 * error


def llama(model):
    command = [options.llama / "llama-perplexity", "-m", model, "-f", options.work / "text", "-c", options.window,
               "-t", options.threads]
    done = subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True)
    return float(re.search(r"PPL = ([0-9.]+)", done.stdout + done.stderr)[1])


def main():
    options.work.mkdir(parents=True, exist_ok=True)
    raw = (gzip.open if options.text.suffix == ".gz" else open)(options.text, "rb").read()
    if options.bytes:
        raw = raw[: raw.rfind(b"\n", 0, options.bytes) + 1]
    (options.work / "text").write_bytes(raw)
    oracle = score(options.model, "f32")
    print(f"{oracle['tokens']} tokens ({len(raw)} bytes), {oracle['windows']} windows of {oracle['window']}; "
          f"f32: perplexity {oracle['perplexity']:.4f} ± {oracle['perplexity'] * oracle['nats_per_token_error']:.2f}, "
          f"{oracle['bits_per_byte']:.4f} bits per byte\n")
    print("| weights | products | perplexity | against f32 of the file as it is |")
    print("|---|---|---|---|")
    good = True
    q8_0, bf16 = export("q8_0"), export("bf16")
    rows = [(options.model, "as they are", "int8"), (options.model, "as they are", "bf16"),
            (q8_0, "exported in q8_0", "int8"), (q8_0, "exported in q8_0", "bf16"), (bf16, "exported in bf16", "bf16")]
    for model, name, dtype in rows:
        found = score(model, dtype)
        off, error = difference(found, oracle)
        good &= abs(off) <= 100 * options.limit
        print(f"| {name} | {dtype} | {found['perplexity']:.4f} | {off:+.3f} % ± {error:.3f} |", flush=True)
    if options.llama:
        own = llama(export("f32"))
        print(f"| the same decoded to f32 | llama.cpp | {own:.4f} | |")
        for model, name in [(options.model, "as they are"), (q8_0, "exported in q8_0")]:
            found = llama(model)
            print(f"| {name} | llama.cpp | {found:.4f} | {100 * (found / own - 1):+.3f} % against its own f32 |", flush=True)
    raise SystemExit(0 if good else 1)


if __name__ == "__main__":
    main()
