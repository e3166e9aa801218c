"""Name maps: bijections on the published systems' names, every operation both ways, and what does not fit."""

from __future__ import annotations

import math
import time
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from latentc.diagnostics import DiagnosticError
from latentc.files.shipped import codes
from latentc.weights import Array, Expr, check_inverse, export_weights, import_weights, materialise, parse_map
from latentc.weights.expr import dtype_from_name
from latentc.weights.names import Types
from latentc.weights.operations import OPERATIONS
from latentc.weights.templates import NO_DIGITS, template

DIT = """
- {ignore: pos_embed}
- {from: x_embedder.proj.*, to: x_embedder.*}
- {from: t_embedder.mlp.0.*, to: t_embedder.fc1.*}
- {from: t_embedder.mlp.2.*, to: t_embedder.fc2.*}
- {from: y_embedder.embedding_table.weight, to: y_embedder.weight}
- {from: 'blocks.{i}.adaLN_modulation.1.*', to: 'blocks.{i}.adaLN.*'}
- {from: final_layer.adaLN_modulation.1.*, to: final_layer.adaLN.*}
- {from: '*', to: '*'}
"""

LLAMAGEN = """
- {ignore: freqs_cis}
- {ignore: causal_mask}
- {from: cls_embedding.embedding_table.weight, to: cls_embedding.weight}
- {from: '*', to: '*'}
"""


def dit_official(depth: int = 2, width: int = 64) -> dict[str, tuple[list[int], str]]:
    linear = {
        "t_embedder.mlp.0": (width, 256),
        "t_embedder.mlp.2": (width, width),
        "final_layer.linear": (32, width),
        "final_layer.adaLN_modulation.1": (2 * width, width),
    }
    for i in range(depth):
        linear |= {
            f"blocks.{i}.attn.qkv": (3 * width, width),
            f"blocks.{i}.attn.proj": (width, width),
            f"blocks.{i}.mlp.fc1": (4 * width, width),
            f"blocks.{i}.mlp.fc2": (width, 4 * width),
            f"blocks.{i}.adaLN_modulation.1": (6 * width, width),
        }
    found: dict[str, tuple[list[int], str]] = {
        "pos_embed": ([1, 64, width], "f32"),
        "x_embedder.proj.weight": ([width, 4, 2, 2], "f32"),
        "x_embedder.proj.bias": ([width], "f32"),
        "y_embedder.embedding_table.weight": ([11, width], "f32"),
    }
    for name, (rows, columns) in linear.items():
        found |= {f"{name}.weight": ([rows, columns], "f32"), f"{name}.bias": ([rows], "f32")}
    return found


def dit_ours(official: Types) -> dict[str, Any]:
    changes = [
        ("x_embedder.proj", "x_embedder"),
        ("mlp.0", "fc1"),
        ("mlp.2", "fc2"),
        (".embedding_table", ""),
        ("adaLN_modulation.1", "adaLN"),
    ]
    ours = {}
    for name, kind in official.items():
        if name != "pos_embed":
            for old, new in changes:
                name = name.replace(old, new)
            ours[name] = kind
    return ours


def llamagen_official(depth: int = 3, width: int = 64) -> dict[str, tuple[list[int], str]]:
    shapes = {
        "cls_embedding.embedding_table": (11, width),
        "tok_embeddings": (64, width),
        "norm": (width,),
        "output": (64, width),
    }
    for i in range(depth):
        shapes |= {
            f"layers.{i}.attention.wqkv": (3 * width, width),
            f"layers.{i}.attention.wo": (width, width),
            f"layers.{i}.feed_forward.w1": (192, width),
            f"layers.{i}.feed_forward.w3": (192, width),
            f"layers.{i}.feed_forward.w2": (width, 192),
            f"layers.{i}.attention_norm": (width,),
            f"layers.{i}.ffn_norm": (width,),
        }
    return {f"{name}.weight": (list(shape), "f32") for name, shape in shapes.items()}


def check_both_ways(official: Types, ours: Types, rules: Any) -> None:
    """Both sides are carried over whole: what a file has and what the network has."""
    check_inverse(rules, ours, elements=math.prod(next(iter(ours.values()))[0]) < 10000)
    given = {name: Array(np.broadcast_to(np.float32(0), shape)) for name, (shape, _) in official.items()}
    back = export_weights(import_weights(given, rules, ours), rules)
    assert all(back[name].shape == given[name].shape for name in back)
    assert set(given) - set(back) <= {"pos_embed", "freqs_cis"}


def values(types: Types, seed: int = 0) -> dict[str, Expr]:
    rng = np.random.default_rng(seed)
    return {
        name: Array((4 * rng.standard_normal(shape)).astype(dtype_from_name(kind)))
        for name, (shape, kind) in types.items()
    }


def failure(call: Any, code: str = "E0410") -> str:
    with pytest.raises(DiagnosticError) as caught:
        call()
    assert {d.code for d in caught.value.diagnostics} == {code}
    assert code in codes()
    return str(caught.value)


@pytest.mark.parametrize(("depth", "width"), [(2, 64), (12, 8), (28, 1152)])
def test_dit_and_sit_names_are_a_bijection(depth: int, width: int) -> None:
    official = dit_official(depth, width)
    check_both_ways(official, dit_ours(official), yaml.safe_load(DIT))


def test_llamagen_names_are_a_bijection() -> None:
    official = llamagen_official(12)
    ours = {name.replace(".embedding_table", ""): kind for name, kind in official.items()}
    check_both_ways({**official, "freqs_cis": ([1, 2, 3], "f32")}, ours, yaml.safe_load(LLAMAGEN))


