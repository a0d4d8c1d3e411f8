"""Calls of the launch scripts, and what they are called with."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[2] / "launch"
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


def tool(name: str) -> Path:
    """A program that PyPI put beside this Python."""
    path = Path(sys.executable).parent / name
    if not path.exists():
        pytest.skip(f"{name} is not installed")
    return path
