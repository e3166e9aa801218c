"""The optimisers of an emitted project: what decays, what moves how, and that a resumed run is bit-equal."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from forked_training import trained
from safetensors.torch import load_file
from test_train import SHORT, TINY, run, same
from torch import nn
from torch_module import loaded

from latentc import components
from latentc.components.optimizer import Optimizer
from latentc.diagnostics import DiagnosticError
from latentc.emit import project_from_lowered
from latentc.emit.helpers import helper_source
from latentc.emit.optimizers import training_files
from latentc.emit.project import config_of
from latentc.files.templates import template
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.spec.sections import Train

KINDS = tuple(components.load("optimizers"))
ELEMENTWISE = {"adam", "lion", "sgd"}  # which move every number by itself, as adamw does
OPTIONAL = {*Optimizer.OPTIONAL}


@pytest.fixture(scope="module")
def optimizers() -> ModuleType:
    """optimizers.py of a project with every kind."""
    module = ModuleType("optimizers")
    exec(training_files(every_kind())["latentc_support/optimizers.py"], module.__dict__)
    return module


def every_kind() -> Train:
    used = {"undecayed": ["a"], "layer_decay": 0.5, "first_layer": ["a"]}
    return Train.model_validate({"optimizers": {kind: {"kind": kind, **used} for kind in KINDS}})


def settings(kind: str, **values: Any) -> dict[str, Any]:
    return components.load("optimizers")[kind].model_validate({"kind": kind, **values}).model_dump(mode="json")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(5, 8), nn.Linear(8, 6), nn.LayerNorm(6), nn.Linear(6, 12))


@pytest.mark.parametrize("embeddings", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_matrices_decay_and_vectors_never(kind: str, embeddings: bool, optimizers: ModuleType) -> None:
    net = network()
    made = optimizers.make_optimizer(net, settings(kind, weight_decay=0.25, decay_embeddings=embeddings))
    decay = {id(p): group["weight_decay"] for group in made.param_groups for p in group["params"]}
    wanted = {"0.weight": 0.25 * embeddings, "1.weight": 0.25, "3.weight": 0.25}
    assert {n: decay[id(p)] for n, p in net.named_parameters()} == {
        n: wanted.get(n, 0.0) for n, _ in net.named_parameters()
    }


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_exempt_from_decay_by_name(kind: str, optimizers: ModuleType) -> None:
    net = network()
    given = settings(kind, weight_decay=0.25, decay_embeddings=True, undecayed=["0.*", "3.w*"])
    groups = {id(p): group for group in optimizers.make_optimizer(net, given).param_groups for p in group["params"]}
    assert {n: groups[id(p)]["weight_decay"] for n, p in net.named_parameters() if p.ndim > 1} == {
        **{"0.weight": 0.0, "1.weight": 0.25, "3.weight": 0.0}
    }
    if kind == "muon":  # which moves matrices alike, whether they decay or not
        assert groups[id(net[3].weight)]["matrices"] and not groups[id(net[0].weight)]["matrices"]


@pytest.mark.parametrize("kind", KINDS)
def test_rates_fall_from_block_to_block(kind: str, optimizers: ModuleType) -> None:
    """As in BEiT's rule: 0 is the embeddings, I + 1 is block I, and the last the layers after them."""
    net = nn.Module()
    net.tokens, net.blocks, net.head = (
        nn.Embedding(5, 8),
        nn.ModuleList(nn.Linear(8, 8) for _ in range(3)),
        nn.Linear(8, 2),
    )
    same = {"adam_lr": 0.1} if kind == "muon" else {}
    given = settings(kind, lr=0.1, weight_decay=0.25, layer_decay=0.5, first_layer=["tok*"], **same)
    made = optimizers.make_optimizer(net, given)
    rates = {id(p): group["base_lr"] for group in made.param_groups for p in group["params"]}
    layers = {"tokens.weight": 0} | {f"blocks.{i}.{part}": i + 1 for i in range(3) for part in ("weight", "bias")}
    for name, parameter in net.named_parameters():
        assert rates[id(parameter)] == pytest.approx(0.1 * 0.5 ** (4 - layers.get(name, 4))), name
    assert len(rates) == len(list(net.parameters()))
    made = optimizers.make_optimizer(net, settings(kind, lr=0.1, **same))
    assert {group["base_lr"] for group in made.param_groups} == {0.1}


