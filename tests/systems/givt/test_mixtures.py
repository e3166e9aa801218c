"""GIVT's samplers against a program in numpy that evaluates the whole sequence for every token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked import python
from random_weights import random_weights
from tiny_systems import SYSTEMS

from latentc.checkpoint import name_map, network_params, symbols
from latentc.diagnostics import DiagnosticError
from latentc.emit import project_from_lowered
from latentc.ir.core import parameters
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.weights import Array, export_weights, materialise

TINY = ("data.shape=[2, 2, 2]", "data.first_stage=null", "data.classes=3", "backbone.width=8", "backbone.depth=1")
TINY += ("backbone.block.mixer.heads=2", "backbone.mixture={components: 3}")
RNG = np.random.default_rng(0)


def system(*overrides: str, spec: str = "givt") -> tuple[Any, dict[str, Any], list[Any]]:
    """(the lowered spec, its weights by path, the inputs of its sampler)."""
    lowered = lower(load_spec(spec, None, [*TINY, *overrides]))
    program = lowered.programs[0]
    params = parameters(lowered.module, program.entry)
    weights = random_weights(params, RNG, 0.5)
    given: list[Any] = []
    for one in program.inputs(lowered.module):
        shape = [2 if d == "B" else d for d in one.shape]
        kind = getattr(one.source, "distribution", "")
        drawn = RNG.uniform(0.01, 0.99, shape) if kind == "uniform" else RNG.standard_normal(shape)
        given.append(np.array([0, 2]) if one.name == "y" else np.full(2, 1.6) if one.name == "scale" else drawn)
    return lowered, weights, given


def mixtures(raw: np.ndarray, temperature: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities [n, M], means and deviations [n, M, C] of raw numbers [n, P]."""
    p = np.exp(raw[:, :3] - raw[:, :3].max(1, keepdims=True))
    rest = raw[:, 3:].reshape(len(raw), 3, 2, 2)
    deviation = (rest[:, :, 1] + np.sqrt(rest[:, :, 1] ** 2 + 4)) / 2
    return p / p.sum(1, keepdims=True), rest[:, :, 0], np.maximum(deviation, 1e-6) * temperature


