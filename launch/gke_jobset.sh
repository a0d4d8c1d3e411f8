#!/usr/bin/env bash
# Pretrain on a TPU slice of a GKE cluster, as a JobSet that restarts after a preemption.
#
#   IMAGE=... BUCKET=... SERVICE_ACCOUNT=... [ACCELERATOR=tpu-v5-lite-podslice TOPOLOGY=8x8 HOSTS=16 CHIPS=4] \
#       launch/gke_jobset.sh [--dry-run] NAME -- dnabert2 pretrain --config FILE --workdir /mnt/dnabert2/runs/NAME
#
# Fills in gke_jobset.yaml and applies it; --dry-run prints it. The command follows "--" exactly as you would type it. The
# bucket is mounted in every pod as /mnt/dnabert2, and --config, --workdir, corpus, and tokenizer must be in it. The defaults
# are 64 chips of v5e: HOSTS x CHIPS is the number of chips of TOPOLOGY.
# Prerequisites: kubectl for a cluster with such a node pool, the JobSet controller, and the Cloud Storage FUSE driver; IMAGE
# with the package and jax[tpu]; a Kubernetes service account that may write to BUCKET.
set -euo pipefail

usage() { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; }

apply=(kubectl apply -f -)
case ${1:-} in
    --help) usage; exit 0 ;;
    --dry-run) apply=(cat); shift ;;
esac
[[ $# -ge 3 && $1 =~ ^[a-z][a-z0-9-]*$ && $2 == -- && ${IMAGE:-} && ${BUCKET:-} && ${SERVICE_ACCOUNT:-} ]] \
    || { usage >&2; exit 2; }
NAME=$1
shift 2
ACCELERATOR=${ACCELERATOR:-tpu-v5-lite-podslice} TOPOLOGY=${TOPOLOGY:-8x8} HOSTS=${HOSTS:-16} CHIPS=${CHIPS:-4}

workdir=
for ((i = 1; i < $#; i++)); do [[ ${!i} != --workdir ]] || { j=$((i + 1)); workdir=${!j}; }; done
[[ $workdir ]] || { usage >&2; exit 2; }

# The shell is process 1 of its pod. The kernel drops signals that process 1 has no handler for, and a shell that waits for a
# foreground command passes none on; so the command runs in the background and SIGTERM is forwarded, which makes the run save.
# A run that was told to stop exits successfully; its pod must not, or Kubernetes would consider the job done. Only one
# process writes the model, so the pods of the others wait for it.
script='
told= child=
trap "told=1; kill -TERM \$child 2> /dev/null" TERM
"$@" &
child=$!
[ -z "$told" ] || kill -TERM $child
while true; do
    code=0
    wait $child || code=$?
    kill -0 $child 2> /dev/null || break
done
[ $code = 0 ] || exit $code
until test -f "$0/model/config.json"; do
    [ -z "$told" ] || exit 143
    sleep 2
done'
COMMAND=[]
for word in sh -c "$script" "$workdir" "$@"; do # a JSON list, which is YAML
    word=${word//\\/\\\\}
    word=${word//\"/\\\"}
    COMMAND="${COMMAND%]}, \"${word//$'\n'/\\n}\"]"
done
COMMAND="[${COMMAND#[, }"

text=$(grep -v '^#' "$(dirname "$0")/gke_jobset.yaml")
for key in NAME HOSTS SERVICE_ACCOUNT ACCELERATOR TOPOLOGY IMAGE CHIPS BUCKET COMMAND; do
    text=${text//": $key"/": ${!key}"}
done
"${apply[@]}" <<< "$text"
