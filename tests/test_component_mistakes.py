"""Whatever is wrong in a component of a user's own is reported at the line of the component."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
from own_packages import fresh

from latentc import api
from latentc.cli import run
from latentc.components import contracts
from latentc.components.capabilities import Role

__all__ = ["fresh"]
pytestmark = pytest.mark.usefixtures("fresh")

# (component, text, what stands there instead, code, the line that is shown, what is said)
CASES = {
    "builder": ("network", 'b.dense("enter"', 'b.dens("enter"', "E0903", "b.dens(", "did you mean `dense`?"),
    "op": ("network", "b.reshape(h", "b.reshpe(h", "E0903", "b.reshpe(h", "there is no op `reshpe`"),
    "shape": (
        "network",
        "channels * pixels)",
        "channels * pixels + 1)",
        "E0903",
        "b.reshape(x",
        "raised by latentc/ir",
    ),
    "argument": ("network", "dim=64, max", "dims=64, max", "E0903", "dims=64", "OpError"),
    "name": ("network", "out_channels * pixels)", "outchannels * pixels)", "E0903", "outchannels", "`out_channels`?"),
    "results": ("network", ', out="x")', ', out="x"), x', "E0903", "add_method(", "forward"),
    "roleless": ("network", ', "state")', ")", "E0903", 'Port("x"', "'role'"),
    "role": ("network", '"state")', '"stat")', "E0904", "def build", "did you mean `state`?"),
    "port": (
        "network",
        'Port("t", f32(B), "time")',
        'Port("t", f32(B), "noise")',
        "E0904",
        "def build",
        "`denoise` prom",
    ),
    "method": (
        "network",
        '({"denoise"})',
        '({"denoise", "next_token"})',
        "E0904",
        "def build",
        "`next_token` promises `forward`",
    ),
    "capability": ("network", '({"denoise"})', '({"denoize"})', "E0904", "class MyNet", "did you mean `denoise`?"),
    "capabilities": ("network", 'frozenset({"denoise"})', '"denoise"', "E0904", "class MyNet", "a set of capabilities"),
    "provides": ("network", "    PROVIDES =", "    # PROVIDES =", "E0904", "class MyNet", "does not set `PROVIDES`"),
    "unannotated": ("network", "    PROVIDES =", "    PROVIDE =", "E0902", "class MyNet", "non-annotated attribute"),
    "nothing": ("network", "        return Network(", "        Network(", "E0904", "def build", "returned None"),
    "signature": ("network", ", out_channels: int) ->", ") ->", "E0904", "def build", "too many positional"),
    "abstract": ("network", "def build(", "def built(", "E0209", "", "does not define build"),
    "example": ("network", '"width": 16}', '"width": "a"}', "E0904", "class MyNet", "EXAMPLE"),
    "syntax": ("network", "def build(", "def build((", "E0902", "def build((", "SyntaxError"),
    "import": ("network", "import Network, Port", "import Netwrk, Port", "E0902", "import Netwrk", "`Network`?"),
    "package": (
        "network",
        "import annotations",
        "import annotations\nimport torhc",
        "E0902",
        "import torhc",
        "installed?",
    ),
    "field": ("network", "width: int = Field(", "width = Field(", "E0902", "class MyNet", "requires a type annotation"),
    "division": ("network", "assert spec.data.shape is not None", "1 / 0", "E0903", "1 / 0", "asks for `build(self"),
    "form": ("condition", "(angle,) = operands", "angle, _ = operands", "E0903", "angle, _", "not enough values"),
    "missing": ("condition", "def vector(", "def vectr(", "E0904", "class MyCond", "has no `vector`"),
    "list": ("objective", "return (Update(", "return list((Update(", "E0902", "return list(", "SyntaxError"),
    "updates": ("objective", "        return (Update(", "        (Update(", "E0904", "def build", "returned None"),
    "entry": ("objective", 'mb.entries["loss"] =', "_ =", "E0904", "def build", "no entry of the module"),
    "draw": ("objective", 'Draw("t", "uniform")', 'Draw("t", "unifrm")', "E0904", "def build", "mean `uniform`?"),
    "undrawn": ("objective", 'Draw("t", "uniform"), ', "", "E0904", "def build", "its loss has the input `t`"),
    "metrics": ("objective", '("loss",)),)', '("loss", "more")),)', "E0904", "def build", "1 outputs and 2 names"),
    "need": (
        "objective",
        'Need("main", "denoise")',
        'Need("main", "denois")',
        "E0904",
        "def needs",
        "did you mean `denoise`?",
    ),
    "declared": (
        "objective",
        'def needs(self, spec: Spec) -> tuple[Need, ...]:\n        return (Need("main", "denoise"),)',
        'NEEDS = "denois"',
        "E0904",
        "class MyObj",
        "did you mean `denoise`?",
    ),
    "column": ("sampler", 'row["d"]', 'row["dd"]', "E0903", 'row["dd"]', "KeyError"),
    "table": ("sampler", "np.diff(grid.times)", "np.dif(grid.times)", "E0903", "np.dif(", "did you mean `diff`?"),
    "property": (
        "sampler",
        "    def interval(",
        "    @property\n    def interval(",
        "E0904",
        "def interval",
        "a property",
    ),
    "width": ("block", 'dense(b, "fc2", h * h, dim', 'dense(b, "fc2", h * h, hidden', "E0903", "", ""),
}


@pytest.mark.parametrize("name", CASES)
def test_a_mistake_is_shown_where_it_is(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    component, text, instead, code, line, said = CASES[name]
    folder = api.init_component(component, tmp_path / "mypkg") / "mypkg"
    file = folder / f"my_{component}.py"
    source = file.read_text()
    assert source.count(text) >= 1
    file.write_text(source.replace(text, instead))
    assert run(["check", f"my_{component}", "--components", str(folder)]) == 1
    shown = capsys.readouterr().err
    assert f"error[{code}" in shown and "E0901" not in shown and "Traceback" not in shown
    assert f"my_{component}" in shown or code == "E0209"
    assert line in shown and said in shown, shown
    if line:
        assert f"{file}:" in shown


def test_a_mistake_outside_of_building(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No line of the package runs when the fault shows: the package is named, and what raised."""
    folder = api.init_component("network", tmp_path / "mypkg") / "mypkg"
    file = folder / "my_network.py"
    file.write_text(file.read_text().replace("self.PROVIDES)", "self.PROVIDES, 3)"))
    assert run(["check", "my_network", "--components", str(folder)]) == 1
    shown = capsys.readouterr().err
    assert "E0903" in shown and "with the component `my_network`" in shown and "latentc/lower/__init__.py" in shown


