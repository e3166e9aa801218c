"""Requests with arrays, tokens with masks, soft labels and settings, to bundles of several programs and outputs."""

import re
from dataclasses import replace

import numpy as np
import pytest
import tiny_bundles as tiny
from onnx import helper

from latentc_runtime import BundleError, distributions, load
from latentc_runtime.manifest import EngineCall, Output, ProgramEntry, ProgramOutput
from latentc_runtime.request import check_request
from latentc_runtime.sources import (
    Condition,
    ConditionSource,
    Input,
    RandomSource,
    Setting,
    SettingSource,
    arguments_from_inputs,
    joined,
)

CONDITIONS = (
    Condition("class", "label", (3,), "f32", classes=3, encoding="one_hot"),
    Condition("mel", "array", (2, 4), "f32", axes=("channel", "time")),
    Condition("text", "tokens", (5,), axes=("token",), vocabulary=10, mask=True, pad=9),
    Condition("augment", "array", (2,), "f32", default=0.0),
)
SETTINGS = (Setting("temperature", 0.5, low=0.0, closed=False), Setting("strength", 1.0, low=0.0, high=1.0))
INPUTS = (
    Input("c", "f32", ("B", 3), ConditionSource("class")),
    Input("mel", "f32", ("B", 2, 4), ConditionSource("mel")),
    Input("text", "i64", ("B", 5), ConditionSource("text")),
    Input("real", "f32", ("B", 5), ConditionSource("text", "mask")),
    Input("augment", "f32", ("B", 2), ConditionSource("augment")),
    Input("t", "f32", ("B",), SettingSource("temperature")),
    Input("z", "f32", ("B", 4), RandomSource("truncated_normal", "z", settings={"bound": "strength"})),
    Input("k", "i64", (2, "B", 4), RandomSource("integers", "k", 2, parameters={"high": 7})),
)


def numpy_of(c, mel, text, real, augment, t, z, k):
    """What the bundle computes: samples [B, 4], and the numbers of real tokens [B]."""
    words = ((text + 1) * real).sum(1) / 100 + (c * np.arange(3)).sum(1) + 10 * augment.sum(1)
    return mel.sum(1) + words[:, None] + t[:, None] * z + k.sum(0), real.sum(1)


def bundle(folder, conditions=CONDITIONS, settings=SETTINGS):
    folder.mkdir()
    n, dims = helper.make_node, {"B": "B"}
    nodes = [
        n("ReduceSum", ["mel", "one"], ["mels"], keepdims=0),
        n("Cast", ["text"], ["words"], to=tiny.F),
        n("Add", ["words", "unit"], ["counted"]),
        n("Mul", ["counted", "real"], ["kept"]),
        n("ReduceSum", ["kept", "one"], ["summed"], keepdims=1),
        n("Mul", ["summed", "hundredth"], ["word"]),
        n("MatMul", ["c", "classes"], ["label"]),
        n("ReduceSum", ["augment", "one"], ["augmented"], keepdims=1),
        n("Mul", ["augmented", "ten"], ["more"]),
        n("Sum", ["word", "label", "more"], ["row"]),
        n("Unsqueeze", ["t", "one"], ["t_column"]),
        n("Mul", ["t_column", "z"], ["scaled"]),
        n("Cast", ["k"], ["k_float"], to=tiny.F),
        n("ReduceSum", ["k_float", "zero"], ["ks"], keepdims=0),
        n("Sum", ["mels", "row", "scaled", "ks"], ["x"]),
        n("ReduceSum", ["real", "one"], ["length"], keepdims=0),
    ]
    kinds = {"f32": tiny.F, "i64": tiny.INT}
    inputs = [tiny.value(i.name, kinds[i.dtype], *(dims.get(d, d) for d in i.shape)) for i in INPUTS]
    constants = [
        tiny.constant("one", np.array([1])),
        tiny.constant("zero", np.array([0])),
        tiny.constant("unit", np.float32(1)),
        tiny.constant("hundredth", np.float32(0.01)),
        tiny.constant("ten", np.float32(10)),
        tiny.constant("classes", np.arange(3, dtype=np.float32)[:, None]),
    ]
    outputs = [tiny.value("x", tiny.F, "B", 4), tiny.value("length", tiny.F, "B")]
    tiny.save(folder / "sample.onnx", nodes, inputs, outputs, constants)
    made = (ProgramOutput("samples", "out", Output((4,), "f32")), ProgramOutput("lengths", "length", Output((), "f32")))
    call = EngineCall("engine", "sample.onnx", {i.name: i.name for i in INPUTS}, {"out": "x", "length": "length"})
    entry = ProgramEntry("sample", 1, "toy", "unroll", None, "a test", INPUTS, made, (call,))
    lengths = ProgramEntry("measure", 1, "toy", "unroll", None, "a test", INPUTS, made[1:], (call,))
    return tiny.write(folder, (entry, lengths), None, ["sample.onnx"], conditions=conditions, settings=settings)


