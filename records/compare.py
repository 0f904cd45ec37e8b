#!/usr/bin/env python3
"""slm beside its peers, alternating in one run: PyTorch for training and prompts, llama.cpp and candle for inference.

    records/peers/setup.sh PEERS                  # once: installs the peers and makes the models
    cargo build --release
    python3 records/compare.py --peers PEERS --out records/MACHINE-DATE.json

Every row is run `--rounds` times, ours and each peer's in turn; a figure is the median of the rounds' medians, a ratio
that to the best peer's. A peer that is not installed is skipped, and said to be. The script waits until the machine is
idle before each measurement, and notes the load it began with. `--only TEXT` runs the rows whose name has TEXT in it;
rows of an earlier `--out` that are not run again are kept.
"""
import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--slm", default="target/release/slm")
parser.add_argument("--peers", type=pathlib.Path, required=True, help="the folder of records/peers/setup.sh")
parser.add_argument("--preload", default="/usr/lib/x86_64-linux-gnu/libtcmalloc_minimal.so.4", help="malloc for PyTorch")
parser.add_argument("--rounds", type=int, default=2, help="times that ours and the peers' alternate")
parser.add_argument("--files", type=pathlib.Path, nargs="*", default=[], help="GGUF files to run beside llama.cpp as well")
parser.add_argument("--only", default="", help="run the rows with this in their name")
parser.add_argument("--wait", type=int, default=60, help="seconds to wait for an idle machine, at most")
parser.add_argument("--out", type=pathlib.Path, help="JSON file for the record")
options = parser.parse_args()


def wait_until_idle():
    """Until nothing else runs; the load that is left where that takes too long (it falls slowly, our own included)."""
    for _ in range(options.wait // 5):
        if os.getloadavg()[0] < 0.5:
            break
        time.sleep(5)
    return os.getloadavg()[0]


def json_lines(command, env=None):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, env=env)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.stderr.strip()[-400:]}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def slm(*words):
    return lambda: json_lines([options.slm, "bench", *words, "--json"])[-1]


def torch(script, *words):
    env = dict(os.environ)
    if os.path.exists(options.preload):
        env.update(LD_PRELOAD=options.preload, TCMALLOC_RELEASE_RATE="0")
    return lambda: json_lines([options.peers / "venv/bin/python", HERE / "peers" / script, *words], env)[-1]


def llama(model, *words):
    def run():
        lines = json_lines([options.peers / "llama-bench", "-m", model, "-t", "2", "-r", "5", "-o", "jsonl", *words])
        samples = next(line for line in lines if "avg_ts" in line)["samples_ts"]
        return {"median": statistics.median(samples), "min": min(samples), "max": max(samples)}

    return run


def candle(what, model):
    return lambda: json_lines([options.peers / "candle-peer", what, model, "5"])[-1]


def rows():
    """`(name, ours, {peer: run})`; all in tokens a second."""
    for micro_batch in (1, 4):
        shape = ["--seq", "1024", "--micro-batch", str(micro_batch)]
        peers = {"PyTorch compiled": torch("torch_train.py", *shape)}
        yield f"train, seq 1024, micro-batch {micro_batch}", slm("train", *shape), peers
    shape = ["--seq", "256", "--micro-batch", "16"]
    peers = {"PyTorch compiled": torch("torch_train.py", "--shape", "9m", *shape)}
    yield "train 9M, seq 256, micro-batch 16", slm("train", "--recipe", HERE / "9m.toml", *shape), peers
    for kind in ("bf16", "q8_0", "q4_0", "q4_k_m"):
        model = options.peers / f"amd135m-{kind}.gguf"
        ours = ["--model", model]
        peers = {"llama.cpp": llama(model, "-p", "512", "-n", "0")}
        if kind == "bf16":
            peers["PyTorch"] = torch("torch_prefill.py", "--tokens", "512")
        if kind == "q8_0":
            peers["candle"] = candle("prefill", model)
        yield f"prefill 512, {kind}", slm("prefill", *ours, "--tokens", "512"), peers
        for depth in (0, 1024):
            peers = {"llama.cpp": llama(model, "-p", "0", "-n", "64", "-d", str(depth))}
            if kind == "q8_0" and depth == 0:
                peers["candle"] = candle("decode", model)
            decode = slm("decode", *ours, "--depth", str(depth), "--tokens", "64")
            yield f"decode {kind}, context {depth}", decode, peers
    for model in options.files:
        ours = ["--model", model]
        yield f"prefill 512, {model.stem}", slm("prefill", *ours, "--tokens", "512"), {"llama.cpp": llama(model, "-p", "512", "-n", "0")}
        yield f"decode, {model.stem}", slm("decode", *ours, "--tokens", "64"), {"llama.cpp": llama(model, "-p", "0", "-n", "64")}


def middle(runs):
    return statistics.median(run["median"] for run in runs)


def compare(name, ours, peers):
    record = {"name": name, "load_before": [], "ours": [], "peers": {peer: [] for peer in peers}}
    for _ in range(options.rounds):
        for runs, run in [(record["ours"], ours), *((record["peers"][peer], run) for peer, run in peers.items())]:
            record["load_before"].append(wait_until_idle())
            try:
                runs.append(run())
            except (RuntimeError, FileNotFoundError) as failure:
                print(f"skipped: {name}: {failure}", file=sys.stderr)
    found = {peer: middle(runs) for peer, runs in record["peers"].items() if runs}
    if record["ours"] and found:
        record["best_peer"] = max(found, key=found.get)
        record["ratio"] = middle(record["ours"]) / found[record["best_peer"]]
    return record


HEAD = "| work, tokens/s | slm | peers | ratio to the best | share of the ceiling |\n|---|---|---|---|---|"


def table_row(record):
    if not record["ours"]:
        return f"| {record['name']} | failed | | | |"
    peers = ", ".join(f"{middle(runs):.1f} {peer}" for peer, runs in record["peers"].items() if runs) or "none"
    ratio = f"{record['ratio']:.2f}" if "ratio" in record else ""
    best = max(record["ours"], key=lambda run: run["median"])
    share = f"{100 * middle(record['ours']) / best['ceiling']:.0f} % of {best['ceiling_by']}"
    return f"| {record['name']} | {middle(record['ours']):.1f} | {peers} | {ratio} | {share} |"


def processor():
    facts = dict(line.split(":", 1) for line in open("/proc/cpuinfo").read().split("\n\n")[0].splitlines())
    facts = {key.strip(): value.strip() for key, value in facts.items()}
    return ", ".join(f"{key} {facts.get(key, '?')}" for key in ("model name", "cpu family", "model"))


records = []
if options.out and options.out.exists():
    records = json.loads(options.out.read_text())["rows"]
print(HEAD, flush=True)
for name, ours, peers in rows():
    if options.only not in name:
        continue
    record = compare(name, ours, peers)
    print(table_row(record), flush=True)
    records = [kept for kept in records if kept["name"] != name] + [record]
    if options.out:
        version = subprocess.run([options.slm, "--version"], capture_output=True, text=True).stdout.strip()
        about = {"date": time.strftime("%Y-%m-%d"), "processor": processor(), "system": platform.platform(), "slm": version}
        options.out.write_text(json.dumps(about | {"rows": records}, indent=1) + "\n")
