"""The cost of a compiled program, as a table and as JSON."""

from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import Any

from aot.chips import Chip
from aot.costs import CLASSES, EXPOSED, Account


@dataclass(frozen=True)
class Memory:
    """Bytes per device.

    Attributes:
        arguments: arguments of the call.
        outputs: outputs of the call.
        aliased: outputs that reuse donated arguments.
        temporaries: everything in between.
    """

    arguments: int
    outputs: int
    aliased: int
    temporaries: int

    @property
    def peak(self) -> int:
        """The total that must fit on the device at once."""
        return self.arguments + self.outputs - self.aliased + self.temporaries


def memory_of(compiled: Any) -> Memory:
    """Bytes per device of a compiled function."""
    m = compiled.memory_analysis()
    return Memory(m.argument_size_in_bytes, m.output_size_in_bytes, m.alias_size_in_bytes, m.temp_size_in_bytes)


@dataclass(frozen=True)
class TpuReport:
    """The cost of one call of a program on each chip of a slice; print it for a table.

    Attributes:
        topology: the slice.
        chip: what it is made of.
        memory: bytes per chip.
        account: what every instruction costs if collectives are as fast as they can be (:data:`aot.network.LOW`).
        high: the same if they are as slow as has been measured (:data:`aot.network.HIGH`).
    """

    topology: str
    chip: Chip
    memory: Memory
    account: Account
    high: Account

    @property
    def cycles(self) -> float:
        """Cycles of one call, at least."""
        return self.account.cycles

    @property
    def seconds(self) -> float:
        """Seconds of one call, at least."""
        return self.cycles / self.chip.clock_hz

    def utilization(self, flops: float) -> tuple[float, float]:
        """Fraction of the chip's peak, for a call that does `flops` of useful work on each chip: at least and at most."""
        at_peak = flops / self.chip.flops_per_cycle
        return at_peak / self.high.cycles, at_peak / self.cycles

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        return {
            "topology": self.topology,
            "cycles": self.cycles,
            "cycles_high": self.high.cycles,
            "seconds": self.seconds,
            "classes": self.account.by_class,
            "classes_high": self.high.by_class,
            "memory": {**asdict(self.memory), "peak": self.memory.peak, "hbm": self.chip.hbm_bytes},
            "kernels": [{**asdict(k), "cycles": k.cycles, "bottleneck": k.bottleneck} for k in self.account.kernels],
            "collectives": [asdict(c) for c in self.account.collectives],
            "charged_by_bytes": [asdict(c) for c in self.account.charged_by_bytes],
        }

    def __str__(self) -> str:
        low, high = self.account, self.high
        milliseconds = (1e3 * account.cycles / self.chip.clock_hz for account in (low, high))
        lines = [
            f"{self.topology}: {_millions(low.cycles)} to {_millions(high.cycles)} cycles, "
            f"{' to '.join(f'{ms:,.3f}' for ms in milliseconds)} ms per call; exposed collectives "
            f"{_millions(low.by_class[EXPOSED])} to {_millions(high.by_class[EXPOSED])}; below, the lower figures"
        ]
        lines += _class_lines(low)
        used, hbm, temporary = (n / 2**30 for n in (self.memory.peak, self.chip.hbm_bytes, self.memory.temporaries))
        lines.append(f"memory: {used:.2f} of {hbm:.0f} GiB per chip, {temporary:.2f} GiB of it temporary")
        lines += _kernel_lines(self.account) + _collective_lines(self.account) + _by_bytes_lines(self.account)
        return "\n".join(lines)


def _millions(cycles: float) -> str:
    return f"{cycles / 1e6:,.3f} M"


def _class_lines(account: Account) -> list[str]:
    total, by_class = account.cycles, account.by_class
    return [f"  {kind:<20}{_millions(by_class[kind]):>14}{by_class[kind] / (total or 1):>8.1%}" for kind in CLASSES]


def _kernel_lines(account: Account) -> list[str]:
    lines = ["kernels: cycles of one run by bottleneck (? where fetches are an upper bound)"] if account.kernels else []
    for k in account.kernels:
        hbm = f"{k.hbm:,.0f}{'' if k.hbm_exact else '?'}"
        lines.append(
            f"  {k.name} x {k.runs}: {k.cycles:,.0f} by {k.bottleneck}; "
            f"bundles {k.bundles:,.0f}, matrix {k.matrix:,.0f}, hbm {hbm}; "
            f"grid {k.grid}, VMEM {k.vmem / 2**20:.2f} MiB, {k.spills} spills"
        )
    return lines


def _collective_lines(account: Account) -> list[str]:
    """Similar collectives grouped together: an unrolled model has hundreds."""
    groups: defaultdict[tuple[str, int, float], list[float]] = defaultdict(lambda: [0, 0.0, 0.0])
    for c in account.collectives:
        row = groups[c.opcode, c.group, c.bytes]
        row[0] += c.runs
        row[1] += c.runs * c.hidden
        row[2] += c.runs * c.exposed
    lines = ["collectives: runs, bytes sent per chip and run, total cycles"] if groups else []
    for (opcode, group, sent), (runs, hidden, exposed) in sorted(groups.items(), key=lambda item: -item[1][2]):
        over = f" over {group}" if group else ""
        lines.append(
            f"  {runs:,.0f} x {opcode}{over}: {sent / 2**20:,.3f} MiB; "
            f"{_millions(hidden)} hidden, {_millions(exposed)} exposed"
        )
    return lines


def _by_bytes_lines(account: Account) -> list[str]:
    """Instructions without an estimate by kind, each with the most expensive one."""
    groups = defaultdict(list)
    for cost in account.charged_by_bytes:
        groups[cost.opcode].append(cost)
    total = sum(cost.total for cost in account.charged_by_bytes)
    lines = [f"without an estimate, charged by bytes: {_millions(total)} cycles"] if groups else []
    for opcode, costs in groups.items():
        costliest = costs[0]
        lines.append(
            f"  {len(costs)} x {opcode}: {_millions(sum(c.total for c in costs))}; largest {costliest.name} "
            f"{_millions(costliest.total)} {costliest.source}".rstrip()
        )
    return lines
