import pytest
from aot.hlo import Array, parse_module, parse_shape
from hypothesis import given
from hypothesis import strategies as st


def counted_loop(start: int, end: int, step: int) -> str:
    """A loop whose counter is the second entry of its tuple and, as the compiler writes it, goes through copies."""
    return f"""HloModule loop, is_scheduled=true

%body (p.1: (f32[8], s32[])) -> (f32[8], s32[]) {{
  %p.1 = (f32[8]{{0:T(256)}}, s32[]{{:T(128)}}) parameter(0)
  %x.1 = f32[8]{{0:T(256)}} get-tuple-element(%p.1), index=0
  %i.1 = s32[]{{:T(128)}} get-tuple-element(%p.1), index=1
  %copied.1 = s32[]{{:T(128)S(6)}} copy(%i.1)
  %step.1 = s32[]{{:T(128)}} constant({step})
  %next.1 = s32[]{{:T(128)}} add(%copied.1, %step.1)
  ROOT %result.1 = (f32[8]{{0:T(256)}}, s32[]{{:T(128)}}) tuple(%x.1, %next.1)
}}

%condition (p.2: (f32[8], s32[])) -> pred[] {{
  %p.2 = (f32[8]{{0:T(256)}}, s32[]{{:T(128)}}) parameter(0)
  %i.2 = s32[]{{:T(128)}} get-tuple-element(%p.2), index=1
  %end.2 = s32[]{{:T(128)}} constant({end})
  ROOT %less.2 = pred[]{{:T(512)}} compare(%i.2, %end.2), direction=LT
}}

ENTRY %main (x: f32[8]) -> (f32[8], s32[]) {{
  %x = f32[8]{{0:T(256)}} parameter(0)
  %start = s32[]{{:T(128)}} constant({start})
  %counter = s32[]{{:T(128)}} copy(%start)
  %initial = (f32[8]{{0:T(256)}}, s32[]{{:T(128)}}) tuple(%x, %counter)
  ROOT %loop = (f32[8]{{0:T(256)}}, s32[]{{:T(128)}}) while(%initial), condition=%condition, body=%body
}}
"""


@given(st.integers(-5, 20), st.integers(-5, 60), st.integers(1, 7))
def test_trips_of_a_counted_loop(start, end, step):
    module = parse_module(counted_loop(start, end, step))
    assert module.trip_count(module.entry, module.entry.root) == len(range(start, end, step))


@pytest.mark.parametrize(
    ("written", "instead"),
    [
        ("direction=LT", "direction=NE"),
        ("%next.1 = s32[]{:T(128)} add(", "%next.1 = s32[]{:T(128)} multiply("),
        ("%end.2 = s32[]{:T(128)} constant(12)", "%end.2 = s32[]{:T(128)} get-tuple-element(%p.2), index=1"),
        ("%start = s32[]{:T(128)} constant(0)", "%start = s32[]{:T(128)} parameter(1)"),
    ],
)
def test_trips_that_the_program_does_not_tell(written, instead):
    text = counted_loop(0, 12, 1)
    assert written in text
    module = parse_module(text.replace(written, instead))
    assert module.trip_count(module.entry, module.entry.root) is None


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ("bf16[8192,768]{1,0:T(8,128)(2,1)}", 8192 * 768 * 2),
        ("f32[2048,64]{1,0:T(8,128)S(1)}", 2048 * 128 * 4),  # 64 lanes take the room of 128
        ("f32[2048,64]{0,1:T(8,128)}", 2048 * 64 * 4),  # the other way round they do not
        ("bf16[3,5,7]{2,1,0:T(8,128)(2,1)}", 3 * 8 * 128 * 2),
        ("pred[100]{0:T(512)}", 512),
        ("f32[]{:T(128)}", 512),
        ("s4[64,128]{1,0}", 64 * 128 // 2),
        ("token[]", 0),
    ],
)
def test_bytes_with_tile_padding(shape, size):
    (array,) = parse_shape(shape)
    assert array.bytes == size


def test_arrays_of_a_nested_tuple():
    shape = parse_shape("((f32[4,8]{1,0:T(4,128)}), bf16[2]{0:T(256)(128)(2,1)S(1)}, u32[]{:S(2)})")
    assert shape == (
        Array("f32", (4, 8), (1, 0), (4, 128)),
        Array("bf16", (2,), (0,), (256,), space=1),
        Array("u32", (), (), (), space=2),
    )


@pytest.mark.parametrize(
    ("groups", "size"),
    [
        ("{{0,1,2},{3,4,5}}", 3),
        ("[4,16]<=[64]", 16),
        ("[2,8]<=[8,2]T(1,0)", 8),
        ("mesh['data'=4,'fsdp'=8] {'fsdp'}", 8),
        ("mesh['data'=4,'fsdp'=8] {'data','fsdp'}", 32),
    ],
)
def test_devices_in_a_group(groups, size):
    text = f"""HloModule m

ENTRY %main (x: f32[8]) -> f32[8] {{
  %x = f32[8]{{0:T(256)}} parameter(0)
  ROOT %sum = f32[8]{{0:T(256)}} all-reduce(%x), channel_id=3, replica_groups={groups}, to_apply=%add
}}
"""
    root = parse_module(text).entry.root
    assert (root.group_size, root.channel) == (size, "3")


def test_text_that_is_not_hlo():
    with pytest.raises(ValueError, match="ENTRY"):
        parse_module("module @jit_f { }")
