"""How devices share the work of a run."""

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from dnabert2_jax.config.model import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MeshOptions:
    """How devices share the work. It affects results only by rounding: a run may resume with another mesh.

    Attributes:
        data: devices along the axis that shards rows; -1 takes all that the others leave.
        fsdp: devices along the axis that shards rows, weights and moments: less memory, more traffic.
        sequence: devices along the axis that shards the tokens of each row, for rows that are too long for one device; it
            must divide the tokens per row. Only without fsdp and tensor.
        tensor: devices along the axis that shards heads and inner channels; it must divide the number of heads.
        shard_optimizer: shard Adam's moments over ``data`` (ZeRO stage 1, Rajbhandari et al. 2020), and without fsdp and
            tensor the float32 weights, too: a step gathers them once, those of the blocks in compute precision.
        bfloat16_reduction: sum gradients over ``data`` in bfloat16, with half the traffic of float32. Only without fsdp and
            tensor: with them XLA sums each gradient where it arises, in compute precision.
    """

    data: int = Field(default=-1, ge=-1)
    fsdp: int = Field(default=1, ge=1)
    sequence: int = Field(default=1, ge=1)
    tensor: int = Field(default=1, ge=1)
    shard_optimizer: bool = False
    bfloat16_reduction: bool = False

    @model_validator(mode="after")
    def _makes_sense(self) -> "MeshOptions":
        if self.data == 0:
            raise ValueError("data must be a number of devices, or -1 for all that the others leave; found 0")
        if self.sequence > 1 and self.fsdp * self.tensor > 1:
            raise ValueError("sequence needs fsdp = 1 and tensor = 1; set it to 1, or both of them")
        if self.bfloat16_reduction and self.fsdp * self.tensor > 1:
            raise ValueError("bfloat16_reduction needs fsdp = 1 and tensor = 1; set it to false")
        return self
