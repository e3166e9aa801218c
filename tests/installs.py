"""Install the wheel with each extra into an environment of its own, and use what the extra is for.

    python tests/installs.py [EXTRA …]              (make installs)
    python tests/installs.py --sizes [EXTRA …]      write the table of docs/install.md, without downloading the packages

Downloads the extras' packages: a few minutes each, and about 10 GB for all. `gpu`, `tensorrt` and `tensorrt-rtx` are
installed and imported; running them takes a GPU. The sizes are those of the wheels that pip chooses here, and of the
files in them, which the table of contents at the end of each wheel names.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import subprocess
import sys
import tempfile
import time
import tomllib
import zipfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/install.md"
TABLE = re.compile(r"(?<=<!-- sizes -->\n).*?(?=<!-- end of sizes -->)", re.DOTALL)

# What each extra is for, in the order of the table.
PURPOSES = {
    "cpu": "compile for and run on ONNX Runtime on CPUs",
    "gpu": "the same on NVIDIA GPUs, instead of `cpu`; CUDA and cuDNN are not among it",
    "openvino": "compile for and run on OpenVINO",
    "tensorrt": "TensorRT plans",
    "tensorrt-rtx": "TensorRT-RTX plans",
    "torch": "train, and read `.pt` files from before PyTorch 1.6",
    "wandb": "log training to Weights & Biases",
    "mlflow": "log training to MLflow",
    "plots": "figures of `tune` and `sweep`",
    "data": "read and write parquet",
    "hub": "push, pull and read repositories of the Hugging Face Hub, official checkpoints, its data sets",
    "serve": "the HTTP server and its web page",
    "evaluate": "FID and other figures with Inception features",
    "ray": "sample and evaluate on a Ray cluster",
    "sweep": "train and judge many settings of a spec",
    "league": "train and judge many systems on the same images",
    "retrieval": "search nearest neighbours in an index",
    "text": "tokenizers, and captions cleaned for T5",
    "demo": "the handwritten digits of the first spec and of `make demo`",
    "notebooks": "run the notebooks of the tutorials",
    "site": "build these pages as a site",
    "dev": "tests and checks of latentc itself",
}

# Weights of the first spec, without PyTorch.
WEIGHTS = """
import numpy as np
from safetensors.numpy import save_file
from latentc.checkpoint import computed, network_params
from latentc.lower import lower
from latentc.spec import load_spec
lowered = lower(load_spec("my-model.yaml"))
params = network_params(lowered, lowered.networks["main"])
rng = np.random.default_rng(0)
shapes = {name: [int(d) for d in p.type.shape] for name, p in params.items() if not computed(p)}
save_file({n: (0.05 * rng.standard_normal(s)).astype("f4") for n, s in shapes.items()}, "weights.safetensors")
"""
COMPILE = "latentc compile my-model.yaml -w weights.safetensors -o model.latentc"
SAMPLE = "latentc sample model.latentc -o grid.png"
SERVER = "from latentc_runtime.serve.run import create_app; create_app(['model.latentc'])"

# Twenty pictures of each of two classes.
SHADES = (
    "import numpy as np; pictures = np.random.default_rng(0).integers(0, 255, (40, 20, 20, 1)).astype('u1'); "
    "np.savez('shades.npz', images=pictures, labels=np.arange(40) % 2)"
)

# extras, and what shows that they are enough: command lines, or Python behind `python -c`.
USES: dict[str, list[str]] = {
    "": ["latentc check my-model.yaml", "latentc emit my-model.yaml -o project", "latentc show dit", "latentc doctor"],
    "cpu": [COMPILE, SAMPLE, "latentc bench model.latentc --seconds 1"],
    "openvino": [f"{COMPILE} --set target.engine=openvino", SAMPLE],
    "torch,demo": ["latentc train my-model.yaml --steps 2 --schedule.warmup 1"],
    "cpu,plots": [
        "latentc tune my-model.yaml -w weights.safetensors -o tuned --samples 16 --evaluations 48 --seconds 5"
    ],
    "cpu,demo,sweep": [
        "latentc sweep my-model.yaml -o swept --set train.steps=2,3 --set train.schedule.warmup=1 --count 40"
    ],
    "cpu,league": [SHADES, "latentc league shades.npz -o league --systems cgan --budget 5s --count 20"],
    "cpu,data": [COMPILE, "latentc sample model.latentc --count 20 --as parquet -o samples"],
    "hub": [
        "import datasets, latentc.survey; latentc.survey.survey",
        "import huggingface_hub.file_download as hub, filelock; hub.http_get",
        "latentc specs --weights",
    ],
    "wandb": ["import wandb; print(wandb.__version__)"],
    "mlflow": ["import mlflow; print(mlflow.__version__)"],
    "retrieval": ["import usearch.index"],
    "text": ["import tokenizers, ftfy"],
    "ray": ["import ray"],
    "cpu,evaluate": [COMPILE, "latentc evaluate model.latentc --count 40"],
    "cpu,serve": [COMPILE, SERVER],
    "gpu": ["import onnxruntime; print(onnxruntime.get_available_providers())"],
    "notebooks": ["import ipykernel, diffusers, latentc_runtime"],
    "site": ["import sphinx, myst_nb, furo"],
    "tensorrt": ["import tensorrt"],
    "tensorrt-rtx": ["import tensorrt_rtx"],
}


def run(line: list[str], folder: Path) -> None:
    """Run a command; its output only if it fails."""
    done = subprocess.run(line, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(line)}\n{done.stdout[-2000:]}{done.stderr[-3000:]}")


class Remote(io.RawIOBase):
    """A file of a web server that answers requests for ranges."""

    def __init__(self, url: str) -> None:
        self.url, self.place = url, 0
        with urlopen(Request(url, method="HEAD"), timeout=60) as answer:
            self.size = int(answer.headers["Content-Length"])

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.place, io.SEEK_END: self.size}[whence]
        return self.place

    def read(self, size: int = -1) -> bytes:
        end = self.size if size < 0 else min(self.place + size, self.size)
        if end <= self.place:
            return b""
        asked = Request(self.url, headers={"Range": f"bytes={self.place}-{end - 1}"})
        with urlopen(asked, timeout=60) as answer:
            if answer.status != 206:
                raise OSError(f"{self.url} is not served in ranges")
            found: bytes = answer.read()
        self.place += len(found)
        return found


@cache
def size_of(url: str) -> tuple[int, int | None]:
    """Bytes of a package's file, and of the files in it; None if it is not a wheel."""
    local = urlsplit(url).scheme == "file"
    with Path(unquote(urlsplit(url).path)).open("rb") if local else Remote(url) as file:
        size = file.seek(0, io.SEEK_END)
        if not url.endswith(".whl"):
            return size, None
        with zipfile.ZipFile(file) as archive:
            return size, sum(entry.file_size for entry in archive.infolist())


