"""Bundles and trained projects as repositories of the Hugging Face Hub, both ways."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors

from latentc import __version__
from latentc.checkpoint import network_weights
from latentc.components.fields import FIRST_STAGE
from latentc.diagnostics import DiagnosticError
from latentc.emit.model import SUPPORT
from latentc.files.named import make_folder
from latentc.files.shipped import shipped_specs
from latentc.interchange.card import Card, card_of
from latentc.lower import lower
from latentc.spec import Spec, load_spec
from latentc.spec.load import data_from_spec
from latentc.spec.write import yaml_from_data
from latentc.weights import open_weights, write_safetensors
from latentc.weights.hub import asking, is_remote, place, snapshot
from latentc_runtime.bundle import open_bundle
from latentc_runtime.manifest import FileEntry
from latentc_runtime.manifest_json import bytes_from_manifest

Files = dict[str, Path | bytes]
"""{path in the repository: file, or content}."""
SPEC, MODEL, CARD, PICTURE = "spec.yaml", "model.safetensors", "README.md", "samples.png"
_PATHS = ("path", "captions", "tokenizer", "pretrained", "database", "evaluate_features", "reference")
_MEND = "check the name and the network; `hf auth login` or HF_TOKEN, with the right to write there, logs in"


@dataclass(frozen=True)
class Trained:
    """The results of a training run: its weights, and the newest grid of samples, if there is one."""

    folder: Path
    weights: Path
    picture: Path | None


def is_bundle(folder: Path) -> bool:
    """True for a folder that `latentc compile` wrote."""
    return (folder / "manifest.json").is_file()


def trained(source: Path) -> Trained:
    """The run in an emitted project, or in a run's folder. DiagnosticError E0426."""
    found = [source / "weights.safetensors"]
    if not found[0].is_file():
        found = sorted((source / "runs").glob("*/weights.safetensors"))
    if len(found) != 1:
        several = ", ".join(file.parent.name for file in found)
        message = (
            f"{source} holds several runs: {several}" if found else f"{source} holds no bundle and no trained weights"
        )
        mend = f"name one of them: {found[0].parent}" if found else "compile a bundle, or train the project first"
        raise DiagnosticError.of("E0426", message, help=mend)
    folder = found[0].parent
    pictures = sorted((folder / "samples").glob("*.png"))
    return Trained(folder, found[0], pictures[-1] if pictures else None)


def spec_of_project(source: Path) -> Path | None:
    """The spec in an emitted project, of which `source` is the folder or that of a run; None if it has none."""
    found = [folder / SUPPORT / SPEC for folder in (source, source.absolute().parent.parent)]
    return next((file for file in found if file.is_file()), None)


def bundle_files(bundle: Path) -> Files:
    """The files of an intact bundle, without the folders of this machine in its spec.

    BundleError; DiagnosticError E0426 if it refers to weights elsewhere.
    """
    manifest = open_bundle(bundle).manifest
    if manifest.references:
        mend = "compile it again without `--by-reference`"
        raise DiagnosticError.of("E0426", f"{bundle} refers to weights that lie outside it", help=mend)
    spec = load_spec(bundle / SPEC)
    data, changed = _without_folders(data_from_spec(spec)), Files()
    stage = spec.data.first_stage
    if stage is not None:
        section = data["data"]["first_stage"]
        section["weights"] = stage.weights if stage.weights and is_remote(stage.weights) else None  # in the bundle
        if stage.spec not in shipped_specs() and spec.first_stage is not None:
            section["spec"] = f"{FIRST_STAGE}/{SPEC}"
            changed[section["spec"]] = yaml_from_data(_without_folders(data_from_spec(spec.first_stage))).encode()
    changed[SPEC] = yaml_from_data(data).encode()
    entries = {n: FileEntry(hashlib.sha256(c).hexdigest(), len(c)) for n, c in changed.items() if isinstance(c, bytes)}
    whole = bytes_from_manifest(replace(manifest, files={**manifest.files, **entries}))
    return {**{name: bundle / name for name in manifest.files}, **changed, "manifest.json": whole}


def _without_folders(data: Any) -> Any:
    """A spec's data with `data/NAME` for absolute paths of files and folders."""
    if isinstance(data, list):
        return [_without_folders(item) for item in data]
    if not isinstance(data, dict):
        return data
    return {
        key: f"data/{Path(value).name}"
        if key in _PATHS and isinstance(value, str) and Path(value).is_absolute()
        else _without_folders(value)
        for key, value in data.items()
    }


