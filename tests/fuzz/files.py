"""Damages weight files, checkpoints and bundles: they are refused, or give what an undamaged file gives.

Weight files need no checksum, so what a change inside a tensor gives is a tensor. Checkpoints and bundles have them, so
that a sample from a damaged bundle is the right sample or none.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import random
import shutil
import sys
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from bundles import TINY_DIT, tiny_bundle
from spec_mutations import mutate

from latentc import cli
from latentc.diagnostics import DiagnosticError
from latentc.files import shipped
from latentc.files.shipped import folder as resource_folder
from latentc.weights import Array, materialise, open_weights, write_safetensors
from latentc_runtime import BundleError, load
from latentc_runtime.serve.metrics import Metrics
from latentc_runtime.serve.models import open_models
from latentc_runtime.serve.openapi import operation
from latentc_runtime.serve.options import Options

sys.path.append(str(resource_folder("templates") / "project"))
RNG = np.random.default_rng(0)
ARRAYS = {"a.weight": RNG.standard_normal((16, 8)).astype(np.float32), "a.bias": np.arange(8), "s": np.array(2.0)}
JUNK = [b"", b"\0" * 8, b"\xff" * 8, b"(" * 3000, b"[" * 3000, b"PK\x03\x04", b"9" * 40, b"-1", b'{"__metadata__":1}']


@cache
def originals() -> dict[str, Path]:
    """The undamaged files of this process."""
    folder = Path("originals").absolute() / str(random.SystemRandom().getrandbits(40))
    folder.mkdir(parents=True)
    write_safetensors(folder / "w.safetensors", {name: Array(a) for name, a in ARRAYS.items()})
    np.savez(folder / "w.npz", **ARRAYS)
    np.savez_compressed(folder / "z.npz", **ARRAYS)
    files = {name: folder / name for name in ("w.safetensors", "w.npz", "z.npz")}
    try:
        import torch
    except ImportError:
        pass
    else:
        from support.checkpoint import write_checkpoint  # of emitted projects

        tensors = {name: torch.from_numpy(a) for name, a in ARRAYS.items()}
        torch.save(tensors, folder / "w.pt")
        state = {"step": 7, "networks": {"main": tensors}, "averages": {"main": tensors}, "others": {}}
        alone = SimpleNamespace(parallel="none", main=True)
        moments = {f"main/{name}/exp_avg": tensor for name, tensor in tensors.items()}
        write_checkpoint({**state, "moments": moments}, alone, folder / "step-00000007")
        files |= {"w.pt": folder / "w.pt", "step-00000007": folder / "step-00000007"}
    bundle = tiny_bundle("digits_dit", folder / "bundle", [*TINY_DIT, "sampler.steps=2"])
    return {**files, "bundle": bundle}


@cache
def right_sample() -> bytes:
    return load(originals()["bundle"], "cpu").sample(classes=[3], seeds=[5]).tobytes()


def run(seed: int) -> str:
    """The outcome of a case: the codes of its diagnostics, `read` or `same`. Raises whatever else happens."""
    chance = random.Random(seed)
    kind = chance.choice(sorted(originals()))
    damage = {"bundle": _bundle, "step-00000007": _checkpoint}.get(kind)
    return damage(chance) if damage is not None else _weights(originals()[kind], chance)


def _weights(original: Path, chance: random.Random) -> str:
    damaged = Path(f"damaged-{chance.getrandbits(40)}{original.suffix}")
    content = original.read_bytes()
    rebuilt = (_rebuilt_header if original.suffix == ".safetensors" else _rebuilt_archive)(content, chance)
    damaged.write_bytes(rebuilt if chance.random() < 0.5 else _spoilt(content, chance))
    try:
        arrays = {name: materialise(expr) for name, expr in open_weights(damaged).items()}
    except DiagnosticError as error:
        codes = sorted({diagnostic.code for diagnostic in error.diagnostics})
        assert codes and set(codes) <= set(shipped.codes())
        return f"weights {' '.join(codes)}"
    finally:
        damaged.unlink()
    assert sum(array.nbytes for array in arrays.values()) < 1 << 26
    return "weights read"


def _bundle(chance: random.Random) -> str:
    copy = Path(f"bundle-{chance.getrandbits(40)}")
    shutil.copytree(originals()["bundle"], copy)
    right = right_sample()
    files = sorted(path for path in copy.rglob("*") if path.is_file())
    file = chance.choice(files)
    exact = True
    if file.name == "manifest.json" and chance.random() < 0.7:
        data, exact = json.loads(file.read_text()), False  # with a right checksum, it asks for what it says
        for _ in range(chance.choice([1, 1, 2, 3])):
            mutate(data, chance)
        file.write_bytes(_signed(data))
    elif chance.random() < 0.2:
        file.unlink()
    else:
        file.write_bytes(_spoilt(file.read_bytes(), chance))
    try:
        pipe = load(copy, "cpu")
        if not exact and chance.random() < 0.3:
            return f"bundle {chance.choice(USES)(copy)}"
        sample = pipe.sample(classes=[3], seeds=[5])
    except BundleError as error:
        assert error.code in shipped.codes() and error.help
        return f"bundle {error.code}"
    finally:
        shutil.rmtree(copy)
    assert not exact or sample.tobytes() == right, f"{file.name} was damaged, and the sample is another"
    return "bundle same" if exact else "bundle sampled"


def _described(bundle: Path) -> str:
    """A server's description of the bundle, with its schema."""
    options = Options()
    (model,) = open_models([f"m={bundle}"], options, Metrics()).values()
    json.dumps([model.description(options), *(operation(model, options, method) for method in ("GET", "POST"))])
    return "described"


