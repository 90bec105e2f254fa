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
from magicvideo_jax.models.group_norm import Elementwise, group_norm
from magicvideo_jax.models.layer_norm import layer_norm
from magicvideo_jax.models.remat import keep_product
from magicvideo_jax.models.rows import add_bias, broadcast_channels
from magicvideo_jax.parallel.constraints import cast_kernel, gather_parameter
from magicvideo_jax.runtime.traced_gpu import is_traced_for_gpu


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
        return keep_product(y, inputs=x.shape[-1]).reshape(*x.shape[:-1], -1)


def project(x: Float[Array, "*b i"], *layers: Linear, heads: int) -> list[Float[Array, "*b n d"]]:
    """Outputs of linear layers of one width without biases, divided into heads.

    For GPUs they are slices of one product, which reads x once, as does its gradient: for kernels
    that read that product whole. XLA would copy the slices for others.
    """
    if x.dtype == jnp.float32 or not is_traced_for_gpu():
        return [layer(x).reshape(*x.shape[:-1], heads, -1) for layer in layers]
    kernels = [gather_parameter(layer.kernel[...].astype(x.dtype)) for layer in layers]
    outputs = x.reshape(-1, x.shape[-1]) @ jnp.concatenate(kernels, axis=1)
    outputs = outputs.reshape(*x.shape[:-1], len(layers), -1)
    outputs = keep_product(outputs, inputs=x.shape[-1])
    outputs = outputs.reshape(*outputs.shape[:-1], heads, -1)
    parts = jax.lax.split(outputs, [1] * len(layers), axis=x.ndim - 1)
    return [jnp.squeeze(part, -3) for part in parts]


class Padding(Enum):
    """Zero padding of an image (before, after) along h and w."""

    NONE = (0, 0)
    EVEN = (1, 1)
    END = (0, 1)
    THREE = (3, 3)


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
        images = x.reshape(-1, *x.shape[-3:])
        kernel = gather_parameter(cast_kernel(self.kernel[...], x.dtype))
        y = jax.lax.conv_general_dilated(
            images,
            kernel,
            window_strides=(self.stride, self.stride),
            padding=(self.padding.value, self.padding.value),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        if hasattr(self, "bias"):
            y = add_bias(y, self.bias[...])
        return keep_product(y, inputs=x.shape[-1]).reshape(*x.shape[:-3], *y.shape[-3:])


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
        y = y + broadcast_channels(self.bias[...], y)
        return keep_product(y, inputs=c).reshape(b, t, h, w, -1)


class GroupNorm(nnx.Module):
    """Group normalisation over (h, w) and the channels of a group, for each image separately, or
    with `over_frames` over (t, h, w), for each clip."""

    def __init__(self, channels: int, *, groups: int, eps: float, over_frames: bool = False):
        self.scale, self.bias = nnx.Param(jnp.ones(channels)), nnx.Param(jnp.zeros(channels))
        self.groups, self.eps, self.over_frames = groups, eps, over_frames

    def __call__(
        self, x: Float[Array, "*b h w c"], activation: Elementwise | None = None
    ) -> Float[Array, "*b h w c"]:
        """Normalise, then apply an elementwise activation."""
        images = x.shape[:-4] if self.over_frames else x.shape[:-3]
        rows = x.reshape(*images, -1, x.shape[-1])
        y = group_norm(
            rows,
            self.scale[...],
            self.bias[...],
            groups=self.groups,
            eps=self.eps,
            activation=activation,
        )
        return y.reshape(x.shape)


class LayerNorm(nnx.Module):
    """Layer normalisation over the last axis."""

    def __init__(self, channels: int, *, eps: float = 1e-5):
        self.scale, self.bias = nnx.Param(jnp.ones(channels)), nnx.Param(jnp.zeros(channels))
        self.eps = eps

    def __call__(self, x: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
        return layer_norm(x, self.scale[...], self.bias[...], eps=self.eps)


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


def _weight(shape: tuple[int, ...], fan_in: int, *, keys: Keys, zero: bool) -> Float[Array, "..."]:
    # Three times the variance of PyTorch's default, with which a signal fades along those
    # convolutions of a VAE that follow no norm: colours, which vary less than brightness, were
    # learned last or never.
    bound = (3 / fan_in) ** 0.5
    return (
        jnp.zeros(shape) if zero else jax.random.uniform(keys(), shape, minval=-bound, maxval=bound)
    )
