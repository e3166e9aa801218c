"""A first stage is a spec: programs end with its decoder, projects encode with it, and its weights load directly."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from forked import python, run_training
from parity_data import error
from PIL import Image
from random_weights import weights_of

import latentc_runtime
from latentc import api
from latentc.checkpoint import network_types
from latentc.components.contract import OutputField, Program
from latentc.components.kit import call
from latentc.components.sampler import DecodingSampler
from latentc.diagnostics import DiagnosticError
from latentc.files.shipped import folder
from latentc.ir.interpret import Interpreter
from latentc.ir.types import B, f32
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.weights import Array, write_safetensors
from latentc_runtime.sources import ConditionSource, RandomSource, Setting, SettingSource

SMALL = "width: 8, multipliers: [1, 2], blocks: 1, groups: 4, "
STAGES = {
    "latents": f"extends: sd_vae\nbackbone: {{{SMALL}bottleneck: {{channels: 4}}}}\n",
    "tokens": f"extends: vq_f16\nbackbone: {{{SMALL}attention: [1], bottleneck: {{size: 11, channels: 4}}}}",
    "drawn": "extends: d_ar_tokenizer\ndata: {shape: [3, 8, 8]}\nsampler: {steps: 2}\nbackbone: {width: 16, "
    "depth: 1, condition_depth: 1, pixel_depth: 1, patch: 4, pixel_patch: 4, queries: 16, group: 8, codebook: 11, "
    "channels: 4, rows: 16, block: {mixer: {heads: 2}}}",
}
MODELS = {
    "latents": (
        "dit",
        [
            "data.shape=[4, 4, 4]",
            "backbone.width=16",
            "sampler.steps=3",
            "data.first_stage.scale=0.5",
            "data.first_stage.shift=[0.25, -0.5, 0, 1]",
        ],
    ),
    "tokens": (
        "llamagen",
        [
            "data.tokens={vocabulary: 11, grid: [4, 4]}",
            "backbone.width=16",
            "backbone.block.feed_forward.multiple_of=8",
            "sampler={kind: autoregressive, guidance: {scale: 2.0}}",
        ],
    ),
    "drawn": (  # its decoder draws noise and takes steps
        "d_ar",
        [
            "data.tokens={vocabulary: 11, grid: [16]}",
            "backbone.width=16",
            "backbone.block.feed_forward.multiple_of=8",
            "sampler.guidance={scale: 2.0, first: 1.2}",
        ],
    ),
}
GRIDS = """
from latentc_support.config import load_config
from latentc_support.parallel import Run
from train import grid_interval

settings = load_config([])
print(grid_interval(settings, Run(settings["train"])))
"""
SHARED = ["data.classes=3", "backbone.depth=1", "backbone.block.mixer.heads=2", "data.first_stage.names=null"]


class System:
    """A tiny model of latents or tokens, its first stage, and weights of both."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind, self.folder = kind, folder
        self.stage = folder / "stage.yaml"
        self.stage.write_text(f"latentc: 1\nname: stage\n{STAGES[kind]}\n")
        self.spec, own = MODELS[kind]
        self.overrides = [*SHARED, *own, f"data.first_stage.spec={self.stage}"]
        self.main = self.random(self.spec, self.overrides, "main.safetensors")
        self.first_stage = self.random(self.stage, [], "stage.safetensors")

    def random(self, spec: Any, overrides: list[str], name: str) -> Path:
        rng = np.random.default_rng(0)
        types = network_types(lower(load_spec(spec, overrides=overrides)), "main")
        arrays = {
            n: rng.standard_normal(shape) * 0.1 + (n.endswith("weight") and len(shape) == 1)
            for n, (shape, _) in types.items()
        }
        write_safetensors(self.folder / name, {n: Array(a.astype(np.float32)) for n, a in arrays.items()})
        return self.folder / name

    def compile(self, name: str, weights: Any, *more: str, **options: Any) -> Path:
        api.compile(self.spec, weights, self.folder / name, overrides=[*self.overrides, *more], **options)
        return self.folder / name

    @property
    def both(self) -> list[str]:
        return [f"main={self.main}", f"first_stage={self.first_stage}"]


@pytest.fixture(params=MODELS)
def system(request: pytest.FixtureRequest, tmp_path: Path) -> System:
    return System(request.param, tmp_path)


