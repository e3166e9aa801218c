"""IC-GAN: samples that are neighbours of an instance, in the data and in the losses of a GAN."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from emitted import emitted

from latentc.datasets.neighbours import WithNeighbours
from latentc.diagnostics import DiagnosticError
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec

CONDITION = "conditioning.instance={kind: instance, field: x, count: 3}"
SMALL = ("networks.main.width=8", "networks.main.vector_embedding=5", "networks.discriminator.width=8")


class Rows:
    """Thirty vectors with labels that tell them apart."""

    size, in_memory = 30, True
    vectors = np.random.default_rng(0).standard_normal((30, 6)).astype(np.float32)

    def rows(self, index: np.ndarray, rng: object = None) -> dict[str, np.ndarray]:
        return {"x": self.vectors[index], "y": index}


def test_the_sample_is_a_neighbour_of_the_instance() -> None:
    pytest.importorskip("usearch")
    search = {"field": "x", "count": 3, "metric": "cosine", "database": None, "itself": False, "around": True}
    nearby = search | {"count": 2, "around": False}
    data = WithNeighbours(Rows(), {"instance": search, "neighbours": nearby})
    unit = Rows.vectors / np.linalg.norm(Rows.vectors, axis=1, keepdims=True)
    order = np.argsort(-(unit @ unit.T), axis=1)[:, 1:4]
    index, seen = np.arange(30), []
    for seed in range(20):
        rows = data.rows(index, np.random.default_rng(seed))
        assert np.array_equal(rows["instance"], Rows.vectors[:, None])
        assert np.array_equal(rows["x"], Rows.vectors[rows["y"]])
        assert np.array_equal(rows["neighbours"], Rows.vectors[order[rows["y"], :2]])  # those of the sample
        seen.append(rows["y"])
    assert [set(column) for column in np.transpose(seen)] == [set(near) for near in order]
    assert np.array_equal(data.rows(index)["y"], order[:, 0])


@pytest.mark.parametrize("told", ["instance", "both"])
def test_losses_make_samples_for_the_instances_of_data(told: str, tmp_path: Path) -> None:
    """Both players know the instance, of unit length, and the class, from the data."""
    rng, classed = np.random.default_rng(0), told == "both"
    spec = load_spec("digits_biggan", None, [*SMALL, CONDITION, *([] if classed else ["conditioning.class=null"])])
    low = lower(spec)
    given = {
        "x": rng.standard_normal((4, 1, 8, 8)),
        "instance": rng.standard_normal((4, 1, 64)),
        "y": rng.integers(0, 10, 4),
        "z": rng.standard_normal((4, 32)),
    }
    with emitted(low, spec, tmp_path / "project") as project:
        nets = {name: build().double().eval() for name, build in project.model.NETWORKS.items()}
        judge, data = nets["discriminator"], SimpleNamespace(**{k: torch.tensor(v) for k, v in given.items()})
        labels = [data.y] if classed else []
        embedded = F.normalize(data.instance[:, 0], dim=1)
        both = (*labels, embedded) if next(iter(spec.conditions)) == "class" else (embedded, *labels)
        fake = nets["main"](data.z, *both)
        real, made = judge(data.x, *both), judge(fake, *both)
        wanted = (F.relu(1 - real).mean() + F.relu(1 + made).mean(), -made.mean())
        weights = {f"{n}.{k}": v.numpy() for n, net in nets.items() for k, v in net.state_dict().items()}
        for update, value in zip(low.updates, wanted, strict=True):
            of_project = next(u for u in project.objective.UPDATES if u.trained == update.networks)
            names = [*update.batch, *(draw.name for draw in update.draws)]
            assert set(names) - {"x"} == {"instance", "z", *(["y"] if classed else [])}
            oracle = Interpreter(low.module, weights).run(update.loss, *(given[n] for n in names))[0]
            found = of_project.loss(*(nets[n] for n in of_project.networks), **{n: vars(data)[n] for n in names})
            found = found[0] if isinstance(found, tuple) else found
            assert [float(oracle), float(found.detach())] == pytest.approx([float(value.detach())] * 2, rel=1e-9)
        moved = judge(data.x, *([data.y] if classed else []), embedded.flip(0))
        assert not torch.allclose(moved, real)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["objective.generator_batch=2"], "no larger than its own size"),
        (["conditioning.other={kind: instance, field: x}"], "a sample is a neighbour of one instance"),
        (["conditioning.instance.dropout=0.1"], "always knows the instance"),
        (["networks.main.embedding=null", "networks.main.latent_input=first"], "cannot also take a vector"),
        (["networks.discriminator.width=9", "networks.discriminator.channel_multipliers=[2, 3]"], "they are odd"),
        (["conditioning.more={kind: neighbours, field: x}"], "takes only the class and one vector"),
    ],
)
def test_what_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(DiagnosticError, match=message):
        load_spec("digits_biggan", None, [CONDITION, *overrides])
