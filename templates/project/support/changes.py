"""Settings of a resumed run that differ from those of its checkpoint: which may change.

Settings of training and data may change and take effect from the checkpoint's step on. REFUSED lists those
that may not; the files that networks start from (`pretrained`) are not read again. Each change is printed,
stored in the checkpoints that follow and written at the top of the run's config.yaml.
"""

import json
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

from .config import flat
from .storage import write_text

REFUSED = {
    "model.*": "the weights belong to another model",
    "rounds.*": "it divides all steps of a run",
    "clusters.*": "the clusters so far were found with it",
    "roles.*": "it decides which networks are trained, and from where they start",
    "train.seed": "initial weights, noise and the order of the data follow from it",
    "train.*.kind": "its state is that of another optimizer",
    "train.ema.sigma_rel": "averages of other widths cannot start in mid-training",
}
# although a pattern above matches
PERMITTED = ("clusters.every", "clusters.start", "roles.*.decay", "roles.*.pretrained", "train.schedule.kind")
OWN = ("name", "train.out", "train.resume")  # of each start
START = "roles.*.pretrained"
UNSET = "unset"


def differences(before: dict[str, Any], after: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """{path: (value before, value after)} of the settings that differ."""
    old, new = flat(before), flat(after)
    pairs = {path: (old.get(path, UNSET), new.get(path, UNSET)) for path in [*old, *new] if path not in OWN}
    return {path: pair for path, pair in pairs.items() if pair[0] != pair[1]}


def changes(folder: Path, step: int, before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """A sentence per changed setting of a run that resumes a checkpoint of `step` steps.

    In `after`, the files that networks started from become those of `before`. SystemExit if a setting must
    not change.
    """
    found = differences(before, after)
    for path, pair in found.items():
        if why := refusal(path, pair, step, before, after):
            name, (old, new) = path.removeprefix("train."), map(shown, pair)
            mend = "set it back, or train from the start with another --out"
            raise SystemExit(f"{name}: {folder} was written with {old}, not {new}: {why}; {mend}")
    said = []
    for path, (old, new) in found.items():
        if fnmatchcase(path, START):
            role = after.setdefault("roles", {}).setdefault(path.split(".")[1], {})
            role["pretrained"] = None if old == UNSET else old
            said.append(f"step {step}: {path} {shown(new)} is not read: the checkpoint contains the network")
        else:
            said.append(f"step {step}: {path} changed from {shown(old)} to {shown(new)}")
    return said


def refusal(path: str, pair: tuple[Any, Any], step: int, before: dict[str, Any], after: dict[str, Any]) -> str | None:
    """Why a setting must not change from one value to the other; None if it may."""
    if path == "train.steps" and pair[1] < step:
        return f"it has already taken {step} steps"
    if path == "train.steps" and "rounds" in after:
        return "its rounds are equal parts of all steps"
    if path.startswith("train.ema") and (before["train"]["ema"] is None) != (after["train"]["ema"] is None):
        return "an average cannot start or end in mid-training"
    if any(fnmatchcase(path, pattern) for pattern in PERMITTED):
        return None
    return next((why for pattern, why in REFUSED.items() if fnmatchcase(path, pattern)), None)


def shown(value: Any) -> str:
    return value if value == UNSET else json.dumps(value, ensure_ascii=False)


def record(out: Path, config: dict[str, Any], said: list[str]) -> None:
    """Writes the settings in force to `out`/config.yaml, below the changes since the start of the run."""
    config = {**config, "train": {**config["train"], "out": str(out.absolute())}}
    text = "".join(f"# {line}\n" for line in said) + yaml.safe_dump(config, sort_keys=False)
    write_text(out / "config.yaml", text)
