"""What `check` refuses, it refuses at its place: parts that get less than they need, whatever layer finds it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

from latentc import api
from latentc.components import load
from latentc.components.backbone import Backbone
from latentc.components.parts import Problem
from latentc.diagnostics import DiagnosticError
from latentc.spec import load_spec, rules
from latentc.spec.schema import place_at
from latentc.systems.rin.signal import Signal

TOKENS = "data={kind: digits, as: tokens}"
RIN = "backbone={kind: rin, data_width: 16, width: 32, latents: 6, blocks: 1, layers: 1, patch: 2, heads: 2}"
FURTHER = "conditioning.representation.prior.objective.further=[{kind: multi_scale, scales: [0.25]}]"
VIDEO = "data={kind: npz, path: a.npz, fields: {x: {shape: [4, 3, 256, 256], medium: video}}}"
DENOISED = "sampler={kind: denoised_dopri5, rtol: 0.1, atol: 0.1, max_steps: 6}"

REFUSED: dict[str, tuple[str, str | None, list[str], str]] = {
    "fewer keys than queries where they are reused": (
        *("recap", None, ["backbone.block.mixer.kv_heads=1"]),
        "reuses keys and values takes as many of them as queries",
    ),
    "figures of samples that are bounds": (
        "neural_csa",
        None,
        ["train.evaluate_every=2"],
        "`causal_bounds` draws no samples of the data",
    ),
    "a timed norm before the feed-forward": (
        *("pixelflow", None, ["backbone.block.condition.feed_forward_norm={kind: timed_rms_norm}"]),
        "`backbone.block.condition.feed_forward_norm` cannot be a `timed_rms_norm`",
    ),
    "a timed norm of queries": (
        *("dit", None, ["backbone.block.mixer.qk_norm={kind: timed_layer_norm}"]),
        "`backbone.block.mixer.qk_norm` cannot be a `timed_layer_norm`",
    ),
    "a timed norm of a readout": (
        *("mage", None, ["backbone.readout.norm={kind: timed_rms_norm}"]),
        "`backbone.readout.norm` cannot be a `timed_rms_norm`",
    ),
    "a norm of whole sequences in chunks": (
        *("digits_var", None, ["networks.main.block.norm={kind: first_token_rms_norm}"]),
        "takes tokens in chunks, but `first_token_rms_norm` does not normalise each token alone",
    ),
    "a norm of whole sequences in decoding": (
        *("digits_llamagen", None, ["backbone.block.norm={kind: first_token_rms_norm}"]),
        "predicts the next token, but `first_token_rms_norm` does not normalise each token alone",
    ),
    "a norm of rows": (
        *("var", None, ["networks.main.block.norm={kind: first_token_rms_norm, rows: true}"]),
        "needs a square of tokens, but this network has a sequence",
    ),
    "a segment in which the signal rises": (
        *("digits_rin", None, ["objective.process={kind: signal, schedule: cosine, start: -1}"]),
        "the cosine does not fall all the way from -1 to 1",
    ),
    "a factor that does not divide": ("digits_controlled", None, ["conditioning.low.factor=5"], "does not divide"),
    "an end of codes that are numbers": (
        *("pixelcnn", "autoencoder", ["conditioning.h={kind: ended_codes, network: encoder, end: 48}"]),
        "network `encoder` does not encode as tokens",
    ),
    "an encoder that encodes nothing": (
        *("class_prefix_bert", None, ["conditioning={small: {kind: encoded, network: main}}"]),
        "network `main` encodes nothing",
    ),
    "an output that the prior's network lacks": ("rcg_ldm", None, [FURTHER], "reads the output `coarse` of network"),
    "memory that the objective does not keep": ("digits_mean_flow", None, [RIN], "takes its memory of the last"),
    "an adapter over tokens": ("digits_controlled", None, [TOKENS], "needs images [C, H, W], but the data has tokens"),
    "an encoder of images over tokens": ("digits_dod", None, [TOKENS], "takes square images [C, H, H]"),
    "more tokens than can be counted": ("var", None, [f"data.tokens.grid={[16] * 8}"], "a sample of 4294967296 tokens"),
    "latents of another size": (
        *("nvg", None, ["networks.quantizer.codebook.channels=8"]),
        "as `canvas`, but is given",
    ),
    "a classifier that takes the class": (
        *("adm_g", None, ["networks.classifier.conditions=null"]),
        "network `classifier` takes the condition `y`, which is not given here",
    ),
    "a mixer that cannot mask": (
        *("class_prefix_bert", None, ["networks.main.block.mixer={kind: efficient_attention, heads: 2}"]),
        "masks tokens or keeps a cache, but `efficient_attention` processes whole sequences",
    ),
    "a decoder of a text": (
        *("class_prefix_bert", None, ["networks.main.decoder={depth: 1, width: 64, heads: 2}"]),
        "a `text_bert` has an encoder alone",
    ),
    "a last step at the data": ("digits_sit", None, [DENOISED], "takes the score at the end of the interval"),
    "a hole in a video": ("interpolant_inpaint", None, [VIDEO], "needs images [C, H, W]"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_at_its_place(case: str) -> None:
    spec, variant, overrides, message = REFUSED[case]
    with pytest.raises(DiagnosticError) as caught:
        api.check(spec, variant, overrides)
    found = [d for d in caught.value.diagnostics if message in d.message]
    assert found and found[0].span is not None, str(caught.value)


def test_accepted_with_the_defaults_of_the_schedule() -> None:
    api.check("digits_rin", None, ["objective.process.schedule=cosine"])
    cosine, sigmoid = Signal.example(schedule="cosine"), Signal.example()
    assert (cosine.curve_start, cosine.curve_end) == (0.0, 1.0)
    assert (sigmoid.curve_start, sigmoid.curve_end) == (-3.0, 3.0)


def test_nested_norms_work_on_tokens_alone() -> None:
    """Only the norm of a block itself may be one that needs the time or the whole sequence."""
    for kind in ("attention", "efficient_attention"):
        mixer = {"kind": kind, "heads": 2}
        path = ("networks", "main", "block", "mixer", "qk_norm" if kind == "attention" else "norm")
        place = place_at(path, {"networks": {"main": {"kind": "patch_transformer", "block": {"mixer": mixer}}}})
        assert place is not None and place.kinds() == ["layer_norm", "rms_norm"]


def test_a_failing_rule_hides_no_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(spec: Any) -> Iterator[Any]:
        raise AssertionError("relies on what another rule reports")
        yield

    monkeypatch.setattr(rules, "RULES", (fails, *rules.RULES))
    with pytest.raises(DiagnosticError, match="the warm-up of 9 steps"):
        load_spec("digits_dit", None, ["train.steps=5", "train.schedule.warmup=9"])
    with pytest.raises(AssertionError, match="relies on"):
        load_spec("digits_dit")


class Bare(Backbone):
    """A network with positions but no blocks."""

    kind: Any = "bare"
    positions: Any = None
    PROVIDES: ClassVar[frozenset[Any]] = frozenset()

    def problems(self, spec: Any) -> Iterator[Problem]:
        yield from ()

    def build(self, mb: Any, name: str, spec: Any, out_channels: int) -> Any:
        raise NotImplementedError


@pytest.mark.parametrize("kind", ["rope_1d", "rope_2d", "rope_prefix"])
def test_rotary_positions_ask_nothing_of_a_network(kind: str) -> None:
    positions: Any = load("blocks/positions")[kind].example()
    spec = load_spec("digits_dit")
    spec = spec.model_copy(update={"networks": {"main": Bare(positions=positions)}})
    assert not list(positions.problems(spec))
    assert list(positions.problems_of_head(5)) and not list(positions.problems_of_head(8))
