"""Definitions that emitted files hold where they need them; `latentc.emit.helpers` copies them one by one."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel


def timestep_embedding(t: Tensor, dim: int, max_period: float = 10000, endpoint: bool = False) -> Tensor:
    """Sinusoids [B, dim] of t [B] at frequencies from 1 down to 1 / max_period, cosines first."""
    half = dim // 2
    steps = torch.arange(half, dtype=t.dtype, device=t.device)
    freqs = torch.exp(-math.log(max_period) * steps / (half - endpoint))
    angles = t[:, None] * freqs
    return torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x * (1 + scale) + shift for x [B, T, D], shift and scale [B, 1, D]."""
    return torch.addcmul(shift, x, 1 + scale)


def apply_rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates channel pairs (2i, 2i + 1) of x [B, H, T, d] by position.

    cos and sin are [T, d / 2], or [B, 1, T, d / 2] if each sample has positions of its own.
    """
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    rotated = torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1)
    return rotated.flatten(-2).type_as(x)


def apply_rotary_halves(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates channel pairs (i, i + d / 2) of x [B, H, T, d] by position.

    cos and sin are [T, d / 2], or [B, 1, T, d / 2] if each sample has positions of its own.
    """
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1).type_as(x)


def causal_mask(mask: Tensor, q: Tensor) -> Tensor:
    """The mask, boolean or added to scores, with which queries q [B, H, T, d] see no later keys either."""
    seen = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool, device=q.device).tril()
    return mask & seen if mask.dtype == torch.bool else torch.where(seen, mask, -torch.inf)


