"""Counts of weights, operations and memory, and the drawing of a function."""

import re
import xml.etree.ElementTree as ET

import pytest
from modules import sampler

from latentc.ir.builder import ModuleBuilder, module_class
from latentc.ir.core import Function, Module, parameters
from latentc.ir.costs import Costs, flops
from latentc.ir.draw import graph_svg
from latentc.ir.groups import groups_of
from latentc.ir.report import report, short
from latentc.ir.types import B, f32, i64
from latentc.ir.verify import verify

SVG = "{http://www.w3.org/2000/svg}"
# One attention block of width 8 over 4 tokens: qkv, scores and values, projection.
BLOCK = 2 * 4 * 8 * 24 + 2 * 2 * 4 * 4 * 8 + 2 * 4 * 8 * 8


def test_weights_and_operations_of_the_unfolded_network():
    module = sampler(depth=5, steps=3)
    found = report(module, "main")
    assert (found.parameters, found.buffers) == (11 * 8 + 5 * (8 * 24 + 24 + 8 * 8 + 8), 8)
    forward = flops(module, "main")
    # A block adds its result to x; the class and the buffer are added once each.
    assert forward == 5 * (BLOCK + 4 * 8) + 2 * 4 * 8
    step = 2 * forward + 3 * 4 * 8 + 3 * 4 * 8 + 4 * 8  # two branches, combined; two products and a sum; a mean
    assert flops(module, "sample") == 3 * step


def test_rows_folded_into_a_batch_count():
    mb = ModuleBuilder()
    inner = mb.function("inner")
    inner.output(inner.exp(inner.input("x", f32(B, 3))))
    inner.finish()
    b = mb.function("f")
    x = b.input("x", f32(B, 3))
    twice = b.call("inner", "twice", b.concat(x, x, axis=0))
    fixed = b.call("inner", "fixed", b.constant([[1.0, 2.0, 3.0]] * 5))
    b.output(b.call("inner", "once", x), twice, fixed)
    b.finish()
    assert flops(verify(mb.finish()), "f") == 3 * (1 + 2 + 5)


def activation_bytes(module, function):
    """(peak, all) per sample."""
    costs = Costs(module.functions)
    return costs.peak(function), costs.kept(function)


def test_memory_is_that_of_what_lives_at_once():
    mb = ModuleBuilder()
    b = mb.function("f")
    x = b.input("x", f32(B, 100))
    for _ in range(6):
        x = b.reshape(b.tanh(b.reshape(x, shape=(B, 10, 10))), shape=(B, 100))
    b.output(x)
    b.finish()
    module = mb.finish()
    assert activation_bytes(module, "f") == (2 * 400, 6 * 400)
    b = mb.function("g")
    x = b.input("x", f32(B, 100))
    b.output(b.call("f", "f", x) + b.call("f", "f", x))
    b.finish()
    # x, the first result, and the two of the second call, one of which is x.
    assert activation_bytes(mb.finish(), "g") == (3 * 400, 13 * 400)


def test_memory_of_a_loop_is_its_body_and_its_stacks():
    mb = ModuleBuilder()
    b = mb.function("f")
    x, stack = b.loop(
        "step", 10, lambda b, i, inv, car, rows: ([b.tanh(car[0])], [car[0]]), carried=[b.input("x", f32(B, 25))]
    )
    b.output(x, stack)
    b.finish()
    assert activation_bytes(verify(mb.finish()), "f") == (100 + 100 + 1000, 1000)


def test_a_report_has_a_line_for_a_row_of_blocks():
    module = sampler(depth=5)
    found = report(module, "main")
    assert [p.name for p in found.parts] == ["blocks.0 … blocks.4", "its own"]
    blocks, own = found.parts
    assert blocks.times == 5 and blocks.function == "Attention.forward"
    assert blocks.parameters + own.parameters == found.parameters == 1528
    assert blocks.flops + own.flops == found.flops == flops(module, "main")
    assert found.data()["parts"][0]["flops"] == 5 * BLOCK
    text = found.text()
    assert "blocks.0 … blocks.4  (Attention.forward)" in text and "1,528" in text
    assert all(len(line) < 110 for line in text.splitlines())


def test_weights_that_several_calls_share_count_once():
    module = sampler()
    b = ModuleBuilder(module)
    f = b.function("f")
    x, y = f.input("x", f32(B, 4, 8)), f.input("y", i64(B))
    x = f.call("Net.forward", "main", f.call("Net.forward", "main", x, y), y)
    f.output(x)
    f.finish()
    module = b.finish()
    assert [p.parameters for p in report(module, "f").parts] == [report(module, "main").parameters, 0, 0]


def test_numbers_are_short():
    assert [short(n, "B") for n in (0, 999, 1000, 123456, 2.7e9, 4e16)] == [
        "0 B",
        "999 B",
        "1 kB",
        "123 kB",
        "2.7 GB",
        "40 PB",
    ]
    assert short(119e9, "") == "119 G"


@module_class("Half")
def half(b, x, *, dim):
    return b.tanh(b.dense("fc", x, dim))