def test_layers_without_blocks_are_refused() -> None:
    with pytest.raises(DiagnosticError, match="`layer_decay` counts the weights"):
        lower(load_spec("adm_classifier", None, ["train.optimizer.layer_decay=0.7"]))
    with pytest.raises(DiagnosticError, match="says where `layer_decay` ends"):
        load_spec("digits_dit", None, ["train.optimizer.first_layer=[pos_embed]"])


def test_a_pattern_that_exempts_nothing_is_refused() -> None:
    with pytest.raises(DiagnosticError, match="no weight of the networks of this optimiser is named `pos_embeds`"):
        lower(load_spec("digits_dit", None, ["train.optimizer.undecayed=[pos_embeds]"]))
    unused = ["train.optimizer.undecayed=[pos_embeds]", "train.optimizers.main={kind: adamw}"]
    assert lower(load_spec("digits_dit", None, unused))  # every network has an optimiser of its own


def test_llamagens_embeddings_decay_as_its_authors_decay_them(optimizers: ModuleType) -> None:
    net, chosen = network(), load_spec("llamagen", "B").train.optimizer
    made = optimizers.make_optimizer(net, chosen.model_dump(mode="json"))
    decay = {id(p): group["weight_decay"] for group in made.param_groups for p in group["params"]}
    assert decay[id(net[0].weight)] == decay[id(net[1].weight)] > 0  # an embedding as a linear layer


@pytest.mark.parametrize("shape", [(6, 8), (12, 6), (4, 3, 3, 3)])
def test_muon_moves_matrices_by_orthogonal_steps(shape: tuple[int, ...], optimizers: ModuleType) -> None:
    torch.manual_seed(0)
    module = nn.Module()
    module.weight = nn.Parameter(torch.zeros(shape))
    made = optimizers.make_optimizer(module, settings("muon", lr=1.0))
    module.weight.grad = torch.randn(shape)
    made.step()
    matrix = module.weight.detach().flatten(1)
    scale = max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
    values = torch.linalg.svdvals(matrix) / scale
    assert values.min() > 0.6 and values.max() < 1.3
    # The step goes down: it is the orthogonal factor of the gradient.
    assert (module.weight.detach() * module.weight.grad).sum() < 0


def test_muon_moves_the_rest_as_adamw_does(optimizers: ModuleType) -> None:
    ours, theirs = network(), network()
    a = optimizers.make_optimizer(ours, settings("muon", adam_lr=1e-2))
    b = torch.optim.AdamW(theirs.parameters(), lr=1e-2, betas=(0.9, 0.95), weight_decay=0.0)
    for step in range(3):
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            p.grad = torch.full_like(p, 0.1 * (step + 1))
            q.grad = p.grad.clone()
        a.step(), b.step()
    for name, p in ours.named_parameters():
        if p.ndim == 1 or name == "0.weight":
            torch.testing.assert_close(p, theirs.get_parameter(name), rtol=1e-5, atol=1e-7)


def test_sam_leaves_weights_without_a_gradient() -> None:
    sam: dict[str, Any] = {}
    exec(template("project/support/sam.py"), sam)
    used, unused = torch.ones(2, requires_grad=True), torch.ones(3, requires_grad=True)
    used.sum().backward()
    moves = sam["climb"]([used, unused], 0.1)
    assert torch.equal(unused.detach(), torch.ones(3)) and not moves[1].any()
    assert torch.allclose(moves[0].norm(), torch.tensor(0.1))


def test_sums_of_unequal_precision_are_those_of_the_first_operand() -> None:
    """Under autocast, layers give half precision and embeddings do not."""
    helpers: dict[str, Any] = {}
    exec("import math, torch\nfrom torch import Tensor\n" + helper_source(["mp_sum"]), helpers)
    total = helpers["mp_sum"](torch.ones(2, dtype=torch.float16), torch.full((2,), 3.0), balance=0.25)
    wanted = torch.full((2,), (0.75 * 1 + 0.25 * 3) / math.hypot(0.75, 0.25), dtype=torch.float16)
    torch.testing.assert_close(total, wanted, rtol=1e-3, atol=0)  # a rounding error of half precision


def test_sam_climbs_by_its_radius() -> None:
    sam: dict[str, Any] = {}
    exec(template("project/support/sam.py"), sam)
    weights = [nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(5))]
    before = [w.detach().clone() for w in weights]
    for w in weights:
        w.grad = torch.randn_like(w)
    moves = sam["climb"](weights, 0.05)
    assert torch.stack([m.norm() for m in moves]).norm().item() == pytest.approx(0.05, rel=1e-5)
    torch._foreach_sub_([w.data for w in weights], moves)
    for w, old in zip(weights, before, strict=True):
        torch.testing.assert_close(w.data, old, rtol=1e-6, atol=1e-7)


