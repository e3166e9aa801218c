"""The process that builds one TensorRT plan; `latentc.export.plans` starts it.

It is a separate process because the library may exhaust memory or crash, cannot be interrupted while it builds, and
because polygraphy chooses between tensorrt and tensorrt_rtx when it is first imported.

Reads a request as JSON from standard input and writes a report as JSON to standard output. The output of the libraries
goes to standard error.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Kernels that compute a whole attention: matrix-matrix, matrix-vector, and precompiled ones.
_FUSED_SOURCE = re.compile(rb"__global__ void(?:\s+__launch_bounds__\([^)]*\))?\s+_\w*mha\w*\(")
_TENSOR = re.compile(rb'tensor=\{[^\n]*? name="([^"]+)"[^\n]*? type=(\w+) \}')
_PRODUCT = re.compile(rb'fully_connected=\{[^\n]*? input=\{"([^"]+)" "([^"]+)"')
_FUSED_LAYER = re.compile(r"mha", re.IGNORECASE)


def main() -> None:
    """Build the plan that the request on standard input describes."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    request = json.load(sys.stdin)
    os.environ["POLYGRAPHY_USE_TENSORRT_RTX"] = "1" if request["package"] == "tensorrt_rtx" else "0"
    try:
        answer = build(request)
    except ImportError as error:
        answer = {"error": "missing", "message": str(error)}
    except LookupError as error:
        answer = {"error": "capability", "message": str(error.args[0])}
    except Exception as error:  # whatever the library or polygraphy throws
        answer = {"error": "refused", "message": str(error)}
    answers.write(json.dumps(answer))
    answers.close()


def build(request: Mapping[str, Any]) -> dict[str, Any]:
    """Builds `request["model"]` into `request["plan"]`.

    Returns the library's version, the capability, the driver if this machine's GPU built it, the counts of layers and
    attention operators of the network and of kernels in the plan that hold a whole attention, and for TensorRT-RTX its
    products with weights by dtype. Raises LookupError for a capability that the library or this machine lacks.
    """
    from polygraphy.logger import G_LOGGER

    G_LOGGER.module_severity = {"": G_LOGGER.WARNING}
    trt = importlib.import_module(request["package"])
    from polygraphy.backend.trt import EngineBytesFromNetwork, NetworkFromOnnxPath

    name, driver, config = _config(trt, request)
    builder, network, parser = NetworkFromOnnxPath(request["model"])()
    kinds = [network.get_layer(i).type for i in range(network.num_layers)]
    timings = _usable_timings(builder, request["timing_cache"])
    plan = bytes(EngineBytesFromNetwork((builder, network, parser), config, save_timing_cache=timings)())
    Path(request["plan"]).write_bytes(plan)
    return {
        "version": trt.__version__,
        "capability": name,
        "driver": driver,
        "layers": len(kinds),
        "attentions": sum(kind.name == "ATTENTION_INPUT" for kind in kinds),
        "fused": fused_attentions(trt, plan),
        "products": products(plan) if request["ahead_of_time"] else None,
        "bytes": len(plan),
    }


def fused_attentions(trt: Any, plan: bytes) -> int:
    """Number of kernels in a plan that hold a whole attention.

    Plans of TensorRT-RTX contain the source of their kernels and are read as bytes; those of TensorRT are opened on the
    GPU that has just built them.
    """
    if trt.__name__ == "tensorrt_rtx":
        return len(_FUSED_SOURCE.findall(plan))
    engine = trt.Runtime(trt.Logger(trt.Logger.ERROR)).deserialize_cuda_engine(plan)
    layers = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    return sum(bool(_FUSED_LAYER.search(json.dumps(layer))) for layer in json.loads(layers)["Layers"])


def products(plan: bytes) -> dict[str, int]:
    """{dtype: number of products with weights in a TensorRT-RTX plan}; `half`, `int8`, `fp8_e4m3`, …

    A plan lists its tensors and operations as text.
    """
    types = dict(_TENSOR.findall(plan))
    counts: Counter[str] = Counter()
    for operands in _PRODUCT.findall(plan):
        counts[types.get(operands[1], b"unknown").decode()] += 1
    return dict(counts)


def _usable_timings(builder: Any, path: str | None) -> str | None:
    """The file of a timing cache, its folder created; a file that TensorRT cannot read is deleted."""
    if path is None:
        return None
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        if builder.create_builder_config().create_timing_cache(file.read_bytes()) is None:
            file.unlink()
    return path


def _config(trt: Any, request: Mapping[str, Any]) -> tuple[str, str | None, Any]:
    """(capability, driver of the GPU that builds it, polygraphy's loader of the builder configuration)."""
    from polygraphy.backend.trt import CreateConfig, Profile

    profiles = []
    for shapes in request["profiles"]:
        profile = Profile()
        for name, (least, best, most) in shapes.items():
            profile.add(name, least, best, most)
        profiles.append(profile)
    options: dict[str, Any] = {"profiles": profiles, "profiling_verbosity": trt.ProfilingVerbosity.DETAILED}
    wanted = request["capability"]
    if request["ahead_of_time"]:
        from polygraphy.backend.tensorrt_rtx import CreateConfigRTX

        if wanted is None:
            return *_here(), CreateConfigRTX(use_gpu=True, **options)
        known = [name.lower() for name in dir(trt.ComputeCapability) if name.startswith("SM")]
        if wanted not in known:
            raise LookupError(f"TensorRT-RTX {trt.__version__} compiles for {', '.join(known)}, not for {wanted}")
        number = int(wanted.removeprefix("sm"))
        return wanted, None, CreateConfigRTX(compute_capabilities=[divmod(number, 10)], **options)
    here, driver = _here()
    if wanted not in (None, here):
        raise LookupError(f"TensorRT compiles for the GPU of this machine, {here}, not for {wanted}")
    if request["version_compatible"]:
        options["version_compatible"] = True
    if request["hardware_compatible"]:
        options["hardware_compatibility_level"] = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if request["strip_weights"]:
        options["strip_plan"] = True
    return here, driver, CreateConfig(load_timing_cache=request["timing_cache"], **options)


def _here() -> tuple[str, str]:
    """Capability ("sm89") and driver of this machine's GPU. LookupError if there is none."""
    from latentc_runtime.backends.cuda import Cuda
    from latentc_runtime.errors import BundleError

    try:
        cuda = Cuda()
        return cuda.capability, cuda.driver
    except BundleError as error:
        raise LookupError(error.message) from error


if __name__ == "__main__":
    main()
