import pytest
from aot.chips import V5E, V5P, V6E
from aot.network import HIGH, LOW, Network, Side, UnknownGroups, first_group

MICROSECOND = V5E.clock_hz * 1e-6


def slice_of(rows, columns, chip=V5E, assumptions=LOW):
    """Devices walk the slice row by row."""
    return Network(chip, [(x, y) for x in range(rows) for y in range(columns)], assumptions)


def groups(*numbers):
    return f"replica_groups={{{{{','.join(map(str, numbers))}}}}}"


def test_the_two_gathers_that_the_scaling_book_measured():
    """Along the sides of 4 of an 8x4 slice of v5e: 3 x 8.4 MB, and 3 x 32 kB."""
    large, tiny = 3 * 2048 / 4 * 8192 * 2, 3 * 64 * 256 * 2
    book = {LOW: (560, 3), HIGH: (680, 8)}
    for assumptions, (large_us, tiny_us) in book.items():
        network = slice_of(8, 4, assumptions=assumptions)
        assert network.cycles("all-gather", large, groups(0, 1, 2, 3)) == pytest.approx(large_us * MICROSECOND, rel=0.01)
        assert network.cycles("all-gather", tiny, groups(0, 1, 2, 3)) == pytest.approx(tiny_us * MICROSECOND, rel=0.01)


@pytest.mark.parametrize(("chip", "length", "ring"), [(V5E, 8, 0), (V5E, 16, 1), (V6E, 8, 0), (V5P, 4, 1), (V5P, 2, 0)])
def test_a_side_is_a_ring_if_it_is_long_enough(chip, length, ring):
    (side,) = slice_of(length, length, chip).sides(range(length))
    assert side == Side(length, 1, bool(ring))
    assert (side.hops, side.links) == ((length // 2, 2) if ring else (length - 1, 1))


def test_a_ring_takes_half_as_long_as_a_line():
    sent = 2**24
    line = slice_of(8, 8).cycles("reduce-scatter", sent, groups(*range(8)))
    ring = slice_of(16, 16).cycles("reduce-scatter", sent, groups(*range(16)))
    assert (line, ring) == pytest.approx((sent / 30, sent / 60))


def test_groups_that_take_turns_along_a_side_share_its_links():
    network, sent = slice_of(16, 16), 2**24
    (every_other,) = network.sides(range(0, 16, 2))
    assert every_other == Side(8, 2, ring=True)
    assert network.cycles("all-gather", sent, groups(*range(0, 16, 2))) == pytest.approx(sent / 30)
    assert every_other.hops == 8


def test_a_group_over_both_sides_takes_one_after_the_other():
    network = slice_of(8, 16)
    assert network.sides(range(8 * 16)) == [Side(8, 1, ring=False), Side(16, 1, ring=True)]
    assert network.cycles("all-reduce", 100, "replica_groups=[1,128]<=[128]") == pytest.approx(2 * (7 + 8) * MICROSECOND)


def test_shifts_over_a_line_have_to_pass_all_that_is_between():
    shift = "source_target_pairs={{0,1},{1,2},{2,3}}"
    around = "source_target_pairs={{0,1},{1,2},{2,3},{3,0}}"
    sent = 2**24
    assert slice_of(1, 4).cycles("collective-permute", sent, shift) == pytest.approx(sent / 30)
    assert slice_of(1, 4).cycles("collective-permute", sent, around) == pytest.approx(3 * sent / 30)
    assert slice_of(1, 4, V5P).cycles("collective-permute", sent, around) == pytest.approx(sent / 51.5)


def test_a_group_of_one_sends_nothing():
    assert slice_of(2, 2).cycles("all-reduce", 0, groups(0)) == 0


@pytest.mark.parametrize(
    ("written", "first"),
    [
        ("{{0,2},{1,3}}", [0, 2]),
        ("[2,3]<=[6]", [0, 1, 2]),
        ("[3,2]<=[2,3]T(1,0)", [0, 3]),
        ("mesh['x'=2,'y'=3] {'x'}", [0, 3]),
        ("mesh['x'=2,'y'=3] {'y'}", [0, 1, 2]),
        ("mesh['x'=2,'y'=3] {'x','y'}", [0, 1, 2, 3, 4, 5]),
    ],
)
def test_the_ways_to_write_groups(written, first):
    assert first_group(f"channel_id=1, replica_groups={written}, use_global_device_ids=true") == first


def test_what_is_not_understood_is_an_error():
    with pytest.raises(UnknownGroups, match="replica groups not understood: replica_groups="):
        first_group("replica_groups=?")
    with pytest.raises(UnknownGroups, match="source and target not understood"):
        slice_of(2, 2).cycles("collective-permute", 1, "")