def test_orthogonal_regularisation_is_the_gradient_of_its_penalty() -> None:
    made: dict[str, Any] = {}
    exec(template("project/support/orthogonal.py"), made)
    weights = [nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(5, 2, 3, 3)), nn.Parameter(torch.randn(2, 2))]
    penalty = sum((w.flatten(1) @ w.flatten(1).T * (1 - torch.eye(len(w)))).square().sum() / 2 for w in weights[:2])
    wanted = torch.autograd.grad(0.1 * penalty, weights[:2])
    for w in weights[:2]:
        w.grad = torch.ones_like(w)
    made["straighten"](weights, 0.1)
    assert weights[2].grad is None  # an output that no loss reads
    for w, slope in zip(weights[:2], wanted, strict=True):
        torch.testing.assert_close(w.grad, 1 + slope)


def test_lion_moves_weights_as_its_paper_says(optimizers: ModuleType) -> None:
    module = nn.Module()
    module.weight = nn.Parameter(torch.ones(2, 3))
    made = optimizers.make_optimizer(module, settings("lion", lr=0.1, weight_decay=0.5, betas=(0.5, 0.75)))
    gradients = [torch.tensor([[1.0, -2.0, 0.0], [3.0, 1.0, -1.0]]), torch.tensor([[-0.1, 1.0, 1.0], [0.0, -2.0, 2.0]])]
    weight, average = torch.ones(2, 3), torch.zeros(2, 3)
    for gradient in gradients:
        module.weight.grad = gradient
        made.step()
        weight = weight - 0.1 * (torch.sign(0.5 * average + 0.5 * gradient) + 0.5 * weight)
        average = 0.75 * average + 0.25 * gradient
        torch.testing.assert_close(module.weight.detach(), weight)


@pytest.mark.parametrize("always", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_lamb_takes_steps_as_long_as_the_weights(decay: float, always: bool, optimizers: ModuleType) -> None:
    module = nn.Module()
    module.weight = nn.Parameter(torch.tensor([[1.0, -2.0], [0.5, 3.0]]))
    made = optimizers.make_optimizer(module, settings("lamb", lr=0.1, weight_decay=decay, always_adapt=always))
    weight, mean, square = module.weight.detach().clone(), torch.zeros(2, 2), torch.zeros(2, 2)
    for step in range(1, 4):
        gradient = torch.tensor([[1.0, -0.5], [0.25, 0.0]]) * step
        module.weight.grad = gradient.clone()
        made.step()
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        change = mean / (1 - 0.9**step) / ((square / (1 - 0.999**step)).sqrt() + 1e-8) + decay * weight
        adapts = always or decay > 0
        weight = weight - 0.1 * change * (weight.norm() / change.norm() if adapts else 1.0)
        torch.testing.assert_close(module.weight.detach(), weight)
    module.weight.data.zero_()  # there is no length to take
    made.step()
    assert module.weight.abs().max() > 0.01


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_lars_takes_gradients_as_long_as_a_fraction_of_a_matrix(decay: float, optimizers: ModuleType) -> None:
    module = nn.Module()
    module.weight, module.bias = nn.Parameter(torch.tensor([[1.0, -2.0], [0.5, 3.0]])), nn.Parameter(torch.ones(2))
    given = settings("lars", lr=0.5, momentum=0.75, trust=0.1, weight_decay=decay)
    made = optimizers.make_optimizer(module, given)
    weight, bias, speeds = module.weight.detach().clone(), torch.ones(2), [torch.zeros(2, 2), torch.zeros(2)]
    for step in range(1, 4):
        gradient = torch.tensor([[1.0, -0.5], [0.25, 0.0]]) * step
        module.weight.grad, module.bias.grad = gradient.clone(), gradient[0].clone()
        made.step()
        change = gradient + decay * weight
        speeds[0] = 0.75 * speeds[0] + 0.1 * weight.norm() / change.norm() * change
        speeds[1] = 0.75 * speeds[1] + gradient[0]  # a vector is neither scaled nor decayed
        weight, bias = weight - 0.5 * speeds[0], bias - 0.5 * speeds[1]
        torch.testing.assert_close(module.weight.detach(), weight)
        torch.testing.assert_close(module.bias.detach(), bias)


def test_adafactor_is_pytorchs(optimizers: ModuleType) -> None:
    ours, theirs = network(), network()
    a = optimizers.make_optimizer(ours, settings("adafactor", lr=0.2, weight_decay=0.1, decay_embeddings=True))
    decays = [p for p in theirs.parameters() if p.ndim > 1], [p for p in theirs.parameters() if p.ndim == 1]
    groups = [{"params": own, "weight_decay": decay} for own, decay in zip(decays, (0.1, 0.0), strict=True)]
    b = torch.optim.Adafactor(groups, lr=0.2, eps=(1e-15, 1e-3))  # its first eps bounds roots
    for seed in range(40):  # the rate falls from step 25 on
        torch.manual_seed(seed)
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            p.grad = torch.randn_like(p) * (1 + seed % 3)
            q.grad = p.grad.clone()
        a.step(), b.step()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)


