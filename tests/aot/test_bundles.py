import itertools

import pytest
from aot.bundles import kernel_cycles, parse_bundles
from hypothesis import given
from hypothesis import strategies as st


class Schedule:
    """Writes a schedule as the compiler does: bundles by address, loops by regions, four delay slots after a branch."""

    def __init__(self):
        self.lines, self.regions = [], itertools.count(100)

    def add(self, depth, text="", label=""):
        self.lines.append(f"  {len(self.lines):#x} {label:>2}: {'>' * depth} {{ {text} }}")

    def loop(self, depth, body, trips, *, grid=False):
        """`body` is a number of bundles, or a list of numbers and (body, trips) pairs for loops inside."""
        region = next(self.regions)
        note = " /* iteration index, stage = 0 */" if grid else ""
        self.add(depth, f"%s1 = sphi %s0, %s2{note} }} /* Start region {region} :: Start region 7", "LB")
        self.fill(depth, body)
        if trips is not None:
            self.add(depth, f"%p1 = scmp.ge.s32.totalorder %s2, {trips} /* loop exit test */")
        self.add(depth, f"%29 = sbr.rel (!%p1) target = $region{region}")
        for _ in range(4):
            self.add(depth - 1)

    def fill(self, depth, body):
        for part in body if isinstance(body, list) else [body]:
            if isinstance(part, int):
                for _ in range(part):
                    self.add(depth)
            else:
                self.loop(depth + 1, *part)

    @property
    def text(self):
        legend = "= control target key start\nLB: loop body\n= control target key end\n\n"
        return legend + "\n".join(self.lines) + "\n"


def frame(static):
    """Bundles of a loop beside its body: header, exit test if the trips are known, branch, delay slots."""
    return 6 + static


bodies = st.recursive(
    st.integers(0, 5),
    lambda inner: st.lists(st.one_of(st.integers(0, 5), st.tuples(inner, st.integers(1, 9))), min_size=1, max_size=3),
    max_leaves=6,
)


def bundles_run(body):
    """What a body should cost, counted from its description."""
    if isinstance(body, int):
        return body
    return sum(p if isinstance(p, int) else p[1] * (bundles_run(p[0]) + frame(1)) for p in body)


@given(bodies, st.integers(1, 4))
def test_bundles_times_trips_by_loop(body, before):
    schedule = Schedule()
    schedule.fill(0, [before, *(body if isinstance(body, list) else [body])])
    cycles = kernel_cycles(parse_bundles(schedule.text), grid_steps=1, matrix_cycles=16)
    assert cycles.bundles == before + bundles_run(body)


def test_trips_that_only_the_run_knows():
    schedule = Schedule()
    schedule.loop(1, [3, (2, None), (4, 5)], 26, grid=True)
    kernel = parse_bundles(schedule.text)
    cycles = kernel_cycles(kernel, grid_steps=24, matrix_cycles=16, iterations=(100,))
    assert cycles.bundles == 24 * (3 + frame(1)) + 100 * (2 + frame(0)) + 24 * 5 * (4 + frame(1))
    assert cycles.steps == (24, 100, 120)
    with pytest.raises(ValueError, match=r"k: 1 loops .* at 0x4 \(8 bundles\); 0 totals given"):
        kernel_cycles(kernel, grid_steps=24, matrix_cycles=16, name="k")
    with pytest.raises(ValueError, match="2 totals given"):
        kernel_cycles(kernel, grid_steps=24, matrix_cycles=16, iterations=(1, 2))


def test_the_busiest_matrix_unit_sets_the_floor():
    schedule = Schedule()
    schedule.loop(1, 0, 10)
    unit = "%1 = vmatmul.bf16.gmra.mxu{} %v1  ;;  %2 = vmatpush.bf16.msra.mxu0 %v2"
    schedule.lines[1:1] = ["  0x1   : >  { " + unit.format(2) + " }", "  0x2   : >  { " + unit.format(2) + " }"]
    schedule.lines[3:3] = ["  0x3   : >  { " + unit.format(1) + "\ncomment on a line of its own */ }"]
    text = "\n".join(line.replace(line.split()[0], f"{n:#x}", 1) for n, line in enumerate(schedule.lines))
    cycles = kernel_cycles(parse_bundles(text), grid_steps=1, matrix_cycles=16)
    assert cycles.matrix == 16 * 10 * 2
    assert cycles.bundles == 10 * (3 + frame(1))


def test_delay_slots_end_where_the_next_loop_starts():
    schedule = Schedule()
    schedule.loop(1, 2, 3)
    del schedule.lines[-2:]  # a chip with two delay slots
    schedule.loop(1, 1, 5)
    text = "\n".join(line.replace(line.split()[0], f"{n:#x}", 1) for n, line in enumerate(schedule.lines))
    cycles = kernel_cycles(parse_bundles(text), grid_steps=1, matrix_cycles=16)
    assert cycles.bundles == 3 * (2 + frame(1) - 2) + 5 * (1 + frame(1))


def test_damaged_schedules_are_refused():
    schedule = Schedule()
    schedule.loop(1, 2, 3)
    with pytest.raises(ValueError, match="bundle 0x2 is missing"):
        parse_bundles("\n".join(schedule.lines[:2] + schedule.lines[3:]))
    with pytest.raises(ValueError, match="no branch back"):
        parse_bundles(schedule.text.replace("sbr.rel", "snop"))
    with pytest.raises(ValueError, match="no VLIW bundles"):
        parse_bundles("")
    with pytest.raises(ValueError, match="no loop over it"):
        kernel_cycles(parse_bundles(schedule.text), grid_steps=8, matrix_cycles=16)
