"""Checks slm's text and log-probabilities on models that others made against llama.cpp's, the same file in both.

    python3 -m venv VENV && VENV/bin/pip install llama-cpp-python numpy safetensors
    VENV/bin/python tests/interop/greedy.py --slm target/release/slm --data ../shared/data/eval/wikitext/test.jsonl.gz \\
        --stories ../shared/models/stories260k --files SmolLM2-135M-Instruct.Q4_1.gguf \\
        qwen2.5-coder-0.5b-instruct-q4_k_m.gguf qwen2.5-coder-1.5b-instruct-q4_k_m.gguf

Each model continues twenty prompts by 64 tokens, the likeliest each time; slm in f32 (with decoded weights) and, where the file
holds blocks, in int8. llama.cpp rounds the inputs of products with blocks to 8 bits, so texts may part where two tokens are
nearly as likely. Where they do, the line says what each program took and the two tokens' margins: by how many nats slm in f32 has
its own above llama.cpp's (below 0: it would have taken the other), and llama.cpp its own. `ok` if both are below NEAR, which
rounding makes; with a file of floats they must be below 1e-3.

Then the distributions of the next token at 2,000 tokens of wikitext: the mean Kullback-Leibler divergence from llama.cpp's, in
nats. A file of floats must be within 1e-3. With blocks that is a note, since llama.cpp's own rounding may be more than that; what
is judged there is the comparison of gguf_types.py, with llama.cpp computing from decoded weights. What is not there is skipped,
and said to be; the exit code is 1 where something failed.
"""

import argparse
import gzip
import json
import pathlib
import subprocess
import sys
import tempfile

import gguf_types
import llama_cpp
import numpy
from gguf_types import divergence, log_probabilities, slm_logits

PROMPTS = [
    "The capital of France is", "Water boils at", "Once upon a time, there was a little girl", "The three laws of motion are",
    "To bake bread you need flour, water and", "In 1969, the first men", "A prime number is a number", "Photosynthesis is",
    "My favourite season is", "Dear Sir or Madam,", "def fibonacci(n):", "def quicksort(items):", "import os\n\ndef ",
    "// Returns the greatest common divisor\nfn gcd(", "#include <stdio.h>\n\nint main(", "SELECT name, COUNT(*) FROM",
    "class Stack:\n    def __init__(self):", "for i in range(10):\n    ", "// Reverses a linked list\nfunction reverse(head) {",
    "# Reads a CSV file and prints its columns\nimport csv\n",
]
LENGTH, WINDOW = 64, 500
NEAR = {"blocks": 0.5, "floats": 1e-3}
DIVERGENCE = 1e-3


class Llama:
    def __init__(self, path, threads):
        self.model = llama_cpp.Llama(
            str(path), n_ctx=512, n_batch=512, n_threads=threads, n_threads_batch=threads,
            logits_all=True, type_k=0, type_v=0, flash_attn=False, verbose=False,
        )

    def logits(self, ids):
        self.model.reset()
        self.model.eval(ids)
        return numpy.array(self.model.scores[: len(ids)], dtype=numpy.float64)

    def greedy(self, prompt):
        """The ids of a continuation, and the log-probabilities from which each was taken."""
        self.model.reset()
        ids, rows, given = [], [], prompt
        while len(ids) < LENGTH:
            self.model.eval(given)
            rows.append(log_probabilities(self.model.scores[self.model.n_tokens - 1].astype(numpy.float64)))
            ids.append(int(rows[-1].argmax()))
            given = ids[-1:]
        return ids, rows


class Slm:
    def __init__(self, program, path, threads, folder):
        self.program, self.path, self.threads, self.folder = program, path, threads, folder

    def greedy(self, prompt, dtype):
        file = self.folder / "prompt.json"
        file.write_text(json.dumps(prompt))
        command = [self.program, "generate", "--model", self.path, "--prompt-ids", file, "--max-tokens", LENGTH]
        command += ["--ignore-eos", "--dtype", dtype, "--threads", self.threads, "--bos", "never", "--json"]
        done = subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True)
        return json.loads(done.stdout.splitlines()[-1])["ids"]

    def logits(self, windows, dtype):
        return slm_logits(self.program, self.path, dtype, windows, self.threads, self.folder)