@pytest.mark.parametrize("system", ["latents", "tokens"], indirect=True)
def test_samples_are_decoded(system: System) -> None:
    """An engine with the decoder gives the decoded samples of one without, as pictures."""
    said: list[str] = []
    codes = latentc_runtime.load(system.compile("codes", system.main, warn=said.append)).sample([0, 1, 2], seeds=5)
    assert "first_stage=FILE" in said[0] and system.kind in said[0]
    bundle = system.compile("pixels", system.both, warn=said.append)
    assert len(said) == 1
    pipe = latentc_runtime.load(bundle)
    (output,) = pipe.manifest.programs[0].outputs
    assert (output.output.medium, output.output.shape) == ("image", (3, 8, 8))
    images = pipe.sample([0, 1, 2], seeds=5)
    size = "[3, 8, 8]"
    z = codes / 0.5 + np.reshape([0.25, -0.5, 0, 1], (4, 1, 1)) if system.kind == "latents" else codes
    overrides = [f"data.shape={size}"]
    expected = api.forward(system.stage, system.first_stage, {"z": z}, overrides=overrides, method="decode")
    assert error(images, expected) < 1e-4
    for backend in ("oracle", "torch"):
        assert error(api.sample(bundle, [0, 1, 2], seed=5, backend=backend), images) < 1e-4


class Roughen(DecodingSampler):
    """Decodes latents, then adds noise in a loop of two steps: its entry has the name of the model's."""

    kind: Literal["roughen"] = "roughen"

    def build(self, mb: Any, networks: Any, spec: Any) -> Program:
        raise NotImplementedError

    def decoder(self, mb: Any, networks: Any, spec: Any) -> Program:
        network = networks["main"]
        image = network.methods["decode"].output().type
        b = mb.function("sample.3")
        noise, z = b.input("noise", f32(2, *image.shape)), b.input("z", network.methods["decode"].input("state").type)
        strength = b.input("strength", f32(B))

        def step(b: Any, i: Any, kept: Any, carried: Any, rows: Any) -> Any:
            return (carried[0] * 0.5 + rows[0] * b.reshape(kept[0], shape=(B, 1, 1, 1)),), ()

        x = call(b, network, "decode", {}, state=z, out="x")
        (x,) = b.loop("roughen", 2, step, invariants=[strength], carried=[x], tables=[noise])
        b.output(x)
        mb.entries["sample.3"] = b.finish("Decodes latents and adds noise.")
        sources = {
            "noise": RandomSource("normal", "x", 2),
            "z": ConditionSource("z"),
            "strength": SettingSource("strength"),
        }
        settings = (Setting("strength", 0.25, low=0.0),)
        return Program("sample.3", "roughen", 2, 3, sources, settings, outputs=(OutputField("image", "x"),))


def test_a_decoder_that_loops_has_noise_and_settings_of_its_own(tmp_path: Path) -> None:
    """They are inputs of the model's program, which ends with the decoder of latents shifted and scaled back."""
    system = System("latents", tmp_path)
    overrides = [*system.overrides, f"data.first_stage.weights={system.first_stage}"]
    spec, plain = (load_spec(system.spec, overrides=overrides) for _ in range(2))
    assert spec.first_stage is not None
    spec._first_stage = spec.first_stage.model_copy(update={"sampler": Roughen()})
    lowered, usual = lower(spec), lower(plain)
    (program,), (other,) = lowered.programs, usual.programs
    assert program.sources["first_stage_noise"] == RandomSource("normal", "first_stage.x", 2)
    assert program.sources["first_stage_strength"] == SettingSource("first_stage_strength")
    assert [setting.name for setting in program.settings if setting not in other.settings] == ["first_stage_strength"]
    assert program.evaluations == other.evaluations + 3
    assert lowered.networks["first_stage"].methods.keys() == {"decode"}
    rng, weights = np.random.default_rng(2), weights_of(lowered, 0.2)
    given = {
        value.name: rng.standard_normal([2 if str(d) == "B" else int(d) for d in value.type.shape])
        if value.type.dtype == "f32"
        else np.array([0, 2])
        for value in lowered.module.entry(program.entry).inputs
    }
    own = {name: given.pop(f"first_stage_{name}") for name in ("noise", "strength")}
    (decoded,) = Interpreter(usual.module, weights).run(other.entry, *given.values())
    (found,) = Interpreter(lowered.module, weights).run(program.entry, *given.values(), *own.values())
    expected = np.asarray(decoded)
    for noise in own["noise"]:
        expected = expected * 0.5 + noise * own["strength"].reshape(2, 1, 1, 1)
    assert error(found, expected) < 1e-6


def test_training_shifts_and_scales_the_latents() -> None:
    """What the decoder undoes: the emitted function that makes the field `x` of cached means and deviations."""
    source = (folder("templates") / "project/support/first_stage.py").read_text(encoding="utf-8")
    tree = ast.parse(source)
    (function,) = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "field_from_codes"]
    names: dict[str, Any] = {"np": np, "Any": Any}
    exec(ast.get_source_segment(source, function), names)
    codes = np.random.default_rng(0).standard_normal((3, 2, 4, 4, 4)).astype(np.float16)
    made = names["field_from_codes"](codes, {"shift": 0.25, "scale": 0.5}, None)["x"]
    assert np.allclose(made / 0.5 + 0.25, codes[:, 0], atol=1e-6)


