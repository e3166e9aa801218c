"""Cases of what layers are made of: products, convolutions, norms, attention, experts, embeddings."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from op_draws import Case, Draw, case

from latentc.ir.ops.conv import geometry


@case("matmul")
def matmul(d: Draw) -> Case:
    a, b = d.pair()
    m, k, n = d.int(1, 3), d.int(1, 3), d.int(1, 3)
    return Case([d.floats(*a, m, k), d.floats(*b, k, n)], torch.matmul)


@case("linear")
def linear(d: Draw) -> Case:
    n, m = d.int(1, 4), d.int(1, 4)
    bias = [d.floats(m)] if d.flag() else []
    return Case([d.floats(*d.shape(0, 3), n), d.floats(m, n), *bias], F.linear)


def _convolution(d: Draw) -> tuple[dict[str, Any], tuple[int, ...], tuple[int, ...]]:
    """Attributes, kernel, and size of the space of a convolution over one to three axes."""
    axes = d.int(1, 3)

    def some(low: int, high: int) -> Any:
        return tuple(d.int(low, high) for _ in range(axes)) if d.flag() else d.int(low, high)

    attrs = {"stride": some(1, 3), "padding": some(0, 2), "dilation": some(1, 2), "groups": d.int(1, 2)}
    for name in list(attrs):
        if d.data.draw(st.integers(0, 3)) == 0:
            del attrs[name]
    return attrs, tuple(d.int(1, 3) for _ in range(axes)), tuple(d.int(5, 7) for _ in range(axes))


@case("conv")
def conv(d: Draw) -> Case:
    attrs, kernel, size = _convolution(d)
    g, lead = attrs.get("groups", 1), d.lead()
    c, o = g * d.int(1, 2), g * d.int(1, 2)
    bias = [d.floats(o)] if d.flag() else []
    call = getattr(F, f"conv{len(size)}d")
    return Case([d.floats(lead, c, *size), d.floats(o, c // g, *kernel), *bias], lambda *x: call(*x, **attrs), attrs)


@case("conv_transpose")
def conv_transpose(d: Draw) -> Case:
    attrs, kernel, size = _convolution(d)
    g, lead = attrs.get("groups", 1), d.lead()
    full = geometry(attrs, len(size))
    extra = tuple(d.int(0, max(pair) - 1) for pair in zip(full.stride, full.dilation, strict=True))
    c, o = g * d.int(1, 2), d.int(1, 2)
    bias = [d.floats(o * g)] if d.flag() else []
    call = getattr(F, f"conv_transpose{len(size)}d")
    attrs |= {"output_padding": extra}
    return Case([d.floats(lead, c, *size), d.floats(c, o, *kernel), *bias], lambda *x: call(*x, **attrs), attrs)


@case("embedding")
def embedding(d: Draw) -> Case:
    n = d.int(1, 4)
    return Case([d.floats(n, d.int(1, 3)), d.ints(*d.shape(0, 2), high=n)], lambda w, i: w[i])


@case("layer_norm", "rms_norm")
def norm(d: Draw, name: str) -> Case:
    n = d.int(2, 5)
    most = 2 if name == "layer_norm" else 1
    affine = [d.floats(n) for _ in range(d.int(0, most))]
    fn = F.layer_norm if name == "layer_norm" else F.rms_norm
    return Case([d.floats(*d.shape(0, 3), n), *affine], lambda x, *a: fn(x, (n,), *a, eps=1e-3), {"eps": 1e-3})


@case("group_norm")
def group_norm(d: Draw) -> Case:
    groups = d.int(1, 3)
    channels = groups * d.int(1, 2)
    space = [d.int(2, 3) for _ in range(d.int(1, 2))]
    affine = [d.floats(channels) for _ in range(d.int(0, 2))]
    return Case(
        [d.floats(d.lead(), channels, *space), *affine],
        lambda x, *a: F.group_norm(x, groups, *a, eps=1e-3),
        {"groups": groups, "eps": 1e-3},
    )


@case("batch_norm")
def batch_norm(d: Draw) -> Case:
    channels = d.int(1, 4)
    space = [d.int(1, 3) for _ in range(d.int(0, 2))]
    affine = [d.floats(channels) for _ in range(d.int(0, 2))]

    def reference(x: Any, mean: Any, var: Any, *affine: Any) -> Any:
        """Written out, for PyTorch's has no derivative by the statistics."""
        mean, var, *affine = (v.reshape(-1, *(1 for _ in space)) for v in (mean, var, *affine))
        y = (x - mean) / (var + 1e-3).sqrt()
        y = y * affine[0] if affine else y
        return y + affine[1] if len(affine) > 1 else y

    operands = [d.floats(d.lead(), channels, *space), d.floats(channels), d.floats(channels, low=0.1), *affine]
    return Case(operands, reference, {"eps": 1e-3, "momentum": 0.1})


