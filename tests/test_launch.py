"""What the launch scripts would do. cpu_processes.sh really runs in tests/recipes/test_elastic.py."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

LAUNCH = Path(__file__).parents[1] / "launch"
SCRIPTS = ["cpu_processes.sh", "gpus.sh", "slurm.sbatch", "tpu_pod.sh", "gke_jobset.sh"]
HUGE_PAGES = "GLIBC_TUNABLES=glibc.malloc.hugetlb=1"
RUN = ["--config", "c.toml", "--workdir", "/mnt/dnabert2/runs/a b", "--set", 'model.size="1b"']
TPU = {"PROJECT": "p", "ZONE": "us-west4-a", "TYPE": "v5litepod-64", "BUCKET": "genomes"}
COMMAND = ["--", "dnabert2", "pretrain", *RUN]
GKE = {"IMAGE": "registry/dnabert2:1", "BUCKET": "genomes", "SERVICE_ACCOUNT": "trainer"}


def launch(script: str, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    env = {"PATH": os.environ["PATH"], **environment}
    return subprocess.run(["bash", LAUNCH / script, *arguments], capture_output=True, text=True, timeout=20, env=env)


def dry_run(script: str, *arguments: str, **environment: str) -> str:
    result = launch(script, "--dry-run", *arguments, **environment)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_is_the_head_of_the_script_with_usage_and_prerequisites(script):
    result = launch(script, "--help")
    assert result.returncode == 0
    assert f"launch/{script}" in result.stdout
    assert "--dry-run" in result.stdout
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
    ],
)
def test_a_command_that_is_not_complete_gets_the_usage(script, arguments):
    result = launch(script, "--dry-run", *arguments)
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
    for environment, expected in {"": HUGE_PAGES, "glibc.malloc.hugetlb=0": f"{HUGE_PAGES}:glibc.malloc.hugetlb=0"}.items():
        command = ["make", "--no-print-directory", "--dry-run", "quickstart"]
        env = {"PATH": os.environ["PATH"], "GLIBC_TUNABLES": environment}
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
    words = dry_run("gpus.sh", *gpus, "--", "dnabert2", "pretrain", *RUN[:2]).split()
    del words[1:3]  # -u SLURM_STEP_NODELIST
    assert words == [
        "env",
        *visible,
        "JAX_PLATFORMS=cuda",
        "XLA_PYTHON_CLIENT_MEM_FRACTION=0.92",
        HUGE_PAGES,
        "dnabert2",
        "pretrain",
        *RUN[:2],
    ]


def test_slurm_runs_a_process_for_each_gpu_and_queues_again():
    lines = dry_run("slurm.sbatch", *COMMAND, SLURM_JOB_ID="77").splitlines()
    assert lines == ["srun --kill-on-bad-exit=1 dnabert2 pretrain " + " ".join(RUN), "scontrol requeue 77"]
    head = (LAUNCH / "slurm.sbatch").read_text()
    directives = dict(
        line[len("#SBATCH --") :].partition("=")[::2] for line in head.splitlines() if line.startswith("#SBATCH")
    )
    assert directives["ntasks-per-node"] == directives["gpus-per-node"]
    assert directives["signal"].startswith("TERM@")  # without B: to the processes, which save
    assert {"requeue", "open-mode"} <= directives.keys()


def _slurm_stand_ins(directory: Path, **scripts: str) -> str:
    """A PATH on which commands of Slurm are these scripts."""
    for name, content in scripts.items():
        (directory / name).write_text(f"#!/bin/sh\n{content}\n")
        (directory / name).chmod(0o755)
    return f"{directory}:{os.environ['PATH']}"


def test_slurm_runs_any_command_with_the_cores_of_the_job(tmp_path):
    """srun takes --cpus-per-task from SRUN_CPUS_PER_TASK alone; fine-tuning goes the same way as pretraining."""
    path = _slurm_stand_ins(tmp_path, srun='echo "$SRUN_CPUS_PER_TASK" "$GLIBC_TUNABLES" "$@"', scontrol="exit 0")
    command = ["--", "dnabert2", "finetune", "--workdir", str(tmp_path / "run")]
    result = launch("slurm.sbatch", *command, PATH=path, SLURM_CPUS_PER_TASK="6")
    assert result.stdout.split() == ["6", "glibc.malloc.hugetlb=1", "--kill-on-bad-exit=1", *command[1:]]


def test_slurm_does_not_queue_again_once_there_is_a_model(tmp_path):
    """With stand-ins for Slurm's own two commands."""
    path = _slurm_stand_ins(tmp_path, srun="exit 0", scontrol=f"echo $* > {tmp_path}/requeued")
    command = ["--", "dnabert2", "pretrain", "--workdir", str(tmp_path / "run")]
    assert launch("slurm.sbatch", *command, PATH=path, SLURM_JOB_ID="77").returncode == 0
    assert (tmp_path / "requeued").read_text() == "requeue 77\n"
    (tmp_path / "requeued").unlink()
    (tmp_path / "run" / "model").mkdir(parents=True)
    (tmp_path / "run" / "model" / "config.json").touch()
    assert launch("slurm.sbatch", *command, PATH=path, SLURM_JOB_ID="77").returncode == 0
    assert not (tmp_path / "requeued").exists()