def test_adafactor_of_vision_transformers_factors_the_two_largest_axes(optimizers: ModuleType) -> None:
    """Zhai et al. 2022: a bound of the decay, momentum, no clipping, steps that are not relative; written out."""
    torch.manual_seed(0)
    module = nn.Module()
    module.large, module.small = nn.Parameter(torch.randn(4, 2, 6)), nn.Parameter(torch.randn(3, 2))
    zhai = {"least_side": 3, "most_beta2": 0.6, "momentum": 0.9, "clip": None, "relative": None, "slows": False}
    made = optimizers.make_optimizer(module, settings("adafactor", lr=0.1, **zhai))
    weights = [module.large.detach().clone().double(), module.small.detach().clone().double()]
    rows, columns, square, averages = 0.0, 0.0, 0.0, [0.0, 0.0]
    for n in range(1, 6):
        slopes = [torch.randn(4, 2, 6), torch.randn(3, 2)]
        module.large.grad, module.small.grad = slopes[0].clone(), slopes[1].clone()
        made.step()
        beta, large, small = min(0.6, 1 - n**-0.8), slopes[0].double(), slopes[1].double()
        rows = beta * rows + (1 - beta) * (large**2).mean(2)  # [4, 2]
        columns = beta * columns + (1 - beta) * (large**2).mean(0)  # [2, 6]
        square = beta * square + (1 - beta) * small**2
        second = rows[:, :, None] * columns[None] / rows.mean(0)[None, :, None]
        updates = large / second**0.5, small / square**0.5
        averages = [0.9 * old + 0.1 * new for old, new in zip(averages, updates, strict=True)]
        weights = [weight - 0.1 * average for weight, average in zip(weights, averages, strict=True)]
    for found, weight in zip((module.large, module.small), weights, strict=True):
        torch.testing.assert_close(found.detach().double(), weight, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_its_state_is_all_that_a_resumed_run_needs(kind: str, optimizers: ModuleType) -> None:
    def step(net: nn.Module, made: torch.optim.Optimizer, number: int) -> None:
        generator = torch.Generator().manual_seed(number)
        for p in net.parameters():
            p.grad = torch.randn(p.shape, generator=generator)
        made.step()

    nets = network(), network()
    whole, before, after = (optimizers.make_optimizer(nets[i], settings(kind)) for i in (0, 1, 1))
    for number in range(4):
        step(nets[0], whole, number)
        step(nets[1], before if number < 2 else after, number)
        if number == 1:
            after.load_state_dict(json.loads(json.dumps(before.state_dict(), default=kept), object_hook=restored))
    for p, q in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("kind", KINDS)
def test_it_keeps_as_many_bytes_as_it_says(kind: str, optimizers: ModuleType) -> None:
    net, chosen = network(), components.load("optimizers")[kind].model_validate({"kind": kind})
    made = optimizers.make_optimizer(net, chosen.model_dump(mode="json"))
    for p in net.parameters():
        p.grad = torch.ones_like(p)
    made.step()
    state = [x for own in made.state.values() for x in own.values() if isinstance(x, torch.Tensor) and x.ndim]
    if type(chosen).state_of is Optimizer.state_of:  # Muon's matrices are not those of embeddings
        count = {
            matrices: sum(p.numel() for g in made.param_groups if g["matrices"] == matrices for p in g["params"])
            for matrices in (True, False)
        }
        wanted = chosen.state_bytes(count[True], count[False])
    else:
        wanted = chosen.state_of(tuple(p.shape) for p in net.parameters())
    assert sum(x.numel() * x.element_size() for x in state) == wanted


def kept(value: torch.Tensor) -> dict[str, Any]:
    return {"tensor": value.tolist(), "dtype": str(value.dtype).removeprefix("torch.")}


def restored(value: dict[str, Any]) -> Any:
    if "tensor" in value:
        return torch.tensor(value["tensor"], dtype=getattr(torch, value["dtype"]))
    return {int(key) if key.isdigit() else key: inner for key, inner in value.items()}


def test_a_rate_falls_by_the_same_factor_each_step() -> None:
    """PixelCNN++ multiplies it by 0.999995 in each of 3000000 steps."""
    rounds = loaded(template("project/support/rounds.py"))
    course = load_spec("pixelcnn_pp").train.schedule.model_dump(mode="json")
    for step in (0, 1, 1000, 1_500_000, 2_999_999):
        assert rounds["rate_of"](course, step, 3_000_000) == pytest.approx(0.999995**step, rel=2e-3)
    with pytest.raises(DiagnosticError, match="`kind: exponential` needs a `final` above 0"):
        load_spec("digits_dit", None, ["train.schedule={kind: exponential}"])


def test_a_rate_is_held_before_it_falls() -> None:
    """NVG's: warmed up over 1000 steps, held for four fifths of all, then linear down to a tenth."""
    rounds = loaded(template("project/support/rounds.py"))
    train = load_spec("nvg").train
    course, held = train.schedule.model_dump(mode="json"), 1000 + 0.8 * train.steps
    for step in (1000, 200_000, 267_400, 300_000, train.steps - 1):
        wanted = 1 - 0.9 * max(0, step - held) / (train.steps - held)
        assert rounds["rate_of"](course, step, train.steps) == pytest.approx(wanted)
    assert rounds["rate_of"](course, train.steps - 1, train.steps) == pytest.approx(0.1, rel=1e-3)
    with pytest.raises(DiagnosticError, match="`hold` delays a fall to `final`, which `kind: constant` does not have"):
        load_spec("digits_dit", None, ["train.schedule={kind: constant, hold: 0.5}"])


# ---- what a project holds


def test_a_project_has_the_kinds_of_its_spec_alone() -> None:
    one = training_files(Train())
    assert (
        one.keys() == {"latentc_support/optimizers.py", "latentc_support/config.py", "train.py"}
        and "radii" not in one["train.py"]
    )
    assert "AdamW" in one["latentc_support/optimizers.py"] and "match" not in one["latentc_support/optimizers.py"]
    two = training_files(Train.model_validate({"optimizers": {"main": {"kind": "muon", "sam": 0.05}}}))
    assert two["latentc_support/sam.py"] and "climb" in two["train.py"] and "region" not in two["train.py"]
    assert "straighten" not in two["train.py"] and '"orthogonal"' not in two["latentc_support/config.py"]
    three = training_files(Train.model_validate({"optimizer": {"kind": "adam", "orthogonal": 1e-4}}))
    assert (
        three["latentc_support/orthogonal.py"]
        and "straighten" in three["train.py"]
        and '"sam"' not in three["latentc_support/config.py"]
    )
    assert 'case "muon"' in two["latentc_support/optimizers.py"] and "Lion" not in two["latentc_support/optimizers.py"]
    assert (
        "newton_schulz" not in one["latentc_support/optimizers.py"]
        and "newton_schulz" in two["latentc_support/optimizers.py"]
    )


@pytest.mark.parametrize("kinds", [("sgd",), KINDS])
def test_its_settings_are_checked(kinds: tuple[str, ...]) -> None:
    config: dict[str, Any] = {"__name__": "config", "__file__": "config.py"}
    settings = {"optimizer": {"kind": kinds[0]}, "optimizers": {k: {"kind": k} for k in kinds[1:]}, "ema": 0.99}
    train = Train.model_validate(settings)
    exec(training_files(train)["latentc_support/config.py"], config)
    assert tuple(config["OPTIMIZERS"]) == kinds
    rest = {**config_of(load_spec("digits_dit"))["train"], "optimizers": {}}
    for kind in kinds:
        own = components.load("optimizers")[kind].model_validate({"kind": kind})
        chosen = own.model_dump(mode="json", exclude=OPTIONAL)
        config["check"]({**rest, "optimizer": chosen})
        for wrong in ({"lr": "fast"}, {"weight_decay": -1}, {"decay_embeddings": 1}, {"betaz": 1}, {"kind": "rprop"}):
            with pytest.raises(SystemExit, match=rf"optimizer\.{next(iter(wrong))}"):
                config["check"]({**rest, "optimizer": {**chosen, **wrong}})
            with pytest.raises(SystemExit, match=rf"optimizers\.main\.{next(iter(wrong))}"):
                config["check"]({**rest, "optimizer": chosen, "optimizers": {"main": {**chosen, **wrong}}})
    with pytest.raises(SystemExit, match=r"'adagrad' is not one of .*emit the project again"):
        config["check"]({**rest, "optimizer": {"kind": "adagrad"}})
    settled = components.load("optimizers")["adamw"].model_validate({"kind": "adamw"})
    betas = settled.model_dump(mode="json", exclude=OPTIONAL)
    if "adamw" in kinds:
        for pair in ([0.9], [0.9, 2], 0.9):
            with pytest.raises(SystemExit, match=r"optimizer\.betas"):
                config["check"]({**rest, "optimizer": {**betas, "betas": pair}})


def test_every_kind_can_be_linted(tmp_path: Path) -> None:
    made = training_files(every_kind())
    files = {name: made[f"latentc_support/{name}"] for name in ("optimizers.py", "config.py")} | {
        "ruff.toml": template("project/ruff.toml")
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "."]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


# ---- whole runs


@pytest.mark.slow
def test_sharded_weights_move_as_whole_ones(tmp_path: Path) -> None:
    """Almost all: the step of a gradient that is a rounding error may go either way."""
    jobs, kinds = [], [kind for kind in KINDS if kind not in ELEMENTWISE]
    for kind in kinds:
        sizes = [*TINY["digits_dit"], "backbone.depth=1"]
        spec = load_spec("digits_dit", overrides=[*sizes, f"train.optimizer={{kind: {kind}}}"])
        project_from_lowered(lower(spec), spec, tmp_path / kind)
        for mode, processes in (("none", 1), ("fsdp", 2)):
            flags = [*SHORT, "--steps", "2", "--workers", "0", "--parallel", mode, "--accumulate", str(2 // processes)]
            flags += ["--out", mode, "--optimizer.lr", "1e-2"]
            jobs.append({"folder": str(tmp_path / kind), "name": mode, "processes": processes, "flags": flags})
    failed = trained(jobs)
    assert not failed, failed
    for kind in kinds:
        one, two = (load_file(tmp_path / kind / mode / "weights_raw.safetensors") for mode in ("none", "fsdp"))
        close = [torch.isclose(two[k], value, rtol=1e-3, atol=1e-4).float() for k, value in one.items()]
        assert torch.cat([c.flatten() for c in close]).mean() > 0.98, kind


@pytest.mark.slow
@pytest.mark.parametrize("change", ["kind: muon", "kind: sgd, sam: 0.05", "kind: lion"])
def test_a_resumed_run_is_bit_equal(change: str, tmp_path: Path) -> None:
    spec = load_spec("digits_dit", overrides=[*TINY["digits_dit"], f"train.optimizer={{{change}, lr: 1e-3}}"])
    project_from_lowered(lower(spec), spec, tmp_path)
    flags = [*SHORT, "--steps", "8", "--checkpoint_every", "4", "--accumulate", "2"]
    run(tmp_path, "train.py", *flags, "--out", "whole")
    run(tmp_path, "train.py", *flags, "--out", "parts")
    shutil.rmtree(tmp_path / "parts/checkpoints/step-00000008")
    assert "resumed" in run(tmp_path, "train.py", *flags, "--out", "parts", "--resume", "true")
    same(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.slow
def test_each_network_of_an_update_has_its_own_optimiser(tmp_path: Path) -> None:
    """The discriminator's rate of zero leaves it where it started, and the generator learns."""
    overrides = [*TINY["digits_biggan"], "train.optimizers.discriminator={kind: sgd, lr: 1e-30, momentum: 0.0}"]
    spec = load_spec("digits_biggan", overrides=[*overrides, "train.ema=null"])
    project_from_lowered(lower(spec), spec, tmp_path)
    flags = [*SHORT, "--checkpoint_every", "4"]
    for steps in ("4", "8"):
        run(tmp_path, "train.py", *flags, "--steps", steps, "--out", f"run{steps}")
    few, many = (load_file(tmp_path / f"run{n}" / "weights_raw.safetensors") for n in ("4", "8"))
    learned = [k for k in few if k.endswith(".weight")]
    still = {k: torch.equal(few[k], many[k]) for k in learned}
    assert all(v for k, v in still.items() if k.startswith("discriminator."))
    assert not all(v for k, v in still.items() if k.startswith("main."))
