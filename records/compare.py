#!/usr/bin/env python3
"""slm beside its peers, alternating in one run: training beside PyTorch, decoding and prefill beside llama.cpp.

    python3 -m venv peers && peers/bin/pip install torch
    (build llama-bench from the source package of llama-cpp-python, see its vendor/llama.cpp)
    cargo build --release
    python3 records/compare.py --python peers/bin/python --llama-bench …/llama-bench --gguf amd135m-bf16.gguf \
        --out records/MACHINE-DATE.json

`--gguf` is a bf16 GGUF file of AMD-135M's shape; random weights do. Leave a peer's argument out and its rows are skipped,
and said to be. Run on an idle machine: the script waits until the load is low and notes it.
"""
import argparse, json, os, platform, statistics, subprocess, sys, time

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--slm", default="target/release/slm")
parser.add_argument("--python", help="a Python with torch")
parser.add_argument("--llama-bench", help="llama.cpp's benchmark program")
parser.add_argument("--gguf", help="bf16 GGUF of AMD-135M's shape, for decode and prefill")
parser.add_argument("--preload", help="tcmalloc, for PyTorch")
parser.add_argument("--rounds", type=int, default=2, help="times that ours and the peer's alternate")
parser.add_argument("--out", help="JSON file for the record")
options = parser.parse_args()


def wait_until_idle():
    for _ in range(12):
        if os.getloadavg()[0] < 0.5:
            return
        time.sleep(5)


def lines(command, env=None):
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stderr.strip()[-400:]}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def ours(*arguments):
    return lines([options.slm, "bench", *arguments, "--json"])[-1]


def torch(micro_batch):
    env = dict(os.environ, **({"LD_PRELOAD": options.preload, "TCMALLOC_RELEASE_RATE": "0"} if options.preload else {}))
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "train_torch.py")
    return lines([options.python, script, "--micro-batch", str(micro_batch)], env)[-1]


def llama(*arguments):
    command = [options.llama_bench, "-m", options.gguf, "-t", "2", "-r", "5", "-o", "jsonl", *arguments]
    found = [line for line in lines(command) if "avg_ts" in line][-1]
    samples = found["samples_ts"]
    return {"median": statistics.median(samples), "min": min(samples), "max": max(samples)}


rows = []


def compare(name, mine, theirs, peer):
    record = {"name": name, "peer_name": peer, "ours": [], "peer": []}
    for _ in range(options.rounds):
        wait_until_idle()
        record["load_before"] = os.getloadavg()[0]
        record["ours"].append(mine())
        record["peer"].append(theirs())
    middle = lambda side: statistics.median(run["median"] for run in record[side])
    record["ratio"] = middle("ours") / middle("peer")
    last = record["ours"][-1]
    rows.append(record)
    print(
        f"| {name} | {middle('ours'):.1f} | {middle('peer'):.1f} ({peer}) | {record['ratio']:.2f} "
        f"| {100 * last['share_of_ceiling']:.0f} % of {last['ceiling_by']} |",
        flush=True,
    )


print("| work, tokens/s | slm | peer | ratio | share of ceiling |\n|---|---|---|---|---|", flush=True)
for micro_batch in (1, 4):
    name = f"train, seq 1024, micro-batch {micro_batch}"
    if options.python:
        train = lambda: ours("train", "--seq", "1024", "--micro-batch", str(micro_batch))
        compare(name, train, lambda: torch(micro_batch), "PyTorch compiled")
    else:
        print(f"skipped: {name} (no --python)", file=sys.stderr)
decode = {"decode bf16, empty context": 0, "decode bf16, context 1024": 1024}
if options.llama_bench and options.gguf:
    model = ["--model", options.gguf]
    prefill = lambda: ours("prefill", *model, "--tokens", "512")
    compare("prefill 512, bf16", prefill, lambda: llama("-p", "512", "-n", "0"), "llama.cpp")
    for name, depth in decode.items():
        mine = lambda: ours("decode", *model, "--depth", str(depth), "--tokens", "64")
        compare(name, mine, lambda: llama("-p", "0", "-n", "64", "-d", str(depth)), "llama.cpp")
else:
    print("skipped: prefill and decode (no --llama-bench or --gguf)", file=sys.stderr)

if options.out:
    processor = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), "unknown")
    family = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("cpu family")), "?")
    model_number = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model\t")), "?")
    record = {
        "date": time.strftime("%Y-%m-%d"),
        "processor": f"{processor}, family {family}, model {model_number}",
        "system": platform.platform(),
        "slm": subprocess.run([options.slm, "--version"], capture_output=True, text=True).stdout.strip(),
        "rows": rows,
    }
    json.dump(record, open(options.out, "w"), indent=1)