def test_dit_there_and_back() -> None:
    official = dit_official()
    rules, given = yaml.safe_load(DIT), values(dit_official())
    ours = import_weights(given, rules, dit_ours(official))
    assert list(ours) == list(dit_ours(official))
    assert ours["blocks.1.adaLN.bias"] is given["blocks.1.adaLN_modulation.1.bias"]
    back = export_weights(ours, rules)
    given_constant = given.pop("pos_embed")
    assert back == given
    assert export_weights(ours, rules, buffers={"pos_embed": given_constant})["pos_embed"] is given_constant


EVERYTHING = """
- {from: 'blocks.{i}.lin.weight', to: 'blocks.{i}.lin.weight', ops: [{transpose: [1, 0]}]}
- {from: 'conv.{part}.w', to: 'embed.{part}.w', ops: [{reshape: {from: [width, 2, 3]}}]}
- {from: 'blocks.{i}.qkv.*', to: ['blocks.{i}.q.*', 'blocks.{i}.k.*', 'blocks.{i}.v.*'],
   ops: [{split: {sizes: [8, width, 4]}}]}
- {from: ['mlp.gate', 'mlp.up'], to: mlp.both, ops: [{order: [1, 0]}, {concatenate: {axis: 1}}]}
- {from: ['layers.{i}.expert.{e}.a', 'layers.{i}.expert.{e}.b'], to: 'layers.{i}.experts', over: {e: 3},
   ops: [{concatenate: 0, each: 2}, {stack: 0}]}
- {from: heads, to: 'head.{h}', over: {h: 2}, ops: [{scale: 'sqrt(width)', only: 0}, {unstack: 0}, {flip: 0}]}
- {from: rot, to: rotary, ops: [{permute_heads: half, head_size: head, heads: 1}]}
- {from: ['{part:g|h}_g', '{part}_v'], to: '{part:one|two}.w', ops: [{weight_norm: 0}]}
- {from: 'up.{3-i}.w', to: 'down.{i}.w', ops: [{squeeze: [2, 3]}, {unsqueeze: 0}, {add: -1}]}
- {from: table, to: table, ops: [{slice: {axis: 0, start: 1, stop: 3, of: 4}}, {pad: {axis: 0, after: 1, fill: 7}}]}
- {from: steps, to: steps, ops: [{dtype: {from: i64, to: i32}}]}
- {ignore: [cache, copy], write: mlp.gate}
- {extra: ours}
"""
OFFICIAL: Types = {
    "blocks.0.lin.weight": ([2, 3], "f32"),
    "blocks.7.lin.weight": ([2, 3], "f32"),
    "conv.a.w": ([4, 2, 3], "f32"),
    "blocks.0.qkv.weight": ([16, 5], "f32"),
    "blocks.0.qkv.bias": ([16], "f32"),
    "mlp.gate": ([3, 2], "f32"),
    "mlp.up": ([3, 2], "f32"),
    **{f"layers.5.expert.{e}.{part}": ([2, 3], "f32") for e in (2, 0, 1) for part in "ba"},
    "heads": ([2, 3], "f32"),
    "rot": ([8, 3], "f32"),
    "h_g": ([2, 1], "f32"),
    "h_v": ([2, 3], "f32"),
    "up.1.w": ([2, 3, 1, 1], "f32"),
    "table": ([4, 2], "f32"),
    "steps": ([2], "i64"),
    "cache": ([3, 2], "f32"),
    "copy": ([3, 2], "f32"),
}
OURS: Types = {
    "ours": ([2], "f32"),
    "blocks.0.lin.weight": ([3, 2], "f32"),
    "blocks.7.lin.weight": ([3, 2], "f32"),
    "embed.a.w": ([4, 6], "f32"),
    "blocks.0.q.weight": ([8, 5], "f32"),
    "blocks.0.k.weight": ([4, 5], "f32"),
    "blocks.0.v.weight": ([4, 5], "f32"),
    "blocks.0.q.bias": ([8], "f32"),
    "blocks.0.k.bias": ([4], "f32"),
    "blocks.0.v.bias": ([4], "f32"),
    "mlp.both": ([3, 4], "f32"),
    "layers.5.experts": ([3, 4, 3], "f32"),
    "head.0": ([3], "f32"),
    "head.1": ([3], "f32"),
    "rotary": ([8, 3], "f32"),
    "two.w": ([2, 3], "f32"),
    "down.2.w": ([1, 2, 3], "f32"),
    "table": ([3, 2], "f32"),
    "steps": ([2], "i32"),
}
SYMBOLS = {"width": 4, "head": 4}


