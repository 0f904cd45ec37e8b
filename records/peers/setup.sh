#!/bin/sh
# Installs what records/compare.py compares with into a scratch folder: records/peers/setup.sh DIR
#
# - PyTorch and transformers, as wheels (about 6 GB);
# - llama.cpp, built from the source package of llama-cpp-python with the flags of this processor;
# - candle, built from its crates beside the small program in records/peers/candle;
# - models of random weights in AMD-135M's shape (bf16, q8_0, q4_0, Q4_K_M), and one of 7B in q4_0 (3.6 GB).
#
# Needs cmake, ninja, a C++ compiler, cargo and Python 3 with venv; about 15 minutes on two cores.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
dir=${1:?usage: records/peers/setup.sh DIR}
mkdir -p "$dir" && cd "$dir"

[ -d venv ] || python3 -m venv venv
./venv/bin/pip install -q torch==2.15.0 transformers==5.23.0 numpy gguf==0.19.0

package=llama_cpp_python-0.3.36
[ -d $package ] || {
    ./venv/bin/pip download -q --no-deps --no-binary llama-cpp-python llama-cpp-python==0.3.36
    tar xzf $package.tar.gz
}
source=$package/vendor/llama.cpp
# gcc 12 takes a tile's configuration for 8 bytes long and drops the stores to the other 56: without this line every
# batch of quantised weights crashes on a processor with AMX.
mmq=$source/ggml/src/ggml-cpu/amx/mmq.cpp
grep -q '"r"(&tc)' $mmq || sed -i 's/_tile_loadconfig(&tc);/__asm__ volatile("" :: "r"(\&tc) : "memory"); &/' $mmq
cmake -S $source -B llama -G Ninja -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DBUILD_SHARED_LIBS=OFF \
    -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF > llama.log
ninja -C llama llama-bench llama-quantize llama-completion >> llama.log
for program in llama-bench llama-quantize llama-completion; do ln -sf llama/bin/$program $program; done

RUSTFLAGS="-C target-cpu=native" cargo build -q --release --manifest-path "$here/candle/Cargo.toml" --target-dir candle
ln -sf candle/release/candle-peer candle-peer

model() { [ -f "$3" ] || ./venv/bin/python "$here/random_gguf.py" --shape "$1" --type "$2" --out "$3"; }
for type in f32 bf16 q8_0 q4_0; do model amd-135m $type amd135m-$type.gguf; done
[ -f amd135m-q4_k_m.gguf ] || ./llama-quantize amd135m-f32.gguf amd135m-q4_k_m.gguf Q4_K_M 2 > quantize.log 2>&1
model 7b q4_0 7b-q4_0.gguf
echo "ready: $dir"
