"""Linear layers, convolutions and norms that rely on no library default.

Parameters are float32; layers cast them to the type of their input. Norms compute in float32. All
leading axes `*b` are batch axes, frames included. Kernels have XLA's layouts, `(in, out)` and `h w
in out`; `weights/` transposes those of files.
"""

from enum import Enum

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from magicvideo_jax.models.bind import Keys
from magicvideo_jax.parallel.constraints import gather_parameter
from magicvideo_jax.runtime.traced_gpu import compute_capability


class Linear(nnx.Module):
    """Linear layer `x W + b`, initialised to keep the variance or to zeros."""

    def __init__(
        self, inputs: int, outputs: int, *, keys: Keys, bias: bool = True, zero: bool = False
    ):
        self.kernel = nnx.Param(_weight((inputs, outputs), inputs, keys=keys, zero=zero))
        if bias:
            self.bias = nnx.Param(jnp.zeros(outputs))

    def __call__(self, x: Float[Array, "*b i"]) -> Float[Array, "*b o"]:
        return self._columns(x, slice(None))

    def halves(
        self, x: Float[Array, "*b i"]
    ) -> tuple[Float[Array, "*b o2"], Float[Array, "*b o2"]]:
        """Both halves of the output channels.

        They are separate products, because XLA:CPU takes three times as long for one product and a
        split.
        """
        middle = self.kernel.shape[-1] // 2
        return self._columns(x, slice(None, middle)), self._columns(x, slice(middle, None))

    def _columns(self, x: Float[Array, "*b i"], columns: slice) -> Float[Array, "*b o"]:
        rows = x.reshape(-1, x.shape[-1])  # XLA:CPU fuses a bias only with 2-D products
        y = rows @ gather_parameter(self.kernel[...].astype(x.dtype))[:, columns]
        if hasattr(self, "bias"):
            y = y + broadcast_channels(self.bias[columns], y)
        return y.reshape(*x.shape[:-1], -1)


class Padding(Enum):
    """Zero padding of an image (before, after) along h and w."""

    NONE = (0, 0)
    EVEN = (1, 1)
    END = (0, 1)


