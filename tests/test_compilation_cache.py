import os
import subprocess
import sys

import pytest

from dnabert2_jax.compilation_cache import MAX_BYTES, VARIABLE, keep_compiled_programs
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


def test_the_size_is_limited_by_jax_unless_the_user_says_otherwise(tmp_path):
    environment = {VARIABLE: str(tmp_path)}
    keep_compiled_programs(environment)
    assert environment["JAX_COMPILATION_CACHE_MAX_SIZE"] == str(MAX_BYTES)
    environment = {VARIABLE: str(tmp_path), "JAX_COMPILATION_CACHE_MAX_SIZE": "-1"}
    keep_compiled_programs(environment)
    assert environment["JAX_COMPILATION_CACHE_MAX_SIZE"] == "-1"


EVICTION = """
import os, sys
from dnabert2_jax.compilation_cache import keep_compiled_programs

directory = keep_compiled_programs()
import jax

programs = set()
for size in range(2, 8):
    jax.jit(lambda x: x * size)(jax.numpy.ones(size)).block_until_ready()
    programs |= {path.name for path in directory.glob("*-cache")}
held = sum(path.stat().st_size for path in directory.glob("*-cache"))
print(len(programs), held)
"""


def test_the_least_recently_used_programs_are_evicted(tmp_path):
    left_out = ("JAX_COMPILATION_CACHE_DIR", "XDG_CACHE_HOME")
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    environment |= {VARIABLE: str(tmp_path), "JAX_PLATFORMS": "cpu", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    environment |= {"JAX_COMPILATION_CACHE_MAX_SIZE": "20000"}
    done = subprocess.run([sys.executable, "-c", EVICTION], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    programs, held = map(int, done.stdout.split())
    assert programs >= 6
    assert 0 < held <= 20_000


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