def check_texts(name, llama, slm, prompts, dtypes, near):
    """Whether every text that parts from llama.cpp's does so between tokens that are nearly as likely."""
    equal, good = {dtype: 0 for dtype in dtypes}, True
    for text, prompt in zip(PROMPTS, prompts):
        theirs, rows = llama.greedy(prompt)
        for dtype in dtypes:
            ours = slm.greedy(prompt, dtype)
            at = next((i for i, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1]), None)
            if at is None:
                equal[dtype] += 1
                continue
            row = log_probabilities(next(slm.logits([prompt + theirs[:at]], "f32"))[-1])
            own = row[ours[at]] - row[theirs[at]]
            other = rows[at][theirs[at]] - rows[at][ours[at]]
            tie = max(abs(own), other) <= near
            good &= tie
            pieces = [llama.model.detokenize([ids[at]], special=True).decode(errors="replace") for ids in (ours, theirs)]
            print(
                f"{'ok' if tie else 'FAIL'} {name} in {dtype}: after {text!r} token {at + 1} is {pieces[0]!r}, llama.cpp's "
                f"{pieces[1]!r}; margins {own:.4f} in slm's f32, {other:.4f} in llama.cpp",
                flush=True,
            )
    for dtype in dtypes:
        print(f"note {name} in {dtype}: {equal[dtype]} of {len(prompts)} texts of {LENGTH} tokens equal llama.cpp's", flush=True)
    return good


def check_divergence(options, name, path, llama, slm, ids, dtypes, folder):
    windows = [ids[at : at + WINDOW] for at in range(0, len(ids), WINDOW)]
    truth = [llama.logits(window).astype(numpy.float32) for window in windows]
    apart = {dtype: divergence(truth, slm.logits(windows, dtype)) for dtype in dtypes}
    verdict = "note" if "int8" in dtypes else "ok" if apart["f32"] <= DIVERGENCE else "FAIL"
    for dtype, nats in apart.items():
        print(f"{verdict} {name} in {dtype}: {nats:.2e} nats from llama.cpp's at {len(ids)} tokens of wikitext", flush=True)
    return gguf_types.check(options, path, windows, folder) if verdict == "note" else verdict == "ok"


def check(options, name, path, kind, folder):
    llama, slm = Llama(path, options.threads), Slm(options.slm, path, options.threads, folder)
    dtypes = options.dtypes.split(",") if kind == "blocks" else ["f32"]
    prompts = [llama.model.tokenize(text.encode(), add_bos=True) for text in PROMPTS]
    good = check_texts(name, llama, slm, prompts, dtypes, NEAR[kind])
    if options.data is None:
        print(f"skipped {name}, wikitext: no --data")
        return good
    with gzip.open(options.data, "rt", encoding="utf-8") as lines:
        page = json.loads(next(lines))["page"] + json.loads(next(lines))["page"]
    ids = llama.model.tokenize(page.encode(), add_bos=False)[: options.tokens]
    return check_divergence(options, name, path, llama, slm, ids, dtypes, folder) and good


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slm", required=True)
    parser.add_argument("--files", nargs="*", default=[], type=pathlib.Path, help="GGUF files of blocks")
    parser.add_argument("--stories", type=pathlib.Path, help="folder of stories260K.bin and tok512.bin")
    parser.add_argument("--data", type=pathlib.Path, help="wikitext's pages, test.jsonl.gz")
    parser.add_argument("--dtypes", default="f32,int8", help="how slm computes with files of blocks")
    parser.add_argument("--tokens", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    version = subprocess.run([options.slm, "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]
    print(f"{version}; llama-cpp-python {llama_cpp.__version__}", flush=True)
    good = True
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        if options.stories is None:
            print("skipped stories260K: no --stories")
        else:
            path = folder / "stories260K.gguf"
            command = [options.slm, "export", "--model", options.stories / "stories260K.bin", "--to", "gguf", "--type", "f32"]
            command += ["--tokenizer", options.stories / "tok512.bin", "--out", path]
            subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)
            good &= check(options, "stories260K", path, "floats", folder)
        for path in options.files:
            if path.exists():
                good &= check(options, path.stem, path, "blocks", folder)
            else:
                print(f"skipped {path.name}: no such file")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