def packages(python: str, wanted: Iterable[str]) -> dict[str, str]:
    """{name: address} of the packages that pip would install. CalledProcessError if it finds none that fit."""
    line = [python, "-m", "pip", "install", "-q", "--dry-run", "--ignore-installed", "--report", "-", *wanted]
    report = json.loads(subprocess.run(line, capture_output=True, text=True, check=True).stdout)
    return {found["metadata"]["name"].lower(): found["download_info"]["url"] for found in report["install"]}


def requirements() -> tuple[list[str], dict[str, list[str]]]:
    """The packages that latentc needs, and those of each extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras: dict[str, list[str]] = project["optional-dependencies"]

    def flat(name: str) -> list[str]:
        found = []
        for text in extras[name]:
            own = re.fullmatch(r"latentc\[(.*)\]", text)
            found += [one for other in own[1].split(",") for one in flat(other)] if own else [text]
        return found

    return project["dependencies"], {name: flat(name) for name in extras}


def row(python: str, name: str, base: dict[str, str]) -> str:
    """A row of the table: what an extra adds to the installation without extras; `base` are its packages."""
    needed, extras = requirements()
    wanted, purpose = needed + (extras[name] if name else []), PURPOSES.get(name, "")
    try:
        found = packages(python, wanted)
    except subprocess.CalledProcessError:
        return f"| `{name}` | {purpose} | not measured | |"
    sizes = [size_of(url) for package, url in found.items() if package not in base]
    whole = "" if all(inner is not None for _, inner in sizes) else "over "
    download, installed = sum(size for size, _ in sizes), sum(inner or size for size, inner in sizes)
    label = f"`{name}`" if name else "latentc without extras"
    return f"| {label} | {purpose} | {whole}{download / 1e6:,.0f} | {whole}{installed / 1e6:,.0f} |"


def write_sizes(chosen: list[str]) -> None:
    """Measure extras and write their rows of the table; rows of others stay."""
    text = PAGE.read_text()
    (table,) = TABLE.findall(text)
    rows = {line.split("|")[1].strip(): line for line in table.splitlines() if line.startswith("| ")}
    base = packages(sys.executable, requirements()[0])
    for name in ["", *chosen]:
        made = row(sys.executable, name, base if name else {})
        rows[made.split("|")[1].strip()] = made
        print(made, flush=True)
    head = ["| extra | for | MB downloaded | MB installed |", "|---|---|---|---|"]
    order = ["latentc without extras", *(f"`{name}`" for name in PURPOSES)]
    PAGE.write_text(TABLE.sub(lambda _: "\n".join([*head, *(rows[name] for name in order if name in rows), ""]), text))


def main() -> None:
    """Build the wheel, then try each extra."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("extras", nargs="*", metavar="EXTRA", help=f"all by default: {' '.join(filter(None, USES))}")
    parser.add_argument("--sizes", action="store_true", help="write the table of docs/install.md")
    given = parser.parse_args()
    if given.sizes:
        write_sizes(given.extras or list(PURPOSES))
        return
    chosen = given.extras or list(USES)
    with tempfile.TemporaryDirectory() as name:
        dist = Path(name, "dist")
        run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(dist)], ROOT)
        (wheel,) = dist.glob("*.whl")
        for number, extras in enumerate(chosen):
            began, folder = time.monotonic(), Path(name, str(number))
            folder.mkdir()
            run([sys.executable, "-m", "venv", "venv"], folder)
            binaries = folder / "venv/bin"
            python = str(binaries / "python")
            run([python, "-m", "pip", "install", "-q", f"{wheel}[{extras}]" if extras else str(wheel)], folder)
            run([str(binaries / "latentc"), "init"], folder)
            run([python, "-c", WEIGHTS], folder)
            for use in USES[extras]:
                words = use.split()
                is_command = words[0] == "latentc"
                run([str(binaries / "latentc"), *words[1:]] if is_command else [python, "-c", use], folder)
            run([python, "-m", "pip", "check"], folder)
            print(f"{extras or 'no extra'}: good, {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
