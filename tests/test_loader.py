"""Batches from a source: every example once a round, for any batch size, going on where one stopped."""

import jax
import numpy as np
import pytest

from magicvideo_jax.data.loader import Loader


class Numbers:
    """Twelve examples."""

    def __len__(self):
        return 12

    def __getitem__(self, index):
        return index


def loader(batch_size):
    mesh = jax.make_mesh((1, 1, 1), ("data", "fsdp", "frames"), devices=jax.devices()[:1])
    return Loader(Numbers(), prepare=lambda i: {"x": np.float32(i)}, batch_size=batch_size, seed=0, mesh=mesh)


@pytest.mark.parametrize("batch_size", [1, 3, 4])
def test_every_example_comes_once_a_round(batch_size):
    batches = loader(batch_size)
    rounds = [np.concatenate([next(batches)["x"] for _ in range(12 // batch_size)]) for _ in range(3)]
    for seen in rounds:
        np.testing.assert_array_equal(np.sort(seen), np.arange(12))
    assert not np.array_equal(rounds[0], rounds[1])


def test_it_goes_on_where_it_stopped():
    first = loader(1)
    for _ in range(5):
        next(first)
    place, after = first.position(), [int(next(first)["x"][0]) for _ in range(10)]
    again = loader(1)
    again.seek(place)
    assert [int(next(again)["x"][0]) for _ in range(10)] == after
