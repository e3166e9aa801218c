"""What the commands of each page find in their folder: small specs under the names they use, and weights."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from commands import ROOT, blocks
from PIL import Image
from tiny_model import write_random_weights

from latentc import api
from latentc.components.blocks import mixers

STAGE = "extends: first_stages/sd_vae\nbackbone: {width: 32, multipliers: [1, 2], blocks: 1}"
DIT = "width: 32, depth: 2, block: {mixer: {heads: 2}}"
SHORT = "train: {steps: 2, batch_size: 8, workers: 0, schedule: {warmup: 1}}"
DIGITS = f"sampler: {{steps: 4}}\n{SHORT}"
FIRST_STAGE = "first_stage: {spec: stage, names: diffusers}"

# Files that stand for shipped specs in a page's folder: a name means a file before it means a shipped spec.
SMALL = {
    "stage": STAGE,
    "dit": f"extends: diffusion/dit\ndata: {{shape: [4, 8, 8], classes: 10, {FIRST_STAGE}}}\n"
    f"backbone: {{{DIT}}}\nsampler: {{steps: 4}}",
    "t_stitch": "extends: diffusion/t_stitch\ndata: {shape: [4, 8, 8], classes: 10, first_stage: null}\n"
    f"networks: {{main: {{{DIT}}}, small: {{{DIT}}}}}\nsampler: {{steps: 4}}",
    "biggan_train": "extends: gan/biggan_train\nnetworks: {main: {width: 8}, discriminator: {width: 8}}",
    "vocoder": "extends: audio/diffwave\ndata: {fields: {x: {shape: [1, 128]}, mel: {shape: [8, 2]}}}\n"
    "backbone: {width: 8, depth: 4, cycle: 2, time_width: 16, upsampling: [8, 8]}",
    "boxes": "extends: digits/boxes_pix2nerf\nnetworks: {main: {width: 8, depth: 1, points: 3}}",
    "scans": "extends: digits/phantoms_cond_cbnt\nnetworks: {main: {width: 8, depth: 1, points: 3}}",
    "digits_dit": f"extends: digits/digits_dit\n{DIGITS}",
    "digits_maskgit": "extends: digits/digits_maskgit\nbackbone: {width: 16, depth: 1}",
    "digits_guided": f"extends: digits/digits_guided\nsampler: {{steps: 4}}\n{SHORT}",
    "digits_distilled": "extends: digits/digits_distilled\nobjective: {rounds: [4, 2]}\nsampler: {steps: 2}\n"
    + SHORT.replace("steps: 2", "steps: 4"),
}


def small(folder: Path, *names: str) -> None:
    """Write small specs under shipped names."""
    for name in names:
        text = f"latentc: 1\nname: {name.replace('_', '-')}\n{SMALL[name]}\n"
        (folder / name).write_text(text, encoding="utf-8")


def weights(folder: Path, spec: str, to: dict[str, str], names: str | None = None) -> None:
    """Random weights of a spec under a name map, {network: file} or {"": file}."""
    write_random_weights(folder / spec, folder / "random.safetensors", 0.02)
    files = [f"{network}={folder / file}" if network else str(folder / file) for network, file in to.items()]
    api.convert_weights(folder / spec, folder / "random.safetensors", files, None, names)


def readme(folder: Path) -> None:
    """The page's own spec, trained for two steps instead of 2000."""
    _, text = next(b for b in blocks((ROOT / "README.md").read_text(encoding="utf-8"), "yaml"))
    (folder / "my-digits.yaml").write_text(re.sub("steps: 2000, ", "steps: 2, ", text), encoding="utf-8")


def deployment(folder: Path) -> None:
    small(folder, "digits_dit")
    weights(folder, "digits_dit", {"": "digits.safetensors"})
    api.compile(folder / "digits_dit", folder / "digits.safetensors", folder / "digits.latentc")


def serving(folder: Path) -> None:
    deployment(folder)
    for name in ("other", "digits-dit"):
        shutil.copytree(folder / "digits.latentc", folder / f"{name}.latentc")
    fields(folder, "boxes")
    small(folder, "vocoder")
    weights(folder, "vocoder", {"": "vocoder.safetensors"})
    api.compile(folder / "vocoder", folder / "vocoder.safetensors", folder / "vocoder.latentc")
    np.save(folder / "mel.npy", np.zeros((8, 2), np.float32))


def fields(folder: Path, *names: str) -> None:
    """Bundles of neural fields, and what requests to them name."""
    for name in names:
        small(folder, name)
        write_random_weights(folder / name, folder / f"{name}.safetensors", 0.02)
        api.compile(folder / name, folder / f"{name}.safetensors", folder / f"{name}.latentc")
    np.save(folder / "camera.npy", np.array([1.2, 1.9], np.float32))
    np.savez(folder / "points.npz", value=np.zeros((5, 3), np.float32))


def engines(folder: Path) -> None:
    small(folder, "stage", "dit")
    weights(folder, "dit", {"": "dit.safetensors"})
    fields(folder, "boxes", "scans")


def quantization(folder: Path) -> None:
    small(folder, "stage", "dit", "digits_dit")
    weights(folder, "dit", {"": "dit.safetensors"})
    weights(folder, "digits_dit", {"": "digits.safetensors"})