def test_every_operation_both_ways() -> None:
    rules, given = yaml.safe_load(EVERYTHING), values(OFFICIAL)
    given |= {"cache": given["mlp.gate"], "copy": given["mlp.gate"]}
    check_inverse(rules, OURS, SYMBOLS)
    kept = {name: kind for name, kind in OURS.items() if name != "table"}  # whose padding is not written
    check_inverse(rules, kept, SYMBOLS, elements=True)
    ours = {name: materialise(expr) for name, expr in import_weights(given, rules, OURS, SYMBOLS).items()}
    raw = {name: materialise(expr) for name, expr in given.items()}
    expected = {
        "blocks.7.lin.weight": raw["blocks.7.lin.weight"].T,
        "embed.a.w": raw["conv.a.w"].reshape(4, 6),
        "blocks.0.k.weight": raw["blocks.0.qkv.weight"][8:12],
        "mlp.both": np.concatenate([raw["mlp.up"], raw["mlp.gate"]], 1),
        "head.0": 2 * raw["heads"][0, ::-1],
        "head.1": 2 * raw["heads"][1, ::-1],
        "rotary": raw["rot"][[0, 2, 1, 3, 4, 5, 6, 7]],
        "down.2.w": raw["up.1.w"][None, :, :, 0, 0] - 1,
        "table": np.concatenate([raw["table"][1:3], np.full((1, 2), 7, np.float32)]),
        "steps": raw["steps"],
    }
    for name, array in expected.items():
        np.testing.assert_array_equal(ours[name], array)
    both = [np.concatenate([raw[f"layers.5.expert.2.{part}"] for part in "ab"])]
    np.testing.assert_array_equal(ours["layers.5.experts"][2:], both)
    folded = torch._weight_norm(torch.from_numpy(raw["h_v"]), torch.from_numpy(raw["h_g"]), 0)
    np.testing.assert_allclose(ours["two.w"], folded, rtol=1e-6)
    assert "ours" not in ours
    back = export_weights({n: Array(a) for n, a in ours.items()}, rules, SYMBOLS)
    assert set(back) == set(OFFICIAL)
    lossy = {"cache", "copy", "h_g", "h_v", "table", "up.1.w"}
    for name in set(OFFICIAL) - lossy:
        np.testing.assert_array_equal(materialise(back[name]), raw[name])
        assert back[name].dtype == raw[name].dtype
    np.testing.assert_array_equal(materialise(back["copy"]), raw["mlp.gate"])
    np.testing.assert_array_equal(materialise(back["table"])[[0, 3]], 0)
    assert set(export_weights(values(OURS), rules, sizes=SYMBOLS)) == set(back)


def test_every_operation_is_tested() -> None:
    (rules,) = parse_map(yaml.safe_load(EVERYTHING), SYMBOLS)
    assert {operation.name for rule in rules for operation in rule.operations} == set(OPERATIONS)


@pytest.mark.parametrize("axis", [0, 1, None])
def test_weight_norm_is_torchs(axis: int | None) -> None:
    conv = torch.nn.Conv1d(3, 4, 5)
    torch.nn.utils.parametrizations.weight_norm(conv, dim=axis)
    state = {name: Array(tensor.detach().numpy() * 3) for name, tensor in conv.state_dict().items()}
    torch.nn.utils.parametrize.remove_parametrizations(conv, "weight")
    new = ["{layer}.parametrizations.weight.original0", "{layer}.parametrizations.weight.original1"]
    old = ["{layer}.weight_g", "{layer}.weight_v"]
    ways = [[{"from": names, "to": "{layer}.weight", "ops": [{"weight_norm": axis}]}] for names in (old, new)]
    rules = [{"either": ways}, {"from": "*", "to": "*"}]
    ours: Types = {"a.weight": ([4, 3, 5], "f32"), "a.bias": ([4], "f32")}
    given = {f"a.{name}": expr for name, expr in state.items()}
    made = import_weights(given, rules, ours)
    np.testing.assert_allclose(materialise(made["a.weight"]), 3 * conv.weight.detach().numpy(), rtol=1e-5)
    back = export_weights(made, rules)  # by the first alternative
    assert {name: expr.shape for name, expr in back.items()} == {
        "a.weight_g": state["parametrizations.weight.original0"].shape,
        "a.weight_v": (4, 3, 5),
        "a.bias": (4,),
    }
    again = import_weights(back, rules, ours)
    np.testing.assert_allclose(materialise(again["a.weight"]), materialise(made["a.weight"]), rtol=1e-6)


@st.composite
def chains(draw: st.DrawFn) -> tuple[list[int], int, int, list[dict[str, Any]]]:
    """(shape of each of their tensors, how many there are, how many of ours, a chain of operations that fits them)."""
    shape, count = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3)), draw(st.integers(1, 3))
    official, number, operations = list(shape), count, []
    for _ in range(draw(st.integers(0, 5))):
        axis = draw(st.integers(0, len(shape) - 1))
        kind = draw(st.sampled_from(sorted(OPERATIONS)))
        if kind == "transpose":
            perm = draw(st.permutations(range(len(shape))))
            shape, option = [shape[place] for place in perm], list(perm)
        elif kind == "reshape":
            option, shape = {"from": shape, "to": [-1]}, [int(np.prod(shape))]
        elif kind == "squeeze":
            if shape[axis] != 1 or len(shape) == 1:
                continue
            option, shape = axis, [*shape[:axis], *shape[axis + 1 :]]
        elif kind == "unsqueeze":
            option, shape = axis, [*shape[:axis], 1, *shape[axis:]]
        elif kind == "flip":
            option = [axis]
        elif kind in ("scale", "add"):
            option = draw(st.sampled_from([0.5, -2, 4]))
        elif kind == "pad":
            option, shape = {"axis": axis, "before": 1, "after": 2}, list(shape)
            shape[axis] += 3
        elif kind == "concatenate":
            option, shape = axis, list(shape)
            shape[axis], number = shape[axis] * number, 1
        elif kind == "stack":
            option, shape, number = axis, [*shape[:axis], number, *shape[axis:]], 1
        elif kind == "split" and number == 1 and shape[axis] > 1:
            option = {"axis": axis, "sizes": [1] * shape[axis]}
            shape, number = [*shape[:axis], 1, *shape[axis + 1 :]], shape[axis]
        elif kind == "unstack" and number == 1 and len(shape) > 1:
            option, number = {"axis": axis, "parts": shape[axis]}, shape[axis]
            shape = [*shape[:axis], *shape[axis + 1 :]]
        elif kind == "order":
            option = draw(st.permutations(range(number)))
        else:
            continue
        operations.append({kind: option})
    return official, count, number, operations


