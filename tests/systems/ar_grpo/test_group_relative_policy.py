"""Group-relative policy optimisation: its loss by the papers' equations, its rollouts, and training on rewards."""

from __future__ import annotations

import importlib
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from emitted import emitted  # noqa: E402
from forked import python  # noqa: E402
from forked_training import trained  # noqa: E402
from random_weights import random_weights  # noqa: E402
from safetensors.numpy import load_file  # noqa: E402
from tiny_systems import SYSTEMS  # noqa: E402

from latentc.diagnostics import DiagnosticError  # noqa: E402
from latentc.emit import project_from_lowered  # noqa: E402
from latentc.ir.core import parameters  # noqa: E402
from latentc.ir.interpret import Interpreter  # noqa: E402
from latentc.lower import lower  # noqa: E402
from latentc.spec import load_spec  # noqa: E402

TINY = SYSTEMS["ar_grpo"]
SCALE, CLIP, ABOVE, MOST, KL = 2.0, 0.2, 0.3, 1.5, 0.1

REWARDS = """
def brightness(samples, conditions):
    assert samples.shape[1:] == (64,) and conditions["class"].shape == samples.shape[:1]
    return samples.float().mean(1) / 16


def wrong(samples, conditions):
    return samples.float().mean()


def endless(samples, conditions):
    return samples.float().mean(1) + float("inf")
"""