def project_files(run: Trained, spec: Spec, folder: Path, licence: str | None) -> Files:
    """Weights of a run with metadata, its spec and its class names; written to `folder`. DiagnosticError.

    The spec names the weights beside it, so that it can be compiled from a copy of the repository. The errors are those
    of weights that do not fit the spec (E0401 to E0411).
    """
    lowered = lower(spec)
    wanted = lowered.sampled or tuple(lowered.networks)
    own = [name for name in wanted if name != FIRST_STAGE]
    network_weights(spec, lowered, run.weights, networks=own)  # refuses weights of another spec
    tensors = open_weights(run.weights)
    about = {"format": "pt", "latentc": __version__, "spec": spec.name, "source": spec.source or ""}
    about |= {"license": licence} if licence else {}
    write_safetensors(folder / MODEL, tensors, {**_metadata(run.weights), **{k: v for k, v in about.items() if v}})
    files: Files = {MODEL: folder / MODEL}
    data = _without_folders(data_from_spec(spec))
    prefixed = all(any(name.startswith(f"{network}.") for name in tensors) for network in own)
    data["checkpoints"] = {n: {"weights": MODEL, **({"key": n} if prefixed else {})} for n in own}
    if spec.first_stage is not None and spec.data.first_stage is not None:
        files |= _first_stage(spec, data["data"]["first_stage"], folder)
    files[SPEC] = yaml_from_data(data).encode()
    if (names := run.folder / "class_names.txt").is_file():
        files[names.name] = names
    return files


def _first_stage(spec: Spec, section: dict[str, Any], folder: Path) -> Files:
    """The spec of the first stage, and its weights under our names; `section` then names them."""
    from latentc.checkpoint import first_stage_weights

    assert spec.first_stage is not None and spec.data.first_stage is not None
    plain = data_from_spec(spec.first_stage.model_copy(update={"checkpoints": {}}))
    section |= {"spec": f"{FIRST_STAGE}/{SPEC}", "variant": None, "names": None, "key": None}
    files: Files = {section["spec"]: yaml_from_data(_without_folders(plain)).encode()}
    if spec.data.first_stage.weights is not None:
        section["weights"] = f"{FIRST_STAGE}/{MODEL}"
        make_folder(folder / FIRST_STAGE)
        write_safetensors(folder / section["weights"], first_stage_weights(spec), {"format": "pt"})
        files[section["weights"]] = folder / section["weights"]
    return files


def _metadata(file: Path) -> dict[str, str]:
    """The metadata of a safetensors file, such as the digests of its tensors."""
    with safetensors.safe_open(file, "numpy") as opened:
        return dict(opened.metadata() or {})


def commands(repository: str, bundle: bool, spec: Spec) -> list[str]:
    """How to fetch and run what a repository holds."""
    name = repository.rpartition("/")[2]
    made = name if bundle else f"{name}.latentc"
    classes = " --class 0" if spec.data.classes else ""
    sampled = f"latentc sample {made}{classes} -o samples{'.png' if spec.data.modelled.medium == 'image' else ''}"
    return [
        f"latentc pull {repository} -o {name}",
        *([] if bundle else [f"latentc compile {name}/{SPEC} -o {made}"]),
        sampled,
    ]


def upload(repository: str, files: Mapping[str, Path | bytes], private: bool) -> str:
    """Commits files to a repository, which is created if need be; returns its address. DiagnosticError E0426, E0706."""
    name, revision, inner = place(repository)
    if inner is not None:
        mend = f"push to {name}, whose top the files will be in"
        raise DiagnosticError.of("E0426", f"`{repository}` names a file, not a repository", help=mend)
    with asking(f"pushing to {name}", "E0426", _MEND) as hub:
        client = hub.HfApi(library_name="latentc", library_version=__version__)
        client.create_repo(name, private=private or None, exist_ok=True)
        added = [hub.CommitOperationAdd(path, file) for path, file in files.items()]
        message = f"Push with latentc {__version__}"
        client.create_commit(name, added, commit_message=message, revision=revision)
        return f"{client.endpoint}/{name}"


def card(spec: Spec, made: Card) -> bytes:
    """README.md. DiagnosticError E0706."""
    return card_of(spec, made).encode()


def pull(repository: str, folder: Path, check: Callable[[Path], None]) -> str:
    """Downloads a whole repository to `folder`, which must be new; returns what it is: bundle, spec or files.

    It lies beside `folder` until it is whole and `check` (of a bundle's checksums) accepts it, so that an interrupted
    download goes on where it stopped. DiagnosticError E0412, E0425, E0706.
    """
    name, revision, inner = place(repository)
    if inner is not None:
        mend = f"pull {name}; `-w hub:{repository.removeprefix('hub:')}` reads one file of it"
        raise DiagnosticError.of("E0425", f"`{repository}` names a file, not a repository", help=mend)
    if folder.exists():
        raise DiagnosticError.of("E0412", f"{folder} exists already", help="name another folder with -o")
    part = folder.with_name(f".{folder.name}.part")
    make_folder(folder.parent)
    snapshot(name, revision, folder=part)
    if is_bundle(part):
        try:
            check(part)
        except DiagnosticError:
            shutil.rmtree(part)
            raise
    shutil.rmtree(part / ".cache", ignore_errors=True)  # of the Hub's library: what is downloaded already
    (part / ".gitattributes").unlink(missing_ok=True)
    part.rename(folder)
    return "bundle" if is_bundle(folder) else "spec" if (folder / SPEC).is_file() else "files"


def spec_of(bundle: Path) -> Spec:
    """The spec of a bundle."""
    return load_spec(bundle / SPEC)
