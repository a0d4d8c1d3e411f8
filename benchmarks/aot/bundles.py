"""The VLIW schedule of one TPU kernel: which bundles run, and how often.

The compiler's dump lists the bundles of a kernel by address. A loop starts at an ``LB:`` line and ends with the branch back
to one of the regions that start there; the four bundles after a branch (its delay slots) also run. Predicated regions are
counted as if always taken.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

_DELAY_SLOTS = 4
_BUNDLE = re.compile(r"^\s*(0|0x[0-9a-f]+)\s+([A-Z]{2})?\s*:\s(>*)")
_MATRIX = re.compile(r"= vmatmul\S*\.(mxu\d)")
_SPILL = re.compile(r"vst \[vmem:\[#allocation\d+_spill\]")
_EXIT = re.compile(r"scmp\.ge\.s32\.totalorder %\S+, (\d+) /\* loop exit test \*/")
_BRANCH = re.compile(r"sbr\.rel.*?target = \$region(\d+)")


@dataclass
class Loop:
    """A range of bundles that runs `trips` times per run of its enclosing loop.

    Attributes:
        start: address of the first bundle.
        end: address after the last bundle.
        trips: None if known only at run time.
        is_grid: whether this is the loop over the steps of a Pallas grid.
        matrix: matrix instructions by unit, excluding inner loops.
        spills: vector registers spilled, excluding inner loops.
        inner: loops inside this one, in order.
    """

    start: int
    end: int
    trips: int | None
    is_grid: bool = False
    matrix: dict[str, int] = field(default_factory=dict)
    spills: int = 0
    inner: list["Loop"] = field(default_factory=list)

    @property
    def bundles(self) -> int:
        """This loop's own bundles, excluding inner loops."""
        return self.end - self.start - sum(loop.end - loop.start for loop in self.inner)

    def walk(self) -> Iterator["Loop"]:
        """This loop and every loop inside it, by address."""
        yield self
        for loop in self.inner:
            yield from loop.walk()


def parse_bundles(text: str) -> Loop:
    """The loops of a ``*-final_bundles.txt``; the outermost one is the kernel itself, which runs once.

    Raises:
        ValueError: the text is not such a dump, or a loop has no backward branch.
    """
    bundles = _join_lines(text)
    kernel = Loop(0, len(bundles), 1)
    enclosing = [kernel]
    for address, (label, bundle) in enumerate(bundles):
        while address >= enclosing[-1].end:
            enclosing.pop()
        if label.startswith("LB"):
            depth = label.count(">")
            for outer in enclosing[depth:]:  # its delay slots reach into this loop
                outer.end = address
            del enclosing[depth:]
            loop = Loop(address, _loop_end(bundles, address), None, "iteration index" in bundle)
            enclosing[-1].inner.append(loop)
            enclosing.append(loop)
        loop = enclosing[-1]
        if exit_test := _EXIT.search(bundle):
            loop.trips = int(exit_test.group(1))
        loop.spills += len(_SPILL.findall(bundle))
        for unit in _MATRIX.findall(bundle):
            loop.matrix[unit] = loop.matrix.get(unit, 0) + 1
    return kernel


def _join_lines(text: str) -> list[tuple[str, str]]:
    """(label, text) of each bundle; bundles with multi-line comments are joined into one line."""
    bundles: list[tuple[str, str]] = []
    for line in text.splitlines():
        if head := _BUNDLE.match(line):
            if int(head.group(1), 16) != len(bundles):
                raise ValueError(f"bundle {len(bundles):#x} is missing before: {line[:80]}")
            bundles.append(((head.group(2) or "") + head.group(3), line[head.end() :]))
        elif bundles:
            bundles[-1] = (bundles[-1][0], bundles[-1][1] + " " + line)
    if not bundles:
        raise ValueError("no VLIW bundles in the schedule")
    return bundles


def _loop_end(bundles: list[tuple[str, str]], start: int) -> int:
    regions = set(re.findall(r"Start region (\d+)", bundles[start][1]))
    for address in range(len(bundles) - 1, start - 1, -1):
        if any(target in regions for target in _BRANCH.findall(bundles[address][1])):
            return min(address + 1 + _DELAY_SLOTS, len(bundles))
    raise ValueError(f"the loop at bundle {start:#x} has no branch back")


@dataclass(frozen=True)
class KernelCycles:
    """Resource use of one kernel call, in cycles.

    Attributes:
        bundles: bundles issued.
        matrix: cycles of the busiest matrix unit.
        steps: trips of each loop over the whole call, by address.
    """

    bundles: float
    matrix: float
    steps: tuple[float, ...]


def kernel_cycles(
    kernel: Loop, *, grid_steps: int, matrix_cycles: int, iterations: Sequence[float] = (), name: str = "kernel"
) -> KernelCycles:
    """Bundles and matrix cycles of one call.

    Args:
        kernel: from :func:`parse_bundles`.
        grid_steps: steps of the Pallas grid; they replace the trips of the grid loop, which has two more to fill and drain
            its pipeline.
        matrix_cycles: cycles for which one matrix instruction occupies its unit.
        iterations: for each loop whose trips are not in the schedule, by address: its trips summed over the whole call.
        name: name for messages.

    Raises:
        ValueError: `iterations` does not match the kernel's loops, or the grid loop is missing.
    """
    dynamic = [loop for loop in kernel.walk() if loop.trips is None]
    if len(dynamic) != len(iterations):
        places = ", ".join(f"{loop.start:#x} ({loop.bundles} bundles)" for loop in dynamic) or "none"
        raise ValueError(
            f"{name}: {len(dynamic)} loops with trips known only at run time, at {places}; "
            f"{len(iterations)} totals given in `iterations`"
        )
    totals = {id(loop): float(total) for loop, total in zip(dynamic, iterations, strict=True)}
    if grid_steps > 1 and not any(loop.is_grid for loop in kernel.walk()):
        raise ValueError(f"{name}: a grid of {grid_steps} steps, but no loop over it in the schedule")

    bundles, matrix, steps = 0.0, dict[str, float](), list[float]()

    def visit(loop: Loop, entered: float) -> None:
        nonlocal bundles
        trips = grid_steps if loop.is_grid else loop.trips
        runs = totals[id(loop)] if trips is None else entered * trips
        if loop is not kernel:
            steps.append(runs)
        bundles += runs * loop.bundles
        for unit, count in loop.matrix.items():
            matrix[unit] = matrix.get(unit, 0.0) + runs * count
        for inner in loop.inner:
            visit(inner, runs)

    visit(kernel, 1.0)
    return KernelCycles(bundles, matrix_cycles * max(matrix.values(), default=0.0), tuple(steps))
