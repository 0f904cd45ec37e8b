"""Checks slm's reading of every GGUF type, and its products with it, against llama.cpp on the same file.

    python3 -m venv VENV && VENV/bin/pip install llama-cpp-python numpy safetensors
    VENV/bin/python tests/interop/gguf_types.py --slm target/release/slm --text page.txt \\
        --from f32.gguf --types q8_0,q4_0,q4_k,iq4_xs --files qwen2.5-coder-0.5b-instruct-q4_k_m.gguf

Files are those that `slm export --type` writes from `--from`, and those given as they are. llama.cpp decodes each into f32 and
computes from that the distribution of the next token, at every token of the text: the truth about the file. Divergence from it,
nats per token in the mean, is printed for

    slm f32   slm with decoded weights: below 1e-4, or the file is read wrongly
    llama     llama.cpp with the file: what rounding activations to 8 bits costs there
    slm int8  slm with the file: at most a quarter more than llama.cpp; only where the file holds blocks

A line a file, `ok` or `FAIL`; the exit code is 1 where one failed.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import llama_cpp
import numpy
from safetensors.numpy import load_file

READING, SLACK = 1e-4, 1.25
FLOATS = ("f32", "f16", "bf16")


def decode(source, out):
    """Writes the file's weights as f32, by llama.cpp's own decoders."""
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize = llama_cpp.LLAMA_FTYPE_ALL_F32, True
    if llama_cpp.llama_model_quantize(str(source).encode(), str(out).encode(), params) != 0:
        sys.exit(f"{source}: llama.cpp could not decode it")


def llama_logits(path, windows, threads):
    model = llama_cpp.Llama(
        str(path), n_ctx=len(windows[0]), n_batch=len(windows[0]), n_threads=threads, n_threads_batch=threads,
        logits_all=True, type_k=0, type_v=0, flash_attn=False, verbose=False,
    )
    for ids in windows:
        model.reset()
        model.eval(ids)
        yield numpy.array(model.scores[: len(ids)], dtype=numpy.float64)


def slm_logits(slm, path, dtype, windows, threads, folder):
    ids_file, logits_file = folder / "ids.json", folder / "logits.safetensors"
    for ids in windows:
        ids_file.write_text(json.dumps(ids))
        logits_file.unlink(missing_ok=True)
        command = [slm, "score", "--model", path, "--ids", ids_file, "--dtype", dtype, "--threads", threads]
        command += ["--logits", logits_file, "--summary"]
        subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        yield load_file(logits_file)["logits"].astype(numpy.float64)


def log_probabilities(logits):
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - numpy.log(numpy.exp(shifted).sum(axis=-1, keepdims=True))


def divergence(truth, others):
    """Mean Kullback-Leibler divergence over all tokens of all windows."""
    sums = [
        (numpy.exp(p) * (p - q)).sum(axis=-1)
        for p, q in zip(map(log_probabilities, truth), map(log_probabilities, others))
    ]
    return float(numpy.concatenate(sums).mean())


def check(args, path, windows, folder, blocks=True):
    decoded = folder / "decoded.gguf"
    decode(path, decoded)
    truth = [logits.astype(numpy.float32) for logits in llama_logits(decoded, windows, args.threads)]
    decoded.unlink()
    llama = divergence(truth, llama_logits(path, windows, args.threads))
    ours = {
        dtype: divergence(truth, slm_logits(args.slm, path, dtype, windows, args.threads, folder))
        for dtype in (("f32", "int8") if blocks else ("f32",))
    }
    good = ours["f32"] < READING and ours.get("int8", 0) <= max(SLACK * llama, READING / 10)
    print(
        f"{'ok' if good else 'FAIL'} {pathlib.Path(path).name}: slm f32 {ours['f32']:.1e}, "
        f"llama.cpp {llama:.2e}" + (f", slm int8 {ours['int8']:.2e}" if blocks else ""),
        flush=True,
    )
    return good


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slm", required=True)
    parser.add_argument("--text", required=True, type=pathlib.Path)
    parser.add_argument("--from", dest="source", help="a model to write in each of --types")
    parser.add_argument("--types", default="q8_0,q4_0,q4_1,q5_0,q5_1,q2_k,q3_k,q4_k,q5_k,q6_k,iq4_nl,iq4_xs,f16,bf16")
    parser.add_argument("--files", nargs="*", default=[])
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()

    any_file = args.source or args.files[0]
    tokenizer = llama_cpp.Llama(any_file, vocab_only=True, verbose=False)
    ids = tokenizer.tokenize(args.text.read_bytes(), add_bos=False)[: args.tokens]
    windows = [ids[at : at + args.window] for at in range(0, len(ids), args.window)]
    print(f"{len(ids)} tokens of {args.text.name} in windows of {args.window}; llama-cpp-python {llama_cpp.__version__}")
    good = True
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for kind in args.types.split(",") if args.source else []:
            path = folder / f"{pathlib.Path(args.source).stem}-{kind}.gguf"
            command = [args.slm, "export", "--model", args.source, "--to", "gguf", "--type", kind, "--out", path]
            subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)
            good &= check(args, path, windows, folder, kind not in FLOATS)
            path.unlink()
        for path in args.files:
            good &= check(args, path, windows, folder)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
