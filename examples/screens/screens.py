"""The pictures of docs/ that show what commands draw: evaluation, tuning, sweep, runs, the served page.

    python examples/screens/screens.py [--out out/screens] [NAME …]   # docs/images/NAME.png, all of them by default

Finished trainings, bundles and sweeps in the folder are used again. Takes about half an hour on two cores; tuning and
the sweep draw times, so nothing else should run. Needs a browser, and the extras cpu, torch, plots, sweep and serve.
"""

from __future__ import annotations

import argparse
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "docs" / "images"
SPEC = "digits_dit"


def latentc(*arguments: Any, folder: Path = ROOT) -> None:
    """Runs a command in a folder, as its user would. CalledProcessError if it fails."""
    subprocess.run([sys.executable, "-m", "latentc", *map(str, arguments)], check=True, cwd=folder)


def weights(out: Path) -> Path:
    """The weights of the digit DiT, trained unless they are in the folder."""
    file = out / "digits" / "runs" / "train" / "weights.safetensors"
    if not file.exists():
        latentc("train", SPEC, "-o", out / "digits")
    return file


def bundle(out: Path) -> Path:
    folder = out / "digits.latentc"
    if not folder.exists():
        latentc("compile", SPEC, "-w", weights(out), "-o", folder)
    return folder


def photographed(page: Page, name: str, width: int, height: int) -> None:
    """The upper part of a page as docs/images/`name`.png."""
    page.set_viewport_size({"width": width, "height": height})
    file = IMAGES / f"{name}.png"
    page.screenshot(path=file, animations="disabled")
    with Image.open(file) as picture:
        picture.convert("RGB").save(file, optimize=True)


def evaluation(out: Path, page: Page) -> None:
    """A report at four guidance scales."""
    folder = out / "report"
    shutil.rmtree(folder, ignore_errors=True)
    latentc("evaluate", bundle(out), "--guidance", "1,1.25,2,4", "--count", 300, "-o", folder)
    page.goto((folder / "report.html").as_uri())
    photographed(page, "evaluation", 1000, 2080)


def pareto(out: Path, page: Page) -> None:
    """Samplers of the same quality as the spec's, and what they cost."""
    folder = out / "tuned"
    if not folder.exists():
        latentc("tune", SPEC, "-w", weights(out), "-o", folder, "--metric", "fd")
    shutil.copy(folder / "pareto.png", IMAGES / "pareto.png")


def sweep(out: Path, page: Page) -> None:
    """Two good learning rates and one at which training diverges."""
    settings = ("train.optimizer.lr=1e-3,3e-3,1e6", "sampler.guidance.scale=1,1.5", "train.steps=300")
    latentc("sweep", SPEC, "-o", out / "swept", *(part for text in settings for part in ("--set", text)))
    shutil.copy(out / "swept" / "sweep.png", IMAGES / "sweep.png")


def runs(out: Path, page: Page) -> None:
    """Three short trainings that differ in width or learning rate."""
    every = ("train.steps=400", "train.log_every=20", "train.evaluate_every=100", "backbone.depth=2")
    trained = []
    for name, settings in {
        "small": ["backbone.width=32"],
        "fast": ["backbone.width=32", "train.optimizer.lr=6e-3"],
        "wide": ["backbone.width=48"],
    }.items():
        if not (out / name / "runs" / "train" / "weights.safetensors").exists():
            sets = [part for text in (*every, *settings, f"name={name}") for part in ("--set", text)]
            latentc("train", SPEC, "-o", out / name, *sets)
        trained.append(f"{name}/runs/train")
    file = out / "runs.html"
    latentc("runs", *trained, "--html", file, folder=out)
    page.goto(file.as_uri())
    photographed(page, "runs", 1080, 970)


def serve(out: Path, page: Page) -> None:
    """The page with three samples of each class, whose names it shows."""
    folder = out / "named.latentc"
    if not folder.exists():
        names = "data.class_names=[zero, one, two, three, four, five, six, seven, eight, nine]"
        latentc("compile", SPEC, "-w", weights(out), "-o", folder, "--set", names)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "latentc", "serve", f"digits={folder}", "--port", str(port)]
    server = subprocess.Popen(command)
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(100):
            with suppress(urllib.error.URLError), urllib.request.urlopen(f"{address}/v1/models"):
                break
            time.sleep(0.3)
        page.goto(address)
        page.get_by_text("All", exact=True).click()
        page.get_by_label("Samples per class").fill("3")
        page.get_by_label("Seed").fill("7")
        page.get_by_role("button", name="Sample", exact=True).click()
        page.get_by_text("30 samples in").wait_for(timeout=120_000)
        photographed(page, "serve", 1180, 720)
    finally:
        server.terminate()
        server.wait()


PICTURES: dict[str, Callable[[Path, Page], None]] = {
    "evaluation": evaluation,
    "pareto": pareto,
    "runs": runs,
    "serve": serve,
    "sweep": sweep,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(PICTURES)}")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "screens")
    flags = parser.parse_args()
    if unknown := set(flags.names) - set(PICTURES):
        parser.error(f"{', '.join(sorted(unknown))}: the pictures are {', '.join(PICTURES)}")
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        raise SystemExit("no browser: install chromium")
    flags.out.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = opened.new_page(color_scheme="light")
        for name in flags.names or PICTURES:
            PICTURES[name](flags.out.absolute(), page)
        opened.close()


if __name__ == "__main__":
    main()