def skips(depth):
    """Down, and up with skip connections: the way up gets another tensor each time."""
    mb = ModuleBuilder()
    b = mb.function("f")
    x = b.input("x", f32(B, 4))
    kept = []
    for i in range(depth):
        x = b.sub(f"down.{i}", half, x, dim=4)
        kept.append(x)
    x = b.relu(x)
    for i in range(depth):
        x = b.sub(f"up.{i}", half, x + kept.pop(), dim=4)
    b.output(x)
    b.finish()
    return verify(mb.finish())


def test_groups_find_units_of_several_nodes():
    module = skips(4)
    found = [(g.name, g.unit, g.times) for g in groups_of(module, module.functions["f"])]
    assert found == [("down.0 … down.3", 1, 4), ("relu", 1, 1), ("up.0 … up.3", 2, 4)]
    nodes = [n for g in groups_of(module, module.functions["f"]) for n in g.nodes]
    assert nodes == list(module.functions["f"].nodes)
    short_one = skips(2)
    assert all(g.times == 1 for g in groups_of(short_one, short_one.functions["f"]))


def drawn(module, function):
    root = ET.fromstring(graph_svg(module, function))
    texts = [t.text for t in root.iter(f"{SVG}text")]
    return root, texts


def test_a_drawing_names_what_there_is():
    module = sampler(depth=12)
    _, texts = drawn(module, "main")
    assert "Net.forward" in texts and "blocks.0 … blocks.11 ×12" in texts
    assert "Attention(dim=8, heads=2) + add" in texts and "another function" in texts
    _, texts = drawn(module, "sample")
    assert "sample.step ×3" in texts and "main: Net(dim=8, depth=12)" in texts and "loop" in texts
    assert graph_svg(module, "main") == graph_svg(module, "main")


def test_boxes_do_not_overlap_and_stay_inside():
    module = sampler(depth=3)
    for name in module.functions:
        root, _ = drawn(module, name)
        width, height = float(root.get("width")), float(root.get("height"))
        group = root.find(f"{SVG}g")
        shift = float(re.match(r"translate\(([\d.]+) ", group.get("transform"))[1])
        boxes = []
        for rect in group.iter(f"{SVG}rect"):
            x, y, w, h = (float(rect.get(k)) for k in ("x", "y", "width", "height"))
            assert min(x + shift, y) >= 0 and x + shift + w <= width and y + h <= height
            # Boxes behind one another stand for a row of blocks: 3 px apart.
            boxes = [b for b in boxes if (b[0] - x, b[1] - y) not in ((6, 6), (3, 3))]
            boxes.append((x, y, w, h))
        for i, (x, y, w, h) in enumerate(boxes):
            for p, q, r, s in boxes[:i]:
                assert x >= p + r or p >= x + w or y >= q + s or q >= y + h, name


@pytest.mark.parametrize(("readers", "named"), [(8, False), (9, True)])
def test_a_box_that_many_others_read_is_named_in_these(readers, named):
    mb = ModuleBuilder()
    b = mb.function("f")
    x, c = b.input("x", f32(B, 4)), b.input("c", f32(B, 4))
    for i in range(readers):
        x = b.matmul(b.tanh(x), b.transpose(b.param(f"w{i}", f32(4, 4), "ones"), perm=(1, 0))) + c
    b.output(x)
    b.finish()
    root, texts = drawn(mb.finish(), "f")
    assert texts.count("reads c") == named * readers and ("read by 9 boxes" in texts) == named
    arrows = sum(path.get("d").count("M") for path in root.iter(f"{SVG}path") if path.get("marker-end"))
    assert arrows == 5 * readers + 1 - named * readers


def test_names_are_text_not_markup():
    module = sampler()
    fn = module.functions["Attention.forward"]
    strange = fn.with_(name='<script>"&')
    root, texts = drawn(Module({strange.name: strange}, {}), strange.name)
    assert strange.name in texts and root.find(f".//{SVG}script") is None


def test_a_function_of_layout_only_and_an_empty_one():
    mb = ModuleBuilder()
    b = mb.function("f")
    b.output(b.reshape(b.input("x", f32(B, 4)), shape=(B, 2, 2)))
    b.finish()
    _, texts = drawn(mb.finish(), "f")
    assert "reshape" in texts
    empty = Module({"e": Function("e", (), (), (), ())}, {})
    assert not parameters(empty, "e") and "<svg" in graph_svg(empty, "e")


def test_a_derivative_costs_what_it_expands_to():
    """By the input alone: forwards a product, backwards another with the same weight."""
    mb = ModuleBuilder()
    f = mb.function("f")
    f.output(f.linear(f.input("x", f32(B, 4)), f.param("w", f32(8, 4), "normal")))
    f.finish()
    b = mb.function("g")
    b.output(b.gradient("f", "net", [b.input("x", f32(B, 4))]))
    b.finish()
    module = mb.finish()
    assert flops(module, "f") == 64 and 128 <= flops(module, "g") <= 128 + 8 + 8
    assert activation_bytes(module, "g")[0] >= activation_bytes(module, "f")[0]
