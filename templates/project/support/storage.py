"""Atomic file writes, and safetensors files with a checksum per tensor."""

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Calls write(temporary path), which creates a file or a folder, and renames the result to `path`.

    After a crash or on a full disk there is either the old or the new file, never a part. Raises OSError.
    """
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.unfinished{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        for made in [*temporary.glob("*"), temporary]:
            flush(made)
        os.replace(temporary, path)
        flush(path.parent)
    except (OSError, SafetensorError) as error:
        code = getattr(error, "errno", None) or int(re.findall(r"os error (\d+)", str(error))[0])
        raise OSError(code, os.strerror(code), str(path)) from None
    finally:
        with suppress(OSError):
            remove(temporary)


def write_text(path: Path, text: str) -> None:
    write_whole(path, lambda file: file.write_text(text, encoding="utf-8"))


def flush(path: Path) -> None:
    """Returns once a file, or the list of names in a folder, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Deletes a file or a folder, if there is one."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_whole(path: Path) -> None:
    """Deletes a folder atomically: even if interrupted, no part of it is left under its name."""
    leaving = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    path.rename(leaving)
    remove(leaving)


def sweep(folder: Path) -> None:
    """Removes what a killed run left unfinished in a folder, the folders in it, and those in them."""
    for left in [found for part in ("", "*/", "*/*/") for found in folder.glob(f"{part}.*.unfinished*")]:
        remove(left)


def sweep_parts(path: Path) -> None:
    """Removes what killed runs left of a file; not parts touched in the last hour: other runs may go on."""
    for left in path.parent.glob(f".{path.stem}.*.unfinished{path.suffix}"):
        with suppress(FileNotFoundError):
            if left.stat().st_mtime < time.time() - 3600:
                left.unlink()


def digest(tensor: Tensor) -> str:
    """A checksum of a tensor's dtype, shape and values."""
    content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    described = hashlib.sha256(f"{tensor.dtype} {list(tensor.shape)} ".encode())
    described.update(content)
    return described.hexdigest()


def save_tensors(tensors: dict[str, Tensor], path: Path) -> str:
    """Writes a safetensors file; returns the checksum of its entry `sha256`, {name: digest} as JSON."""
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    sums = {name: digest(tensor) for name, tensor in tensors.items()}
    save_file(tensors, path, {"sha256": json.dumps(sums)})
    path.chmod(path.parent.stat().st_mode & 0o666)  # safetensors makes files readable only by their owner
    return checksum(sums)


def checksum(sums: dict[str, str] | None) -> str:
    return hashlib.sha256(json.dumps(sums, sort_keys=True).encode()).hexdigest()


def load_tensors(path: Path, expected: str | None = None) -> dict[str, Tensor]:
    """Reads a safetensors file. ValueError if it is damaged; OSError if it cannot be read.

    `expected`: what `save_tensors` returned, to tell it from another intact file. Files from other programs,
    which have no checksums, are accepted without a check.
    """
    try:
        with safe_open(path, "pt") as file:
            sums = json.loads((file.metadata() or {}).get("sha256", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    if expected is not None and checksum(sums) != expected:
        raise ValueError(f"{path} is not the file that was written with the others")
    if sums is not None:
        for name in [*sums, *tensors]:
            if name not in tensors or digest(tensors[name]) != sums.get(name):
                raise ValueError(f"{path} is damaged: the checksum of {name} does not match")
    return tensors


def inherited(tensors: dict[str, Tensor], network: nn.Module, fresh: Sequence[str]) -> dict[str, Tensor]:
    """The tensors, except that names matching a pattern of `fresh` keep the network's own values."""

    def starts_anew(name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in fresh)

    kept = {name: tensor for name, tensor in tensors.items() if not starts_anew(name)}
    return kept | {name: tensor for name, tensor in network.state_dict().items() if starts_anew(name)}


def with_counts(tensors: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """The tensors, with the network's own counts of batches if they have none (files of latentc)."""
    counts = [name for name in network.state_dict() if name.endswith(".num_batches_tracked")]
    return {name: network.state_dict()[name] for name in counts} | tensors


def misfit(tensors: dict[str, Tensor], network: nn.Module) -> str | None:
    """Why tensors do not match a network; None if they do."""
    own = network.state_dict()
    for name in [*own, *tensors]:
        if name not in tensors:
            return f"it has no {name}"
        if name not in own:
            return f"the network has no {name}"
        if tensors[name].shape != own[name].shape:
            return f"its {name} is {list(tensors[name].shape)}, not {list(own[name].shape)}"
    return None
