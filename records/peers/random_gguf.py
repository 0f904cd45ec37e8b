"""Writes a Llama of random weights as a GGUF file, for timing: speed does not depend on what the weights say.

    python records/peers/random_gguf.py --shape amd-135m --type q8_0 --out amd135m-q8_0.gguf
"""
import argparse

import gguf
import numpy as np

# vocabulary, width, layers, query heads, key heads, feed-forward width, context
SHAPES = {
    "amd-135m": (32000, 768, 12, 12, 12, 2048, 2048),
    "7b": (32016, 4096, 32, 32, 32, 11008, 4096),
}
TYPES = {
    "f32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
    "bf16": (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
    "q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
    "q4_0": (gguf.GGMLQuantizationType.Q4_0, gguf.LlamaFileType.MOSTLY_Q4_0),
}
# Rows that are drawn and encoded; a longer matrix repeats them in another order. Encoding in numpy is slow.
DRAWN_ROWS = 2048

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--shape", choices=SHAPES, default="amd-135m")
parser.add_argument("--type", choices=TYPES, required=True)
parser.add_argument("--out", required=True)
options = parser.parse_args()
vocab, width, layers, heads, kv_heads, ffn_width, context = SHAPES[options.shape]
encoding, file_type = TYPES[options.type]
random = np.random.default_rng(0)
drawn = {}

writer = gguf.GGUFWriter(options.out, "llama")
writer.add_name(f"random {options.shape}")
writer.add_context_length(context)
writer.add_embedding_length(width)
writer.add_block_count(layers)
writer.add_feed_forward_length(ffn_width)
writer.add_head_count(heads)
writer.add_head_count_kv(kv_heads)
writer.add_layer_norm_rms_eps(1e-5)
writer.add_rope_dimension_count(width // heads)
writer.add_rope_freq_base(10000.0)
writer.add_vocab_size(vocab)
writer.add_file_type(file_type)

# A SentencePiece-style vocabulary that no text needs: three special tokens, the bytes, then numbered words.
words = [f"\u2581{i}".encode() for i in range(vocab - 259)]
writer.add_tokenizer_model("llama")
writer.add_token_list([b"<unk>", b"<s>", b"</s>"] + [b"<0x%02X>" % byte for byte in range(256)] + words)
writer.add_token_scores([0.0] * 259 + [-float(i) for i in range(len(words))])
kinds = gguf.TokenType
writer.add_token_types([kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL] + [kinds.BYTE] * 256 + [kinds.NORMAL] * len(words))
writer.add_bos_token_id(1)
writer.add_eos_token_id(2)
writer.add_unk_token_id(0)


def matrix(name, rows, cols):
    if cols not in drawn:
        numbers = random.standard_normal((DRAWN_ROWS, cols), dtype=np.float32) * 0.02
        drawn[cols] = gguf.quants.quantize(numbers, encoding)
    writer.add_tensor(f"{name}.weight", drawn[cols][random.integers(0, DRAWN_ROWS, rows)], raw_dtype=encoding)


def norm(name):
    writer.add_tensor(f"{name}.weight", np.ones(width, np.float32))


matrix("token_embd", vocab, width)
for layer in range(layers):
    block = f"blk.{layer}"
    norm(f"{block}.attn_norm")
    matrix(f"{block}.attn_q", width, width)
    matrix(f"{block}.attn_k", width // heads * kv_heads, width)
    matrix(f"{block}.attn_v", width // heads * kv_heads, width)
    matrix(f"{block}.attn_output", width, width)
    norm(f"{block}.ffn_norm")
    matrix(f"{block}.ffn_gate", ffn_width, width)
    matrix(f"{block}.ffn_up", ffn_width, width)
    matrix(f"{block}.ffn_down", width, ffn_width)
norm("output_norm")
matrix("output", vocab, width)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