@case("spectral_norm")
def spectral_norm(d: Draw) -> Case:
    shape = [d.int(1, 4), *(d.int(1, 3) for _ in range(d.int(1, 3)))]

    def reference(weight: Any, u: Any) -> Any:
        matrix = weight.flatten(1)
        with torch.no_grad():
            v = F.normalize(u @ matrix, dim=0)
            u = F.normalize(matrix @ v, dim=0)
        return weight / (u @ matrix @ v)

    return Case([d.floats(*shape, low=0.1), d.floats(shape[0], low=0.1)], reference, {"eps": 1e-12})


@case("mp_silu")
def mp_silu(d: Draw) -> Case:
    return Case([d.floats(*d.shape(1, 3))], lambda x: F.silu(x) / 0.596)


@case("mp_sum")
def mp_sum(d: Draw) -> Case:
    shape = d.shape(1, 3)

    def reference(x: Any, y: Any) -> Any:
        return (0.7 * x + 0.3 * y) / (0.7**2 + 0.3**2) ** 0.5

    return Case([d.floats(*shape), d.floats(*shape)], reference, {"balance": 0.3})


@case("mp_concat")
def mp_concat(d: Draw) -> Case:
    n, m = d.int(1, 3), d.int(1, 3)
    lead = d.lead()

    def reference(x: Any, y: Any) -> Any:
        scale = ((n + m) / (0.6**2 + 0.4**2)) ** 0.5
        return torch.cat([x * scale * 0.6 / n**0.5, y * scale * 0.4 / m**0.5], dim=1)

    return Case([d.floats(lead, n, 2), d.floats(lead, m, 2)], reference, {"axis": 1, "balance": 0.4})


@case("pixel_norm")
def pixel_norm(d: Draw) -> Case:
    shape = d.shape(1, 3)
    axis = d.int(0, len(shape) - 1)

    def reference(x: Any) -> Any:
        return x / ((x * x).mean(axis, keepdim=True).sqrt() + 1e-2)

    return Case([d.floats(*shape, low=0.1)], reference, {"axis": axis, "eps": 1e-2})


@case("forced_norm")
def forced_norm(d: Draw) -> Case:
    shape = [d.int(1, 4), *(d.int(1, 3) for _ in range(d.int(1, 3)))]

    def reference(weight: Any) -> Any:
        rows = weight.flatten(1)
        return (rows / (rows.norm(dim=1, keepdim=True) + 1e-2 * rows.shape[1] ** 0.5)).view_as(weight)

    return Case([d.floats(*shape, low=0.1)], reference, {"eps": 1e-2})


@case("weight_norm")
def weight_norm(d: Draw) -> Case:
    shape = [d.int(1, 4), *(d.int(1, 3) for _ in range(d.int(1, 3)))]
    axis = d.int(0, 1)

    def reference(weight: Any, gain: Any) -> Any:
        return torch._weight_norm(weight, gain.view([-1 if a == axis else 1 for a in range(weight.ndim)]), axis)

    return Case([d.floats(*shape, low=0.1), d.floats(shape[axis])], reference, {"axis": axis, "output_std": 0.0})


@case("upsample_nearest")
def upsample_nearest(d: Draw) -> Case:
    axes = d.int(1, 3)
    factor = tuple(d.int(1, 3) for _ in range(axes)) if d.flag() else d.int(1, 3)
    image = d.floats(d.lead(), d.int(1, 2), *(d.int(1, 3) for _ in range(axes)))
    return Case([image], lambda x: F.interpolate(x, scale_factor=factor), {"factor": factor})


