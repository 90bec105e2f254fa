"""Batches on the mesh, in an order that depends on the seed alone, from any place.

Batch k holds examples k B .. (k + 1) B - 1 of the shuffled source whatever the number of hosts; a host makes its own
rows only.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import grain
import jax
from jax.sharding import Mesh

from magicvideo_jax.parallel.batch import place

Example = Mapping[str, Any]
"""Arrays by name; of joint training, an example of each part by name."""


@runtime_checkable
class Source(Protocol):
    """Examples by index, made or read on demand, the same each time."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Any: ...


class Loader:
    """An endless iterator of placed batches that knows its place."""

    def __init__(self, source: Source, *, prepare: Callable[[Any], Example], batch_size: int, seed: int, mesh: Mesh):
        rows = batch_size // jax.process_count()
        shuffled = grain.MapDataset.source(source).seed(seed).shuffle().repeat()
        share = _HostRows(shuffled, batch_size, first=rows * jax.process_index(), rows=rows)
        dataset = grain.MapDataset.source(share).map(prepare).batch(rows)
        reading = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)
        self._iterator = iter(dataset.to_iter_dataset(reading))
        self._mesh = mesh

    def __next__(self) -> Any:
        return place(next(self._iterator), self._mesh)

    def shapes(self) -> Any:
        """A batch as shapes in their places; the place in the data stays."""
        here = self.position()
        batch = next(self)
        self.seek(here)
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), batch)

    def position(self) -> dict[str, Any]:
        """To be saved beside the state."""
        return self._iterator.get_state()

    def seek(self, position: dict[str, Any]) -> None:
        """To the batch that was next when `position` was asked for."""
        self._iterator.set_state(position)


class _HostRows:
    """One host's rows of every global batch, as a source of its own."""

    def __init__(self, source: Source, batch_size: int, *, first: int, rows: int):
        self._source, self._batch_size, self._first, self._rows = source, batch_size, first, rows

    def __len__(self) -> int:
        # An endless source says sys.maxsize, which grain's float division rounds up to one more for batches of one.
        return min(len(self._source), 2**53) // self._batch_size * self._rows

    def __getitem__(self, index: int) -> Any:
        batch, row = divmod(index, self._rows)
        return self._source[batch * self._batch_size + self._first + row]
