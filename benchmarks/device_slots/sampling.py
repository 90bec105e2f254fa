"""Sampling of 16 frames of 256 x 256: twenty guided steps, and the four steps of a student."""

from collections.abc import Iterator
from functools import partial

import jax
import numpy as np

from device_slots.clock import best_seconds
from device_slots.slot import READY, Line, Size, Slot
from device_slots.subject import (
    forward_flops,
    peak_gib,
    random_like,
    share_of_peak,
    video_experiment,
)
from magicvideo_jax.experiment.config import Component
from magicvideo_jax.experiment.generator import Generator, SampleRequest
from magicvideo_jax.experiment.networks import PIPELINE, Networks
from magicvideo_jax.experiment.shapes import arbitrary_ids
from magicvideo_jax.parallel.mesh import MeshConfig, make_mesh
from magicvideo_jax.parallel.shardings import with_shardings
from magicvideo_jax.planning.flops import count_flops
from magicvideo_jax.sampling.decoding import decode_clips
from magicvideo_jax.sampling.keyframes import SampleConfig, Sampler

GUIDED = SampleConfig(sampler=Sampler.DPM, steps=20, guidance=7.5)
STUDENT = SampleConfig(sampler=Sampler.LCM, steps=4, guidance=5.0)
CLIPS = 3


def sample(settings: SampleConfig, guidance_channels: int, size: Size) -> Iterator[Line]:
    """Seconds a clip from ids to pixels, one clip at a time, and those of its decoding alone."""
    experiment = video_experiment(
        size, clips=1, sample=settings, guidance_channels=guidance_channels
    )
    networks, mesh = Networks(experiment.model), make_mesh(MeshConfig(), jax.devices()[:1])
    frames, text = experiment.data.frames, experiment.model.text
    generator = Generator(
        experiment, networks, arbitrary_ids(text.tokens), frames=frames, batch_size=1
    )
    shapes = with_shardings(networks.shapes(PIPELINE), mesh, min_size=experiment.mesh.fsdp_min_size)
    batch = generator.batch(SampleRequest(prompts=[""], fps=[8.0]), 0, 1)
    inputs = generator.settings()
    program = generator.program(mesh).trace(shapes, *batch, inputs).lower().compile()

    def decode(params, z):
        return decode_clips(z, networks.decoder(params), experiment.decode)

    z = jax.ShapeDtypeStruct((1, *networks.latent_shape(frames, experiment.data.size)), np.float32)
    vae = {Component.VAE.value: shapes[Component.VAE.value]}
    decoding = jax.jit(decode).trace(vae, z)
    decoded = decoding.lower().compile()
    passes = 1 if guidance_channels else 2
    unet_flops = settings.steps * passes * forward_flops(experiment)
    yield READY
    params, latents = random_like(shapes), random_like(z)
    seconds = best_seconds(lambda: program(params, *batch, inputs), calls=1, rounds=CLIPS)
    own = {Component.VAE.value: params[Component.VAE.value]}
    decoding_seconds = best_seconds(lambda: decoded(own, latents), calls=2, rounds=CLIPS)
    yield {
        "sampler": settings.sampler.value,
        "steps": settings.steps,
        "evaluations": settings.steps * passes,
        "seconds_a_clip": round(seconds, 4),
        "decoding_seconds": round(decoding_seconds, 4),
        "tflop": round((unet_flops + count_flops(decoding.jaxpr)) / 1e12, 2),
        **share_of_peak(unet_flops + count_flops(decoding.jaxpr), seconds),
        "peak_gib": peak_gib(),
    }


SAMPLE = Slot("sample", "20 guided steps of DPM-Solver++", partial(sample, GUIDED, 0), seconds=60)
SAMPLE_STUDENT = Slot(
    "sample_student", "4 steps of a distilled network", partial(sample, STUDENT, 256), seconds=45
)