@case("resize")
def resize(d: Draw) -> Case:
    size, mode = (d.int(1, 5), d.int(1, 5)), d.choose(["area", "bilinear", "aligned", "antialiased", "bicubic"])
    image = d.floats(d.lead(), d.int(1, 2), d.int(1, 5), d.int(1, 5))
    own: dict[str, Any] = {"antialiased": {"antialias": True}, "aligned": {"align_corners": True}}
    how = {"mode": "bilinear", **own[mode]} if mode in own else {"mode": mode}
    return Case([image], lambda x: F.interpolate(x, size, **how), {"size": size, "mode": mode})


@case("grid_sample")
def grid_sample(d: Draw) -> Case:
    lead, outside = d.lead(), d.choose(["zeros", "border", "reflection"])
    image = d.floats(lead, d.int(1, 2), d.int(1, 4), d.int(1, 4))
    points = d.floats(lead, d.int(1, 3), d.int(1, 3), 2, low=-3, high=3)
    how = {"mode": "bilinear", "padding_mode": outside, "align_corners": False}
    return Case([image, points], lambda x, grid: F.grid_sample(x, grid, **how), {"outside": outside})


@case("reflect_pad")
def reflect_pad(d: Draw) -> Case:
    axes, size = d.int(1, 3), d.int(0, 2)
    x = d.floats(d.lead(), d.int(1, 2), *(d.int(3, 4) for _ in range(axes)))
    return Case([x], lambda x: F.pad(x, (size, size) * axes, mode="reflect"), {"size": size})


@case("avg_pool", "max_pool")
def pool(d: Draw, name: str) -> Case:
    axes = d.int(1, 3)
    size = tuple(d.int(1, 3) for _ in range(axes))
    image = d.floats(d.lead(), d.int(1, 2), *(n * d.int(1, 2) for n in size))
    call = getattr(F, f"{name}{axes}d")
    return Case([image], lambda x: call(x, size), {"size": size if len(set(size)) > 1 or d.flag() else size[0]})


