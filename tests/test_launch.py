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
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from dnabert2_jax.cli.failures import exit_code
from dnabert2_jax.errors import UserError
from dnabert2_jax.training.workdir import MetricsLog
from tests.helpers import COMPILED, pretrain_content, tiny_corpus, tiny_model, wait_until, write_run

LAUNCH = Path(__file__).parents[1] / "launch"
REQUIREMENTS = LAUNCH.parent / "requirements.txt"
SCRIPTS = ["cpu_processes.sh", "gpus.sh", "slurm.sbatch", "tpu_pod.sh", "gke_jobset.sh"]
PLATFORMS = ["cpu", "gpu", "tpu"]
HUGE_PAGES = "GLIBC_TUNABLES=glibc.malloc.hugetlb=1"
RUN = ["--config", "c.toml", "--workdir", "/mnt/dnabert2/runs/a b", "--set", 'model.size="1b"']
TPU = {"PROJECT": "p", "ZONE": "us-west4-a", "TYPE": "v5litepod-64", "BUCKET": "genomes"}
COMMAND = ["--", "dnabert2", "pretrain", *RUN]
SPOT_NODE_SECONDS = 15  # what GKE gives the pods of a spot node
GKE = {"IMAGE": "registry/dnabert2:1", "BUCKET": "genomes", "SERVICE_ACCOUNT": "trainer"}


