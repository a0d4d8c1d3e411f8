"""How long a collective takes on the links of a TPU slice: its groups, laid out on the chips, and two sets of assumptions.

Each chip has a link to its neighbor in both directions along each side of the slice. Where a side is long enough, a link
joins its ends and it is a ring, around which a collective runs both ways at once. Otherwise it is a line: what the last chip
needs arrives over one link, at half the rate, and has to pass all others. The facts are from Austin et al., "How to Scale
Your Model" (2025, jax-ml.github.io/scaling-book), parts 2 and 3, which also measure two gathers along a line of four chips.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np

from aot.chips import Chip

Coordinates = tuple[int, ...]


@dataclass(frozen=True)
class Assumptions:
    """What a data sheet does not say.

    Attributes:
        name: for tables.
        link_efficiency: share of a link's rate that a collective reaches.
        hop_seconds: the least time from a chip to the next one, however little is sent.
        hides: whether work hides a collective that runs beside it; if not, the work takes as much longer.
    """

    name: str
    link_efficiency: float
    hop_seconds: float
    hides: bool


LOW = Assumptions("low", link_efficiency=1.0, hop_seconds=1e-6, hides=True)
"""The rates of the data sheet, and the scaling book's microsecond per hop."""

HIGH = Assumptions("high", link_efficiency=560 / 680, hop_seconds=8e-6 / 3, hides=False)
"""What the scaling book measured on v5e: 680 us for a gather that takes 560 at 45 GB/s; 8 us for a tiny one of 3 hops."""


class UnknownGroups(ValueError):
    """The groups of a collective are written in a way that is not understood."""


@dataclass(frozen=True)
class Side:
    """One side of the slice, as far as a group of chips extends along it.

    Attributes:
        chips: of the group, along this side.
        stride: links from one to the next; as many groups send over each link.
        ring: whether the last one is as close to the first.
    """

    chips: int
    stride: int
    ring: bool

    @property
    def hops(self) -> int:
        """Links between the chips of the group that are the farthest apart."""
        return self.stride * (self.chips // 2 if self.ring else self.chips - 1)

    @property
    def links(self) -> float:
        """Links over which a chip receives, in links of its own."""
        return (2 if self.ring else 1) / self.stride


@dataclass(frozen=True)
class Network:
    """The links between the devices of a program.

    Attributes:
        chip: what they are.
        places: where each device of the program is in its slice, in the order in which the program numbers them.
        assumptions: the rest.
    """

    chip: Chip
    places: Sequence[Coordinates]
    assumptions: Assumptions = LOW

    def cycles(self, opcode: str, sent: float, attributes: str) -> float:
        """Cycles of a collective.

        Args:
            opcode: its kind.
            sent: bytes that each chip sends and receives.
            attributes: of the instruction, with its groups.

        Raises:
            UnknownGroups: the groups are not understood.
        """
        rate = self.chip.link_bytes_per_cycle * self.assumptions.link_efficiency
        hop = self.assumptions.hop_seconds * self.chip.clock_hz
        if opcode == "collective-permute":
            farthest = max(self._distance(*pair) for pair in _pairs(attributes))
            return max(farthest * hop, farthest * sent / rate)  # where all shift alike, each link carries that many
        sides = self.sides(first_group(attributes))
        if not sides:
            return 0.0
        rounds = 2 if opcode == "all-reduce" else 1
        return max(rounds * hop * sum(side.hops for side in sides), sent / (rate * min(side.links for side in sides)))

    def sides(self, group: Sequence[int]) -> list[Side]:
        """The sides of the slice along which a group extends: it takes them one after the other.

        Args:
            group: numbers of the devices.
        """
        places = np.array([self.places[number] for number in group])
        found = []
        for axis, length in enumerate(self._lengths):
            used = np.unique(places[:, axis])
            if len(used) > 1:
                stride = int(np.diff(used).min())
                found.append(Side(len(used), stride, len(used) * stride == length and self.chip.wraps(length)))
        return found

    def _distance(self, source: int, target: int) -> int:
        steps = 0
        for a, b, length in zip(self.places[source], self.places[target], self._lengths, strict=True):
            steps += min(abs(a - b), length - abs(a - b)) if self.chip.wraps(length) else abs(a - b)
        return steps

    @cached_property
    def _lengths(self) -> list[int]:
        return (np.max(self.places, axis=0) + 1).tolist()


def first_group(attributes: str) -> list[int]:
    """The devices of the first group of a collective; the others are the same, shifted.

    XLA writes ``{{0,1},{2,3}}``, ``[2,2]<=[4]`` for the numbers 0 to 3 in two rows, ``[2,2]<=[2,2]T(1,0)`` for the same
    transposed, and ``mesh['x'=2,'y'=2] {'y'}``.

    Raises:
        UnknownGroups: none of these.
    """
    if found := re.search(r"replica_groups=\{\{([\d,]+)\}", attributes):
        return _integers(found[1])
    if found := re.search(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes):
        numbers = np.arange(prod(_integers(found[3]))).reshape(_integers(found[3]))
        turned = numbers.transpose(_integers(found[4])) if found[4] else numbers
        return [int(number) for number in turned.reshape(int(found[1]), int(found[2]))[0]]
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}", attributes):
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", found[1])}
        numbers = np.arange(prod(sizes.values())).reshape(list(sizes.values()))
        own = re.findall(r"'(\w+)'", found[2])
        return numbers[tuple(slice(None) if name in own else 0 for name in sizes)].ravel().tolist()
    raise UnknownGroups(f"replica groups not understood: {attributes[:200]}")


def _pairs(attributes: str) -> list[tuple[int, int]]:
    found = re.search(r"source_target_pairs=\{((?:\{\d+,\d+\},?)+)\}", attributes)
    if found is None:
        raise UnknownGroups(f"source and target not understood: {attributes[:200]}")
    return [(int(a), int(b)) for a, b in re.findall(r"\{(\d+),(\d+)\}", found[1])]


def _integers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]