@settings(max_examples=300, deadline=None)
@given(chains())
def test_random_chains_of_operations_invert_exactly(drawn: tuple[list[int], int, int, list[dict[str, Any]]]) -> None:
    shape, count, number, operations = drawn
    names = [f"b{i}" for i in range(number)]
    raw = [{"from": [f"a{i}" for i in range(count)], "to": names, "ops": operations}]
    ((rule,),) = parse_map(raw)
    given: dict[str, Expr] = {
        f"a{i}": Array(np.arange(np.prod(shape), dtype=np.float64).reshape(shape) + 100 * i) for i in range(count)
    }
    made = rule.import_(list(given.values()), [None] * number)
    ours = {name: (expr.shape, np.float64) for name, expr in zip(names, made, strict=True)}
    check_inverse(raw, ours, elements=not any("pad" in operation for operation in operations))
    for back in (
        dict(zip(given, rule.export(made), strict=True)),
        export_weights(import_weights(given, raw, ours), raw),
    ):
        assert all(np.array_equal(materialise(back[name]), materialise(expr)) for name, expr in given.items())


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 3), st.integers(1, 3)), max_size=8, unique=True),
    st.permutations(range(3)),
)
def test_random_models_come_back(names: list[tuple[str, int, int]], perm: list[int]) -> None:
    official = {f"{kind}.{i}.x{n}.w": ([n, 2, 3], "f32") for kind, i, n in names}
    rules = [
        {"from": "a.{i}.{name}.w", "to": "{name}.a{i}.w", "ops": [{"transpose": perm}]},
        {"from": "b.{i}.*", "to": "b{i}.*"},
        {"from": "c.{i}.*", "to": "c.*.{i}"},
        {"from": "*", "to": "*"},
    ]
    given = values(official)
    loose = {}
    for name, (shape, kind) in official.items():
        letter, i, segment, _ = name.split(".")
        renamed = {"a": f"{segment}.a{i}.w", "b": f"b{i}.{segment}.w", "c": f"c.{segment}.w.{i}"}.get(letter, name)
        loose[renamed] = ([shape[p] for p in perm] if letter == "a" else shape, kind)
    ours = import_weights(given, rules, loose)
    back = export_weights(ours, rules)
    for name, expr in given.items():
        assert back[name] == expr


def test_floats_are_converted_and_nothing_else() -> None:
    given = {"w": Array(np.ones(3, np.float16)), "n": Array(np.ones(2, np.int64))}
    rules = [{"from": "*", "to": "*"}]
    ours = import_weights(given, rules, {"w": ([3], "f32"), "n": ([2], "i64")})
    assert ours["w"].dtype == np.float32
    assert import_weights(given, rules, {"w": ([3], "bf16"), "n": ([2], "i64")})["w"].dtype == ml_dtypes.bfloat16
    assert "n is i64, should be i32" in failure(
        lambda: import_weights(given, rules, {"w": ([3], "f32"), "n": ([2], "i32")})
    )
    assert "n is i64" in failure(lambda: import_weights(given, rules, {"w": ([3], "f32"), "n": ([2], "f32")}))


def test_what_does_not_fit_is_one_diagnostic_with_the_nearest_names() -> None:
    official = dit_official()
    expected = dit_ours(official)
    given = values(official)
    given["blocks.0.attn.qvk.weight"] = given.pop("blocks.0.attn.qkv.weight")
    given["final_layer.linear.bias"] = Array(np.zeros(33, np.float32))
    for i in range(6):
        given[f"extra{i}"] = Array(np.zeros(1, np.float32))
    text = failure(lambda: import_weights(given, yaml.safe_load(DIT), expected))
    assert "blocks.0.attn.qvk.weight (nearest: blocks.0.attn.qkv.weight)" in text
    assert "blocks.0.attn.qkv.weight (nearest: blocks.0.attn.qvk.weight)" in text
    assert "final_layer.linear.bias is [33], should be [32]" in text
    assert "does not have (7)" in text
    assert "and 3 more" in text


