"""Cycles of a whole compiled TPU program: every instruction is charged, hidden behind another one, or rejected.

* An instruction with the compiler's `estimated_cycles` costs those.
* A `while` costs its body times its trips.
* A Pallas call costs the maximum of: bundles issued, cycles of the busiest matrix unit, HBM bytes at memory bandwidth.
* A copy or collective split into start and done costs what the work between the two does not hide. Copies share one queue at
  memory bandwidth, collectives one of their own, in which each takes what :mod:`aot.network` says. A collective that the
  compiler threads through a chain of fusions starts with the first of them and is done with the last.
* Anything else costs its bytes at memory bandwidth, and is listed.
* An unknown kind of instruction is an error: a cost model that skips what it does not know is too optimistic.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from aot.bundles import Loop, kernel_cycles
from aot.chips import Chip
from aot.costs import COPIES, EXPOSED, FUSIONS, KERNELS, MATMULS, REST, Account, Collective, Cost, Kernel
from aot.hlo import Array, Computation, Instruction, Module
from aot.mosaic import read_mosaic_call
from aot.network import Network, UnknownGroups


def _kinds(names: str) -> frozenset[str]:
    return frozenset(names.split())


FREE = _kinds(
    "add-dependency after-all bitcast constant get-tuple-element opt-barrier parameter partition-id replica-id tuple"
)
FREE_CUSTOM_CALLS = frozenset({"AllocateBuffer", "AssumeGatherIndicesInBound", "ConcatBitcast"})
COLLECTIVES = _kinds("all-gather all-reduce all-to-all collective-broadcast collective-permute reduce-scatter")
LAYOUT = _kinds(
    "bitcast-convert broadcast concatenate copy dynamic-slice dynamic-update-slice iota pad reshape reverse slice transpose"
)
ARITHMETIC = _kinds(
    "abs add and atan2 cbrt ceil clamp clz compare convert cosine count-leading-zeros divide erf exponential "
    "exponential-minus-one floor gather is-finite log log-plus-one logistic map maximum minimum multiply negate not or "
    "popcnt power reduce reduce-precision reduce-window remainder rng rng-bit-generator rng-get-and-update-state "
    "round-nearest-afz round-nearest-even rsqrt scatter select select-and-scatter shift-left shift-right-arithmetic "
    "shift-right-logical sign sine sort sqrt stochastic-convert subtract tan tanh xor"
)
MATMUL = frozenset({"convolution", "dot"})


class UnknownInstruction(ValueError):
    """The program has an instruction that the cost model has no rule for."""


@dataclass(frozen=True)
class KernelRun:
    """Properties of a Pallas kernel that are known only at run time.

    Attributes:
        iterations: for each loop with data-dependent trips, in schedule order: trips summed over the call.
        hbm_bytes: bytes between HBM and VMEM over the call, if the blocks do not determine them.
    """

    iterations: Sequence[float] = ()
    hbm_bytes: int | None = None


def account(
    module: Module, network: Network, schedules: Mapping[str, Loop], kernels: Mapping[str, KernelRun] | None = None
) -> Account:
    """Charge a whole program.

    Args:
        module: the scheduled program.
        network: the chips that it was compiled for.
        schedules: the schedule of each Pallas call, by instruction name.
        kernels: run-time properties, by the name given to `pallas_call`.

    Raises:
        UnknownInstruction: there is no rule for a kind of instruction, or a loop's trips are not in the program.
        ValueError: `kernels` does not fit; see :func:`aot.bundles.kernel_cycles`.
    """
    accountant = _Accountant(module, network, schedules, kernels or {})
    accountant.charge(module.entry, 1)
    if unused := set(kernels or {}) - {kernel.kernel for kernel in accountant.account.kernels}:
        raise ValueError(f"the program has no Pallas call named {', '.join(sorted(unused))}")
    return accountant.account


@dataclass
class _Transfer:
    """A copy or collective in progress; `collective` is None for a copy."""

    name: str
    duration: float
    finish: float
    collective: Collective | None


@dataclass
class _Clock:
    """Time within one run of a computation, and the transfers that run concurrently."""

    now: float = 0.0
    under_way: dict[str, _Transfer] = field(default_factory=dict)
    _queue_free: defaultdict[bool, float] = field(default_factory=lambda: defaultdict(float))  # by "is a collective"

    def start(self, key: str, name: str, duration: float, collective: Collective | None) -> None:
        """Put a transfer in its queue."""
        queue = collective is not None
        self._queue_free[queue] = max(self.now, self._queue_free[queue]) + duration
        self.under_way[key] = _Transfer(name, duration, self._queue_free[queue], collective)

    def wait(self, key: str, hides: bool) -> tuple[_Transfer, float]:
        """Wait for a transfer; returns it and the cycles waited: all of a collective's, if work ``hides`` nothing of it."""
        transfer = self.under_way.pop(key)
        exposed = max(0.0, transfer.finish - self.now)
        if transfer.collective is not None and not hides:
            exposed = transfer.duration
        self.now += exposed
        return transfer, exposed


