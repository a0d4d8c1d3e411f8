#!/usr/bin/env bash
# Pretrain on a TPU slice of a GKE cluster, as a JobSet that restarts after a preemption.
#
#   IMAGE=... BUCKET=... SERVICE_ACCOUNT=... [ACCELERATOR=tpu-v5-lite-podslice TOPOLOGY=8x8 HOSTS=16 CHIPS=4 CACHE_GB=20] \
#       launch/gke_jobset.sh [--dry-run] NAME -- dnabert2 pretrain --config FILE --workdir /mnt/dnabert2/runs/NAME
#
# Fills in gke_jobset.yaml and applies it; --dry-run prints it. The command follows "--" exactly as you would type it. The
# bucket is mounted in every pod as /mnt/dnabert2, where the command runs; --config, --workdir, corpus, and tokenizer must be in
# it. The defaults are 64 chips of v5e: HOSTS x CHIPS is the number of chips of TOPOLOGY. CACHE_GB is how much of the bucket
# each node may keep on its disk: at least the size of the corpus.
# Prerequisites: kubectl for a cluster with such a node pool, the JobSet controller, and the Cloud Storage FUSE driver; gcloud;
# IMAGE built from launch/Dockerfile for TPU; BUCKET in the region of the nodes, with hierarchical namespace; a Kubernetes
# service account that may write to it.
set -euo pipefail

usage() { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; }
die() { echo "$*" >&2; exit 2; }

dry=
case ${1:-} in
    --help) usage; exit 0 ;;
    --dry-run) dry=1; shift ;;
esac
[[ $# -ge 3 && $1 =~ ^[a-z][a-z0-9-]*$ && $2 == -- && ${IMAGE:-} && ${BUCKET:-} && ${SERVICE_ACCOUNT:-} ]] \
    || { usage >&2; exit 2; }
name=$1
shift 2

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
yaml_list() { # a JSON list, which is YAML
    local word list=
    for word in "$@"; do
        word=${word//\\/\\\\}
        word=${word//\"/\\\"}
        list+=", \"${word//$'\n'/\\n}\""
    done
    echo "[${list#, }]"
}
yaml_environment() {
    local variable list=
    for variable in "$@"; do list+=", {name: ${variable%%=*}, value: \"${variable#*=}\"}"; done
    echo "[${list#, }]"
}

CACHE_GB=${CACHE_GB:-20}
mapfile -t environment < <(env -u GLIBC_TUNABLES "$(dirname "$0")/environment.sh" tpu)
environment+=(DNABERT2_COMPILATION_CACHE=/mnt/dnabert2/compiled) # outlives the pods, and all of them share it
declare -A values=(
    [NAME]=$name [IMAGE]=$IMAGE [BUCKET]=$BUCKET [SERVICE_ACCOUNT]=$SERVICE_ACCOUNT [HOSTS]=${HOSTS:-16} [CHIPS]=${CHIPS:-4}
    [ACCELERATOR]=${ACCELERATOR:-tpu-v5-lite-podslice} [TOPOLOGY]=${TOPOLOGY:-8x8}
    [CACHE_MB]=$((CACHE_GB * 1024)) [SIDECAR_STORAGE]=$((CACHE_GB + 10))Gi
    [COMMAND]=$(yaml_list sh -c "$script" "$workdir" "$@") [ENVIRONMENT]=$(yaml_environment "${environment[@]}")
)
manifest=$(grep -v '^#' "$(dirname "$0")/gke_jobset.yaml")
for key in NAME IMAGE BUCKET SERVICE_ACCOUNT HOSTS CHIPS ACCELERATOR TOPOLOGY CACHE_MB SIDECAR_STORAGE ENVIRONMENT COMMAND; do
    manifest=${manifest//"<$key>"/"${values[$key]}"}
done

if [[ $dry ]]; then
    echo "$manifest"
else
    # Without it the mounted bucket cannot rename directories, and the run would fail when it saves its model.
    hierarchical=$(gcloud storage buckets describe "gs://$BUCKET" --format='value(hierarchical_namespace.enabled)')
    [[ $hierarchical == True ]] || die "gs://$BUCKET has no hierarchical namespace, which is chosen when a bucket is created; \
create another one: gcloud storage buckets create gs://NAME --location=REGION --uniform-bucket-level-access \
--enable-hierarchical-namespace"
    kubectl apply -f - <<< "$manifest"
fi
