#!/usr/bin/env bash
# Pretrain on a Cloud TPU slice: request it through a queue, start every worker, and request it again after a preemption.
#
#   PROJECT=... ZONE=us-west4-a TYPE=v5litepod-64 BUCKET=... \
#       launch/tpu_pod.sh [--dry-run] NAME -- dnabert2 pretrain --config FILE --workdir /mnt/dnabert2/runs/NAME
#
# NAME is the name of the slice; the command follows "--" exactly as you would type it. The bucket is mounted on every worker as
# /mnt/dnabert2, and --config, --workdir, corpus, and tokenizer must be in it. On the workers the run is a systemd unit, which
# needs neither this script nor a connection: the script looks after it every POLL seconds (default 60) until the model is
# written. If you stop it, start it again: it takes over the slice and the run that it finds. --dry-run prints what would run.
# RUNTIME (default v2-alpha-tpuv5-lite, for v5e) must match TYPE; SPOT= (empty) requests capacity that is not preemptible;
# CACHE_GB (default 20) is how much of the bucket each worker may keep on its disk: at least the size of the corpus.
# Prerequisites: gcloud, logged in, with quota for TYPE in ZONE; a bucket in that region, with hierarchical namespace, that the
# slice's service account may write to, and the package in it:
#   make dist; gcloud storage cp dist/*.whl launch/requirements-tpu.txt gs://BUCKET/wheels/
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
cloud() { if [[ $dry ]]; then printf '%q ' gcloud "$@" && echo; else gcloud "$@"; fi; }
slice() { cloud compute tpus queued-resources "$1" "$name" "${where[@]}" "${@:2}"; }
on() { cloud compute tpus tpu-vm ssh "$name" "${where[@]}" --worker="$1" --command="$2"; }
request() {
    slice create --node-id="$name" --accelerator-type="$TYPE" --runtime-version="${RUNTIME:-v2-alpha-tpuv5-lite}" ${SPOT---spot}
}
release() { slice delete --force --quiet; }
state() { slice describe --format='value(state.state)' 2> /dev/null || echo NONE; }

# A fresh VM upgrades itself while we install: apt waits for its lock. Reads of the corpus are random: the cache copies each of
# its files to the worker's disk once. What one worker writes, the others must see at once, so that a file's absence is not
# remembered; that it is there may be, for a minute.
setup="set -e
apt='sudo apt-get -qq -o DPkg::Lock::Timeout=300'
keys=/usr/share/keyrings/cloud.google.asc; archive=https://packages.cloud.google.com/apt
curl -fsS \$archive/doc/apt-key.gpg | sudo tee \$keys > /dev/null
echo \"deb [signed-by=\$keys] \$archive gcsfuse-\$(lsb_release -cs) main\" \\
    | sudo tee /etc/apt/sources.list.d/gcsfuse.list > /dev/null
\$apt update && \$apt install -y gcsfuse python3.11-venv
sudo mkdir -p /mnt/dnabert2 && sudo chown \"\$USER\" /mnt/dnabert2
mountpoint -q /mnt/dnabert2 || gcsfuse --implicit-dirs --metadata-cache-ttl-secs=60 --metadata-cache-negative-ttl-secs=0 \\
    --cache-dir=\"\$HOME/cache\" --file-cache-max-size-mb=$((${CACHE_GB:-20} * 1024)) \\
    --file-cache-cache-file-for-range-read $BUCKET /mnt/dnabert2
python3.11 -m venv ~/venv && ~/venv/bin/pip install -q -r /mnt/dnabert2/wheels/requirements-tpu.txt /mnt/dnabert2/wheels/*.whl"

mapfile -t environment < <(env -u GLIBC_TUNABLES "$(dirname "$0")/environment.sh" tpu)
environment+=(DNABERT2_COMPILATION_CACHE=/mnt/dnabert2/compiled) # outlives the workers, and all of them share it
# Stopping the unit tells the run to save, and gives it 5 minutes to do so.
start="sudo systemctl stop dnabert2 2> /dev/null; sudo systemctl reset-failed dnabert2 2> /dev/null
sudo systemd-run --unit=dnabert2 --uid=\$(id -u) --working-directory=/mnt/dnabert2 --property=TimeoutStopSec=300 \\
    /usr/bin/env PATH=\"\$HOME/venv/bin:\$PATH\"$(printf ' %q' "${environment[@]}" "$@")"
show="systemctl show dnabert2 --property=ActiveState,ExecMainStatus; journalctl --unit=dnabert2 --lines=5 --output=cat"
finished="test -f $(printf %q "$workdir")/model/config.json"

if [[ $dry ]]; then
    cloud storage buckets describe "gs://$BUCKET" --format='value(hierarchical_namespace.enabled)'
    request && on all "$setup" && on all "$start" && on 0 "$show" && on 0 "$finished" && release
    exit 0
fi
# Without it gcsfuse cannot rename directories, and the run would fail when it saves its model.
hierarchical=$(cloud storage buckets describe "gs://$BUCKET" --format='value(hierarchical_namespace.enabled)')
[[ $hierarchical == True ]] || die "gs://$BUCKET has no hierarchical namespace, which is chosen when a bucket is created; create \
another one: gcloud storage buckets create gs://NAME --location=REGION --uniform-bucket-level-access \
--enable-hierarchical-namespace"

starts=0
while true; do
    case $(state) in
        NONE) request ;;
        FAILED | SUSPENDED) # preempted
            release
            request
            ;;
        ACTIVE)
            seen=$(on 0 "$show") || seen=unreachable
            echo "$seen"
            case $seen in
                *ActiveState=active* | *ActiveState=activating* | *ActiveState=deactivating*) ;; # it runs, or saves
                unreachable) ;;                                                                 # preempted, or the network
                # 2: what only its user can fix; 200 to 243: systemd could not even start it
                *ExecMainStatus=2*) die "the run cannot continue: see its message above; the slice is still up" ;;
                *) # it has finished, or failed, or was told to stop, or has not been started yet
                    if on 0 "$finished"; then
                        release
                        exit 0
                    fi
                    ((++starts <= 100)) || die "the run was started 100 times and has no model; the slice is still up"
                    { on all "$setup" && on all "$start"; } || echo "not all workers could be started; trying again"
                    ;;
            esac
            ;;
    esac
    sleep "${POLL:-60}"
done
