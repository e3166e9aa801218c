"""Written by `python -m latentc.ir.stubs`; do not edit."""

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

from latentc.ir.builder import Var
from latentc.ir.types import Dim

Operand: TypeAlias = Var | float

class Appending:
    def op(self, op: str, *operands: Any, out: str = "", **attrs: Any) -> Any: ...
    def neg(self, x: Operand, /, *, out: str = ...) -> Var:
        """-x."""
    def exp(self, x: Operand, /, *, out: str = ...) -> Var:
        """e to the x."""
    def log(self, x: Operand, /, *, out: str = ...) -> Var:
        """natural logarithm."""
    def sqrt(self, x: Operand, /, *, out: str = ...) -> Var:
        """square root."""
    def rsqrt(self, x: Operand, /, *, out: str = ...) -> Var:
        """1 / sqrt(x)."""
    def sin(self, x: Operand, /, *, out: str = ...) -> Var:
        """sine."""
    def cos(self, x: Operand, /, *, out: str = ...) -> Var:
        """cosine."""
    def atan(self, x: Operand, /, *, out: str = ...) -> Var:
        """inverse tangent, from -pi / 2 to pi / 2."""
    def acos(self, x: Operand, /, *, out: str = ...) -> Var:
        """inverse cosine, from 0 to pi."""
    def tanh(self, x: Operand, /, *, out: str = ...) -> Var:
        """hyperbolic tangent."""
    def sigmoid(self, x: Operand, /, *, out: str = ...) -> Var:
        """1 / (1 + e^-x)."""
    def relu(self, x: Operand, /, *, out: str = ...) -> Var:
        """max(x, 0)."""
    def softplus(self, x: Operand, /, *, out: str = ...) -> Var:
        """log(1 + e^x)."""
    def silu(self, x: Operand, /, *, out: str = ...) -> Var:
        """x * sigmoid(x)."""
    def erf(self, x: Operand, /, *, out: str = ...) -> Var:
        """Gauss error function."""
    def abs(self, x: Operand, /, *, out: str = ...) -> Var:
        """absolute value."""
    def floor(self, x: Operand, /, *, out: str = ...) -> Var:
        """largest integer that is at most x."""
    def add(self, x: Operand, y: Operand, /, *, out: str = ...) -> Var:
        """x + y."""
    def mul(self, x: Operand, y: Operand, /, *, out: str = ...) -> Var:
        """x * y."""
    def div(self, x: Operand, y: Operand, /, *, out: str = ...) -> Var:
        """x / y; of integers, rounded towards minus infinity."""
    def pow(self, x: Operand, y: Operand, /, *, out: str = ...) -> Var:
        """x to the power y; the gradient with respect to y requires x > 0."""
    def maximum(self, x: Operand, y: Operand, /, *, out: str = ...) -> Var:
        """the larger of two."""
    def minimum(self, x: Operand, y: Operand, /, *, out: str = ...) -> Var:
        """the smaller of two."""
    def equal(self, x: Operand, y: Operand, /, *, out: str = ...) -> Var:
        """x == y."""
    def less(self, x: Operand, y: Operand, /, *, out: str = ...) -> Var:
        """x < y."""
    def less_equal(self, x: Operand, y: Operand, /, *, out: str = ...) -> Var:
        """x <= y."""
    def greater(self, x: Operand, y: Operand, /, *, out: str = ...) -> Var:
        """x > y."""
    def logical_and(self, x: Operand, y: Operand, /, *, out: str = ...) -> Var:
        """both."""
    def logical_or(self, x: Operand, y: Operand, /, *, out: str = ...) -> Var:
        """either."""
    def mish(self, x: Operand, /, *, out: str = ...) -> Var:
        """x * tanh(softplus(x))."""
    def elu(self, x: Operand, /, *, out: str = ...) -> Var:
        """x if it is positive, else e^x - 1."""
    def leaky_relu(self, x: Operand, /, *, slope: float, out: str = ...) -> Var:
        """x if it is positive, else x * slope."""
    def gelu(self, x: Operand, /, *, approximate: Literal["none", "tanh"], out: str = ...) -> Var:
        """x * Phi(x), by erf (approximate='none') or by tanh."""
    def stop_gradient(self, x: Operand, /, *, out: str = ...) -> Var:
        """x, without passing on a gradient."""
    def clamp(self, x: Operand, /, *, low: float, high: float, out: str = ...) -> Var:
        """x bounded to [low, high]."""
    def cast(self, x: Operand, /, *, to: str, out: str = ...) -> Var:
        """x with another dtype; floats to integers truncate."""
    def where(self, condition: Operand, x: Operand, y: Operand, /, *, out: str = ...) -> Var:
        """x where the condition holds, y elsewhere."""
    def dropout(self, x: Operand, /, *, p: float, out: str = ...) -> Var:
        """in training, zeroes elements with probability p and scales the rest by 1 / (1 - p)."""
    def auxiliary_loss(self, x: Operand, loss: Operand, /, *, out: str = ...) -> Var:
        """x; in training the scalar `loss` is added to the objective with weight 1."""
    def full(
        self,
        x: Operand,
        /,
        *,
        shape: Sequence[Dim],
        value: float,
        dtype: str,
        factor: int | Sequence[int] = ...,
        out: str = ...,
    ) -> Var:
        """[batch of the operand (times factor), *shape] filled with a value."""
    def reshape(self, x: Operand, /, *, shape: Sequence[Dim], out: str = ...) -> Var:
        """the same elements in row-major order, in another shape."""
    def transpose(self, x: Operand, /, *, perm: Sequence[int], out: str = ...) -> Var:
        """axes reordered by perm."""
    def broadcast_to(self, x: Operand, like: Operand = ..., /, *, shape: Sequence[Dim], out: str = ...) -> Var:
        """x broadcast to a shape; a second operand gives the batch size if the shape has one that x has not."""
    def concat(self, x: Operand, *more: Operand, axis: int, out: str = ...) -> Var:
        """operands joined along an axis."""
    def split(self, x: Operand, /, *, axis: int, sizes: Sequence[Dim], out: str = ...) -> tuple[Var, ...]:
        """consecutive parts of the given sizes along an axis."""
    def unbind(self, x: Operand, /, *, axis: int, out: str = ...) -> tuple[Var, ...]:
        """the slices along an axis, without that axis."""
    def slice(self, x: Operand, /, *, axis: int, start: int, stop: int, out: str = ...) -> Var:
        """start:stop along an axis."""
    def pad(self, x: Operand, /, *, axis: int, before: int, after: int, value: float, out: str = ...) -> Var:
        """a constant before and after, along an axis."""
    def take(self, x: Operand, index: Operand, /, *, axis: int, out: str = ...) -> Var:
        """rows selected by integer index along an axis, which the shape of the index replaces."""
    def take_along(self, x: Operand, index: Operand, /, *, axis: int, out: str = ...) -> Var:
        """elements selected by an index of the same rank (numpy's take_along_axis)."""
    def scatter_add(self, x: Operand, index: Operand, update: Operand, /, *, axis: int, out: str = ...) -> Var:
        """x with update added to the rows that index selects (the transpose of take)."""
    def update_slice(self, x: Operand, update: Operand, start: Operand, /, *, axis: int, out: str = ...) -> Var:
        """x with update written along an axis, beginning at row start (i64[]); appends to a key-value cache."""
    def sum(self, x: Operand, /, *, axes: Sequence[int], keepdims: bool, out: str = ...) -> Var:
        """sum over axes."""
    def mean(self, x: Operand, /, *, axes: Sequence[int], keepdims: bool, out: str = ...) -> Var:
        """mean over axes."""
    def max(self, x: Operand, /, *, axes: Sequence[int], keepdims: bool, out: str = ...) -> Var:
        """maximum over axes; ties share the gradient."""
    def softmax(self, x: Operand, /, *, axis: int, out: str = ...) -> Var:
        """exp(x) / sum exp(x) along an axis."""
    def log_softmax(self, x: Operand, /, *, axis: int, out: str = ...) -> Var:
        """x - log sum exp(x) along an axis."""
    def logsumexp(self, x: Operand, /, *, axis: int, out: str = ...) -> Var:
        """log sum exp(x) over an axis, which is dropped."""
    def cross_entropy(self, logits: Operand, target: Operand, /, *, out: str = ...) -> Var:
        """-log softmax(logits)[target], one value per row."""
    def argmax(self, x: Operand, /, *, axis: int, out: str = ...) -> Var:
        """index of the first maximum along an axis, i64."""
    def top_k(self, x: Operand, /, *, k: int, out: str = ...) -> tuple[Var, Var]:
        """the k largest elements along the last axis in descending order, and their indices; ties keep their order."""
    def argsort(self, x: Operand, /, *, out: str = ...) -> Var:
        """indices that sort the last axis in ascending order, i64; equal elements keep their order. Applied twice, it
        gives each element's rank."""
    def cumsum(self, x: Operand, /, *, axis: int, out: str = ...) -> Var:
        """running sum along an axis."""
    def cumprod(self, x: Operand, /, *, axis: int, out: str = ...) -> Var:
        """running product along an axis."""
    def matmul(self, x: Operand, y: Operand, /, *, out: str = ...) -> Var:
        """matrix product of the last two axes, the others broadcast."""
    def linear(self, x: Operand, weight: Operand, bias: Operand = ..., /, *, out: str = ...) -> Var:
        """x W^T + b with W [out, in]."""
    def embedding(self, table: Operand, index: Operand, /, *, out: str = ...) -> Var:
        """rows of a table, selected by integers."""
    def depthwise_each(self, x: Operand, weight: Operand, /, *, out: str = ...) -> Var:
        """depthwise cross-correlation of x [B, C, H, W] with a kernel per sample and channel, weight [B, C, k, k], k
        odd; zeros around x keep its size."""
    def conv(
        self,
        x: Operand,
        weight: Operand,
        bias: Operand = ...,
        /,
        *,
        stride: int | Sequence[int] = ...,
        padding: int | Sequence[int] = ...,
        dilation: int | Sequence[int] = ...,
        groups: int = ...,
        out: str = ...,
    ) -> Var:
        """1-D, 2-D or 3-D cross-correlation of x [B, C, *space] with W [out, in / groups, *kernel], and a bias
        [out]."""
    def conv_transpose(
        self,
        x: Operand,
        weight: Operand,
        bias: Operand = ...,
        /,
        *,
        stride: int | Sequence[int] = ...,
        padding: int | Sequence[int] = ...,
        output_padding: int | Sequence[int] = ...,
        dilation: int | Sequence[int] = ...,
        groups: int = ...,
        out: str = ...,
    ) -> Var:
        """the transpose of conv, with W [in, out / groups, *kernel]; output_padding extends the end of each axis."""
    def layer_norm(
        self,
        x: Operand,
        scale: Operand = ...,
        shift: Operand = ...,
        /,
        *,
        eps: float,
        out: str = ...,
    ) -> Var:
        """(x - mean) / sqrt(var + eps) over the last axis, with optional scale and shift."""
    def rms_norm(self, x: Operand, scale: Operand = ..., /, *, eps: float, out: str = ...) -> Var:
        """x / sqrt(mean(x^2) + eps) over the last axis, with optional scale."""
    def group_norm(
        self,
        x: Operand,
        scale: Operand = ...,
        shift: Operand = ...,
        /,
        *,
        groups: int,
        eps: float,
        out: str = ...,
    ) -> Var:
        """layer norm over groups of channels (axis 1) and space, with optional scale and shift per channel."""
    def batch_norm(
        self,
        x: Operand,
        mean: Operand,
        variance: Operand,
        scale: Operand = ...,
        shift: Operand = ...,
        /,
        *,
        eps: float,
        momentum: float,
        out: str = ...,
    ) -> Var:
        """(x - mean) / sqrt(var + eps) per channel (axis 1), with optional scale and shift; training uses the batch's
        mean and variance, and moves the given running ones towards them by the fraction `momentum`."""
    def spectral_norm(self, weight: Operand, u: Operand, /, *, eps: float, out: str = ...) -> Var:
        """a weight [out, ...] divided by its largest singular value, estimated by one power iteration from u [out];
        training updates u."""
    def pixel_norm(self, x: Operand, /, *, axis: int, eps: float, out: str = ...) -> Var:
        """x over its root mean square along an axis plus eps."""
    def forced_norm(self, weight: Operand, /, *, eps: float, out: str = ...) -> Var:
        """a weight [out, ...] whose rows have length 1: each over its length plus eps sqrt(n), n its size; training
        first overwrites the weight with sqrt(n) times that."""
    def weight_norm(self, weight: Operand, gain: Operand, /, *, axis: int, output_std: float, out: str = ...) -> Var:
        """a weight whose rows along `axis`, that of a layer's outputs, have the lengths |gain|; before they train,
        projects set gain and bias so that the layer's outputs for the first batch have mean 0 and the standard
        deviation `output_std`, unless that is 0."""
    def mp_silu(self, x: Operand, /, *, out: str = ...) -> Var:
        """SiLU over its root mean square, 0.596, for a standard normal."""
    def mp_sum(self, x: Operand, y: Operand, /, *, balance: float, out: str = ...) -> Var:
        """((1 - balance) x + balance y) / sqrt((1 - balance)^2 + balance^2)."""
    def mp_concat(self, x: Operand, y: Operand, /, *, axis: int, balance: float, out: str = ...) -> Var:
        """x beside y, weighted so that their magnitudes have the shares 1 - balance and balance, whatever their
        sizes."""
    def attention(
        self,
        q: Operand,
        k: Operand,
        v: Operand,
        mask: Operand = ...,
        /,
        *,
        causal: bool,
        scale: float | None = ...,
        dropout: float = ...,
        out: str = ...,
    ) -> Var:
        """softmax(scale q k^T + mask) v; each key head serves H / H_kv query heads; true in a bool mask means keep; in
        training, a share `dropout` of the weights is dropped."""
    def rotary(self, x: Operand, cos: Operand, sin: Operand, /, *, interleaved: bool, out: str = ...) -> Var:
        """pairs of channels rotated by the angle of their position; pairs are neighbours (interleaved) or halves;
        tables are [T, d / 2], or [B, 1, T, d / 2] if each sample has positions of its own."""
    def timestep_embedding(
        self,
        x: Operand,
        /,
        *,
        dim: int,
        max_period: float,
        endpoint: bool = ...,
        out: str = ...,
    ) -> Var:
        """cos and sin of t times frequencies that fall geometrically from 1 to 1 / max_period, included with
        `endpoint`."""
    def quantize(self, x: Operand, scale: Operand, /, *, to: str, axis: int = ..., out: str = ...) -> Var:
        """x / scale rounded to dtype `to`; one scale, or one per index of `axis`."""
    def dequantize(self, x: Operand, scale: Operand, /, *, axis: int = ..., block: int = ..., out: str = ...) -> Var:
        """quantised numbers times their scale; one scale, one per index of `axis`, or one per `block` along it."""
    def fake_quantize(self, x: Operand, scale: Operand, /, *, to: str, out: str = ...) -> Var:
        """x rounded to dtype `to` by one scale and dequantised; gradients pass as if it were not, inside its range."""
    def fake_quantize_weight(
        self,
        weight: Operand,
        /,
        *,
        to: str,
        most: float,
        block: int = ...,
        out: str = ...,
    ) -> Var:
        """a weight rounded to dtype `to` and dequantised, with a scale per output, or per `block` inputs of one, that
        makes its largest magnitude `most`; gradients pass as if it were not."""
    def linear_int8(
        self,
        x: Operand,
        weight: Operand,
        x_scale: Operand,
        weight_scale: Operand,
        bias: Operand = ...,
        /,
        *,
        out: str = ...,
    ) -> Var:
        """linear of quantised numbers: x, W i8[in, out], scale of x, scales of W [out], bias."""
    def linear_int8_dynamic(
        self,
        x: Operand,
        weight: Operand,
        scale: Operand,
        bias: Operand = ...,
        /,
        *,
        out: str = ...,
    ) -> Var:
        """linear of x, quantised at run time over its whole range, and W i8[in, out]; scales of W [out], bias."""
    def linear_blocks(
        self,
        x: Operand,
        weight: Operand,
        scale: Operand,
        bias: Operand = ...,
        /,
        *,
        bits: int,
        block: int,
        out: str = ...,
    ) -> Var:
        """linear with W as packed blocks of `bits` bits, u8[out, in / block, bytes]; scales [out, in / block], bias."""
    def block_scales(self, numbers: Operand, scale: Operand, /, *, out: str = ...) -> Var:
        """scales of NVFP4's blocks as f32: e4m3 numbers times the scale of their tensor."""
    def fake_quantize_nvfp4(self, x: Operand, scale: Operand, /, *, out: str = ...) -> Var:
        """x rounded to NVFP4 along its last axis, under a given scale of the tensor, and dequantised; gradients pass as
        if it were not."""
    def fake_quantize_blocks(self, weight: Operand, /, *, format: str, out: str = ...) -> Var:
        """a weight rounded to NVFP4 or MXFP4 (`nvfp4`, `mxfp4`) along its last axis and dequantised; gradients pass as
        if it were not."""
    def experts(
        self,
        x: Operand,
        gates: Operand,
        w1: Operand,
        w3: Operand,
        w2: Operand,
        /,
        *,
        per_token: float,
        out: str = ...,
    ) -> Var:
        """sum over experts e of gates[..., e] * w2[e](silu(w1[e] x) * w3[e] x), w1 and w3 [E, F, D], w2 [E, D, F]; on
        average `per_token` gates per token are not zero."""
    def expert(
        self,
        onto: Operand,
        x: Operand,
        gate: Operand,
        w1: Operand,
        w3: Operand,
        w2: Operand,
        /,
        *,
        out: str = ...,
    ) -> Var:
        """onto + gate * w2(silu(w1 x) * w3 x), to be computed only for tokens with a gate; flops count all tokens."""
    def gelu_experts(
        self,
        x: Operand,
        gates: Operand,
        w1: Operand,
        b1: Operand,
        w2: Operand,
        b2: Operand,
        /,
        *,
        per_token: float,
        out: str = ...,
    ) -> Var:
        """sum over experts e of gates[..., e] * (w2[e] gelu(w1[e] x + b1[e]) + b2[e]), w1 [E, F, D], w2 [E, D, F], GELU
        by tanh; on average `per_token` gates per token are not zero."""
    def gelu_expert(
        self,
        onto: Operand,
        x: Operand,
        gate: Operand,
        w1: Operand,
        b1: Operand,
        w2: Operand,
        b2: Operand,
        /,
        *,
        out: str = ...,
    ) -> Var:
        """onto + gate * (w2 gelu(w1 x + b1) + b2), to be computed only for tokens with a gate; flops count all
        tokens."""
    def pool_choice(
        self,
        scores: Operand,
        chances: Operand,
        threshold: Operand,
        capacity: Operand,
        /,
        *,
        momentum: float,
        out: str = ...,
    ) -> Var:
        """gates [..., E] of experts that choose among all tokens, whatever sample they are of: each expert keeps the
        scores of as many of its best tokens as have a chance above its threshold [E]; the others are 0. In training it
        keeps capacity / E of all tokens, and the threshold moves towards the least chance of as many by the fraction 1
        - momentum."""
    def selective_scan(
        self,
        x: Operand,
        delta: Operand,
        a: Operand,
        b: Operand,
        c: Operand,
        /,
        *,
        out: str = ...,
    ) -> Var:
        """y [B, L, E] from x and delta [B, L, E], a [E, N] (negative), b and c [B, L, N]: the state h of channel e is
        exp(delta a) h + delta b x from token to token, and y is the sum of c h over N."""
    def reflect_pad(self, x: Operand, /, *, size: int | Sequence[int], out: str = ...) -> Var:
        """x with `size` more elements at both ends of every spatial axis, which mirror those inside."""
    def resize(self, x: Operand, /, *, size: int | Sequence[int], mode: str, out: str = ...) -> Var:
        """x [B, C, H, W] with `size` rows and columns, by means over areas, bilinear, bilinear with aligned corners,
        antialiased bilinear or bicubic interpolation (`mode`)."""
    def upsample_nearest(self, x: Operand, /, *, factor: int | Sequence[int], out: str = ...) -> Var:
        """x with each element repeated `factor` times along every spatial axis."""
    def avg_pool(self, x: Operand, /, *, size: int | Sequence[int], out: str = ...) -> Var:
        """mean of each window of `size` elements along every spatial axis; windows tile x."""
    def max_pool(self, x: Operand, /, *, size: int | Sequence[int], out: str = ...) -> Var:
        """maximum of each window of `size` elements along every spatial axis; windows tile x."""
    def grid_sample(self, x: Operand, grid: Operand, /, *, outside: str, out: str = ...) -> Var:
        """x [B, C, H, W] read at points [B, h, w, 2] (column, row) by bilinear interpolation, -1 and 1 being the outer
        edges of the image; outside are zeros, the nearest pixel (border) or the image mirrored at its edges
        (reflection)."""
    def posterior_mean(
        self,
        x: Operand,
        data: Operand,
        level: Operand,
        group: Operand = ...,
        /,
        *,
        extra: float = ...,
        out: str = ...,
    ) -> Var:
        """mean of data [N, ...] for each of x [B, ...], weighted by how likely noise of that level [B] leads to x:
        normal, or that of a Poisson flow in `extra` further dimensions; data of another group [N] does not count, where
        x has the groups of the first B."""
    def drop_path(self, x: Operand, rate: Operand, /, *, out: str = ...) -> Var:
        """in training, zeroes each sample of x [B, ...] with probability `rate` and scales the others by 1 / (1 -
        rate)."""
    def training_noise(self, x: Operand, /, *, mode: str, scale: float | None, out: str = ...) -> Var:
        """x; in training plus `scale` times standard noise, if `mode` is normal or gumbel, or, if it is relative, times
        uniform numbers between 1 - `scale` and 1 + `scale`."""
    def training_passes(self, count: Operand, /, *, otherwise: float, out: str = ...) -> Var:
        """how often the network has run in training: `count` [1], which each of these runs then raises by 1; in
        inference the number `otherwise`."""
    def set_from_data(self, weight: Operand, value: Operand, passes: Operand, /, *, out: str = ...) -> Var:
        """a weight, which the pass of training in which `passes` [1] is 0 first overwrites with `value`."""
    def noted(
        self,
        x: Operand,
        history: Operand,
        counts: Operand,
        index: Operand,
        /,
        *,
        momentum: float,
        out: str = ...,
    ) -> Var:
        """x [B]; in training the history [S] moves at each index [B] towards the square of x, by the fraction 1 -
        momentum, and the counts [S] there rise by 1."""
    def exchanged(self, x: Operand, memory: Operand, place: Operand, /, *, out: str = ...) -> Var:
        """rows of memory [N, ...] at places [B], and rows of x [B, ...] at places below 0; in training each row of x is
        then stored at its place, one after another."""
    def running_mean(self, x: Operand, mean: Operand, /, *, momentum: float, out: str = ...) -> Var:
        """the mean [1] of earlier x [B, ...], or [...], that over the batch; in training it then moves towards that of
        x by the fraction 1 - momentum."""
