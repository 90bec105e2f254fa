"""The ablations of docs/claims.md: each changes a few fields of the config of the demo, `configs/t2v.py`."""

from benchmarks.claims.ablation import Ablation
from benchmarks.claims.readings import asked_speed, image_decoder

TEMPORAL = "model.unet.temporal"
CAPTIONED_CLIPS = 128
"""Size of the small captioned set, before which unlabelled clips are learned or not."""

ABLATIONS = (
    Ablation(
        "pixels",
        "pixels in place of latents (VDM's kind), U-Net from nothing, as many clips",
        config="vdm",
        changes={"init_from": "{pixel_pipeline}", "model.reinitialize": ("unet",)},
        has_own_latents=True,
    ),
    Ablation(
        "reference",
        "the demo: from text-to-image weights, adaptors, attention over all frames with RoPE, in parallel",
        readings={"asked_speed": asked_speed, "image_decoder": image_decoder},
    ),
    Ablation("scratch", "U-Net from nothing, as that on pixels", config="t2v:scratch"),
    Ablation("no_adaptors", "no frame-wise adaptors", changes={f"{TEMPORAL}.adaptors": False}),
    Ablation("directed", "directed attention, RoPE", changes={f"{TEMPORAL}.mask": "directed"}),
    Ablation(
        "directed_no_positions",
        "directed attention without positions, the paper's",
        changes={f"{TEMPORAL}.mask": "directed", f"{TEMPORAL}.position": "none"},
    ),
    Ablation(
        "post_softmax",
        "directed by a product after the softmax, as the paper writes it, without positions",
        changes={f"{TEMPORAL}.mask": "post_softmax", f"{TEMPORAL}.position": "none"},
    ),
    Ablation(
        "no_positions",
        "attention over all frames without positions",
        changes={f"{TEMPORAL}.position": "none"},
    ),
    Ablation(
        "sequential",
        "temporal attention after the spatial transformer",
        changes={f"{TEMPORAL}.mixing": "sequential"},
    ),
    Ablation(
        "shift",
        "Latent-Shift in place of attention, adaptors and frame rate",
        changes={
            f"{TEMPORAL}.mixing": "shift",
            f"{TEMPORAL}.adaptors": False,
            f"{TEMPORAL}.fps": False,
        },
    ),
    Ablation(
        "no_mixing", "frames are not mixed: adaptors alone", changes={f"{TEMPORAL}.mixing": "none"}
    ),
    Ablation(
        "no_fps",
        "no embedding of the frame rate",
        changes={f"{TEMPORAL}.fps": False},
        readings={"asked_speed": asked_speed},
    ),
    Ablation(
        "few",
        f"{CAPTIONED_CLIPS} captioned clips, over and over",
        changes={"data.precompute_examples": CAPTIONED_CLIPS},
    ),
    Ablation(
        "unlabelled",
        "clips without captions, under the embedding of a frame",
        changes={
            "denoising.image_prompts": "all",
            "image_encoder_from": "{image_encoder}",
            "model.trained": ("unet",),
            "evaluate.clips": 8,  # of captions it knows nothing
        },
        length=0.5,
        is_reported=False,
    ),
    Ablation(
        "unlabelled_then_few",
        f"half of the steps on 2,048 clips without captions, then {CAPTIONED_CLIPS} captioned ones",
        changes={"init_from": "{unlabelled}", "data.precompute_examples": CAPTIONED_CLIPS},
        length=0.5,
    ),
    Ablation(
        "pixels_equal_time",
        "pixels in place of latents, as long as the reference",
        config="vdm",
        changes={"init_from": "{pixel_pipeline}", "model.reinitialize": ("unet",)},
        length=0.25,
        has_own_latents=True,
    ),
)
