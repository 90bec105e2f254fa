"""Linear maps, convolutions and norms with every default written out.

Parameters are float32; a layer casts them to its input's dtype. Norms compute in float32. Leading axes are
free (`*b`): frames are just another batch axis for everything here. Weights are laid out for XLA
(`(in, out)`, `h w in out`); `weights/` turns them around.
"""

from enum import Enum

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from magicvideo_jax.models.bind import Keys
from magicvideo_jax.parallel.constraints import gather_parameter


class Linear(nnx.Module):
    """`x W + b`. Fresh weights keep variance (LeCun), or are zeros."""

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
        """The result cut in two along the channels. Each half is a product of its own: XLA:CPU takes three times as
        long to compute both in one and cut that."""
        middle = self.kernel.shape[-1] // 2
        return self._columns(x, slice(None, middle)), self._columns(x, slice(middle, None))

    def _columns(self, x: Float[Array, "*b i"], chosen: slice) -> Float[Array, "*b o"]:
        rows = x.reshape(-1, x.shape[-1])  # XLA:CPU fuses the bias of a plain matrix product only
        y = rows @ gather_parameter(self.kernel[...].astype(x.dtype))[:, chosen]
        if hasattr(self, "bias"):
            y = y + broadcast_channels(self.bias[chosen], y)
        return y.reshape(*x.shape[:-1], -1)


class Padding(Enum):
    """Rows and columns of zeros (before, after) around an image."""

    NONE = (0, 0)
    EVEN = (1, 1)
    END = (0, 1)


class Conv(nnx.Module):
    """A square 2-D convolution: `size` 3 with stride 1 keeps h and w."""

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
        if jax.default_backend() == "gpu":
            # cuDNN's order. Unless the kernel is turned here, XLA turns its average and its moments in each step, too.
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


class GroupNorm(nnx.Module):
    """Zero mean, unit variance over (h, w) and the channels of a group; every image by itself."""

    def __init__(self, channels: int, *, groups: int, eps: float):
        self.scale, self.bias = nnx.Param(jnp.ones(channels)), nnx.Param(jnp.zeros(channels))
        self.groups, self.eps = groups, eps

    def __call__(self, x: Float[Array, "*b h w c"]) -> Float[Array, "*b h w c"]:
        # Sums over h, w first, over a group's channels after, and one scale and one shift per image and channel:
        # less to move than a reshaped copy of x. Two passes, because E[x^2] - E[x]^2 cancels.
        y = x.astype(jnp.float32).reshape(*x.shape[:-3], -1, x.shape[-1])
        rows = y.shape[-2]
        y = y - broadcast_rows(self._over_group(sum_rows(y) / rows), rows)
        variance = self._over_group(sum_rows(jnp.square(y)) / rows)
        scale = broadcast_channels(self.scale[...], variance) * jax.lax.rsqrt(variance + self.eps)
        y = y * broadcast_rows(scale, rows) + broadcast_channels(self.bias[...], y)
        return y.reshape(x.shape).astype(x.dtype)

    def _over_group(self, of_channels: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
        """The mean over the channels of a group, for each of them."""
        grouped = of_channels.reshape(*of_channels.shape[:-1], self.groups, -1)
        return jnp.broadcast_to(grouped.mean(-1, keepdims=True), grouped.shape).reshape(
            of_channels.shape
        )


class LayerNorm(nnx.Module):
    """Zero mean, unit variance over the last axis."""

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
    """Rows of a table; fresh ones have this standard deviation."""

    def __init__(self, rows: int, width: int, *, keys: Keys, std: float):
        self.embedding = nnx.Param(std * jax.random.normal(keys(), (rows, width)))

    def __call__(self, ids: Int[Array, "*b"]) -> Float[Array, "*b d"]:
        return self.embedding[ids]


def gelu(x: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """x Phi(x), exact. By erf and not by erfc as `jax.nn.gelu` has it: half the time on CPU."""
    return 0.5 * x * (1 + jax.lax.erf(x * 2**-0.5))


def upsample(x: Float[Array, "*b h w c"]) -> Float[Array, "*b h2 w2 c"]:
    """Every pixel twice along h and w (nearest neighbour)."""
    *b, h, w, c = x.shape
    doubled = jnp.broadcast_to(x[..., :, None, :, None, :], (*b, h, 2, w, 2, c))
    return doubled.reshape(*b, 2 * h, 2 * w, c)


def sinusoids(value: Float[Array, "b"], width: int) -> Float[Array, "b d"]:
    """[cos(v w_i), sin(v w_i)], w_i = 10000^(-i / (d/2)): DDPM's embedding in Stable Diffusion's order; float32."""
    frequency = jnp.exp(
        -jnp.log(10_000.0) * jnp.arange(width // 2, dtype=jnp.float32) / (width // 2)
    )
    angle = value.astype(jnp.float32)[:, None] * frequency[None]
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)


class EmbeddingMLP(nnx.Module):
    """`Linear(SiLU(Linear(sinusoids(v))))` in float32: the embedding of diffusion time, and of the frame rate."""

    def __init__(self, inputs: int, width: int, *, keys: Keys, zero: bool = False):
        self.linear_1 = Linear(inputs, width, keys=keys)
        self.linear_2 = Linear(width, width, keys=keys, zero=zero)
        self.inputs = inputs

    def __call__(self, value: Float[Array, "b"]) -> Float[Array, "b d"]:
        return self.linear_2(jax.nn.silu(self.linear_1(sinusoids(value, self.inputs))))


def broadcast_channels(
    vector: Float[Array, "c"], like: Float[Array, "*b c"]
) -> Float[Array, "*b c"]:
    """A vector of channels, repeated over everything else of `like` in its dtype."""
    return broadcast_rows(vector.astype(like.dtype), like.size // like.shape[-1]).reshape(
        like.shape
    )


# Both are products with ones, and each other's gradients. XLA makes a plain broadcast of the first; the second keeps
# XLA:CPU from fusing what is summed into a loop of long strides: a training step takes two thirds of the time.
def broadcast_rows(vector: Float[Array, "*b c"], rows: int) -> Float[Array, "*b r c"]:
    """A vector, once in every row."""
    ones = jnp.ones((rows,), vector.dtype)
    return jnp.einsum("r,...c->...rc", ones, vector, precision=jax.lax.Precision.HIGHEST)


def sum_rows(x: Float[Array, "*b r c"]) -> Float[Array, "*b c"]:
    """The sum over rows."""
    ones = jnp.ones((x.shape[-2],), x.dtype)
    return jnp.einsum("r,...rc->...c", ones, x, precision=jax.lax.Precision.HIGHEST)


def _weight(shape: tuple[int, ...], fan_in: int, *, keys: Keys, zero: bool) -> Float[Array, "..."]:
    # Three times the variance of PyTorch's default, with which a signal fades along a VAE's convolutions that no norm
    # precedes: colours, which vary less than brightness, were learned last or never.
    bound = (3 / fan_in) ** 0.5
    return (
        jnp.zeros(shape) if zero else jax.random.uniform(keys(), shape, minval=-bound, maxval=bound)
    )
