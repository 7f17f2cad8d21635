#!/usr/bin/env python3
"""Make a small Llama with random weights on the spot, without a network.

    python examples/tiny_model/make_tiny_llama.py FOLDER
    python examples/tiny_model/make_tiny_llama.py FOLDER --size demo --dtype bfloat16
    python examples/tiny_model/make_tiny_llama.py FOLDER --layers 4 --sliding-window 96

The folder holds what a checkpoint holds, and vLLM loads it like one. The same
arguments give the same bytes. Needs torch, safetensors and tokenizers, which
vLLM brings.

Two things make it fit to test a KV cache with. Its greedy answer depends on the
whole context: with the usual initialisation a random model answers nearly the
same whatever it read, and a test of "same answer warm as cold" would pass on a
corrupt cache. And its tokenizer cuts the prompt of the pin example into twelve
tokens, as Llama 3.1's does.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

PIN_PROMPT = "Explain the significance of KV cache in language models."
PIN_PROMPT_TOKENS = 12

SPECIAL_TOKENS = ("<unk>", "<s>", "</s>", "<pad>")
_BOS, _EOS, _PAD = 1, 2, 3

# Every word is one token, with the space before it. What is not listed is spelt
# out in bytes, so that any text can be tokenized.
_PIECES = (".", ",", "?", "!", ":", "\n", "Ex", "plain", "The", "What", "How", "Why", "A", "I")
_WORDS = (  # noqa: SIM905  # quotes and commas would hide the words
    "the significance of KV cache in language models a and to is that it for on as with by "
    "at from this be are was or an not have has which when where why how what who can will "
    "may must should one two three four five six seven eight nine ten first last next each "
    "every more less most other same many few all no new old long short large small great "
    "memory disk token prompt prefix answer question document page block chunk layer head "
    "key value query model server worker engine request tier pin time second step word list "
    "book city river mountain sea island bridge castle garden forest museum station market "
    "harbour village street house door window table light water fire stone tree bird horse "
    "fish ship road field winter summer morning evening night day year king queen child "
    "reads writes keeps holds finds gives takes makes knows says asks waits moves starts "
    "ends stays goes comes sees hears red blue green white black silver golden quiet cold warm"
).split()


@dataclass(frozen=True)
class Shape:
    """What the model is made of.

    Attributes:
        layers: Transformer layers.
        hidden: Width of the residual stream.
        intermediate: Width of the feed-forward part.
        heads: Query heads.
        kv_heads: Key and value heads; divides ``heads``.
        head_dim: Width of a head. 32 is the smallest that vLLM's attention for
            the CPU takes.
        max_length: Longest sequence, in tokens.
        sliding_window: Tokens that a token attends to in most layers, itself
            among them; 0 where every layer attends to all before it.
        full_every: Which layers attend to everything all the same: each
            ``full_every``-th, or none where it is 0.
        dtype: Name of the torch dtype of the weights.
        seed: Where the weights come from.
    """

    layers: int = 2
    hidden: int = 128
    intermediate: int = 256
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 32
    max_length: int = 4096
    sliding_window: int = 0
    full_every: int = 4
    dtype: str = "float32"
    seed: int = 0


SIZES = {
    "tiny": Shape(),
    # Large enough that reading a prompt of 1500 tokens takes a CPU noticeable time.
    "demo": Shape(layers=6, hidden=512, intermediate=1536, heads=8, kv_heads=4, head_dim=64),
}


def make_tiny_llama(folder: Path, shape: Shape = SIZES["tiny"]) -> Path:
    """Write the model into ``folder``, unless it is there already.

    Args:
        folder: Made where missing.
        shape: What the model is made of.

    Returns:
        ``folder``, to hand to ``vllm serve``.
    """
    tokenizer = _tokenizer()
    config = json.dumps(_config(shape, len(tokenizer["model"]["vocab"])), indent=2)
    marker = folder / "config.json"
    if marker.exists() and marker.read_text() == config:
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    marker.unlink(missing_ok=True)
    _write_tokenizer(folder, tokenizer, shape)
    _write_weights(folder, shape, tokenizer["model"]["vocab"])
    marker.write_text(config)  # last: where it is, the rest is whole
    return folder


def _tokenizer() -> dict[str, Any]:
    """Spell out a byte-level BPE in the format of ``tokenizer.json``.

    Written down rather than trained, so that it does not depend on the version
    of a trainer. Each word is built from its first letter on, and the merges of
    words rank before those of pieces, so that no other cut of a word can win.
    """
    from tokenizers import pre_tokenizers  # noqa: PLC0415  # the demo's --help needs none of it

    space = "Ġ"  # how byte-level BPE writes a space
    newline = "Ċ"
    vocabulary = list(SPECIAL_TOKENS) + sorted(pre_tokenizers.ByteLevel.alphabet())
    known = set(vocabulary)
    merges: list[tuple[str, str]] = []
    for word in [space + word for word in _WORDS] + [p.replace("\n", newline) for p in _PIECES]:
        for end in range(1, len(word)):
            head, tail = word[:end], word[end]
            if head + tail not in known:
                known.add(head + tail)
                vocabulary.append(head + tail)
                merges.append((head, tail))
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": index,
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for index, token in enumerate(SPECIAL_TOKENS)
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": True,
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "<s>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
            ],
            "pair": [
                {"SpecialToken": {"id": "<s>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
                {"Sequence": {"id": "B", "type_id": 0}},
            ],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [_BOS], "tokens": ["<s>"]}},
        },
        "decoder": {
            "type": "ByteLevel",
            "add_prefix_space": True,
            "trim_offsets": True,
            "use_regex": True,
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: index for index, token in enumerate(vocabulary)},
            "merges": [list(merge) for merge in merges],
        },
    }


def _write_tokenizer(folder: Path, tokenizer: dict[str, Any], shape: Shape) -> None:
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    template = (
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    settings = {
        **names,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": shape.max_length,
        "clean_up_tokenization_spaces": False,
        "add_bos_token": True,
        "chat_template": template,
    }
    ids = {"bos_token_id": _BOS, "eos_token_id": _EOS, "pad_token_id": _PAD}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))
    (folder / "special_tokens_map.json").write_text(json.dumps(names, indent=2))
    (folder / "generation_config.json").write_text(json.dumps(ids, indent=2))


def _config(shape: Shape, vocabulary: int) -> dict[str, Any]:
    windows: dict[str, Any] = {}
    if shape.sliding_window:
        every = shape.full_every or shape.layers + 1
        windows["sliding_window"] = shape.sliding_window
        windows["layer_types"] = [
            "full_attention" if layer % every == 0 else "sliding_attention"
            for layer in range(1, shape.layers + 1)
        ]
    return {
        **windows,
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "vocab_size": vocabulary,
        "max_position_embeddings": shape.max_length,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "bos_token_id": _BOS,
        "eos_token_id": _EOS,
        "pad_token_id": _PAD,
        "torch_dtype": shape.dtype,
        "use_cache": True,
        "seed": shape.seed,
    }


def _write_weights(folder: Path, shape: Shape, vocabulary: dict[str, int]) -> None:
    import torch  # noqa: PLC0415  # takes seconds
    from safetensors.torch import save_file  # noqa: PLC0415

    random = torch.Generator().manual_seed(shape.seed)
    dtype: torch.dtype = getattr(torch, shape.dtype)

    def normal(rows: int, columns: int, gain: float = 1.0) -> torch.Tensor:
        # Scaled by the fan-in: activations keep unit variance at any width.
        weights = torch.randn(rows, columns, generator=random) * (gain / math.sqrt(columns))
        return weights.to(dtype)

    ones = torch.ones(shape.hidden, dtype=dtype)
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    tensors = {
        "model.embed_tokens.weight": normal(len(vocabulary), shape.hidden, math.sqrt(shape.hidden))
    }
    for layer in range(shape.layers):
        prefix = f"model.layers.{layer}."
        tensors[prefix + "input_layernorm.weight"] = ones.clone()
        tensors[prefix + "post_attention_layernorm.weight"] = ones.clone()
        # Peaked attention and a strong way out of it: the answer depends on
        # which keys and values were read.
        tensors[prefix + "self_attn.q_proj.weight"] = normal(queries, shape.hidden, 1.5)
        tensors[prefix + "self_attn.k_proj.weight"] = normal(keys, shape.hidden, 1.5)
        tensors[prefix + "self_attn.v_proj.weight"] = normal(keys, shape.hidden)
        tensors[prefix + "self_attn.o_proj.weight"] = normal(shape.hidden, queries, 2.0)
        tensors[prefix + "mlp.gate_proj.weight"] = normal(shape.intermediate, shape.hidden)
        tensors[prefix + "mlp.up_proj.weight"] = normal(shape.intermediate, shape.hidden)
        tensors[prefix + "mlp.down_proj.weight"] = normal(shape.hidden, shape.intermediate)
    tensors["model.norm.weight"] = ones.clone()
    head = normal(len(vocabulary), shape.hidden, 4.0)
    # A logit of exactly 0 is never the largest: the model answers in whole words
    # and never ends before it was told to.
    whole = {"Ġ" + word for word in _WORDS}
    head[[index for token, index in vocabulary.items() if token not in whole]] = 0
    tensors["lm_head.weight"] = head
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def main(arguments: Sequence[str] | None = None) -> None:
    """Make a model from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where the model goes")
    parser.add_argument("--size", choices=sorted(SIZES), default="tiny")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--kv-heads", type=int)
    parser.add_argument("--max-length", "--max-len", type=int, help="longest sequence, in tokens")
    parser.add_argument("--sliding-window", type=int, help="tokens a token attends to")
    parser.add_argument(
        "--full-every", type=int, help="layers without the window: each so many, 0 for none"
    )
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--seed", type=int)
    options = vars(parser.parse_args(arguments))
    folder, size = options.pop("folder"), options.pop("size")
    given = {name: value for name, value in options.items() if value is not None}
    shape = replace(SIZES[size], **given)
    if shape.heads % shape.kv_heads:
        parser.error(f"--kv-heads must divide {shape.heads}, the number of heads")
    print(make_tiny_llama(folder, shape))


if __name__ == "__main__":
    main()