class _Link(NamedTuple):
    """One fusion of a chain that carries a collective: names of the first and last, and the collective in this one."""

    first: str
    last: str
    body: Computation
    collective: Instruction


@dataclass
class _Accountant:
    module: Module
    network: Network
    schedules: Mapping[str, Loop]
    hints: Mapping[str, KernelRun]
    account: Account = field(default_factory=Account)

    @property
    def chip(self) -> Chip:
        return self.network.chip

    def charge(self, computation: Computation, runs: int) -> float:
        """Charge each instruction of a computation that runs `runs` times; returns the cycles of one run."""
        clock = _Clock()
        chains = self._collective_chains(computation)
        for instruction in computation:
            base, _, phase = instruction.opcode.rpartition("-")
            if phase == "start":
                clock.start(instruction.name, instruction.name, *self._transfer(computation, instruction, base, runs))
            elif phase == "done":
                self._wait(clock, self._start_of(computation, instruction, clock), base, runs)
            elif instruction.name in chains:
                for first, _, body, inner in chains[instruction.name]:
                    if instruction.name == first:
                        clock.start(inner.channel, first, *self._transfer(body, inner, inner.opcode, runs))
                if instruction.estimated_cycles is not None:  # also computes something other than the collective
                    clock.now += self._charge_one(computation, instruction, runs)
                for _, last, _, inner in chains[instruction.name]:
                    if instruction.name == last:
                        self._wait(clock, inner.channel, inner.opcode, runs)
            elif phase != "update":
                clock.now += self._charge_one(computation, instruction, runs)
        if clock.under_way:
            raise UnknownInstruction(f"{computation.name}: started but not done in it: {', '.join(clock.under_way)}")
        return clock.now

    def _charge_one(self, computation: Computation, instruction: Instruction, runs: int) -> float:
        opcode = instruction.opcode
        if opcode in FREE or (opcode == "custom-call" and instruction.custom_call_target in FREE_CUSTOM_CALLS):
            return 0.0
        if opcode == "while":
            trips = self.module.trip_count(computation, instruction)
            if trips is None:
                raise UnknownInstruction(f"{instruction.name}: a while loop whose trips are not constants in the program")
            return trips * self.charge(self.module.computations[instruction.called("body") or ""], runs * trips)
        if opcode == "call":
            return self.charge(self.module.computations[instruction.called("to_apply") or ""], runs)
        if opcode == "conditional":
            return self._charge_conditional(instruction, runs)
        if opcode == "custom-call" and instruction.custom_call_target == "tpu_custom_call":
            return self._charge_kernel(computation, instruction, runs)
        if opcode in COLLECTIVES:
            clock = _Clock()
            clock.start(instruction.name, instruction.name, *self._transfer(computation, instruction, opcode, runs))
            return self._wait(clock, instruction.name, opcode, runs)
        kind = self._kind(instruction)
        estimate = instruction.estimated_cycles
        cycles = (
            self._bytes(computation, instruction) / self.chip.hbm_bytes_per_cycle if estimate is None else float(estimate)
        )
        self._add(instruction, kind, cycles, runs, by_bytes=estimate is None)
        return cycles

    def _charge_conditional(self, instruction: Instruction, runs: int) -> float:
        """Only the most expensive branch is charged."""
        kept, results = self.account, []
        for branch in instruction.branches:
            self.account = Account()
            results.append((self.charge(self.module.computations[branch], runs), self.account))
        self.account = kept
        cycles, costliest = max(results, key=lambda result: result[0])
        kept.costs += costliest.costs
        kept.kernels += costliest.kernels
        kept.collectives += costliest.collectives
        return cycles

    def _charge_kernel(self, computation: Computation, instruction: Instruction, runs: int) -> float:
        call = read_mosaic_call(instruction.backend_config)
        hint = self.hints.get(call.name, KernelRun())
        schedule = self.schedules.get(instruction.name)
        if schedule is None:
            raise UnknownInstruction(
                f"{instruction.name}: no schedule; the compiler writes it only for a fresh compilation, in a process that "
                "loaded libtpu through aot"
            )
        cycles = kernel_cycles(
            schedule,
            grid_steps=call.steps,
            matrix_cycles=self.chip.matrix_cycles,
            iterations=hint.iterations,
            name=call.name,
        )
        moved, exact = call.hbm_bytes(computation.operand_arrays(instruction), instruction.shape)
        if hint.hbm_bytes is not None:
            moved, exact = hint.hbm_bytes, True
        hbm = moved / self.chip.hbm_bytes_per_cycle
        kernel = Kernel(
            instruction.name,
            call.name,
            call.grid,
            cycles.steps,
            cycles.bundles,
            cycles.matrix,
            hbm,
            exact,
            instruction.scoped_vmem,
            sum(loop.spills for loop in schedule.walk()),
            runs,
        )
        self.account.kernels.append(kernel)
        self._add(instruction, KERNELS, kernel.cycles, runs)
        return kernel.cycles

    def _kind(self, instruction: Instruction) -> str:
        if instruction.opcode == "fusion":
            inside = {i.opcode for _, i in self.module.reachable(instruction.called("calls") or "")} - FREE - {"fusion"}
            if inside & MATMUL:
                return MATMULS
            return COPIES if inside <= LAYOUT else FUSIONS
        if instruction.opcode in MATMUL:
            return MATMULS
        if instruction.opcode in LAYOUT:
            return COPIES
        if instruction.opcode in ARITHMETIC:
            return REST
        target = f" to {instruction.custom_call_target!r}" if instruction.opcode == "custom-call" else ""
        raise UnknownInstruction(
            f"{instruction.name}: no rule for a {instruction.opcode}{target}; from {instruction.op_name}"
        )

    def _start_of(self, computation: Computation, done: Instruction, clock: _Clock) -> str:
        name = done.operands[0]
        while name not in clock.under_way and computation[name].opcode.endswith("-update"):
            name = computation[name].operands[0]
        if name not in clock.under_way:
            raise UnknownInstruction(f"{done.name}: its start is not in the same computation")
        return name

    def _collective_chains(self, computation: Computation) -> dict[str, list[_Link]]:
        """The collectives inside each fusion; those of one channel are one collective."""
        found: dict[str, list[tuple[str, Computation, Instruction]]] = defaultdict(list)
        for fusion in computation:
            if fusion.opcode == "fusion":
                for body, inner in self.module.reachable(fusion.called("calls") or ""):
                    if inner.opcode in COLLECTIVES:
                        found[inner.channel].append((fusion.name, body, inner))
        links: dict[str, list[_Link]] = defaultdict(list)
        for chain in found.values():
            for name, body, inner in chain:
                links[name].append(_Link(chain[0][0], chain[-1][0], body, inner))
        return links

    def _transfer(
        self, computation: Computation, instruction: Instruction, base: str, runs: int
    ) -> tuple[float, Collective | None]:
        if base in LAYOUT:
            moved = instruction.shape[-2].bytes  # of (operands, result, context)
            return moved / self.chip.hbm_bytes_per_cycle, None
        if base not in COLLECTIVES:
            raise UnknownInstruction(f"{instruction.name}: no rule for an asynchronous {base}")
        group = instruction.group_size
        sent = float(sum(a.bytes for a in computation.operand_arrays(instruction)))
        if base != "collective-permute":
            share = (group - 1) / max(group, 1)
            sent *= {"all-reduce": 2 * share, "all-gather": group - 1.0}.get(base, share)
        try:
            cycles = self.network.cycles(base, sent, instruction.attributes)
        except UnknownGroups as error:
            raise UnknownInstruction(f"{instruction.name}: {error}") from error
        return cycles, Collective(instruction.name, base, group, sent, 0.0, 0.0, runs)

    def _wait(self, clock: _Clock, key: str, base: str, runs: int) -> float:
        transfer, exposed = clock.wait(key, self.network.assumptions.hides)
        kind = COPIES
        if transfer.collective is not None:
            kind = EXPOSED
            hidden = max(0.0, transfer.duration - exposed)
            self.account.collectives.append(replace(transfer.collective, hidden=hidden, exposed=exposed))
        self.account.costs.append(Cost(transfer.name, base, kind, exposed, runs, transfer.collective is None, ""))
        return exposed

    def _bytes(self, computation: Computation, instruction: Instruction) -> int:
        """Bytes that an instruction moves through HBM; all its bytes if it works only in VMEM."""
        arrays: tuple[Array, ...] = (*computation.operand_arrays(instruction), *instruction.shape)
        if instruction.opcode in ("dynamic-slice", "slice", "gather"):
            arrays = (*instruction.shape, *instruction.shape)
        elif instruction.opcode == "dynamic-update-slice":
            arrays = 2 * computation[instruction.operands[1]].shape
        return sum(a.bytes for a in arrays if a.space == 0) or sum(a.bytes for a in arrays)

    def _add(self, instruction: Instruction, kind: str, cycles: float, runs: int, *, by_bytes: bool = False) -> None:
        cost = Cost(instruction.name, instruction.opcode, kind, cycles, runs, by_bytes, instruction.op_name)
        self.account.costs.append(cost)