def _command(*line: str) -> Callable[[Path], str]:
    """A command line on the bundle, which ends with status 0, or 1 and a diagnostic."""

    def use(bundle: Path) -> str:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = cli.run([str(bundle) if word == "BUNDLE" else word for word in line])
        assert status == 0 or (status == 1 and (line[0] == "verify" or "error[" in err.getvalue())), err.getvalue()
        assert all(c.isprintable() or c in "\n\t" for c in out.getvalue() + err.getvalue())
        return f"{line[0]} {status}"

    return use


USES: tuple[Callable[[Path], str], ...] = (
    _described,
    _command("verify", "BUNDLE", "--budget", "1"),
    _command("bench", "BUNDLE", "--batch", "1", "--seconds", "0.01"),
    _command("deploy", "triton", "BUNDLE", "-o", "repository"),
)


def _checkpoint(chance: random.Random) -> str:
    from support.checkpoint import read_checkpoint

    original = originals()["step-00000007"]
    copy = Path(f"checkpoint-{chance.getrandbits(40)}")
    shutil.copytree(original, copy)
    file = chance.choice(sorted(copy.iterdir()))
    if chance.random() < 0.1:
        file.unlink()
    else:
        file.write_bytes(_spoilt(file.read_bytes(), chance))
    try:
        found = read_checkpoint(copy)
    except (ValueError, OSError):
        return "checkpoint refused"
    finally:
        shutil.rmtree(copy)
    assert repr(found) == repr(read_checkpoint(original)), f"{file.name} was damaged, and other values are read"
    return "checkpoint same"


def _signed(data: Any) -> bytes:
    """manifest.json as its author would write it, with the checksum of the text."""
    if not isinstance(data, dict):
        return json.dumps(data).encode()
    data.pop("checksum", None)
    text = (json.dumps({**data, "checksum": "0" * 64}, indent=1) + "\n").encode()
    return text.replace(b'"checksum": "' + b"0" * 64, b'"checksum": "' + hashlib.sha256(text).hexdigest().encode())


def _spoilt(content: bytes, chance: random.Random) -> bytes:
    """The bytes with flips, cuts and insertions."""
    if chance.random() < 0.05:
        return chance.choice([b"", b"[" * 100_000, b'{"a":' * 100_000, b"null", b"\xff" * 100])
    spoilt = bytearray(content)
    for _ in range(chance.choice([1, 1, 2, 5])):
        at = chance.randrange(len(spoilt) + 1)
        match chance.randrange(4):
            case 0 if spoilt:
                spoilt[min(at, len(spoilt) - 1)] ^= 1 << chance.randrange(8)
            case 1:
                del spoilt[at:]
            case 2:
                spoilt[at : at + chance.choice([0, 1, 8, 64])] = chance.choice(JUNK)
            case _:
                spoilt[at : at + 4] = chance.randbytes(4)
    return bytes(spoilt)


def _rebuilt_header(content: bytes, chance: random.Random) -> bytes:
    """A safetensors file whose header says something else."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    mutate(header, chance)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + size :]


def _rebuilt_archive(content: bytes, chance: random.Random) -> bytes:
    """An archive whose entries are valid, with one of them spoilt, renamed, doubled or compressed."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(made, "w") as new:
        chosen = chance.choice(old.namelist())
        for info in old.infolist():
            data, name = old.read(info), info.filename
            if name == chosen:
                match chance.randrange(4):
                    case 0:
                        data = _spoilt(data, chance)
                    case 1:
                        name = chance.choice(["../x.npy", "/etc/x.npy", "a" * 300 + ".npy", "data.pkl", "/"])
                    case 2:
                        new.writestr(name, data)
                    case _:
                        info.compress_type = zipfile.ZIP_DEFLATED
            new.writestr(name, data, info.compress_type)
    return made.getvalue()
