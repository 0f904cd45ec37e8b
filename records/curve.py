#!/usr/bin/env python3
"""Trains one model in bf16 and in f32, from the same first weights on the same batches, and compares every step's loss.

    cargo build --release
    python3 records/curve.py --work WORK

The recipe is `recipes/tiny.toml`, a tenth of `--steps` being the warm-up; its text is what the build has put on the machine.
The f32 run is the oracle. With `--other-order KEY=VALUE`, a setting that changes nothing but the order in which an f32 run
adds (another `train.micro_batch` of a tied model), it is run once more with that: so far do two runs drift apart that
round alike. `--scalar-steps` of it are repeated with `SLM_CPU=scalar`, whose losses and gradient norms must
be the same to the last digit. A Markdown table goes to stdout; the losses stay in WORK. The exit code is 1 where bf16
misses f32 by more than `--limit`, or scalar by anything.
"""
import argparse
import json
import os
import pathlib
import subprocess

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--slm", default="target/release/slm")
parser.add_argument("--work", type=pathlib.Path, required=True, help="a folder for tokens and runs")
parser.add_argument("--recipe", default="recipes/tiny.toml")
parser.add_argument("--steps", type=int, default=200)
parser.add_argument("--scalar-steps", type=int, default=3)
parser.add_argument("--other-order", metavar="KEY=VALUE")
parser.add_argument("--threads", type=int, default=os.cpu_count())
parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change the recipe further, for all runs")
parser.add_argument("--limit", type=float, default=0.03, help="largest relative difference of a step's loss")
options = parser.parse_args()


def train(name, precision, stop=None, level=None, more=()):
    """Losses and gradient norms, step by step; `stop` ends a run of the same schedule early."""
    out = options.work / name
    settings = {
        "data.dir": options.work / "data", "train.precision": precision, "train.steps": options.steps,
        "train.schedule.warmup_steps": options.steps // 10, "train.evaluation.every_steps": 0,
        "train.checkpoints.every_minutes": 0, "train.checkpoints.every_steps": stop or 0,
    }
    words = [word for setting in [*(f"{key}={value}" for key, value in settings.items()), *options.set, *more]
             for word in ("--set", setting)]
    environment = dict(os.environ) | ({"SLM_CPU": level} if level else {})
    process = subprocess.Popen([options.slm, "train", options.recipe, "--out", str(out), *words,
                                "--threads", str(options.threads)], env=environment)
    while process.poll() is None and stop is not None:
        # A checkpoint is due after step `stop`: whatever comes later is not looked at.
        if (out / "checkpoints" / "latest").exists():
            process.terminate()
        try:
            process.wait(timeout=0.2)
        except subprocess.TimeoutExpired:
            pass
    if process.wait() and stop is None:
        raise SystemExit(f"{name}: slm train failed")
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [(record["loss"], record["gradient_norm"]) for record in records if "gradient_norm" in record][:stop]


def main():
    options.work.mkdir(parents=True, exist_ok=True)
    version = subprocess.run([options.slm, "--version"], check=True, capture_output=True, text=True).stdout.strip()
    if not (options.work / "data").exists():
        subprocess.run([options.slm, "prepare", options.recipe, "--out", str(options.work / "data")], check=True)
    oracle = train("f32", "f32")
    ours = train("bf16", "bf16")
    other = train("other", "f32", more=[options.other_order]) if options.other_order else None

    def off(curve, column):
        return [abs(mine[column] / its[column] - 1) for mine, its in zip(curve, oracle, strict=True)]

    print(version, "\n")
    print("| steps | loss at the last: f32 | bf16 | largest relative difference of a loss | mean | the same, f32 in another order |")
    print("|---|---|---|---|---|---|")
    bounds = sorted({step for step in (10, 50, 100, 150) if step < options.steps} | {options.steps})
    losses = off(ours, 0)
    for first, last in zip([0, *bounds], bounds):
        part = losses[first:last]
        drift = off(other, 0)[first:last] if other else None
        drift = f"{max(drift):.1e}, mean {sum(drift) / len(drift):.1e}" if drift else "–"
        print(f"| {first + 1}–{last} | {oracle[last - 1][0]:.5f} | {ours[last - 1][0]:.5f} | {max(part):.1e} "
              f"| {sum(part) / len(part):.1e} | {drift} |")
    good = max(losses) <= options.limit
    print(f"\nlargest of all: {max(losses):.2e} at step {losses.index(max(losses)) + 1} of {len(losses)}")
    if options.scalar_steps:
        scalar = train("scalar", "f32", options.scalar_steps, "scalar")
        same = len(scalar) == options.scalar_steps and scalar == oracle[:options.scalar_steps]
        print(f"f32 at level scalar: {len(scalar)} steps, {'the same losses and norms' if same else 'OTHER losses'}")
        good &= same
    raise SystemExit(0 if good else 1)


if __name__ == "__main__":
    main()
