"""GeDi against the algorithm as its paper gives it, on whole sequences without caches."""

from __future__ import annotations

import numpy as np
import pytest
from random_weights import random_weights

from latentc.checkpoint import network_params
from latentc.diagnostics import DiagnosticError
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec

SMALL = ("width=8", "depth=1", "context=32", "block.mixer.heads=2", "block.feed_forward.ratio=2")
FIELDS = (
    "data.fields={tokens: {shape: [6], classes: 12}, prompt: {shape: [4], classes: 12}, "
    "prompt_mask: {shape: [4], dtype: bool}}"
)
TOPIC = ["data.fields.topic={shape: [2], classes: 12}", "data.fields.topic_mask={shape: [2], dtype: bool}"]
TOPIC += ["conditioning.topic={kind: prompt}", "networks.discriminator.conditions=[class, topic, prompt]"]
SIZES = [FIELDS, "networks.discriminator.class_tokens=[1, 2]"]
THREE = ["data.classes=3", "data.class_names=null", "networks.discriminator.class_tokens=[1, 2, 8]"]
SIZES += [f"networks.{name}.{size}" for name in ("main", "discriminator") for size in SMALL]


def log_softmax(x: np.ndarray) -> np.ndarray:
    x = x - x.max(-1, keepdims=True)
    return np.asarray(x - np.log(np.exp(x).sum(-1, keepdims=True)))


def penalised(logits: np.ndarray, came: list[int], penalty: float, scale: float) -> np.ndarray:
    """As in `_generate_no_beam_search` of modeling_utils.py: token after token, each as often as it came."""
    logits = logits - logits.max() + scale
    for token in came:
        if scale > 0:
            was_top = logits[token] == scale
            logits[token] /= penalty
            if was_top:
                logits = logits - logits.max() + scale
        elif logits[token] < 0:
            logits[token] *= penalty
        else:
            logits[token] /= penalty
    return logits


