"""Features of clips by the networks whose weights the user brings: what a row of each is, and what it is made of.

    i3d         a clip       logits before the softmax, of frames as the protocol fits them
    inception   a frame      the last pool, of frames squashed by TensorFlow 1's bilinear resize
    c3d         a clip       probabilities of classes, of frames as TGANv2 prepares them
    clip        a frame      cosine with the caption: one number, of frames as CLIP's own preprocessing fits them

Products are float32 on every device: bfloat16, the default of TPUs, changes I3D's logits by 0.4 %.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from magicvideo_jax.core.crc32c import crc32c
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.paths import local_path
from magicvideo_jax.core.types import Params
from magicvideo_jax.data.tokenizer import CaptionTokenizer
from magicvideo_jax.evaluation.frame_fitting import fit_frames
from magicvideo_jax.evaluation.protocols import EvaluationProtocol
from magicvideo_jax.evaluation.resizing import c3d_frames, resize_tf1
from magicvideo_jax.models.c3d import C3D_FRAMES, C3D_SIDE
from magicvideo_jax.models.clip_vision import VISION_B_32, VISION_L_14, clip_images
from magicvideo_jax.models.i3d import I3D_MIN_FRAMES, I3D_SIDE
from magicvideo_jax.models.inception import INCEPTION_SIDE
from magicvideo_jax.runtime.compilation import jit
from magicvideo_jax.weights.clip_encoders import open_text_embedder, open_vision
from magicvideo_jax.weights.feature_networks import load_feature_network
from magicvideo_jax.weights.locate import locate
from magicvideo_jax.weights.numpy_files import open_npz

CLIPS_AT_ONCE = 4
"""Clips of one call of the compiled program; the last call is filled up."""

C3D_MEAN_FILE = "mean2.npz"
"""TGANv2's file with the mean of C3D's training clips, beside the weights."""

ClipFeatures = Float[np.ndarray, "b rows d"]


@dataclass(frozen=True)
class FeatureExtractor:
    """Features of clips by one network, and what is said of it beside every number."""

    extract: Callable[[UInt8[np.ndarray, "b t h w 3"], Sequence[str]], ClipFeatures]
    """Features of clips and their captions."""
    known: str | None
    """Name of published weights."""
    fingerprint: str
    """Checksum of the weights, eight hexadecimal digits."""
    words: str
    """The weights, and how frames are made for them."""
    reads_captions: bool = False
    is_fitted: bool = False
    """Whether the protocol says how frames are fitted, and not the network's own convention."""


def open_i3d(path: str, protocol: EvaluationProtocol, *, argument: str) -> FeatureExtractor:
    """I3D's logits. Errors: `UserError` for clips that are too short for it, and for weights that do not fit."""
    if protocol.frames < I3D_MIN_FRAMES:
        raise UserError(
            f"--frames={protocol.frames}: I3D takes {I3D_MIN_FRAMES} frames or more of a clip"
        )
    network = load_feature_network("i3d", path, argument=argument, eps=protocol.eps)

    def features(params: Params, clips: Array) -> Array:
        x = fit_frames(clips.astype(jnp.float32), I3D_SIDE, protocol)
        return network.apply(params, x * (2 / 255) - 1)[:, None]

    fit = f"{protocol.fit.value} to {I3D_SIDE}"
    if protocol.crop is not None:
        fit = f"centre {protocol.crop}, {fit}"
    return FeatureExtractor(
        _without_captions(features, network.params),
        network.known,
        network.fingerprint,
        f"{network.words}, {fit}",
        is_fitted=True,
    )


def open_inception(path: str, _: EvaluationProtocol, *, argument: str) -> FeatureExtractor:
    """Inception's pooled features of every frame. Errors: `UserError` for weights that do not fit."""
    network = load_feature_network("inception", path, argument=argument)

    def features(params: Params, clips: Array) -> Array:
        def of_clip(frames: Array) -> Array:
            x = resize_tf1(frames.astype(jnp.float32), INCEPTION_SIDE, INCEPTION_SIDE)
            return network.apply(params, (x - 128) / 128)

        return jax.lax.map(of_clip, clips)

    return FeatureExtractor(
        _without_captions(features, network.params),
        network.known,
        network.fingerprint,
        f"{network.words}, every frame, TF1 bilinear squash to {INCEPTION_SIDE}",
    )


