"""What slurm.sbatch would do, with stand-ins for the commands of Slurm."""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

from tests.launch.helpers import COMMAND, LAUNCH, RUN, dry_run, environment, launch


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
