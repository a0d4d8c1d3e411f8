#!/usr/bin/env bash
# Pretraining on a TPU slice of a GKE cluster, as a JobSet that starts again after a preemption.
#
#   IMAGE=... BUCKET=... SERVICE_ACCOUNT=... [ACCELERATOR=tpu-v5-lite-podslice TOPOLOGY=8x8 HOSTS=16 CHIPS=4] \
#       launch/gke_jobset.sh [--dry-run] NAME --config FILE --workdir /mnt/dnabert2/runs/NAME [--set A.B=C]
#
# Fills in gke_jobset.yaml and applies it; --dry-run prints it. What follows NAME is what dnabert2 pretrain takes. The bucket
# appears in every pod as /mnt/dnabert2, and --config, --workdir, corpus and tokenizer lie there. The defaults are 64 chips of
# v5e: HOSTS x CHIPS is the number of chips of TOPOLOGY.
# Prerequisites: kubectl for a cluster with such a node pool, the JobSet controller and the Cloud Storage FUSE driver; IMAGE
# with the package and jax[tpu]; a Kubernetes service account that may write to BUCKET.
set -euo pipefail

usage() { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; }

apply=(kubectl apply -f -)
case ${1:-} in
    --help) usage; exit 0 ;;
    --dry-run) apply=(cat); shift ;;
esac
[[ $# -ge 3 && $1 =~ ^[a-z][a-z0-9-]*$ && ${IMAGE:-} && ${BUCKET:-} && ${SERVICE_ACCOUNT:-} ]] || { usage >&2; exit 2; }
NAME=$1
shift
ACCELERATOR=${ACCELERATOR:-tpu-v5-lite-podslice} TOPOLOGY=${TOPOLOGY:-8x8} HOSTS=${HOSTS:-16} CHIPS=${CHIPS:-4}

workdir=
for ((i = 1; i < $#; i++)); do [[ ${!i} != --workdir ]] || { j=$((i + 1)); workdir=${!j}; }; done
[[ $workdir ]] || { usage >&2; exit 2; }
# A run that is told to stop saves and ends well; its pod must not, or Kubernetes would take the work for done.
script='dnabert2 pretrain "$@" && until test -f "$0/model/config.json"; do sleep 5; done'
COMMAND=[]
for word in sh -c "$script" "$workdir" "$@"; do # a JSON list, which is YAML
    word=${word//\\/\\\\}
    COMMAND="${COMMAND%]}, \"${word//\"/\\\"}\"]"
done
COMMAND="[${COMMAND#[, }"

text=$(grep -v '^#' "$(dirname "$0")/gke_jobset.yaml")
for key in NAME HOSTS SERVICE_ACCOUNT ACCELERATOR TOPOLOGY IMAGE CHIPS BUCKET COMMAND; do
    text=${text//": $key"/": ${!key}"}
done
"${apply[@]}" <<< "$text"
