"""TensorRT's builder, played by its twin: TensorRT-RTX builds for SM89 what polygraphy configured for TensorRT.

What the builder was told is written to the file $TENSORRT_TOLD, a line of JSON a build. Timing caches, which the twin
has on a GPU only, hold the number of builds.
"""

import json
import os
import re
from pathlib import Path

import tensorrt_rtx

__version__ = "11.4.0"
BAD = b"damaged"


def __getattr__(name):
    return getattr(tensorrt_rtx, name)


class TimingCache:
    def __init__(self, data):
        self.data = bytes(data)

    def combine(self, other, ignore_mismatch):
        return True

    def serialize(self):
        return memoryview(self.data + b"t")


class Config:
    """The twin's configuration, with flags that it does not build without a GPU held back."""

    def __init__(self, real):
        vars(self).update(real=real, told={"flags": []}, timings=None)

    def __getattr__(self, name):
        return getattr(self.real, name)

    def __setattr__(self, name, value):
        if name == "hardware_compatibility_level":
            self.told[name] = value.name
        else:
            setattr(self.real, name, value)

    def set_flag(self, flag):
        self.told["flags"].append(flag.name)

    def create_timing_cache(self, data):
        return None if data == BAD else TimingCache(data)

    def set_timing_cache(self, cache, ignore_mismatch):
        self.told["timings"] = cache.data.decode()
        vars(self)["timings"] = cache

    def get_timing_cache(self):
        return self.timings


class Builder(tensorrt_rtx.Builder):
    def create_builder_config(self):
        return Config(super().create_builder_config())

    def build_serialized_network(self, network, config):
        told = {**config.told, "profiles": config.real.num_optimization_profiles}
        with Path(os.environ["TENSORRT_TOLD"]).open("a") as file:
            file.write(json.dumps(told) + "\n")
        config.real.num_compute_capabilities = 1
        config.real.set_compute_capability(tensorrt_rtx.ComputeCapability.SM89, 0)
        return super().build_serialized_network(network, config.real)


class Runtime:
    def __init__(self, logger):
        pass

    def deserialize_cuda_engine(self, plan):
        return Inspected(plan)


class Inspected:
    """What the inspector of an engine says: the layers with an attention in them, as the twin's plan shows them."""

    def __init__(self, plan):
        self.names = re.findall(rb"_\w*mha\w*\(", plan)

    def create_engine_inspector(self):
        return self

    def get_engine_information(self, kind):
        return json.dumps({"Layers": [{"Name": name.decode()} for name in self.names] + ["a layer"]})
