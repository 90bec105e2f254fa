"""Laws of what trains a VideoVAE: two losses balanced, two players apart, and a contest that begins at its step."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny import quick, random_params

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.keys import subkey
from magicvideo_jax.core.pixels import to_float
from magicvideo_jax.core.tree import flatten
from magicvideo_jax.core.types import Params
from magicvideo_jax.models.bind import bind
from magicvideo_jax.models.discriminator import Discriminator, DiscriminatorConfig
from magicvideo_jax.training.adversarial import balance_gradients, hinge_losses
from magicvideo_jax.training.optimizer import DISCRIMINATOR, OptimConfig, make_optimizer
from magicvideo_jax.training.video_autoencoding import (
    VideoAutoencodingConfig,
    random_frames,
    video_autoencoding_objective,
)

KEY = jax.random.key(0)
RIVAL = bind(
    lambda keys: Discriminator(DiscriminatorConfig(width=4, layers=2, groups=2), keys=keys)
)
CONFIG = VideoAutoencodingConfig(lpips=0.0, adversarial=0.5, adversarial_from=3)


def clips(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.array(np.random.default_rng(seed).uniform(-1, 1, size=shape), jnp.float32)


def pixels(*shape: int) -> jax.Array:
    return jnp.array(np.random.default_rng(1).integers(0, 256, size=shape), jnp.uint8)


def judge(params: Params, x: jax.Array) -> jax.Array:
    return RIVAL.apply(params[DISCRIMINATOR], x)


def players() -> Params:
    """A decoder of two numbers, behind an encoder of one, and a discriminator."""
    coder = {"encoder": jnp.float32(0.5), "scale": jnp.float32(0.7), "shift": jnp.float32(0.1)}
    return {"vae": coder, DISCRIMINATOR: random_params(RIVAL.shapes)}


def encode(params: Params, x: jax.Array, key: jax.Array) -> jax.Array:
    return params["vae"]["encoder"] * x + 0.1 * jax.random.normal(key, x.shape)


def decode(params: Params, z: jax.Array) -> jax.Array:
    return params["vae"]["scale"] * z + params["vae"]["shift"]


def gradients(
    config: VideoAutoencodingConfig, step: int
) -> tuple[tuple[jax.Array, dict[str, jax.Array]], Params]:
    objective = video_autoencoding_objective(
        encode, decode, config, discriminate=judge if config.adversarial else None
    )
    loss = jax.value_and_grad(objective, has_aux=True)
    return quick(loss)(players(), {"pixels": pixels(2, 3, 8, 8, 3)}, KEY, jnp.int32(step))


def test_the_second_loss_pulls_with_a_share_of_the_first_ones_strength():
    x, first, second = clips(4, 5), clips(4, 5, seed=1), 1e3 * clips(4, 5, seed=2)

    def pulled(weight: float) -> jax.Array:
        _, back = jax.vjp(lambda x: balance_gradients(x, jnp.float32(weight)), x)
        return back((first, second))[0]

    np.testing.assert_array_equal(pulled(0.0), first)
    added = pulled(0.25) - first
    assert jnp.linalg.norm(added) == pytest.approx(0.25 * float(jnp.linalg.norm(first)), rel=1e-5)
    np.testing.assert_allclose(
        added / jnp.linalg.norm(added), second / jnp.linalg.norm(second), atol=1e-6
    )


def test_without_a_gradient_of_its_own_the_second_loss_changes_nothing():
    x, first = clips(3), clips(3, seed=1)
    _, back = jax.vjp(lambda x: balance_gradients(x, jnp.float32(1.0)), x)
    np.testing.assert_array_equal(back((first, jnp.zeros(3)))[0], first)


def test_hinge_losses_are_those_of_their_equation_and_hold_the_other_player_fixed():
    made, true = clips(1, 3, 8, 8, 3), clips(1, 3, 8, 8, 3, seed=1)
    params = players()
    fools, tells_apart = hinge_losses(judge, params, made, true)
    of_made, of_true = np.asarray(judge(params, made)), np.asarray(judge(params, true))
    assert fools == pytest.approx(-of_made.mean(), rel=1e-5)
    expected = (np.maximum(0, 1 - of_true).mean() + np.maximum(0, 1 + of_made).mean()) / 2
    assert tells_apart == pytest.approx(expected, rel=1e-5)
    for which, of_params, of_clips in ((0, False, True), (1, True, False)):
        gradient = jax.grad(
            lambda p, m, which=which: hinge_losses(judge, p, m, true)[which], argnums=(0, 1)
        )(params, made)
        assert (
            any(np.any(leaf) for leaf in jax.tree.leaves(gradient[0][DISCRIMINATOR])) is of_params
        )
        assert bool(np.any(gradient[1])) is of_clips


def test_the_discriminator_sees_frames_and_what_changed():
    params = random_params(RIVAL.shapes)
    x = clips(2, 4, 16, 16, 3)
    scores = RIVAL.apply(params, x)
    assert scores.shape == (
        2,
        3,
        4,
        4,
    )  # two layers halve twice; the first frame has none before it
    before = RIVAL.apply(params, x.at[:, 1].add(0.5))
    np.testing.assert_array_equal(before[:, 2], scores[:, 2])
    assert np.any(
        before[:, 1] != scores[:, 1]
    )  # the frame itself is as it was: the change into it is not


@pytest.mark.parametrize(
    ("fields", "said"),
    [({"layers": 0}, "layers=0"), ({"width": 6}, "groups=4"), ({"width": 0}, "width=0")],
)
def test_discriminators_that_cannot_be_are_refused(fields: dict, said: str):
    with pytest.raises(UserError, match=said):
        DiscriminatorConfig(**{"groups": 4, **fields})


def test_the_loss_is_that_of_its_equation():
    (loss, metrics), _ = gradients(replace(CONFIG, frame_difference_weight=0.3), step=9)
    params, x = players(), np.asarray(to_float(pixels(2, 3, 8, 8, 3)))
    error = np.asarray(decode(params, encode(params, jnp.array(x), subkey(KEY, "vae")))) - x
    l1, difference = np.abs(error).mean(), np.abs(error[:, 1:] - error[:, :-1]).mean()
    assert loss == pytest.approx(l1 + 0.3 * difference, rel=1e-5)
    assert metrics["l1"] == pytest.approx(l1, rel=1e-5)
    assert metrics["psnr"] == pytest.approx(10 * np.log10(4 / np.square(error).mean()), rel=1e-5)


def test_the_contest_rests_before_its_step_and_never_reaches_the_encoder():
    (alone, _), without = gradients(replace(CONFIG, adversarial=0.0), step=0)
    (early, _), before = gradients(CONFIG, step=2)
    (late, _), after = gradients(CONFIG, step=3)
    assert alone == pytest.approx(float(early), rel=1e-6)
    assert alone == pytest.approx(float(late), rel=1e-6)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(before[DISCRIMINATOR]))
    assert any(np.any(leaf) for leaf in jax.tree.leaves(after[DISCRIMINATOR]))
    for name in ("scale", "shift"):
        assert before["vae"][name] == pytest.approx(float(without["vae"][name]), rel=1e-5)
        assert after["vae"][name] != pytest.approx(float(without["vae"][name]), rel=1e-3)
    assert after["vae"]["encoder"] == 0


def test_lpips_is_taken_of_different_frames_of_each_clip():
    drawn = np.asarray(random_frames(KEY, 50, 6, number=3))
    assert drawn.shape == (50, 3)
    assert all(len(set(row)) == 3 for row in drawn.tolist())
    assert {tuple(sorted(row)) for row in drawn.tolist()} > {tuple(sorted(drawn[0].tolist()))}
    assert random_frames(KEY, 2, 2, number=5).shape == (2, 2)

    def distance(made: jax.Array, true: jax.Array) -> jax.Array:
        return jnp.square(made - true).mean(axis=(1, 2, 3))

    objective = video_autoencoding_objective(
        encode, decode, VideoAutoencodingConfig(lpips=2.0, frames_per_clip=3), distance=distance
    )
    plain = video_autoencoding_objective(encode, decode, VideoAutoencodingConfig(lpips=0.0))
    inputs = players(), {"pixels": pixels(2, 3, 8, 8, 3)}, KEY, jnp.int32(0)
    (loss, metrics), (base, _) = objective(*inputs), plain(*inputs)
    assert loss == pytest.approx(float(base + 2 * metrics["lpips"]), rel=1e-5)
    assert metrics["psnr"] == pytest.approx(
        float(10 * jnp.log10(4 / metrics["lpips"])), rel=1e-5
    )  # all frames: the mse


def test_some_frames_are_decoded_as_images_too():
    def as_images(params: Params, z: jax.Array) -> jax.Array:
        return params["vae"]["scale"] * z - params["vae"]["shift"]

    config = VideoAutoencodingConfig(lpips=0.0, image_weight=2.0, frames_per_clip=3)
    both = video_autoencoding_objective(encode, decode, config, decode_images=as_images)
    plain = video_autoencoding_objective(encode, decode, config)
    inputs = players(), {"pixels": pixels(2, 3, 8, 8, 3)}, KEY, 0
    (loss, metrics), (base, _) = both(*inputs), plain(*inputs)
    params, x = players(), to_float(pixels(2, 3, 8, 8, 3))
    expected = jnp.abs(
        as_images(params, encode(params, x, subkey(KEY, "vae"))) - x
    ).mean()  # all frames: three of three
    assert metrics["l1_images"] == pytest.approx(float(expected), rel=1e-5)
    assert loss == pytest.approx(float(base + 2 * expected), rel=1e-5)


def test_each_player_has_an_optimizer_of_its_own():
    """Each trains as if it were alone: rates, moments and clipping do not mix."""
    config = OptimConfig(
        lr=1e-2, warmup=0, grad_clip_norm=0.1, discriminator_lr=1e-4, weight_decay=0.0
    )
    params = players()
    grads = jax.tree.map(lambda x: 100 * jnp.ones_like(x), params)
    both = make_optimizer(config, 10, with_discriminator=True)
    updates, _ = both.update(grads, both.init(params), params)
    one = make_optimizer(config, 10)
    alone, _ = one.update(
        {"vae": grads["vae"]}, one.init({"vae": params["vae"]}), {"vae": params["vae"]}
    )
    for path, update in flatten(alone["vae"]).items():
        np.testing.assert_allclose(flatten(updates["vae"])[path], update, rtol=1e-6)
    steps = [np.abs(leaf).max() for leaf in jax.tree.leaves(updates[DISCRIMINATOR])]
    np.testing.assert_allclose(steps, 1e-4, rtol=1e-2)  # Adam's first step is the rate
    moved = optax.apply_updates(params, updates)
    assert all(
        np.any(a != b) for a, b in zip(jax.tree.leaves(moved), jax.tree.leaves(params), strict=True)
    )
