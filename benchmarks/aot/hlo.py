"""Parse scheduled HLO text into computations, instructions, the bytes of their shapes and the trips of their loops.

Only the syntax is handled here; :mod:`aot.account` decides what an instruction costs.
"""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

_BITS = {"pred": 8, "token": 0, "opaque": 0}
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\](?:\{([^{}]*)\})?")
_HEAD = re.compile(r"^\s*(ROOT )?%?([^\s=]+) = ")
_OPCODE = re.compile(r"\s*([\w-]+)\(")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([^\s(]+) \(.*\) -> .*\{$")
_CALLED = re.compile(r"(calls|to_apply|condition|body|true_computation|false_computation)=%?([^\s,)}]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")


@dataclass(frozen=True)
class Array:
    """One array of a shape: ``bf16[8192,768]{1,0:T(8,128)(2,1)S(1)}``.

    Attributes:
        dtype: XLA's name of the element type.
        dims: logical sizes.
        minor_to_major: dimensions, fastest-varying first.
        tile: sizes of the memory tile, minor dimension last; empty if the layout has none.
        space: memory space; 0 is HBM, 1 is VMEM.
    """

    dtype: str
    dims: tuple[int, ...]
    minor_to_major: tuple[int, ...] = ()
    tile: tuple[int, ...] = ()
    space: int = 0

    @property
    def bits(self) -> int:
        """Bits per element."""
        if self.dtype in _BITS:
            return _BITS[self.dtype]
        return int(re.findall(r"\d+", self.dtype)[0])

    @property
    def bytes(self) -> int:
        """Bytes in memory, tile padding included."""
        return self.bytes_of(self.dims)

    def bytes_of(self, dims: tuple[int, ...]) -> int:
        """Bytes of a block of this array with the given sizes, padded to the array's tiles."""
        order = self.minor_to_major or tuple(range(len(dims)))[::-1]
        physical = [dims[d] for d in order[::-1]]
        physical = [1] * (len(self.tile) - len(physical)) + physical
        for back, tile in enumerate(reversed(self.tile), start=1):
            physical[-back] = -(-physical[-back] // tile) * tile
        return math.prod(physical) * self.bits // 8


def parse_shape(text: str) -> tuple[Array, ...]:
    """All arrays of a shape, with nested tuples flattened in order."""
    return tuple(_array(*match.groups()) for match in _ARRAY.finditer(text))


def _array(dtype: str, dims: str, layout: str | None) -> Array:
    order, _, memory = (layout or "").partition(":")
    tile = re.search(r"T\(([\d,]+)\)", memory)
    space = re.search(r"S\((\d+)\)", memory)
    return Array(
        dtype,
        _integers(dims),
        _integers(order),
        _integers(tile.group(1)) if tile else (),
        int(space.group(1)) if space else 0,
    )


def _integers(text: str) -> tuple[int, ...]:
    return tuple(int(n) for n in text.split(",") if n)


@dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    opcode: str
    shape: tuple[Array, ...]
    operands: tuple[str, ...]
    attributes: str
    literal: str  # the text between the parentheses
    is_root: bool

    @cached_property
    def backend_config(self) -> dict[str, Any]:
        """The compiler's backend config of this instruction; empty if there is none."""
        start = self.attributes.find("backend_config={")
        if start < 0:
            return {}
        config: dict[str, Any] = json.JSONDecoder().raw_decode(self.attributes, start + len("backend_config="))[0]
        return config

    @property
    def estimated_cycles(self) -> int | None:
        """The compiler's own estimate, or None."""
        cycles = self.backend_config.get("window_config", {}).get("estimated_cycles")
        return None if cycles is None else int(cycles)

    @property
    def scoped_vmem(self) -> int:
        """Bytes of VMEM that the instruction uses while it runs."""
        configs = self.backend_config.get("used_scoped_memory_configs", [])
        return sum(int(c["size"]) for c in configs if c["memory_space"] == "1")

    def called(self, role: str) -> str | None:
        """Name of the computation referenced as `calls`, `body`, `condition` or `to_apply`."""
        return dict(_CALLED.findall(self._attributes_head)).get(role)

    @property
    def branches(self) -> tuple[str, ...]:
        """Computations of a `conditional`."""
        listed = _BRANCHES.search(self._attributes_head)
        if listed:
            return tuple(name.strip().lstrip("%") for name in listed.group(1).split(","))
        return tuple(name for role in ("true_computation", "false_computation") if (name := self.called(role)))

    @property
    def custom_call_target(self) -> str:
        """Target of a `custom-call`, empty for anything else."""
        target = re.search(r'custom_call_target="([^"]*)"', self.attributes)
        return target.group(1) if target else ""

    @property
    def op_name(self) -> str:
        """The instruction's origin in the user's program, as far as the compiler preserved it."""
        name = re.search(r'op_name="([^"]*)"', self.attributes)
        return name.group(1) if name else ""

    @property
    def channel(self) -> str:
        """An identifier shared by the parts of one collective: the number of its chain of fusions, or of its channel.

        Collectives that the compiler threads through fusions may all share one channel; their chains distinguish them.
        """
        chain = re.search(r'chain_id="(\d+)"', self.attributes)
        channel = re.search(r"channel_id=(\d+)", self._attributes_head)
        return f"chain {chain.group(1)}" if chain else channel.group(1) if channel else self.name

    @property
    def group_size(self) -> int:
        """Devices in one group of a collective; 0 if the instruction does not specify it."""
        text = self._attributes_head
        if found := re.search(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}", text):
            sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", found.group(1))}
            return math.prod(sizes[name] for name in re.findall(r"'(\w+)'", found.group(2)))
        if found := re.search(r"replica_groups=\[(\d+),(\d+)\]", text):
            return int(found.group(2))
        if found := re.search(r"replica_groups=\{\{([\d,]*)\}", text):
            return len(_integers(found.group(1)))
        return 0

    @property
    def _attributes_head(self) -> str:
        return self.attributes.partition("backend_config=")[0]


@dataclass
class Computation:
    """A list of instructions in execution order."""

    name: str
    instructions: list[Instruction] = field(default_factory=list)

    def __getitem__(self, name: str) -> Instruction:
        return self._by_name[name]

    def __iter__(self) -> Iterator[Instruction]:
        return iter(self.instructions)

    @property
    def root(self) -> Instruction:
        """The instruction whose value the computation returns."""
        return next(i for i in self.instructions if i.is_root)

    @cached_property
    def _by_name(self) -> dict[str, Instruction]:
        return {i.name: i for i in self.instructions}

    def operand_arrays(self, instruction: Instruction) -> tuple[Array, ...]:
        """Arrays that an instruction reads, with tuples flattened."""
        return tuple(array for name in instruction.operands for array in self[name].shape)

    def constant(self, name: str) -> int | None:
        """The integer value of a constant scalar, looking through copies; None if it is not a constant."""
        instruction = self[name]
        if instruction.opcode == "constant" and re.fullmatch(r"-?\d+", instruction.literal):
            return int(instruction.literal)
        if instruction.opcode in ("copy", "bitcast"):
            return self.constant(instruction.operands[0])
        return None


@dataclass
class Module:
    """A compiled program."""

    computations: dict[str, Computation]
    entry: Computation

    def reachable(self, name: str) -> Iterator[tuple[Computation, Instruction]]:
        """Instructions of a fused computation and of all computations fused into it, each with its computation."""
        for instruction in self.computations[name]:
            yield self.computations[name], instruction
            if called := instruction.called("calls"):
                yield from self.reachable(called)

    def trip_count(self, caller: Computation, loop: Instruction) -> int | None:
        """Trips of a counted `while`; None if its start, step or end is not a constant in the program."""
        condition, body = (self.computations[loop.called(role) or ""] for role in ("condition", "body"))
        test = condition.root
        while test.opcode in ("copy", "bitcast"):
            test = condition[test.operands[0]]
        if test.opcode != "compare" or "direction=LT" not in test.attributes:
            return None
        counter, end = condition[test.operands[0]], condition.constant(test.operands[1])
        index = _tuple_index(counter)
        start_tuple, next_tuple = caller[loop.operands[0]], body.root
        if index is None or end is None or "tuple" not in (start_tuple.opcode, next_tuple.opcode):
            return None
        start = caller.constant(start_tuple.operands[index])
        step = _step(body, next_tuple.operands[index], index)
        if start is None or not step:
            return None
        return max(0, -(-(end - start) // step))


def _tuple_index(instruction: Instruction) -> int | None:
    found = re.search(r"index=(\d+)", instruction.attributes)
    return int(found.group(1)) if instruction.opcode == "get-tuple-element" and found else None


def _step(body: Computation, name: str, index: int) -> int | None:
    """The amount that one trip adds to the loop counter at `index` of the loop's tuple."""
    instruction = body[name]
    if instruction.opcode in ("copy", "bitcast"):
        return _step(body, instruction.operands[0], index)
    if _tuple_index(instruction) == index:
        return 0
    if instruction.opcode != "add":
        return None
    for this, other in (instruction.operands, instruction.operands[::-1]):
        step, rest = body.constant(this), _step(body, other, index)
        if step is not None and rest is not None:
            return step + rest
    return None


def parse_module(text: str) -> Module:
    """Parse the output of ``compiled.as_text()``.

    Raises:
        ValueError: there is no entry computation.
    """
    computations: dict[str, Computation] = {}
    entry = current = None
    for line in text.splitlines():
        if opened := _COMPUTATION.match(line):
            current = computations[opened.group(2)] = Computation(opened.group(2))
            entry = current if opened.group(1) else entry
        elif line.startswith("}"):
            current = None
        elif current is not None and (head := _HEAD.match(line)):
            current.instructions.append(_instruction(line, head))
    if entry is None:
        raise ValueError("the text has no ENTRY computation; expected the output of compiled.as_text()")
    return Module(computations, entry)


def _instruction(line: str, head: re.Match[str]) -> Instruction:
    at = head.end()
    end = _closing(line, at) if line[at] == "(" else line.index(" ", at)
    opcode = _OPCODE.match(line, end)
    if opcode is None:
        raise ValueError(f"not an HLO instruction: {line[:200]}")
    closed = _closing(line, opcode.end() - 1)
    inside = line[opcode.end() : closed - 1]
    operands = re.findall(r"%([^\s,()]+)", inside)
    return Instruction(
        head.group(2),
        opcode.group(1),
        parse_shape(line[at:end]),
        tuple(operands),
        line[closed:],
        inside,
        bool(head.group(1)),
    )


def _closing(line: str, start: int) -> int:
    """Position after the parenthesis that matches the one at `start`."""
    depth = 0
    for position in range(start, len(line)):
        depth += {"(": 1, ")": -1}.get(line[position], 0)
        if depth == 0:
            return position + 1
    raise ValueError(f"unbalanced parentheses: {line[:200]}")
