"""Networks of blocks at one or several resolutions, written out in float64 from their papers' equations.

Arrays are feature maps [B, H, W, C], channels last, and `w` is {name of a weight: array}.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

Array = np.ndarray
Weights = Mapping[str, Array]


def under(w: Weights, prefix: str) -> dict[str, Array]:
    """The weights of a module."""
    return {name[len(prefix) + 1 :]: a for name, a in w.items() if name.startswith(f"{prefix}.")}


def linear(w: Weights, name: str, x: Array) -> Array:
    y = x @ w[f"{name}.weight"].T
    return y + w[f"{name}.bias"] if f"{name}.bias" in w else y


def silu(x: Array) -> Array:
    return x / (1 + np.exp(-x))


def gelu(x: Array) -> Array:
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def gelu_tanh(x: Array) -> Array:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def layer_norm(x: Array, eps: float = 1e-6) -> Array:
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)


def group_norm(w: Weights, name: str, x: Array, groups: int, eps: float = 1e-5) -> Array:
    batch, height, width, channels = x.shape
    parts = x.reshape(batch, height * width, groups, channels // groups)
    mean, var = parts.mean((1, 3), keepdims=True), parts.var((1, 3), keepdims=True)
    normed = ((parts - mean) / np.sqrt(var + eps)).reshape(x.shape)
    return normed * w[f"{name}.weight"] + w[f"{name}.bias"]


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def conv3(w: Weights, name: str, x: Array, stride: int = 1) -> Array:
    """A 3 x 3 convolution, depthwise if its weight is."""
    kernel, height, width = w[f"{name}.weight"], x.shape[1], x.shape[2]
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    total = 0.0
    for i in range(3):
        for j in range(3):
            part = padded[:, i : i + height : stride, j : j + width : stride]
            depthwise = kernel.shape[1] == 1 and kernel.shape[0] == x.shape[-1] > 1
            total = total + (part * kernel[:, 0, i, j] if depthwise else part @ kernel[:, :, i, j].T)
    return total + w.get(f"{name}.bias", 0.0)


def patches(w: Weights, name: str, x: Array, patch: int) -> Array:
    """Embedded patches of x [B, C, H, W]."""
    kernel, side = w[f"{name}.weight"], x.shape[2] // patch
    cut = x.reshape(*x.shape[:2], side, patch, side, patch)
    return np.einsum("bchpwq,dcpq->bhwd", cut, kernel) + w[f"{name}.bias"]


def unpatched(x: Array, patch: int) -> Array:
    """[B, H, W, P P C] -> [B, C, H P, W P]."""
    batch, height, width, _ = x.shape
    x = x.reshape(batch, height, width, patch, patch, -1)
    return np.einsum("bhwpqc->bchpwq", x).reshape(batch, -1, height * patch, width * patch)


def embedded_time(w: Weights, t: Array, size: int) -> Array:
    """Sinusoids of the time through two linear layers, with SiLU between them."""
    freqs = np.exp(-math.log(10000) * np.arange(size // 2) / (size // 2))
    angles = t[:, None] * freqs
    return linear(w, "fc2", silu(linear(w, "fc1", np.concatenate([np.cos(angles), np.sin(angles)], axis=1))))


def sincos(side: int, width: int) -> Array:
    """Positions [side, side, width]: sines and cosines of the column, then of the row."""
    omega = 10000.0 ** -(np.arange(width // 4) / (width // 4))
    parts = []
    for axis in (1, 0):
        angle = np.indices((side, side))[axis][..., None] * omega
        parts += [np.sin(angle), np.cos(angle)]
    return np.concatenate(parts, axis=-1)


def attention(w: Weights, x: Array, heads: int, c: Array | None = None) -> Array:
    """Self-attention of all pixels; `c` [B, E] shifts queries, keys and values; a table is a relative bias."""
    batch, side, _, dim = x.shape
    tokens, d = side * side, len(w["qkv.weight"]) // (3 * heads)
    qkv = linear(w, "qkv", x.reshape(batch, tokens, dim))
    if c is not None:
        qkv = qkv + linear(w, "qkv_condition", c)[:, None]
    q, k, v = qkv.reshape(batch, tokens, 3, heads, d).transpose(2, 0, 3, 1, 4)
    scores = q @ k.swapaxes(2, 3) / math.sqrt(d)
    if "relative_position_bias_table" in w:
        table = w["relative_position_bias_table"]
        for i in range(tokens):
            for j in range(tokens):
                rows, columns = i // side - j // side + side - 1, i % side - j % side + side - 1
                scores[:, :, i, j] += table[rows * (2 * side - 1) + columns]
    out = (softmax(scores) @ v).transpose(0, 2, 1, 3).reshape(batch, tokens, heads * d)
    return linear(w, "proj", out).reshape(x.shape)


def windowed(x: Array, size: int, interleaved: bool, mix: Any) -> Array:
    """`mix` of each window by itself."""
    out, count = np.empty_like(x), x.shape[1] // size
    for i in range(count):
        for j in range(count):
            rows = slice(i, None, count) if interleaved else slice(i * size, (i + 1) * size)
            columns = slice(j, None, count) if interleaved else slice(j * size, (j + 1) * size)
            out[:, rows, columns] = mix(x[:, rows, columns])
    return out


def flash_dit(w: Weights, x: Array, t: Array, y: Array, *, patch: int, depth: int, heads: int, window: int) -> Array:
    """Iwin's block in DiT: interleaved windows and a depthwise convolution, each with a gate that starts at 1."""
    c = embedded_time(under(w, "t_embedder"), t, 256) + w["y_embedder.weight"][y]
    h = patches(w, "x_embedder", x, patch)

    def rms(name: str, v: Array) -> Array:
        return v / np.sqrt((v**2).mean(-1, keepdims=True) + 1e-6) * w[f"{name}.weight"]

    for i in range(depth):
        own, name = under(w, f"blocks.{i}"), f"blocks.{i}"
        parts = np.split(linear(own, "adaLN", silu(c))[:, None, None], 7, axis=-1)
        shift, scale, gate, shift2, scale2, gate2, gate_conv = parts
        v = rms(f"{name}.norm1", h) * (1 + scale) + shift
        mixed = windowed(v, window, True, lambda u, own=own: attention(under(own, "attn.mixer"), u, heads))
        h = h + (1 + gate_conv) * conv3(own, "attn.depthwise", v) + (1 + gate) * mixed
        v = rms(f"{name}.norm2", h) * (1 + scale2) + shift2
        mlp = under(own, "mlp")
        h = h + (1 + gate2) * linear(mlp, "w2", silu(linear(mlp, "w1", v)) * linear(mlp, "w3", v))
    shift, scale = np.split(linear(w, "final_layer.adaLN", silu(c))[:, None, None], 2, axis=-1)
    h = rms("final_layer.norm_final", h) * (1 + scale) + shift
    return unpatched(linear(w, "final_layer.linear", h), patch)


