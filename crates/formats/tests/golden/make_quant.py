"""Makes quant.gguf: quantised blocks with the values and bytes that the Python package `gguf` (llama.cpp's own)
gives for them, and keys of every type. crates/formats/tests/owners.rs compares ours with it, bit for bit.

Run, from this folder, in any virtual environment:

    pip install gguf==0.19.0 numpy
    python make_quant.py
"""

import numpy as np
from gguf import GGUFWriter, GGMLQuantizationType as T
from gguf.constants import GGML_QUANT_SIZES, GGUFValueType as V
from gguf.quants import dequantize, quantize

READ = [T.Q8_0, T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q2_K, T.Q3_K, T.Q4_K, T.Q5_K, T.Q6_K, T.IQ4_NL, T.IQ4_XS, T.BF16]
WRITTEN = [T.Q8_0, T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.BF16]
# Where the f16 scales are in a block of each type; random bytes there might be no number.
SCALES = {T.Q4_1: [0, 2], T.Q5_1: [0, 2], T.Q2_K: [80, 82], T.Q3_K: [108], T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208], T.BF16: []}

random = np.random.default_rng(1)
writer = GGUFWriter("quant.gguf", "none")


def put(name, array, kind=None):
    writer.add_tensor(name, array, raw_dtype=kind)


def blocks(kind):
    """Random bytes with scales that are numbers: as many blocks as make 512 values, 64 for the small types."""
    length, size = GGML_QUANT_SIZES[kind]
    count = 2
    data = random.integers(0, 256, (count, size), dtype=np.uint8)
    for at in SCALES.get(kind, [0]):
        data[:, at : at + 2] = random.normal(0, 0.05, (count, 1)).astype(np.float16).view(np.uint8)
    if kind == T.BF16:
        data = random.normal(0, 1, (1, 32)).astype(np.float32)
        data = quantize(data, T.BF16)
    return data


def inputs():
    """Rows of 64 with what rounds in a special way: ties, zeros, equal values, one large value, tiny ones."""
    rows = [
        random.normal(0, 0.02, 64),
        random.uniform(-3, 3, 64),
        np.zeros(64),
        np.full(64, 0.75),
        np.full(64, -2.5),
        np.arange(64) / 2 - 16,
        np.concatenate([[-127], np.arange(63) - 31.5]),
        np.concatenate([random.normal(0, 1, 63), [1e4]]),
        random.normal(0, 1e-7, 64),
        random.normal(0, 1e-30, 64),
        np.where(np.arange(64) % 2 == 0, 1.5, -1.5),
        np.abs(random.normal(0, 1, 64)),
    ]
    return np.stack(rows).astype(np.float32)


for kind in READ:
    data = blocks(kind)
    name = kind.name.lower()
    put(f"{name}.blocks", data, kind)
    put(f"{name}.values", np.ascontiguousarray(dequantize(data, kind)))

values = inputs()
put("inputs", values)
for kind in WRITTEN:
    put(f"{kind.name.lower()}.encoded", quantize(values, kind), kind)

writer.add_key_value("test.u8", 255, V.UINT8)
writer.add_key_value("test.i8", -128, V.INT8)
writer.add_key_value("test.u16", 65535, V.UINT16)
writer.add_key_value("test.i16", -32768, V.INT16)
writer.add_key_value("test.u32", 2**32 - 1, V.UINT32)
writer.add_key_value("test.i32", -(2**31), V.INT32)
writer.add_key_value("test.u64", 2**64 - 1, V.UINT64)
writer.add_key_value("test.i64", -(2**63), V.INT64)
writer.add_key_value("test.f32", 0.1, V.FLOAT32)
writer.add_key_value("test.f64", 0.1, V.FLOAT64)
writer.add_key_value("test.bool", True, V.BOOL)
writer.add_key_value("test.string", "größer ▁", V.STRING)
writer.add_array("test.strings", ["", "a", "▁b"])
writer.add_array("test.integers", [1, -2, 3])
writer.add_array("test.floats", [0.5, -1.5])

writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
