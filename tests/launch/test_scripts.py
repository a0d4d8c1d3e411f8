"""All launch scripts, those of one machine, and the image. cpu_processes.sh really runs in tests/recipes/test_elastic.py."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.launch.helpers import (
    COMMAND,
    GKE,
    HUGE_PAGES,
    LAUNCH,
    PLATFORMS,
    REQUIREMENTS,
    RUN,
    SCRIPTS,
    TPU,
    dry_run,
    environment,
    launch,
    tool,
)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_the_variables_of_a_platform(platform):
    variables = dict(line.split("=", 1) for line in environment(platform))
    assert variables["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=1"
    assert variables["JAX_PLATFORMS"] == {"cpu": "cpu", "gpu": "cuda", "tpu": "tpu"}[platform]
    ran = launch("environment.sh", platform, "--", "env")
    assert set(environment(platform)) <= set(ran.stdout.splitlines())


def test_no_script_sets_a_variable_on_its_own():
    """They are in one place, with their reasons."""
    for script in SCRIPTS:
        text = (LAUNCH / script).read_text()
        assert not re.search(r"\b(XLA_\w+|LIBTPU_INIT_ARGS|JAX_PLATFORMS|GLIBC_TUNABLES)=", text), script


@pytest.mark.parametrize("script", [*SCRIPTS, "environment.sh"])
def test_the_scripts_pass_shellcheck(script):
    checked = subprocess.run(
        [tool("shellcheck"), "--shell=bash", "--severity=warning", LAUNCH / script], capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("script", [*SCRIPTS, "environment.sh"])
def test_help_is_the_head_of_the_script_with_usage_and_prerequisites(script):
    result = launch(script, "--help")
    assert result.returncode == 0
    assert f"launch/{script}" in result.stdout
    assert "--dry-run" in result.stdout or script == "environment.sh"
    assert "Prerequisites:" in result.stdout
    assert os.access(LAUNCH / script, os.X_OK)
    for line in result.stdout.splitlines():
        assert f"# {line}".strip() in (LAUNCH / script).read_text().splitlines()


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("cpu_processes.sh", ["0", "--", "dnabert2"]),
        ("cpu_processes.sh", ["2", "x", "--", "dnabert2"]),
        ("cpu_processes.sh", ["2", "--"]),
        ("gpus.sh", ["one", "--", "dnabert2"]),
        ("gpus.sh", ["dnabert2", "pretrain"]),
        ("slurm.sbatch", RUN),  # no --
        ("slurm.sbatch", ["--", "dnabert2", "pretrain", "--config", "c.toml"]),  # no --workdir
        ("tpu_pod.sh", ["name", *COMMAND]),  # nothing says where
        ("gke_jobset.sh", ["name", *COMMAND]),
        ("environment.sh", []),
        ("environment.sh", ["npu"]),
    ],
)
def test_a_command_that_is_not_complete_gets_the_usage(script, arguments):
    result = launch(script, *(["--dry-run"] if script in SCRIPTS else []), *arguments)
    assert result.returncode == 2
    assert "Prerequisites:" in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("script", ["tpu_pod.sh", "gke_jobset.sh"])
def test_a_command_without_its_separator_gets_the_usage(script):
    result = launch(script, "--dry-run", "name", *RUN, **(TPU | GKE))
    assert result.returncode == 2
    assert "Prerequisites:" in result.stderr


@pytest.mark.parametrize(
    ("script", "arguments"),
    [("cpu_processes.sh", ["1"]), ("gpus.sh", []), ("gke_jobset.sh", ["name"]), ("tpu_pod.sh", ["name"])],
)
def test_huge_pages_are_requested(script, arguments):
    text = dry_run(script, *arguments, *COMMAND, **(TPU | GKE))
    assert "glibc.malloc.hugetlb=1" in text


@pytest.mark.parametrize(("script", "arguments"), [("cpu_processes.sh", ["1"]), ("gpus.sh", [])])
def test_a_setting_of_the_c_library_that_is_already_there_wins(script, arguments):
    """The last of two values counts, as ``ld.so --list-tunables`` shows."""
    words = shlex.split(dry_run(script, *arguments, *COMMAND, GLIBC_TUNABLES="glibc.malloc.hugetlb=0"))
    assert f"{HUGE_PAGES}:glibc.malloc.hugetlb=0" in words


def test_processes_on_one_cpu_know_each_other():
    lines = [
        shlex.split(line)
        for line in dry_run("cpu_processes.sh", "3", "2", "--", "dnabert2", *RUN, PORT="12345").splitlines()
    ]
    assert len(lines) == 3
    for number, words in enumerate(lines):
        assert words[words.index("dnabert2") + 1 :] == RUN
        settings = dict(word.split("=", 1) for word in words[1 : words.index("dnabert2")])
        assert settings == {
            "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": "2",
            "JAX_COORDINATOR_ADDRESS": "127.0.0.1:12345",
            "JAX_NUM_PROCESSES": "3",
            "JAX_PROCESS_ID": str(number),
        }


def test_the_quickstart_requests_huge_pages():
    if not shutil.which("make"):
        pytest.skip("needs make")
    for tunables, expected in {"": HUGE_PAGES, "glibc.malloc.hugetlb=0": f"{HUGE_PAGES}:glibc.malloc.hugetlb=0"}.items():
        command = ["make", "--no-print-directory", "--dry-run", "quickstart"]
        env = {"PATH": os.environ["PATH"], "GLIBC_TUNABLES": tunables}
        printed = subprocess.run(command, cwd=LAUNCH.parent, env=env, capture_output=True, text=True, check=True).stdout
        [line] = [line for line in printed.splitlines() if " quickstart --workdir" in line]
        assert line.split()[0] == expected


def test_the_quickstart_ends_with_how_to_find_the_command():
    if not shutil.which("make"):
        pytest.skip("needs make")
    command = ["make", "--no-print-directory", "--dry-run", "quickstart"]
    env = {"PATH": os.environ["PATH"]}  # a make around the tests exports its own VENV
    printed = subprocess.run(command, cwd=LAUNCH.parent, env=env, capture_output=True, text=True, check=True).stdout
    assert printed.splitlines()[-1] == 'echo "to use the dnabert2 command: source .venv/bin/activate"'
    readme = (LAUNCH.parent / "README.md").read_text()
    assert "results.json\nto use the dnabert2 command: source .venv/bin/activate\n" in readme


def test_a_process_that_is_told_so_gets_huge_pages():
    """What the scripts and the Makefile rely on: the C library asks, and the kernel grants."""
    kernel = Path("/sys/kernel/mm/transparent_hugepage")
    version = os.confstr("CS_GNU_LIBC_VERSION") if "CS_GNU_LIBC_VERSION" in os.confstr_names else None
    if not version or tuple(map(int, version.split()[1].split("."))) < (2, 35):
        pytest.skip("needs the GNU C library 2.35 or later")
    if not kernel.exists() or "[madvise]" not in (kernel / "enabled").read_text():
        pytest.skip("the kernel does not give huge pages on request")
    if not any(mode in (kernel / "defrag").read_text() for mode in ("[always]", "[madvise]", "[defer+madvise]")):
        pytest.skip("the kernel does not make room for huge pages at once")
    program = (
        "block = b'1' * 2**26\n"  # by malloc; for its own arrays NumPy asks anyway
        "print([line.split()[1] for line in open('/proc/self/smaps_rollup') if line.startswith('AnonHugePages')][0])\n"
    )
    kilobytes = {}
    for setting in ("0", "1"):
        env = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
        env["GLIBC_TUNABLES"] = f"glibc.malloc.hugetlb={setting}"
        done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True)
        kilobytes[setting] = int(done.stdout)
    assert kilobytes["1"] > 2**15 + kilobytes["0"]  # of 2^16


def test_a_process_that_fails_ends_all_with_its_code():
    script = 'if [ "$JAX_PROCESS_ID" = 1 ]; then exit 7; fi; exec sleep 60'
    result = launch("cpu_processes.sh", "2", "--", "bash", "-c", script)
    assert result.returncode == 7


def test_a_request_to_stop_reaches_every_process():
    script = 'trap "echo saved $JAX_PROCESS_ID; exit 0" TERM; echo ready; while true; do sleep 0.05; done'
    command = ["bash", LAUNCH / "cpu_processes.sh", "2", "--", "bash", "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == ["ready\n"] * 2
        process.terminate()
        assert sorted(process.stdout.read().split("\n")) == ["", "saved 0", "saved 1"]
        assert process.wait(timeout=10) == 0


@pytest.mark.parametrize(("gpus", "visible"), [([], []), (["0,3"], ["CUDA_VISIBLE_DEVICES=0,3"])])
def test_gpus_of_one_machine(gpus, visible):
    words = shlex.split(dry_run("gpus.sh", *gpus, "--", "dnabert2", "pretrain", *RUN))
    alone = ["-u", "SLURM_STEP_NODELIST"]  # not one of several processes of an interactive job
    assert words == ["env", *alone, *visible, *environment("gpu"), "dnabert2", "pretrain", *RUN]


def test_the_image_passes_the_linter_and_installs_pinned_versions():
    linted = subprocess.run([tool("hadolint"), LAUNCH / "Dockerfile"], capture_output=True, text=True)
    assert linted.returncode == 0, linted.stdout
    assert re.search(r"^FROM python:3\.11\.\d+-slim-bookworm$", (LAUNCH / "Dockerfile").read_text(), re.MULTILINE)
    for accelerator, plugin in {"tpu": "libtpu", "gpu": "jax-cuda12-plugin"}.items():
        pins = {pin.name: str(pin.specifier) for pin in read_requirements(LAUNCH / f"requirements-{accelerator}.txt")}
        assert plugin in pins
        assert all(pin.startswith("==") for pin in pins.values())
        for wanted in read_requirements(REQUIREMENTS):  # pins that no longer fit: make pins
            assert wanted.specifier.contains(pins[canonicalize_name(wanted.name)].removeprefix("==")), wanted


def read_requirements(file: Path) -> list[Requirement]:
    lines = (line.partition("#")[0].strip() for line in file.read_text().splitlines())
    return [Requirement(line) for line in lines if line]
