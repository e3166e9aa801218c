"""Text as tokens and back: by bytes, an alphabet or a tokenizer, in data, requests and bundles."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latentc.datasets import class_names, open_dataset
from latentc_runtime import texts
from latentc_runtime.conditions import RequestError, checked_given
from latentc_runtime.manifest import Output
from latentc_runtime.media import encoded
from latentc_runtime.sources import Condition
from latentc_runtime.texts import sample_from_text, text_from_tokens, tokens_from_text, word_starts

LETTERS = {"classes": 4, "alphabet": "ab .", "end": 3}


def test_texts_end_and_are_filled_up() -> None:
    assert tokens_from_text("ab a", LETTERS, 3) == [0, 1, 3]  # cut off
    assert sample_from_text("ab", LETTERS, 5) == [0, 1, 3, 3, 3]
    assert text_from_tokens([0, 2, 3, 1], LETTERS) == "a "
    begun = {"classes": 5, "alphabet": "ab .^", "start": 4, "end": 3}
    assert tokens_from_text("ab a", begun, 4) == [4, 0, 1, 3]
    assert sample_from_text("", begun, 3) == [4, 3, 3]
    assert text_from_tokens([4, 0, 2, 3], begun) == "a "
    utf8 = {"classes": 257, "end": 256}
    assert sample_from_text("é", utf8, 4) == [0xC3, 0xA9, 256, 256]
    assert tokens_from_text("é", {"classes": 257, "start": 256}, 4) == [256, 0xC3, 0xA9]
    assert text_from_tokens([0xC3, 0xA9, 256, 65], utf8) == "é"
    with pytest.raises(ValueError, match="does not have the character 'c'"):
        tokens_from_text("abc", LETTERS, 9)
    with pytest.raises(ValueError, match="set the field's `end`"):
        sample_from_text("ab", {"classes": 3, "alphabet": "abc"}, 3)
    with pytest.raises(ValueError, match="needs a tokenizer"):
        tokens_from_text("ab", {"classes": 50_000}, 3)
    with pytest.raises(ValueError, match="outside 0 to 3"):
        text_from_tokens([4], LETTERS)


def test_words_begin_with_a_space_or_without_a_mark(tmp_path: Path) -> None:
    assert word_starts([97, 32, 98, 256], {"classes": 257, "end": 256}) == [False, True, False, True]
    assert word_starts([3, 4], {"classes": 50_000}) == [True, True]
    tokenizers = pytest.importorskip("tokenizers")
    models, file = tokenizers.models, str(tmp_path / "tokenizer.json")
    for model, wanted in (
        (models.WordPiece({"a": 0, "##b": 1, "b": 2}), [True, False, True, True]),
        (models.BPE({"\u0120a": 0, "b": 1, "\u0120": 2}, []), [True, False, True, True]),
        (models.WordLevel({"a": 0, "b": 1, "c": 2}), [True, True, True, True]),
    ):
        tokenizer = tokenizers.Tokenizer(model)
        tokenizer.add_special_tokens(["<mask>"])
        tokenizer.save(file)
        texts._tokenizer.cache_clear(), texts._starts.cache_clear()
        assert word_starts([0, 1, 2, 3], {"classes": 4, "tokenizer": file}) == wanted


def test_a_request_gives_text() -> None:
    whole = Condition("text", "tokens", (4,), vocabulary=4, medium="text", alphabet="ab .", end=3)
    prompt = Condition("prompt", "tokens", (3,), vocabulary=4, mask=True, medium="text", alphabet="ab .")
    given = checked_given([whole, prompt], [], given={"text": ["a", "ab"], "prompt": "b"})
    assert given.conditions["text"].tolist() == [[0, 3, 3, 3], [0, 1, 3, 3]]
    assert given.conditions["prompt"].tolist() == [[1, 0, 0]] * 2
    assert given.masks["prompt"].tolist() == [[True, False, False]] * 2
    for value, message in (("c", "does not have the character"), ("", "has no tokens")):
        with pytest.raises(RequestError, match=message):
            checked_given([prompt], [], given={"prompt": value})
    numbers = Condition("tokens", "tokens", (2,), vocabulary=4)
    with pytest.raises(RequestError, match="takes numbers, not the text"):
        checked_given([numbers], [], given={"tokens": "ab"})
    angle = Condition("angle", "array", (1,), dtype="f32")
    assert checked_given([angle], [], given={"angle": "0.5"}).conditions["angle"].tolist() == [[0.5]]


def test_lines_of_json() -> None:
    output = Output((3,), "i64", "text", ("token",), classes=4, alphabet="ab .", end=3)
    samples = np.array([[0, 1, 3], [1, 3, 0]])
    assert encoded(samples, output, "a.jsonl") == {Path("a.jsonl"): b'{"text": "ab"}\n{"text": "b"}\n'}
    (labelled,) = encoded(samples, output, "a.jsonl", labels=["x", "y"]).values()
    assert [json.loads(line)["label"] for line in labelled.splitlines()] == ["x", "y"]


FIELD = {"shape": [4], "dtype": "i64", "classes": 4, "medium": "text", "axes": ["token"], "alphabet": "ab .", "end": 3}
LABEL = {"shape": [], "dtype": "i64", "medium": "array", "axes": [], "classes": 2}


def table(path: Path, **fields: Any) -> dict[str, Any]:
    return {"kind": "table", "path": str(path), "keys": {}, "classes": 2, "fields": fields}


def test_tables_of_text_and_numbers(tmp_path: Path) -> None:
    file = tmp_path / "train.tsv"
    file.write_text("label\ttext\tx_0\tx_1\npos\ta b\t1\t2.5\nneg\tb\t3\t4\n")
    numbers = {"shape": [2], "dtype": "f32", "medium": "array", "axes": ["axis_0"]}
    starts = {"shape": [4], "dtype": "f32", "medium": "array", "axes": ["axis_0"]}
    settings = table(file, tokens=FIELD, tokens_starts=starts, y=LABEL, x=numbers)
    assert class_names(settings) == ["neg", "pos"]
    rows = open_dataset(settings).rows(np.arange(2))
    assert rows["tokens"].tolist() == [[0, 2, 1, 3], [1, 3, 3, 3]]
    assert rows["tokens_starts"].tolist() == [[0, 1, 0, 0], [0, 0, 0, 0]]  # a space begins a word
    assert rows["y"].tolist() == [1, 0] and rows["x"].tolist() == [[1, 2.5], [3, 4]]

    lines = tmp_path / "train.jsonl"
    lines.write_text('{"tokens": "ab", "y": 1, "x": [1, 2]}\n')
    prompt = {**FIELD, "shape": [3], "end": None}
    mask = {"shape": [3], "dtype": "bool", "medium": "array", "axes": ["axis_0"]}
    settings = table(lines, y=LABEL, x=numbers, prompt=prompt, prompt_mask=mask)
    rows = open_dataset({**settings, "keys": {"prompt": "tokens"}}).rows(np.arange(1))
    assert rows["prompt"].tolist() == [[0, 1, 0]] and rows["prompt_mask"].tolist() == [[True, True, False]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("label,text\n", "holds no rows"),
        ("label,body\n0,ab\n", "no column `tokens` for the field `tokens`; columns: label, body"),
        ("label,text\n0,abc\n", "does not have the character"),
        ("label,text\n5,ab\n", "the model has 2"),
    ],
)
def test_what_a_table_lacks(content: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "train.csv"
    file.write_text(content)
    with pytest.raises(ValueError, match=message):
        open_dataset(table(file, tokens=FIELD, y=LABEL))


def test_a_bundle_holds_its_tokenizer(tmp_path: Path) -> None:
    """Text in, text out, by a tokenizer of Hugging Face's; the bundle alone is enough."""
    pytest.importorskip("onnxruntime")
    tokenizers = pytest.importorskip("tokenizers")
    from bundles import tiny_bundle
    from random_weights import random_weights
    from safetensors.numpy import save_file
    from tiny_systems import SYSTEMS

    import latentc_runtime
    from latentc import api
    from latentc.checkpoint import network_params
    from latentc.lower import lower
    from latentc.spec import load_spec

    words = ["<end>", "<mask>", "bad", "good", "film", "plot", "a", "the", "is", "of", "it", "[UNK]"]
    model = tokenizers.models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(tmp_path / "words.json"))
    system = SYSTEMS["class_prefix_bert"]
    field = f"{{shape: [6], classes: 12, medium: text, end: 0, tokenizer: {tmp_path / 'words.json'}}}"
    sizes = [*system.sizes, f"data.fields={{tokens: {field}}}", "sampler.share=0", "networks.main.embedding.start=6"]
    lowered = lower(load_spec(system.spec, None, sizes))
    own = random_weights(network_params(lowered, lowered.networks["main"]), np.random.default_rng(0), 0.1)
    save_file({name: np.float32(a) for name, a in own.items()}, tmp_path / "main.safetensors")
    made = api.compile(system.spec, tmp_path / "main.safetensors", tmp_path / "made", overrides=sizes, run=False)
    assert made.conditions[-1].tokenizer and (tmp_path / "made" / made.conditions[-1].tokenizer).is_file()
    bundle = tiny_bundle(system.spec, tmp_path / "bundle", sizes)
    (tmp_path / "words.json").unlink()
    pipe = latentc_runtime.load(bundle, device="cpu")
    text = "the good film is <mask>"
    samples = pipe.sample([0, 1], conditions={"text": text})
    (lines,) = pipe.files(samples, "a.txt").values()
    for line in lines.decode().splitlines():
        assert line.split()[:4] == text.split()[:4]


