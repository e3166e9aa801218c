"""Accelerators that a plan can name, as their makers' data sheets describe them.

Rates are dense (without sparsity). `link` is one direction of a device's connection to the others of its node,
`network` that of its share of the node's network cards in the maker's reference system.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Accelerator:
    """A device: memory in bytes, rates in FLOP/s, bandwidths in bytes per second."""

    title: str
    memory: float
    bf16: float
    tf32: float
    bandwidth: float
    link: float
    network: float
    per_node: int
    source: str


_G, _T = 1e9, 1e12
ACCELERATORS: dict[str, Accelerator] = {
    "a100": Accelerator(
        "A100 SXM 80 GB", 80 * _G, 312 * _T, 156 * _T, 2039 * _G, 300 * _G, 25 * _G, 8,
        "NVIDIA A100 data sheet (2021); DGX A100: 8 × HDR InfiniBand, 200 Gb/s",
    ),
    "h100": Accelerator(
        "H100 SXM 80 GB", 80 * _G, 989 * _T, 494 * _T, 3350 * _G, 450 * _G, 50 * _G, 8,
        "NVIDIA H100 data sheet (2023); DGX H100: 8 × NDR InfiniBand, 400 Gb/s",
    ),
    "h200": Accelerator(
        "H200 SXM 141 GB", 141 * _G, 989 * _T, 494 * _T, 4800 * _G, 450 * _G, 50 * _G, 8,
        "NVIDIA H200 data sheet (2024); DGX H200: 8 × NDR InfiniBand, 400 Gb/s",
    ),
    "b200": Accelerator(
        "B200 SXM 180 GB", 180 * _G, 2250 * _T, 1125 * _T, 7700 * _G, 900 * _G, 50 * _G, 8,
        "NVIDIA HGX B200 data sheet (2025), an eighth of the board; DGX B200: 8 × NDR InfiniBand, 400 Gb/s",
    ),
    "l40s": Accelerator(
        "L40S 48 GB", 48 * _G, 362 * _T, 183 * _T, 864 * _G, 32 * _G, 12.5 * _G, 8,
        "NVIDIA L40S data sheet (2023); PCIe 4.0 × 16, no NVLink; a 100 Gb/s network per device assumed",
    ),
    "rtx4090": Accelerator(
        "GeForce RTX 4090 24 GB", 24 * _G, 165 * _T, 82.6 * _T, 1008 * _G, 32 * _G, 1.25 * _G, 4,
        "NVIDIA Ada architecture white paper (2022); PCIe 4.0 × 16; a 10 Gb/s network per device assumed",
    ),
    "mi300x": Accelerator(
        "Instinct MI300X 192 GB", 192 * _G, 1307 * _T, 653 * _T, 5300 * _G, 448 * _G, 50 * _G, 8,
        "AMD MI300X data sheet (2023); 7 Infinity Fabric links of 64 GB/s; 8 × 400 Gb/s assumed",
    ),
}  # fmt: skip
