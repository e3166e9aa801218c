"""What is hidden in texts, and the loss of it."""

from __future__ import annotations

import numpy as np
from random_weights import random_weights
from tiny_systems import SYSTEMS

from latentc.ir.builder import ModuleBuilder, f32
from latentc.ir.core import parameters
from latentc.ir.interpret import Interpreter
from latentc.ir.types import B, i64
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.systems.class_prefix.hidden_words import (
    hidden_words,
    most_places,
    places_again,
    without_span,
    without_words,
)

END, MASK = 9, 8
PADDING = {"source": 11, "source_mask": False}
TEXTS = np.array([[1, 2, 3, 4, 5, 9, 9, 9], [1, 2, 9, 9, 9, 9, 9, 9], [9] * 8])


def test_a_share_of_each_text_is_hidden() -> None:
    mb, u = ModuleBuilder(), np.random.default_rng(0).uniform(size=(3, 8))
    b = mb.function("f")
    x, v, w = b.input("x", i64(B, 8)), b.input("v", f32(B, 8)), b.input("w", f32(B, 1))
    b.output(hidden_words(b, x, v, 0.5, END), without_span(b, x, w, 0.5, END, MASK))
    mb.entries["f"] = b.finish()
    hidden, shorter = Interpreter(mb.finish()).run("f", TEXTS, u, np.array([[0.7], [0.0], [0.5]]))
    for row, length, count in ((0, 5, 3), (1, 2, 1), (2, 0, 0)):  # 2.5 is rounded up
        assert np.flatnonzero(hidden[row]).tolist() == sorted(np.argsort(u[row, :length])[:count].tolist())
    assert shorter.tolist() == [[1, 2, 8, 9, 9, 9, 9, 9], [8, 2, 9, 9, 9, 9, 9, 9], [8, *[9] * 7]]