def test_a_tpu_slice_is_requested_set_up_used_and_released():
    commands = _commands(dry_run("tpu_pod.sh", "slice", *COMMAND, **TPU))
    assert all(words[:3] == ["gcloud", "compute", "tpus"] for words in commands)
    assert all({"--project=p", "--zone=us-west4-a"} <= set(words) for words in commands)
    create, setup, train, done, delete = commands
    assert create[3:6] == ["queued-resources", "create", "slice"]
    assert {"--node-id=slice", "--accelerator-type=v5litepod-64", "--spot"} <= set(create)
    assert "gcsfuse" in setup[-1]
    assert "genomes /mnt/dnabert2" in setup[-1]
    assert re.search(r"apt-get .*-o DPkg::Lock::Timeout=300", setup[-1])  # a fresh VM upgrades itself
    assert "--worker=all" in setup
    assert "--worker=all" in train
    assert "JAX_PLATFORMS=tpu" in shlex.split(train[-1])
    assert shlex.split(train[-1].partition("&& dnabert2")[2]) == ["pretrain", *RUN]
    assert "--worker=0" in done
    assert shlex.split(done[-1])[-1] == "/mnt/dnabert2/runs/a b/model/config.json"
    assert delete[3:6] == ["queued-resources", "delete", "slice"]
    for words in (setup, train, done):  # what runs there is a script that bash can read
        text = words[-1].removeprefix("--command=")
        assert subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True).returncode == 0


def _commands(text: str) -> list[list[str]]:
    """Words of each gcloud command, as bash reads them."""
    reader = f'gcloud() {{ printf "%s\\0" gcloud "$@"; printf "\\0"; }}\n{text}'
    output = subprocess.run(["bash", "-c", reader], capture_output=True, text=True, check=True).stdout
    return [command.split("\0") for command in output.removesuffix("\0\0").split("\0\0")]


def test_capacity_that_is_not_preempted():
    assert "--spot" not in dry_run("tpu_pod.sh", "slice", *COMMAND, **TPU, SPOT="")


def test_a_workdir_that_workers_do_not_share_is_refused():
    command = ["--", "dnabert2", "pretrain", "--config", "c", "--workdir", "runs/a"]
    result = launch("tpu_pod.sh", "--dry-run", "slice", *command, **TPU)
    assert result.returncode == 2
    assert "--workdir 'runs/a' must be in /mnt/dnabert2" in result.stderr


