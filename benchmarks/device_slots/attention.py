"""Forms of attention at the model's shapes, forward and backward, and their distance from float32."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from device_slots.clock import best_seconds
from device_slots.slot import Line, Size, Slot
from magicvideo_jax.models.attend_heads import attend_heads, attend_heads_narrow
from magicvideo_jax.models.attention import attend
from magicvideo_jax.models.temporal_attention import directed_mask

Attend = Callable[..., jax.Array]
"""`attend(q, k, v, mask)` of arrays (b, l, n, d) and (b, m, n, d), and a mask (l, m) or None."""


@dataclass(frozen=True)
class Case:
    """A layer's attention for two clips of 16 frames."""

    name: str
    batch: int
    queries: int
    keys: int
    width: int
    directed: bool = False
    heads: int = 8


CASES = (
    Case("self 1,024 x 40", 32, 1024, 1024, 40),
    Case("self 256 x 80", 32, 256, 256, 80),
    Case("self 64 x 160", 32, 64, 64, 160),
    Case("text of clips, 40", 2, 16_384, 78, 40),
    Case("text of frames, 40", 32, 1024, 78, 40),
    Case("text of clips, 80", 2, 4096, 78, 80),
    Case("temporal 16 x 40", 2048, 16, 16, 40, directed=True),
    Case("temporal 16 x 80", 512, 16, 16, 80, directed=True),
)
_TINY_CASES = (Case("self", 2, 16, 16, 8), Case("temporal", 8, 4, 4, 8, directed=True))


def _heads_first(form: Attend) -> Attend:
    def attend_tokens(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array | None):
        return jnp.swapaxes(form(*(jnp.swapaxes(x, 1, 2) for x in (q, k, v)), mask), 1, 2)

    return attend_tokens


def _library(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array | None, *, implementation: str
) -> jax.Array:
    mask = None if mask is None else mask[None, None]
    return jax.nn.dot_product_attention(q, k, v, mask=mask, implementation=implementation)  # pyright: ignore


FORMS: dict[str, Attend] = {
    "as the model chooses": attend,
    "plain": _heads_first(attend_heads),
    "plain, narrow gradient": _heads_first(attend_heads_narrow),
    "cudnn": partial(_library, implementation="cudnn"),
    "jax.nn on xla": partial(_library, implementation="xla"),
}
"""A new form is a new line here."""


def attention_forms(size: Size) -> Iterator[Line]:
    """A line for each case and form; a form that cannot run says why."""
    for case in _TINY_CASES if size is Size.TINY else CASES:
        yield from map(partial(_measure, case), FORMS)


def _measure(case: Case, name: str) -> Line:
    line: Line = {"case": case.name, "form": name}
    try:
        return line | _times_and_error(case, FORMS[name])
    except Exception as error:  # a compiler's refusal is a result
        return line | {"refused": str(error).splitlines()[0][:200]}


def _times_and_error(case: Case, form: Attend) -> Line:
    shapes = [(case.batch, rows, case.heads, case.width) for rows in (case.queries, case.keys) * 2]
    q, k, g, v = (
        jax.random.normal(jax.random.key(i), shape, jnp.bfloat16) for i, shape in enumerate(shapes)
    )
    mask = directed_mask(case.queries) if case.directed else None

    def both(form: Attend, *inputs: jax.Array) -> tuple[jax.Array, ...]:
        out, pull = jax.vjp(lambda *qkv: form(*qkv, mask), *inputs[:3])
        return out, *pull(inputs[3])

    forward = jax.jit(lambda q, k, v: form(q, k, v, mask))
    backward = jax.jit(partial(both, form))
    line = {
        "forward_ms": round(1e3 * best_seconds(forward, q, k, v), 4),
        "both_ms": round(1e3 * best_seconds(backward, q, k, v, g), 4),
    }
    few = [x[:1] for x in (q, k, v, g)]
    exact = jax.jit(partial(both, _heads_first(attend_heads)))
    with jax.default_matmul_precision("highest"):
        expected = exact(*(x.astype(jnp.float32) for x in few))
    errors = map(_distance, backward(*few), expected)
    return line | {
        f"error_{n}": round(e, 5) for n, e in zip(("o", "dq", "dk", "dv"), errors, strict=True)
    }


def _distance(x: jax.Array, exact: jax.Array) -> float:
    found, expected = np.asarray(x, np.float64), np.asarray(exact, np.float64)
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


ATTENTION = Slot(
    "attention", "forms of attention, layer by layer", attention_forms, seconds=90, prepares=False
)