def launch(script: str, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    env = {"PATH": os.environ["PATH"], **environment}
    return subprocess.run(["bash", LAUNCH / script, *arguments], capture_output=True, text=True, timeout=20, env=env)


def dry_run(script: str, *arguments: str, **environment: str) -> str:
    result = launch(script, "--dry-run", *arguments, **environment)
    assert result.returncode == 0, result.stderr
    return result.stdout


def environment(platform: str) -> list[str]:
    return launch("environment.sh", platform).stdout.splitlines()


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


def tool(name: str) -> Path:
    """A program that PyPI put beside this Python."""
    path = Path(sys.executable).parent / name
    if not path.exists():
        pytest.skip(f"{name} is not installed")
    return path


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
    words = shlex.split(dry_run("gpus.sh", *gpus, "--", "dnabert2", "pretrain", *RUN))
    alone = ["-u", "SLURM_STEP_NODELIST"]  # not one of several processes of an interactive job
    assert words == ["env", *alone, *visible, *environment("gpu"), "dnabert2", "pretrain", *RUN]


def test_slurm_runs_a_process_for_each_gpu_and_queues_again():
    run, requeue = map(shlex.split, dry_run("slurm.sbatch", *COMMAND, SLURM_JOB_ID="77").splitlines())
    assert run == ["srun", "--kill-on-bad-exit=1", "env", *environment("gpu"), "dnabert2", "pretrain", *RUN]
    assert requeue == ["scontrol", "requeue", "77"]
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
    path = _slurm_stand_ins(tmp_path, srun='echo "$SRUN_CPUS_PER_TASK" "$@"', scontrol="exit 0")
    command = ["--", "dnabert2", "finetune", "--workdir", str(tmp_path / "run")]
    result = launch("slurm.sbatch", *command, PATH=path, SLURM_CPUS_PER_TASK="6")
    assert result.stdout.split() == ["6", "--kill-on-bad-exit=1", "env", *environment("gpu"), *command[1:]]


def test_slurm_does_not_fine_tune_once_for_every_gpu(tmp_path):
    """The script's own default is eight tasks, each of which would fine-tune in the same directory."""
    path = _slurm_stand_ins(tmp_path, srun="echo ran", scontrol="exit 0")
    command = ["--", "dnabert2", "finetune", "--workdir", str(tmp_path / "run")]
    result = launch("slurm.sbatch", *command, PATH=path, SLURM_NTASKS="8")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == (
        "fine-tuning runs in one process, and this job has 8: add --ntasks-per-node=1 (and --nodes=1)\n"
    )
    assert launch("slurm.sbatch", *command, PATH=path, SLURM_NTASKS="1").stdout == "ran\n"


def test_slurm_runs_a_copy_of_the_script_which_still_finds_the_environment(tmp_path):
    """As slurmd does, which copies the script to its spool directory."""
    copy = shutil.copy(LAUNCH / "slurm.sbatch", tmp_path / "slurm_script")
    record = f"   Command={LAUNCH / 'slurm.sbatch'} -- dnabert2"  # of `scontrol show job`
    path = _slurm_stand_ins(tmp_path, srun='echo "$@"', scontrol=f'[ "$1" != show ] || echo "{record}"')
    command = ["--", "dnabert2", "pretrain", "--workdir", str(tmp_path / "run")]
    done = subprocess.run(
        ["bash", copy, *command], env={"PATH": path, "SLURM_JOB_ID": "7"}, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["--kill-on-bad-exit=1", "env", *environment("gpu"), *command[1:]]


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
    bucket, *commands = commands
    assert bucket[:5] == ["gcloud", "storage", "buckets", "describe", "gs://genomes"]
    assert all(words[:3] == ["gcloud", "compute", "tpus"] for words in commands)
    assert all({"--project=p", "--zone=us-west4-a"} <= set(words) for words in commands)
    create, setup, start, show, finished, delete = commands
    assert create[3:6] == ["queued-resources", "create", "slice"]
    assert {"--node-id=slice", "--accelerator-type=v5litepod-64", "--spot"} <= set(create)
    assert "genomes /mnt/dnabert2" in setup[-1]
    assert "--metadata-cache-ttl-secs=60 --metadata-cache-negative-ttl-secs=0" in setup[-1]
    assert "--file-cache-max-size-mb=20480" in setup[-1]
    assert re.search(r"apt-get .*-o DPkg::Lock::Timeout=300", setup[-1])  # a fresh VM upgrades itself
    assert "-r /mnt/dnabert2/wheels/requirements-tpu.txt" in setup[-1]
    assert "--worker=all" in setup
    assert "--worker=all" in start
    assert "--worker=0" in show
    assert "--worker=0" in finished
    assert shlex.split(finished[-1])[-1] == "/mnt/dnabert2/runs/a b/model/config.json"
    assert delete[3:6] == ["queued-resources", "delete", "slice"]
    for words in (setup, start, show, finished):  # what runs there is a script that bash can read
        text = words[-1].removeprefix("--command=")
        assert subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True).returncode == 0


def test_on_the_workers_the_run_is_a_unit_that_needs_no_connection(tmp_path):
    """What the workers get, run here with stand-ins that only show their arguments."""
    start = _commands(dry_run("tpu_pod.sh", "slice", *COMMAND, **TPU))[3][-1].removeprefix("--command=")
    (tmp_path / "sudo").write_text('#!/bin/sh\nprintf "%s\\0" "$@"; echo\n')
    (tmp_path / "sudo").chmod(0o755)
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": "/home/me"}
    done = subprocess.run(["bash", "-c", start], env=env, capture_output=True, text=True, check=True)
    stop, reset, run = (line.removesuffix("\0").split("\0") for line in done.stdout.splitlines())
    assert stop == ["systemctl", "stop", "dnabert2"]  # the run of a worker whose others have failed
    assert reset == ["systemctl", "reset-failed", "dnabert2"]
    assert run[:3] == ["systemd-run", "--unit=dnabert2", f"--uid={os.getuid()}"]
    command = run[run.index("/usr/bin/env") :]
    assert command[1].startswith("PATH=/home/me/venv/bin:")
    cache = "DNABERT2_COMPILATION_CACHE=/mnt/dnabert2/compiled"
    assert command[2:] == [*environment("tpu"), cache, "dnabert2", "pretrain", *RUN]


GCLOUD = """
next() { head -n 1 "$1"; [ "$(wc -l < "$1")" = 1 ] || sed -i 1d "$1"; }  # the last line stays
case "$*" in
    *buckets*) next buckets ;;
    *queued-resources\\ describe*) next states ;;
    *queued-resources*) echo "$4" >> log ;;
    *show\\ dnabert2*) seen=$(next units); [ "$seen" != lost ] || exit 255; printf "$seen" ;;
    *test\\ -f*) [ "$(next models)" = yes ] ;;
    *systemd-run*) echo start >> log ;;
    *gcsfuse*) echo setup >> log ;;
esac
"""
RUNS, STOPPED = "ActiveState=active\\nExecMainStatus=0\\n", "ActiveState=inactive\\nExecMainStatus=0\\n"
FAILED, REFUSED = "ActiveState=failed\\nExecMainStatus=1\\n", "ActiveState=failed\\nExecMainStatus=2\\nno corpus\\n"


def _tpu_pod(directory: Path, **answers: Sequence[str]) -> tuple["subprocess.CompletedProcess[str]", list[str]]:
    """The script with a stand-in for gcloud that gives these answers in turn; and what it did to the slice."""
    for name, lines in ({"buckets": ["True"]} | answers).items():
        (directory / name).write_text("".join(f"{line}\n" for line in lines))
    (directory / "gcloud").write_text(f"#!/bin/bash\ncd {directory}\n{GCLOUD}")
    (directory / "gcloud").chmod(0o755)
    result = launch("tpu_pod.sh", "slice", *COMMAND, **TPU, POLL="0", PATH=f"{directory}:{os.environ['PATH']}")
    log = directory / "log"
    return result, log.read_text().split() if log.exists() else []


def test_a_run_on_a_tpu_slice_from_the_request_to_the_release(tmp_path):
    result, done = _tpu_pod(
        tmp_path, states=["NONE", "PROVISIONING", "ACTIVE"], units=[STOPPED, RUNS, RUNS, STOPPED], models=["no", "yes"]
    )
    assert result.returncode == 0, result.stderr
    assert done == ["create", "setup", "start", "delete"]


def test_a_run_that_is_found_is_taken_over(tmp_path):
    result, done = _tpu_pod(tmp_path, states=["ACTIVE"], units=[RUNS, STOPPED], models=["yes"])
    assert (result.returncode, done) == (0, ["delete"])


def test_a_slice_that_is_preempted_is_requested_again_and_a_lost_connection_changes_nothing(tmp_path):
    result, done = _tpu_pod(
        tmp_path,
        states=["ACTIVE", "ACTIVE", "SUSPENDED", "WAITING_FOR_RESOURCES", "ACTIVE"],
        units=[RUNS, "lost", STOPPED, RUNS, STOPPED],
        models=["no", "yes"],
    )
    assert result.returncode == 0, result.stderr
    assert done == ["delete", "create", "setup", "start", "delete"]


def test_a_run_that_failed_is_started_again_unless_only_its_user_can_help(tmp_path):
    result, done = _tpu_pod(tmp_path, states=["ACTIVE"], units=[RUNS, FAILED, RUNS, REFUSED], models=["no"])
    assert result.returncode == 2
    assert done == ["setup", "start"]
    assert "no corpus" in result.stdout
    assert "the run cannot go on: see its message above; the slice is still up" in result.stderr


def test_a_bucket_without_hierarchical_namespace_is_refused_before_anything_is_paid_for(tmp_path):
    result, done = _tpu_pod(tmp_path, buckets=["None"], states=["NONE"], units=[], models=[])
    assert (result.returncode, done) == (2, [])
    assert "gs://genomes has no hierarchical namespace" in result.stderr
    assert "--enable-hierarchical-namespace" in result.stderr


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
    assert [f"{variable['name']}={variable['value']}" for variable in container["env"]] == [
        *environment("tpu"),
        "DNABERT2_COMPILATION_CACHE=/mnt/dnabert2/compiled",
    ]
    assert container["command"][4:] == COMMAND[1:]
    assert container["command"][:2] == ["sh", "-c"]
    assert container["command"][3] == "/mnt/dnabert2/runs/a b"


def test_the_jobset_has_only_fields_that_exist():
    """By the models of JobSet's own API, and for the Job in it by Kubernetes' schemas."""
    models = pytest.importorskip("kubeflow_trainer_api.models")
    kubernetes = pytest.importorskip("kubernetes_validate")
    jobset = yaml.safe_load(dry_run("gke_jobset.sh", "run-1", *COMMAND, **GKE))
    assert models.JobsetV1alpha2JobSet.from_dict(jobset).to_dict() == jobset  # a field it does not know is dropped
    [replicated] = jobset["spec"]["replicatedJobs"]
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "slice"}, **replicated["template"]}
    kubernetes.validate(job, kubernetes.latest_version(), strict=True)
    with pytest.raises(kubernetes.ValidationError, match="backofLimit"):
        kubernetes.validate({**job, "spec": {**job["spec"], "backofLimit": 0}}, kubernetes.latest_version(), strict=True)


