import os
import subprocess
import sys

import pytest

from dnabert2_jax.compilation_cache import VARIABLE, drop_oldest, keep_compiled_programs
from tests.helpers import tiny_model


def test_the_place_follows_the_environment(tmp_path):
    environment = {"HOME": str(tmp_path / "home")}
    directory = keep_compiled_programs(environment)
    assert directory.parent == tmp_path / "home" / ".cache" / "dnabert2_jax" / "compiled"
    assert environment["JAX_COMPILATION_CACHE_DIR"] == str(directory)
    assert directory.is_dir()
    xdg = keep_compiled_programs({"HOME": "/nowhere", "XDG_CACHE_HOME": str(tmp_path / "xdg")})
    assert xdg == tmp_path / "xdg" / "dnabert2_jax" / "compiled" / directory.name
    assert keep_compiled_programs({VARIABLE: str(tmp_path / "own")}) == tmp_path / "own" / directory.name


@pytest.mark.parametrize("said", [{VARIABLE: "off"}, {VARIABLE: "OFF"}, {"JAX_COMPILATION_CACHE_DIR": "/elsewhere"}])
def test_who_says_otherwise_is_heard(tmp_path, said):
    environment = {"HOME": str(tmp_path), **said}
    assert keep_compiled_programs(environment) is None
    assert environment == {"HOME": str(tmp_path), **said}
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_made_is_left_alone(tmp_path):
    (tmp_path / "file").touch()
    environment = {VARIABLE: str(tmp_path / "file")}
    assert keep_compiled_programs(environment) is None
    assert "JAX_COMPILATION_CACHE_DIR" not in environment


def test_the_oldest_programs_go_first(tmp_path):
    for age, name in enumerate(("newest", "middle", "oldest")):
        (tmp_path / name).write_bytes(b"x" * 100)
        os.utime(tmp_path / name, (10_000 - age, 10_000 - age))
    drop_oldest(tmp_path, 300)
    assert len(list(tmp_path.iterdir())) == 3
    drop_oldest(tmp_path, 250)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["middle", "newest"]


def test_the_command_keeps_programs_and_a_second_call_makes_no_new_ones(tmp_path):
    """jax is told to keep quick compilations, too."""
    tiny_model(tmp_path / "model")
    command = [sys.executable, "-m", "dnabert2_jax", "doctor", "--model", tmp_path / "model"]
    left_out = ("JAX_COMPILATION_CACHE_DIR", VARIABLE, "XDG_CACHE_HOME")
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    environment |= {"HOME": str(tmp_path), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    programs = []
    for _ in range(2):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        programs.append(sorted(path.name for path in (tmp_path / ".cache").rglob("*-cache")))
    assert programs[0]
    assert programs[1] == programs[0]