def test_unmatched_missing_and_doubly_mapped_names() -> None:
    one = Array(np.ones((2, 2), np.float32))
    rename = [{"from": "a", "to": "x"}, {"from": "b", "to": "x"}]
    assert "two tensors" in failure(lambda: import_weights({"a": one, "b": one}, rename, {"x": ([2, 2], "f32")}))
    assert "no rule maps" in failure(lambda: import_weights({"q": one}, rename, {}))
    join = [{"from": ["a", "b"], "to": "x", "ops": [{"concatenate": 0}]}]
    text = failure(lambda: import_weights({"a": one}, join, {"x": ([4, 2], "f32")}))
    assert "that a rule needs and that are missing (1):\n" in text
    split = [{"from": "x", "to": ["a", "b"], "ops": [{"split": 1}]}]
    assert "missing" in failure(lambda: export_weights({"a": one}, split))
    odd = [{"from": "x", "to": ["a", "b", "c"], "ops": [{"split": 0}]}]
    assert "does not divide" in failure(lambda: import_weights({"x": one}, odd, {}))
    turned = [{"from": "x", "to": "y", "ops": [{"transpose": [0, 2, 1]}]}]
    assert "permutation of the axes" in failure(lambda: import_weights({"x": one}, turned, {"y": ([2, 2], "f32")}))
    flat = [{"from": "x", "to": "y", "ops": [{"reshape": {}}]}]
    assert import_weights({"x": one}, flat, {"y": ([4], "f32")})["y"].shape == (4,)
    assert "needs `from`" in failure(lambda: export_weights({"y": one}, flat))


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ([{"from": "*", "to": "b.*"}], "no rule maps"),  # nothing gives a
        ([{"from": "x", "to": "{n}"}], "same placeholders"),
        ([{"from": "x", "to": "a"}, {"from": "x", "to": "b.0"}], "no rule maps"),  # x belongs to the first alone
        ([{"from": "b.{i}", "to": "a"}], "same placeholders"),
        ([{"ignore": "x.*"}, {"from": "x.*", "to": "*"}], "no rule maps"),
        ([{"from": "*", "to": "*", "ops": [{"reshape": {}}]}], "needs `from`"),
        ([{"from": "*", "to": "*", "ops": [{"reshape": {"from": [9]}}]}], "cannot be reshaped"),
        (
            [{"from": ["a", "b.0"], "to": ["a", "b.0"], "ops": [{"concatenate": {"sizes": [1, 2]}}, {"split": 0}]}],
            "fill",
        ),
        ([{"either": [[{"from": "*", "to": "*"}], [{"from": "*", "to": "c.*"}]]}], "no rule maps"),
    ],
)
def test_a_map_that_cannot_be_inverted_is_a_diagnostic(rules: Any, expected: str) -> None:
    code = "E0421" if expected == "no rule maps" else "E0411"
    text = failure(lambda: check_inverse(rules, {"a": ([4], "f32"), "b.0": ([4], "f32")}), code)
    assert expected in text


def test_a_name_that_could_be_read_in_two_ways_is_refused() -> None:
    """EDM's `dec_aux_norm.weight` was once written as `model.dec_aux.norm.weight`."""
    rule = {"from": "model.{way}.{name}.*", "to": "{way}_{name}.*"}
    assert "whole path component" in failure(lambda: parse_map([rule]), "E0411")
    listed = {"from": "model.{way}.{name}.*", "to": "{way:enc|dec}_{name}.*"}
    one = {"dec_aux_norm.weight": Array(np.ones(1, np.float32))}
    assert list(export_weights(one, [listed])) == ["model.dec.aux_norm.weight"]


def test_matching_takes_linear_time() -> None:
    name, one = "b".join("a" * 160) + "y", Array(np.ones(1, np.float32))
    words = "".join(f"{{a{letter}}}b" for letter in "abcdef")
    assert "whole path component" in failure(lambda: parse_map([{"from": f"{words}.x", "to": f"{words}.y"}]), "E0411")
    start = time.perf_counter()
    for text in ("*.{aa}.{bb}.x", "{p:a|aa|aaa}b*x", "a*b{i}b{j}.x", "{aa}.{bb}.{cc}.*.x"):
        for theirs in (name, "." + name.replace("b", "."), "1" * 900, "9b" * 400):
            failure(lambda text=text, theirs=theirs: import_weights({theirs: one}, [{"from": text, "to": text}], {}))
    assert time.perf_counter() - start < 2