def diffit(w: Weights, x: Array, t: Array, y: Array, *, patch: int, depth: int, heads: int) -> Array:
    """The latent DiffiT: equations 3 to 8."""
    c = embedded_time(under(w, "t_embedder"), t, 256) + w["y_embedder.weight"][y]
    h = patches(w, "x_embedder", x, patch)
    h = h + sincos(h.shape[1], h.shape[3])
    for i in range(depth):
        own = under(w, f"blocks.{i}")
        h = h + attention(under(own, "attn"), layer_norm(h), heads, c)
        h = h + linear(own, "mlp.fc2", gelu_tanh(linear(own, "mlp.fc1", layer_norm(h))))
    return unpatched(linear(w, "final_layer.linear", silu(layer_norm(h))), patch)


def affine_norm(w: Weights, name: str, x: Array) -> Array:
    return layer_norm(x) * w[f"{name}.weight"] + w[f"{name}.bias"]


def diffit_image(w: Weights, x: Array, t: Array, *, depths: tuple[int, ...], heads: int, window: int) -> Array:
    """The U-shaped DiffiT: residual cells of equations 9 and 10, attention within windows."""
    c = embedded_time(under(w, "t_embedder"), t, 16)
    lowest = len(depths) // 2

    def cells(name: str, h: Array, depth: int) -> Array:
        for i in range(depth):
            own, side = under(w, f"{name}.{i}"), min(window, h.shape[1])
            v = conv3(own, "conv", silu(group_norm(own, "norm0", h, 4)))
            mixer = under(own, "attn.mixer")
            mixed = windowed(affine_norm(own, "norm1", v), side, False, lambda u, m=mixer: attention(m, u, heads, c))
            v = v + mixed
            v = v + linear(own, "mlp.fc2", gelu(linear(own, "mlp.fc1", affine_norm(own, "norm2", v))))
            h = h + v
        return h

    h, skips = conv3(w, "x_embedder", x.transpose(0, 2, 3, 1)), []
    for i in range(lowest):
        h = cells(f"encoder.{i}", h, depths[i])
        skips.append(h)
        h = conv3(w, f"down.{i}.conv", h, stride=2)
    h = cells("middle", h, depths[lowest])
    for i in reversed(range(lowest)):
        h = conv3(w, f"up.{i}.conv", h.repeat(2, axis=1).repeat(2, axis=2))
        h = linear(w, f"merge.{i}", np.concatenate([h, skips.pop()], axis=-1))
        h = cells(f"decoder.{i}", h, depths[2 * lowest - i])
    return conv3(w, "final_layer.conv", silu(affine_norm(w, "final_layer.norm_final", h))).transpose(0, 3, 1, 2)


