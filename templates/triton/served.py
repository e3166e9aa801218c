"""What the Python models of latentc share: the request that a Triton request makes, and answers one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as triton  # the server's own

from latentc_runtime import BundleError
from latentc_runtime.manifest import Manifest, SamplerEntry
from latentc_runtime.manifest_json import manifest_from_bytes
from latentc_runtime.request import Request, check_request, sampler_entry


def manifest_beside(file: str) -> Manifest:
    """The manifest that lies beside a model's file."""
    return manifest_from_bytes((Path(file).parent / "manifest.json").read_bytes())


def sampler_of(manifest: Manifest, config: dict[str, Any]) -> SamplerEntry:
    """The sampler that the model's configuration names by its steps."""
    return sampler_entry(manifest, int(config["parameters"]["steps"]["string_value"]))


def array_of(request: Any, name: str) -> np.ndarray | None:
    """An input of a request, or None where it was left out."""
    tensor = triton.get_input_tensor_by_name(request, name)
    return None if tensor is None else tensor.as_numpy()


def asked(request: Any, manifest: Manifest, entry: SamplerEntry) -> Request:
    """Classes, seeds, guidance and truncation of a request, each [B, 1], checked. BundleError E0608."""
    classes, seeds = (array_of(request, name).reshape(-1) for name in ("classes", "seeds"))
    known = {"guidance": entry.guidance, "truncation": entry.truncation}
    scales = {name: array_of(request, name) for name, setting in known.items() if setting is not None}
    flat = {name: array.reshape(-1) for name, array in scales.items() if array is not None}
    return check_request(manifest, entry, classes, seeds, flat.get("guidance"), None, flat.get("truncation"))


def response(arrays: dict[str, np.ndarray]) -> Any:
    """A response of these outputs."""
    tensors = [triton.Tensor(name, np.ascontiguousarray(array)) for name, array in arrays.items()]
    return triton.InferenceResponse(output_tensors=tensors)


def refusal(error: BundleError) -> Any:
    """A response that tells what was wrong with one request; the others of its batch are served."""
    return triton.InferenceResponse(output_tensors=[], error=triton.TritonError(str(error)))


def each(requests: Sequence[Any], answer: Callable[[Any], dict[str, np.ndarray]]) -> list[Any]:
    """The responses of requests that are answered one by one."""
    responses = []
    for request in requests:
        try:
            responses.append(response(answer(request)))
        except BundleError as error:
            responses.append(refusal(error))
    return responses
