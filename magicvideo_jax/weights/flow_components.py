"""The networks of latent flow diffusion as parts of weights: see `ComponentSpec`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from magicvideo_jax.core.dataclass_dict import from_plain, to_plain
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.paths import local_path
from magicvideo_jax.core.types import Params
from magicvideo_jax.models.bind import Network, bind
from magicvideo_jax.models.lfdm.class_vectors import ClassVectors, ClassVectorsConfig
from magicvideo_jax.models.lfdm.flow_unet import FlowUNet, FlowUNetConfig, FlowUpsampling
from magicvideo_jax.models.lfdm.latent_flow import LatentFlow, LatentFlowConfig
from magicvideo_jax.models.vgg19 import VGG19
from magicvideo_jax.weights.components import ComponentSpec, ComponentWeights
from magicvideo_jax.weights.numpy_files import open_npz
from magicvideo_jax.weights.param_sources import GivenParams, TensorParams, without_extras
from magicvideo_jax.weights.tables.known_extras import KnownExtra
from magicvideo_jax.weights.tables.lfdm_keys import FLOW_UNET_TABLES, LATENT_FLOW_TABLE
from magicvideo_jax.weights.tables.naming import Table, TableRow
from magicvideo_jax.weights.tensor_files import open_tensors


def _spec(
    name: str,
    words: str,
    kind: type,
    network: Callable[[Any], Network],
    table: Table,
    extras: tuple[KnownExtra, ...] = (),
) -> ComponentSpec[Any]:
    return ComponentSpec(
        folder=name,
        words=words,
        library=("lfdm", kind.__name__),
        stem=name,
        older=name,
        read=lambda content: from_plain(kind, content),
        write=to_plain,
        network=cache(network),
        table=table,
        extras=extras,
    )


LATENT_FLOW = _spec(
    "latent_flow",
    "auto-encoder of flow",
    LatentFlowConfig,
    lambda config: bind(lambda keys: LatentFlow(config, keys=keys)),
    table=LATENT_FLOW_TABLE,
)
FLOW_UNET = _spec(
    "flow_unet",
    "U-Net of flow",
    FlowUNetConfig,
    lambda config: bind(lambda keys: FlowUNet(config, keys=keys)),
    table=FLOW_UNET_TABLES[FlowUpsampling.DECONVOLUTION],
)
CLASS_VECTORS = _spec(
    "class_vectors",
    "class vectors",
    ClassVectorsConfig,
    lambda config: bind(lambda keys: ClassVectors(config, keys=keys)),
    table=(),
)


@dataclass(frozen=True)
class PerceptualConfig:
    """VGG-19, which has one size."""


PERCEPTUAL = _spec(
    "perceptual",
    "VGG-19",
    PerceptualConfig,
    lambda _: bind(lambda keys: VGG19(keys=keys)),
    table=(TableRow(r"features\.conv(\d+)", r"features.\1"),),
    extras=(KnownExtra(r"classifier\..*"), KnownExtra(r"features\.3[024]\..*")),
)
FLOW_PARTS = (LATENT_FLOW, FLOW_UNET, CLASS_VECTORS, PERCEPTUAL)
FLOW_FOLDERS = {kind.folder for kind in FLOW_PARTS}


def open_perceptual(path: str, *, argument: str) -> ComponentWeights[Any]:
    """torchvision's VGG-19, of which the layers after relu5_1 are left out.

    Errors: `UserError` naming `argument` or the file, and what does not fit.
    """
    file = local_path(path, argument=argument)
    if not file.is_file():
        raise UserError(f"{argument}={path}: no such file")
    tensors, _ = without_extras(open_tensors(file), PERCEPTUAL.extras, where=str(file))
    source = TensorParams(PERCEPTUAL.table, tensors, str(file))
    part = ComponentWeights(PERCEPTUAL, PerceptualConfig(), {}, source)
    part.check()
    return part


def open_class_vectors(
    path: str, names: Sequence[str], width: int, *, argument: str
) -> ComponentWeights[Any]:
    """Vectors of classes from an .npz file with one for each name.

    Errors: `UserError` naming `argument`, and a name without a vector of `width` numbers.
    """
    file = local_path(path, argument=argument)
    if not file.is_file():
        raise UserError(f"{argument}={path}: no such file")
    arrays = open_npz(file)
    for name in names:
        if name not in arrays:
            raise UserError(f"{argument}={path}: no vector of the class {name!r}: add it")
        if arrays[name].shape != (width,):
            raise UserError(
                f"{argument}={path}: {name!r} has shape {arrays[name].shape}: give {width} numbers, "
                "config.model.flow_unet.condition"
            )
    config = ClassVectorsConfig(len(names), width)
    shapes = CLASS_VECTORS.network(config).shapes

    def read() -> Params:
        rows = np.stack([arrays[name].read() for name in names])
        return {"embedding": rows.astype(np.float32)}

    source = GivenParams(shapes, read, f"{argument}={path}")
    return ComponentWeights(CLASS_VECTORS, config, CLASS_VECTORS.write(config), source)
