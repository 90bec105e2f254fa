"""Batches on the mesh, in an order that depends on the seed alone, from any place.

Batch k holds examples k B .. (k + 1) B - 1 of the shuffled source whatever the number of hosts; a host makes its own
rows only.
"""

import signal
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import grain
import jax
import numpy as np
from absl import flags
from grain.experimental import ThreadPrefetchIterDataset
from jax.sharding import Mesh
from jaxtyping import Int

from magicvideo_jax.parallel.batch import local_rows, shard_batch

Example = Mapping[str, Any]
"""Arrays by name; of joint training, an example of each part by name."""


@runtime_checkable
class Source(Protocol):
    """Examples by index, made or read on demand, the same each time."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Any: ...


Stream = grain.MapDataset
"""Examples without end, by index."""

_ENDLESS = 2**53
"""An endless stream says sys.maxsize, which grain's float division rounds up to one more for batches of one."""


def stream(
    source: Source, *, prepare: Callable[[Any, np.random.Generator], Example], seed: int
) -> Stream:
    """A source, shuffled anew each round. What `prepare` draws follows from the seed and the place in the stream."""
    return grain.MapDataset.source(source).seed(seed).shuffle().repeat().random_map(prepare)


def mixture(streams: Sequence[Stream], weights: Sequence[float]) -> Stream:
    """Examples of several streams in turn, by weight."""
    return streams[0] if len(streams) == 1 else grain.MapDataset.mix(list(streams), list(weights))


def by_batches(streams: Sequence[Stream], weights: Sequence[float], *, batch_size: int) -> Stream:
    """Examples of several streams whose shapes differ: a batch is of one of them, each in turn by weight."""
    if len(streams) == 1:
        return streams[0]
    turns = [grain.MapDataset.source(_Turns(which)) for which in range(len(streams))]
    return grain.MapDataset.source(
        _ByBatches(streams, grain.MapDataset.mix(turns, weights), batch_size)
    )


def beside(**streams: Stream) -> Stream:
    """An example of each stream at every place, by name."""
    return grain.MapDataset.source(_Beside(streams))


class Loader:
    """An endless iterator of batches, on their devices before they are asked for, that knows its place. With `workers`,
    so many processes make the batches; without, threads of this one. The batches are the same."""

    def __init__(self, examples: Stream, *, batch_size: int, mesh: Mesh, workers: int = 0):
        rows = local_rows(batch_size, mesh)
        share = _HostRows(examples, batch_size, rows)
        reading = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)
        batches = grain.MapDataset.source(share).batch(len(rows)).to_iter_dataset(reading)
        if workers:
            if (
                not flags.FLAGS.is_parsed()
            ):  # grain hands absl's flags to its processes, whoever started this one
                flags.FLAGS.mark_as_parsed()
            batches = batches.mp_prefetch(
                grain.MultiprocessingOptions(num_workers=workers), _outlive_sigterm
            )
        placed = batches.map(lambda batch: shard_batch(batch, mesh, batch_size))
        self._iterator = iter(ThreadPrefetchIterDataset(placed, prefetch_buffer_size=2))

    def __next__(self) -> Any:
        return next(self._iterator)

    def shapes(self) -> Any:
        """A batch as shapes in their places; the place in the data stays."""
        here = self.position()
        batch = next(self)
        self.seek(here)
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), batch
        )

    def position(self) -> dict[str, Any]:
        """To be saved beside the state."""
        return self._iterator.get_state()

    def seek(self, position: dict[str, Any]) -> None:
        """To the batch that was next when `position` was asked for."""
        self._iterator.set_state(position)


def _outlive_sigterm(worker: int, workers: int) -> None:
    """A scheduler's SIGTERM goes to all processes of a job; the one that trains needs the others until it has saved."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class _Turns:
    """One stream's batches, by number."""

    def __init__(self, which: int):
        self._which = which

    def __len__(self) -> int:
        return _ENDLESS

    def __getitem__(self, index: int) -> tuple[int, int]:
        return self._which, index


class _ByBatches:
    """Batch k, all its examples, from the stream whose turn it is, which gives its own next batch."""

    def __init__(self, streams: Sequence[Stream], turns: Any, batch_size: int):
        self._streams, self._turns, self._batch_size = streams, turns, batch_size

    def __len__(self) -> int:
        return min(len(self._turns), _ENDLESS // self._batch_size) * self._batch_size

    def __getitem__(self, index: int) -> Any:
        batch, row = divmod(index, self._batch_size)
        which, number = self._turns[batch]
        return self._streams[which][number * self._batch_size + row]


class _Beside:
    """Streams by name as one source."""

    def __init__(self, streams: Mapping[str, Stream]):
        self._streams = streams

    def __len__(self) -> int:
        return min(len(examples) for examples in self._streams.values())

    def __getitem__(self, index: int) -> Any:
        return {name: examples[index] for name, examples in self._streams.items()}


class _HostRows:
    """One host's rows of every global batch, as a source of its own."""

    def __init__(self, source: Stream, batch_size: int, rows: Int[np.ndarray, "n"]):
        self._source, self._batch_size, self._rows = source, batch_size, rows

    def __len__(self) -> int:
        return min(len(self._source), _ENDLESS) // self._batch_size * len(self._rows)

    def __getitem__(self, index: int) -> Any:
        batch, row = divmod(index, len(self._rows))
        return self._source[batch * self._batch_size + int(self._rows[row])]