def test_the_jobset_is_filled_in():
    text = dry_run("gke_jobset.sh", "run-1", *COMMAND, **GKE, TOPOLOGY="16x16", HOSTS="64")
    jobset = yaml.safe_load(text)
    assert (jobset["kind"], jobset["metadata"]["name"]) == ("JobSet", "run-1")
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert (job["parallelism"], job["completions"], job["completionMode"]) == (64, 64, "Indexed")
    pod = job["template"]["spec"]
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == "16x16"
    assert pod["serviceAccountName"] == "trainer"
    assert pod["volumes"][0]["csi"]["volumeAttributes"]["bucketName"] == "genomes"
    container = pod["containers"][0]
    assert container["image"] == "registry/dnabert2:1"
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    assert {variable["name"]: variable["value"] for variable in container["env"]}["JAX_PLATFORMS"] == "tpu"
    assert container["command"][4:] == COMMAND[1:]
    assert container["command"][:2] == ["sh", "-c"]
    assert container["command"][3] == "/mnt/dnabert2/runs/a b"


def _pod_command(directory: Path, dnabert2: str) -> tuple[list[str], dict[str, str]]:
    """The command of a pod whose workdir this is, and an environment in which ``dnabert2`` is this script."""
    (directory / "dnabert2").write_text(f"#!/bin/sh\n{dnabert2}\n")
    (directory / "dnabert2").chmod(0o755)
    text = dry_run("gke_jobset.sh", "run", "--", "dnabert2", "pretrain", "--workdir", str(directory), **GKE)
    pod = yaml.safe_load(text)["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    return pod["containers"][0]["command"], {"PATH": f"{directory}:{os.environ['PATH']}"}


def _write_model(directory: Path) -> None:
    (directory / "model").mkdir()
    (directory / "model" / "config.json").touch()


def test_a_pod_ends_well_only_with_a_model(tmp_path):
    """The command of the manifest, with a stand-in for dnabert2."""
    command, env = _pod_command(tmp_path, 'echo "$@" >> "$3/called"')
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run(command, env=env, timeout=0.5)
    _write_model(tmp_path)
    assert subprocess.run(command, env=env, timeout=10).returncode == 0
    assert (tmp_path / "called").read_text().splitlines() == [f"pretrain --workdir {tmp_path}"] * 2


def test_a_pod_hands_on_the_failure_of_its_run(tmp_path):
    command, env = _pod_command(tmp_path, "exit 3")
    _write_model(tmp_path)
    assert subprocess.run(command, env=env, timeout=10).returncode == 3


def _namespace() -> Sequence[str]:
    """A command that runs another one as process 1, as a container does; skips where nobody may."""
    command = ("unshare", "--fork", "--pid", "--mount-proc", "--kill-child")
    if not shutil.which("unshare") or subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip("needs unshare and the right to make a PID namespace (root)")
    return command


SAVES_ON_SIGTERM = """
trap 'echo saving > "$3/said"; sleep 0.3; echo saved >> "$3/said"; exit 0' TERM
echo ready
while true; do sleep 0.05; done
"""


@pytest.mark.parametrize(("with_model", "code"), [(False, 143), (True, 0)])
def test_a_pod_passes_sigterm_to_its_run_and_fails_unless_there_is_a_model(tmp_path, with_model, code):
    """As process 1 of a PID namespace, to which the kernel delivers no signal that it has no handler for."""
    namespace = _namespace()
    command, env = _pod_command(tmp_path, SAVES_ON_SIGTERM)
    if with_model:
        _write_model(tmp_path)
    with subprocess.Popen([*namespace, *command], env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            [first] = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            os.kill(int(first), signal.SIGTERM)
            assert process.wait(timeout=10) == code
        finally:
            process.kill()
    assert (tmp_path / "said").read_text() == "saving\nsaved\n"  # it was waited for


def test_sigterm_would_not_reach_a_run_in_the_foreground_of_process_1(tmp_path):
    """Why the command of a pod is more than the run: the control for the test above."""
    namespace = _namespace()
    _, env = _pod_command(tmp_path, SAVES_ON_SIGTERM)
    command = ["sh", "-c", f"dnabert2 pretrain --workdir {tmp_path}; true"]
    with subprocess.Popen([*namespace, *command], env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            [first] = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            os.kill(int(first), signal.SIGTERM)
            time.sleep(0.5)
            assert process.poll() is None
            assert not (tmp_path / "said").exists()
        finally:
            process.kill()
