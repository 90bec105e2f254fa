"""Configuration files: defaults are the libraries' own, round trips are exact, and what we cannot do is refused."""

import inspect
import json

import diffusers
import pytest
from transformers import CLIPTextConfig

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.diffusion.known_schedules import LAVIE_INTERPOLATION_NOISE
from magicvideo_jax.diffusion.noise_config import BetaSchedule, NoiseScheduleConfig, Spacing
from magicvideo_jax.diffusion.process import Prediction
from magicvideo_jax.models.clip_layer import Activation
from magicvideo_jax.models.clip_text import VIT_H_PENULTIMATE, VIT_L
from magicvideo_jax.models.unet import SD1, SD2, UNetConfig, UNetLevelConfig
from magicvideo_jax.models.vae import VAEConfig
from magicvideo_jax.weights import config_json as settings
from magicvideo_jax.weights import scheduler_json as noise


def _defaults(of):
    return {
        name: parameter.default
        for name, parameter in inspect.signature(of.__init__).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }


@pytest.mark.parametrize(
    "config",
    [
        SD1,
        SD2,
        UNetConfig(
            levels=(UNetLevelConfig(64, 4), UNetLevelConfig(96, 3)), middle_heads=3, groups=16
        ),
        UNetConfig(
            levels=(UNetLevelConfig(64, 0), UNetLevelConfig(64, 8, text_only=True)),
            channels_in=7,
            noise_levels=1000,
        ),
    ],
)
def test_unet_settings_come_back(config):
    content = json.loads(json.dumps(settings.unet_json(config)))
    assert settings.unet_config(content, where="unet/config.json") == config
    assert set(content) - {"_class_name", "_diffusers_version"} <= set(
        _defaults(diffusers.UNet2DConditionModel)
    )


def test_other_settings_come_back():
    vae = VAEConfig(widths=(32, 64), scaling=0.3)
    assert settings.vae_config(settings.vae_json(vae), where="f") == vae
    for text in (VIT_L, VIT_H_PENULTIMATE):
        assert settings.text_config(settings.text_json(text), where="f") == text
    told = NoiseScheduleConfig(
        prediction_type=Prediction.V, timestep_spacing=Spacing.TRAILING, clip_sample_range=2.0
    )
    for one in (told, LAVIE_INTERPOLATION_NOISE):
        assert noise.noise_settings(noise.noise_json(one), where="f") == one


def test_absent_fields_of_networks_have_diffusers_defaults():
    theirs = _defaults(diffusers.UNet2DConditionModel)
    assert settings.unet_config({}, where="f") == settings.unet_config(theirs, where="f")
    assert settings.unet_config({}, where="f").context == 1280
    theirs = _defaults(diffusers.AutoencoderKL)
    assert settings.vae_config({}, where="f") == settings.vae_config(theirs, where="f")
    assert settings.vae_config({}, where="f").widths == (64,)
    assert settings.text_config({}, where="f") == settings.text_config(
        CLIPTextConfig().to_dict(), where="f"
    )


@pytest.mark.parametrize("name", list(noise.CLASSES))
def test_absent_fields_of_schedulers_have_the_defaults_of_their_class(name):
    theirs = _defaults(getattr(diffusers, name))
    fields = noise.noise_json(NoiseScheduleConfig())
    ours = noise.noise_settings({"_class_name": name}, where="f")
    told = {field: value for field, value in theirs.items() if field in fields}
    assert noise.noise_settings({"_class_name": name, **told}, where="f") == ours
    for field, value in told.items():
        mine = getattr(ours, field, None)
        assert getattr(mine, "value", mine) == value


def test_published_scheduler_settings_are_read():
    """Stable Diffusion 1.5's file."""
    content = {
        "_class_name": "PNDMScheduler",
        "_diffusers_version": "0.6.0",
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "clip_sample": False,
        "num_train_timesteps": 1000,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "trained_betas": None,
    }
    assert noise.noise_settings(content, where="f") == NoiseScheduleConfig()
    v = noise.noise_settings(content | {"prediction_type": "v_prediction"}, where="f")
    assert v.prediction_type is Prediction.V
    assert v.beta_schedule is BetaSchedule.SCALED_LINEAR


_SD1 = settings.unet_json(SD1)


@pytest.mark.parametrize(
    ("read", "content", "field", "value"),
    [
        (
            settings.unet_config,
            _SD1 | {"dual_cross_attention": True},
            "dual_cross_attention",
            "True",
        ),
        (
            settings.unet_config,
            _SD1 | {"only_cross_attention": True},
            "only_cross_attention",
            "True",
        ),
        (
            settings.unet_config,
            _SD1 | {"class_embed_type": "timestep"},
            "class_embed_type",
            "timestep",
        ),
        (settings.unet_config, _SD1 | {"class_embed_type": "timestep"}, "class_embed_type", "time"),
        (
            settings.unet_config,
            _SD1 | {"down_block_types": ["AttnDownBlock2D"] * 4},
            "down_block_types",
            "AttnDown",
        ),
        (
            settings.unet_config,
            _SD1 | {"up_block_types": ["UpBlock2D"] * 4},
            "up_block_types",
            "UpBlock2D",
        ),
        (
            settings.unet_config,
            _SD1 | {"attention_head_dim": [8, 8]},
            "attention_head_dim",
            "[8, 8]",
        ),
        (settings.unet_config, _SD1 | {"attention_head_dim": 7}, "attention_head_dim", "7"),
        (settings.unet_config, _SD1 | {"block_out_channels": "wide"}, "block_out_channels", "wide"),
        (settings.unet_config, _SD1 | {"layers_per_block": True}, "layers_per_block", "True"),
        (settings.unet_config, _SD1 | {"norm_num_groups": None}, "norm_num_groups", "None"),
        (settings.unet_config, _SD1 | {"a_new_idea": "yes"}, "a_new_idea", "yes"),
        (settings.vae_config, {"shift_factor": 0.1}, "shift_factor", "0.1"),
        (settings.vae_config, {"use_quant_conv": False}, "use_quant_conv", "False"),
        (settings.vae_config, {"scaling_factor": "big"}, "scaling_factor", "big"),
        (settings.text_config, {"hidden_act": "relu"}, "hidden_act", "relu"),
        (settings.text_config, {"num_attention_heads": 7}, "num_attention_heads", "7"),
        (noise.noise_settings, {}, "_class_name", "None"),
        (
            noise.noise_settings,
            {"_class_name": "DDIMScheduler", "beta_schedule": "exp"},
            "beta_schedule",
            "exp",
        ),
        (
            noise.noise_settings,
            {"_class_name": "DDIMScheduler", "trained_betas": [0.1]},
            "trained_betas",
            "[0.1]",
        ),
        (
            noise.noise_settings,
            {"_class_name": "DDIMScheduler", "beta_start": 2.0},
            "beta_start",
            "2.0",
        ),
        (
            noise.noise_settings,
            {"_class_name": "DDIMScheduler", "steps_offset": "1"},
            "steps_offset",
            "1",
        ),
        (
            noise.noise_settings,
            {"_class_name": "DDPMScheduler", "variance_type": "learned"},
            "variance_type",
            "learned",
        ),
    ],
)
def test_what_is_not_supported_is_refused_by_file_field_and_value(read, content, field, value):
    with pytest.raises(UserError) as error:
        read(content, where="some/config.json")
    for word in ("some/config.json", field, value):
        assert word in str(error.value)


def test_activation_of_open_clip_is_read():
    assert settings.text_config({"hidden_act": "gelu"}, where="f").activation is Activation.GELU
