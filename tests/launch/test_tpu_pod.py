"""What tpu_pod.sh would do, with a stand-in for gcloud."""

import os
import re
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.launch.helpers import COMMAND, RUN, TPU, dry_run, environment, launch


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
    assert "the run cannot continue: see its message above; the slice is still up" in result.stderr


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