def test_placeholders() -> None:
    rules = [
        {"from": "up.{levels-1-i}.{k:0|1}.*", "to": "{k:down|again}.{i}.*"},
        {"from": "net.{2*j+1}.w", "to": "linear{j}.w"},
        {"from": "{r}x{s}_block{i}.{part}_", "to": "{i}.{r}.{s}.{part}_"},
    ]
    pairs = {
        "up.2.0.a.b": "down.0.a.b",
        "up.0.1.w": "again.2.w",
        "net.1.w": "linear0.w",
        "net.7.w": "linear3.w",
        "16x8_block2.w_": "2.16.8.w_",
    }
    one: Expr = Array(np.ones(1, np.float32))
    for theirs, ours in pairs.items():
        if theirs == "16x8_block2.w_":
            continue
        assert list(import_weights({theirs: one}, rules[:2], {ours: ([1], "f32")}, {"levels": 3})) == [ours]
        assert list(export_weights({ours: one}, rules[:2], sizes={"levels": 3})) == [theirs]
    assert "whole path component" in failure(lambda: parse_map(rules, {"levels": 3}), "E0411")
    for theirs in ("up.3.0.a", "net.2.w", "net.01.w", "up.1.2.a", "net.0.w"):
        assert "no rule maps" in failure(lambda name=theirs: import_weights({name: one}, rules[:2], {}, {"levels": 3}))


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("text", "must be a mapping"),
        ({"from": "a", "to": "b", "ops": [{"transpos": [0]}]}, "did you mean 'transpose'"),
        ({"from": "a", "to": "b", "ops": ["transpose"]}, "an operation is a mapping"),
        ({"from": "a", "to": "b", "ops": [{}]}, "an operation is a mapping"),
        ({"from": "a", "to": "b", "ops": {"transpose": [0]}}, "must be a list"),
        ({"from": "a", "to": "b", "ops": "flip"}, "must be a list"),
        ({"from": "a", "to": "b", "prem": [0]}, "takes no 'prem'"),
        ({"from": "a", "to": "b", "op": "transpose"}, "did you mean 'ops'"),
        ({"from": "a", "to": "b", "ops": [{"transpose": {"prem": [0]}}]}, "did you mean 'perm'"),
        ({"from": "a", "to": "b", "ops": [{"transpose": {}}]}, "transpose needs perm"),
        ({"from": "a", "to": "b", "ops": [{"transpose": [1, 1]}]}, "not a permutation"),
        ({"from": "a", "to": "b", "ops": [{"transpose": [0.5]}]}, "integer"),
        ({"from": "a", "to": "b", "ops": [{"scale": 0}]}, "cannot be undone"),
        ({"from": "a", "to": "b", "ops": [{"scale": "__import__('os')"}]}, "are allowed"),
        ({"from": "a", "to": "b", "ops": [{"scale": "9**9**9"}]}, "are allowed"),
        ({"from": "a", "to": "b", "ops": [{"scale": "1/0"}]}, "cannot be evaluated"),
        ({"from": "a", "to": "b", "ops": [{"scale": "(" * 99}]}, "cannot be evaluated"),
        ({"from": "a", "to": "b", "ops": [{"scale": "1" * 101}]}, "at most 100"),
        ({"from": "a", "to": "b", "ops": [{"scale": "sqrt(-head)"}]}, "negative"),
        ({"from": "a", "to": "b", "ops": [{"scale": 2, "only": 1}]}, "`only` must list places in 0..0"),
        ({"from": "a", "to": "b", "ops": [{"scale": True}]}, "not a number"),
        ({"from": "a", "to": "b", "ops": [{"dtype": {"from": "f33", "to": "f32"}}]}, "f33"),
        ({"from": "a", "to": ["b", "c"]}, "become 1, but `to` has 2"),
        ({"from": "a", "to": ["b", "c"], "ops": [{"split": {"sizes": [1]}}]}, "become 1, but `to` has 2"),
        ({"from": "a", "to": "b", "ops": [{"split": {"parts": 0}}]}, "0 parts"),
        ({"from": ["a", "c", "d"], "to": ["b"], "ops": [{"concatenate": 0, "each": 2}]}, "groups of 2"),
        ({"from": ["a", "c"], "to": "b"}, "become 2, but `to` has 1"),
        ({"from": "a", "to": "b", "ops": [{"weight_norm": 0}]}, "groups of 2"),
        ({"from": [], "to": "b"}, "must not be empty"),
        ({"from": "a"}, "needs both"),
        ({"to": "a"}, "needs both"),
        ({}, "needs both"),
        ({"from": "a", "to": "b", "ops": [{"permute_heads": "half", "head_size": "hed"}]}, "did you mean 'head'"),
        ({"from": "a", "to": "b", "ops": [{"permute_heads": "full", "head_size": 4}]}, "half or interleaved"),
        ({"from": "a.{e}", "to": "b", "over": {"e": 0}, "ops": [{"stack": 0}]}, "1 to 4096"),
        ({"from": "a.{e}", "to": "b", "over": {"e": "hed"}, "ops": [{"stack": 0}]}, "did you mean 'head'"),
        ({"from": "a.{e}", "to": "b", "over": {"i": 2}}, "no name holds {i}"),
        ({"from": "a.{e}", "to": "b", "over": "e"}, "`over` must be a mapping"),
        ({"from": "a.{i}", "to": "b"}, "same placeholders"),
        ({"from": "a.{i}", "to": "b.{j}"}, "same placeholders"),
        ({"from": "a.{i}{j}", "to": "b.{i}.{j}"}, "text between"),
        ({"from": "{i}.{i}", "to": "b.{i}"}, "twice"),
        ({"from": "*.*", "to": "*"}, "twice"),
        ({"from": "a{", "to": "b"}, "brace"),
        ({"from": "a{}", "to": "b"}, "neither a word nor"),
        ({"from": "a{i*i}", "to": "b.{i}"}, "not a linear function"),
        ({"from": "a{i+j}", "to": "b.{i}"}, "neither a word nor"),
        ({"from": "a{k:x|x}", "to": "b.{k}"}, "different words"),
        ({"from": "a{k:x|y}", "to": "b.{k:1|2|3}"}, "same length"),
        ({"from": "a{i}2", "to": "b.{i}"}, "a digit next to"),
        ({"from": "*_{word}", "to": "*.{word}"}, "whole path component"),
        ({"from": 3, "to": "b"}, "must be text"),
        ({"from": "", "to": "b"}, "must be text"),
        ({"ignore": "a", "to": "b"}, "takes no 'to'"),
        ({"ignore": "a.{i}", "write": "b"}, "same placeholders"),
        ({"either": [[]]}, "two or more"),
        ({"either": [{"from": "a", "to": "b"}, []]}, "two or more"),
        ({"either": [[{"either": [[], []]}], []]}, "another `either`"),
    ],
)
def test_a_faulty_rule_is_a_diagnostic(rule: Any, expected: str) -> None:
    text = failure(lambda: parse_map([{"from": "ok", "to": "ok"}, rule], {"head": 4}), "E0411")
    assert expected in text
    assert "rule 2" in text


def test_the_number_of_alternatives_is_limited() -> None:
    either = {"either": [[{"from": "a", "to": "b"}], [{"from": "c", "to": "b"}]]}
    assert "128 alternatives" in failure(lambda: parse_map([either] * 7), "E0411")


