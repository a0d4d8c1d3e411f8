from types import SimpleNamespace

import jax.numpy as jnp

from dnabert2_jax.training.profile import Profile


def test_a_profile_is_traced_where_asked_for(tmp_path):
    with Profile(tmp_path / "none", 0, 0) as none, Profile(tmp_path / "some", 3, 2) as some:
        for step in range(4, 12):
            event = SimpleNamespace(step=step, metrics=jnp.ones(4).sum())
            none(event)
            some(event)
    assert not (tmp_path / "none").exists()
    assert len(list((tmp_path / "some").rglob("*.xplane.pb"))) == 1
