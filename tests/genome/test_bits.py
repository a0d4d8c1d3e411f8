import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dnabert2_jax.genome.bits import pack_bases, unpack_bases


@given(st.text("ACGT", max_size=50), st.data())
def test_any_interval_comes_back(sequence: str, data: st.DataObject):
    start = data.draw(st.integers(0, len(sequence)))
    stop = data.draw(st.integers(start, len(sequence)))
    packed = pack_bases(np.frombuffer(sequence.encode(), np.uint8))
    assert len(packed) == -(-len(sequence) // 4)
    assert unpack_bases(packed, start, stop).tobytes().decode() == sequence[start:stop]


def test_layout_is_fixed():
    # On disk: A 0, C 1, G 2, T 3, the first base lowest; other letters take the place of A.
    assert pack_bases(np.frombuffer(b"ACGTTN", np.uint8)).tolist() == [0b11_10_01_00, 0b00_11]
