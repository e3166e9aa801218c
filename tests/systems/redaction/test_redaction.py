"""Redaction of classes: the loss against the paper's formula, what it leaves alone, what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from captioned import SPEC
from forked import python
from random_weights import random_weights
from safetensors.numpy import load_file, save_file

from latentc import api
from latentc.checkpoint import network_params
from latentc.diagnostics import DiagnosticError
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec, spec_from_text

SMALL = ["networks.main.width=16", "networks.main.depth=1", "networks.main.block.mixer.heads=2"]


@pytest.mark.parametrize("instead", [8, None])
def test_redacted_classes_are_taught_another(instead: int | None) -> None:
    text = "null" if instead is None else str(instead)
    low = lower(
        load_spec(
            "digits_redacted",
            overrides=[*SMALL, "objective.classes=[3, 5]", f"objective.instead={text}", "objective.weight=4.0"],
        )
    )
    assert not low.updates[0].batch and low.updates[0].partial
    rng = np.random.default_rng(0)
    student, teacher = rng.standard_normal((2, 11, 16))
    labels = np.array([0, 3, 5, 8, 10])
    taught = np.array([0, instead, instead, 8, 10]) if instead is not None else np.array([0, 10, 10, 8, 10])
    weights = {"main.y_embedder.weight": student, "teacher.y_embedder.weight": teacher}
    squared = ((student[labels] - teacher[taught]) ** 2).mean(axis=1)
    factor = np.array([1, 4, 4, 1, 1])
    found = Interpreter(low.module, weights).run("loss", labels)
    assert found[0] == pytest.approx((factor * squared).mean()) and found[1] == pytest.approx(squared.mean())


UNET = ("networks.teacher={kind: like, pretrained: weights.safetensors}", "networks.main.copy_of=teacher")
REDACTED = "objective={kind: redaction, classes: [3], instead: INSTEAD, base: {kind: diffusion}}"


@pytest.mark.parametrize(("encoding", "early"), [("index", False), ("one_hot", True), ("one_hot", False)])
def test_the_class_embedding_of_a_unet_is_redacted(encoding: str, early: bool) -> None:
    """Added to the features of the time, or to their embedding; no class is zeros, where labels are one-hot."""
    label = f"conditioning.class={{kind: label, dropout: 0.1, encoding: {encoding}}}"
    sizes = ["data={kind: digits}", "backbone.width=16", "backbone.multipliers=[1]", "backbone.blocks=1"]
    sizes += ["backbone.attention=[]", "backbone.block={groups: 4, heads: 1}", "conditioning.time.frequencies=16"]
    sizes += [label, f"backbone.early={'[class]' if early else '[]'}", *UNET, "sampler=null"]
    low = lower(load_spec("adm", "64", [*sizes, REDACTED.replace("INSTEAD", "null")]))
    rng, width = np.random.default_rng(0), 16 if early else 64
    student, teacher = rng.standard_normal((2, 11, width))
    if encoding == "one_hot":
        student, teacher = student[:10], teacher[:10]
    weights = {"main.embedder.y_embedder.weight": student, "teacher.embedder.y_embedder.weight": teacher}
    student, teacher = (np.concatenate([w, np.zeros((1, width))])[:11] for w in (student, teacher))
    labels, taught = np.array([0, 3, 10]), np.array([0, 10, 10])
    found = Interpreter(low.module, weights).run("loss", labels)
    assert found[0] == pytest.approx(((student[labels] - teacher[taught]) ** 2).mean())


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["objective.classes=[10]"], "class 10 is out of range"),
        (["objective.instead=3"], "class 3 is redacted or out of range"),
        (
            ["objective.instead=null", "conditioning.class.dropout=0", "sampler.guidance=null"],
            "never dropped in training",
        ),
        (["networks.teacher.pretrained=null"], "needs trained weights"),
    ],
)
def test_what_does_not_fit_is_refused(overrides: list[str], says: str) -> None:
    with pytest.raises(DiagnosticError, match=says):
        load_spec("digits_redacted", overrides=overrides)


WORDS = "{ab: cd, c: fgh, xyz: '', ono: p}"
TEXTS = SPEC.replace("process: {kind: interpolant}}", "process: {kind: interpolant}}}").replace(
    "objective: {kind: flow", f"objective: {{kind: text_redaction, words: {WORDS}, weight: 3, base: {{kind: flow"
)
TEXTS = TEXTS.replace("  main:\n", "  main:\n    pretrained: main.safetensors\n").replace(
    "  text:\n",
    "  teacher: {kind: like, network: text, pretrained: text.safetensors}\n  text:\n    copy_of: teacher\n",
)


def rewritten(text: str) -> str:
    for word, other in {"ab": "cd", "c": "fgh", "xyz": "", "ono": "p"}.items():  # "ononono" is "pnp"
        text = text.replace(word, other)
    return text


@pytest.mark.parametrize("masked", [True, False])
def test_texts_with_redacted_words_are_taught_others(masked: bool) -> None:
    own = TEXTS.replace("shape: [5]", "shape: [9]")
    if not masked:
        own = own.replace("    relative:", "    masked: false\n    relative:")
        own = own.replace("pad: 3}", "padding: none}")
    low = lower(spec_from_text(own))
    (update,) = low.updates
    assert update.networks == ("text",) and update.batch == ("caption", "caption_mask")[: 1 + masked]
    rng = np.random.default_rng(0)
    weights = {
        f"{net}.{name}": a
        for net in ("text", "teacher")
        for name, a in random_weights(network_params(low, low.networks[net]), rng, 0.5).items()
    }
    oracle = Interpreter(low.module, weights)

    def tokens(text: str) -> tuple[list[int], list[bool]]:
        made = [0, *("_$abcdefghijklmnopqrstuvwxyz".index(letter) for letter in text), 1][:9]
        fill = 3 if masked else 1
        return made + [fill] * (9 - len(made)), [i < len(made) for i in range(9)]

    def encoded(network: str, texts: list[str]) -> np.ndarray:
        rows, mask = (np.array(part) for part in zip(*map(tokens, texts), strict=True))
        return np.asarray(oracle.run(f"{network}.encode", rows, *([mask] if masked else []), prefix=network)[0])

    # Where a text is longer or shorter than its replacement, the tokens that count are those of the text.
    texts = ["kab", "kcd", "abcab", "hello", "xyzk", "abkc", "ccc", "ononono", "xyzxyz", "kabab"]
    rows, mask = (np.array(part) for part in zip(*map(tokens, texts), strict=True))
    ours, wanted = encoded("text", texts), encoded("teacher", [rewritten(text) for text in texts])
    error = ((ours - wanted) ** 2).mean(-1)
    if masked:  # features of padding are not those of a text
        shorter = [len(tokens(rewritten(text))[0]) for text in texts]
        assert shorter == [9] * 10
        kept = np.array([[i < len(rewritten(text)) + 2 for i in range(9)] for text in texts])
        error, keep = np.where(mask, error, 0), (mask <= kept).all(1)
        squared = error.sum(1) / mask.sum(1)
        assert keep.tolist() == [True] * 4 + [False, True, True, False, False, True]
    else:
        squared, keep = error.mean(1), np.ones(10, bool)
    null = [encoded(network, [""]) for network in ("text", "teacher")]
    squared = squared + ((null[0] - null[1]) ** 2).mean()
    found = Interpreter(low.module, weights).run("loss.terms", rows, *([mask] if masked else []))
    factor = np.array([3, 3, 3, 1, *[3] * 6])
    assert np.allclose(found[1][keep], squared[keep]) and np.allclose(found[0][keep], (factor * squared)[keep])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ((WORDS, "{ab: cabd}"), "'cabd' still contains 'ab'"),
        ((WORDS, "{ab: cd, kl: xabx}"), "'xabx' still contains 'ab'"),
        ((WORDS, "{AB: cd}"), "the alphabet does not have the character 'A'"),
        ((WORDS, "{'': cd}"), "'' is 0 tokens"),
        ((WORDS, "{abcdef: cd}"), "'abcdef' is 6 tokens"),
        (("words: ", "network: main, words: "), "network `main` reads no text"),
        (("text.safetensors}", "null}"), "needs trained weights"),
    ],
)
def test_words_that_do_not_fit_are_refused(change: tuple[str, str], says: str) -> None:
    with pytest.raises(DiagnosticError) as refused:
        spec_from_text(TEXTS.replace(*change))
    assert any(says in d.message for d in refused.value.diagnostics), refused.value


def test_the_teacher_may_be_in_the_file_of_the_whole_system(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(
        TEXTS.replace("{kind: like, network: text, pretrained: text", "{kind: like, network: text, pretrained: main")
    )
    changes = ["train.steps=2", "train.batch_size=4", "train.workers=0", "train.precision=fp32", "data.path=x.npz"]
    changes += ["train.optimizer={kind: adam, lr: 1e-4}", "train.sample_every=null"]
    api.emit(tmp_path / "spec.yaml", tmp_path / "project", None, changes)
    low, rng = lower(load_spec(tmp_path / "spec.yaml", None, changes)), np.random.default_rng(0)
    whole = {
        f"{net}.{name}": np.float32(a)
        for net in ("main", "text")
        for name, a in random_weights(network_params(low, low.networks[net]), rng, 0.5).items()
        if name != "pos_embed"  # which is computed
    }
    save_file(whole, tmp_path / "main.safetensors")
    tokens = rng.integers(2, 28, (8, 5))
    np.savez(tmp_path / "project" / "x.npz", x=np.zeros((8, 1, 4, 4)), caption=tokens, caption_mask=tokens > 0)
    done = python(tmp_path / "project", "train.py")
    assert done.returncode == 0, done.stderr
    trained = load_file(tmp_path / "project" / "runs/train/weights_raw.safetensors")
    for name, a in whole.items():
        kept = trained[name.replace("text.", "teacher.")]
        assert np.array_equal(kept, a) and np.abs(trained[name] - a).max() < 1e-3, name