PADDED = Condition("prompt", "tokens", (5,), vocabulary=9, mask=True, pad=0)


def counted(condition: Condition, value: Any) -> list[int]:
    """How many tokens of each sample count."""
    return checked_given([condition], [], given={condition.name: value}).masks[condition.name].sum(axis=1).tolist()


def test_padding_at_the_end_is_no_word() -> None:
    """Whether tokens come as an array, as rows of one length or of several, alone or with others."""
    rows = [[3, 4, 0, 0, 0], [5, 0, 6, 0, 0], [0, 0, 0, 0, 0], [1, 2, 3, 4, 5]]
    wanted = [2, 3, 1, 5]
    assert counted(PADDED, rows) == counted(PADDED, np.array(rows)) == wanted
    assert counted(PADDED, [row[:4] for row in rows[:3]] + rows[3:]) == wanted
    assert [counted(PADDED, [row])[0] for row in rows] == [counted(PADDED, row)[0] for row in rows] == wanted
    assert counted(PADDED, {"value": rows}) == wanted
    given = checked_given([PADDED], [], given={"prompt": rows})
    assert given.conditions["prompt"].tolist() == rows


def test_a_mask_says_which_tokens_count() -> None:
    mask = np.ones((2, 5), bool)
    assert counted(PADDED, {"value": [[3, 4, 0, 0, 0], [3, 0, 0, 0, 0]], "mask": mask}) == [5, 5]