def test_rules_match_whole_names_and_escape_dots() -> None:
    rules = [{"from": "a.b", "to": "c"}, {"from": "{seg}.w", "to": "{seg}.v"}]
    one = Array(np.ones(1, np.float32))
    for name in ("axb", "a.b.c", "x.y.w"):
        assert name in failure(lambda name=name: import_weights({name: one}, rules, {}))


def test_placeholders_that_could_be_read_in_many_ways_are_refused_and_matching_takes_linear_time() -> None:
    with pytest.raises(ValueError, match="a dot must follow"):
        template("{aa}b{ab}b{ac}b{ad}b{ae}b{af}.x", {})
    begun = time.process_time()
    for text in ("{a:b|bb|bbb}b{c:b|bb}b{i}.x", "*.{a:b|bb}.{i}.x", "*b{a:b|bb}b{c:b|bb}b{d:b|bb}x"):
        assert template(text, {}).match("b" * 900) is None
    assert time.process_time() - begun < 1.0


def test_the_first_alternative_that_fits_the_network_writes() -> None:
    """As for experts, which are SwiGLU's if there is a third weight."""
    one = Array(np.ones((2, 2), np.float32))
    gated = [{"from": ["gate", "up"], "to": ["w1", "w3"]}, {"from": "down", "to": "w2"}]
    plain = [{"from": "fc1", "to": "w1"}, {"from": "fc2", "to": "w2"}]
    rules = [{"either": [gated, plain]}, {"from": "*", "to": "*"}]
    for ours, theirs in ((("w1", "w2", "w3"), {"gate", "up", "down"}), (("w1", "w2"), {"fc1", "fc2"})):
        check_inverse(rules, {name: ([2, 2], "f32") for name in ours})
        assert set(export_weights(dict.fromkeys(ours, one), rules)) == theirs


def test_tensors_that_follow_from_sizes_are_written() -> None:
    rules = """
- {ignore: "blocks.{2*i+1}.mask", for: {i: blocks}, fill: {value: j <= i, shape: [3, 3], dtype: bool}}
- {ignore: ids, fill: {value: j, shape: [1, grid+1], dtype: i64}}
- {ignore: count, fill: {value: 7, shape: [], dtype: i64}}
- {ignore: levels, fill: {value: "0 if level[j] <= level[i] else -inf", shape: [3, 3]}}
- {ignore: sigmas, fill: {value: "exp(log(50) + i*(log(0.5) - log(50))/2)", shape: [3], dtype: f64}}
- {ignore: codes, fill: {value: "2*(i//2**j % 2) - 1", shape: [4, 2]}}
- {ignore: places, fill: {buffers: [rows, columns], shape: [1, 4]}}
- {ignore: absent, fill: {buffers: [rows, planes], shape: [1, 4]}}
- {ignore: "first.count", fill: {value: 1, shape: []}, write: first.w}
- {ignore: "{part}.count", fill: {value: 2, shape: []}, write: "{part}.w"}
- {ignore: "{part}.mask", write: "{part}.w", fill: {value: i + j, shape: ["axis[0]", 1, "axis[0]-1"]}}
- {from: "*", to: "*"}
"""
    sizes = {"grid": 2, "blocks": 2, "level": (0, 1, 1)}
    buffers = {"rows": Array(np.array([[10], [20]])), "columns": Array(np.array([[1, 2]]))}
    own = {name: Array(np.ones(3, np.float32)) for name in ("first.w", "second.w")}
    made = export_weights(own, yaml.safe_load(rules), sizes, buffers)
    found = {name: materialise(tensor) for name, tensor in made.items()}
    masks = {"blocks.1.mask", "blocks.3.mask", "first.mask", "second.mask"}
    counts = {"first.count", "second.count"}
    assert set(found) == {*own, *masks, *counts, "ids", "count", "levels", "sigmas", "codes", "places"}
    assert found["blocks.1.mask"].tolist() == np.tri(3, dtype=bool).tolist()
    assert found["ids"].tolist() == [[0, 1, 2]] and found["count"].shape == () and found["count"] == 7
    assert found["levels"].tolist() == [[0, -np.inf, -np.inf], [0, 0, 0], [0, 0, 0]]
    assert np.allclose(found["sigmas"], [50, 5, 0.5]) and found["sigmas"].dtype == np.float64
    assert found["codes"].tolist() == [[-1, -1], [1, -1], [-1, 1], [1, 1]]
    assert found["second.mask"].tolist() == [[[0, 0]], [[1, 1]], [[2, 2]]]
    assert found["places"].tolist() == [[11, 12, 21, 22]]
    assert (found["first.count"], found["second.count"]) == (1, 2)
    with pytest.raises(DiagnosticError, match="not finite, as int64 must be"):
        export_weights(own, [{"ignore": "a", "fill": {"value": "inf", "shape": [1], "dtype": "i64"}}])
    types = {name: ([3], "f32") for name in own}
    for held in (made, own):
        assert list(import_weights(held, yaml.safe_load(rules), types, sizes)) == list(own)


FIXED = """
- {ignore: filter, fill: {value: "(1 + 2*(i%3 > 0))/8", shape: [4]}}
- {ignore: "{part}.mask", write: "{part}.w", fill: {value: "0 if j <= i else -inf", shape: ["axis[0]", "axis[0]"]}}
- {ignore: tied, write: a.w}
- {ignore: table}
- {ignore: sums, fill: {buffers: [table, table], shape: [2, 1]}}
- {ignore: count, fill: {value: 0, shape: [], dtype: i64}, unused: true}
- {ignore: "*.rest"}
- {from: "*", to: "*"}
"""
MASK = np.array([[0, -np.inf], [0, 0]])


