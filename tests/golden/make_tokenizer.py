#!/usr/bin/env python3
"""Makes crates/tokenizer/tests/golden: small vocabularies and the ids that their reference programs give.

    python3 -m venv venv && venv/bin/pip install sentencepiece==0.2.3 tokenizers==0.23.3
    venv/bin/python tests/golden/make_tokenizer.py [path of Llama-2's tokenizer.model]

Any recent versions do: the ids of a given vocabulary do not depend on them. Without the argument llama2.json is left
as it is. `--texts N` instead prints N other random texts as JSON strings, one a line, for comparisons of any size.

Files:
    small.model     BPE with byte fallback, trained by SentencePiece on this repository's own text, as Llama's was
    spaced.json     the same kind in tokenizer.json's form, with a Metaspace step instead of a normalizer
    bytes.json      byte-level BPE with added tokens, trained by tokenizers
    vectors.json    {"texts": […], "small.model": [[ids]…], "spaced.json": […], "bytes.json": […]}
    llama2.json     {"texts": […], "ids": [[ids]…]} by SentencePiece for Llama-2's vocabulary
"""

import io
import json
import pathlib
import random
import sys

import sentencepiece
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUT = ROOT / "crates/tokenizer/tests/golden"
WORDS = "the of and to in a is that for it as was with def return self import class print None not if else".split()
ODD = [
    "<s>", "</s>", "<unk>", "<0x0A>", "<0x41>", "<|end|>", "<|tool|>", "\u2581", "\u2581\u2581", "\0", "\ufeff", "\r\n",
    "\n", "\n\n\n", "\t", " ", "  ", "   ", " " * 16, " " * 17, "\u00a0", "\u3000", "e\u0301", "é", "😀", "👨\u200d👩\u200d👧",
    "\ufffd", "\U0010ffff", "\x7f", "\x01", "'s", "'LL", "\u2028", "\x85", "日本語", "שלום", "한국어", "½", "²", "a" * 50,
]


def random_char(rng):
    low, high = rng.choice([(32, 127), (32, 127), (0, 32), (0x80, 0x250), (0x370, 0x600), (0x4E00, 0x9FFF), (0, 0x110000)])
    code = rng.randrange(low, high)
    return chr(code) if not 0xD800 <= code < 0xE000 else " "


def random_text(rng):
    length = rng.choice([1, 2, 3, 5, 8, 13])
    kinds = [
        lambda: random_char(rng),
        lambda: rng.choice(WORDS) + " ",
        lambda: rng.choice(ODD + WORDS),
        lambda: rng.choice("ab "),
        lambda: rng.choice("0123456789.,-+eE$%()[]{};:'\""),
        lambda: rng.choice(WORDS)[: rng.randrange(1, 5)],
    ]
    kind = rng.choice(kinds)
    return "".join(kind() for _ in range(length))


def texts(count, seed):
    rng = random.Random(seed)
    return ["", *ODD, *(random_text(rng) for _ in range(count))]


def corpus():
    files = ["LICENSE", "README.md", "tests/golden/make_tokenizer.py"]
    return "\n".join((ROOT / name).read_text() for name in files)


def train_small_model():
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus().splitlines()), model_writer=model, model_type="bpe", vocab_size=700,
        byte_fallback=True, split_digits=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True, character_coverage=0.999, minloglevel=2,
    )
    return model.getvalue()


def train_bytes_json():
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=["<|end|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([corpus()], trainer)
    # Not special: found in any text, as the reference does.
    tokenizer.add_tokens([tokenizers.AddedToken("<|tool|>", special=False, normalized=False)])
    return tokenizer


def spaced_json(model):
    """The vocabulary of `model` with merges by score, and Metaspace as newer Llama files have it."""
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
    names = [pieces.id_to_piece(id) for id in range(pieces.get_piece_size())]
    normal = {name: id for id, name in enumerate(names) if not (pieces.is_control(id) or pieces.is_byte(id) or pieces.is_unknown(id))}
    merges = []
    for name, id in sorted(normal.items(), key=lambda item: item[1]):
        splits = [(name[:at], name[at:]) for at in range(1, len(name))]
        merges += sorted((s for s in splits if s[0] in normal and s[1] in normal), key=lambda s: (normal[s[0]], normal[s[1]]))
    bpe = models.BPE({name: id for id, name in enumerate(names)}, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = tokenizers.Tokenizer(bpe)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return tokenizer


def write(name, value):
    rows = (f"{json.dumps(key)}: {json.dumps(item, separators=(',', ':'))}" for key, item in value.items())
    (OUT / name).write_text("{" + ",\n".join(rows) + "}\n")


def ordinary(tokenizer, all_texts):
    tokenizer.encode_special_tokens = True
    return [tokenizer.encode(text, add_special_tokens=False).ids for text in all_texts]


def main():
    if sys.argv[1:2] == ["--texts"]:
        for text in texts(int(sys.argv[2]), 2):
            print(json.dumps(text))
        return
    OUT.mkdir(exist_ok=True)
    all_texts = texts(160, 1)
    model = train_small_model()
    (OUT / "small.model").write_bytes(model)
    spaced, by_bytes = spaced_json(model), train_bytes_json()
    (OUT / "spaced.json").write_text(spaced.to_str())
    (OUT / "bytes.json").write_text(by_bytes.to_str())
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    vectors = {
        "texts": all_texts,
        "small.model": [processor.encode(text) for text in all_texts],
        "spaced.json": ordinary(spaced, all_texts),
        "bytes.json": ordinary(by_bytes, all_texts),
    }
    write("vectors.json", vectors)
    if len(sys.argv) > 1:
        llama2 = sentencepiece.SentencePieceProcessor(model_file=sys.argv[1])
        write("llama2.json", {"texts": all_texts, "ids": [llama2.encode(text) for text in all_texts]})


if __name__ == "__main__":
    main()
