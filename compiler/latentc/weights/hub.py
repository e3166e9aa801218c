"""Weights in repositories of the Hugging Face Hub: `hub:ORG/NAME`, `hub:ORG/NAME@REVISION/FILE`."""

from __future__ import annotations

import contextlib
import functools
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from latentc.diagnostics import DiagnosticError
from latentc.diagnostics.faults import needed

HUB = "hub:"
OFFICIAL = "official:"
SAFE = ("*.safetensors", "*.safetensors.index.json")
_OTHERS = ("*.pt", "*.pth", "*.ckpt", "*.bin", "*.npz", "*.bin.index.json")
_BESIDE = ("class_names.txt", "config.json")
_DERIVED = "derived.safetensors"  # what a bundle computed from its weights
_PART = r"[A-Za-z0-9][\w.-]*"
_PLACE = re.compile(rf"(?P<repository>{_PART}/{_PART})(?:@(?P<revision>[\w.-]+))?(?:/(?P<inner>.+))?")
_MEND = "check its name and the network; HF_TOKEN logs in, HF_HUB_OFFLINE=1 uses what is cached"


def is_hub(path: Path | str) -> bool:
    """True for `hub:…`, which names no file of this machine."""
    return str(path).startswith(HUB)


def is_official(path: Path | str) -> bool:
    """True for `official:NAME`, a checkpoint that a spec names in its section `official`."""
    return str(path).startswith(OFFICIAL)


def is_remote(path: Path | str) -> bool:
    """True for `hub:…` and `official:…`, which name no file of this machine."""
    return is_hub(path) or is_official(path)


def local(path: Path | str) -> Path:
    """The file or folder that a path names; one of the Hub is downloaded, unless it is cached.

    Without a FILE, the weights at the top of the repository: safetensors, or other formats if there are none; of a
    bundle, its weights. FILE may be a folder. A repository is asked once per process, so that one command reads one
    revision. DiagnosticError E0425, E0706; E0427 for `official:…`, which only a spec can read.
    """
    if is_official(path):
        mend = f"give it to a command with a spec: `latentc compile SPEC --weights {path}`"
        raise DiagnosticError.of("E0427", f"`{path}` stands for the weights of a spec, not for a file", help=mend)
    return _downloaded(str(path)) if is_hub(path) else Path(path)


@functools.cache
def _downloaded(text: str) -> Path:
    repository, revision, inner = place(text)
    if inner is None:
        found = _first(repository, revision, "")
    elif inner.endswith(".index.json"):
        # The shards of `model.safetensors.index.json` are `model-00001-of-00002.safetensors` and so on.
        folder, _, name = inner.rpartition("/")
        stem = f"{folder}/{name.partition('.')[0]}" if folder else name.partition(".")[0]
        found = snapshot(repository, revision, [f"{stem}*"]) / inner
    elif "." in inner.rpartition("/")[2]:
        with asking(f"reading {text}") as hub:
            found = Path(hub.hf_hub_download(repository, inner, revision=revision))
    else:
        found = _first(repository, revision, f"{inner.rstrip('/')}/") / inner
    if not found.exists():
        raise DiagnosticError.of("E0425", f"{text} does not exist in that repository", help=_see(repository))
    return found


def _first(repository: str, revision: str | None, folder: str) -> Path:
    """A snapshot with the weights in one folder of a repository, of the first formats that it has."""
    for formats in (SAFE, _OTHERS):
        patterns = [f"{folder}{name}" for name in (*formats, *_BESIDE)]
        found = snapshot(repository, revision, patterns, [f"{folder}*/*"])
        if any(file.match(name) for file in (found / folder).glob("*") for name in formats):
            return found
    if not folder:
        found = snapshot(repository, revision, ["weights/*.safetensors"], [f"*{_DERIVED}"])
        files = [file for file in (found / "weights").glob(SAFE[0]) if file.name != _DERIVED]
        if len(files) == 1:
            return files[0]
    message = f"{HUB}{repository} has no weights " + (f"in its folder {folder}" if folder else "at its top")
    raise DiagnosticError.of("E0425", message, help=_see(repository))


def local_pipeline(path: Path | str) -> Path:
    """As `local`, but a repository without a FILE is downloaded with all its folders and configurations."""
    repository, revision, inner = place(str(path)) if is_hub(path) else ("", None, "")
    if inner is not None:
        return local(path)
    found = snapshot(repository, revision, [*SAFE, "*.json"], ["*.fp16.*", "*.non_ema.*"])
    if not any(found.rglob(SAFE[0])):
        found = snapshot(repository, revision, [*_OTHERS, "*.json"], ["*.fp16.*", "*.non_ema.*"])
    return found


def _see(repository: str) -> str:
    return f"name a file: {HUB}{repository}/FILE"


def place(text: str) -> tuple[str, str | None, str | None]:
    """(ORG/NAME, revision, file) of a text, which may begin with `hub:`. DiagnosticError E0425."""
    found = _PLACE.fullmatch(text.removeprefix(HUB))
    if found is None or ".." in text:
        mend = "write ORG/NAME, ORG/NAME@REVISION or, for weights, hub:ORG/NAME/FILE"
        raise DiagnosticError.of("E0425", f"`{text}` names no repository of the Hugging Face Hub", help=mend)
    return found["repository"], found["revision"], found["inner"]


def snapshot(
    repository: str,
    revision: str | None,
    patterns: Sequence[str] | None = None,
    ignored: Sequence[str] | None = None,
    folder: Path | None = None,
) -> Path:
    """Files of a repository in the Hub's cache, or in `folder`; interrupted downloads go on. DiagnosticError E0425."""
    with asking(f"reading {HUB}{repository}") as hub:
        found = hub.snapshot_download(
            repository,
            revision=revision,
            allow_patterns=None if patterns is None else list(patterns),
            ignore_patterns=None if ignored is None else list(ignored),
            local_dir=folder,
        )
    return Path(found)


@contextlib.contextmanager
def asking(what: str, code: str = "E0425", mend: str = _MEND) -> Iterator[Any]:
    """The library of the Hub; what it raises becomes a DiagnosticError `code`; E0706 without it."""
    hub = needed("huggingface_hub", what, "pip install 'latentc[hub]'")
    from huggingface_hub.utils import disable_progress_bars, logging

    logging.set_verbosity_error()
    if not sys.stderr.isatty():
        disable_progress_bars()
    try:
        yield hub
    except DiagnosticError:
        raise
    except Exception as error:  # of huggingface_hub, its HTTP client, the system
        words = " ".join(str(error).split())[:300] or type(error).__name__
        raise DiagnosticError.of(code, f"{what} failed: {words}", help=mend) from None
