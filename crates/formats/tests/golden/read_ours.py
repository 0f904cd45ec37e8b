"""Reads what `cargo test -p formats` has written with the owners' programs, and compares the values.

Run in any virtual environment:

    pip install gguf==0.19.0 safetensors==0.8.0 transformers==5.24.0 numpy
    python read_ours.py TARGET/tmp/formats-for-owners

(TARGET is Cargo's target folder.)
"""

import struct
import sys
from pathlib import Path

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize
from safetensors import safe_open
from transformers import AutoConfig, GenerationConfig

folder = Path(sys.argv[1])
values = (np.arange(64, dtype=np.float32) / 8 - 3).reshape(2, 32)

reader = GGUFReader(folder / "ours.gguf")
steps = {"f32": 0, "f16": 0, "bf16": 0, "q8_0": 0.02, "q4_0": 0.4, "q5_1": 0.08}
for tensor in reader.tensors:
    kind = tensor.name.removeprefix("values.")
    assert list(tensor.shape) == [32, 2] and tensor.tensor_type.name.lower() == kind, tensor
    error = np.abs(dequantize(tensor.data, tensor.tensor_type).reshape(2, 32) - values).max()
    assert error <= steps.pop(kind), (kind, error)
assert not steps, steps
field = lambda key: reader.get_field(key).contents()
assert field("general.architecture") == "test" and field("test.count") == 7 and field("test.yes") is True
assert field("test.strings") == ["a", "größer"] and field("test.floats") == [0.5, -1.5]

path = folder / "ours.safetensors"
with safe_open(path, framework="np") as opened:
    assert opened.metadata() == {"format": "pt"}, opened.metadata()
    assert set(opened.keys()) == {"values.f32", "values.f16", "values.bf16"}
    assert np.array_equal(opened.get_tensor("values.f32"), values)
    assert np.array_equal(opened.get_tensor("values.f16").astype(np.float32), values)
    assert opened.get_slice("values.bf16").get_dtype() == "BF16"
header = struct.unpack("<Q", path.read_bytes()[:8])[0]
assert header % 8 == 0

for name in ["plain", "scaled"]:
    config = AutoConfig.from_pretrained(folder / name)
    rope = config.rope_parameters
    assert rope["rope_theta"] == 20000 and rope["rope_type"] == {"plain": "default", "scaled": "llama3"}[name], rope
    assert name == "plain" or (rope["factor"], rope["original_max_position_embeddings"]) == (8, 1024), rope
    assert (config.hidden_size, config.num_key_value_heads, config.rms_norm_eps) == (768, 4, 1e-5)
    assert (config.bos_token_id, config.eos_token_id, config.tie_word_embeddings) == (1, [2, 3], False)
    assert str(config.dtype) in ("bfloat16", "torch.bfloat16"), config.dtype
    generation = GenerationConfig.from_pretrained(folder / name)
    assert (generation.eos_token_id, generation.temperature) == ([2, 3], 0.7)

print(f"{folder}: gguf, safetensors and transformers read what was written")
