"""What the Python models of latentc share: the request that a Triton request makes, and answers one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as triton  # the server's own

from latentc_runtime import BundleError
from latentc_runtime.conditions import request_name
from latentc_runtime.manifest import Manifest, ProgramEntry
from latentc_runtime.manifest_json import manifest_from_bytes
from latentc_runtime.request import Request, check_request, program_entry

REQUEST = ("E0608", "E0609", "E0610")
"""Codes of requests that do not fit the model, INVALID_ARGUMENT for clients; others are INTERNAL, Triton's default."""


def manifest_beside(file: str) -> Manifest:
    """The manifest that lies beside a model's file."""
    return manifest_from_bytes((Path(file).parent / "manifest.json").read_bytes())


def check_numpy() -> None:
    """BundleError E0606 if the server was built for another numpy than the one that is installed.

    A backend for numpy 1 reads the wrong place for the size of a value of numpy 2: inputs repeat their first value, and
    outputs are empty. Tensors that it makes of memory show this.
    """
    array = np.arange(3, dtype=np.float32)
    copied = triton.Tensor.from_dlpack("check", triton.Tensor("check", array).to_dlpack())
    if not np.array_equal(copied.as_numpy(), array):
        message = f"this server's Python backend was not built for numpy {np.__version__}"
        raise BundleError("E0606", message, "install the one it was built for in its Python: pip install 'numpy<2'")


def program_of(manifest: Manifest, config: dict[str, Any]) -> ProgramEntry:
    """The program that the model's configuration names, by its name and steps."""
    name, steps = (config["parameters"][key]["string_value"] for key in ("program", "steps"))
    return program_entry(manifest, name, int(steps))


def array_of(request: Any, name: str) -> np.ndarray | None:
    """An input of a request, or None where it was left out."""
    tensor = triton.get_input_tensor_by_name(request, name)
    return None if tensor is None else tensor.as_numpy()


def asked(request: Any, manifest: Manifest, entry: ProgramEntry) -> Request:
    """Conditions, seeds and settings of a request, checked. BundleError E0608.

    Single values come as [B, 1].
    """
    seeds = array_of(request, "seeds").reshape(-1)
    conditions = manifest.conditions_of(entry)
    given: dict[str, Any] = {}
    for condition in conditions:
        name = request_name(condition, conditions)
        value, mask = array_of(request, name), array_of(request, f"{name}_mask")
        if value is not None:
            value = value if condition.shape else value.reshape(-1)
            given[condition.name] = value if mask is None else {"value": value, "mask": mask}
    arrays = {s.name: array_of(request, s.name) for s in manifest.settings_of(entry)}
    settings = {name: array.reshape(-1) for name, array in arrays.items() if array is not None}
    return check_request(manifest, entry, seeds=seeds, conditions=given, settings=settings, count=len(seeds))


def response(arrays: dict[str, np.ndarray]) -> Any:
    """A response of these outputs; single values [B] go as [B, 1]."""
    columns = {name: array[:, None] if array.ndim == 1 else array for name, array in arrays.items()}
    tensors = [triton.Tensor(name, np.ascontiguousarray(array)) for name, array in columns.items()]
    return triton.InferenceResponse(output_tensors=tensors)


def refusal(error: BundleError) -> Any:
    """A response that says what was wrong with one request; the others of its batch are served."""
    wrong = getattr(triton.TritonError, "INVALID_ARG", None)  # servers before 23.08 have no codes
    if wrong is None or error.code not in REQUEST:
        return triton.InferenceResponse(output_tensors=[], error=triton.TritonError(str(error)))
    return triton.InferenceResponse(output_tensors=[], error=triton.TritonError(str(error), wrong))


def each(requests: Sequence[Any], answer: Callable[[Any], dict[str, np.ndarray]]) -> list[Any]:
    """The responses of requests that are answered one by one."""
    responses = []
    for request in requests:
        try:
            responses.append(response(answer(request)))
        except BundleError as error:
            responses.append(refusal(error))
    return responses
