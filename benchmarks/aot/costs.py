"""The charges for a program, and their totals."""

from dataclasses import dataclass, field

MATMULS, FUSIONS, COPIES, KERNELS, EXPOSED, REST = CLASSES = (
    "matrix products",
    "other fusions",
    "copies and layouts",
    "kernels",
    "exposed collectives",
    "other operations",
)


@dataclass(frozen=True)
class Cost:
    """The charge for one instruction.

    Attributes:
        name: name of the instruction.
        opcode: its opcode, also for a fusion or custom call.
        kind: one of ``CLASSES``.
        cycles: cycles per run.
        runs: how often the program runs it.
        by_bytes: whether it is charged at memory bandwidth for lack of an estimate.
        source: its origin in the user's program.
    """

    name: str
    opcode: str
    kind: str
    cycles: float
    runs: int
    by_bytes: bool
    source: str

    @property
    def total(self) -> float:
        """Cycles over the whole program."""
        return self.cycles * self.runs


@dataclass(frozen=True)
class Kernel:
    """The components of the charge for one Pallas call, in cycles per run.

    Attributes:
        name: name of the instruction.
        kernel: the name given to `pallas_call`.
        grid: grid of the call.
        loops: trips of each loop in the schedule over the call.
        bundles: VLIW bundles issued, predicated regions as if always taken.
        matrix: cycles of the busiest matrix unit.
        hbm: cycles of memory traffic.
        hbm_exact: False if the number of fetches is an upper bound or a guess.
        vmem: bytes of VMEM that the kernel uses for blocks and scratch.
        spills: vector registers spilled, according to the schedule.
        runs: how often the program runs it.
    """

    name: str
    kernel: str
    grid: tuple[int, ...]
    loops: tuple[float, ...]
    bundles: float
    matrix: float
    hbm: float
    hbm_exact: bool
    vmem: int
    spills: int
    runs: int

    @property
    def cycles(self) -> float:
        """The charge."""
        return max(self.bundles, self.matrix, self.hbm)

    @property
    def bottleneck(self) -> str:
        """The component that determines the charge."""
        return max(("bundles", "matrix", "hbm"), key=lambda part: float(getattr(self, part)))


@dataclass(frozen=True)
class Collective:
    """One collective, with bytes and cycles per run."""

    name: str
    opcode: str
    group: int
    bytes: float
    hidden: float
    exposed: float
    runs: int


@dataclass
class Account:
    """All charges for a program."""

    costs: list[Cost] = field(default_factory=list)
    kernels: list[Kernel] = field(default_factory=list)
    collectives: list[Collective] = field(default_factory=list)

    @property
    def cycles(self) -> float:
        """Cycles of one call on each chip."""
        return sum(cost.total for cost in self.costs)

    @property
    def by_class(self) -> dict[str, float]:
        """Cycles by ``CLASSES``."""
        totals = dict.fromkeys(CLASSES, 0.0)
        for cost in self.costs:
            totals[cost.kind] += cost.total
        return totals

    @property
    def charged_by_bytes(self) -> list[Cost]:
        """Instructions without an estimate, most expensive first."""
        return sorted((c for c in self.costs if c.cycles and c.by_bytes), key=lambda c: -c.total)
