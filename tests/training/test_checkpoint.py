import json
import logging
import os
import resource
import shutil
import signal
import socket
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dnabert2_jax.errors import UserError
from dnabert2_jax.training.checkpoint import Checkpoints, Restored
from tests.processes import start_script, wait_until


def make_state(step: int, size: int = 1000) -> dict:
    """A small state of the kinds that training has; every value follows from the step."""
    numbers = np.arange(size, dtype=np.float32) + step
    return {
        "params": {"w": jnp.asarray(numbers.reshape(2, -1)), "half": jnp.asarray(numbers, jnp.bfloat16)},
        "optimizer": [{"mu": jnp.asarray(-numbers)}, {}],
        "seeds": jnp.asarray(numbers, jnp.uint32) + jnp.uint32(4_000_000_000),
        "count": np.uint32(step),
        "loss": jnp.float32(step / 7),
        "flag": np.bool_(step % 2),
    }


def bits(tree: dict) -> list:
    return [(str(leaf.dtype), leaf.shape, np.asarray(leaf).tobytes()) for leaf in jax.tree.leaves(tree)]


def assert_is(restored: Restored | None, step: int) -> None:
    assert restored is not None
    assert restored.step == step
    assert restored.meta == {"records": step * 32}
    expected = make_state(step)
    assert jax.tree.structure(restored.state) == jax.tree.structure(expected)
    assert bits(restored.state) == bits(expected)


def save_steps(directory: Path, *steps: int, **options) -> None:
    with Checkpoints(directory, **options) as checkpoints:
        for step in steps:
            checkpoints.save(step, make_state(step), {"records": step * 32})


def restore(directory: Path) -> Restored | None:
    with Checkpoints(directory) as checkpoints:
        return checkpoints.restore_latest(make_state(0))


def files_of(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


def test_round_trip_is_bitwise_and_takes_the_newest(tmp_path):
    save_steps(tmp_path, 3, 7)
    assert_is(restore(tmp_path), 7)
    assert [path.name for path in sorted(tmp_path.iterdir())] == [".lock", "step_00000003", "step_00000007"]


def test_nothing_saved_gives_none(tmp_path):
    assert restore(tmp_path / "new" / "deeper") is None


RAW = {
    "float32": np.uint32,
    "uint32": np.uint32,
    "int32": np.uint32,
    "bfloat16": np.uint16,
    "float16": np.uint16,
    "int8": np.uint8,
}


@st.composite
def any_bits(draw) -> np.ndarray:
    """Arrays of every bit pattern: NaN payloads, infinities, subnormals."""
    dtype = draw(st.sampled_from(sorted(RAW)))
    raw = draw(hnp.arrays(RAW[dtype], hnp.array_shapes(min_dims=0, max_dims=3, min_side=1, max_side=4)))
    return raw.view(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)


PARTS = st.text("abcxyz_", min_size=1, max_size=4)
NAMES = st.lists(PARTS, min_size=1, max_size=2).map("/".join)  # a name is a path: "a" and "a/" would be one


@settings(max_examples=15)
@given(arrays=st.dictionaries(NAMES, any_bits(), min_size=1, max_size=4))
def test_round_trip_of_any_bits(arrays, tmp_path_factory):
    directory = tmp_path_factory.mktemp("any")
    state = {"tree": {name: jnp.asarray(value) for name, value in arrays.items()}}
    with Checkpoints(directory) as checkpoints:
        checkpoints.save(0, state, {})
        restored = checkpoints.restore_latest(jax.eval_shape(lambda: state))
    assert bits(restored.state) == [(str(value.dtype), value.shape, value.tobytes()) for _, value in sorted(arrays.items())]


def test_donated_and_overwritten_buffers_do_not_reach_the_checkpoint(tmp_path):
    step = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    state = step({f"w{n}": jnp.full((512, 1024), float(n)) for n in range(8)})
    address = state["w0"].unsafe_buffer_pointer()
    state = step(state)
    assert state["w0"].unsafe_buffer_pointer() == address, "without donation in place this test would prove nothing"
    mutable = np.zeros(100_000, np.float32)
    expected = bits(state) + bits({"host": mutable})
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"device": state, "host": mutable}, {})
        mutable += 1
        for _ in range(5):
            state = step(state)
        jax.block_until_ready(state)
        restored = checkpoints.restore_latest({"device": state, "host": mutable})
    assert bits(restored.state) == expected


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("damage", [flip, truncate, Path.unlink])
def test_damage_to_any_file_is_found_reported_and_passed_over(tmp_path, caplog, damage):
    whole = tmp_path / "whole"
    save_steps(whole, 1, 2)
    names = [path.relative_to(whole) for path in files_of(whole / "step_00000002")]
    assert {name.name for name in names} > {"manifest.json", "contents.json", "_METADATA", "manifest.ocdbt"}
    for number, name in enumerate(names):
        directory = tmp_path / str(number)
        shutil.copytree(whole, directory)
        damage(directory / name)
        caplog.clear()
        assert_is(restore(directory), 1)
        [report] = [record.getMessage() for record in caplog.records]
        if name.name == "manifest.json" and damage is Path.unlink:
            assert f"removing {directory / 'step_00000002'}" in report
        else:
            # A flipped bit in the manifest may change a name or a hash: then the file of that name does not agree.
            assert str(directory / ("step_00000002" if name.name == "manifest.json" else name)) in report
            assert (directory / "damaged_step_00000002").is_dir()


