import os
import socket
import subprocess
import sys

import pytest
from etils import epath

from dnabert2_jax.compilation_cache import COMPILED, MAX_BYTES, VARIABLE, keep_compiled_programs, prune
from dnabert2_jax.storage import buckets
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
from dnabert2_jax.storage import buckets
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


def test_a_bucket_is_left_to_jax_which_cannot_limit_it():
    environment = {VARIABLE: "gs://genomes/compiled/"}
    assert keep_compiled_programs(environment) == environment["JAX_COMPILATION_CACHE_DIR"]
    assert environment["JAX_COMPILATION_CACHE_DIR"].startswith("gs://genomes/compiled/")
    assert "JAX_COMPILATION_CACHE_MAX_SIZE" not in environment


def test_the_oldest_programs_of_a_shared_cache_are_pruned(tmp_path):
    names = ["new-cache", "older-cache", "oldest-cache"]
    for age, name in enumerate(names):
        (tmp_path / name).write_bytes(bytes(100))
        os.utime(tmp_path / name, (1e9 - 100 * age, 1e9 - 100 * age))
    (tmp_path / "other").write_bytes(bytes(1000))
    for most, left in ((-1, 3), (300, 3), (250, 2), (0, 0)):
        prune(epath.Path(tmp_path), most)
        assert {path.name for path in tmp_path.glob("*-cache")} == set(names[:left])
    assert (tmp_path / "other").exists()
    prune(epath.Path(tmp_path / "not" / "made"), 0)


# What `dnabert2 pretrain` does before it trains, and one program over both processes.
SHARED = """
import sys
from dnabert2_jax.storage import buckets
from dnabert2_jax.compilation_cache import keep_compiled_programs, share_compiled_programs

keep_compiled_programs()
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from dnabert2_jax.parallel.processes import start_processes

start_processes(sys.argv[1], 2, int(sys.argv[2]))
share_compiled_programs(sys.argv[3])
counts = {}
jax.monitoring.register_event_listener(lambda event, **_: counts.update({event: counts.get(event, 0) + 1}))
rows = NamedSharding(Mesh(np.array(jax.devices()), ("data",)), P("data"))
x = jax.make_array_from_callback((4,), rows, lambda index: np.arange(4.0)[index])
total = float(jax.jit(lambda x: (x * 3).sum(), out_shardings=NamedSharding(rows.mesh, P()))(x))
cached = "/jax/compilation_cache/"
hits, misses = (counts.get(cached + event, 0) for event in ("cache_hits", "cache_misses"))
print(total, hits, misses, jax.config.jax_compilation_cache_dir)
"""


def _two_processes(home, workdir, **variables):
    """What each of two processes printed: the total, hits and misses of the cache, and where it is."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{free.getsockname()[1]}"
    left_out = ("JAX_COMPILATION_CACHE_DIR", VARIABLE, "XDG_CACHE_HOME", "XLA_FLAGS")
    environment = {name: value for name, value in os.environ.items() if name not in left_out} | variables
    environment |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SHARED, coordinator, str(number), str(workdir)],
            env=environment | {"HOME": str(home / str(number))},  # as on two machines
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    return [output.splitlines()[-1].split() for output, _ in outputs]  # Gloo prints before it


def test_two_processes_share_a_cache_that_outlives_their_machines(tmp_path):
    """jax writes from process 0 alone. On CPUs its keys name the process, so that only process 0 finds anything there."""
    workdir = tmp_path / "run"
    (total, hits, misses, place), (other_total, _, _, other_place) = _two_processes(tmp_path / "a", workdir)
    assert (total, other_total) == ("18.0", "18.0")
    assert (hits, int(misses) > 0) == ("0", True)
    assert {place, other_place} == {str(path) for path in (workdir / COMPILED).iterdir()}
    again, _ = _two_processes(tmp_path / "b", workdir)  # on machines that are new
    assert again == ["18.0", misses, "0", place]
    assert not list(tmp_path.rglob(".cache/**/*-cache"))


@pytest.mark.parametrize("store", ["gs", pytest.param("s3", marks=pytest.mark.slow)], indirect=True)
def test_the_cache_of_a_run_in_a_bucket_is_there(bucket, tmp_path):
    (total, hits, misses, place), (other_total, *_, other_place) = _two_processes(tmp_path / "a", bucket / "run")
    assert (total, other_total, hits) == ("18.0", "18.0", "0")
    assert place == other_place
    assert place.startswith(f"{bucket}/run/{COMPILED}/")
    assert any(name.endswith("-cache") for name in buckets.names(bucket / "run" / COMPILED))
    again, _ = _two_processes(tmp_path / "b", bucket / "run")
    assert again == ["18.0", misses, "0", place]


def test_processes_use_the_directory_that_their_user_chose(tmp_path):
    chosen = _two_processes(tmp_path, tmp_path / "run", **{VARIABLE: str(tmp_path / "shared")})
    assert {place for *_, place in chosen} == {str(path) for path in (tmp_path / "shared").iterdir()}
    own = _two_processes(tmp_path, tmp_path / "run", JAX_COMPILATION_CACHE_DIR=str(tmp_path / "own"))
    assert {place for *_, place in own} == {str(tmp_path / "own")}
    assert not (tmp_path / "run").exists()