@case("attention")
def attention(d: Draw) -> Case:
    lead, kv, t = d.lead(), d.int(1, 2), d.int(1, 4)
    heads, width, value = kv * d.int(1, 3), d.int(1, 4), d.int(1, 4)
    causal = d.flag()
    s = t if causal else d.int(1, 4)
    scale = d.choose([None, 0.3])
    mask = []
    if d.flag():
        shape = d.choose([[t, s], [1, 1, 1, s], [lead, heads, t, s]])
        mask = [d.choose([d.bools, d.floats])(*shape)]
        if mask[0].type.dtype == "bool":
            mask[0].array[..., 0] = True  # a query that sees nothing has no softmax

    def reference(q: Any, k: Any, v: Any, *m: Any) -> Any:
        k, v = (x.repeat_interleave(heads // kv, 1) for x in (k, v))
        if causal and m:  # PyTorch takes one of the two
            seen = torch.ones(t, t, dtype=torch.bool).tril()
            m = (m[0] & seen if m[0].dtype == torch.bool else torch.where(seen, m[0], -torch.inf),)
        return F.scaled_dot_product_attention(q, k, v, *m, is_causal=causal and not m, scale=scale)

    operands = [d.floats(lead, heads, t, width), d.floats(lead, kv, s, width), d.floats(lead, kv, s, value), *mask]
    return Case(operands, reference, {"causal": causal, "scale": scale})


@case("experts")
def experts(d: Draw) -> Case:
    lead, count, width, hidden = d.lead(), d.int(1, 4), d.int(1, 3), d.int(1, 3)
    per_token = d.int(1, count)

    def reference(x: Any, gates: Any, w1: Any, w3: Any, w2: Any) -> Any:
        h = F.silu(torch.einsum("btd,efd->btef", x, w1)) * torch.einsum("btd,efd->btef", x, w3)
        return torch.einsum("btef,edf,bte->btd", h, w2, gates)

    shapes = [(lead, 2, width), (lead, 2, count), *[(count, hidden, width)] * 2, (count, width, hidden)]
    return Case([d.floats(*shape) for shape in shapes], reference, {"per_token": per_token})


@case("expert")
def expert(d: Draw) -> Case:
    lead, width, hidden = d.lead(), d.int(1, 3), d.int(1, 3)

    def reference(onto: Any, x: Any, gate: Any, w1: Any, w3: Any, w2: Any) -> Any:
        return onto + gate * F.linear(F.silu(F.linear(x, w1)) * F.linear(x, w3), w2)

    shapes = [(lead, 2, width), (lead, 2, width), (lead, 2, 1), *[(hidden, width)] * 2, (width, hidden)]
    return Case([d.floats(*shape) for shape in shapes], reference)


@case("gelu_experts")
def gelu_experts(d: Draw) -> Case:
    lead, count, width, hidden = d.lead(), d.int(1, 4), d.int(1, 3), d.int(1, 3)

    def reference(x: Any, gates: Any, w1: Any, b1: Any, w2: Any, b2: Any) -> Any:
        h = F.gelu(torch.einsum("btd,efd->btef", x, w1) + b1, approximate="tanh")
        return torch.einsum("bted,bte->btd", torch.einsum("btef,edf->bted", h, w2) + b2, gates)

    shapes = [(lead, 2, width), (lead, 2, count), (count, hidden, width), (count, hidden)]
    shapes += [(count, width, hidden), (count, width)]
    return Case([d.floats(*shape) for shape in shapes], reference, {"per_token": d.int(1, count)})


@case("gelu_expert")
def gelu_expert(d: Draw) -> Case:
    lead, width, hidden = d.lead(), d.int(1, 3), d.int(1, 3)

    def reference(onto: Any, x: Any, gate: Any, w1: Any, b1: Any, w2: Any, b2: Any) -> Any:
        return onto + gate * F.linear(F.gelu(F.linear(x, w1, b1), approximate="tanh"), w2, b2)

    shapes = [(lead, 2, width), (lead, 2, width), (lead, 2, 1), (hidden, width), (hidden,), (width, hidden), (width,)]
    return Case([d.floats(*shape) for shape in shapes], reference)


@case("depthwise_each")
def depthwise_each(d: Draw) -> Case:
    lead, channels, kernel = d.lead(), d.int(1, 3), d.choose((1, 3))

    def reference(x: Any, weight: Any) -> Any:
        joined, kernels = x.flatten(0, 1)[None], weight.flatten(0, 1)[:, None]
        return F.conv2d(joined, kernels, padding=kernel // 2, groups=len(kernels)).view_as(x)

    space = (d.int(1, 4), d.int(1, 4))
    return Case([d.floats(lead, channels, *space), d.floats(lead, channels, kernel, kernel)], reference)


@case("pool_choice")
def pool_choice(d: Draw) -> Case:
    lead, tokens, experts = d.lead(), d.int(1, 4), d.int(1, 3)

    def reference(scores: Any, chances: Any, threshold: Any, capacity: Any) -> Any:
        flat = scores.flatten(0, 1)
        kept = torch.zeros_like(flat)
        for e in range(experts):
            count = int((chances[..., e] > threshold[e]).sum())
            best = flat[:, e].topk(count)
            kept[:, e] = kept[:, e].scatter(0, best.indices, best.values)
        return kept.view_as(scores)

    operands = [d.floats(lead, tokens, experts, low=0.1), d.floats(lead, tokens, experts), d.floats(experts)]
    return Case([*operands, d.floats(1)], reference, {"momentum": 0.9})


@case("posterior_mean")
def posterior_mean(d: Draw) -> Case:
    lead, size, extra = d.lead(), d.int(1, 3), 3.0 if d.flag() else None
    every = lead * d.int(1, 3)

    def reference(x: Any, data: Any, level: Any, *group: Any) -> Any:
        scaled = ((x[:, None] - data) ** 2).sum(-1) / level[:, None] ** 2
        likely = torch.exp(-scaled / 2) if extra is None else (1 + scaled / extra) ** (-(size + extra) / 2)
        likely = likely * (group[0][: len(x), None] == group[0]) if group else likely
        return likely @ data / likely.sum(1, keepdim=True)

    operands = [d.floats(lead, size), d.floats(every, size), d.floats(lead, low=0.5)]
    operands += [d.ints(every, high=2)] if d.flag() else []
    return Case(operands, reference, {} if extra is None else {"extra": extra})


@case("noted")
def noted(d: Draw) -> Case:
    lead, steps = d.lead(), d.int(1, 4)
    operands = [d.floats(lead), d.floats(steps), d.floats(steps), d.ints(lead, high=steps)]
    return Case(operands, lambda x, history, counts, index: x, {"momentum": 0.9})


@case("exchanged")
def exchanged(d: Draw) -> Case:
    shape, count = d.shape(), d.int(1, 4)
    shape = shape or (d.lead(),)
    place = d.operand((shape[0],), lambda s: d.rng.integers(-1, count, s), "i64")
    operands = [d.floats(*shape), d.floats(count, *shape[1:]), place]

    def reference(x: Any, memory: Any, place: Any) -> Any:
        return torch.stack([row if at < 0 else memory[at] for row, at in zip(x, place, strict=True)])

    return Case(operands, reference)


@case("running_mean")
def running_mean(d: Draw) -> Case:
    shape = d.shape()
    kept = d.floats(*(shape[1:] if len(shape) > 1 and d.int(0, 1) else (1,)))
    return Case([d.floats(*shape), kept], lambda x, mean: mean, {"momentum": 0.9})


@case("training_passes")
def training_passes(d: Draw) -> Case:
    return Case([d.floats(1)], lambda count: torch.full_like(count, 7.0), {"otherwise": 7.0})


@case("set_from_data")
def set_from_data(d: Draw) -> Case:
    shape = d.shape()
    return Case([d.floats(*shape), d.floats(*shape), d.floats(1)], lambda weight, value, passes: weight)


@case("selective_scan")
def selective_scan(d: Draw) -> Case:
    lead, length, channels, states = d.lead(), d.int(1, 11), d.int(1, 3), d.int(1, 3)

    def reference(x: Any, delta: Any, a: Any, b: Any, c: Any) -> Any:
        state, out = 0.0, []
        for i in range(length):
            step = delta[:, i, :, None]
            state = torch.exp(step * a) * state + step * x[:, i, :, None] * b[:, i, None]
            out.append((state * c[:, i, None]).sum(-1))
        return torch.stack(out, 1)

    tokens = (lead, length, channels)
    operands = [d.floats(*tokens), d.floats(*tokens, low=0.01), d.floats(channels, states, low=-2, high=-0.1)]
    return Case([*operands, *(d.floats(lead, length, states) for _ in range(2))], reference)


@case("drop_path")
def drop_path(d: Draw) -> Case:
    return Case([d.floats(d.lead(), d.int(1, 3)), d.floats(low=0, high=0.9)], lambda x, rate: x)


@case("training_noise")
def training_noise(d: Draw) -> Case:
    attrs = {"mode": d.choose(("normal", "gumbel", "relative")), "scale": 0.5}
    return Case([d.floats(*d.shape())], lambda x: x, attrs)


@case("auxiliary_loss")
def auxiliary_loss(d: Draw) -> Case:
    return Case([d.floats(*d.shape()), d.floats()], lambda x, loss: x)


@case("rotary")
def rotary(d: Draw) -> Case:
    t, half, interleaved = d.int(1, 3), d.int(1, 3), d.flag()

    def reference(x: Any, cos: Any, sin: Any) -> Any:
        """Multiplication of complex numbers, which is what a rotation is."""
        pairs = x.unflatten(-1, (half, 2)) if interleaved else x.unflatten(-1, (2, half)).transpose(-1, -2)
        turned = torch.view_as_real(torch.view_as_complex(pairs.contiguous()) * torch.complex(cos, sin))
        return turned.flatten(-2) if interleaved else turned.transpose(-1, -2).flatten(-2)

    lead = d.lead()
    shape = (lead, 1, t, half) if d.flag() else (t, half)  # of each sample, or of all
    x = d.floats(lead, d.int(1, 2), t, 2 * half)
    return Case([x, d.floats(*shape), d.floats(*shape)], reference, {"interleaved": interleaved})


@case("timestep_embedding")
def timestep_embedding(d: Draw) -> Case:
    endpoint = bool(d.int(0, 1))
    dim = 2 * d.int(1 + endpoint, 3)

    def reference(t: Any) -> Any:
        rates = torch.logspace(0, -2, dim // 2 + (not endpoint), dtype=torch.float64)[: dim // 2]
        return torch.cat([torch.cos(torch.outer(t, rates)), torch.sin(torch.outer(t, rates))], 1)

    return Case([d.floats(d.lead(), low=0, high=5)], reference, {"dim": dim, "max_period": 100.0, "endpoint": endpoint})
