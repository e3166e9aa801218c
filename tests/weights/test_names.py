"""Name maps: bijections on the published systems' names, every operation both ways, and what does not fit."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from latentc.diagnostics import CODES, DiagnosticError
from latentc.weights import Array, Expr, check_bijection, export_weights, import_weights, materialise, parse_rules
from latentc.weights.names import Types
from latentc.weights.rules import OPTIONS

DIT = """
- {from: pos_embed, op: ignore}
- {from: x_embedder.proj.*, to: x_embedder.*}
- {from: t_embedder.mlp.0.*, to: t_embedder.fc1.*}
- {from: t_embedder.mlp.2.*, to: t_embedder.fc2.*}
- {from: y_embedder.embedding_table.weight, to: y_embedder.weight}
- {from: 'blocks.{i}.adaLN_modulation.1.*', to: 'blocks.{i}.adaLN.*'}
- {from: final_layer.adaLN_modulation.1.*, to: final_layer.adaLN.*}
- {from: '*', to: '*'}
"""

LLAMAGEN = """
- {from: freqs_cis, op: ignore}
- {from: causal_mask, op: ignore}
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


def values(types: Types, seed: int = 0) -> dict[str, Expr]:
    rng = np.random.default_rng(seed)
    return {name: Array(rng.standard_normal(shape).astype(np.float32)) for name, (shape, _) in types.items()}


def failure(call: Any, code: str = "E0410") -> str:
    with pytest.raises(DiagnosticError) as caught:
        call()
    assert {d.code for d in caught.value.diagnostics} == {code}
    assert code in CODES
    return str(caught.value)


@pytest.mark.parametrize(("depth", "width"), [(2, 64), (12, 8), (28, 1152)])
def test_dit_and_sit_names_are_a_bijection(depth: int, width: int) -> None:
    official = dit_official(depth, width)
    check_bijection(official, dit_ours(official), yaml.safe_load(DIT))


def test_llamagen_names_are_a_bijection() -> None:
    official = llamagen_official(12)
    ours = {name.replace(".embedding_table", ""): kind for name, kind in official.items()}
    check_bijection({**official, "freqs_cis": ([1, 2, 3], "f32")}, ours, yaml.safe_load(LLAMAGEN))


def test_dit_there_and_back() -> None:
    official = dit_official()
    rules, given = yaml.safe_load(DIT), values(dit_official())
    ours = import_weights(given, rules, dit_ours(official))
    assert list(ours) == list(dit_ours(official))
    assert ours["blocks.1.adaLN.bias"] is given["blocks.1.adaLN_modulation.1.bias"]
    back = export_weights(ours, rules, official)
    given_constant = given.pop("pos_embed")
    assert back == given
    assert export_weights(ours, rules, official, constants={"pos_embed": given_constant})["pos_embed"] is given_constant
    assert export_weights(ours, rules) == given


OPERATIONS = """
- {from: 'blocks.{i}.lin.weight', to: 'blocks.{i}.lin.weight', op: transpose, perm: [1, 0]}
- {from: 'conv.{part}.w', to: 'embed.{part}.w', op: reshape, shape: [4, -1], official_shape: [4, 2, 3]}
- {from: 'blocks.{i}.qkv.*', op: split, into: ['blocks.{i}.q.*', 'blocks.{i}.k.*', 'blocks.{i}.v.*'],
   sizes: [8, width, 4]}
- {from: ['mlp.gate', 'mlp.up'], to: mlp.both, op: concatenate, axis: 1}
- {from: 'layers.{i}.expert.{e}.w', to: 'layers.{i}.experts', op: stack, over: e, count: 3}
- {from: rot, to: rotary, op: permute_heads, head_size: head, heads: 1, order: half}
- {from: cache, op: ignore}
- {to: table, op: ignore}
"""
OFFICIAL: Types = {
    "blocks.0.lin.weight": ([2, 3], "f32"),
    "blocks.7.lin.weight": ([2, 3], "f32"),
    "conv.a.w": ([4, 2, 3], "f32"),
    "blocks.0.qkv.weight": ([16, 5], "f32"),
    "blocks.0.qkv.bias": ([16], "f32"),
    "mlp.gate": ([3, 2], "f32"),
    "mlp.up": ([3, 2], "f32"),
    **{f"layers.5.expert.{e}.w": ([2, 3], "f32") for e in (2, 0, 1)},
    "rot": ([8, 3], "f32"),
    "cache": ([9], "f32"),
}
OURS: Types = {
    "table": ([2], "f32"),
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
    "layers.5.experts": ([3, 2, 3], "f32"),
    "rotary": ([8, 3], "f32"),
}
SYMBOLS = {"width": 4, "head": 4}


