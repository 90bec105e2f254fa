"""Networks whose features are compared in evaluation, with weights that the user brings.

A name such as FVD belongs to one set of weights. What was loaded is known by a checksum, and weights that nobody knows
are called by theirs.
"""

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from magicvideo_jax.core.crc32c import crc32c
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.paths import local_path
from magicvideo_jax.core.tree import flatten, unflatten
from magicvideo_jax.core.types import Params
from magicvideo_jax.models.bind import Network, bind
from magicvideo_jax.models.c3d import C3D, C3DConfig
from magicvideo_jax.models.i3d import I3D, I3DConfig
from magicvideo_jax.models.inception import InceptionConfig, InceptionV3
from magicvideo_jax.weights.match import match
from magicvideo_jax.weights.norm_folding import SCALE, fold_norms, with_norms
from magicvideo_jax.weights.numpy_files import NPZ, open_npz
from magicvideo_jax.weights.param_sources import without_extras
from magicvideo_jax.weights.streaming import check_finite
from magicvideo_jax.weights.tables.c3d_keys import C3D_LAYERS, C3D_LEAVES, C3D_TABLE
from magicvideo_jax.weights.tables.i3d_keys import (
    I3D_EXTRAS,
    I3D_FINGERPRINTS,
    I3D_PORT_TABLE,
    I3D_TABLE,
    I3D_TENSORFLOW_LEAVES,
    I3D_TENSORFLOW_TABLE,
)
from magicvideo_jax.weights.tables.inception_keys import (
    INCEPTION_EXTRAS,
    INCEPTION_OTHERS,
    INCEPTION_SHA256,
    INCEPTION_TABLE,
)
from magicvideo_jax.weights.tables.known_extras import KnownExtra, name_of_kind
from magicvideo_jax.weights.tables.naming import Table, name_of, renamed
from magicvideo_jax.weights.tensor_bundles import find_bundle, open_bundle
from magicvideo_jax.weights.tensor_files import open_tensors
from magicvideo_jax.weights.tensors import Stored, Tensors, changed

GRAPH_EPS = 1e-3
"""What the published TensorFlow graphs of I3D and Inception add to variances."""


class FeatureNetwork(NamedTuple):
    """A network with its weights, ready to be applied."""

    apply: Callable[..., Any]
    """`apply(params, inputs)` gives one row of features for each input; see the module in `models/`."""
    params: Params
    fingerprint: str
    """Checksum of the last layer's bias, eight hexadecimal digits."""
    known: str | None
    """Name of the published weights, None for others."""
    words: str
    """One line on network, weights and eps, for tables of results."""


class KeyFamily(NamedTuple):
    """The keys of one program's files."""

    marker: str
    """End of a key by which a file is known; what stands before it is a prefix of all its keys."""
    table: Table
    file_key: Callable[[str], str] = str
    """Turns keys of the table into those of the file."""


@dataclass(frozen=True)
class FeatureSpec:
    """A network of `FEATURE_NETWORKS`: how it is built, and its files."""

    words: str
    families: tuple[KeyFamily, ...]
    network: Callable[[int], Network]
    """The network with so many classes."""
    last: str
    """Layer that gives the classes, whose bias identifies the weights."""
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    """Names of published weights by fingerprint."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Names of published weights by the beginning of their file's SHA-256."""
    others: tuple[tuple[str, str], ...] = ()
    """Keys of networks that are taken for this one, as patterns, and what they are."""
    extras: tuple[KnownExtra, ...] = ()
    without_norm: tuple[str, ...] = ()
    """Layers before the last that no norm follows."""


FEATURE_NETWORKS = {
    "i3d": FeatureSpec(
        words="I3D",
        families=(
            KeyFamily("Conv3d_1a_7x7.conv3d.weight", I3D_TABLE),
            KeyFamily("conv3d_1a_7x7.conv3d.weight", I3D_PORT_TABLE),
            KeyFamily(
                "Conv3d_1a_7x7/conv_3d/w",
                I3D_TENSORFLOW_TABLE,
                lambda key: renamed(key, I3D_TENSORFLOW_LEAVES),
            ),
        ),
        network=lambda classes: bind(lambda _: I3D(I3DConfig(classes))),
        last="logits",
        fingerprints=I3D_FINGERPRINTS,
        extras=I3D_EXTRAS,
    ),
    "inception": FeatureSpec(
        words="Inception V3",
        families=(KeyFamily("Mixed_7c.branch_pool.conv.weight", INCEPTION_TABLE),),
        network=lambda classes: bind(lambda _: InceptionV3(InceptionConfig(classes))),
        last="fc",
        files=INCEPTION_SHA256,
        others=INCEPTION_OTHERS,
        extras=INCEPTION_EXTRAS,
    ),
    "c3d": FeatureSpec(
        words="C3D",
        families=(
            KeyFamily("conv1a/W", C3D_TABLE, lambda key: renamed(key, C3D_LEAVES)),
            KeyFamily("conv1a.weight", C3D_TABLE),
        ),
        network=lambda classes: bind(lambda _: C3D(C3DConfig(classes))),
        last="fc8",
        without_norm=C3D_LAYERS,
    ),
}
"""The networks by the name that a command line gives them."""