def test_a_missing_item_is_found(tmp_path, caplog):
    save_steps(tmp_path, 1, 2)
    shutil.rmtree(tmp_path / "step_00000002" / "state")
    assert_is(restore(tmp_path), 1)
    assert "step_00000002/state" in caplog.text
    assert "is missing" in caplog.text


def test_all_damaged_is_an_error_until_someone_decides(tmp_path):
    save_steps(tmp_path, 1, 2)
    for step in (1, 2):
        flip(tmp_path / f"step_{step:08d}" / "contents.json")
    for _ in range(2):
        with pytest.raises(UserError, match="damaged_step_00000001, damaged_step_00000002: copy one back"):
            restore(tmp_path)
    for step in (1, 2):
        shutil.rmtree(tmp_path / f"damaged_step_{step:08d}")
    assert restore(tmp_path) is None


def test_a_step_that_is_damaged_twice_is_set_aside_twice(tmp_path):
    save_steps(tmp_path, 1)
    for _ in range(2):
        save_steps(tmp_path, 2)
        flip(tmp_path / "step_00000002" / "contents.json")
        assert_is(restore(tmp_path), 1)
    assert sorted(path.name for path in tmp_path.glob("damaged*")) == ["damaged_step_00000002", "damaged_step_00000002_2"]


def test_leftovers_are_removed_and_reported(tmp_path, caplog):
    save_steps(tmp_path, 1)
    shutil.copytree(tmp_path / "step_00000001", tmp_path / "step_00000002")
    (tmp_path / "step_00000002" / "manifest.json").unlink()
    (tmp_path / "step_00000003" / "state.orbax-checkpoint-tmp").mkdir(parents=True)
    (tmp_path / "notes").mkdir()
    assert_is(restore(tmp_path), 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "notes", "step_00000001"]
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert "step_00000002" in caplog.text
    assert "step_00000003" in caplog.text


def test_retention(tmp_path):
    with Checkpoints(tmp_path, keep_last=2, keep_every=4) as checkpoints:
        for step in range(1, 11):
            checkpoints.save(step, make_state(step), {"records": step * 32})
        checkpoints.wait()
        assert checkpoints.steps() == [4, 8, 9, 10]


def test_retention_counts_complete_checkpoints_only(tmp_path):
    save_steps(tmp_path, 1, 2)
    with Checkpoints(tmp_path, keep_last=2) as checkpoints:
        for leftover in (5, 6):  # as a save that runs now has it
            (tmp_path / f"step_{leftover:08d}").mkdir()
        checkpoints.save(3, make_state(3), {"records": 96})
        checkpoints.wait()
        assert checkpoints.steps() == [2, 3]
    flip(tmp_path / "step_00000003" / "contents.json")
    with Checkpoints(tmp_path, keep_last=1) as checkpoints:
        assert_is(checkpoints.restore_latest(make_state(0)), 2)
        assert checkpoints.steps() == [2]


def test_differences_are_listed(tmp_path):
    save_steps(tmp_path, 1)
    other = make_state(1)
    other["params"]["w"] = jnp.zeros((3, 500))
    other["count"] = np.int32(1)
    other["extra"] = other.pop("loss")
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(UserError) as error:
        checkpoints.restore_latest(other)
    for part in (
        "params.w is float32[2, 500], expected float32[3, 500]",
        "count is uint32[], expected int32[]",
        "extra is missing",
        "loss is unexpected",
    ):
        assert part in str(error.value)
    assert "\n" not in str(error.value)


