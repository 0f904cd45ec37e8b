#!/bin/sh
# Kills a run of the tiny recipe at random moments, resumes it, and compares its last bytes with those of a run that was
# left alone:
#
#   cargo build --release && tests/kill_and_resume.sh 100
#
# SLM names the program (default: the release build), SEED the moments, STEPS the length of a run.
set -eu
count=${1:?usage: tests/kill_and_resume.sh N}
here=$(cd "$(dirname "$0")/.." && pwd)
slm=${SLM:-${CARGO_TARGET_DIR:-$here/target}/release/slm}
steps=${STEPS:-20}
state=${SEED:-1}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'echo "stopped: ${equal:-0} bit-equal, ${run:-0} begun"; exit 1' INT TERM
last=checkpoints/step-$(printf %08d "$steps")

train() {
    exec "$slm" train "$here/recipes/tiny.toml" --out "$work/$1" --resume auto --set "data.dir=\"$work/data\"" \
        --set "train.steps=$steps" --set train.schedule.warmup_steps=5 --set train.batch_tokens=2048 \
        --set train.micro_batch=16 --set train.checkpoints.every_steps=3 --set train.evaluation.every_steps=10 \
        --set train.evaluation.tokens=4096 >"$work/$1.log" 2>&1
}

(train whole) || { cat "$work/whole.log"; exit 1; }
rm -rf "$work/whole" # the first one also prepared the data
began=$(date +%s%N)
(train whole)
length=$((($(date +%s%N) - began) / 1000000))
echo "a run takes $length ms"

equal=0
met=0
run=0
while [ "$run" -lt "$count" ]; do
    run=$((run + 1))
    rm -rf "$work/killed"
    train killed & # a subshell that becomes the program: its id is the one that is killed
    child=$!
    state=$(((state * 1103515245 + 12345) % 2147483648))
    moment=$((state / 65536 * length / 32768))
    sleep "$(printf '%d.%03d' $((moment / 1000)) $((moment % 1000)))"
    if kill -9 "$child" 2>/dev/null; then met=$((met + 1)); fi
    wait "$child" 2>/dev/null || true
    (train killed) || { cat "$work/killed.log"; echo "run $run, killed after $moment ms, does not go on"; continue; }
    same=yes
    for file in "$last/model.safetensors" "$last/optimizer.safetensors" metrics.jsonl; do
        cmp "$work/whole/$file" "$work/killed/$file" || same=no
    done
    if [ "$same" = yes ]; then equal=$((equal + 1)); else echo "run $run, killed after $moment ms, differs"; fi
done
echo "$equal of $count bit-equal ($met kills met a running program)"
[ "$equal" -eq "$count" ]
