#!/usr/bin/env bash
# N processes on one CPU that work as one run: to try a command of several hosts without having them.
#
#   launch/cpu_processes.sh [--dry-run] N [DEVICES] -- dnabert2 pretrain --config FILE --workdir DIR
#
# N is the number of processes, DEVICES (default 1) the number of devices that each pretends to have.
# Prerequisites: the package installed, so that `dnabert2` is found; as many cores as patience asks for.
set -euo pipefail

usage() { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; }
die() { usage >&2; exit 2; }

dry=
case ${1:-} in
    --help) usage; exit 0 ;;
    --dry-run) dry=1; shift ;;
esac
n=${1:-} devices=1
[[ ${2:-} == -- ]] || { devices=${2:-}; shift; }
[[ $n =~ ^[1-9][0-9]*$ && $devices =~ ^[1-9][0-9]*$ && ${2:-} == -- && $# -gt 2 ]] || die
shift 2

port=${PORT:-$((20000 + RANDOM % 20000))}
pids=()
for ((i = 0; i < n; i++)); do
    process=(env JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES="$devices" JAX_COORDINATOR_ADDRESS="127.0.0.1:$port"
        JAX_NUM_PROCESSES="$n" JAX_PROCESS_ID="$i" "$@")
    if [[ $dry ]]; then
        printf '%q ' "${process[@]}"
        echo
    else
        "${process[@]}" &
        pids+=($!)
    fi
done
[[ ! $dry ]] || exit 0

stop() { # each process saves and ends
    kill -TERM "${pids[@]}" 2> /dev/null || true
    code=0
    for pid in "${pids[@]}"; do wait "$pid" || code=$?; done
    exit "$code"
}
trap stop TERM INT
for _ in "${pids[@]}"; do
    wait -n || { # a failure of one: the others wait for it in vain
        code=$?
        kill -KILL "${pids[@]}" 2> /dev/null || true
        exit "$code"
    }
done
