"""Beam search against fairseq's rules, on whole sequences without caches, one text and one beginning at a time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from random_weights import random_weights
from tiny_systems import SYSTEMS

from latentc.diagnostics import DiagnosticError
from latentc.ir.core import parameters
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec

LENGTH, END = 6, 11
Text = tuple[int, ...]


def searched(
    log_p: Callable[[Text], np.ndarray],
    beams: int,
    power: float,
    no_repeat: int,
    shortest: int,
    never: list[int],
    ahead: int,
    start: float,
    behind: Text = (),
) -> Text:
    """The best of the first `beams` texts that end; they stand `behind` tokens of the log-probability `start`."""
    alive: list[tuple[float, Text]] = [(start, ())]
    done: list[tuple[float, Text]] = []
    for step in range(LENGTH):
        found: list[tuple[float, Text, int]] = []
        for score, text in alive:
            so_far = behind + text
            came = {so_far[j : j + no_repeat] for j in range(len(so_far) - no_repeat + 1)} if no_repeat else set()
            for token, value in enumerate(log_p(text)):
                ended = token == END
                closed = (step == LENGTH - 1 and not ended) or (step < shortest and ended) or token in never
                if closed or (no_repeat and (*so_far, token)[-no_repeat:] in came):
                    continue
                found.append((score + value, text, token))
        found = sorted(found, key=lambda one: -one[0])[: 2 * beams]
        for score, text, token in found[:beams]:
            if token == END and len(done) < beams:
                done.append((score / (ahead + step + 1) ** power, text))
        if len(done) == beams:
            break
        alive = [(score, (*text, token)) for score, text, token in found if token != END][:beams]
    return max(done, key=lambda one: one[0])[1]


@pytest.mark.parametrize(
    ("name", "beams", "power", "no_repeat", "shortest", "never", "ahead"),
    [
        ("class_prefix_bart", 3, 5.0, 2, 0, [1], 0),
        ("class_prefix_bart", 2, 0.5, 0, 2, [], 0),
        ("class_prefix_bart", 1, 1.0, 1, 1, [0, 1], 0),
        ("class_prefix_bart", 3, 2.0, 2, 0, [1], 3),
        ("class_prefix_bart", 4, 1.0, 1, 0, [], 3),  # the tokens of the name of the class came, too
        ("class_prefix_gpt2", 4, -1.0, 3, 1, [], 0),
    ],
)
def test_the_text_is_that_of_fairseq(
    name: str, beams: int, power: float, no_repeat: int, shortest: int, never: list[int], ahead: int
) -> None:
    """`ahead`: the decoder's text stands behind so many tokens, too, which it predicts."""
    options = f"beams: {beams}, length_penalty: {power}, no_repeat: {no_repeat}, shortest: {shortest}, never: {never}"
    sizes = [*SYSTEMS[name].sizes, f"sampler={{kind: beam_search, ahead: {ahead}, {options}}}"]
    sizes += ["networks.main.repeats=true", "networks.main.class_tokens=[[2, 4], [3, 5]]"] if ahead else []
    lowered = lower(load_spec(name, None, sizes))
    rng = np.random.default_rng(4)
    weights = random_weights(parameters(lowered.module, lowered.module.entries["main.forward"]), rng, 0.7)
    weights |= {path: array + 1 for path, array in weights.items() if "norm" in path and path.endswith(".weight")}
    given = {"y": np.array([0, 1, 1]), "source_hidden": np.array([[0.1], [0.9], [0.4]])}
    given["source_starts"] = np.ones((3, LENGTH))
    given["source"] = np.array([[4, 5, 6, 7, END, END], [8, 2, 9, 3, 10, END], [5, *[END] * 5]])
    program = lowered.programs[0]
    inputs = [value.name for value in lowered.module.entry(program.entry).inputs]
    held = Interpreter(lowered.module, {f"main.{path}": array for path, array in weights.items()})
    (texts,) = held.run(program.entry, *(given[key] for key in inputs))

    methods = Interpreter(lowered.module, weights)
    for i, (start, count) in enumerate(((0, 2), (3, 2), (0, 1))):  # what the program hides: 0.4 of each text
        row = given["source"][i].tolist()
        given["source"][i] = [*row[:start], 1, *row[start + count :], *[END] * (count - 1)]
    ends = given["source"] == END
    given["source_mask"] = np.cumsum(ends, 1) - ends < 1
    for i in range(3):

        def log_p(text: Text, i: int = i) -> np.ndarray:
            tokens = np.array([[*text, *[END] * (LENGTH - 1 - len(text))]])
            own = {"tokens": tokens, **{key: array[i : i + 1] for key, array in given.items()}}
            ports = [port.name for port in lowered.networks["main"].methods["forward"].inputs]
            (logits,) = methods.run("main.forward", *(own[port] for port in ports))
            row = logits[0, len(text)]
            return np.asarray(row - row.max() - np.log(np.exp(row - row.max()).sum()))

        start, behind = 0.0, ()
        if ahead:
            own = {"tokens": np.full((1, LENGTH - 1), END), **{key: array[i : i + 1] for key, array in given.items()}}
            ports = [port.name for port in lowered.networks["main"].methods["train_forward"].inputs]
            logits, repeated = methods.run("main.train_forward", *(own[port] for port in ports))
            log_ps = logits[0] - np.log(np.exp(logits[0]).sum(1, keepdims=True))
            start, behind = sum(log_ps[j, token] for j, token in enumerate(repeated[0])), tuple(repeated[0].tolist())
        wanted = searched(log_p, beams, power, no_repeat, shortest, never, ahead, start, behind)
        assert texts[i].tolist() == [*wanted, *[END] * (LENGTH - len(wanted))]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("sampler.beams=7", "7 beams need 14 continuations, but there are only 12 tokens"),
        ("sampler.shortest=6", "texts of at least 6 tokens and an end token do not fit in 6"),
        ("sampler.never=[11]", "token 11 is the end token"),
        ("data.fields={tokens: {shape: [6], classes: 12, medium: text}}", "beam search needs texts with an end token"),
    ],
)
def test_what_a_search_cannot_do(option: str, message: str) -> None:
    system = SYSTEMS["class_prefix_gpt2"]
    with pytest.raises(DiagnosticError) as caught:
        load_spec(system.spec, None, [*system.sizes, "sampler={kind: beam_search}", option])
    assert any(message in d.message for d in caught.value.diagnostics)