def test_every_capability_has_a_contract() -> None:
    for capability in contracts.known():
        assert contracts.words(capability)
        for ports in contracts.promised(capability).values():
            assert {word.rstrip("?*+") for word in ports.replace("->", "").split()} <= set(get_args(Role)), ports


@pytest.mark.parametrize(
    ("roles", "fits"),
    [
        (("state",), False),
        (("state", "time"), True),
        (("condition", "time", "state", "condition"), True),
        (("state", "time", "time", "time"), False),
        (("state", "time", "noise"), False),
    ],
)
def test_ports_fit_a_contract(roles: tuple[Role, ...], fits: bool) -> None:
    assert contracts._fits(list(roles), "state time time? condition*") == fits


def test_a_package_defines_a_capability(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = api.init_component("network", tmp_path / "mypkg") / "mypkg"
    file = folder / "my_network.py"
    file.write_text(file.read_text().replace('({"denoise"})', '({"denoise", "dream"})'))
    with (folder / "__init__.py").open("a") as init:
        init.write('CAPABILITIES = {"dream": {"words": "dreams", "methods": {"dream": "state -> output"}}}\n')
    assert run(["check", "my_network", "--components", str(folder)]) == 1
    assert "`dream` promises `dream`: state -> output" in capsys.readouterr().err
