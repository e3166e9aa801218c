"""Training data in batches. The order of samples depends only on the seed and the step.

    python -m latentc_support.data        # reads all images once, and encodes them if there is a first stage

A batch is a dict of tensors by field name, as `data.fields` of config.yaml declares them.
"""

import copyreg
import math
from collections.abc import Iterable, Iterator
from mmap import mmap
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from . import dataset
from .dataset import open_dataset


def generator(*key: int) -> torch.Generator:
    """A CPU generator that depends only on the key."""
    state = np.random.SeedSequence([int(k) for k in key]).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(state[0]) << 31 ^ int(state[1]))


def mapped_again(array: np.memmap) -> tuple[Any, ...]:
    """How a mapped file is sent to a worker: by name, or each worker would hold a copy of all its numbers."""
    if not isinstance(array.base, mmap):  # part of a mapped file
        return np.array(array).__reduce__()
    order = "C" if array.flags.c_contiguous else "F"
    return np.memmap, (array.filename, array.dtype, "r", array.offset, array.shape, order)


copyreg.pickle(np.memmap, mapped_again)


class Samples(Dataset):
    """Batches of a data set, by (row numbers, key of the augmentation)."""

    def __init__(self, source: Any):
        self.source, self.size = source, source.size

    def __getitem__(self, item: tuple[np.ndarray, int]) -> dict[str, Any]:
        rows, key = item
        try:
            arrays = self.source.rows(rows, np.random.default_rng(key))
        except (OSError, ValueError) as error:
            return {"error": str(error)}  # raised in the main process: a worker would add its traceback
        return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}

    # region finished
    def finished(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """A batch of the loader with what this process computes, such as codes of images that change."""
        finish = getattr(self.source, "finished", None)
        return finish(batch) if finish else batch

    # endregion
    # region files
    def check(self, seconds: float = math.inf) -> None:
        """Reads every image once, or as many as time allows, and counts those that cannot be read.

        SystemExit names them, unless `damaged` is "skip".
        """
        source = self.source
        # region encoded
        while hasattr(source, "source"):
            source = source.source
        # endregion
        pictures = getattr(source, "pictures", getattr(source, "images", None))
        if pictures is None:
            return
        faults, read, count = pictures.unreadable(seconds)
        if len(faults) == read > 0 or (faults and not pictures.skips):
            mend = "replace or remove them, or leave them out with `--data.damaged skip`"
            raise SystemExit(f"data: {len(faults):,} of {read:,} images cannot be read: {listed(faults)}: {mend}")
        if faults:
            print(f"{len(faults):,} of {read:,} images cannot be read and are skipped: {listed(faults)}", flush=True)
        if read < count:
            rest = "`python -m latentc_support.data` reads all"
            print(f"{read:,} of {count:,} images were read before the first step; {rest}", flush=True)

    # endregion
    def require(self, names: Iterable[str]) -> None:
        """SystemExit if samples lack a field."""
        held = checked(self[np.zeros(1, np.int64), 0])
        # region finished
        held = self.finished(held)
        # endregion
        if missing := [name for name in names if name not in held]:
            raise SystemExit(
                f"data: samples have no field {missing[0]}, which training reads; they have "
                f"{', '.join(held)}: choose another kind of data in the spec and emit the project again"
            )


def open_data(config: dict[str, Any]) -> Samples:
    """The data of the settings. SystemExit if it is missing or does not fit the model."""
    try:
        source = open_dataset(config["data"])
        # region encoded
        if "encoded" in config:
            from .features import with_features

            source = with_features(source, config)
        if "neighbours" in config:
            from .neighbours import WithNeighbours

            source = WithNeighbours(source, config["neighbours"], config["data"]["classes"])
        # endregion
        return Samples(source)
    except (OSError, ValueError) as error:
        raise SystemExit(f"data: {error}") from None


def listed(faults: list[str]) -> str:
    """The first of some messages, and the number of the others."""
    shown = "; ".join(faults[:5])
    return shown + (f"; and {len(faults) - 5:,} more" if len(faults) > 5 else "")


def class_names(config: dict[str, Any]) -> list[str]:
    """Names of the classes: in class_names.txt beside this file, else in the data; empty if unknown."""
    file = Path(__file__).with_name("class_names.txt")
    if file.is_file():
        return file.read_text(encoding="utf-8").splitlines()
    data = config["data"]
    find = getattr(dataset, "class_names", None)
    names = find(data) if find and data["classes"] else []
    return names if len(names) == data["classes"] else []


def batches(
    samples: Samples, config: dict[str, Any], start: int, rank: int, world: int
) -> Iterator[dict[str, torch.Tensor]]:
    """This process's part of every batch from step `start` on."""
    train = config["train"]
    size = train["batch_size"]
    if size > samples.size:
        raise SystemExit(f"batch_size: {size} samples per step, but the data has only {samples.size}")
    workers = 0 if samples.source.in_memory else train["workers"]
    loader = DataLoader(
        samples,
        sampler=Order(samples.size, size, train["seed"], start, rank, world),
        batch_size=None,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
        multiprocessing_context="spawn" if workers else None,
        generator=torch.Generator(),  # otherwise it would draw from dropout's generator
    )
    # region finished
    return (samples.finished(checked(batch)) for batch in loader)
    # endregion
    # region read
    return (checked(batch) for batch in loader)
    # endregion


def checked(batch: dict[str, Any]) -> dict[str, torch.Tensor]:
    """A batch as the loader gave it. SystemExit if its files could not be read."""
    if "error" in batch:
        raise SystemExit(f"data: {batch['error']}; `--resume true` continues once it can be read")
    return batch


class Order:
    """Endless (row numbers, key): each epoch is a permutation without its incomplete last batch."""

    def __init__(self, count: int, size: int, seed: int, start: int, rank: int, world: int):
        self.count, self.size = count, size
        self.seed, self.start, self.rank, self.world = seed, start, rank, world

    def __iter__(self) -> Iterator[tuple[np.ndarray, int]]:
        step, per_epoch, epoch, permutation = self.start, self.count // self.size, -1, None
        while True:
            if step // per_epoch != epoch:
                epoch = step // per_epoch
                permutation = torch.randperm(self.count, generator=generator(self.seed, 2, epoch)).numpy()
            at = step % per_epoch * self.size
            rows = permutation[at : at + self.size][self.rank :: self.world]
            key = torch.randint(1 << 62, (), generator=generator(self.seed, 3, step, self.rank))
            yield rows, int(key)
            step += 1


if __name__ == "__main__":
    from . import plain_errors  # noqa: F401
    from .config import load_config

    found = open_data(load_config())
    # region files
    found.check()
    # endregion
    print(f"{found.size:,} samples")