@pytest.fixture
def pipe(tmp_path):
    return load(bundle(tmp_path / "bundle"), device="cpu", threads=1)


MEL = np.random.default_rng(0).standard_normal((3, 2, 4)).astype(np.float32)
TEXT = [[1, 2, 3, 4, 5], [6], [7, 8]]
PADDED = np.array([[1, 2, 3, 4, 5], [6, 9, 9, 9, 9], [7, 8, 9, 9, 9]])
REAL = np.array([[1, 1, 1, 1, 1], [1, 0, 0, 0, 0], [1, 1, 0, 0, 0]], np.float32)


def expected(seeds, c, mel, text, real, augment=(0, 0), t=0.5, strength=1.0):
    count = len(seeds)
    z = distributions.draw("truncated_normal", seeds, "z", (4,), bound=np.full(count, strength))
    k = distributions.draw("integers", seeds, "k", (4,), range(2), high=7)
    augment = np.broadcast_to(np.array(augment, np.float32), (count, 2))
    return numpy_of(np.asarray(c), mel, text, real, augment, np.full(count, t, np.float32), z, k)


def test_a_batch_of_conditions(pipe):
    got = pipe.sample([0, 2, 1], [5, 6, 7], conditions={"mel": MEL, "text": TEXT}, settings={"temperature": 0.9})
    want, _ = expected([5, 6, 7], np.eye(3)[[0, 2, 1]], MEL, PADDED, REAL, t=0.9)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    rows = [
        pipe.sample([c], s, conditions={"mel": MEL[i], "text": TEXT[i]}, settings={"temperature": 0.9})
        for i, (c, s) in enumerate(zip([0, 2, 1], [5, 6, 7], strict=True))
    ]
    np.testing.assert_allclose(np.concatenate(rows), got, rtol=1e-6)
    np.testing.assert_array_equal(
        pipe.sample([0, 2, 1], 5, conditions={"mel": MEL, "text": TEXT}, settings={"temperature": 0.9}, batch=2), got
    )


