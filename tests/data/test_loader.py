"""Batches from a source: every example once a round, for any batch size, going on where one stopped."""

import errno
import multiprocessing
import os
import signal
import time

import jax
import numpy as np
import pytest

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.data.loader import PREFETCHED_BATCHES, Loader, by_batches, mixture, stream


class Numbers:
    """Twelve examples."""

    def __len__(self):
        return 12

    def __getitem__(self, index):
        return index


def prepare(number, rng):
    return {"x": np.float32(number), "drawn": np.float32(rng.uniform())}


def loader(batch_size, *, workers=0, examples=None):
    mesh = jax.make_mesh((1, 1, 1), ("data", "fsdp", "frames"), devices=jax.devices()[:1])
    examples = stream(Numbers(), prepare=prepare, seed=0) if examples is None else examples
    return Loader(examples, batch_size=batch_size, mesh=mesh, workers=workers)


@pytest.mark.parametrize("batch_size", [1, 3, 4])
def test_every_example_comes_once_a_round(batch_size):
    batches = loader(batch_size)
    rounds = [
        np.concatenate([next(batches)["x"] for _ in range(12 // batch_size)]) for _ in range(3)
    ]
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


def test_what_is_drawn_for_an_example_differs_by_round_and_not_by_run_or_batch_size():
    ones, threes, again = loader(1), loader(3), loader(1)
    rows = [
        (float(batch["x"][0]), float(batch["drawn"][0]))
        for batch in (next(ones) for _ in range(24))
    ]
    assert rows == [
        (float(b["x"][0]), float(b["drawn"][0])) for b in (next(again) for _ in range(24))
    ]
    assert [drawn for _, drawn in rows] == np.concatenate(
        [next(threes)["drawn"] for _ in range(8)]
    ).tolist()
    assert len({drawn for _, drawn in rows}) == 24


def test_worker_processes_make_the_same_batches_and_know_their_place():
    threads, processes = loader(3), loader(3, workers=2)
    expected = [next(threads)["drawn"].tolist() for _ in range(8)]
    assert [next(processes)["drawn"].tolist() for _ in range(5)] == expected[:5]
    place = processes.position()
    for child in multiprocessing.active_children():
        os.kill(
            child.pid, signal.SIGTERM
        )  # a scheduler's, to all processes: the trainer saves, and needs them
    assert [next(processes)["drawn"].tolist() for _ in range(3)] == expected[5:]
    later = loader(3, workers=2)
    later.seek(place)
    assert [next(later)["drawn"].tolist() for _ in range(3)] == expected[5:]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (signal.SIGBUS, r"config\.data\.workers=1: .*shared memory is full: enlarge /dev/shm"),
        (signal.SIGKILL, r"config\.data\.workers=1: .*exit code -9 \(out of memory\?\)"),
    ],
)
def test_a_worker_process_that_ends_is_one_line(how, said):
    def deadly(number, rng):
        os.kill(os.getpid(), how)

    with pytest.raises(UserError, match=said):
        next(loader(3, workers=1, examples=stream(Numbers(), prepare=deadly, seed=0)))


def test_shared_memory_that_is_full_at_the_start_is_one_line(monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("magicvideo_jax.data.loader.ThreadPrefetchIterDataset", full)
    with pytest.raises(UserError, match=r"config\.data\.workers=2: shared memory is full"):
        loader(3, workers=2)
    with pytest.raises(OSError, match="No space left"):
        loader(3)


def test_as_many_batches_wait_on_the_devices_as_the_memory_check_counts():
    batches = loader(3)
    before = sum(array.nbytes for array in jax.live_arrays())
    first = next(batches)
    time.sleep(0.5)
    waiting = sum(array.nbytes for array in jax.live_arrays()) - before
    size = sum(array.nbytes for array in first.values())
    assert waiting <= (PREFETCHED_BATCHES + 2) * size


def test_a_mixture_takes_from_each_by_weight():
    tens = stream(Numbers(), prepare=lambda number, rng: {"x": np.float32(number + 100)}, seed=1)
    ones = stream(Numbers(), prepare=lambda number, rng: {"x": np.float32(number)}, seed=1)
    mixed = loader(4, examples=mixture([ones, tens], [3.0, 1.0]))
    seen = np.concatenate([next(mixed)["x"] for _ in range(24)])
    assert (seen < 100).sum() == 72
    assert set(seen[seen >= 100]) == set(np.arange(100, 112))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_is_of_one_shape_and_each_shape_has_its_turn_by_weight(workers):
    def wide(number, rng):
        return {"x": np.full(3, number, np.float32)}

    def tall(number, rng):
        return {"x": np.full((5, 1), number, np.float32)}

    streams = [stream(Numbers(), prepare=prepare, seed=1) for prepare in (wide, tall)]
    mixed = loader(4, workers=workers, examples=by_batches(streams, [2.0, 1.0], batch_size=4))
    first = [next(mixed)["x"] for _ in range(5)]
    place = mixed.position()
    seen = first + [next(mixed)["x"] for _ in range(4)]
    wides = [batch for batch in seen if batch.shape == (4, 3)]
    assert len(wides) == 6
    assert all(batch.shape == (4, 5, 1) for batch in seen if batch.shape != (4, 3))
    for a_round in (wides[:3], wides[3:]):  # none is left out, none comes twice
        np.testing.assert_array_equal(np.sort(np.concatenate(a_round)[:, 0]), np.arange(12))
    mixed.seek(place)
    np.testing.assert_array_equal(next(mixed)["x"], seen[5])