def log_normal(x: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    return -0.5 * ((x - mean) / deviation) ** 2 - np.log(deviation) - 0.5 * np.log(2 * np.pi)


def forward(lowered: Any, weights: dict[str, Any], tokens: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Raw numbers [n, T, P] from tokens [n, T, C]."""
    own = {path.removeprefix("main."): w for path, w in weights.items()}
    return np.asarray(Interpreter(lowered.module, own).run("main.forward", tokens[:, :-1], y)[0])


def rejected(raw: np.ndarray, other: np.ndarray, u: Any, z: Any, q_z: Any, q_u: Any, w: float, t: float) -> np.ndarray:
    """[2, C]: the first of the proposals that is accepted, channel by channel; else a draw of the component itself."""
    (p, mean, s), (_, mean_u, s_u) = mixtures(raw, t), mixtures(other, t)
    rows = np.arange(2)
    k = (np.cumsum(p, 1) < u[:, 0]).sum(1)
    mean, s, mean_u, s_u = mean[rows, k], s[rows, k], mean_u[rows, k], s_u[rows, k]

    def density(x: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            return np.exp((1 + w) * log_normal(x, mean, s) - w * log_normal(x, mean_u, s_u))

    wide = 2 * np.maximum(s, s_u)
    points = mean + np.linspace(-10, 10, 1001)[:, None, None]
    with np.errstate(over="ignore"):
        factor = (density(points) / np.exp(log_normal(mean, mean, wide))).max(0)
    factor[factor > np.finfo(np.float32).max] = np.inf
    out = mean + s * z[:, 0]
    for b in range(2):
        for c in range(2):
            for q in range(q_z.shape[1]):
                x = mean[b, c] + wide[b, c] * q_z[b, q, c]
                here = np.broadcast_to(x, (2, 2))
                if q_u[b, q, c] * factor[b, c] * np.exp(log_normal(here, mean, wide))[b, c] < density(here)[b, c]:
                    out[b, c] = x
                    break
    return out


@pytest.mark.parametrize("w", [0.6, 9.0])
def test_guided_tokens(w: float) -> None:
    """A strong guidance has densities that float32 cannot hold, where the component itself is drawn from."""
    lowered, weights, given = system("sampler.proposals=16", "sampler.temperature=0.9")
    names = [i.name for i in lowered.programs[0].inputs(lowered.module)]
    given[names.index("scale")] = np.full(2, 1 + w)
    out = Interpreter(lowered.module, weights).run(lowered.programs[0].entry, *given)[0]
    named = dict(zip([i.name for i in lowered.programs[0].inputs(lowered.module)], given, strict=True))
    tokens = np.zeros((2, 4, 2))
    for i in range(4):
        raw = forward(lowered, weights, tokens, named["y"])[:, i]
        other = forward(lowered, weights, tokens, np.full(2, 3))[:, i]
        row = [named[key][i] for key in ("u", "z", "q_z", "q_u")]
        tokens[:, i] = rejected(raw, other, *row, w, 0.9)
    np.testing.assert_allclose(out, tokens.transpose(0, 2, 1).reshape(2, 2, 2, 2), rtol=1e-8)


@pytest.mark.parametrize(
    ("beams", "fans", "channels"), [(1, 1, "false"), (2, 3, "false"), (3, 1, "false"), (1, 4, "true")]
)
def test_beams(beams: int, fans: int, channels: str) -> None:
    """Every beam draws its own first token; then beginnings are compared by their density under the mixtures."""
    sampler = (
        f"sampler={{kind: mixture_autoregressive, beams: {beams}, fans: {fans}, temperature: 0.9, sharpness: 1.7}}"
    )
    lowered, weights, given = system(sampler, f"backbone.mixture={{components: 3, per_channel: {channels}}}")
    out = Interpreter(lowered.module, weights).run(lowered.programs[0].entry, *given)[0]
    named = dict(zip([i.name for i in lowered.programs[0].inputs(lowered.module)], given, strict=True))

    def drawn(raw: np.ndarray, u: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, float]:
        """A token of the mixtures of raw numbers, and its log-density."""
        if channels == "true":  # numbers [3, C, M]: logits, means, deviations
            logits, mean, deviation = raw.reshape(3, 2, 3)
        else:
            mean, deviation = raw[3:].reshape(3, 2, 2).transpose(1, 2, 0)
            logits = np.tile(raw[:3], (2, 1))
        deviation = np.maximum((deviation + np.sqrt(deviation**2 + 4)) / 2, 1e-6) * 0.9
        p = np.exp(1.7 * logits) / np.exp(1.7 * logits).sum(1, keepdims=True)
        m = (np.cumsum(p, 1) < u.reshape(-1, 1)).sum(1)
        x = mean[[0, 1], m] + deviation[[0, 1], m] * z
        own = np.exp(log_normal(x[:, None], mean, deviation))
        if channels == "true":
            return x, float(np.log((p * own).sum(1)).sum())
        return x, float(np.log((p[0] * own.prod(0)).sum()))

    made = np.zeros((2, 2, 2, 2))
    for b in range(2):
        kept = [(0.0, np.zeros((4, 2)))] * beams
        for i in range(4):
            grown = []
            for k, (score, tokens) in enumerate(kept):
                raw = forward(lowered, weights, tokens[None], named["y"][b : b + 1])[0, i]
                for f in range(1 if i == 0 else fans):
                    j = k * (1 if i == 0 else fans) + f
                    longer = tokens.copy()
                    longer[i], own = drawn(raw, named["u"][i, b, j], named["z"][i, b, j])
                    grown.append((score + own, longer))
            kept = grown if i == 0 else sorted(grown, key=lambda one: -one[0])[:beams]
        made[b] = kept[0][1].T.reshape(2, 2, 2)
    np.testing.assert_allclose(out, made, rtol=1e-8)


@pytest.mark.parametrize("joined", ["true", "false"])
def test_hidden_tokens_have_the_rows_behind_the_classes(joined: str) -> None:
    """With and without a row of no class, hidden tokens are told by the same row, which the classes' do not touch."""
    for dropout in ("0", "0.1"):
        changes = (f"backbone.joined_mask={joined}", f"conditioning.class.dropout={dropout}", "sampler.guidance=null")
        lowered, weights, _ = system(*changes, spec="givt_masked")
        own = {path.removeprefix("main."): w for path, w in weights.items()}
        x, y, mask = RNG.standard_normal((1, 4, 2)), np.array([0]), np.array([[1.0, 0, 0, 1]])

        def changed(row: int) -> bool:
            rows = own["label_emb.weight"].copy()  # noqa: B023
            rows[row, 0] += 1
            runs = [
                Interpreter(lowered.module, own | {"label_emb.weight": table}).run("main.forward", x, mask, y)[0]  # noqa: B023
                for table in (own["label_emb.weight"], rows)  # noqa: B023
            ]
            return not np.allclose(*runs)

        used = [row for row in range(len(own["label_emb.weight"])) if changed(row)]
        assert used == ([0, 3, 4, 5] if joined == "true" else [0, 3])


def test_masked_tokens() -> None:
    changes = ("sampler.guidance=null", "sampler.steps=3", "sampler.randomness=2")
    lowered, weights, given = system(*changes, spec="givt_masked")
    out = Interpreter(lowered.module, weights).run(lowered.programs[0].entry, *given)[0]
    named = dict(zip([i.name for i in lowered.programs[0].inputs(lowered.module)], given, strict=True))
    own = {path.removeprefix("main."): w for path, w in weights.items()}
    tokens, hidden = np.zeros((2, 4, 2)), np.ones((2, 4), bool)
    for i, left in enumerate((3, 1, 0)):  # in float32 the cosine at 2 / 3 is less than a half
        raw = np.asarray(
            Interpreter(lowered.module, own).run("main.forward", tokens, hidden.astype(float), named["y"])[0]
        )
        score = np.full((2, 4), np.inf)
        for b in range(2):
            for t in np.flatnonzero(hidden[b]):
                (p,), (mean,), (s,) = mixtures(raw[b : b + 1, t], 1.0)
                m = int((np.cumsum(p) < named["u"][i, b, t, 0]).sum())
                tokens[b, t] = mean[m] + s[m] * named["z"][i, b, t]
                density = np.log(np.sum(p * np.exp(log_normal(tokens[b, t], mean, s).sum(-1))))
                score[b, t] = density + 2 * (1 - (i + 1) / 3) * named["gumbel"][i, b, t]
            order = np.argsort(score[b])[:left]
            hidden[b] = False
            hidden[b, order] = True
            tokens[b, order] = 0
    np.testing.assert_allclose(out, tokens.transpose(0, 2, 1).reshape(2, 2, 2, 2), rtol=1e-8)


def test_the_loss_counts_every_hidden_token_of_the_batch_alike() -> None:
    lowered, weights, _ = system("objective.schedule=square", spec="givt_masked")
    x, y, u = RNG.standard_normal((2, 2, 2, 2)), np.array([1, 2]), np.array([0.0, 1.0])
    order = np.array([RNG.permutation(4) for _ in range(2)])
    (update,) = lowered.updates
    given = {"x": x, "y": y, "u": u, "order": order, "drop": np.ones(2)}
    names = [value.name for value in lowered.module.entry(update.loss).inputs]
    (found,) = Interpreter(lowered.module, weights).run(update.loss, *(given[name] for name in names))
    tokens, hidden = x.reshape(2, 2, 4).transpose(0, 2, 1), np.ones((2, 4), bool)
    hidden[1, order[1, 3:]] = False  # 1 - 0.7^2 of four tokens: three of them
    own = {path.removeprefix("main."): w for path, w in weights.items()}
    raw = np.asarray(Interpreter(lowered.module, own).run("main.forward", tokens, hidden.astype(float), y)[0])
    losses = []
    for b, t in zip(*np.nonzero(hidden), strict=True):
        (p,), (mean,), (s,) = mixtures(raw[b : b + 1, t], 1.0)
        losses.append(-np.log(np.sum(p * np.exp(log_normal(tokens[b, t], mean, s).sum(-1)))))
    assert len(losses) == 7
    np.testing.assert_allclose(found, np.mean(losses), rtol=1e-6)


FULL = ("backbone.mixture={components: 1, correlated: true}", "sampler.guidance=null")


def gaussian(raw: np.ndarray, temperature: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Means [n, C] and lower triangles [n, C, C] of raw numbers [n, C^2 + C]."""
    root = raw[:, :4].reshape(-1, 2, 2)
    root = np.maximum((root + np.sqrt(root**2 + 4)) / 2, 1e-6 * np.eye(2))
    return raw[:, 4:], np.tril(root) * temperature


def test_full_covariances() -> None:
    """Each token is the mean plus a triangle times normals; the loss is the density of torch's MultivariateNormal."""
    lowered, weights, given = system(*FULL, "sampler.temperature=0.8")
    y, (z,) = given[0], [a for a in given if a.shape == (4, 2, 1, 2)]
    (made,) = Interpreter(lowered.module, weights).run(lowered.programs[0].entry, *given)
    tokens = np.zeros((2, 4, 2))
    for t in range(4):
        mean, root = gaussian(forward(lowered, weights, tokens, y)[:, t], 0.8)
        tokens[:, t] = mean + np.einsum("bij,bj->bi", root, z[t, :, 0])
    np.testing.assert_allclose(made.reshape(2, 2, 4).swapaxes(1, 2), tokens, atol=1e-9)

    x = RNG.standard_normal((2, 2, 2, 2))
    values = {"x": x, "y": y, "drop": np.ones(2)}
    entry = lowered.module.entry("loss")
    (loss,) = Interpreter(lowered.module, weights).run("loss", *(values[v.name] for v in entry.inputs))
    wanted = x.reshape(2, 2, 4).swapaxes(1, 2)
    raw = forward(lowered, weights, wanted, y)
    mean, root = (torch.from_numpy(a) for a in gaussian(raw.reshape(8, -1)))
    density = torch.distributions.MultivariateNormal(mean, scale_tril=root)
    expected = -density.log_prob(torch.from_numpy(wanted.reshape(8, 2))).mean()
    np.testing.assert_allclose(loss, expected, rtol=1e-9)


def test_full_covariances_are_not_guided_and_are_alone() -> None:
    for override, message in (("sampler.temperature=1", "depend on each other"), ("", "one Gaussian")):
        sizes = [FULL[0]] if override else [FULL[0].replace("components: 1", "components: 2"), FULL[1]]
        with pytest.raises(DiagnosticError, match=message):
            load_spec("givt", None, [*TINY, *sizes])


def test_a_scanned_checkpoint_holds_each_tensor_of_all_blocks() -> None:
    """Along axis 1, as flax's scan stacks what the blocks have by themselves."""
    lowered, weights, _ = system("backbone.depth=2")
    spec = load_spec("givt", None, [*TINY, "backbone.depth=2"])
    own = {path.removeprefix("main."): Array(np.asarray(w, np.float32)) for path, w in weights.items()}
    sizes = symbols(lowered, lowered.networks["main"])
    single, scanned = (
        export_weights(own, name_map(spec, "main", names), sizes=sizes) for names in ("official", "scanned")
    )
    for name, stacked in scanned.items():
        parts = [single.get(name.replace("EncDecBlock.", f"EncDecBlock{i}.")) for i in range(2)]
        arrays = [materialise(part) for part in parts if part is not None]
        wanted = arrays[0] if "EncDecBlock" not in name else np.stack(arrays, 1)
        np.testing.assert_array_equal(materialise(stacked), wanted)


ADAPTED = ("data.shape=[2, 2, 4]", "backbone.patch=[1, 2]", "sampler.proposals=4")
ADAPTOR = "networks.adaptor={kind: reversible, blocks: 3, bottleneck: 8, patch: [2, 1]}"
JOINED = ("data.shape=[4, 2, 2]", "sampler.proposals=4")


def joined(x: np.ndarray) -> np.ndarray:
    """[B, C, H, W] -> [B, 2 C, H, W / 2]: two places beside each other are one."""
    batch, channels, height, width = x.shape
    return x.reshape(batch, channels, height, width // 2, 2).transpose(0, 1, 4, 2, 3).reshape(batch, -1, height, 2)


@pytest.mark.parametrize(("spec", "more"), [("givt", ()), ("givt_masked", ("sampler.steps=2",))])
def test_an_adaptor_between_data_and_tokens(spec: str, more: tuple[str, ...]) -> None:
    """The loss is that of what the adaptor makes of x, and samples are what its inverse makes of tokens."""
    lowered, _, given = system(*ADAPTED, ADAPTOR, *more, spec=spec)
    plain = lower(load_spec(spec, None, [*TINY, *JOINED, *more]))
    params = {f"{name}.{key}": param for name in ("main", "adaptor") for key, param in own(lowered, name).items()}
    weights = random_weights(params, RNG, 0.5)
    oracle, reference = Interpreter(lowered.module, weights), Interpreter(plain.module, weights)
    adaptor = Interpreter(lowered.module, {k.removeprefix("adaptor."): v for k, v in weights.items()})
    x = RNG.standard_normal((2, 2, 2, 4))
    (changed,) = adaptor.run("adaptor.forward", x)
    np.testing.assert_allclose(adaptor.run("adaptor.inverse", changed)[0], x, atol=1e-10)
    assert np.abs(changed - x).max() > 0.1
    draws = [RNG.uniform(0, 1, 2), np.stack([RNG.permutation(4) for _ in range(2)])] if more else []
    losses = [
        run.run("loss.terms", value, np.array([0, 2]), *draws, np.ones(2))[0]
        for run, value in ((oracle, x), (reference, joined(changed)))
    ]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-10)
    (found,) = oracle.run(lowered.programs[0].entry, *given)
    (tokens,) = reference.run(plain.programs[0].entry, *given)
    np.testing.assert_allclose(joined(adaptor.run("adaptor.forward", found)[0]), tokens, atol=1e-8)


def own(lowered: Any, name: str) -> dict[str, Any]:
    return dict(network_params(lowered, lowered.networks[name]))


def test_tokens_behind_an_image() -> None:
    """Blocks look at an encoder's features, whose keys and values the sampler keeps from token to token."""
    sizes = ("width=8", "depth=2", "block.mixer.heads=2")
    overrides = [
        *("data.shape=[2, 4]", "data.fields.image.shape=[3, 4, 8]", "data.first_stage=null", "sampler.beams=1"),
        *("sampler.fans=1", "sampler.temperature=0.9", *(f"networks.main.{size}" for size in sizes)),
        *(f"networks.encoder.{size}" for size in ("patch=4", *sizes)),
    ]
    with pytest.raises(DiagnosticError, match="takes square images"):
        load_spec("givt_dense", None, overrides)
    lowered = lower(load_spec("givt_dense", None, [*overrides, "data.fields.image.shape=[3, 8, 8]"]))
    entry = lowered.programs[0].entry
    weights = random_weights(parameters(lowered.module, entry), RNG, 0.5)
    image, u, z = RNG.standard_normal((2, 3, 8, 8)), RNG.uniform(size=(4, 2, 1, 2)), RNG.standard_normal((4, 2, 1, 2))

    def own(network: str) -> Interpreter:
        of = {path.removeprefix(f"{network}."): w for path, w in weights.items() if path.startswith(network)}
        return Interpreter(lowered.module, of)

    (features,) = own("encoder").run("encoder.encode", image)
    tokens = np.zeros((2, 4, 2))
    for i in range(4):
        raw = own("main").run("main.forward", tokens[:, :-1], features)[0][:, i]  # probabilities, means, deviations
        deviation = np.maximum((raw[:, 4:] + np.sqrt(raw[:, 4:] ** 2 + 4)) / 2, 1e-6)
        tokens[:, i] = raw[:, 2:4] + 0.9 * deviation * z[i, :, 0]
    (made,) = Interpreter(lowered.module, weights).run(entry, image, u, z)
    np.testing.assert_allclose(made, tokens.transpose(0, 2, 1), rtol=1e-8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("networks.main.block.condition={kind: in_context}", "a mixture_transformer begins with one class"),
        ("conditioning.image=null", "attend to 1 sequences of features"),
        ("networks.encoder.reads=photo", "the data has no field `photo`"),
        ("networks.encoder.positions={kind: rope_2d}", "is not added to patches"),
        ("networks.encoder.patch=5", "patches of 5 do not tile a side of 512"),
    ],
)
def test_what_does_not_fit_an_image(change: str, message: str) -> None:
    with pytest.raises(DiagnosticError, match=message):
        load_spec("givt_dense", None, ["data.first_stage=null", change])


def test_training_draws_a_preview_of_single_numbers(tmp_path: Path) -> None:
    """The first token of one channel reads one row of noise, and drops an axis of it."""
    short = ("train.batch_size=4", "train.steps=1", "train.workers=0", "train.schedule.warmup=0", "train.parallel=none")
    spec = load_spec("givt", None, [*SYSTEMS["givt"].sizes, *short])
    project_from_lowered(lower(spec), spec, tmp_path / "project")
    done = python(tmp_path / "project", "train.py", "--out", "run")
    assert done.returncode == 0, done.stderr
