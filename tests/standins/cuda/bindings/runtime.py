"""A GPU as far as building a plan asks for one: an SM89 with a driver for CUDA 13.1."""

from types import SimpleNamespace

cudaDeviceAttr = SimpleNamespace(cudaDevAttrComputeCapabilityMajor=8, cudaDevAttrComputeCapabilityMinor=9)
cudaStreamNonBlocking = 1


def cudaDriverGetVersion():
    return 0, 13010


def cudaRuntimeGetVersion():
    return 0, 13000


def cudaGetDevice():
    return 0, 0


def cudaDeviceGetAttribute(attribute, device):
    return 0, attribute


def cudaStreamCreateWithFlags(flags):
    return 0, 7
