"""The `data` section that reads a path: its kind, from the names of its files; and data sets of the Hub."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from latentc.datasets.arrays import files_below
from latentc.datasets.image_files import SUFFIXES
from latentc.datasets.imagenet import synset_folders
from latentc.diagnostics import DiagnosticError, nearest
from latentc.diagnostics.faults import needed

Section = dict[str, Any]
HUB = "hub:"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_FILES = {".npz": "npz", ".parquet": "parquet", ".tar": "webdataset", ".zip": "edm"}
_OTHERS = {".wav": "audio_folder", ".csv": "table", ".tsv": "table", ".jsonl": "table"}
KINDS = "a folder of images, .parquet, .tar (WebDataset), .npz or .npy files, a .zip of EDM, a folder written by "
KINDS += "`save_to_disk`, or the id of a data set on the Hugging Face Hub (ORG/NAME)"


def is_hub_id(text: str) -> bool:
    """True for `hub:ORG/NAME`, and for ORG/NAME if neither is a file or folder here."""
    if text.startswith(HUB):
        return True
    return bool(_HUB_ID.fullmatch(text)) and not Path(text).exists() and not Path(text).parent.exists()


def section_of(path: str | Path) -> Section:
    """`kind` and `path` of the data in a file or folder. DiagnosticError E0401 (no such path), E0422 (of no kind)."""
    root = Path(path)
    try:
        there = root.exists()
    except (OSError, ValueError):
        there = False
    if not there:
        names = [child.name for child in root.parent.iterdir()] if root.parent.is_dir() else []
        near = nearest(root.name, names)
        hint = f"did you mean `{root.parent / near}`?" if near else f"name {KINDS}"
        raise DiagnosticError.of("E0401", f"no such file or folder: {root}", help=hint)
    kind = _kind_of_folder(root) if root.is_dir() else _FILES.get(root.suffix.lower())
    if kind is None:
        raise _of_no_kind(root)
    return {"kind": kind, "path": str(path)}


def _kind_of_folder(root: Path) -> str | None:
    if any((root / name).is_file() for name in ("dataset_dict.json", "state.json")):
        return "huggingface"
    if any(synset_folders(folder) for folder in (root, root / "train", root / "ILSVRC/Data/CLS-LOC/train")):
        return "imagenet"
    names = [p.name for p in root.iterdir() if p.is_file() and p.name[0] != "."]
    if any(name.endswith(".tar") for name in names):
        return "webdataset"
    if "x.npy" in names:
        return "npy_folder"
    try:
        if files_below(root, {".parquet"}):
            return "parquet"
        images = files_below(root, SUFFIXES)
    except ValueError as error:
        raise DiagnosticError.of("E0402", str(error), help="remove it") from None
    return ("edm" if "dataset.json" in names else "image_folder") if images else None


def _of_no_kind(root: Path) -> DiagnosticError:
    held = [root] if root.is_file() else [p for p in root.rglob("*") if p.is_file()][:1000]
    suffixes = sorted({file.suffix.lower() for file in held} - {""})
    others = {_OTHERS[suffix] for suffix in suffixes if suffix in _OTHERS}
    if others:
        (kind, *_) = sorted(others)
        message, mend = (
            f"{root} holds data of kind `{kind}`, which is not inspected",
            f"give a spec `data: {{kind: {kind}",
        )
        return DiagnosticError.of("E0422", message, help=f"{mend}, …}}` and run `latentc check` on it")
    what = (
        "is empty" if not held else f"holds no data that latentc reads, only {', '.join(suffixes[:6]) or 'other files'}"
    )
    return DiagnosticError.of("E0422", f"{root} {what}", help=f"name {KINDS}")


def from_hub(name: str, split: str) -> Any:
    """A split of a data set on the Hub, as `datasets` caches it. DiagnosticError E0423, E0706."""
    name = name.removeprefix(HUB)
    datasets = needed("datasets", f"reading {name} from the Hugging Face Hub", "pip install 'latentc[hub]'")
    try:
        datasets.logging.set_verbosity_error()
        return datasets.load_dataset(name, split=split)
    except Exception as error:  # of datasets, huggingface_hub, requests, pyarrow
        words = " ".join(str(error).split())[:300]
        mend = (
            "check its id, the split (--split) and the network; HF_HUB_OFFLINE=1 uses what is cached, HF_TOKEN logs in"
        )
        raise DiagnosticError.of("E0423", f"the data set {name} cannot be loaded: {words}", help=mend) from None


def saved_from_hub(name: str, split: str, folder: Path) -> Path:
    """A folder in `folder` with a split of a data set of the Hub, saved there if it is not. DiagnosticError."""
    target = folder / name.removeprefix(HUB).rpartition("/")[2]
    if target.exists() and not (target / "state.json").is_file():
        mend = "move it away, or save the data set elsewhere with `save_to_disk` and name that folder"
        raise DiagnosticError.of("E0412", f"{target} is not a data set that `save_to_disk` wrote", help=mend)
    if not target.exists():
        from_hub(name, split).save_to_disk(str(target))
    return target


def first_of(names: Collection[str], wanted: tuple[str, ...]) -> str | None:
    """The first of the wanted names that there is, whatever its case."""
    folded = {name.casefold(): name for name in names}
    return next((folded[name] for name in wanted if name in folded), None)
