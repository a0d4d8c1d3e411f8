"""Information carried by a Pallas TPU call: its grid, its blocks, and how often each block is fetched.

The call carries its kernel as MLIR. Index maps are evaluated over the whole grid; Pallas copies a block only if its
indices differ from those of the previous step.
"""

import base64
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from aot.hlo import Array

_VMEM = 1


@dataclass(frozen=True)
class Block:
    """One blocked operand or result of a Pallas call.

    Attributes:
        shape: sizes of the block.
        fetches: number of copies of the block over the whole grid; one per step if the index map reads run-time values.
        exact: False if `fetches` is that upper bound.
    """

    shape: tuple[int, ...]
    fetches: int
    exact: bool


@dataclass(frozen=True)
class MosaicCall:
    """The kernel of one ``tpu_custom_call``.

    Attributes:
        name: the name given to `pallas_call`.
        grid: sizes of the grid.
        scalars: scalar-prefetch operands, which come first among the operands.
        blocks: inputs, then outputs; None for an operand that the kernel copies itself.
    """

    name: str
    grid: tuple[int, ...]
    scalars: int
    blocks: tuple[Block | None, ...]

    @property
    def steps(self) -> int:
        """Steps of the grid."""
        return math.prod(self.grid)

    def hbm_bytes(self, operands: tuple[Array, ...], results: tuple[Array, ...]) -> tuple[int, bool]:
        """Bytes between HBM and VMEM over the call, and whether they are exact rather than an estimate.

        Arrays already in VMEM cost nothing. An operand that the kernel copies itself counts once, as a whole.
        """
        total, exact = sum(array.bytes for array in operands[: self.scalars]), True
        arrays = (*operands[self.scalars :], *results)
        if not self.blocks:
            return total + sum(a.bytes for a in arrays if a.space != _VMEM), True
        for array, block in zip(arrays, self.blocks, strict=True):
            if array.space == _VMEM:
                continue
            if block is None:
                total, exact = total + array.bytes, False
            else:
                total, exact = total + block.fetches * array.bytes_of(block.shape), exact and block.exact
        return total, exact


def read_mosaic_call(config: dict[str, Any]) -> MosaicCall:
    """Parse the backend configuration of a ``tpu_custom_call``.

    Raises:
        KeyError: an index map uses an unknown operation.
    """
    from jaxlib.mlir import ir
    from jaxlib.mosaic.python import tpu

    context = ir.Context()
    context.allow_unregistered_dialects = True
    tpu.register_dialect(context)
    with context:
        module = ir.Module.parse(base64.b64decode(config["custom_call_config"]["body"]))
        functions: dict[str, Any] = {op.attributes["sym_name"].value: op for op in list[Any](module.body.operations)}
        name, kernel = next((n, op) for n, op in functions.items() if "scratch_operands" in op.attributes)
        attributes = kernel.attributes
        grid = tuple(attributes["iteration_bounds"]) if "iteration_bounds" in attributes else ()
        scalars = attributes["scalar_prefetch"].value
        windows = attributes["window_params"] if grid else ()
        blocks = tuple(_block(window, functions, grid, scalars) for window in windows)
    return MosaicCall(name, grid, scalars, blocks)


def _block(window: Any, functions: dict[str, Any], grid: tuple[int, ...], scalars: int) -> Block | None:
    if "transform_indices" not in window or "window_bounds" not in window:
        return None
    index_map = functions[window["transform_indices"].value]
    shape = tuple(window["window_bounds"])
    steps = np.indices(grid).reshape(len(grid), -1)
    indices = _evaluate(index_map, [*steps, *[None] * scalars])
    if any(i is None for i in indices):
        return Block(shape, steps.shape[1], exact=False)
    path = np.stack([np.broadcast_to(i, steps.shape[1:]) for i in indices])
    changes = np.any(path[:, 1:] != path[:, :-1], axis=0)
    return Block(shape, 1 + int(changes.sum()), exact=True)


_Value = Any  # an array over the grid, a number, or None if known only at run time

_COMPARE = [operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge]


def _divide(a: _Value, b: _Value) -> _Value:
    return np.trunc(np.divide(a, b)).astype(np.int64)  # arith.divsi rounds towards zero


_OPERATIONS: dict[str, Callable[..., _Value]] = {
    "addi": np.add,
    "subi": np.subtract,
    "muli": np.multiply,
    "divsi": _divide,
    "divui": _divide,
    "floordivsi": np.floor_divide,
    "remsi": lambda a, b: a - _divide(a, b) * b,
    "remui": lambda a, b: a - _divide(a, b) * b,
    "minsi": np.minimum,
    "maxsi": np.maximum,
    "andi": np.bitwise_and,
    "ori": np.bitwise_or,
    "xori": np.bitwise_xor,
    "select": np.where,
    "index_cast": lambda a: a,
    "extui": lambda a: np.asarray(a).astype(np.int64),
    "extsi": lambda a: a,
    "trunci": lambda a: a,
}


def _evaluate(index_map: Any, arguments: list[_Value]) -> list[_Value]:
    """Values of an index map for all grid steps at once."""
    block = index_map.regions[0].blocks[0]
    values: dict[Any, _Value] = dict(zip(block.arguments, arguments, strict=True))
    for op in block.operations:
        kind = op.operation.name.rsplit(".", 1)[-1]
        inputs = [values[operand] for operand in op.operands]
        if kind == "return":
            return inputs
        if kind == "constant":
            result: _Value = op.attributes["value"].value
        elif kind == "load" or any(i is None for i in inputs):
            result = None
        elif kind == "cmpi":
            result = _COMPARE[op.attributes["predicate"].value](*inputs)
        else:
            result = _OPERATIONS[kind](*inputs)
        values[op.results[0]] = result
    raise ValueError("an index map without a return")
