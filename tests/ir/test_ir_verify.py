"""The verifier finds every kind of fault, names the function and shows the nodes around it."""

import pytest
from ir_parse import module_from_text
from modules import sampler

from latentc.ir.builder import ModuleBuilder, module_class
from latentc.ir.core import Function, Init, Module, Node, Origin, Param, Value, parameters
from latentc.ir.ops import OpError
from latentc.ir.text import HEADER, text_from_module
from latentc.ir.types import B, f32, i64
from latentc.ir.verify import VerifyError, verify

PRELUDE = f"""{HEADER}
entry f = "f"

fn "g" (%x: f32[B, 2]) {{
  weight %w: f32[2] = ones {{}}
  %y: f32[B, 2] = mul(%x, %w)
  return %y
}}
"""


def broken(body, signature="%x: f32[B, 2], %n: i64[]", result="%x"):
    return module_from_text(f'{PRELUDE}\nfn "f" ({signature}) {{\n{body}\n  return {result}\n}}\n')


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("%x: f32[B, 2] = exp(%x)", "exp defines x a second time"),
        ("%y: f32[B, 2] = expo(%x)", "unknown op expo"),
        ("%y: f32[B, 3] = exp(%x)", "exp gives f32[B, 2], not f32[B, 3]"),
        ("%y: f32[B, 2] = add(%x, %n)", "add: operands have dtypes f32 and i64; cast one"),
        ("%y: f32[B, 2] = softmax(%x)", "softmax: attribute axis is missing"),
        ('%y: f32[B, 2] = call(%x) {fn="h", name="h"}', "call names h, which is not in the module"),
        ('%y: f32[B, 2] = call(%x) {name="h"}', "call: attribute fn is 'missing'"),
        ('%y: f32[B, 2] = call(%x, %n) {fn="g", name="g"}', "call: g takes 1 operands, got 2"),
        ('%y: f32[B, 2] = call(%n) {fn="g", name="g"}', "call: g takes x: f32[B, 2], got i64[]"),
        ('%y: f32[B, 3] = call(%x) {fn="g", name="g"}', "call gives f32[B, 2], not f32[B, 3]"),
        ('%y: f32[B, 2] = loop(%x) {body="g", trip=3, invariants=0, carried=1}', "loop: g takes 1 operands, got 2"),
        ('%y: f32[B, 2] = loop(%x) {body="g", trip=0, invariants=0, carried=1}', "loop: trip count 0"),
        ('%y: f32[B, 2] = loop(%x) {body="g", trip=1, invariants=2, carried=1}', "loop: 1 operands for 2 invariants"),
        (
            '%y: f32[B, 2] = guided(%x, %n) {fn="g", name="g", kinds=("shared"), guides=("guided"), channels=none}',
            "guided: scale is i64[]; wants float [B]",
        ),
        (
            '%y: f32[B, 2] = guided(%x) {fn="g", name="g", kinds=("odd"), guides=("guided"), channels=none}',
            "guided: operand kinds are ('odd',)",
        ),
        ('%y: f32[B, 2] = gradient(%x) {fn="g", name="g", wrt=(0)}', "gradient: attribute of is 'missing'"),
        ('%y: f32[B, 2] = gradient(%x) {fn="g", name="g", of=1, wrt=(0)}', "gradient: g has no output 1; it has 1"),
        ('%y: f32[B, 2] = gradient(%x) {fn="g", name="g", of=0, wrt=(1)}', "gradient: g has no input 1; it has 1"),
        (
            '%y: f32[B, 2] = gradient(%x) {fn="g", name="g", of=0, wrt=()}',
            "wants at least one input, and no input twice",
        ),
        (
            '%y: f32[B, 2] = gradient(%x) {fn="g", name="g", of=0, wrt=(0)}',
            "gradient gives f32[B, 2], f32[B, 2], not f32[B, 2]",
        ),
        ('%y: f32[B, 2] = jvp(%x) {fn="g", name="g", of=0, wrt=(0)}', "jvp: takes 1 operands and a tangent for each"),
        ('%y: f32[B, 2] = jvp(%x, %n) {fn="g", name="g", of=0, wrt=(0)}', "jvp: tangent of input 0 is i64[]"),
    ],
)
def test_faults_of_a_node(body, message):
    with pytest.raises(VerifyError) as caught:
        verify(broken(f"  %before: i64[] = neg(%n)\n  {body}\n  %after: i64[] = neg(%n)"))
    assert caught.value.function == "f" and message in str(caught.value)
    first, *context = str(caught.value).splitlines()
    assert first.startswith("in f: ")
    assert [line[:4] for line in context] == ["    ", "  > ", "    "]
    assert "%before" in context[0] and body[:8] in context[1] and "%after" in context[2]


