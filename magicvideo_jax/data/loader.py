"""Batches on the mesh, in an order that depends on the seed alone, from any position.

Batch k holds examples k B .. (k + 1) B - 1 of the shuffled source, whatever the number of hosts; a
host makes only its own rows.
"""

import errno
import re
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import grain
import jax
import numpy as np
from absl import flags
from grain.experimental import ThreadPrefetchIterDataset
from jax.sharding import Mesh
from jaxtyping import Int

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.parallel.batch import local_rows, shard_batch

Example = Mapping[str, Any]
"""Arrays by name; in joint training, one example per stream by name."""


@runtime_checkable
class Source(Protocol):
    """Examples by index, made or read on demand; an index always gives the same example."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Any: ...


Stream = grain.MapDataset
"""An endless sequence of examples, by index."""

_ENDLESS = 2**53
"""Length of a stream: sys.maxsize, grain's own, is rounded up by its float division."""
PREFETCHED_BATCHES = 2
"""Batches that wait on the devices beside the one in use; a memory check must count them."""


def stream(
    source: Source, *, prepare: Callable[[Any, np.random.Generator], Example], seed: int
) -> Stream:
    """Endless stream of a source, shuffled anew each round.

    What `prepare` draws follows from the seed and the position in the stream.
    """
    return grain.MapDataset.source(source).seed(seed).shuffle().repeat().random_map(prepare)


def mixture(streams: Sequence[Stream], weights: Sequence[float]) -> Stream:
    """Stream that takes its examples from several streams in turn, by weight."""
    return streams[0] if len(streams) == 1 else grain.MapDataset.mix(list(streams), list(weights))


def by_batches(streams: Sequence[Stream], weights: Sequence[float], *, batch_size: int) -> Stream:
    """Stream of examples whose shapes differ: each batch comes from one stream, in turn by weight."""
    if len(streams) == 1:
        return streams[0]
    turns = [grain.MapDataset.source(_Turns(which)) for which in range(len(streams))]
    return grain.MapDataset.source(
        _ByBatches(streams, grain.MapDataset.mix(turns, weights), batch_size)
    )


def zipped(**streams: Stream) -> Stream:
    """Stream whose examples hold one example of each stream, by name."""
    return grain.MapDataset.source(_Zipped(streams))


class Loader:
    """Endless iterator of batches that are on their devices before they are asked for.

    Its position can be saved and restored. With `workers`, that many processes make the batches;
    without, threads of this process. The batches are the same. Errors: `UserError` where a worker
    process ends or shared memory is full.
    """

    def __init__(self, examples: Stream, *, batch_size: int, mesh: Mesh, workers: int = 0):
        rows = local_rows(batch_size, mesh)
        share = _HostRows(examples, batch_size, rows)
        self._batches = grain.MapDataset.source(share).batch(len(rows))
        self._shard = lambda batch: shard_batch(batch, mesh, batch_size)
        self._workers = workers
        self.seek({"next_index": 0})

    def __next__(self) -> Any:
        with self._worker_failures_named():
            batch = next(self._iterator)
        self._next += 1
        return batch

    @contextmanager
    def _worker_failures_named(self) -> Iterator[None]:
        """Turn the end of a worker process, and a full /dev/shm, into a line that says what to do."""
        try:
            yield
        except (OSError, RuntimeError) as error:
            reason = _worker_failure(error) if self._workers else None
            if reason is None:
                raise
            raise UserError(f"config.data.workers={self._workers}: {reason}") from error

    def shapes(self) -> Any:
        """Shapes of a batch with their shardings; the position stays."""
        here = self.position()
        batch = next(self)
        self.seek(here)
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), batch
        )

    def position(self) -> dict[str, Any]:
        """Number of the next batch, to be saved in a checkpoint; it means the same for any number of workers."""
        return {"next_index": self._next}

    def seek(self, position: dict[str, Any]) -> None:
        """Go to the batch that was next when `position` was called."""
        if "iterators_in_use_states" in position:
            # Saved by an earlier version: one position for each worker.
            self._next = sum(one["next_index"] for one in position["iterators_in_use_states"])
        else:
            self._next = position["next_index"]
        reading = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)
        batches = self._batches[self._next :].to_iter_dataset(reading)
        if self._workers:
            # Grain hands absl's flags to its processes, also where no one has parsed them.
            if not flags.FLAGS.is_parsed():
                flags.FLAGS.mark_as_parsed()
            options = grain.MultiprocessingOptions(num_workers=self._workers)
            batches = batches.mp_prefetch(options, _outlive_sigterm)
        sharded = batches.map(self._shard)
        with self._worker_failures_named():
            self._iterator = iter(
                ThreadPrefetchIterDataset(sharded, prefetch_buffer_size=PREFETCHED_BATCHES)
            )


def _outlive_sigterm(worker: int, workers: int) -> None:
    """Ignore SIGTERM in a worker process.

    A scheduler sends it to all processes of a job, and the one that trains needs the others until
    it has saved.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _worker_failure(error: OSError | RuntimeError) -> str | None:
    """The cause of an error of Grain's worker processes, and the cure; None for other errors."""
    ended = re.search(r"terminated unexpectedly with exit code (-?\d+)", str(error))
    shared_memory = (
        "shared memory is full: enlarge /dev/shm (docker run --shm-size=2g; in Kubernetes an "
        "emptyDir of medium Memory), or give a smaller number, or 0 for threads"
    )
    if isinstance(error, OSError):
        return shared_memory if error.errno == errno.ENOSPC else None
    if ended is None:
        return None
    if ended[1] == str(-signal.SIGBUS):
        return f"a worker process could not write its batch, {shared_memory}"
    hint = " (out of memory?)" if ended[1] == str(-signal.SIGKILL) else ""
    return (
        f"a worker process ended with exit code {ended[1]}{hint}: give a smaller number, "
        "or 0 for threads, which show the error"
    )


class _Turns:
    """Source of (stream, batch) pairs for one stream."""

    def __init__(self, which: int):
        self._which = which

    def __len__(self) -> int:
        return _ENDLESS

    def __getitem__(self, index: int) -> tuple[int, int]:
        return self._which, index


class _ByBatches:
    """Source whose batch k is the next batch of the stream whose turn it is."""

    def __init__(self, streams: Sequence[Stream], turns: Any, batch_size: int):
        self._streams, self._turns, self._batch_size = streams, turns, batch_size

    def __len__(self) -> int:
        return min(len(self._turns), _ENDLESS // self._batch_size) * self._batch_size

    def __getitem__(self, index: int) -> Any:
        batch, row = divmod(index, self._batch_size)
        which, number = self._turns[batch]
        return self._streams[which][number * self._batch_size + row]


class _Zipped:
    """Several streams by name, as one source."""

    def __init__(self, streams: Mapping[str, Stream]):
        self._streams = streams

    def __len__(self) -> int:
        return min(len(examples) for examples in self._streams.values())

    def __getitem__(self, index: int) -> Any:
        return {name: examples[index] for name, examples in self._streams.items()}


class _HostRows:
    """Source of one host's rows of every global batch."""

    def __init__(self, source: Stream, batch_size: int, rows: Int[np.ndarray, "n"]):
        self._source, self._batch_size, self._rows = source, batch_size, rows

    def __len__(self) -> int:
        return min(len(self._source), _ENDLESS) // self._batch_size * len(self._rows)

    def __getitem__(self, index: int) -> Any:
        batch, row = divmod(index, len(self._rows))
        return self._source[batch * self._batch_size + int(self._rows[row])]