def test_every_operation_both_ways() -> None:
    rules, given = yaml.safe_load(OPERATIONS), values(OFFICIAL)
    check_bijection(OFFICIAL, OURS, rules, SYMBOLS)
    ours = {name: materialise(expr) for name, expr in import_weights(given, rules, OURS, SYMBOLS).items()}
    raw = {name: materialise(expr) for name, expr in given.items()}
    np.testing.assert_array_equal(ours["blocks.7.lin.weight"], raw["blocks.7.lin.weight"].T)
    np.testing.assert_array_equal(ours["embed.a.w"], raw["conv.a.w"].reshape(4, 6))
    np.testing.assert_array_equal(ours["blocks.0.k.weight"], raw["blocks.0.qkv.weight"][8:12])
    np.testing.assert_array_equal(ours["mlp.both"], np.concatenate([raw["mlp.gate"], raw["mlp.up"]], 1))
    np.testing.assert_array_equal(ours["layers.5.experts"][2], raw["layers.5.expert.2.w"])
    np.testing.assert_array_equal(ours["rotary"], raw["rot"][[0, 2, 1, 3, 4, 5, 6, 7]])
    assert "table" not in ours
    back = export_weights({n: Array(a) for n, a in ours.items()}, rules, OFFICIAL, SYMBOLS)
    assert set(back) == set(OFFICIAL) - {"cache"}
    for name, expr in back.items():
        np.testing.assert_array_equal(materialise(expr), raw[name])
    # Nothing but names is needed on the way back, and a weight of ours that they compute stays here.
    assert set(export_weights(values(OURS), rules, symbols=SYMBOLS)) == set(back)