def evaluation(folder: Path) -> None:
    deployment(folder)
    rng = np.random.default_rng(0)
    np.savez(
        folder / "samples.npz", arr_0=rng.integers(0, 256, (40, 8, 8, 1), dtype=np.uint8), arr_1=np.arange(40) % 10
    )


def spec(folder: Path) -> None:
    small(folder, "stage", "dit")
    weights(folder, "dit", {"": "DiT-XL-2-256x256.pt"}, "official")
    weights(folder, "stage", {"": "sd-vae-ft-ema"}, "diffusers")


def step_reduction(folder: Path) -> None:
    engines(folder)
    stitched(folder, "DiT-XL-2.pt", "DiT-S-2.pt")
    text = (folder / "dit").read_text(encoding="utf-8").replace("depth: 2,", "depth: 28,")  # it caches blocks 4 to 23
    (folder / "dit").write_text(text, encoding="utf-8")
    weights(folder, "dit", {"": "dit.safetensors"})


def stitched(folder: Path, large: str, small_one: str) -> None:
    small(folder, "t_stitch")
    weights(folder, "t_stitch", {"main": large, "small": small_one}, "official")


def training(folder: Path) -> None:
    small(folder, "digits_dit", "digits_guided", "digits_distilled")
    api.emit(folder / "digits_dit", folder / "project")


def samplers(folder: Path) -> None:
    """The project of a tiny EDM whose sampler has churn, with weights."""
    text = (
        "latentc: 1\nname: edm\nextends: diffusion/edm\nbackbone: {width: 16, multipliers: [1, 1], blocks: 1}\n"
        "data: {shape: [3, 8, 8]}\nsampler: {steps: 4, churn: {amount: 10}}\n"
    )
    (folder / "edm").write_text(text, encoding="utf-8")
    api.emit(folder / "edm", folder / "project")
    (folder / "project/runs/train").mkdir(parents=True)
    write_random_weights(folder / "edm", folder / "project/runs/train/weights.safetensors", 0.02)


def researcher(folder: Path) -> None:
    """The page's own block, where the registry finds it, and the spec that names it."""
    page = (ROOT / "docs/tutorials/researcher.md").read_text(encoding="utf-8")
    (_, block), (_, text) = blocks(page, "python")[0], blocks(page, "yaml")[0]
    (folder / "mixers").mkdir()
    (folder / "mixers/token_mlp.py").write_text(block, encoding="utf-8")
    mixers.__path__.append(str(folder / "mixers"))
    (folder / "mixing.yaml").write_text(text, encoding="utf-8")


def engineer(folder: Path) -> None:
    import_page(folder)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    np.savez(folder / "real.npz", arr_0=pixels, arr_1=np.arange(40) % 10)


def tuning(folder: Path) -> None:
    text = SMALL["digits_dit"].replace("{steps: 4}", "{steps: 48}")  # good enough for the page's budgets
    (folder / "digits_dit").write_text(f"latentc: 1\nname: digits-dit\n{text}\n", encoding="utf-8")
    weights(folder, "digits_dit", {"": "weights.safetensors"})
    small(folder, "digits_maskgit")
    weights(folder, "digits_maskgit", {"": "maskgit.safetensors"})
    judge = folder / "examples/digits/metrics.py"
    judge.parent.mkdir(parents=True)
    shutil.copy(ROOT / "examples/digits/metrics.py", judge)


def data(folder: Path) -> None:
    draw = np.random.default_rng(0)
    for name in ("crow", "parrot"):
        (folder / "birds" / name).mkdir(parents=True)
        for number in range(4):
            image = Image.fromarray(draw.integers(0, 256, (16, 16, 3), dtype=np.uint8))
            image.save(folder / "birds" / name / f"{number}.png")


def weights_page(folder: Path) -> None:
    stitched(folder, "XL.pt", "S.pt")
    small(folder, "biggan_train")
    weights(folder, "biggan_train", {"main": "G.pth", "discriminator": "D.pth"}, "official")


def import_page(folder: Path) -> None:
    """A tiny pipeline, and DiffWave's weights under their official names."""
    import diffusers

    net = diffusers.DiTTransformer2DModel(2, 16, out_channels=8, num_layers=1, sample_size=4)
    net.proj_out_2.weight.data *= 0.1  # at random it would magnify the rounding of 50 steps beyond any tolerance
    halves = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    vae = diffusers.AutoencoderKL(block_out_channels=[8, 16], norm_num_groups=4, sample_size=8, **halves)
    diffusers.DiTPipeline(net, vae, diffusers.DDIMScheduler()).save_pretrained(folder / "DiT-pipeline")
    write_random_weights("audio/diffwave", folder / "random.safetensors", 0.02)
    api.convert_weights("audio/diffwave", folder / "random.safetensors", folder / "diffwave.pt", None, "official")


GIVEN: dict[str, Callable[[Path], None]] = {
    "README.md": readme,
    "docs/deployment.md": deployment,
    "docs/engines.md": engines,
    "docs/evaluation.md": evaluation,
    "docs/import.md": import_page,
    "docs/quantization.md": quantization,
    "docs/samplers.md": samplers,
    "docs/samples.md": deployment,
    "docs/data.md": data,
    "docs/serving.md": serving,
    "docs/spec.md": spec,
    "docs/step_reduction.md": step_reduction,
    "docs/training.md": training,
    "docs/tuning.md": tuning,
    "docs/tutorials/engineer.md": engineer,
    "docs/tutorials/researcher.md": researcher,
    "docs/weights.md": weights_page,
}
