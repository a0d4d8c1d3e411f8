import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dnabert2_jax.artifacts.tensors import flatten_tree, tree_sha256, unflatten_tree

names = st.text("abcXYZ_0", min_size=1, max_size=4)
leaves = hnp.arrays(st.sampled_from([np.float32, np.uint8]), hnp.array_shapes(min_dims=0, max_dims=3, max_side=3))
trees = st.dictionaries(
    names, st.recursive(leaves, lambda inner: st.dictionaries(names, inner, min_size=1, max_size=3)), max_size=4
)


@given(trees)
def test_flatten_and_unflatten_are_inverse(tree):
    back = unflatten_tree(flatten_tree(tree))
    assert jax.tree.structure(back) == jax.tree.structure(tree)
    assert tree_sha256(back) == tree_sha256(tree)


def test_the_hash_tells_path_dtype_shape_and_bytes_apart():
    base = np.arange(6, dtype=np.float32)
    variants = [
        {"a": base},
        {"b": base},
        {"a": {"b": base}},
        {"a": base.view(np.int32)},
        {"a": base.reshape(2, 3)},
        {"a": base + 1},
        {"a": base, "b": base},
    ]
    assert len({tree_sha256(tree) for tree in variants}) == len(variants)
    assert tree_sha256({"a": base, "b": base + 1}) == tree_sha256({"b": base + 1, "a": jax.numpy.asarray(base)})
    # Fixed for good: adapters name their base by it.
    assert tree_sha256({"a": base}) == "fc5a7daec27a126fd35c412465cad0e9e18ade5cb19893305049af7fae43e604"


def test_a_name_with_a_dot_is_refused():
    with pytest.raises(ValueError, match=r"'a\.b\.c' contains a '\.'"):
        flatten_tree({"a": {"b.c": np.zeros(1)}})