def test_one_value_for_all_samples_and_soft_labels(pipe):
    soft = [[0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]
    given = {"class": soft, "mel": MEL[0], "text": [3, 4], "augment": [1, 2]}
    got = pipe.sample(conditions=given, seeds=[1, 2], settings={"strength": [0.5, 0.5]})
    mel, text = np.stack([MEL[0]] * 2), np.array([[3, 4, 9, 9, 9]] * 2)
    real = np.array([[1, 1, 0, 0, 0]] * 2, np.float32)
    want, _ = expected([1, 2], soft, mel, text, real, augment=(1, 2), strength=0.5)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    single = {"class": 2, "mel": MEL[:1], "text": [3, 4]}
    assert len(pipe.sample(conditions=single, seeds=[1, 2, 3])) == 3
    assert len(pipe.sample(conditions=single, count=4)) == 4
    assert len(pipe.sample(conditions=single)) == 1


def test_a_number_per_sample(pipe):
    score = Input("score", "f32", ("B",), ConditionSource("score"))
    manifest = replace(pipe.manifest, conditions=(*CONDITIONS, Condition("score", "array", (), "f32")))
    program = replace(pipe.program(), inputs=(*INPUTS, score))
    for given in (0.5, "0.5", [0.5, 0.25], np.array([0.5, 0.25])):
        told = {"mel": MEL[0], "text": [3, 4], "score": given}
        request = check_request(manifest, program, [0, 1], conditions=told)
        np.testing.assert_array_equal(request.array(score), np.broadcast_to(np.asarray(given, np.float32), 2))
    with pytest.raises(BundleError, match=r"score` has shape \[2, 1\]\n.*takes a number per sample"):
        check_request(manifest, program, [0, 1], conditions={**told, "score": [[0.5], [0.25]]})


def test_a_given_mask(pipe):
    mask = np.array([[1, 1, 1, 0, 1], [1, 0, 0, 0, 0], [1, 1, 0, 0, 0]], bool)
    given = {"mel": MEL, "text": {"value": PADDED, "mask": mask}}
    want, lengths = expected([0, 1, 2], np.eye(3), MEL, PADDED, mask.astype(np.float32))
    np.testing.assert_allclose(pipe.sample([0, 1, 2], conditions=given), want, rtol=1e-5)
    request = check_request(pipe.manifest, pipe.program(), [0, 1, 2], conditions=given)
    outputs = pipe.run(request)
    assert list(outputs) == ["samples", "lengths"]
    np.testing.assert_array_equal(outputs["lengths"], lengths)
    np.testing.assert_array_equal(pipe.sample([0, 1, 2], conditions=given, program="measure"), lengths)


def test_requests_survive_joining_and_their_own_inputs(pipe):
    request = check_request(pipe.manifest, pipe.program(), [0, 2, 1], 5, {"mel": MEL, "text": TEXT})
    again = joined([request.given.part(0, 1), request.given.part(1, 3)])
    arrays = {i.name: request.array(i) for i in INPUTS}
    want = pipe.run(request)["samples"]
    np.testing.assert_array_equal(pipe.sample(**again.arguments()), want)
    np.testing.assert_array_equal(pipe.sample(**arguments_from_inputs(INPUTS, arrays)), want)


def test_usual_requests_need_nothing(pipe):
    request = pipe.usual_request(4, seed=3)
    samples = pipe.run(request)["samples"]
    assert samples.shape == (4, 4) and np.isfinite(samples).all() and len(np.unique(samples)) == 16
    np.testing.assert_array_equal(request.given.conditions["class"], np.eye(3)[[0, 1, 2, 0]])
    pipe.warm_up(2)


def test_noise_of_any_distribution(pipe):
    made = pipe.noise([5, 6, 7], 3)
    given = {"mel": MEL, "text": TEXT}
    assert made["k"].dtype == np.int64 and set(made) == {"z", "k"}
    want = pipe.sample([0, 1, 2], [5, 6, 7], conditions=given)
    np.testing.assert_array_equal(pipe.sample([0, 1, 2], conditions=given, noise=made), want)
    for k, message in (
        (made["k"] + 7, r"integers: its values must lie in \[0, 6\]"),
        (made["k"] / 2, "not an integer one"),
    ):
        with pytest.raises(BundleError, match=message) as raised:
            pipe.sample([0, 1, 2], conditions=given, noise={"k": k})
        assert raised.value.code == "E0610" and raised.value.help


GOOD = {"conditions": {"mel": MEL, "text": TEXT}, "classes": [0, 1, 2]}
BAD = [
    ({"conditions": {"mel": MEL}}, "the condition `text` is missing", "up to 5 tokens from 0 to 9"),
    ({"classes": None}, "the condition `class` is missing", "a row of class probabilities"),
    ({"mel2": MEL}, "no condition `mel2`", r"f32\[2, 4\] \(channel, time\)"),
    ({"mel": MEL[:, :1]}, r"`mel` has shape \[1, 4\]", "--given mel=FILE.npy"),
    ({"mel": MEL[..., 0, 0]}, r"`mel` has shape \[3\]", "mel"),
    ({"mel": MEL[:2]}, "2 values of `mel` for 3 samples", "one per sample"),
    ({"mel": MEL * np.nan}, "`mel` holds values that are not finite", "mel"),
    ({"mel": [["a"] * 4] * 2}, "`mel` has type <U1", "mel"),
    ({"mel": {"value": MEL, "mask": [1]}}, "`mel` takes no mask", "mel"),
    ({"mel": {"mask": [1]}}, "holds mask", "`value` and `mask`"),
    ({"text": [[1], [2], [10]]}, "no token 10", "from 0 to 9"),
    ({"text": [[1], [2], [1.5]]}, "`text` has type float64", "tokens"),
    ({"text": [[1], [2], [1] * 6]}, r"`text` has shape \[6\]", "up to 5"),
    ({"text": [[1], [2], []]}, r"`text` has shape \[0\]", "up to 5"),
    ({"text": {"value": PADDED, "mask": [[1]]}}, r"mask of `text` has shape \[1, 1\]", "5"),
    ({"classes": [0, 1, 3]}, "no class 3", "0 to 2"),
    ({"classes": [[0.5, 0.5]] * 3}, "probabilities of 2 classes, not 3", "class"),
    ({"classes": [[0.5, 0.6, 0.0]] * 3}, "not a probability distribution", "class"),
    ({"classes": [[1.5, -0.5, 0.0]] * 3}, "not a probability distribution", "class"),
    ({"class": [0, 1, 2]}, "are the same", "one of them"),
    ({"count": 2}, "3 values of `class` for 2 samples", "one per sample"),
    ({"count": True}, "`count` must be a number of samples", "0 or more"),
    ({"settings": {"heat": 1}}, "no setting `heat`", "`temperature`, above 0, default 0.5"),
    ({"settings": {"temperature": 0}}, "`temperature` 0 is out of range", "above 0"),
    ({"settings": {"strength": 1.5}}, "`strength` 1.5 is out of range", "from 0 to 1, default 1"),
    ({"settings": {"strength": np.inf}}, "not a finite", "from 0 to 1"),
    ({"guidance": 2.0}, "no setting `guidance`", "temperature"),
    ({"program": "encode"}, "no program `encode`", "sample, measure"),
]


@pytest.mark.parametrize(("change", "message", "mend"), BAD)
def test_what_does_not_fit_is_refused_with_a_mend(pipe, change, message, mend):
    conditions = {k: v for k, v in change.items() if k in ("mel", "mel2", "text", "class")}
    rest = {k: v for k, v in change.items() if k not in conditions}
    asked = {**GOOD, "conditions": {**GOOD["conditions"], **conditions}, **rest}
    with pytest.raises(BundleError, match=message) as raised:
        pipe.sample(**asked)
    assert raised.value.code in ("E0608", "E0609")
    assert re.search(mend, raised.value.help), raised.value.help


def test_labels_by_index_are_not_soft(tmp_path):
    pipe = load(tiny.loop_bundle(tmp_path / "bundle"), device="cpu")
    with pytest.raises(BundleError, match="integers"):
        pipe.sample(conditions={"class": np.full((2, 10), 0.1)})
    np.testing.assert_array_equal(pipe.sample(conditions={"class": 3}, count=2), pipe.sample([3, 3]))


def test_programs_without_conditions(tmp_path):
    pipe = load(tiny.unconditional_bundle(tmp_path / "bundle"), device="cpu")
    assert pipe.sample(count=3).shape == (3, *tiny.SHAPE) and pipe.sample().shape == (1, *tiny.SHAPE)
    np.testing.assert_array_equal(pipe.sample(seeds=[4, 5]), pipe.sample(seeds=4, count=2))
    np.testing.assert_array_equal(pipe.sample(noise=pipe.noise([4, 5], 2)), pipe.sample(seeds=[4, 5]))
    with pytest.raises(BundleError, match="samples of this program have no class") as raised:
        pipe.sample([0])
    assert "count" in raised.value.help


def test_one_class_for_a_number_of_samples(pipe):
    """An integer is one class for all samples if their number is given; else the remedy is to give either."""
    given = {"conditions": {"mel": MEL[0], "text": [3, 4]}}
    np.testing.assert_array_equal(pipe.sample(2, 5, count=3, **given), pipe.sample([2, 2, 2], 5, **given))
    assert pipe.sample(2, 5, count=0, **given).shape == (0, 4)
    with pytest.raises(BundleError, match="must be a list of integers, not 2") as raised:
        pipe.sample(2, 5, **given)
    assert "[2]" in raised.value.help and "`count`" in raised.value.help


def test_pixels_that_are_not_scaled_are_refused(pipe):
    """Unsigned integers are pixels of no known range; a mask of 0 and 1 is what it says, as are other numbers."""
    for value in (np.full((2, 4), 200, np.uint8), np.full((3, 2, 4), 40_000, np.uint16)):
        with pytest.raises(BundleError, match="pixels that are not scaled") as raised:
            pipe.sample([2], conditions={"mel": value, "text": [3]})
        assert "127.5" in raised.value.help
    ones = np.ones((2, 4))
    wanted = pipe.sample([2], 5, conditions={"mel": ones, "text": [3]})
    for value in (ones.astype(np.uint8), ones.astype(np.int64), ones.astype(bool)):
        np.testing.assert_array_equal(pipe.sample([2], 5, conditions={"mel": value, "text": [3]}), wanted)