def test_a_value_of_another_function_or_from_later_on():
    module = broken("  %y: f32[B, 2] = exp(%x)\n  %z: f32[B, 2] = tanh(%y)", result="%z")
    f = module.functions["f"]
    swapped = module.with_(functions={**module.functions, "f": f.with_(nodes=f.nodes[::-1])})
    with pytest.raises(VerifyError, match=r"y is used before it is defined\n  > .*tanh"):
        verify(swapped)
    foreign = f.with_(outputs=(module.functions["g"].inputs[0],))
    with pytest.raises(VerifyError, match=r"output x is not defined\n.*exp"):
        verify(module.with_(functions={**module.functions, "f": foreign}))


def test_names_entries_and_signatures():
    module = broken("")
    f = module.functions["f"]

    def with_f(**changes):
        return module.with_(functions={**module.functions, "f": f.with_(**changes)})

    with pytest.raises(VerifyError, match="entry names nothing"):
        verify(module.with_(entries={"f": "nothing"}))
    with pytest.raises(VerifyError, match="not a name of an entry"):
        verify(module.with_(entries={"a b": "f"}))
    with pytest.raises(VerifyError, match="the signature defines x a second time"):
        verify(with_f(inputs=(*f.inputs, Value("x", f32()))))
    with pytest.raises(VerifyError, match="cannot be written"):
        verify(with_f(inputs=(*f.inputs, Value("a: b", f32()))))
    with pytest.raises(VerifyError, match="not a method of a class"):
        verify(with_f(origin=Origin("Net\n", {})))
    with pytest.raises(VerifyError, match="is filed under 'h'"):
        verify(module.with_(functions={"h": f}))


def test_circles_of_calls():
    call = '  %y: f32[B, 2] = call(%x) {{fn="{}", name=""}}\n  return %y\n}}\n'
    text = "".join(f'\nfn "{a}" (%x: f32[B, 2]) {{\n{call.format(b)}' for a, b in ("pq", "qr", "rp"))
    with pytest.raises(VerifyError, match="in a circle: p -> q -> r -> p"):
        verify(module_from_text(HEADER + "\n" + text))


def test_stages():
    module = sampler()
    verify(module, "train")
    for stage, op in (("inference", "dropout"), ("expanded", "dropout"), ("inlined", "dropout")):
        with pytest.raises(VerifyError, match=f"{op} may not appear at stage {stage}"):
            verify(module, stage)
    plain = module_from_text(text_from_module(module).replace("= dropout(", "= tanh(").replace(" {p=0.1}", ""))
    verify(plain, "inference")
    with pytest.raises(VerifyError, match="guided may not appear at stage expanded"):
        verify(plain, "expanded")


def one_weight(name, shape, origin=None):
    """A function y = sum(w) * x with weight w of a shape."""
    x, w = Value("x", f32(B)), Value("w", f32(*shape))
    total, y = Value("t", f32()), Value("y", f32(B))
    nodes = (
        Node("sum", (w,), (total,), {"axes": tuple(range(len(shape))), "keepdims": False}),
        Node("mul", (x, total), (y,)),
    )
    return Function(name, (x,), (Param(w, Init("ones")),), nodes, (y,), origin)


def calls(name, *targets, op="call"):
    """A function that calls others in a row: (function, name)."""
    x = Value("x", f32(B))
    nodes, last = [], x
    for i, (fn, prefix) in enumerate(targets):
        out = Value(f"y{i}", f32(B))
        nodes.append(Node("call", (last,), (out,), {"fn": fn, "name": prefix}))
        last = out
    return Function(name, (x,), (), tuple(nodes), (last,))


def module_of(*functions):
    return Module({f.name: f for f in functions}, {"main": functions[-1].name})


def test_weights_shared_by_methods_must_agree():
    args = {"dim": 2}
    same = module_of(one_weight("a", (2,), Origin("A", args)), one_weight("b", (2,), Origin("A", args, "decode")))
    verify(same)
    other = module_of(one_weight("a", (2,), Origin("A", args)), one_weight("b", (3,), Origin("A", args, "decode")))
    with pytest.raises(VerifyError, match=r"weight w is f32\[2\] and f32\[3\] in another method"):
        verify(other)
    sizes = module_of(one_weight("a", (2,), Origin("A", args)), one_weight("b", (3,), Origin("A", {"dim": 3})))
    verify(sizes)
    # Two networks of one size that differ in an option.
    verify(module_of(one_weight("a", (2,), Origin("A", args)), one_weight("b", (3,), Origin("A", args))))
    # A program calls one method of each, so that each method is there once.
    encode, decode = Origin("A", args, "encode"), Origin("A", args, "decode")
    verify(module_of(one_weight("A.encode", (2,), encode), one_weight("A.decode#2", (3,), decode)))