def test_pictures_and_verification(system: System) -> None:
    from latentc.cli import run

    bundle = system.compile("b", system.both)
    grid = system.folder / "grid.png"
    assert run(["sample", str(bundle), "--class", "0-2", "--per-class", "2", "-o", str(grid)]) == 0
    with Image.open(grid) as picture:
        assert picture.mode == "RGB"
    report = api.verify(bundle)
    assert report.ok, report.text()
    assert any("first_stage" in comparison.what for comparison in report.comparisons)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_engines_and_precisions(engine: str, precision: str, system: System) -> None:
    bundle = system.compile("b", system.both, f"target.engine={engine}")
    assert latentc_runtime.load(bundle).sample([1], seeds=1).shape == (1, 3, 8, 8)


def test_a_first_stage_that_does_not_fit(tmp_path: Path) -> None:
    for overrides, code, word in (
        (["data.first_stage.spec=sd_vea"], "E0210", "sd_vae"),
        (["data.first_stage.spec=sit"], "E0302", "not the spec of an autoencoder"),
        (["data.first_stage={spec: vq_f16}"], "E0302", "makes tokens"),
        (["data.first_stage.shift=[1, 2, 3]"], "E0305", "give one for each channel"),
        (["data.shape=[3, 32, 32]", "data.first_stage.weights=vae"], "E0302", "[4, 32, 32]"),
    ):
        with pytest.raises(DiagnosticError, match=code) as caught:
            load_spec("dit", overrides=overrides)
        assert word in str(caught.value)
    small = ["data.tokens.vocabulary=8192", "backbone.depth=1"]
    with pytest.raises(DiagnosticError, match="E0302"):
        load_spec("llamagen", overrides=[*small, "data.first_stage.weights=vq.pt"])
    # Without weights nothing needs to fit: the project has no autoencoder.
    files = api.emit("llamagen", tmp_path / "project", overrides=small)
    assert "autoencoder.py" not in [path.name for path in files]


# ---- the emitted project


def test_the_project_encodes_and_decodes(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    """`train` caches codes with the emitted autoencoder, `sample.py` writes the pictures that the engine draws."""

    rng = np.random.default_rng(0)
    for label in ("a", "b", "c"):
        (system.folder / "images" / label).mkdir(parents=True)
        for i in range(2):
            pixels = rng.integers(0, 255, (10, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(system.folder / "images" / label / f"{i}.png")
    monkeypatch.chdir(system.folder)
    monkeypatch.setattr("latentc.api.training.run_training", run_training)
    overrides = [*system.overrides, f"data.first_stage.weights={system.first_stage}", "data.path=images"]
    overrides += ["train.evaluate_every=2", "train.evaluate_samples=8"]
    flags = ["--steps", "2", "--batch_size", "4", "--workers", "0", "--sample_every", "1", "--parallel", "none"]
    project = api.train(system.spec, "project", [*flags, "--log_every", "1"], overrides=overrides)
    (curves,) = (project / "runs/train/tensorboard").iterdir()
    assert b"evaluate/fd_principal" in curves.read_bytes()  # of decoded samples and the images themselves
    assert (project / "runs/train/samples/00000001.png").is_file()
    texts = "".join(path.read_text() for path in project.glob("*.py"))
    assert "diffusers" not in texts and not re.search(r"\bimport latentc\b", texts)
    (cache,) = system.folder.glob("images.stage.8.*.npy")
    codes = np.load(cache)
    assert codes.shape == ((6, 2, 2, 4, 4, 4) if system.kind == "latents" else (6, 10, 16))  # mirrored, or ten crops
    command = ["sample.py", "--weights", "runs/train/weights.safetensors", "--class", "0-2"]
    command += ["--per-class", "1", "--seed", "3", "--raw", "raw.npz", "-o", "grid.png", "--device", "cpu"]
    done = python(project, *command)
    assert done.returncode == 0, done.stderr
    trained = project / "runs/train/weights.safetensors"
    pipe = latentc_runtime.load(system.compile("b", [f"main={trained}", f"first_stage={system.first_stage}"]))
    with np.load(project / "raw.npz") as raw:
        assert error(pipe.sample([0, 1, 2], seeds=list(raw["seeds"])), raw["samples"]) < 1e-4
    (project / "first_stage.safetensors").unlink()
    without = python(project, "-c", GRIDS)  # training on cached latents does not need them
    assert "no sample grids: the first stage has no weights" in without.stdout and without.stdout.endswith("None\n")
    done = python(project, *command)
    assert done.returncode == 1 and "latentc weights" in done.stderr and "Traceback" not in done.stderr