@pytest.mark.parametrize(
    ("name", "same", "other", "says"),
    [
        ("filter", np.array([1, 3, 3, 1]) / 8, np.array([0, 1, 2, 1]) / 4, "it is 0 at [0], should be 0.125"),
        ("filter", np.array([1, 3, 3, 1], np.float16) / 8, np.array([1, 2, 1]) / 4, "its shape is [3], should be [4]"),
        ("a.mask", MASK, np.zeros((2, 2)), "it is 0 at [0, 1], should be -inf"),
        ("a.mask", MASK, np.full((2, 2), np.nan), "it is nan at [0, 0], should be 0"),
        ("tied", np.ones(2), np.array([1, 2]), "it is 2 at [1], should be 1"),
        ("table", np.array([0.5, 5e3 + 1e-4]), np.array([0.5, 5e3 * 1.01]), "it is 5050 at [1], should be 5000"),
        ("sums", np.array([[1], [1e4]]), np.array([[1], [-1e4]]), "it is -10000 at [1, 0], should be 10000"),
        ("count", np.array(0), np.array(57), "it is 57, should be 0"),
        ("other.rest", np.zeros(3), np.ones(5), ""),
    ],
)
def test_ignored_tensors_have_the_value_that_is_written(name: str, same: Any, other: Any, says: str) -> None:
    """Others are refused if the network computes with its own value, noted if nothing does."""
    rules, types = yaml.safe_load(FIXED), {"a.w": ([2], "f32")}
    buffers = {"table": Array(np.array([0.5, 5e3]))}
    own = {"a.w": Array(np.ones(2, np.float32))}
    notes: list[str] = []
    assert import_weights({**own, name: Array(same)}, rules, types, {}, buffers, notes).keys() == types.keys()
    assert notes == []

    def read() -> None:
        import_weights({**own, name: Array(other)}, rules, types, {}, buffers, notes)

    if name in ("count", "other.rest"):
        read()
        assert notes == [f"not kept, since nothing uses it: {name} ({says})"] * bool(says)
    else:
        assert f"{name}: {says}" in failure(read, "E0420")


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ("{ignore: a, unused: true}", "stands beside `fill` or `write`"),
        ("{ignore: a, write: b, unused: 1}", "stands beside `fill` or `write`"),
        ("{ignore: a, fill: 1}", "`fill` is a mapping"),
        ("{ignore: a, fill: {valu: 1}}", "did you mean 'value'"),
        ("{ignore: a, fill: {value: 1, width: 2}}", "by value takes no 'width'"),
        ("{ignore: a, fill: {value: 1}}", "needs the `shape`"),
        ("{ignore: 'a.{i}', fill: {value: 1, shape: [1]}}", "needs `write`"),
        ("{ignore: a, fill: {value: 0, shape: [65536, 65536]}}", "more than"),
        ("{ignore: a, fill: {value: k, shape: [3, 3]}}", "no number is named 'k'"),
        ("{ignore: a, fill: {value: 'grid[i]', shape: [3]}}", r"reads grid\[2\], but grid has 2 numbers"),
        ("{ignore: a, fill: {value: 'grid[i-1]', shape: [2]}}", r"reads grid\[-1\], but"),
        ("{ignore: a, fill: {value: 1, shape: [-1]}}", r"the shape \[-1\], but sizes are at least 0"),
        ("{ignore: a, fill: {buffers: [[1]], shape: [1]}}", "must list computed buffers"),
        ("{ignore: a, fill: {value: '1 +', shape: [1]}}", "cannot read the formula"),
        ("{ignore: a, fill: {value: 'open(1)', shape: [1]}}", "a formula has only"),
        ("{ignore: a, fill: {value: 'sqrt(1, 2)', shape: [1]}}", "sqrt takes 1 arguments, not 2"),
        ("{ignore: a, fill: {value: 'sqrt(-1)', shape: [1]}}", "not a number everywhere"),
        ("{ignore: a, fill: {value: .nan, shape: [1]}}", "the value nan, which is not a number"),
        ("{ignore: a, fill: {value: 0, shape: [1, 1, 1, 1, 1, 1, 1]}}", "at most 6 axes"),
        ("{ignore: a, fill: {buffers: rows, shape: [1]}}", "must list computed buffers"),
    ],
)
def test_faulty_fills_are_refused(rule: str, says: str) -> None:
    with pytest.raises(DiagnosticError, match=says):
        parse_map([yaml.safe_load(rule)], {"grid": (4, 2)})


@pytest.mark.parametrize(
    ("form", "name"),
    [
        ("blocks.{i}.norm2.weight", "blocks.10.norm2.weight"),
        ("conv1*", "conv123"),
        ("{net}.out3.weight", "unet2.out3.weight"),
        ("{part:mp3|wav}_{i}.w", "mp3_0.w"),
        ("{2*i+1}.w", "7.w"),
        ("0.{i}.*", "0.4.a.5"),
        ("9", "9"),
    ],
)
def test_a_name_resembles_the_form_that_it_has(form: str, name: str) -> None:
    """A map asks only rules that a name resembles without its digits."""
    parsed = template(form, {})
    assert parsed.match(name) is not None and parsed.resembles(name.translate(NO_DIGITS))
    assert not parsed.resembles(f"x{name}x".translate(NO_DIGITS))