def test_padding_by_the_token_that_ends_texts() -> None:
    ended = replace(PADDED, pad=8, end=8, medium="text")
    assert counted(ended, [[3, 4, 8, 8, 8], [3, 8, 8, 8, 8], [1, 2, 3, 4, 5]]) == [3, 2, 5]


def test_padding_that_may_be_a_word_is_warned_of(tmp_path: Path) -> None:
    letters = replace(PADDED, vocabulary=4, medium="text", alphabet="ab .")
    with pytest.warns(UserWarning, match="`prompt` ends in the token 0.*give a mask"):
        assert counted(letters, [[1, 0, 0, 0, 0]]) == [5]
    assert counted(letters, ["ba", "b"]) == [2, 1]  # what is given as text has no padding
    utf8 = replace(PADDED, vocabulary=256, medium="text")
    assert counted(utf8, [[97, 98, 0, 0, 0]]) == [2]
    with pytest.warns(UserWarning, match="also a character"):
        assert counted(replace(utf8, pad=32), [[97, 98, 32, 32, 32]]) == [5]
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1, "[PAD]": 2}, "a"))
    tokenizer.add_special_tokens(["[PAD]"])
    tokenizer.save(str(tmp_path / "t.json"))
    spelled = replace(PADDED, vocabulary=3, medium="text", tokenizer=str(tmp_path / "t.json"), pad=2)
    assert counted(spelled, [[0, 1, 2, 2, 2]]) == [2]
    beyond = replace(spelled, vocabulary=4, pad=3)  # which the tokenizer does not have
    assert counted(beyond, [[0, 1, 3, 3, 3]]) == [2]
    with pytest.warns(UserWarning, match="also a character"):
        assert counted(replace(spelled, pad=0), [[1, 0, 0, 0, 0]]) == [5]