def open_c3d(path: str, protocol: EvaluationProtocol, *, argument: str) -> FeatureExtractor:
    """C3D's probabilities. Errors: `UserError` for other clips than of 16 frames, for weights that do not fit, and
    without the mean of its training clips beside the weights."""
    if protocol.frames != C3D_FRAMES:
        raise UserError(f"--frames={protocol.frames}: C3D takes clips of {C3D_FRAMES} frames")
    network = load_feature_network("c3d", path, argument=argument)
    file = local_path(path, argument=argument).with_name(C3D_MEAN_FILE)
    mean = open_npz(file).get("mean")
    if mean is None or mean.shape != (3, C3D_FRAMES, 128, 171):
        raise UserError(
            f"{file}: no mean of 3 x {C3D_FRAMES} x 128 x 171: copy that of TGANv2 there"
        )
    offset = jnp.asarray(np.moveaxis(mean.read(), 0, -1), jnp.float32)

    def probabilities(params: Params, clips: Array) -> Array:
        x = c3d_frames(clips.astype(jnp.float32) / 127.5 - 1, params["mean"])
        return jax.nn.softmax(network.apply(params["network"], x))[:, None]

    return FeatureExtractor(
        _without_captions(probabilities, {"network": network.params, "mean": offset}),
        network.known,
        network.fingerprint,
        f"{network.words}, squash to {C3D_SIDE} with corners on corners, BGR less the mean of training clips",
    )


def open_clip_similarity(path: str, _: EvaluationProtocol, *, argument: str) -> FeatureExtractor:
    """CLIP's cosines of frames with captions. Errors: `UserError` for weights that do not fit, or have no tokenizer."""
    vision, notes = open_vision(path, argument=argument)
    text = open_text_embedder(path, argument=argument)[0]
    place = locate(path, argument=argument)
    folder = place if place.is_dir() else place.parent
    tokenize = CaptionTokenizer(folder, length=text.config.tokens)
    image_params, text_params = (part.load(part.network().shapes) for part in (vision, text))
    size = vision.config.size
    names = {VISION_B_32: "CLIP ViT-B/32", VISION_L_14: "CLIP ViT-L/14"}
    known = names.get(vision.config)

    def similarity(params: tuple[Params, Params], clips: Array, ids: Array) -> Array:
        caption = _unit(text.network().apply(params[1], ids))

        def of_clip(frames: Array) -> Array:
            x = clip_images(frames.astype(jnp.float32) / 127.5 - 1, size)
            return _unit(vision.network().apply(params[0], x))

        return jnp.einsum("b t e, b e -> b t", jax.lax.map(of_clip, clips), caption)[..., None]

    program = _program(similarity)
    params = (image_params, text_params)
    bias = np.asarray(image_params["post_layer_norm"]["bias"], "<f4")
    fingerprint = f"{crc32c(bias.tobytes()):08x}"

    def extract(clips: np.ndarray, captions: Sequence[str]) -> np.ndarray:
        return _in_batches(lambda *inputs: program(params, *inputs), clips, tokenize(captions))

    words = (
        f"{known or 'CLIP of an own size'} (crc {fingerprint})",
        "every frame",
        "cosine",
        *notes,
    )
    return FeatureExtractor(extract, known, fingerprint, ", ".join(words), reads_captions=True)


def _unit(x: Float[Array, "b e"]) -> Float[Array, "b e"]:
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def _without_captions(
    features: Callable[[Params, Array], Array], params: Params
) -> Callable[[np.ndarray, Sequence[str]], np.ndarray]:
    program = _program(features)
    return lambda clips, _: _in_batches(lambda part: program(params, part), clips)


def _program(function: Callable[..., Array]) -> Callable[..., Array]:
    def exact(*inputs: Any) -> Array:
        with jax.default_matmul_precision("highest"):
            return function(*inputs)

    return jit(exact)


def _in_batches(program: Callable[..., Array], *inputs: np.ndarray) -> ClipFeatures:
    """Rows of all clips, `CLIPS_AT_ONCE` at a time: a batch that is filled up compiles nothing."""
    number, rows = len(inputs[0]), []
    for first in range(0, number, CLIPS_AT_ONCE):
        part = [x[first : first + CLIPS_AT_ONCE] for x in inputs]
        there = len(part[0])
        filled = [np.resize(x, (CLIPS_AT_ONCE, *x.shape[1:])) for x in part]
        rows.append(np.asarray(program(*filled), np.float32)[:there])
    return np.concatenate(rows)


OpenExtractor = Callable[..., FeatureExtractor]

EXTRACTORS: dict[str, OpenExtractor] = {
    "i3d": open_i3d,
    "inception": open_inception,
    "c3d": open_c3d,
    "clip": open_clip_similarity,
}
"""`open(path, protocol, argument=...)` by the name of `--network=NAME=FILE`."""