def guided(network: torch.nn.Module, tokens: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Log-probabilities [N, T] of tokens under guidance, each branch by a call of its own."""
    with_class, without = (network(tokens[:, :-1], c) for c in (y, torch.full_like(y, 10)))
    logits = without + SCALE * (with_class - without)
    chosen = torch.nn.functional.one_hot(tokens, logits.shape[-1])
    return (logits.log_softmax(-1) * chosen).sum(-1)


def plain(network: torch.nn.Module, tokens: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Log-probabilities [N, T] of tokens of the network told the class."""
    chosen = torch.nn.functional.one_hot(tokens, 17)
    return (network(tokens[:, :-1], y).log_softmax(-1) * chosen).sum(-1)


def reference_loss(
    policy: torch.nn.Module, frozen: torch.nn.Module, y: Any, rolled: Any, reward: Any, before: Any, scored: Any
) -> torch.Tensor:
    """Equations 3 and 4 of GRPO (arXiv:2402.03300), sample by sample, with bounds of the ratio above and at most."""
    total = []
    for c, tokens, r, old in zip(y, rolled, reward, before, strict=True):
        classes = c.repeat(len(tokens))
        new, far = scored(policy, tokens, classes), scored(frozen, tokens, classes).detach()
        advantages = (r - r.mean()) / (r.std() + 1e-4)
        for advantage, log_p, log_old, log_ref in zip(advantages, new, old, far, strict=True):
            ratio = (log_p - log_old).exp()
            gain = torch.min(ratio.clip(max=MOST) * advantage, ratio.clip(1 - CLIP, 1 + ABOVE) * advantage)
            divergence = (log_ref - log_p).exp() - (log_ref - log_p) - 1
            total.append((gain - KL * divergence).mean())
    return -torch.stack(total).mean()


@pytest.mark.parametrize("scored", [plain, guided])
def test_the_loss_is_that_of_the_papers(scored: Any, tmp_path: Path) -> None:
    """Samples are drawn under guidance; the probabilities that the loss compares are not, unless the spec says so."""
    changes = [f"objective.clip_above={ABOVE}", f"objective.most={MOST}", "objective.updates=2", "objective.group=3"]
    changes += ["objective.guided=true"] if scored is guided else []
    spec = load_spec(TINY.spec, None, [*TINY.sizes, *changes])
    lowered = lower(spec, to_emit=True)
    torch.manual_seed(0)
    with emitted(lowered, spec, tmp_path / "project") as project:
        policy, frozen = project.model.NETWORKS["main"]().double(), project.model.NETWORKS["reference"]().double()
        for p in [*policy.parameters(), *frozen.parameters()]:
            torch.nn.init.normal_(p, std=0.3)
        rolled, y = torch.randint(17, (2, 3, 64)), torch.tensor([3, 8])
        reward = torch.rand(2, 3, dtype=torch.float64)
        classes, flat = y.repeat_interleave(3), rolled.flatten(0, 1)
        before = scored(policy, flat, classes).detach().unflatten(0, (2, 3)) + 0.3 * torch.randn(2, 3, 64)
        (update, again) = project.objective.UPDATES
        assert update == again and update.trained == ("main",)
        given = {"rolled": rolled, "reward": reward, "before": before}
        outs = update.loss(policy, frozen, y, **given)
        wanted = reference_loss(policy, frozen, y, rolled, reward, before, scored)
        weights = list(policy.parameters())
        pairs = [torch.autograd.grad(loss, weights) for loss in (outs[0], wanted)]
        assert abs(outs[0] - wanted) < 1e-7 and abs(outs[1] - reward.mean()) < 1e-9
        assert 0.1 < outs[2] < 0.9 and outs[3] > 0
        for ours, theirs in zip(*pairs, strict=True):
            assert torch.allclose(ours, theirs, atol=1e-6 * float(theirs.abs().max()) + 1e-12)
        # What the oracle computes, and what a rollout says of its tokens.
        own = {
            f"{name}.{path}": value.detach().numpy()
            for name, network in (("main", policy), ("reference", frozen))
            for path, value in (*network.named_parameters(), *network.named_buffers())
        }
        oracle = Interpreter(lowered.module, own)
        found = oracle.run("loss", y.numpy(), *(value.numpy() for value in given.values()))
        np.testing.assert_allclose(found, [o.item() for o in outs], atol=1e-6)
        rollout = project.sampler.PROGRAMS["rollout"][64]
        assert rollout.outputs == ("rolled", "before", "samples")
        u, scale = torch.rand(64, 6, dtype=torch.float64), torch.full((6,), SCALE, dtype=torch.float64)
        tokens, log_p, samples = rollout.sample(policy, y=classes, scale=scale, u=u)
        drawn = project.sampler.PROGRAMS["sample"][64].sample(policy, y=classes, scale=scale, u=u)
        assert torch.equal(tokens, drawn) and torch.equal(samples, drawn)
        assert torch.allclose(log_p, scored(policy, tokens, classes), atol=1e-6)


@pytest.mark.parametrize("average", ["tokens", "samples", "length"])
def test_tokens_behind_the_end_of_a_text_do_not_count(average: str) -> None:
    """As `completion_mask` of AR-GRPO's code, for TRL's `bnpo`, `grpo` and `dr_grpo`."""
    system, rewards = SYSTEMS["class_prefix_gpt2"], "rewards: [{kind: python, function: 'r:f'}]"
    changes = [f"objective={{kind: group_relative_policy, {rewards}, group: 2, kl: 0, updates: 2, average: {average}}}"]
    changes += ["sampler={kind: autoregressive, temperature: 1, top_p: 1}"]
    lowered, rng = lower(load_spec(system.spec, None, [*system.sizes, *changes])), np.random.default_rng(0)
    held = random_weights(parameters(lowered.module, lowered.module.entries["main.forward"]), rng, 0.3)
    length = int(lowered.networks["main"].methods["forward"].output("logits").type.shape[1])  # type: ignore[arg-type]
    rolled, y, reward = rng.integers(11, size=(2, 2, length)), np.array([0, 1]), rng.normal(size=(2, 2))
    for c, g, at in ((0, 0, 2), (0, 1, 0), (1, 0, length - 1)):
        rolled[c, g, at:] = 11
    before = np.log(rng.uniform(0.05, 0.2, size=rolled.shape))
    given = {"rolled": rolled, "y": y, "reward": reward, "before": before}
    oracle = Interpreter(lowered.module, {f"main.{path}": array for path, array in held.items()})
    found = oracle.run("loss", *(given[value.name] for value in lowered.module.entry("loss").inputs))[0]

    flat = rolled.reshape(4, length)
    (logits,) = Interpreter(lowered.module, held).run("main.forward", flat[:, :-1], y.repeat(2))
    log_p = np.take_along_axis(logits - np.log(np.exp(logits).sum(-1, keepdims=True)), flat[..., None], 2)
    ratio = np.exp(log_p.reshape(before.shape) - before)
    advantage = (reward - reward.mean(1, keepdims=True)) / (reward.std(1, ddof=1, keepdims=True) + 1e-4)
    gain = np.minimum(ratio * advantage[..., None], ratio.clip(0.8, 1.2) * advantage[..., None])
    ends = rolled == 11
    counts = np.cumsum(ends, 2) - ends < 1
    sums = (gain * counts).sum(2)
    wanted = {
        "tokens": sums.sum() / counts.sum(),
        "samples": (sums / counts.sum(2)).mean(),
        "length": sums.mean() / length,
    }
    assert found == pytest.approx(-wanted[average], rel=1e-5)


def scorer() -> bytes:
    """Logits of ten classes from tokens, in ONNX: the mean level is the logit of class 1, all others are 0."""
    nodes = [
        onnx.helper.make_node("Cast", ["samples"], ["levels"], to=onnx.TensorProto.FLOAT),
        onnx.helper.make_node("ReduceMean", ["levels", "axes"], ["mean"], keepdims=1),
        onnx.helper.make_node("Mul", ["mean", "of_class"], ["logits"]),
    ]
    constants = {"axes": np.array([1]), "of_class": np.eye(10, dtype=np.float32)[1]}
    stored = [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()]
    samples = onnx.helper.make_tensor_value_info("samples", onnx.TensorProto.INT64, ["N", 64])
    logits = onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["N", 10])
    graph = onnx.helper.make_graph(nodes, "scorer", [samples], [logits], stored)
    opset = onnx.helper.make_opsetid("", 18)
    made: bytes = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=9).SerializeToString()
    return made


