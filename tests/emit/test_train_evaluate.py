"""Figures of samples during training: evaluate.py of the emitted project, where latentc is not installed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from forked import python

from latentc import api
from latentc.emit import project_from_lowered
from latentc.evaluate.extractors.inception import PUBLISHED
from latentc.evaluate.metrics import figures_of
from latentc.evaluate.metrics.contract import Compared, Reference, moments
from latentc.lower import lower
from latentc.spec import load_spec

pytestmark = pytest.mark.slow
ALONE = 'import sys; sys.modules["latentc"] = sys.modules["latentc_runtime"] = None'
TINY = ["backbone.width=16", "backbone.depth=1", "backbone.block.mixer.heads=2", "sampler.steps=4"]

CHECK = """\
import numpy as np
import torch
from latentc_support.config import load_config
from latentc_support.evaluate import Judge, frechet_distance, shares
from sample import usual_given

held = np.load("features.npz")
a, b = (torch.from_numpy(held[name]).double() for name in "ab")
config = load_config([])
plain = Judge(config, torch.device("cpu"), usual_given(16))

class Detector(torch.nn.Module):
    def forward(self, x: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        assert return_features and x.dtype == torch.uint8 and x.shape[1:] == (3, 8, 8)
        return x.float().flatten(1)[:, ::7]

torch.jit.script(Detector()).save("detector.pt")
config["train"] |= {"evaluate_features": "detector.pt"}
judge = Judge(config, torch.device("cpu"), usual_given(16))
real = torch.from_numpy(np.load("real.npy"))
np.savez(
    "found.npz",
    figures=[frechet_distance(a, b), *shares(a, b)],
    same=list(plain(real).values()),
    detected=list(judge(real).values()),
    broken=list(plain(real * torch.nan).values()),
    count=len(plain.real),
)
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("judged") / "project"
    spec = load_spec("digits_dit", overrides=[*TINY, "train.evaluate_every=4", "train.evaluate_samples=64"])
    project_from_lowered(lower(spec), spec, folder)
    return folder


def test_curves_are_written(project: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator").EventAccumulator
    flags = ["--batch_size", "16", "--steps", "8", "--schedule.warmup", "2", "--out", "runs/one"]
    done = python(project, "train.py", *flags, before=ALONE)
    assert done.returncode == 0, done.stdout + done.stderr
    events = accumulator(str(project / "runs/one/tensorboard"))
    events.Reload()
    for name in ("fd_principal", "precision", "recall"):
        assert [event.step for event in events.Scalars(f"evaluate/{name}")] == [4, 8]
    first, second = (event.value for event in events.Scalars("evaluate/fd_principal"))
    assert 0 < first < np.inf and first != second


def test_evaluate_gives_the_figures_of_training(project: Path, tmp_path: Path) -> None:
    """Of the weights that training judged last, with the same features, samples and real ones."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator").EventAccumulator
    flags = ["--batch_size", "16", "--steps", "4", "--schedule.warmup", "2", "--out", "runs/judged"]
    done = python(project, "train.py", *flags, before=ALONE)
    assert done.returncode == 0, done.stdout + done.stderr
    events = accumulator(str(project / "runs/judged/tensorboard"))
    events.Reload()
    api.compile("digits_dit", project / "runs/judged/weights.safetensors", tmp_path / "bundle", overrides=TINY)
    asked = {"metrics": ["fd,precision,recall"], "features": ["principal"], "count": 64, "most": 2048}
    found = api.evaluate(tmp_path / "bundle", device="cpu", **asked).runs[0].result.figures  # type: ignore[arg-type]
    assert set(found) == {"fd_principal", "precision", "recall"}
    for name, value in found.items():  # `evaluate` rounds images to 8 bits
        assert events.Scalars(f"evaluate/{name}")[-1].value == pytest.approx(value, rel=5e-3, abs=0.02), name
    assert found["fd_principal"] > 0.5


def test_only_the_published_network_gives_a_fid(project: Path, tmp_path: Path) -> None:
    (tmp_path / "my-network.pt").write_bytes(b"other weights")
    script = "from latentc_support.evaluate import INCEPTION, frechet_name; from pathlib import Path; "
    script += f"print(INCEPTION, frechet_name(Path({str(tmp_path / 'my-network.pt')!r})))"
    done = python(project, "-c", script, before=ALONE)
    assert done.stdout.split() == [PUBLISHED[1], "fd_my_network"], done.stderr


def test_figures_are_those_of_latentc(project: Path) -> None:
    """On the same features; and samples that are the unseen half themselves have a distance of 0."""
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 120, 6)).astype(np.float32) * [[[1]], [[1.3]]]
    np.savez(project / "features.npz", a=a.astype(np.float32), b=b.astype(np.float32))
    from latentc.evaluate.sources import Real

    held_out = Real(load_spec("digits_dit").data.held_out())
    np.save(project / "real.npy", held_out.chunk(0, held_out.size)[0].array)
    (project / "check.py").write_text(CHECK)
    done = python(project, "check.py", before=ALONE)
    assert done.returncode == 0, done.stdout + done.stderr
    found = np.load(project / "found.npz")
    ours, theirs = a.astype(np.float32), b.astype(np.float32)
    reference = Reference("real", moments(theirs), theirs)
    wanted, _ = figures_of(Compared(ours, reference), ["fd", "precision", "recall"])
    np.testing.assert_allclose(found["figures"], [wanted[n] for n in ("fd", "precision", "recall")], rtol=1e-5)
    assert found["count"] == 899
    for name in ("same", "detected"):
        np.testing.assert_allclose(found[name], [0, 1, 1], atol=1e-4)
    assert np.isnan(found["broken"]).all()