@pytest.mark.parametrize(
    ("penalty", "top", "prompt", "topic", "classes"),
    [
        (1.0, 10, True, False, 2),
        (1.2, 10, True, False, 2),
        (1.2, 10, True, True, 2),
        (1.3, 2, False, False, 2),
        (1.5, 0, True, True, 3),
    ],
)
def test_tokens_are_those_of_the_paper(penalty: float, top: float, prompt: bool, topic: bool, classes: int) -> None:
    """With a topic, which stands before the prompt, classes have biases, and the sampler has one, too."""
    options = [f"sampler.repetition_penalty={penalty}", f"sampler.penalty_scale={top}", "sampler.weight=3"]
    options += [f"sampler.penalize_prompt={str(prompt).lower()}"]
    options += [*TOPIC, "networks.discriminator.class_bias=true", "sampler.bias=0.5"] if topic else []
    options += THREE if classes == 3 else []
    spec = load_spec("gedi", None, [*SIZES, *options])
    lowered, rng = lower(spec), np.random.default_rng(1)
    own_weights = {
        name: {path: array + path.endswith("norm.weight") for path, array in random_weights(params, rng, 0.5).items()}
        for name, params in ((n, network_params(lowered, network)) for n, network in lowered.networks.items())
    }
    weights = {f"{name}.{path}": array for name, arrays in own_weights.items() for path, array in arrays.items()}
    oracle = Interpreter(lowered.module, weights)
    scale = weights["discriminator.logit_scale"][0, 0]
    prompts = np.array([[3, 4, 5, 4], [7, 7, 0, 0]])
    known = np.array([[1, 1, 1, 1], [1, 1, 0, 0]], bool)
    given = {"y": np.array([1, 0]), "prompt": prompts, "prompt_mask": known, "weight": np.full(2, 3.0)}
    topics, of_topic = np.array([[9, 10], [11, 0]]), np.array([[1, 1], [1, 0]], bool)
    given |= {"topic": topics, "topic_mask": of_topic}
    bias = weights["discriminator.class_bias"][0] if topic else np.zeros(classes)
    names = [value.name for value in lowered.module.entry("sample.6").inputs]
    (found,) = oracle.run("sample.6", *(given[name] for name in names))

    methods = {name: Interpreter(lowered.module, arrays) for name, arrays in own_weights.items()}

    def logits(network: str, so_far: list[int], own: dict[str, np.ndarray]) -> np.ndarray:
        """Of the next token; what stands behind the tokens so far is not seen."""
        operands = {"tokens": np.array([[*so_far, *[0] * (5 - len(so_far))]]), **own}
        ports = lowered.networks[network].methods["forward"].inputs
        (out,) = methods[network].run(f"{network}.forward", *(operands[port.name] for port in ports))
        return np.asarray(out[0, len(so_far)])

    for i in range(2):
        words = prompts[i][known[i]]
        own = {"prompt": prompts[i : i + 1], "prompt_mask": known[i : i + 1]}
        own |= {"topic": topics[i : i + 1], "topic_mask": of_topic[i : i + 1]}
        codes = [np.array([(given["y"][i] + k) % classes]) for k in range(classes)]
        told_words = [*(topics[i][of_topic[i]] if topic else []), *words]
        score = np.zeros(classes)
        for k, code in enumerate(codes):  # the prompt's own log-probability behind the code, word after word
            for j, word in enumerate(told_words):
                # As one prompt of the words before it, whatever of them is the topic.
                before = np.array([[*told_words[:j], *[0] * (6 - j)]])
                told = {"y": code, "topic": before[:, :2], "topic_mask": np.arange(2)[None] < j}
                told |= {"prompt": before[:, 2:], "prompt_mask": np.arange(2, 6)[None] < j}
                if not topic:
                    told = {"y": code, "prompt": before[:, :4], "prompt_mask": np.arange(4)[None] < j}
                score[k] += log_softmax(logits("discriminator", [], told))[word]
        shift = np.array([bias[code[0]] for code in codes]) + 0.5 * topic * (np.arange(classes) < 1)
        count, came, so_far = len(told_words), words.tolist() if prompt else [], []
        for step in range(6):
            opinions = [log_softmax(logits("discriminator", so_far, {"y": code, **own})) for code in codes]
            both = [score[k] + opinion for k, opinion in enumerate(opinions)]
            count += 1
            log_class = log_softmax(scale * np.stack(both, -1) / count + shift)[:, 0]
            led = log_softmax(logits("main", so_far, own)) + 3.0 * log_class
            p, order = np.exp(log_softmax(led)), np.argsort(log_class)
            mass = np.cumsum(p[order])
            out = order[(mass < 0.8) & (log_class[order] < np.log(0.8))]
            led[out] -= 10_000
            if penalty > 1:
                led = penalised(led, came, penalty, top)
            token = int(led.argmax())
            assert token == found[i, step]
            score = np.array([opinion[token] for opinion in both])
            came.append(token)
            so_far.append(token)


@pytest.mark.parametrize("variant", [None, "cclm"])
@pytest.mark.parametrize("option", ["penalty_scale=0", "penalize_prompt=false"])
def test_options_of_no_penalty_are_refused(variant: str | None, option: str) -> None:
    with pytest.raises(DiagnosticError, match=f"`{option.partition('=')[0]}` has no effect without"):
        load_spec("gedi", variant, ["sampler.repetition_penalty=1", f"sampler.{option}"])


@pytest.mark.parametrize(("penalty", "top", "prompt"), [(1.3, 10.0, True), (1.5, 0.0, True), (1.2, 3.0, False)])
def test_the_discriminator_alone_is_penalised_for_repetitions(penalty: float, top: float, prompt: bool) -> None:
    """`gen_type` cclm of the authors' code: the name of the class and the prompt came before the tokens."""
    options = [f"sampler.repetition_penalty={penalty}", f"sampler.penalty_scale={top}"]
    options += [f"sampler.penalize_prompt={str(prompt).lower()}", "networks.main.class_tokens=[1, [2, 6]]"]
    lowered = lower(load_spec("gedi", "cclm", [FIELDS, *(f"networks.main.{size}" for size in SMALL), *options]))
    weights = random_weights(network_params(lowered, lowered.networks["main"]), np.random.default_rng(2), 0.5)
    held = Interpreter(lowered.module, {f"main.{path}": array for path, array in weights.items()})
    alone = Interpreter(lowered.module, weights)
    known = np.array([[1, 1, 1, 1], [1, 1, 0, 0]], bool)
    given = {"y": np.array([1, 0]), "prompt": np.array([[3, 4, 5, 4], [7, 7, 0, 0]]), "prompt_mask": known}
    names = [value.name for value in lowered.module.entry("sample.6").inputs]
    (found,) = held.run("sample.6", *(given[name] for name in names))
    ports = lowered.networks["main"].methods["forward"].inputs
    for i, code in enumerate(([2, 6], [1])):
        came = [*code, *given["prompt"][i][known[i]].tolist()] if prompt else []
        for step in range(6):
            operands = {"tokens": found[i : i + 1, :5], **{name: array[i : i + 1] for name, array in given.items()}}
            (logits,) = alone.run("main.forward", *(operands[port.name] for port in ports))
            assert found[i, step] == penalised(logits[0, step].copy(), came, penalty, top).argmax()
            came.append(int(found[i, step]))