def test_what_cannot_be_kept_exactly_is_refused(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(ValueError, match=r"records is int64, which does not survive"):
            checkpoints.save(1, {"records": np.int64(2**40)}, {})
        with pytest.raises(TypeError, match=r"a\.b is 3, which has no dtype"):
            checkpoints.save(1, {"a": {"b": 3}}, {})
        with pytest.raises(TypeError, match="JSON"):
            checkpoints.save(1, make_state(1), {"path": tmp_path})
        with pytest.raises(ValueError, match="same path"):
            checkpoints.save(1, {"a.b": np.int32(1), "a": {"b": np.int32(2)}}, {})
        assert checkpoints.steps() == []
        checkpoints.save(1, make_state(1), {"records": 32})
        assert_is(checkpoints.restore_latest(make_state(0)), 1)


def test_an_older_step_is_refused(tmp_path):
    save_steps(tmp_path, 5)
    for step in (4, 5):
        with pytest.raises(UserError, match=f"of step 5, so step {step} cannot be saved"):
            save_steps(tmp_path, step)
    assert_is(restore(tmp_path), 5)


@pytest.mark.parametrize(
    ("options", "message"), [({"keep_last": 0}, "keep_last is 0"), ({"keep_every": 0}, "keep_every is 0")]
)
def test_bad_options(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        Checkpoints(tmp_path, **options)


def test_unusable_places(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written to .*Not a directory"):
        Checkpoints(tmp_path / "file" / "checkpoints")
    with pytest.raises(UserError, match=r"az:// is not read or written; name a local path, gs://BUCKET/"):
        Checkpoints("az://bucket/run")


def test_a_full_disk_is_reported_and_harms_nothing(tmp_path):
    rng = np.random.default_rng(0)
    incompressible = {"w": rng.integers(0, 2**32, (1024, 1024), np.uint32)}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, incompressible, {})
        checkpoints.wait()
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, limits[1]))
        try:
            checkpoints.save(2, incompressible, {})
            with pytest.raises(UserError, match=r"step 2 could not be written .*untouched \(1\); make room"):
                checkpoints.wait()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert bits(checkpoints.restore_latest(incompressible).state) == bits(incompressible)
        checkpoints.save(2, incompressible, {})
        checkpoints.wait()
        assert checkpoints.steps() == [1, 2]


def test_a_failed_save_surfaces_at_the_next_one(tmp_path):
    state = {"w": np.random.default_rng(0).integers(0, 2**32, 2**20, np.uint32)}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Checkpoints(tmp_path) as checkpoints:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, limits[1]))
        try:
            checkpoints.save(1, state, {})
            with pytest.raises(UserError, match="step 1 could not be written"):
                checkpoints.save(2, state, {})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)


CHILD = """
import os, signal, sys
os.environ["JAX_PLATFORMS"] = "cpu"
import jax, jax.numpy as jnp
import numpy as np
from dnabert2_jax.training.checkpoint import Checkpoints

directory, size, event, fragment = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]

def kill_at(name, args):
    if name == event and args and fragment in str(args[0]):
        os.kill(os.getpid(), signal.SIGKILL)

def state(step):
    return {"w": jax.random.bits(jax.random.key(step), (size,), jnp.uint32), "step": np.uint32(step)}

with Checkpoints(directory, keep_last=2) as checkpoints:
    restored = checkpoints.restore_latest(state(0))
    step = 1 if restored is None else restored.step + 1
    if restored is not None:
        expected = state(restored.step)
        assert all((restored.state[name] == expected[name]).all() for name in expected), "not what was saved"
        assert restored.meta == {"records": restored.step}
    print("opened", step - 1, flush=True)
    if event:
        sys.addaudithook(kill_at)
    while True:
        print("saving", step, flush=True)
        checkpoints.save(step, state(step), {"records": step})
        checkpoints.wait()
        print("saved", step, flush=True)
        step += 1
"""


class Child:
    """A process that saves one step after the other until it is killed."""

    def __init__(self, directory: Path, size: int, event: str = "", fragment: str = "") -> None:
        self.process = start_script(CHILD, directory, size, event, fragment)
        self.lines: list[str] = []

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.communicate()

    def read_until(self, start: str) -> str:
        """The next line that starts so."""

        def said() -> bool:
            for line in self.process.output.split("\n")[len(self.lines) : -1]:
                self.lines.append(line)
                if line.startswith(start):
                    return True
            return False

        wait_until(self.process, said)
        return self.lines[-1]

    def end(self) -> None:
        """Wait for the kill and take what was still said."""
        out, errors = self.process.communicate(timeout=60)
        self.lines = out.split("\n")
        assert self.process.returncode == -signal.SIGKILL, errors

    @property
    def last_saved(self) -> int:
        return max((int(line.split()[1]) for line in self.lines if line.startswith("saved ")), default=0)


