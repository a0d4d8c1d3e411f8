"""The manifest that gke_jobset.sh fills in and applies."""

import os

import kubernetes_validate as kubernetes
import pytest
import yaml
from kubeflow_trainer_api import models

from dnabert2_jax.cli.failures import exit_code
from dnabert2_jax.errors import UserError
from tests.launch.helpers import COMMAND, GKE, dry_run, environment, launch


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