def test_the_sidecar_of_a_pod_has_room_for_its_cache():
    jobset = yaml.safe_load(dry_run("gke_jobset.sh", "run-1", *COMMAND, **GKE, CACHE_GB="50"))
    pod = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
    annotations = {key.removeprefix("gke-gcsfuse/"): value for key, value in pod["metadata"]["annotations"].items()}
    assert annotations == {"volumes": "true", "cpu-limit": "4", "memory-limit": "4Gi", "ephemeral-storage-limit": "60Gi"}
    options = pod["spec"]["volumes"][0]["csi"]["volumeAttributes"]["mountOptions"].split(",")
    values = dict(option.rsplit(":", 1) for option in options[1:])
    assert options[0] == "implicit-dirs"
    assert int(values["file-cache:max-size-mb"]) == 50 * 1024
    assert (values["metadata-cache:ttl-secs"], values["metadata-cache:negative-ttl-secs"]) == ("60", "0")


def test_what_only_the_user_can_fix_ends_the_jobset():
    """The exit code that the Job gives up on is the one of a UserError, and the JobSet gives up with the Job."""
    spec = yaml.safe_load(dry_run("gke_jobset.sh", "run-1", *COMMAND, **GKE))["spec"]
    [rule] = spec["replicatedJobs"][0]["template"]["spec"]["podFailurePolicy"]["rules"]
    assert (rule["action"], rule["onExitCodes"]["operator"]) == ("FailJob", "In")

    def refuse():
        raise UserError("there is no corpus")

    assert rule["onExitCodes"]["values"] == [exit_code(refuse)]
    [policy] = spec["failurePolicy"]["rules"]
    assert (policy["action"], policy["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])


@pytest.mark.parametrize("hierarchical", ["True", "None"])
def test_the_jobset_is_applied_unless_the_bucket_has_no_hierarchical_namespace(tmp_path, hierarchical):
    scripts = {"gcloud": f"echo {hierarchical}", "kubectl": f"echo $* > {tmp_path}/said; cat > /dev/null"}
    for name, content in scripts.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{content}\n")
        (tmp_path / name).chmod(0o755)
    result = launch("gke_jobset.sh", "run-1", *COMMAND, **GKE, PATH=f"{tmp_path}:{os.environ['PATH']}")
    if hierarchical == "True":
        assert (result.returncode, (tmp_path / "said").read_text()) == (0, "apply -f -\n")
    else:
        assert (result.returncode, (tmp_path / "said").exists()) == (2, False)
        assert "gs://genomes has no hierarchical namespace" in result.stderr


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


@pytest.mark.slow
def test_a_pod_whose_node_is_preempted_saves_in_time_and_the_next_one_ends_the_run(tmp_path):
    """The manifest's own command around a real run, twice, each as process 1 of a PID namespace."""
    namespace = _namespace()
    tiny_model(tmp_path / "base")
    corpus = tiny_corpus(tmp_path)
    training = {"steps": 200, "save_every": 1000, "evaluate_every": 200, "log_every": 1}
    config = write_run(
        tmp_path / "run.toml", "pretrain", pretrain_content(tmp_path / "base", corpus.path, training=training)
    )
    workdir = tmp_path / "run"
    run = ["--", sys.executable, "-m", "dnabert2_jax", "pretrain", "--config", str(config), "--workdir", str(workdir)]
    pod = yaml.safe_load(dry_run("gke_jobset.sh", "run", *run, **GKE))["spec"]["replicatedJobs"][0]["template"]["spec"]
    command = pod["template"]["spec"]["containers"][0]["command"]
    env = {**os.environ, "JAX_COMPILATION_CACHE_DIR": COMPILED, "JAX_PLATFORMS": "cpu"}

    with subprocess.Popen([*namespace, *command], env=env, stderr=subprocess.PIPE, text=True) as process:
        try:
            wait_until(process, lambda: len(MetricsLog.read(workdir)) >= 3)
            [first] = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            told = time.monotonic()
            os.kill(int(first), signal.SIGTERM)
            code = process.wait(timeout=60)
            took = time.monotonic() - told
        finally:
            process.kill()
    assert code == 143  # a failure, so that the JobSet starts it again
    [saved] = (workdir / "checkpoints").glob("step_*/manifest.json")
    assert took < SPOT_NODE_SECONDS
    again = subprocess.run([*namespace, *command], env=env, capture_output=True, text=True, timeout=120)
    assert again.returncode == 0, again.stderr
    assert f"resuming from step {int(saved.parent.name.removeprefix('step_'))} of 200" in again.stderr
    assert (workdir / "model" / "config.json").is_file()
