"""What a program is charged for, and the sums over it."""

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
        name: the instruction's.
        opcode: its kind; for a fusion or custom call, too.
        kind: one of ``CLASSES``.
        cycles: of one run.
        runs: how often the program runs it.
        by_bytes: charged at the memory's rate, for want of an estimate.
        source: where it comes from in the user's program.
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
    """The parts of the charge for one Pallas call, in cycles of one run.

    Attributes:
        name: the instruction's.
        kernel: the name given to `pallas_call`.
        grid: of the call.
        loops: trips of each loop of the schedule over the call.
        bundles: VLIW bundles issued, predicated regions as if always taken.
        matrix: cycles of the busiest matrix unit.
        hbm: cycles of the memory.
        hbm_exact: False where the number of fetches is an upper bound or a guess.
        vmem: bytes of VMEM that the kernel takes for blocks and scratch.
        spills: vector registers stored for want of registers, as written in the schedule.
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
        """What sets the charge."""
        return max(("bundles", "matrix", "hbm"), key=lambda part: float(getattr(self, part)))


@dataclass(frozen=True)
class Collective:
    """One collective, bytes and cycles of one run."""

    name: str
    opcode: str
    group: int
    bytes: float
    hidden: float
    exposed: float
    runs: int


@dataclass
class Account:
    """Everything that a program is charged for."""

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
        """Instructions without an estimate, the dearest first."""
        return sorted((c for c in self.costs if c.cycles and c.by_bytes), key=lambda c: -c.total)
