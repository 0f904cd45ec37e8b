"""PyTorch's side of records/compare.py: a prompt of AMD-135M's shape through transformers; one JSON line.

In bf16, or in f32 where the processor has no AVX-512 and bf16 products are emulated.

    python records/peers/torch_prefill.py --tokens 512 --runs 5
"""
import argparse, json, os, statistics, time

parser = argparse.ArgumentParser()
parser.add_argument("--tokens", type=int, default=512)
parser.add_argument("--runs", type=int, default=5)
parser.add_argument("--threads", type=int, default=2)
options = parser.parse_args()
os.environ["OMP_NUM_THREADS"] = str(options.threads)
import torch
import transformers

torch.set_num_threads(options.threads)
torch.manual_seed(0)
BF16 = "AVX512" in torch.backends.cpu.get_cpu_capability()
DTYPE = torch.bfloat16 if BF16 else torch.float32
shape = transformers.LlamaConfig(
    vocab_size=32000, hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=2048,
    max_position_embeddings=2048, rms_norm_eps=1e-5,
)
model = transformers.LlamaForCausalLM._from_config(shape, dtype=DTYPE, attn_implementation="sdpa").eval()
ids = torch.randint(0, 32000, (1, options.tokens))


@torch.inference_mode()
def run():
    started = time.perf_counter()
    model(ids, use_cache=True, logits_to_keep=1)
    return options.tokens / (time.perf_counter() - started)


for _ in range(2):
    run()
rates = [run() for _ in range(options.runs)]
print(json.dumps({"median": statistics.median(rates), "min": min(rates), "max": max(rates), "torch": torch.__version__,
                  "dtype": "bf16" if BF16 else "f32"}))