def test_weights_shared_by_calls_must_agree():
    a, b = one_weight("a", (2,)), one_weight("b", (3,))
    verify(module_of(a, b, calls("f", ("a", "left"), ("b", "right"))))
    verify(module_of(a, calls("f", ("a", "left"), ("a", "left"))))
    with pytest.raises(VerifyError, match=r"in f: weight net\.w is f32\[2\] and f32\[3\] in b"):
        verify(module_of(a, b, calls("f", ("a", "net"), ("b", "net"))))
    deep = module_of(a, b, calls("p", ("a", "net")), calls("q", ("b", "net")), calls("f", ("p", "m"), ("q", "m")))
    with pytest.raises(VerifyError, match=r"weight m\.net\.w is"):
        verify(deep)
    with pytest.raises(VerifyError, match=r"weight w is"):
        verify(module_of(a, b, calls("f", ("a", ""), ("b", ""))))


@pytest.mark.parametrize(("own", "outer", "name"), [(True, "", "a"), (False, "a.b", "a")])
def test_dotted_names_that_meet_must_agree(own, outer, name):
    """`a.w` may be a function's own weight, or weight `w` of what it calls as `a`."""
    mb = ModuleBuilder()
    for fn, path, size in (("g", "w" if own else "b.w", 4), ("h", "w", 1)):
        b = mb.function(fn)
        b.output(b.input("x", f32(B, 4)) * b.param(path, f32(size), "ones"))
        b.finish()
    b = mb.function("f")
    x = b.input("x", f32(B, 4))
    x = x * b.param("a.w", f32(1), "ones") if own else b.call("h", outer, x)
    b.output(b.call("g", name, x))
    mb.entries["f"] = b.finish()
    with pytest.raises(VerifyError, match=r"weight a\.(b\.)?w is f32\[1\] and f32\[4\] in g"):
        verify(mb.finish())


def test_a_scale_is_of_the_batch_that_it_guides():
    mb = ModuleBuilder()
    b = mb.function("g")
    b.output(b.tanh(b.input("x", f32(B, 4))))
    b.finish()
    b = mb.function("f")
    with pytest.raises(OpError, match=r"the scale is f32\[B\], but f32\[4\*B, 4\] has another batch size"):
        b.guided("g", "g", [b.input("x", f32(2 * B, 4))], ["shared"], [], b.input("scale", f32(B)))


def test_a_loop_returns_something():
    mb = ModuleBuilder()
    b = mb.function("f")
    with pytest.raises(OpError, match="returns nothing"):
        b.loop("step", 3, lambda b, i, kept, state, rows: ([], []), invariants=[b.input("x", f32(B))])


def test_weights_of_a_loop_body_are_those_of_its_place():
    mb = ModuleBuilder()
    b = mb.function("f")
    x = b.input("x", f32(B, 2))
    x = x + b.param("w", f32(2), "zeros")

    def body(b, i, invariants, carried, rows):
        return [carried[0] * b.param("w", f32(1), "zeros")], []

    b.output(b.loop("steps", 2, body, carried=[x]))
    mb.entries["f"] = b.finish()
    with pytest.raises(VerifyError, match=r"weight w is f32\[2\] and f32\[1\] in steps"):
        verify(mb.finish())


@module_class("Deep")
def deep(b, x, *, depth, levels):
    for i in range(depth):
        x = b.sub(f"parts.{i}", deep, x, depth=depth, levels=levels - 1) if levels else b.dense("fc", x, 2)
    return x


def test_cost_follows_the_functions_not_what_they_unfold_to():
    """30 levels of 3 calls unfold to 3^30 weights; only as many functions as levels are looked at."""
    mb = ModuleBuilder()
    mb.entries["main"] = mb.define(deep, [f32(B, 2)], {"depth": 3, "levels": 30})
    verify(mb.finish())


def test_paths_of_weights():
    paths = parameters(sampler(), "sample")
    assert "main.blocks.1.qkv.weight" in paths and "main.classes.weight" in paths
    assert paths["main.bias"].kind == "buffer"


def test_functions_being_built_keep_their_names():
    mb = ModuleBuilder()
    first, second = mb.function("f"), mb.function("f")
    for b in (first, second):
        b.output(b.input("n", i64()))
    assert [second.finish(), first.finish()] == ["f#2", "f"]

    b = mb.function("nest")

    def outer(b, i, invariants, carried, rows):
        return b.loop("step", 2, lambda b, i, inv, car, rows: ([car[0] + 1.0], []), carried=carried), []

    b.output(b.loop("step", 2, outer, carried=[b.input("x", f32(2))]))
    b.finish()
    assert {"step", "step#2"} <= set(verify(mb.finish()).functions)