class Conv(nnx.Module):
    """2-D convolution with a square kernel. By default it keeps h and w."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        keys: Keys,
        size: int = 3,
        stride: int = 1,
        padding: Padding = Padding.EVEN,
        bias: bool = True,
        zero: bool = False,
    ):
        self.kernel = nnx.Param(
            _weight((size, size, inputs, outputs), size * size * inputs, keys=keys, zero=zero)
        )
        if bias:
            self.bias = nnx.Param(jnp.zeros(outputs))
        self.stride, self.padding = stride, padding if size > 1 else Padding.NONE

    def __call__(self, x: Float[Array, "*b h w i"]) -> Float[Array, "*b h2 w2 o"]:
        images, kernel, order = (
            x.reshape(-1, *x.shape[-3:]),
            gather_parameter(self.kernel[...].astype(x.dtype)),
            "HWIO",
        )
        if compute_capability() is not None:
            # cuDNN's order. Without this transpose XLA would also transpose the EMA and the
            # moments in each step.
            kernel, order = jnp.transpose(kernel, (3, 0, 1, 2)), "OHWI"
        y = jax.lax.conv_general_dilated(
            images,
            kernel,
            window_strides=(self.stride, self.stride),
            padding=(self.padding.value, self.padding.value),
            dimension_numbers=("NHWC", order, "NHWC"),
        )
        if hasattr(self, "bias"):
            y = y + broadcast_channels(self.bias[...], y)
        return y.reshape(*x.shape[:-3], *y.shape[-3:])


class FrameConv(nnx.Module):
    """Convolution over `frames` frames, an odd number, at each pixel; zeros beyond the ends of a
    clip. Its kernel is `t h w in out` with h = w = 1.
    """

    def __init__(self, inputs: int, outputs: int, *, frames: int, keys: Keys, zero: bool = False):
        shape = (frames, 1, 1, inputs, outputs)
        self.kernel = nnx.Param(_weight(shape, frames * inputs, keys=keys, zero=zero))
        self.bias = nnx.Param(jnp.zeros(outputs))

    def __call__(self, x: Float[Array, "b t h w i"]) -> Float[Array, "b t h w o"]:
        b, t, h, w, c = x.shape
        kernel = gather_parameter(self.kernel[...].astype(x.dtype))[:, 0]
        around = kernel.shape[0] // 2
        y = jax.lax.conv_general_dilated(
            x.reshape(b, t, h * w, c),
            kernel,
            window_strides=(1, 1),
            padding=((around, around), (0, 0)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return (y + broadcast_channels(self.bias[...], y)).reshape(b, t, h, w, -1)


class GroupNorm(nnx.Module):
    """Group normalisation over (h, w) and the channels of a group, for each image separately, or
    with `over_frames` over (t, h, w), for each clip."""

    def __init__(self, channels: int, *, groups: int, eps: float, over_frames: bool = False):
        self.scale, self.bias = nnx.Param(jnp.ones(channels)), nnx.Param(jnp.zeros(channels))
        self.groups, self.eps, self.over_frames = groups, eps, over_frames

    def __call__(self, x: Float[Array, "*b h w c"]) -> Float[Array, "*b h w c"]:
        # Summing over (h, w) first, then over a group's channels, moves less memory than reshaping
        # x. Two passes, because E[x^2] - E[x]^2 suffers from cancellation.
        images = x.shape[:-4] if self.over_frames else x.shape[:-3]
        y = x.astype(jnp.float32).reshape(*images, -1, x.shape[-1])
        rows = y.shape[-2]
        y = y - broadcast_rows(self._over_group(sum_rows(y) / rows), rows)
        variance = self._over_group(sum_rows(jnp.square(y)) / rows)
        scale = broadcast_channels(self.scale[...], variance) * jax.lax.rsqrt(variance + self.eps)
        y = y * broadcast_rows(scale, rows) + broadcast_channels(self.bias[...], y)
        return y.reshape(x.shape).astype(x.dtype)

    def _over_group(self, per_channel: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
        """Mean over each group, repeated for its channels."""
        grouped = per_channel.reshape(*per_channel.shape[:-1], self.groups, -1)
        return jnp.broadcast_to(grouped.mean(-1, keepdims=True), grouped.shape).reshape(
            per_channel.shape
        )


class LayerNorm(nnx.Module):
    """Layer normalisation over the last axis."""

    def __init__(self, channels: int, *, eps: float = 1e-5):
        self.scale, self.bias = nnx.Param(jnp.ones(channels)), nnx.Param(jnp.zeros(channels))
        self.eps = eps

    def __call__(self, x: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
        y = x.astype(jnp.float32)
        y = y - y.mean(-1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + self.eps)
        return (
            y * broadcast_channels(self.scale[...], y) + broadcast_channels(self.bias[...], y)
        ).astype(x.dtype)


class Embedding(nnx.Module):
    """Embedding table, initialised with a normal distribution of standard deviation `std`."""

    def __init__(self, rows: int, width: int, *, keys: Keys, std: float):
        self.embedding = nnx.Param(std * jax.random.normal(keys(), (rows, width)))

    def __call__(self, ids: Int[Array, "*b"]) -> Float[Array, "*b d"]:
        return self.embedding[ids]


def gelu(x: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """Exact GELU, x Phi(x).

    It takes half as long on CPU as `jax.nn.gelu`, which uses erfc instead of erf.
    """
    return 0.5 * x * (1 + jax.lax.erf(x * 2**-0.5))


def upsample(x: Float[Array, "*b h w c"]) -> Float[Array, "*b h2 w2 c"]:
    """Nearest-neighbour upsampling by 2 along h and w."""
    *b, h, w, c = x.shape
    doubled = jnp.broadcast_to(x[..., :, None, :, None, :], (*b, h, 2, w, 2, c))
    return doubled.reshape(*b, 2 * h, 2 * w, c)


def sinusoids(value: Float[Array, "b"], width: int) -> Float[Array, "b d"]:
    """DDPM's sinusoidal embedding in Stable Diffusion's order, in float32.

    [cos(v w_i), sin(v w_i)],   w_i = 10000^(-i / (d/2))
    """
    frequency = jnp.exp(
        -jnp.log(10_000.0) * jnp.arange(width // 2, dtype=jnp.float32) / (width // 2)
    )
    angle = value.astype(jnp.float32)[:, None] * frequency[None]
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)


class EmbeddingMLP(nnx.Module):
    """Embedding of a number, `Linear(SiLU(Linear(sinusoids(v))))`, in float32: diffusion time or
    frame rate. With `condition` channels, a projection of so many numbers is added to the sinusoids.
    """

    def __init__(
        self, inputs: int, width: int, *, keys: Keys, zero: bool = False, condition: int = 0
    ):
        self.linear_1 = Linear(inputs, width, keys=keys)
        self.linear_2 = Linear(width, width, keys=keys, zero=zero)
        if condition:
            self.cond_proj = Linear(condition, inputs, keys=keys, bias=False, zero=True)
        self.inputs = inputs

    def __call__(
        self, value: Float[Array, "b"], condition: Float[Array, "b c"] | None = None
    ) -> Float[Array, "b d"]:
        h = sinusoids(value, self.inputs)
        if condition is not None:
            h = h + self.cond_proj(condition)
        return self.linear_2(jax.nn.silu(self.linear_1(h)))


def broadcast_channels(
    vector: Float[Array, "c"], like: Float[Array, "*b c"]
) -> Float[Array, "*b c"]:
    """Broadcast a vector of channels to the shape and type of `like`."""
    return broadcast_rows(vector.astype(like.dtype), like.size // like.shape[-1]).reshape(
        like.shape
    )


# Both are products with ones and each other's gradients. XLA simplifies the first to a broadcast.
# The second keeps XLA:CPU from fusing its input into a loop with long strides, which makes a
# training step a third faster.
def broadcast_rows(vector: Float[Array, "*b c"], rows: int) -> Float[Array, "*b r c"]:
    """Broadcast a vector to `rows` rows."""
    ones = jnp.ones((rows,), vector.dtype)
    return jnp.einsum("r,...c->...rc", ones, vector, precision=jax.lax.Precision.HIGHEST)


def sum_rows(x: Float[Array, "*b r c"]) -> Float[Array, "*b c"]:
    """Sum over rows."""
    ones = jnp.ones((x.shape[-2],), x.dtype)
    return jnp.einsum("r,...rc->...c", ones, x, precision=jax.lax.Precision.HIGHEST)


def _weight(shape: tuple[int, ...], fan_in: int, *, keys: Keys, zero: bool) -> Float[Array, "..."]:
    # Three times the variance of PyTorch's default, with which a signal fades along those
    # convolutions of a VAE that follow no norm: colours, which vary less than brightness, were
    # learned last or never.
    bound = (3 / fan_in) ** 0.5
    return (
        jnp.zeros(shape) if zero else jax.random.uniform(keys(), shape, minval=-bound, maxval=bound)
    )