def test_killed_at_any_moment_of_a_save_the_run_goes_on_from_a_whole_checkpoint(tmp_path, caplog):
    size, saved = 2**20, 0
    for fraction in (0.1, 0.4, 0.8):
        with Child(tmp_path, size) as child:
            opened = int(child.read_until("opened").split()[1])
            assert opened in (saved, saved + 1), "the last finished checkpoint is lost and its successor was not complete"
            child.read_until("saved")  # the first save of a process is slower than those that follow
            child.read_until("saving")
            start = time.perf_counter()
            child.read_until("saved")
            duration = time.perf_counter() - start
            child.read_until("saving")
            time.sleep(fraction * duration)
            child.process.kill()
            child.end()
        saved = child.last_saved
        assert saved >= opened + 2
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore_latest({"w": jnp.zeros(size, jnp.uint32), "step": np.uint32(0)})
        assert restored.step in (saved, saved + 1)
        np.testing.assert_array_equal(
            restored.state["w"], jax.random.bits(jax.random.key(restored.step), (size,), jnp.uint32)
        )
    assert not list(tmp_path.rglob("*orbax-checkpoint-tmp*"))
    assert all((path / "manifest.json").is_file() for path in tmp_path.glob("step_*"))


@pytest.mark.parametrize(
    ("event", "fragment", "goes_on_from"),
    [
        ("open", "step_00000003/contents.json", 2),
        ("os.rename", "step_00000003/manifest.json", 2),
        ("os.remove", "step_00000001/manifest.json", 3),
        ("shutil.rmtree", "step_00000001", 3),
    ],
    ids=["before Orbax starts", "Orbax done, manifest not", "before an old one is deleted", "an old one half deleted"],
)
def test_killed_at_the_critical_moments(tmp_path, caplog, event, fragment, goes_on_from):
    with Child(tmp_path, 1000, event, fragment) as child:
        child.read_until("saving 3")
        child.end()
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore_latest({"w": jnp.zeros(1000, jnp.uint32), "step": np.uint32(0)})
        assert restored.step == goes_on_from
        assert int(restored.state["step"]) == goes_on_from
    assert "damaged" not in caplog.text
    assert not list(tmp_path.rglob("*orbax-checkpoint-tmp*"))


def test_a_second_run_is_refused(tmp_path):
    with Child(tmp_path, 1000) as child:
        child.read_until("opened")
        with pytest.raises(UserError, match="another run is writing checkpoints"):
            Checkpoints(tmp_path)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == sorted(checkpoints.steps())


HOSTS = """
import os, sys
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
import jax, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from dnabert2_jax.errors import UserError
from dnabert2_jax.training.checkpoint import Checkpoints

directory, port, process = sys.argv[1], sys.argv[2], int(sys.argv[3])
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=process)
mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
host = np.arange(64, dtype=np.float32).reshape(8, 8)
put = lambda x, *spec: jax.make_array_from_callback(x.shape, NamedSharding(mesh, P(*spec)), lambda index: x[index])
state = {"rows": put(host, "data"), "all": put(host), "count": np.uint32(7)}
with Checkpoints(directory) as checkpoints:
    checkpoints.save(1, state, {"records": 5})
    checkpoints.save(2, state, {"records": 9})
    checkpoints.wait()
    multihost = jax.experimental.multihost_utils
    multihost.sync_global_devices("saved")
    if process == 0:
        path = checkpoints.directory / "step_00000002" / "contents.json"
        path.write_text(path.read_text().replace("9", "8"))
    multihost.sync_global_devices("damaged")
    wanted = {"rows": put(host, None, "data"), "all": put(host, "data"), "count": np.uint32(0)}
    restored = checkpoints.restore_latest(wanted)
    assert restored.step == 1 and restored.meta == {"records": 5}
    for name in ("rows", "all"):
        assert restored.state[name].sharding == wanted[name].sharding
        for shard in restored.state[name].addressable_shards:
            np.testing.assert_array_equal(shard.data, host[shard.index])
    assert int(restored.state["count"].addressable_data(0)) == 7
print("fine", flush=True)
"""


def test_two_processes_save_shards_and_restore_them_laid_out_otherwise(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    children = [start_script(HOSTS, tmp_path, port, process) for process in range(2)]
    for child in children:
        out, errors = child.communicate(timeout=90)
        assert out.endswith("fine\n"), errors[-3000:]
    manifest = json.loads((tmp_path / "step_00000001" / "manifest.json").read_text())
    assert {name.split("/")[1] for name in manifest["files"] if "ocdbt.process_" in name} == {
        "ocdbt.process_0",
        "ocdbt.process_1",
    }