def test_the_class_is_never_left_out_of_a_loss_that_compares_both() -> None:
    with pytest.raises(DiagnosticError, match=r"never drops a condition, but `class` has a dropout of 0\.1"):
        load_spec("gedi", None, [*SIZES, "conditioning.class.dropout=0.1"])


def test_a_missing_discriminator_is_named_with_its_kinds() -> None:
    with pytest.raises(DiagnosticError) as caught:
        load_spec("gedi", None, [FIELDS, "networks.discriminator=null"])
    assert all("of kind class_language_model" in str(d.help) for d in caught.value.diagnostics if d.code == "E0306")


@pytest.mark.parametrize("classes", [2, 3])
def test_the_loss_tells_classes_apart(classes: int) -> None:
    """As train_GeDi.py has it, whose `threeway` has three classes: mean losses of the tokens under each are scores."""
    options = ["objective.generative=0.8", "networks.discriminator.class_bias=true"]
    lowered, rng = (
        lower(load_spec("gedi", None, [*SIZES, *options, *(THREE if classes == 3 else [])])),
        np.random.default_rng(2),
    )
    held = random_weights(network_params(lowered, lowered.networks["discriminator"]), rng, 0.5)
    tokens, y = rng.integers(12, size=(3, 6)), np.array([0, classes - 1, 1])
    given = {"tokens": tokens, "y": y, "prompt": np.zeros((3, 4), int), "prompt_mask": np.zeros((3, 4), bool)}
    names = [value.name for value in lowered.module.entry("loss.terms").inputs]
    oracle = Interpreter(lowered.module, {f"discriminator.{path}": array for path, array in held.items()})
    found = oracle.run("loss.terms", *(given[name] for name in names))

    method, scores = Interpreter(lowered.module, held), []
    ports = [port.name for port in lowered.networks["discriminator"].methods["forward"].inputs]
    for label in range(classes):
        told = {**given, "tokens": tokens[:, :-1], "y": np.full(3, label)}
        log_p = log_softmax(method.run("discriminator.forward", *(told[port] for port in ports))[0])
        scores.append(np.take_along_axis(log_p, tokens[..., None], 2).mean((1, 2)))
    logits = log_softmax(held["logit_scale"] * np.stack(scores, 1) + held["class_bias"])
    generative, discriminative = (-np.take_along_axis(x, y[:, None], 1)[:, 0] for x in (np.stack(scores, 1), logits))
    np.testing.assert_allclose(found[1:], [generative, discriminative], rtol=1e-5)
    np.testing.assert_allclose(found[0], 0.8 * generative + 0.2 * discriminative, rtol=1e-5)


def test_a_model_that_goes_on_from_nothing_is_refused() -> None:
    options = ["conditioning={}", "networks.main.class_tokens=null", "networks.main.start=5"]
    with pytest.raises(DiagnosticError, match="goes on from a class or a prompt, and takes neither"):
        load_spec("class_prefix_gpt2", None, options)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["conditioning.class={kind: label, encoding: one_hot, dropout: 0}"], "a class given by its number"),
        (["conditioning.prompt={kind: masked_text, mask: 3, end: 2}"], "is not a prompt"),
    ],
)
def test_conditions_that_a_language_model_cannot_name_or_continue(more: list[str], words: str) -> None:
    with pytest.raises(DiagnosticError, match=words):
        load_spec("gedi", None, [*SIZES, *more])
