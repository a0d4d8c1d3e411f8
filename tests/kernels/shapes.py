"""The shapes that the tests of attention share."""

from typing import NamedTuple


class AttentionShape(NamedTuple):
    """One call: rows, tokens, heads, their width, and sequences packed into a row (0: one, without padding)."""

    batch: int
    tokens: int
    heads: int
    head_dim: int
    packed: int = 0


TEST_SHAPES: dict[str, AttentionShape] = {
    "one_token": AttentionShape(1, 1, 12, 64),
    "odd": AttentionShape(2, 37, 12, 32),
    "power_of_two_heads": AttentionShape(2, 64, 8, 32),
    "sixteen_heads": AttentionShape(1, 40, 16, 32),
    "two_blocks": AttentionShape(1, 300, 4, 64),
    "padded": AttentionShape(3, 48, 12, 32, packed=1),
    "packed": AttentionShape(3, 530, 6, 32, packed=4),
}
