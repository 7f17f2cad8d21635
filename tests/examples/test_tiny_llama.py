"""The model made on the spot: same bytes, twelve tokens, answers that depend on context."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from examples.tiny_model.make_tiny_llama import (
    PIN_PROMPT,
    PIN_PROMPT_TOKENS,
    SIZES,
    make_tiny_llama,
)

transformers = pytest.importorskip("transformers", reason="vLLM brings transformers")
torch = pytest.importorskip("torch", reason="vLLM brings torch")

# transformers and torch warn about each other's deprecations.
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_tiny_llama(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def tokenizer(folder):
    return transformers.AutoTokenizer.from_pretrained(folder)


def test_the_same_arguments_give_the_same_bytes(folder, tmp_path):
    again = make_tiny_llama(tmp_path / "again")
    for file in sorted(folder.iterdir()):
        assert (again / file.name).read_bytes() == file.read_bytes(), file.name


def test_another_seed_gives_other_weights(folder, tmp_path):
    other = make_tiny_llama(tmp_path, replace(SIZES["tiny"], seed=1))
    name = "model.safetensors"
    assert (other / name).read_bytes() != (folder / name).read_bytes()


def test_what_is_there_is_left_alone_and_what_is_half_there_is_made_anew(tmp_path):
    weights = make_tiny_llama(tmp_path) / "model.safetensors"
    made = weights.stat().st_mtime_ns
    make_tiny_llama(tmp_path)
    assert weights.stat().st_mtime_ns == made
    weights.unlink()
    (tmp_path / "config.json").unlink()
    make_tiny_llama(tmp_path)
    assert weights.exists()


def test_the_prompt_of_the_pin_example_is_twelve_tokens(tokenizer):
    ids = tokenizer(PIN_PROMPT).input_ids
    assert len(ids) == PIN_PROMPT_TOKENS == 12
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True) == PIN_PROMPT


@pytest.mark.parametrize("text", ["", "Zürich — 東京\n\ttabs", "models' 42 %", "the cache of KV"])
def test_any_text_comes_back(tokenizer, text):
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text


def test_the_answer_depends_on_a_word_far_back(folder, tokenizer):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    rest = " of the river and the mountain and the sea" * 12
    answers = set()
    for first in ("Why", "How", "What", "The"):
        ids = tokenizer(first + rest, return_tensors="pt")
        with torch.no_grad():
            answer = model.generate(**ids, max_new_tokens=8, do_sample=False)[0]
        answers.add(tuple(answer[ids.input_ids.shape[1] :].tolist()))
    assert len(answers) == 4
    assert all(token > 3 for answer in answers for token in answer), "no special token is answered"


def test_the_config_says_what_was_asked(tmp_path):
    shape = replace(SIZES["tiny"], layers=3, kv_heads=4, dtype="bfloat16", max_length=512)
    config = json.loads((make_tiny_llama(tmp_path, shape) / "config.json").read_text())
    asked = ("num_hidden_layers", "num_key_value_heads", "torch_dtype", "max_position_embeddings")
    assert [config[key] for key in asked] == [3, 4, "bfloat16", 512]
