#!/usr/bin/env bash
# Pretrain on a Cloud TPU slice: request it through a queue, start every worker, and request it again after a preemption.
#
#   PROJECT=... ZONE=us-west4-a TYPE=v5litepod-64 BUCKET=... \
#       launch/tpu_pod.sh [--dry-run] NAME -- dnabert2 pretrain --config FILE --workdir /mnt/dnabert2/runs/NAME
#
# NAME is the name of the slice; the command follows "--" exactly as you would type it. The bucket is mounted on every worker as
# /mnt/dnabert2, and --config, --workdir, corpus, and tokenizer must be in it. The script stays in the foreground (use tmux)
# until the model is written; if you stop it, start it again to take over the slice it finds. --dry-run prints what would run.
# RUNTIME (default v2-alpha-tpuv5-lite, for v5e) must match TYPE; SPOT= (empty) requests capacity that is not preemptible.
# Prerequisites: gcloud, logged in, with quota for TYPE in ZONE; a bucket in that region, with hierarchical namespace, that the
# slice's service account may write to, and the package in it: make dist; gcloud storage cp dist/*.whl gs://BUCKET/wheels/
set -euo pipefail

usage() { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; }
die() { echo "$*" >&2; exit 2; }

dry=
case ${1:-} in
    --help) usage; exit 0 ;;
    --dry-run) dry=1; shift ;;
esac
[[ $# -ge 3 && $1 != -* && $2 == -- && ${PROJECT:-} && ${ZONE:-} && ${TYPE:-} && ${BUCKET:-} ]] || { usage >&2; exit 2; }
name=$1
shift 2
workdir=
for ((i = 1; i < $#; i++)); do [[ ${!i} != --workdir ]] || { j=$((i + 1)); workdir=${!j}; }; done
[[ $workdir == /mnt/dnabert2/* ]] || die "--workdir '$workdir' must be in /mnt/dnabert2, which all workers share"

where=(--project="$PROJECT" --zone="$ZONE")
tpus() { if [[ $dry ]]; then printf '%q ' gcloud compute tpus "$@" && echo; else gcloud compute tpus "$@"; fi; }
on() { tpus tpu-vm ssh "$name" "${where[@]}" --worker="$1" --command="$2"; }
state() { tpus queued-resources describe "$name" "${where[@]}" --format='value(state.state)' 2> /dev/null || echo NONE; }
release() { tpus queued-resources delete "$name" "${where[@]}" --force --quiet; }
request() {
    tpus queued-resources create "$name" --node-id="$name" "${where[@]}" --accelerator-type="$TYPE" \
        --runtime-version="${RUNTIME:-v2-alpha-tpuv5-lite}" ${SPOT---spot}
}

# A fresh VM upgrades itself while we install: apt waits for its lock. Reads of the corpus are random: the cache copies each of
# its files to the worker's disk once.
setup="set -e
apt='sudo apt-get -qq -o DPkg::Lock::Timeout=300'
keys=/usr/share/keyrings/cloud.google.asc; archive=https://packages.cloud.google.com/apt
curl -fsS \$archive/doc/apt-key.gpg | sudo tee \$keys > /dev/null
echo \"deb [signed-by=\$keys] \$archive gcsfuse-\$(lsb_release -cs) main\" \\
    | sudo tee /etc/apt/sources.list.d/gcsfuse.list > /dev/null
\$apt update && \$apt install -y gcsfuse python3.11-venv
sudo mkdir -p /mnt/dnabert2 && sudo chown \"\$USER\" /mnt/dnabert2
mountpoint -q /mnt/dnabert2 || gcsfuse --implicit-dirs --cache-dir=\"\$HOME/cache\" --file-cache-max-size-mb=-1 \\
    --file-cache-cache-file-for-range-read $BUCKET /mnt/dnabert2
python3.11 -m venv ~/venv && ~/venv/bin/pip install -q 'jax[tpu]' /mnt/dnabert2/wheels/*.whl"
# JAX_PLATFORMS: a worker that finds no TPU must fail rather than compute on its CPU.
train="cd /mnt/dnabert2 && export PATH=\$HOME/venv/bin:\$PATH JAX_PLATFORMS=tpu GLIBC_TUNABLES=glibc.malloc.hugetlb=1 &&$(printf ' %q' "$@")"
done="test -f $(printf %q "$workdir")/model/config.json"

if [[ $dry ]]; then
    request && on all "$setup" && on all "$train" && on 0 "$done" && release
    exit 0
fi
while true; do
    case $(state) in
        NONE) request ;;
        FAILED | SUSPENDED) release && request ;;
    esac
    until [[ $(state) == ACTIVE ]]; do sleep 30; done
    if on all "$setup" && on all "$train" && on 0 "$done"; then
        release
        exit 0
    fi
    sleep 120 # if it was a preemption, it takes this long to appear in the state
    [[ $(state) != ACTIVE ]] || die "the run ended without a model, and the slice is still up: see the messages above"
done
