"""Checkpoints of sharded networks: each process writes its own part; any number of processes can read them.

A folder per kind (networks, averages, optimizers) holds a safetensors file per process. The metadata of a
file say where its parts belong; state.json lists the files with their checksums.
"""

import hashlib
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.tensor import DTensor, distribute_tensor

from .parallel import Run


def save_shards(tensors: dict[str, dict[str, Tensor]], folder: Path | None, run: Run) -> dict[str, str]:
    """Writes this process's part of each kind of tensors; returns {file: sha256} over all processes.

    The first process creates the folder and tells the others its name. If one fails, all raise its OSError.
    """
    if run.main:
        folder.mkdir()
    folder = Path(run.agreed(str(folder)))
    for kind, held in tensors.items():
        # Whole tensors, such as running statistics, are taken from the first process.
        own = {name: tensor for name, tensor in held.items() if run.main or isinstance(tensor, DTensor)}
        try:
            dcp.save(own, storage_writer=dcp.HuggingFaceStorageWriter(str(folder / kind), save_distributed=True))
        except CheckpointException as error:
            raise next(iter(error.failures.values()))[0] from None
    written = sorted(folder.glob(f"*/shard-{run.rank + 1:05d}-*"))
    parts = run.gathered({file.relative_to(folder).as_posix(): sha256(file) for file in written})
    return {name: checksum for part in parts for name, checksum in part.items()}


def check_shards(folder: Path, files: dict[str, str], run: Run | None = None) -> None:
    """Compares files with their checksums, each process a part of them.

    ValueError if one does not match, or if the folder holds parts that are not listed.
    """
    for file in sorted(folder.glob("*/*.safetensors")):
        if file.relative_to(folder).as_posix() not in files:
            raise ValueError(f"{file} is not one of the files that were written together")
    rank, world = (run.rank, run.world) if run else (0, 1)
    for name in sorted(files)[rank::world]:
        if not (folder / name).is_file():
            raise ValueError(f"{folder / name} is missing")
        if sha256(folder / name) != files[name]:
            raise ValueError(f"{folder / name} is damaged: its checksum does not match")


def load_shards(folder: Path, likes: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of one kind, each sharded like the one of its name in `likes`; whole if there is none."""
    if not folder.is_dir():  # there are none of this kind
        return {}
    reader = dcp.HuggingFaceStorageReader(str(folder))
    tensors = {}
    for name, stored in reader.read_metadata().state_dict_metadata.items():
        like, dtype = likes.get(name), stored.properties.dtype
        fits = like is not None and like.shape == stored.size
        tensors[name] = torch.zeros_like(like, dtype=dtype) if fits else torch.zeros(stored.size, dtype=dtype)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # one process reads it as well
        dcp.load(tensors, storage_reader=reader, no_dist=not dist.is_initialized())
    return tensors


def spread(tensor: Tensor, like: Tensor) -> Tensor:
    """A tensor that every process holds whole, sharded like another."""
    if not isinstance(like, DTensor) or isinstance(tensor, DTensor) or tensor.shape != like.shape:
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)


def sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