def load_feature_network(
    kind: str, path: str | Path, *, argument: str, eps: float = GRAPH_EPS
) -> FeatureNetwork:
    """Load a network of `FEATURE_NETWORKS` from a file of any family of keys that it lists.

    `eps` is what batch norms add to variances. Errors: `UserError` naming `argument`, or the file and the tensors that
    do not fit, in the file's own names.
    """
    spec, file = FEATURE_NETWORKS[kind], local_path(path, argument=argument)
    tensors, _ = without_extras(_open(file), spec.extras, where=str(file))
    family, prefix = _family_of(spec, tensors, f"{argument}={path}")

    def file_key(key: str) -> str:
        return prefix + family.file_key(key)

    bias = file_key(name_of(family.table, f"{spec.last}.bias", rank=1).key)
    if bias not in tensors or len(tensors[bias].shape) != 1:
        raise UserError(f"{file}: no vector {bias}, so it is no whole {spec.words}")
    network = spec.network(tensors[bias].shape[0])
    stored = with_norms(flatten(network.shapes), without=(spec.last, *spec.without_norm))
    arrays = {}
    for one in match(
        family.table, stored, tensors, where=str(file), may_be_missing=(SCALE,), file_key=file_key
    ):
        array = one.layout.to_ours(one.tensor.read()).astype(np.float32)
        check_finite(array, f"{file}: {one.key}")
        arrays[one.path] = array
    fingerprint = f"{crc32c(arrays[f'{spec.last}.bias'].astype('<f4').tobytes()):08x}"
    known = spec.fingerprints.get(fingerprint) or _known_file(spec, file)
    has_norms = len(stored) > len(flatten(network.shapes))
    words = f"{known or f'{spec.words} of unknown weights'} (crc {fingerprint}"
    words += f", eps {eps:g})" if has_norms else ")"
    params = {path: jnp.asarray(x) for path, x in fold_norms(arrays, eps=eps).items()}
    return FeatureNetwork(network.apply, unflatten(params), fingerprint, known, words)


def _known_file(spec: FeatureSpec, file: Path) -> str | None:
    """Name of the published file that this one is, byte for byte."""
    if not spec.files or not file.is_file():
        return None
    with file.open("rb") as reading:
        digest = hashlib.file_digest(reading, "sha256").hexdigest()
    return next((name for start, name in spec.files.items() if digest.startswith(start)), None)


def _family_of(spec: FeatureSpec, tensors: Tensors, name: str) -> tuple[KeyFamily, str]:
    """The family of keys that a file has, and their prefix. Errors: `UserError` that begins with `name`."""
    if other := name_of_kind(tensors, spec.others):
        raise UserError(f"{name}: {other}")
    for family in spec.families:
        for key in tensors:
            prefix = key.removesuffix(family.marker)
            if prefix != key and not prefix[-1:].isalnum():
                return family, prefix
    there = ", ".join(sorted(tensors)[:3]) or "none at all"
    markers = ", ".join(family.marker for family in spec.families)
    raise UserError(f"{name}: no {spec.words}: its keys are {there}; expected one of {markers}")


def _open(file: Path) -> Tensors:
    """The tensors of a weight file of any form."""
    if (index := find_bundle(file)) is not None:
        return _vectors(open_bundle(index))
    if file.suffix.lower() == NPZ:
        return open_npz(file)
    if file.is_dir():
        raise UserError(
            f"{file}: no .index of TensorFlow's variables in it; give a file of weights"
        )
    return open_tensors(file)


def _vectors(tensors: Tensors) -> Tensors:
    """The same tensors, with norms of shape (1, 1, 1, 1, c), as TensorFlow has them, as vectors."""

    def vector(tensor: Stored) -> Stored:
        size = math.prod(tensor.shape)
        if len(tensor.shape) < 5 or tensor.shape[-1] != size:
            return tensor
        return changed(tensor, (size,), np.ravel)

    return {key: vector(tensor) for key, tensor in tensors.items()}