def sincos_1d(width: int, length: int, base: float) -> Tensor:
    """Fixed positions of a sequence [length, width]: sines, then cosines."""
    omega = 1.0 / base ** (torch.arange(width // 2, dtype=torch.float64) / (width // 2))
    angles = torch.outer(torch.arange(length, dtype=torch.float64), omega)
    return torch.cat([angles.sin(), angles.cos()], dim=1).float()


def sincos_2d(width: int, grid: int, step: float = 1.0) -> Tensor:
    """Fixed 2-D position embedding [grid * grid, width]: first half the column, second half the row."""
    omega = 1.0 / 10000 ** (torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    position = torch.arange(grid, dtype=torch.float64) * step
    rows, columns = torch.meshgrid(position, position, indexing="ij")
    halves = []
    for index in (columns, rows):
        angles = index.reshape(-1, 1) * omega
        halves += [torch.sin(angles), torch.cos(angles)]
    return torch.cat(halves, dim=1).float()


def rope_1d(head_dim: int, length: int, base: float) -> tuple[Tensor, Tensor]:
    """Rotary tables (cos, sin) of a sequence, each [length, head_dim / 2]."""
    freqs = 1.0 / base ** (torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    angles = torch.outer(torch.arange(length, dtype=torch.float64), freqs)
    return angles.cos().float(), angles.sin().float()


def rope_2d(head_dim: int, grid: int, prefix: int, base: float) -> tuple[Tensor, Tensor]:
    """Rotary tables (cos, sin) of a grid, each [prefix + grid * grid, head_dim / 2].

    Half of the channel pairs rotate with the row, half with the column. Both tables are 0 for the `prefix`
    leading tokens.
    """
    half = head_dim // 2
    freqs = 1.0 / base ** (torch.arange(0, half, 2, dtype=torch.float64)[: half // 2] / half)
    angles = torch.outer(torch.arange(grid, dtype=torch.float64), freqs)  # [grid, half / 2]
    rows = angles[:, None].expand(grid, grid, -1)
    columns = angles[None].expand(grid, grid, -1)
    angles = torch.cat([rows, columns], dim=-1).flatten(0, 1)  # [grid * grid, half]
    empty = angles.new_zeros(prefix, half)
    return torch.cat([empty, angles.cos()]).float(), torch.cat([empty, angles.sin()]).float()


def cosines_2d(grid: int, frequencies: int) -> Tensor:
    """Cosines of the places in a square, [grid * grid, frequencies^2]: cos(pi x f) cos(pi y g) / (1 + f g).

    x is the column and y the row, from 0 to 1; f and g, the faster index, go from 0 to `frequencies`.
    """
    f = torch.linspace(0, frequencies, frequencies, dtype=torch.float64)
    wave = torch.cos(torch.outer(torch.linspace(0, 1, grid, dtype=torch.float64), f) * math.pi)
    waves = wave[None, :, :, None] * wave[:, None, None, :] / (1 + torch.outer(f, f))  # [row, column, f, g]
    return waves.reshape(grid * grid, frequencies**2).float()


def rope_2d_spread(head_dim: int, grid: int, base: float, span: float) -> tuple[Tensor, Tensor]:
    """Rotary tables (cos, sin) of a grid, each [grid * grid, head_dim / 2].

    Rows and columns are at `grid` places from 0 to `span`. Channel pairs rotate with column and row in turn.
    """
    half = head_dim // 2
    freqs = 1.0 / base ** (torch.arange(0, half, 2, dtype=torch.float64)[: half // 2] / half)
    angles = torch.outer(torch.linspace(0, span, grid, dtype=torch.float64), freqs)  # [grid, half / 2]
    rows = angles[:, None].expand(grid, grid, -1)
    columns = angles[None].expand(grid, grid, -1)
    angles = torch.stack([columns, rows], dim=-1).reshape(grid * grid, half)
    return angles.cos().float(), angles.sin().float()


def rope_2d_rectangle(head_dim: int, rows: int, columns: int, base: float) -> tuple[Tensor, Tensor]:
    """Rotary tables (cos, sin) of a grid, each [rows * columns, head_dim / 2]; half turns with the row, half with the
    column.
    """
    half = head_dim // 2
    freqs = 1.0 / base ** (torch.arange(0, half, 2, dtype=torch.float64) / half)
    row = torch.outer(torch.arange(rows, dtype=torch.float64), freqs)[:, None].expand(rows, columns, -1)
    column = torch.outer(torch.arange(columns, dtype=torch.float64), freqs)[None].expand(rows, columns, -1)
    angles = torch.cat([row, column], dim=-1).flatten(0, 1)
    return angles.cos().float(), angles.sin().float()


def extrapolated_frequencies(size: int, base: float, method: str, factor: float, trained: int) -> Tensor:
    """Rotary frequencies [size / 2] of a side `factor` >= 1 times the one trained on, of `trained` patches."""
    powers = torch.arange(0, size, 2, dtype=torch.float64) / size
    own = 1.0 / base**powers
    slow = own / factor

    def share(fast: float, few: float) -> Tensor:
        # 1 for frequencies with more than `fast` turns within the trained side, 0 for those with less than `few`.
        low, high = (size * math.log(trained / (n * 2 * math.pi)) / (2 * math.log(base)) for n in (fast, few))
        start, stop = float(max(math.floor(low), 0)), float(min(math.ceil(high), size - 1))
        stop += 0.001 * (start == stop)
        return 1 - ((torch.arange(size // 2, dtype=torch.float64) - start) / (stop - start)).clamp(0, 1)

    if method == "linear":
        return slow
    if method == "yarn":
        kept = share(32, 1)
        return slow * (1 - kept) + own * kept
    grown = 1.0 / (base * factor ** (size / (size - 2))) ** powers
    if method == "ntk_by_parts":
        kept = share(1.25, 0.75)
        mixed = slow * (1 - kept) + grown * kept
        kept = share(16, 2)
        return mixed * (1 - kept) + own * kept
    return grown


def rope_2d_extrapolated(
    head_dim: int, rows: int, columns: int, base: float, method: str, trained: int, separate: bool
) -> tuple[Tensor, Tensor]:
    """Rotary tables (cos, sin) of a grid, each [rows * columns, head_dim / 2].

    Half of the channel pairs rotate with the row, half with the column. Frequencies of a grid larger than `trained`
    by `trained` are changed by `method`: of each axis by its own side if `separate`, else by the longer one.
    """
    half, longer, angles = head_dim // 2, max(rows, columns), []
    for side in (rows, columns):
        factor = max((side if separate else longer) / trained, 1.0)
        freqs = extrapolated_frequencies(half, base, method, factor, trained)
        angles.append(torch.outer(torch.arange(side, dtype=torch.float64), freqs))
    row = angles[0][:, None].expand(rows, columns, -1)
    column = angles[1][None].expand(rows, columns, -1)
    both = torch.cat([row, column], dim=-1).flatten(0, 1)
    amplitude = 1.0
    if method == "yarn":
        amplitude = 0.1 * math.log(max(longer / trained, 1.0)) + 1
    elif method in ("ntk_by_side", "ntk_by_area"):
        seen, known = (2 * longer, trained) if method == "ntk_by_side" else (2 * rows * columns, trained**2)
        amplitude = math.sqrt(math.log(seen) / math.log(known)) if seen > known else 1.0
    return (both.cos() * amplitude).float(), (both.sin() * amplitude).float()


def rope_prefix(
    head_dim: int,
    grid: int,
    prefix: int,
    base: float,
    pairs: int,
    side: float,
    columns: int | None = None,
    frames: int = 1,
) -> tuple[Tensor, Tensor]:
    """Rotary tables (cos, sin) of a prefix and a grid, each [prefix + frames * grid * columns, head_dim / 2].

    The last `pairs` channel pairs rotate with the place in the prefix and the frame, half of the others with
    the row, half with the column; places, and rows and columns of a square, go from 0 to `side`.
    """
    columns = columns or grid
    half, step = head_dim // 2 - pairs, side / (grid * columns) ** 0.5
    along = 1.0 / base ** (torch.arange(0, half, 2, dtype=torch.float64)[: half // 2] / half)
    late = 1.0 / base ** (torch.arange(pairs, dtype=torch.float64) / pairs)
    row, column = (torch.outer(torch.arange(n, dtype=torch.float64) * step, along) for n in (grid, columns))
    frame = torch.outer(torch.arange(frames, dtype=torch.float64), late)
    angles = row[None, :, None], column[None, None], frame[:, None, None]
    cells = torch.cat([a.expand(frames, grid, columns, -1) for a in angles], dim=-1).flatten(0, 2)
    places = torch.outer(torch.arange(prefix, dtype=torch.float64) * (side / max(prefix, 1)), late)
    angles = torch.cat([torch.cat([places.new_zeros(prefix, half), places], dim=-1), cells])
    return angles.cos().float(), angles.sin().float()


def routed_experts(x: Tensor, gates: Tensor, w1: Tensor, w3: Tensor, w2: Tensor) -> Tensor:
    """Sum of gate * expert for x [..., D] and gates [..., E]; an expert runs only on tokens with a gate.

    Expert e is w2[e](silu(w1[e] x) * w3[e] x).
    """
    tokens, gates = x.flatten(0, -2), gates.flatten(0, -2)
    out = torch.zeros_like(tokens)
    for e in range(len(w1)):
        rows = gates[:, e].nonzero().squeeze(1)
        h = F.silu(F.linear(tokens[rows], w1[e])) * F.linear(tokens[rows], w3[e])
        out.index_add_(0, rows, (gates[rows, e, None] * F.linear(h, w2[e])).type_as(out))
    return out.view_as(x)


def routed_mlps(x: Tensor, gates: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    """Sum of gate * expert for x [..., D] and gates [..., E]; an expert runs only on tokens with a gate.

    Expert e is w2[e] gelu(w1[e] x + b1[e]) + b2[e].
    """
    tokens, gates = x.flatten(0, -2), gates.flatten(0, -2)
    out = torch.zeros_like(tokens)
    for e in range(len(w1)):
        rows = gates[:, e].nonzero().squeeze(1)
        h = F.gelu(F.linear(tokens[rows], w1[e], b1[e]), approximate="tanh")
        out.index_add_(0, rows, (gates[rows, e, None] * F.linear(h, w2[e], b2[e])).type_as(out))
    return out.view_as(x)


def training_passes(count: Tensor, training: bool, otherwise: float) -> Tensor:
    """How often the network has run in training, this run not counted, as a tensor [1]; else `otherwise`."""
    if not training:
        return torch.full_like(count, otherwise)
    count += 1
    return count - 1


def set_from_data(weight: Tensor, value: Tensor, passes: Tensor, training: bool) -> Tensor:
    """The weight. The first pass in training overwrites it with the mean of value on all processes."""
    if training and passes.item() == 0:
        now = value.detach().to(weight.dtype)
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(now)
            now /= torch.distributed.get_world_size()
        weight.data.copy_(now)  # outside autograd: nothing was computed from it yet
    return weight


def noted(x: Tensor, history: Tensor, counts: Tensor, index: Tensor, training: bool, momentum: float) -> Tensor:
    """x [B], whose squares training keeps averages of, in history [S]; counts [S] says of how many."""
    if training:
        with torch.no_grad():
            history[index] = momentum * history[index] + (1 - momentum) * x.detach().to(history.dtype) ** 2
            counts.index_add_(0, index, torch.ones_like(index, dtype=counts.dtype))
    return x


def exchanged(x: Tensor, memory: Tensor, place: Tensor, training: bool) -> Tensor:
    """Rows of memory at places [B], and rows of x [B, ...] at places below 0.

    In training each row of x is then stored at its place, one after another.
    """
    past = x.detach().clone()
    for row, at in enumerate(place.tolist()):
        if at >= 0:
            past[row] = memory[at]
            if training:
                memory[at] = x[row].detach()
    return torch.where((place >= 0).view(-1, *[1] * (x.ndim - 1)), past, x)


def running_mean(x: Tensor, mean: Tensor, training: bool, momentum: float) -> Tensor:
    """The mean of earlier x [B, ...], over the batch or, if it is [1], over all axes.

    Training then moves it towards that of x on all processes, by the fraction 1 - momentum.
    """
    before = mean.clone()
    if training:
        with torch.no_grad():
            now = x.mean() if mean.shape == (1,) else x.mean(0)
            now = now.to(mean.dtype)
            if torch.distributed.is_initialized():
                torch.distributed.all_reduce(now)
                now /= torch.distributed.get_world_size()
            mean.lerp_(now, 1 - momentum)
    return before


def pool_choice(
    scores: Tensor, chances: Tensor, threshold: Tensor, capacity: float | Tensor, training: bool, momentum: float
) -> Tensor:
    """Gates [..., E] of experts that choose among all tokens of the batch: the scores of the chosen, else 0.

    In training each expert takes capacity / E of the tokens, and its `threshold` [E] moves towards the
    lowest of as many highest chances. In inference it takes as many tokens as exceed its threshold.
    """
    flat, likely = scores.flatten(0, -2), chances.flatten(0, -2)
    tokens, experts = flat.shape
    if training:
        counts = max(1, int(tokens / experts * capacity))
        with torch.no_grad():
            least = likely.topk(counts, dim=0).values[-1].to(threshold.dtype)
            if torch.distributed.is_initialized():
                torch.distributed.all_reduce(least)
                least /= torch.distributed.get_world_size()
            threshold.lerp_(least, 1 - momentum)
    else:
        counts = (likely > threshold).sum(0)
    ordered, order = flat.sort(dim=0, descending=True, stable=True)
    taken = torch.arange(tokens, device=flat.device)[:, None] < counts
    return torch.zeros_like(flat).scatter(0, order, ordered * taken).view_as(scores)


def selective_scan(x: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """The scan of a state space model: y [B, L, E] of x and delta [B, L, E], a [E, N], b and c [B, L, N].

    From token to token the state h [E, N] becomes exp(delta a) h + delta b x, and y is c h. Chunks of about
    sqrt(L) tokens go side by side; then the states at their ends follow one after another.
    """
    length, dtype = x.shape[1], x.dtype
    x, delta, a, b, c = (v.float() if v.dtype.itemsize < 4 else v for v in (x, delta, a, b, c))
    steps = math.isqrt(length - 1) + 1
    chunks = math.ceil(length / steps)

    def columns(v: Tensor) -> tuple[Tensor, ...]:
        return F.pad(v, (0, 0, 0, chunks * steps - length)).unflatten(1, (chunks, steps)).unbind(2)

    found, state, passed = [], 0.0, 1.0
    for step, drive, inward in zip(columns(delta), columns(delta * x), columns(b), strict=True):
        decay = torch.exp(step[..., None] * a)  # [B, chunks, E, N]
        state = decay * state + drive[..., None] * inward[..., None, :]
        passed = decay * passed
        found.append((state, passed))
    before = [torch.zeros_like(state[:, 0])]
    for k in range(chunks - 1):
        before.append(passed[:, k] * before[-1] + state[:, k])
    start = torch.stack(before, dim=1)
    states = (own + reach * start for own, reach in found)
    outs = [h @ outward[..., None] for h, outward in zip(states, columns(c), strict=True)]
    return torch.cat(outs, dim=-1).transpose(2, 3).flatten(1, 2)[:, :length].to(dtype)


def depthwise_each(x: Tensor, weight: Tensor) -> Tensor:
    """Depthwise convolution of x [B, C, H, W] with a kernel per sample and channel, weight [B, C, k, k]."""
    joined = x.flatten(0, 1)[None]
    kernels = weight.flatten(0, 1)[:, None]
    return F.conv2d(joined, kernels, padding=weight.shape[-1] // 2, groups=len(kernels)).view_as(x)


def drop_path(x: Tensor, rate: Tensor | float, training: bool) -> Tensor:
    """In training, zeroes samples of x [B, ...] with probability `rate` and divides others by 1 - rate."""
    if not training:
        return x
    kept = torch.rand(x.shape[0], *(1,) * (x.ndim - 1), device=x.device) >= rate
    return x * (kept / (1 - rate)).type_as(x)


def with_normal_noise(x: Tensor, scale: float, training: bool) -> Tensor:
    """In training, x plus `scale` times standard normal noise."""
    return x + scale * torch.randn_like(x) if training else x


def with_gumbel_noise(x: Tensor, scale: float, training: bool) -> Tensor:
    """In training, x plus `scale` times standard Gumbel noise."""
    if not training:
        return x
    return x - scale * torch.empty_like(x).exponential_().log()


def with_relative_noise(x: Tensor, scale: float, training: bool) -> Tensor:
    """In training, x times uniform numbers between 1 - `scale` and 1 + `scale`."""
    return x * torch.empty_like(x).uniform_(1 - scale, 1 + scale) if training else x


def posterior_mean(
    x: Tensor, data: Tensor, level: Tensor, group: Tensor | None = None, extra: float | None = None
) -> Tensor:
    """Mean of data [N, ...] for each of x [B, ...], weighted by how likely noise of `level` [B] leads to x.

    The noise is normal, or that of a Poisson flow in `extra` further dimensions. Data of another `group` [N]
    does not count; x has the groups of the first B. Differences between samples are small against these: all
    is in float32 or better.
    """
    with torch.autocast(x.device.type, enabled=False):
        near, far = x.flatten(1), data.flatten(1)
        scaled = (torch.cdist(near, far) / level[:, None]) ** 2
        if extra is None:
            logits = scaled / -2
        else:
            logits = torch.log1p(scaled / extra) * (-(near.shape[1] + extra) / 2)
        if group is not None:
            logits = logits.masked_fill(group[: len(x), None] != group, -math.inf)
        return (logits.softmax(dim=1) @ far).view_as(x)


class AuxiliaryLoss(torch.autograd.Function):
    """The identity on x. In training it also minimises a scalar loss, whose gradient is then 1."""

    @staticmethod
    def forward(ctx, x: Tensor, loss: Tensor, training: bool) -> Tensor:
        ctx.training = training
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor | None, None]:
        return gradient, gradient.new_ones(()) if ctx.training else None, None


def fake_quantize(x: Tensor, scale: Tensor, bits: int = 8) -> Tensor:
    """x rounded to whole multiples of `scale` that fit into `bits` bits; gradients pass straight through."""
    half = 2 ** (bits - 1)
    ratio = (x / scale).clamp(-half, half - 1)
    return (ratio.round().detach() + (ratio - ratio.detach())) * scale


def fake_quantize_e4m3(x: Tensor, scale: Tensor) -> Tensor:
    """x / `scale` rounded to float8 e4m3, times `scale`; gradients pass straight through."""
    ratio = (x / scale).clamp(-448, 448)
    rounded = ratio.detach().to(torch.float8_e4m3fn).to(ratio.dtype)
    return (rounded + (ratio - ratio.detach())) * scale


def channel_scale(weight: Tensor, most: float) -> Tensor:
    """The scale of each row of `weight` [N, ...] that makes its largest magnitude `most`, with 8 significant bits."""
    largest = weight.detach().abs().amax(tuple(range(1, weight.ndim)), keepdim=True)
    scale = torch.where(largest > 0, (largest / most).clamp(2.0**-24), torch.ones_like(largest))
    fraction, exponent = torch.frexp(scale)
    return torch.ldexp((fraction * 256).ceil() / 256, exponent)


def fake_quantize_weight(weight: Tensor, most: float = 127, bits: int = 8, block: int | None = None) -> Tensor:
    """A weight [N, K, ...] rounded to `bits` bits, with a scale per output, or per `block` inputs of one."""
    rows = weight if block is None else weight.reshape(-1, block)
    return fake_quantize(rows, channel_scale(rows, most), bits).reshape(weight.shape)


def fake_quantize_weight_e4m3(weight: Tensor) -> Tensor:
    """A weight [N, K, ...] rounded to float8 e4m3, with a scale per output."""
    return fake_quantize_e4m3(weight, channel_scale(weight, 448))


def rounded_e2m1(x: Tensor) -> Tensor:
    """x rounded to float4 e2m1 (0, 0.5, 1, 1.5, 2, 3, 4 or 6, of either sign), ties to the even mantissa."""
    x = x.clamp(-6, 6)
    step = 2 ** x.abs().clamp(1, 4).log2().floor() / 2
    return (x / step).round() * step


def fake_quantize_nvfp4(x: Tensor, scale: Tensor | None = None) -> Tensor:
    """x [..., K] rounded to NVFP4: float4 in blocks of 16, whose scales are float8 e4m3 times `scale`, the tensor's.

    The scale of a block is its largest magnitude / 6; that of the tensor, by default, its own / (6 * 448). Gradients
    pass straight through.
    """
    blocks = x.unflatten(-1, (-1, 16))
    exact = blocks.detach()
    largest = exact.abs().amax(-1, keepdim=True)
    if scale is None:
        scale = (largest.amax() / (6 * 448)).to(torch.float)  # as engines hold it, whatever the dtype of x
        scale = torch.where(scale < torch.finfo(torch.float32).tiny, 1.0, scale).to(x.dtype)
    ratio = (largest / (6 * scale)).clamp(2.0**-9, 448)
    steps = (ratio.to(torch.float8_e4m3fn).to(torch.float) * scale.to(torch.float)).to(x.dtype)
    return (rounded_e2m1(exact / steps) * steps + (blocks - exact)).flatten(-2)


def fake_quantize_mxfp4(x: Tensor) -> Tensor:
    """x [..., K] rounded to MXFP4: float4 in blocks of 32, whose scales are powers of two; gradients pass through.

    The scale of a block is the power of two below its largest magnitude, over 4; magnitudes above 6 scales become 6.
    """
    blocks = x.unflatten(-1, (-1, 32))
    exact = blocks.detach()
    largest = exact.abs().amax(-1, keepdim=True)
    power = torch.where(largest > 0, torch.frexp(largest)[1] - 3, 0).clamp(-24)
    steps = torch.ldexp(torch.ones_like(largest), power)
    return (rounded_e2m1(exact / steps) * steps + (blocks - exact)).flatten(-2)


def spectral_norm(weight: Tensor, u: Tensor, training: bool, eps: float = 1e-12) -> Tensor:
    """weight [out, ...] divided by its largest singular value, estimated by one power iteration from u [out].

    In training, u is updated in place.
    """
    matrix = weight.flatten(1)
    with torch.no_grad():
        v = F.normalize(u @ matrix, dim=0, eps=eps)
        left = F.normalize(matrix @ v, dim=0, eps=eps)
        if training:
            u.copy_(left)
    return weight / (left @ matrix @ v)


class SNConv1d(nn.Conv1d):
    """A convolution whose weight is spectrally normalised (Miyato et al. 2018)."""

    def __init__(self, in_channels: int, out_channels: int, eps: float = 1e-12, **options):
        super().__init__(in_channels, out_channels, **options)
        self.eps = eps
        self.register_buffer("u", torch.randn(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, spectral_norm(self.weight, self.u, self.training, self.eps), self.bias)


class SNConv2d(nn.Conv2d):
    """A convolution whose weight is spectrally normalised (Miyato et al. 2018)."""

    def __init__(self, in_channels: int, out_channels: int, eps: float = 1e-12, **options):
        super().__init__(in_channels, out_channels, **options)
        self.eps = eps
        self.register_buffer("u", torch.randn(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, spectral_norm(self.weight, self.u, self.training, self.eps), self.bias)


class SNLinear(nn.Linear):
    """A linear layer whose weight is spectrally normalised (Miyato et al. 2018)."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True, eps: float = 1e-12):
        super().__init__(in_features, out_features, bias)
        self.eps = eps
        self.register_buffer("u", torch.randn(out_features))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, spectral_norm(self.weight, self.u, self.training, self.eps), self.bias)


class SNEmbedding(nn.Embedding):
    """An embedding whose table is spectrally normalised (Miyato et al. 2018)."""

    def __init__(self, rows: int, features: int, eps: float = 1e-12):
        super().__init__(rows, features)
        self.eps = eps
        self.register_buffer("u", torch.randn(rows))

    def forward(self, index: Tensor) -> Tensor:
        return F.embedding(index, spectral_norm(self.weight, self.u, self.training, self.eps))


def pixel_norm(x: Tensor, dim: int, eps: float = 1e-4) -> Tensor:
    """x over its root mean square along an axis (Karras et al. 2024)."""
    return x / (torch.linalg.vector_norm(x, dim=dim, keepdim=True) / x.shape[dim] ** 0.5 + eps)


def mp_silu(x: Tensor) -> Tensor:
    """SiLU at unit magnitude (Karras et al. 2024)."""
    return F.silu(x) / 0.596


def mp_sum(x: Tensor, y: Tensor, balance: float) -> Tensor:
    """x and y in the shares 1 - balance and balance, at unit magnitude (Karras et al. 2024), in the precision of x."""
    return torch.lerp(x, y.type_as(x), balance) / math.hypot(1 - balance, balance)


def mp_concat(x: Tensor, y: Tensor, dim: int, balance: float) -> Tensor:
    """x beside y, with the shares 1 - balance and balance of the magnitude (Karras et al. 2024)."""
    n, m = x.shape[dim], y.shape[dim]
    scale = (n + m) ** 0.5 / math.hypot(1 - balance, balance)
    return torch.cat([x * (scale * (1 - balance) / n**0.5), y * (scale * balance / m**0.5)], dim=dim)


def forced_norm(weight: Tensor, training: bool, eps: float = 1e-4) -> Tensor:
    """weight [out, ...] with rows of length 1: outputs have the magnitude of inputs (Karras et al. 2024).

    In training, the weight itself is overwritten with rows whose elements have mean square 1.
    """
    size = math.prod(weight.shape[1:]) ** 0.5

    def length(rows: Tensor) -> Tensor:
        return torch.linalg.vector_norm(rows, dim=list(range(1, rows.ndim)), keepdim=True) + eps * size

    if training:
        kept = weight.data  # outside autograd: the value saved by an earlier call differs only by rounding
        kept.copy_(kept * (size / length(kept)))
    return weight / length(weight)


class MagnitudePreserving(nn.Module):
    """A layer whose weight has rows of length 1, in training by force (Karras et al. 2024)."""

    def __init__(self, *sizes: int, eps: float = 1e-4, **options):
        super().__init__(*sizes, **options)
        self.eps = eps

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight)

    def normed(self) -> Tensor:
        return forced_norm(self.weight, self.training, self.eps)

    @torch.no_grad()
    def force_norm(self) -> None:
        """Overwrites the weight, or the rows of it that this process holds under FSDP."""
        rows = self.weight.to_local() if hasattr(self.weight, "to_local") else self.weight
        forced_norm(rows, True, self.eps)


class MPConv1d(MagnitudePreserving, nn.Conv1d):
    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.normed(), self.bias)


class MPConv2d(MagnitudePreserving, nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.normed(), self.bias)


class MPConv3d(MagnitudePreserving, nn.Conv3d):
    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.normed(), self.bias)


class MPLinear(MagnitudePreserving, nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.normed(), self.bias)


def weight_norm(weight: Tensor, gain: Tensor, dim: int = 0) -> Tensor:
    """The weight, its rows along an axis scaled to the lengths `gain` (Salimans and Kingma 2016)."""
    axes = [axis for axis in range(weight.ndim) if axis != dim]
    length = torch.linalg.vector_norm(weight, dim=axes, keepdim=True)
    return weight * (gain.view_as(length) / length)


class WeightNormed(nn.Module):
    """A layer whose weight is g V / |V| (Salimans and Kingma 2016) along an axis; `weight` is V.

    `output_std`: that of the outputs for the first batch, which sets g and the bias (weight_norm.py).
    """

    kept: Tensor | None = None

    def __init__(self, *sizes: int, dim: int = 0, output_std: float = 1.0, **options):
        super().__init__(*sizes, **options)
        self.g = nn.Parameter(torch.ones(self.weight.shape[dim]))
        self.dim, self.output_std = dim, output_std

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=0.05)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def normed(self) -> Tensor:
        return weight_norm(self.weight, self.g, self.dim) if self.kept is None else self.kept


def normed_once(method: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A method in which weights are normalised once, not in every step of its loops."""

    def once(self, *inputs: Tensor) -> Tensor:
        layers = [layer for layer in self.modules() if isinstance(layer, WeightNormed)]
        for layer in layers:
            layer.kept = layer.normed()
        try:
            return method(self, *inputs)
        finally:
            for layer in layers:
                layer.kept = None

    return once


class WNConv1d(WeightNormed, nn.Conv1d):
    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.normed(), self.bias)


class WNConv2d(WeightNormed, nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.normed(), self.bias)


class WNConvTranspose2d(WeightNormed, nn.ConvTranspose2d):
    def forward(self, x: Tensor) -> Tensor:
        options = (self.stride, self.padding, self.output_padding, self.groups, self.dilation)
        return F.conv_transpose2d(x, self.normed(), self.bias, *options)


class WNLinear(WeightNormed, nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.normed(), self.bias)


def under(weights: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The weights of the submodule `name`, by their names inside it."""
    return {key.removeprefix(f"{name}."): w for key, w in weights.items() if key.startswith(f"{name}.")}


def value_and_gradient(fn: Callable[..., Tensor], *inputs: Tensor) -> tuple[Tensor, ...]:
    """fn(*inputs) and the gradient of its sum with respect to each input; differentiable again."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        inputs = [x if x.requires_grad else x.detach().requires_grad_() for x in inputs]
        value = fn(*inputs)
        gradients = torch.autograd.grad(value.sum(), inputs, create_graph=create_graph, materialize_grads=True)
    return value if create_graph else value.detach(), *gradients


def jvp(fn: Callable[..., Tensor], inputs: tuple[Tensor, ...], tangents: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """fn(*inputs) and its derivative along the tangents. Fused attention has no forward mode: not used."""
    with sdpa_kernel(SDPBackend.MATH):
        return torch.func.jvp(fn, inputs, tangents)


def guide(both: Tensor, scale: Tensor, channels: int | None = None) -> Tensor:
    """Classifier-free guidance, uncond + scale * (cond - uncond), of a doubled batch, conditional half first.

    `scale` is [B]. With `channels`, only the first channels of axis 1 are guided; the others are cond.
    """
    cond, uncond = both.chunk(2)
    guided = uncond + scale.view(-1, *[1] * (cond.ndim - 1)) * (cond - uncond)
    if channels is None:
        return guided
    return torch.cat([guided[:, :channels], cond[:, channels:]], dim=1)


@dataclass(frozen=True)
class Rollout:
    """Samples that the networks draw in training, on which all optimiser steps of a step are made.

    `group` of them are drawn for each sample of the batch, by the program of that name. `given`: by
    condition, the data's array of its values and, if it has one, of its mask. Losses take what `gives`
    names, [B, group, ...] each: outputs of the program, and their `reward`.
    """

    program: str
    group: int
    gives: tuple[str, ...]
    given: dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class Sampler:
    """A sampling function, the networks and inputs it takes, what its inputs read of a request, and its outputs."""

    sample: Callable[..., Any]
    networks: tuple[str, ...]
    inputs: Callable[..., dict[str, Any]]
    conditions: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ("samples",)
    schedule: Callable[..., Any] | None = None