def ascan(w: Weights, x: Array, t: Array, y: Array, *, convolutions: Any, depths: Any, heads: Any) -> Array:
    """Stages of residual blocks, then of adaLN-Zero blocks; on the way up in the other order."""
    c = embedded_time(under(w, "t_embedder"), t, 256) + w["y_embedder.weight"][y]
    lowest = len(depths) // 2

    def residual(own: Weights, h: Array) -> Array:
        v = conv3(own, "conv0", silu(group_norm(own, "norm0", h, 4)))
        scale, shift = np.split(linear(own, "affine", silu(c))[:, None, None], 2, axis=-1)
        return h + conv3(own, "conv1", silu(group_norm(own, "norm1", v, 4) * (1 + scale) + shift))

    def transformer(own: Weights, h: Array, count: int) -> Array:
        parts = np.split(linear(own, "adaLN", silu(c))[:, None, None], 6, axis=-1)
        shift, scale, gate, shift2, scale2, gate2 = parts
        h = h + gate * attention(under(own, "attn"), layer_norm(h) * (1 + scale) + shift, count)
        v = linear(own, "mlp.fc1", layer_norm(h) * (1 + scale2) + shift2)
        return h + gate2 * linear(own, "mlp.fc2", gelu_tanh(v))

    def stage(i: int, h: Array) -> Array:
        name = f"encoder_{i}" if i < lowest else "middle" if i == lowest else f"decoder_{2 * lowest - i}"
        for kind in "CT" if i <= lowest else "TC":
            for j in range(convolutions[i] if kind == "C" else depths[i]):
                if kind == "C":
                    h = residual(under(w, f"{name}_convolutions.{j}"), h)
                else:
                    h = transformer(under(w, f"{name}.{j}"), h, heads[i])
        return h

    h, skips = conv3(w, "x_embedder", x.transpose(0, 2, 3, 1)), []
    for i in range(2 * lowest + 1):
        if 0 < i <= lowest:
            skips.append(h)
            h = conv3(w, f"down_{i - 1}.conv", h, stride=2)
        elif i > lowest:
            level = 2 * lowest - i
            h = conv3(w, f"up_{level}.conv", h.repeat(2, axis=1).repeat(2, axis=2))
            h = linear(w, f"merge_{level}", np.concatenate([h, skips.pop()], axis=-1))
        h = stage(i, h)
    shift, scale = np.split(linear(w, "final_layer.adaLN", silu(c))[:, None, None], 2, axis=-1)
    return conv3(w, "final_layer.conv", layer_norm(h) * (1 + scale) + shift).transpose(0, 3, 1, 2)


def dico(w: Weights, x: Array, t: Array, y: Array, *, multipliers: tuple[int, ...], width: int) -> Array:
    """Stages of a depthwise convolution with compact channel attention, joined by pixels that become channels."""
    lowest = len(multipliers) // 2
    kinds = list(dict.fromkeys(multipliers))
    told = [
        embedded_time(under(w, f"t_embedder.{i}"), t, 256) + w[f"y_embedder.{i}.weight"][y] for i, _ in enumerate(kinds)
    ]

    def block(own: Weights, h: Array, c: Array) -> Array:
        parts = np.split(linear(own, "adaLN", silu(c))[:, None, None], 6, axis=-1)
        shift, scale, gate, shift2, scale2, gate2 = parts
        v = linear(own, "attn.enter", layer_norm(h) * (1 + scale) + shift)
        v = gelu(conv3(own, "attn.depthwise", v))
        v = v / (1 + np.exp(-linear(own, "attn.attend", v.mean((1, 2), keepdims=True))))
        h = h + gate * linear(own, "attn.leave", v)
        v = gelu(linear(own, "mlp.fc1", layer_norm(h) * (1 + scale2) + shift2))
        return h + gate2 * linear(own, "mlp.fc2", v)

    h, skips = conv3(w, "x_embedder", x.transpose(0, 2, 3, 1)), []
    for i, multiplier in enumerate(multipliers):
        level = min(i, 2 * lowest - i)
        if 0 < i <= lowest:
            skips.append(h)
            h = conv3(w, f"down.{i - 1}.conv", h)
            batch, rows, columns, channels = h.shape
            h = h.reshape(batch, rows // 2, 2, columns // 2, 2, channels).transpose(0, 1, 3, 5, 2, 4)
            h = h.reshape(batch, rows // 2, columns // 2, 4 * channels)
        elif i > lowest:
            h = conv3(w, f"up.{level}.conv", h)
            batch, rows, columns, channels = h.shape
            h = h.reshape(batch, rows, columns, channels // 4, 2, 2).transpose(0, 1, 4, 2, 5, 3)
            h = h.reshape(batch, 2 * rows, 2 * columns, channels // 4)
            h = linear(w, f"merge.{level}", np.concatenate([h, skips.pop()], axis=-1))
        name = f"encoder.{i}" if i < lowest else "middle" if i == lowest else f"decoder.{level}"
        assert h.shape[-1] == multiplier * width
        h = block(under(w, f"{name}.0"), h, told[kinds.index(multiplier)])
    shift, scale = np.split(linear(w, "final_layer.adaLN", silu(told[0]))[:, None, None], 2, axis=-1)
    return conv3(w, "final_layer.conv", layer_norm(h) * (1 + scale) + shift).transpose(0, 3, 1, 2)