def test_texts_are_hidden_as_in_the_authors_code_of_class_prefixed_bert() -> None:
    """Training: round(0.15 l) of l = n + 3 tokens, at most `most`; generation: (n + 1) // 7 draws of n + 1 places."""
    rng, most = np.random.default_rng(0), most_places(64, 1 / 7)
    texts = np.array([[*[1] * n, *[END] * (64 - n)] for n in range(1, 64)])
    u, v = rng.uniform(size=(63, 64)), rng.uniform(size=(63, most))
    mb = ModuleBuilder()
    b = mb.function("f")
    x, w, r = b.input("x", i64(B, 64)), b.input("w", f32(B, 64)), b.input("r", f32(B, most))
    b.output(hidden_words(b, x, w, 0.15, END, beside=3, most=8), places_again(b, x, r, 1 / 7, END))
    mb.entries["f"] = b.finish()
    hidden, places = Interpreter(mb.finish()).run("f", texts, u, v)
    for row, n in enumerate(range(1, 64)):
        count = min(8, max(1, int((n + 3) * 0.15 + 0.5)), n)
        assert np.flatnonzero(hidden[row]).tolist() == sorted(np.argsort(u[row, :n])[:count].tolist())
        drawn = np.floor(v[row, : max((n + 1) // 7, 1)] * (n + 1)).astype(int)
        assert np.flatnonzero(places[row]).tolist() == np.unique(drawn).tolist()


def test_whole_words_are_hidden() -> None:
    """As BARTDenoisingDataset of the authors of class-prefixed BART hides them: a mask per word, or one per span."""
    texts = np.array([[1, 2, 3, 4, 5, 6, 9, 9], [1, 2, 3, 9, 9, 9, 9, 9], [9] * 8])
    starts = np.array([[0, 0, 1, 1, 0, 1, 0, 0], [1, 0, 0, 1, 1, 0, 0, 0], [0] * 8])  # words 12, 3, 45 and 6; 123
    u = np.array([[0.9, 0.1, 0.2, 0.8, 0, 0, 0, 0], [0.5] * 8, [0.5] * 8])
    mb = ModuleBuilder()
    b = mb.function("f")
    x, s, v, w = b.input("x", i64(B, 8)), b.input("s", f32(B, 8)), b.input("v", f32(B, 8)), b.input("w", f32(B, 1))
    hidden = hidden_words(b, x, v, 0.4, END, s)
    b.output(hidden, without_words(b, x, v, 0.4, END, MASK, s), without_span(b, x, w, 0.4, END, MASK, s))
    mb.entries["f"] = b.finish()
    oracle = Interpreter(mb.finish())
    hidden, words, span = oracle.run("f", texts, starts, u, np.array([[0.4], [0.9], [0.5]]))
    # Of 4 words 2 (1.6 rounded), of a text of one all.
    assert hidden.tolist() == [[0, 0, 1, 1, 1, 0, 0, 0], [1, 1, 1, 0, 0, 0, 0, 0], [0] * 8]
    assert words.tolist() == [[1, 2, 8, 8, 6, 9, 9, 9], [8, 9, 9, 9, 9, 9, 9, 9], [9] * 8]
    assert span.tolist() == [[1, 2, 8, 6, 9, 9, 9, 9], [8, 9, 9, 9, 9, 9, 9, 9], [8, *[9] * 7]]
    (_, _, last) = oracle.run("f", texts, starts, u, np.array([[0.99], [0.9], [0.5]]))
    assert last[0].tolist() == [1, 2, 3, 8, 9, 9, 9, 9]


def test_the_loss_is_of_what_is_hidden() -> None:
    """Of four tokens hidden at most, one is shown as it is, one behind another token of the text, others masked."""
    system = SYSTEMS["class_prefix_bert"]
    options = ["objective={kind: masked_text, share: 0.75, kept: 0.2, replaced: 0.2}"]
    lowered, rng = lower(load_spec(system.spec, None, [*system.sizes, *options])), np.random.default_rng(1)
    params = parameters(lowered.module, lowered.module.entries["main.forward"])
    weights = random_weights(params, rng, 0.3)
    tokens = np.array([[4, 5, 6, 7, 11, 11], [8, 11, 11, 11, 11, 11]])
    y, u = np.array([0, 1]), rng.uniform(size=(2, 6))
    v, w = np.tile([0.1, 0.3, 0.9, 0.8, 0.5, 0.5], (2, 1)), np.full((2, 6), 0.6)
    u[0, :4], u[1, 0] = [0.1, 0.2, 0.3, 0.9], 0.5
    inputs = dict(zip(("tokens", "y", "u", "v", "w"), (tokens, y, u, v, w), strict=True))
    held = {f"main.{name}": array for name, array in weights.items()}
    names = [value.name for value in lowered.module.entry("loss.terms").inputs]
    (found,) = Interpreter(lowered.module, held).run("loss.terms", *(inputs[name] for name in names))
    seen = tokens.copy()
    seen[0, 1:3], seen[1, 0] = [6, 1], 8  # token 2 of 4 at 0.6; the mask is 1
    (logits,) = Interpreter(lowered.module, weights).run("main.forward", seen, y)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    of_hidden = [-log_p[0, i, tokens[0, i]] for i in range(3)] + [-log_p[1, 0, 8]]
    np.testing.assert_allclose(found.mean(), np.mean(of_hidden), rtol=1e-6)


def test_every_token_of_a_batch_of_texts_counts_alike() -> None:
    """As in transformers' GPT-2 and fairseq's BART; a prompt stands for the tokens that a text begins with."""
    system = SYSTEMS["class_prefix_gpt2"]
    lowered = lower(load_spec(system.spec, None, list(system.sizes)))
    weights = random_weights(
        parameters(lowered.module, lowered.module.entries["main.forward"]), np.random.default_rng(1), 0.3
    )
    length, end = lowered.networks["main"].methods["forward"].output("logits").type.shape[1], 11
    tokens = np.array([[4, 5, 6, 7, *[end] * (length - 4)], [8, *[end] * (length - 1)]])
    y = np.array([0, 1])
    inputs = {"tokens": tokens, "y": y}
    names = [value.name for value in lowered.module.entry("loss.terms").inputs]
    held = {f"main.{name}": array for name, array in weights.items()}
    (found,) = Interpreter(lowered.module, held).run("loss.terms", *(inputs[name] for name in names))
    (logits,) = Interpreter(lowered.module, weights).run("main.forward", tokens[:, :-1], y)
    log_p = np.take_along_axis(logits - np.log(np.exp(logits).sum(-1, keepdims=True)), tokens[..., None], 2)[..., 0]
    np.testing.assert_allclose(found.mean(), -np.mean([*log_p[0, :5], *log_p[1, :2]]), rtol=1e-6)

    prompt = ["data.fields.prompt={shape: [3], classes: 12}", "data.fields.prompt_mask={shape: [3], dtype: bool}"]
    behind = lower(load_spec(system.spec, None, [*system.sizes, *prompt, "conditioning.prompt={kind: prompt}"]))
    given = {"y": y, "prompt": tokens[:, :3], "prompt_mask": np.array([[1, 1, 1], [1, 0, 0]], bool)}
    ports = behind.networks["main"].methods["prefill"].inputs
    (first, *_) = Interpreter(behind.module, weights).run("main.prefill", *(given[port.name] for port in ports))
    np.testing.assert_allclose(first, [logits[0, 3], logits[1, 1]], rtol=1e-6)


def test_blocks_of_a_row_are_predicted_as_they_are() -> None:
    """Each token but the first of a block counts alike, as in GPT-2 told nothing; names of classes are tokens of it."""
    system = SYSTEMS["class_prefix_gpt2"]
    lowered = lower(load_spec(system.spec, None, [*system.sizes, "objective={kind: row_tokens}"]))
    params = parameters(lowered.module, lowered.module.entries["main.forward"])
    weights = random_weights(params, np.random.default_rng(1), 0.3)
    # The names of both classes are [2, 4] and [3].
    tokens = np.array([[2, 4, 5, 6, 11, 3], [3, 8, 11, 2, 4, 5]])
    held = {f"main.{name}": array for name, array in weights.items()}
    (found,) = Interpreter(lowered.module, held).run("loss.terms", tokens)
    oracle, y = Interpreter(lowered.module, weights), np.array([0, 1])
    (logits,) = oracle.run("main.read", tokens[:, :-1])
    log_p = np.take_along_axis(logits - np.log(np.exp(logits).sum(-1, keepdims=True)), tokens[:, 1:, None], 2)[..., 0]
    np.testing.assert_allclose(found, -log_p.mean(1), rtol=1e-6)
    behind = np.array([[5, 6, 11, 3, 0], [8, 11, 2, 4, 5]])
    (told,) = oracle.run("main.forward", behind, y)
    np.testing.assert_allclose(logits[0, 1:], told[0, :4], rtol=1e-6)
    np.testing.assert_allclose(logits[1], told[1, :5], rtol=1e-6)


def test_the_decoder_repeats_the_class() -> None:
    """As if its text began with the tokens that the encoder's text stands behind."""
    system, found = SYSTEMS["class_prefix_bart"], []
    names, text = [[2, 4], [3, 5]], [[6, 7, 8, 9, 1], [9, 1, 7, 11, 11]]
    given = {"y": np.array([0, 1]), "source": np.array([[1, 7, 11, 11, 11, 11]] * 2)}
    given["source_mask"] = given["source"] != 11
    weights: dict[str, np.ndarray] = {}
    for repeats in (True, False):
        length = 6 if repeats else 9
        fields = f"{{tokens: {{shape: [{length}], classes: 12, medium: text, end: 11}}}}"
        options = [
            f"data.fields={fields}",
            f"networks.main.class_tokens={names}",
            f"networks.main.repeats={str(repeats).lower()}",
        ]
        options += ["conditioning.source={kind: masked_text, mask: 1, end: 11}"]
        lowered = lower(load_spec(system.spec, None, [*system.sizes, *options]))
        params = parameters(lowered.module, lowered.module.entries["main.forward"])
        weights = weights or random_weights(params, np.random.default_rng(1), 0.3)
        tokens = np.array(text if repeats else [[0, *name, *row] for name, row in zip(names, text, strict=True)])
        own = {"tokens": tokens, "y": given["y"]}
        own |= {key: np.pad(given[key], ((0, 0), (0, length - 6)), constant_values=v) for key, v in PADDING.items()}
        ports = [port.name for port in lowered.networks["main"].methods["forward"].inputs]
        found += Interpreter(lowered.module, weights).run("main.forward", *(own[port] for port in ports))
    np.testing.assert_allclose(found[0], found[1][:, 3:], rtol=1e-6)


def test_training_predicts_the_class_that_the_decoder_repeats() -> None:
    """Every token counts alike: the first one, those of the name, and the text's up to its end."""
    options = ["networks.main.class_tokens=[[2, 4], [3, 5]]", "networks.main.repeats=true", "objective.smoothing=0.2"]
    options += ["conditioning.source={kind: masked_text, mask: 1, end: 11, share: 0}"]
    lowered = lower(load_spec("class_prefix_bart", None, [*SYSTEMS["class_prefix_bart"].sizes, *options]))
    params = parameters(lowered.module, lowered.module.entries["main.forward"])
    weights = random_weights(params, np.random.default_rng(1), 0.3)
    text = np.array([[6, 7, 8, 9, 1, 11], [9, 7, 11, 11, 11, 11]])
    given = {"tokens": text, "y": np.array([0, 1])}
    held = Interpreter(lowered.module, {f"main.{path}": array for path, array in weights.items()})
    inputs = [value.name for value in lowered.module.entry("loss.terms").inputs]
    (losses,) = held.run("loss.terms", *(given[name] for name in inputs))

    own = {"tokens": text[:, :-1], "y": given["y"], "source": text, "source_mask": text >= 0}
    own["source_mask"][:] = [[True] * 6, [True] * 3 + [False] * 3]
    ports = [port.name for port in lowered.networks["main"].methods["train_forward"].inputs]
    logits, repeated = Interpreter(lowered.module, weights).run("main.train_forward", *(own[port] for port in ports))
    assert repeated.tolist() == [[0, 2, 4], [0, 3, 5]]
    log_p = logits - np.log(np.exp(logits).sum(2, keepdims=True))
    total = 0.0
    for i, target in enumerate([[0, 2, 4, 6, 7, 8, 9, 1, 11], [0, 3, 5, 9, 7, 11]]):
        total -= sum(0.8 * log_p[i, j, token] + 0.2 * log_p[i, j].mean() for j, token in enumerate(target))
    np.testing.assert_allclose(losses.mean(), total / 15, rtol=1e-6)
