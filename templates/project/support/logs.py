"""Curves and sample grids of a run, for each log that the setting `train.log` names.

A resumed run continues its curves from the checkpoint's step.
"""

import os
import re
import secrets
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from .config import flat
from .media import pictures
from .pixels import grid
from .storage import write_text

SMALLEST = 48  # pixels; smaller pictures are enlarged by a whole factor


def grids_of(samples: np.ndarray, field: dict[str, Any], labels: list[str], count: int) -> dict[str, np.ndarray]:
    """{name: picture u8[H, W, C]} of the samples of each class, `count` in a row; of all if there are no labels."""
    shown = pictures(samples, field)
    height, width = shown.shape[1:3]
    factor = -(-SMALLEST // min(height, width))
    shown = shown.repeat(factor, axis=1).repeat(factor, axis=2)
    columns = 4 if width < 4 * height else 1  # film strips and waveforms stand below each other
    if not labels:
        return {"all": grid(shown, 2 * columns, 2)}
    rows = range(0, len(labels), count)
    return {class_folder(i, labels[at]): grid(shown[at : at + count], columns, 2) for i, at in enumerate(rows)}


def class_folder(number: int, title: str) -> str:
    """A class as a file name, such as class_3_golden_retriever."""
    name = "" if title == str(number) else re.sub(r"[^A-Za-z0-9.-]+", "_", title).strip("_.")
    return f"class_{number}_{name[:60]}" if name else f"class_{number}"


def kept_id(file: Path, step: int) -> str | None:
    """The id of the run that a resumed training continues, if there is one."""
    return file.read_text().strip() if step and file.exists() else None


class TensorBoard:
    """Event files in the folder `tensorboard`."""

    def __init__(self, out: Path, config: dict[str, Any], step: int):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            print("tensorboard is not installed: it gets no curves")
            self.writer = None
        else:
            self.writer = SummaryWriter(str(out / "tensorboard"), purge_step=step + 1 if step else 0)

    def add(self, values: dict[str, float], step: int) -> None:
        for name, value in values.items() if self.writer else ():
            self.writer.add_scalar(name, value, step)

    def show(self, grids: dict[str, np.ndarray], step: int) -> None:
        for name, picture in grids.items() if self.writer else ():
            self.writer.add_image(name, picture, step, dataformats="HWC")

    def close(self) -> None:
        if self.writer:
            self.writer.close()


class Wandb:
    """A run of Weights & Biases; with WANDB_MODE=offline in the folder `wandb`, for `wandb sync`."""

    def __init__(self, out: Path, config: dict[str, Any], step: int):
        import wandb

        self.image, file = wandb.Image, out / "wandb_id.txt"
        name = kept_id(file, step) or secrets.token_hex(4)
        write_text(file, name)
        project = "".join("-" if c in "/\\#?%: " else c for c in config["name"])
        given = {"project": project, "name": out.name, "id": name, "resume": "allow", "config": config}
        try:
            self.run = wandb.init(dir=str(out), **given)
        except wandb.Error as error:
            mend = f"WANDB_MODE=offline writes to {out / 'wandb'} instead"
            raise SystemExit(f"train.log: wandb: {' '.join(str(error).split()).rstrip('.')}; {mend}") from None

    def add(self, values: dict[str, float], step: int) -> None:
        self.run.log(values, step=step)

    def show(self, grids: dict[str, np.ndarray], step: int) -> None:
        self.run.log({name: self.image(picture) for name, picture in grids.items()}, step=step)

    def close(self) -> None:
        self.run.finish()


class Mlflow:
    """A run of MLflow on the server MLFLOW_TRACKING_URI; without one in the folder `mlflow`."""

    def __init__(self, out: Path, config: dict[str, Any], step: int):
        import mlflow

        self.mlflow, file = mlflow, out / "mlflow_id.txt"
        if not os.environ.get("MLFLOW_TRACKING_URI"):
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # a folder instead of a database
            mlflow.set_tracking_uri((out / "mlflow").absolute().as_uri())
        name = kept_id(file, step)
        try:
            mlflow.set_experiment(config["name"])
            run = mlflow.start_run(run_id=name, run_name=None if name else out.name)
        except mlflow.MlflowException as error:
            raise SystemExit(f"train.log: mlflow: {' '.join(str(error).split())}") from None
        write_text(file, run.info.run_id)
        if name is None:
            mlflow.log_params({key: str(value)[:500] for key, value in flat(config).items()})

    def add(self, values: dict[str, float], step: int) -> None:
        self.mlflow.log_metrics(values, step=step, synchronous=False)

    def show(self, grids: dict[str, np.ndarray], step: int) -> None:
        for name, picture in grids.items():
            self.mlflow.log_image(picture, key=name, step=step)

    def close(self) -> None:
        self.mlflow.flush_async_logging()
        self.mlflow.flush_artifact_async_logging()
        self.mlflow.end_run()


class Csv:
    """The file metrics.csv, with a row per step and metric; `latentc runs` reads it."""

    def __init__(self, out: Path, config: dict[str, Any], step: int):
        path = out / "metrics.csv"
        rows = path.read_text(encoding="utf-8").splitlines()[1:] if step and path.exists() else []
        rows = [row for row in rows if row.count(",") == 2 and int(row.partition(",")[0]) <= step]
        write_text(path, "".join(f"{row}\n" for row in ("step,metric,value", *rows)))
        self.file = path.open("a", encoding="utf-8")

    def add(self, values: dict[str, float], step: int) -> None:
        self.file.writelines(f"{step},{name},{float(value)}\n" for name, value in values.items())
        self.file.flush()

    def close(self) -> None:
        self.file.close()


KINDS: dict[str, Any] = {
    # region tensorboard
    "tensorboard": TensorBoard,
    # endregion
    # region wandb
    "wandb": Wandb,
    # endregion
    # region mlflow
    "mlflow": Mlflow,
    # endregion
    # region csv
    "csv": Csv,
    # endregion
}


class Logs:
    """The logs that `train.log` names, in a run that begins or resumes at `step`."""

    def __init__(self, config: dict[str, Any], step: int):
        train = config["train"]
        self.logs = [KINDS[kind](Path(train["out"]), config, step) for kind in train["log"]]

    def add(self, values: dict[str, float], step: int) -> None:
        """Adds a point to each curve."""
        for log in self.logs:
            log.add(values, step)

    def show(self, grids: dict[str, np.ndarray], step: int) -> None:
        """Adds a picture to each grid; logs encode pictures with Pillow, and get none without it."""
        for log in self.logs if find_spec("PIL") else ():
            if hasattr(log, "show"):
                log.show({f"samples/{name}": picture for name, picture in grids.items()}, step)

    def close(self) -> None:
        for log in self.logs:
            log.close()