def test_every_operation_is_documented_and_tested() -> None:
    assert {rule.op for rule in parse_rules(yaml.safe_load(OPERATIONS), SYMBOLS)} | {"rename"} == set(OPTIONS)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 3), st.integers(1, 3)), max_size=8, unique=True),
    st.permutations(range(3)),
)
def test_random_models_come_back(names: list[tuple[str, int, int]], perm: list[int]) -> None:
    official = {f"{kind}.{i}.x{n}.w": ([n, 2, 3], "f32") for kind, i, n in names}
    rules = [
        {"from": "a.{i}.{name}.w", "to": "{name}.a{i}.w", "op": "transpose", "perm": perm},
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
    back = export_weights(ours, rules, official)
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
    join = [{"from": ["a", "b"], "to": "x", "op": "concatenate"}]
    text = failure(lambda: import_weights({"a": one}, join, {"x": ([4, 2], "f32")}))
    assert "that a rule needs and that are missing (1):\n" in text
    split = [{"from": "x", "op": "split", "into": ["a", "b"], "axis": 1}]
    assert "missing" in failure(lambda: export_weights({"a": one}, split))
    odd = [{"from": "x", "op": "split", "into": ["a", "b", "c"]}]
    assert "does not divide" in failure(lambda: import_weights({"x": one}, odd, {}))
    turned = [{"from": "x", "to": "y", "op": "transpose", "perm": [0, 2, 1]}]
    assert "permutation of the axes" in failure(lambda: import_weights({"x": one}, turned, {"y": ([2, 2], "f32")}))
    flat = [{"from": "x", "to": "y", "op": "reshape"}]
    assert import_weights({"x": one}, flat, {"y": ([4], "f32")})["y"].shape == (4,)
    assert "official_shape" in failure(lambda: export_weights({"y": one}, flat))
    assert export_weights({"y": one}, flat, {"x": ([4], "f32")})["x"].shape == (4,)
    assert "gives already" in failure(lambda: export_weights({"x": one}, rename, constants={"a": one}))
    assert "does not give" in failure(lambda: export_weights({}, rename, {"a": ([2, 2], "f32")}))


def test_a_map_that_loses_something_is_no_bijection() -> None:
    both = {"a": ([4], "f32"), "b": ([4], "f32")}
    # Import takes a and b to x; the way back can give only one of them.
    assert "two tensors" in failure(
        lambda: check_bijection(both, {"x": ([4], "f32")}, [{"from": "a", "to": "x"}, {"from": "b", "to": "x"}])
    )
    text = failure(lambda: check_bijection({"a": ([4], "f32")}, {"x": ([3], "f32")}, [{"from": "a", "to": "x"}]))
    assert "should be [3]" in text


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("text", "must be a mapping"),
        ({"from": "a", "to": "b", "op": "transpos"}, "did you mean 'transpose'"),
        ({"from": "a", "to": "b", "prem": [0]}, "rename takes no 'prem'"),
        ({"from": "a", "to": "b", "op": "transpose", "prem": [0]}, "did you mean 'perm'"),
        ({"from": "a"}, "rename needs to"),
        ({"from": "a", "to": "b", "op": "transpose"}, "transpose needs perm"),
        ({"from": "a", "to": "b", "op": "transpose", "perm": [1, 1]}, "not a permutation"),
        ({"from": "a", "to": "b", "op": "transpose", "perm": 1}, "list of numbers"),
        ({"from": "a", "to": "b", "op": "transpose", "perm": [0.5]}, "whole number"),
        ({"from": "a", "into": "b", "op": "split"}, "lists of names"),
        ({"from": "a", "into": ["b", "c"], "op": "split", "sizes": [1]}, "same length"),
        ({"from": ["a", "c"], "to": "b", "op": "concatenate", "sizes": [1]}, "same length"),
        ({"from": "a", "to": "b", "op": "concatenate"}, "lists of names"),
        ({"from": ["a"], "to": "b"}, "lists of names"),
        ({"from": "a", "to": "b", "op": "permute_heads", "order": "half", "head_size": "hed"}, "did you mean 'head'"),
        ({"from": "a", "to": "b", "op": "permute_heads", "order": "full", "head_size": 4}, "half or interleaved"),
        ({"from": "a.{e}", "to": "b", "op": "stack", "over": "e", "count": 0}, "1..4096"),
        ({"from": "a.{e}", "to": "b", "op": "stack", "over": "e", "count": "hed"}, "did you mean 'head'"),
        ({"from": "a.{e}", "to": "b", "op": "stack", "over": "i", "count": 2}, "must hold {i}"),
        ({"from": ["a.{e}"], "to": "b", "op": "stack", "over": "e", "count": 2}, "must hold {e}"),
        ({"from": "a.{e}", "to": "b.{e}", "op": "stack", "over": "e", "count": 2}, "same placeholders"),
        ({"from": "a", "to": "b", "op": "ignore"}, "either"),
        ({"op": "ignore"}, "either"),
        ({"from": "a.{i}", "to": "b"}, "same placeholders"),
        ({"from": "a.{i}", "to": "b.{j}"}, "same placeholders"),
        ({"from": "a.{i}{j}", "to": "b.{i}.{j}"}, "text between"),
        ({"from": "{i}.{i}", "to": "b.{i}"}, "twice"),
        ({"from": "*.*", "to": "*"}, "twice"),
        ({"from": "a{", "to": "b"}, "brace"),
        ({"from": 3, "to": "b"}, "must be text"),
        ({"from": "", "to": "b"}, "must be text"),
    ],
)
def test_a_faulty_rule_is_a_diagnostic(rule: Any, expected: str) -> None:
    text = failure(lambda: parse_rules([{"from": "ok", "to": "ok"}, rule], {"head": 4}), "E0411")
    assert expected in text
    assert "rule 2" in text


def test_rules_match_whole_names_and_escape_dots() -> None:
    rules = [{"from": "a.b", "to": "c"}, {"from": "{seg}.w", "to": "{seg}.v"}]
    one = Array(np.ones(1, np.float32))
    for name in ("axb", "a.b.c", "x.y.w"):
        assert name in failure(lambda name=name: import_weights({name: one}, rules, {}))


@pytest.mark.parametrize("op", [{}, {"kind": "x"}, [], ["rename"], None, 3])
def test_an_operation_that_is_no_word_is_a_diagnostic(op: Any) -> None:
    with pytest.raises(DiagnosticError) as error:
        parse_rules([{"from": "a", "to": "b", "op": op}])
    assert error.value.diagnostics[0].code == "E0411"