def test_training_reads_its_rewards_and_resumes_bit_equal(tmp_path: Path) -> None:
    rewards = "[{kind: python, function: 'rewards:brightness'}, {kind: file, file: scorer.onnx, weight: 0.5}]"
    spec = load_spec(TINY.spec, None, [*TINY.sizes, f"objective.rewards={rewards}", "objective.updates=2"])
    project_from_lowered(lower(spec, to_emit=True), spec, tmp_path)
    flags = ("train.py", "--steps", "2", "--log_every", "1", "--checkpoint_every", "1", "--keep", "9", "--out", "run")
    (tmp_path / "rewards.py").write_text(REWARDS)
    (tmp_path / "scorer.onnx").write_bytes(scorer())
    done = python(tmp_path, *flags)
    assert done.returncode == 0, done.stderr
    assert "clipped" in done.stdout and "divergence" in done.stdout
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-00000002")
    whole = (tmp_path / "run" / "weights.safetensors").rename(tmp_path / "whole.safetensors")
    done = python(tmp_path, *flags, "--resume", "true")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "weights.safetensors").read_bytes() == whole.read_bytes()


def test_two_processes_draw_and_learn_as_one_does(tmp_path: Path) -> None:
    changed = ["data={kind: npz, path: tokens.npz, classes: 10, tokens: {vocabulary: 17, grid: [3, 3]}}"]
    changed += ["objective.rewards=[{kind: python, function: 'rewards:level'}]"]
    changed += ["train.optimizers={}", "train.optimizer={kind: sgd, lr: 0.1}", "train.workers=0"]
    spec = load_spec(TINY.spec, None, [*TINY.sizes, *changed])
    project_from_lowered(lower(spec, to_emit=True), spec, tmp_path)
    (tmp_path / "rewards.py").write_text("def level(samples, conditions):\n    return samples.float().mean(1)\n")
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "tokens.npz", tokens=rng.integers(17, size=(32, 9)), y=rng.integers(10, size=32))
    modes = {"none": 1, "ddp": 2, "fsdp": 2}
    failed = trained(
        {
            "folder": str(tmp_path),
            "name": mode,
            "processes": processes,
            "flags": ["--steps", "2", "--parallel", mode, "--accumulate", str(2 // processes), "--out", mode],
        }
        for mode, processes in modes.items()
    )
    assert not failed, failed
    one, ddp, fsdp = (load_file(tmp_path / mode / "weights_raw.safetensors") for mode in modes)
    assert one.keys() == ddp.keys() == fsdp.keys()
    moved = one["main.output.weight"] - one["reference.output.weight"]
    assert np.abs(moved).max() > 1e-3  # far more than what they may differ by
    for path, value in one.items():
        for other in (ddp[path], fsdp[path]):
            assert np.allclose(other, value, rtol=1e-5, atol=1e-6), path


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kind": "python", "function": "absent:score"}, "there is no module absent; put absent.py beside train.py"),
        ({"kind": "python", "function": "rewards:score"}, "module rewards has no function score"),
        ({"kind": "python", "function": "rewards:wrong"}, "a reward of 3 samples has shape [], not [3]"),
        ({"kind": "python", "function": "rewards:endless"}, "a reward is not finite"),
        ({"kind": "file", "file": "absent.onnx"}, "there is no file"),
    ],
)
def test_rewards_that_cannot_be_used_end_training(settings: dict[str, Any], words: str, tmp_path: Path) -> None:
    spec = load_spec(TINY.spec, None, list(TINY.sizes))
    (tmp_path / "rewards.py").write_text(REWARDS)
    with emitted(lower(spec, to_emit=True), spec, tmp_path / "project"):
        rollouts = importlib.import_module("latentc_support.rollouts")
        sys.path.insert(0, str(tmp_path))
        try:
            with pytest.raises(SystemExit, match=re.escape(words)):
                rewards = rollouts.load_rewards([{"weight": 1.0, **settings}], torch.device("cpu"))
                rollouts.rewarded(rewards, torch.zeros(3, 64, dtype=torch.long), {"class": torch.zeros(3)})
        finally:
            sys.path.remove(str(tmp_path))
            sys.modules.pop("rewards", None)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("sampler.top_k=5", "with `top_k: 5` rollouts are drawn from another distribution"),
        ("sampler.temperature=0", "all rollouts of a condition are the same"),
        ("networks.reference={kind: like, frozen: true}", "network `reference` starts from random weights"),
        ("networks.reference={kind: like, copy_of: main}", "network `reference` is trained"),
        ("objective.rewards=[{kind: file, file: scorer.bin}]", "`scorer.bin` is neither a .pt2 nor an .onnx file"),
        ("objective.rewards=[{kind: python, function: score}]", "objective.rewards[0].function"),
    ],
)
def test_what_does_not_fit_is_refused(override: str, words: str) -> None:
    with pytest.raises(DiagnosticError) as caught:
        load_spec(TINY.spec, None, [*TINY.sizes, override])
    assert words in str(caught.value)
