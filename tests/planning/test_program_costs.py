"""What a compiled program computes, sends and holds, read from jaxprs and from XLA's text."""

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from magicvideo_jax.models.attention import attend
from magicvideo_jax.parallel.mesh import MeshConfig, make_mesh
from magicvideo_jax.planning.collectives import Collective, find_collectives, totals_by_kind
from magicvideo_jax.planning.flops import count_flops, count_kernel_flops
from magicvideo_jax.planning.hlo import LargeArray, largest_arrays


def traced_flops(function, *arguments):
    return count_flops(jax.make_jaxpr(function)(*arguments))


def test_arithmetic_is_counted_as_by_hand():
    a, b = jnp.zeros((3, 5, 7)), jnp.zeros((3, 7, 11))
    product = 2 * 3 * 5 * 7 * 11
    assert traced_flops(lambda a, b: a @ b, a, b) == product
    assert (
        traced_flops(jax.grad(lambda a, b: (a @ b).sum(), argnums=(0, 1)), a, b) == 3 * product
    )  # the product itself, and one for each argument

    image, kernel = jnp.zeros((2, 8, 8, 3)), jnp.zeros((3, 3, 3, 4))

    def convolve(image, kernel, stride=1):
        return jax.lax.conv_general_dilated(
            image,
            kernel,
            (stride, stride),
            [(1, 1), (1, 1)],
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    assert traced_flops(convolve, image, kernel) == 2 * (2 * 8 * 8 * 4) * 3 * 9
    strided = jax.vjp(lambda image: convolve(image, kernel, 2), image)[1]
    # Back through a stride of 2: what went forward, but for the edges.
    forward = 2 * (2 * 4 * 4 * 4) * 3 * 9
    assert traced_flops(strided, jnp.zeros((2, 4, 4, 4))) == forward


def test_arithmetic_inside_of_loops_and_calls_is_counted():
    x = jnp.zeros((4, 4))
    square = 2 * 4**3

    def rounds(x):
        return jax.lax.scan(lambda c, _: (jax.jit(lambda c: c @ c)(c), None), x, None, length=6)[0]

    assert traced_flops(rounds, x) == 6 * square
    assert traced_flops(jax.checkpoint(lambda x: x @ x), x) == square
    spec = PartitionSpec(("data", "fsdp", "frames"))
    each_its_own = jax.shard_map(
        lambda x: x @ x, mesh=make_mesh(MeshConfig()), in_specs=spec, out_specs=spec
    )
    assert traced_flops(each_its_own, jnp.zeros((32, 4, 4))) == 32 * square
    assert traced_flops(lambda x: jnp.einsum("i,j->ij", x, x), jnp.zeros(4)) == 0


def test_arithmetic_within_kernels_is_counted_apart():
    """Splash attention: two products forward; five backward, of which one is computed again."""
    q = jnp.zeros((2, 1, 2048, 2, 8))
    product = 2 * q.size * 2048

    def values_and_gradients(q, k, v):
        return jax.value_and_grad(lambda *x: attend(*x).sum(), argnums=(0, 1, 2))(q, k, v)

    with jax.set_mesh(jax.make_mesh((1, 1, 1), ("data", "fsdp", "frames"))):
        jaxpr = jax.make_jaxpr(values_and_gradients)(q, q, q)
    assert count_flops(jaxpr) == (2 + 4) * product
    assert count_kernel_flops(jaxpr, "tpu") == (2 + 5) * product
    assert count_kernel_flops(jaxpr, "cpu") == 0


def test_collectives_are_read_from_a_program():
    """Gathered once before the loop and once a round within it; one sum over everybody."""
    mesh = make_mesh(MeshConfig(data=2, fsdp=4))

    def place(*spec):
        return NamedSharding(mesh, PartitionSpec(*spec))

    def program(w, x, y):
        whole = jax.lax.with_sharding_constraint(w, place())

        def one_round(carry, _):
            gathered = jax.lax.with_sharding_constraint(carry * 2, place(None, None))
            return jax.lax.with_sharding_constraint(gathered @ whole, place("fsdp")), None

        return jax.lax.scan(one_round, x, None, length=5)[0], y.sum()

    shapes = [
        jax.ShapeDtypeStruct((64, 64), jnp.float32, sharding=place(None, "fsdp")),
        jax.ShapeDtypeStruct((64, 64), jnp.float32, sharding=place("fsdp")),
        jax.ShapeDtypeStruct((8, 4), jnp.float32, sharding=place(("data", "fsdp"))),
    ]
    text = jax.jit(program).lower(*shapes).compile().as_text()
    found = find_collectives(text, 8)
    gathers = sorted((one for one in found if one.kind == "all-gather"), key=lambda one: one.times)
    assert gathers == [
        Collective("all-gather", 64 * 64 * 4, 4, 1),
        Collective("all-gather", 64 * 64 * 4, 4, 5),
    ]
    assert [one for one in found if one.kind == "all-reduce"] == [Collective("all-reduce", 4, 8, 1)]
    assert totals_by_kind(found)["all-gather"] == {
        "operations": 6,
        "bytes_sent": 6 * 64 * 64 * 4 * 3 // 4,
    }
    assert totals_by_kind(found)["all-reduce"] == {"operations": 1, "bytes_sent": 2 * 4 * 7 // 8}


LIBTPU = """HloModule jit_step
%wide.cond (p: (s32[], f32[8])) -> pred[] {
  %p = (s32[], f32[8]) parameter(0)
  %limit = s32[]{:T(128)} constant(3)
  ROOT %less = pred[] compare(%i, %limit), direction=LT
}
%all-reduce-scatter.1 (q: bf16[1024]) -> bf16[256] {
  %ar = bf16[1024]{0:T(1024)} all-reduce(%q), channel_id=4, replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
  ROOT %ds = bf16[256] dynamic-slice(%ar, %c), dynamic_slice_sizes={256}
}
%start (r: f32[8]) -> f32[32] {
  %g1 = f32[32]{0} all-gather(%r), channel_id=7, replica_groups=mesh['a'=2,'b'=4], device_ids=([2,4]T(1,0)) {'b'}
}
%done (r: f32[8]) -> f32[32] {
  %g2 = f32[32]{0} all-gather(%r), channel_id=7, replica_groups=mesh['a'=2,'b'=4], device_ids=([2,4]T(1,0)) {'b'}
}
%wide.body (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %move = f32[8]{0} collective-permute(%x), channel_id=9, source_target_pairs={{0,1},{1,0}}
}
ENTRY %main (a: f32[8]) -> f32[8] {
  %rs = bf16[256]{0} fusion(%a), kind=kCustom, calls=%all-reduce-scatter.1
  %f1 = f32[32]{0} fusion(%a), kind=kCustom, calls=%start
  %f2 = f32[32]{0} fusion(%f1), kind=kCustom, calls=%done
  %w = (s32[], f32[8]) while(%t), condition=%wide.cond, body=%wide.body
}
"""


def test_what_libtpu_writes_in_its_own_way_is_read():
    """A reduce-scatter as a fusion, an asynchronous gather as two, a loop without its number of rounds."""
    assert set(find_collectives(LIBTPU, 8)) == {
        Collective("reduce-scatter", 2 * 1024, 4, 1),
        Collective("all-gather", 4 * 32, 4, 1),
        Collective("collective-permute", 4 * 8, 8, 3),
    }


ARRAYS = """HloModule jit_step
%fused (p: f32[100]) -> f32[100] {
  ROOT %inside = f32[4096]{0:T(1024)} exponential(%p)
}
%body (p: (s32[], bf16[2,3,5,200])) -> (s32[], bf16[2,3,5,200]) {
  %p = (s32[]{:T(128)}, bf16[2,3,5,200]{3,2,1,0:T(8,128)(2,1)}) parameter(0)
  %old = bf16[2,3,5,200]{3,2,1,0:T(8,128)(2,1)} get-tuple-element(%p), index=1
  %new = bf16[2,3,5,200]{3,2,1,0:T(8,128)(2,1)} fusion(%old), calls=%fused, metadata={op_name="step/while/exp" id=1}
  ROOT %t = (s32[]{:T(128)}, bf16[2,3,5,200]{3,2,1,0:T(8,128)(2,1)}) tuple(%i, %new)
}
ENTRY %main (a: f32[1000]) -> (f32[1000], f32[300]) {
  %a = f32[1000]{0:T(1024)} parameter(0)
  %near = f32[900]{0:T(1024)S(1)} fusion(%a), kind=kLoop, calls=%fused
  %two = (f32[800]{0:T(1024)}, f32[800]{0:T(1024)S(1)}) fusion(%a), calls=%fused, metadata={op_name="step/two"}
  %one = f32[800]{0:T(1024)} get-tuple-element(%two), index=0
  %other = f32[800]{0:T(1024)S(1)} get-tuple-element(%two), index=1
  %start = (f32[800]{0:T(1024)}, f32[800]{0:T(1024)}, u32[]{:S(2)}) copy-start(%one)
  %done = f32[800]{0:T(1024)} copy-done(%start)
  %loop = (s32[]{:T(128)}, bf16[2,3,5,200]{3,2,1,0:T(8,128)(2,1)}) while(%t), condition=%cond, body=%body
  %last = bf16[2,3,5,200]{3,2,1,0:T(8,128)(2,1)} get-tuple-element(%loop), index=1
  %sum = f32[300]{0:T(1024)} fusion(%done, %last), kind=kLoop, calls=%fused
  ROOT %out = (f32[1000]{0:T(1024)}, f32[300]{0:T(1024)}) tuple(%a, %sum)
}
%cond (p: s32[]) -> pred[] {
  ROOT %less = pred[] compare(%p, %p), direction=LT
}
"""


def test_the_largest_arrays_of_a_program():
    """Sizes count whole tiles of main memory; inputs, outputs, vector memory and the inside of fusions do not count."""
    assert largest_arrays(ARRAYS, 2) == [
        LargeArray("bf16[2,3,5,200]", 2 * 2 * 3 * 8 * 256, 1, "step/while/exp"),
        LargeArray("f32[800]", 4 * 1024, 2, "step/two"),
    ]
    assert [one.shape for one in largest_arrays(ARRAYS, 9)[2:]] == ["pred[]"]
    alone = """ENTRY %main (a: f32[9]) -> f32[20] {
  ROOT %out = f32[20]{0} fusion(%big), calls=%fused
  %big = f32[5000]{0} fusion(%a), calls=%fused
}
"""
    assert [one.shape for one in largest_arrays(alone, 9)] == ["f32[5000]"]


def test_the_largest_arrays_of_a_compiled_program():
    def program(x):
        outer = jnp.sin(x)[:, None] * jnp.cos(x)[None]
        return jax.lax.sort(outer, dimension=0).sum()

    text = jax.jit(program).lower(jnp.zeros(96)).compile().as_text()
    assert {(one.shape, one.bytes) for one in largest_arrays(text, 1)} == {
        ("f32[96,96]", 4 * 96 * 96)
    }
