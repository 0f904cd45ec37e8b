#!/usr/bin/env bash
# Fuzzes every reader: fuzz/run.sh SECONDS [TARGET…] runs each target that long from its seeds in corpus/TARGET, or
# with FUZZ_RUNS=N for N executions at most (0 seconds: with no other end), from FUZZ_SEED if chance shall not choose.
# The exit code is not 0 if an input was found that panics, hangs or eats memory; it is kept in fuzz/artifacts/TARGET.
#
# No cargo-fuzz and no nightly: the flags below are all that they would add, and they are stable. (The address
# sanitizer, which is not, would have nothing to find: the readers have no unsafe code.) Needs a C++ compiler for
# libFuzzer's own source, which is inside its crate.
set -euo pipefail
cd "$(dirname "$0")"

seconds=${1:?usage: fuzz/run.sh SECONDS [TARGET…]}
shift
all=(gguf safetensors hf_config llama2c recipe tokenizer_json tokenizer_model shard manifest documents task_file)
targets=("${@:-${all[@]}}")

host=$(rustc -vV | sed -n 's/^host: //p')
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}
# Counters on every edge and comparison, so that the fuzzer sees what an input reaches. With --target they go to the
# targets and not to build scripts.
RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4"
RUSTFLAGS+=" -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table"
RUSTFLAGS+=" -Cllvm-args=-sanitizer-coverage-trace-compares"
export RUSTFLAGS

for target in "${targets[@]}"; do
    case $target in
        tokenizer_*) features=tokenizer ;;
        recipe) features=recipe ;;
        shard | manifest) features=data ;;
        documents) features=documents ;;
        task_file) features=eval ;;
        *) features= ;;
    esac
    cargo build --quiet --release --target "$host" --bin "$target" --features "$features"
done

failed=()
for target in "${targets[@]}"; do
    mkdir -p "artifacts/$target" "$CARGO_TARGET_DIR/corpus/$target" # what is found goes there, not among the seeds
    log=$CARGO_TARGET_DIR/corpus/$target.log
    # A parquet page may claim 2 GiB, which the parquet crate takes for a moment before it looks.
    memory=$([ "$target" = documents ] && echo 4096 || echo 1024)
    if "$CARGO_TARGET_DIR/$host/release/$target" \
        "$CARGO_TARGET_DIR/corpus/$target" "corpus/$target" -artifact_prefix="artifacts/$target/" \
        -max_total_time="$seconds" -runs="${FUZZ_RUNS:--1}" -seed="${FUZZ_SEED:-0}" -max_len=65536 -timeout=10 -rss_limit_mb="$memory" \
        -print_final_stats=1 > "$log" 2>&1; then
        echo "$target: nothing found in $(sed -n 's/^stat::number_of_executed_units: *//p' "$log") runs"
    else
        tail -n 40 "$log" >&2
        echo "$target: FOUND an input that is not handled, see above and fuzz/artifacts/$target" >&2
        failed+=("$target")
    fi
done
echo "$((${#targets[@]} - ${#failed[@]})) passed, ${#failed[@]} failed"
[ ${#failed[@]} -eq 0 ]
