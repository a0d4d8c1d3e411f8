#!/usr/bin/env bash
# Run a command as N cooperating processes on one CPU: try a multi-host run without the hosts.
#
#   launch/cpu_processes.sh [--dry-run] N [DEVICES] -- dnabert2 pretrain --config FILE --workdir DIR
#
# N is the number of processes; DEVICES (default 1) is the number of devices that each process simulates. The command follows
# "--" exactly as you would type it. --dry-run prints what would run.
# Prerequisites: the package installed and its environment active, so that `dnabert2` is found.
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
mapfile -t environment < <("$(dirname "$0")/environment.sh" cpu)
pids=()
for ((i = 0; i < n; i++)); do
    process=(env "${environment[@]}" JAX_NUM_CPU_DEVICES="$devices"
        JAX_COORDINATOR_ADDRESS="127.0.0.1:$port" JAX_NUM_PROCESSES="$n" JAX_PROCESS_ID="$i" "$@")
    if [[ $dry ]]; then
        printf '%q ' "${process[@]}"
        echo
    else
        "${process[@]}" &
        pids+=($!)
    fi
done
[[ ! $dry ]] || exit 0

stop() { # every process saves and exits
    kill -TERM "${pids[@]}" 2> /dev/null || true
    code=0
    for pid in "${pids[@]}"; do wait "$pid" || code=$?; done
    exit "$code"
}
trap stop TERM INT
for _ in "${pids[@]}"; do
    wait -n || { # one process failed: the others would wait for it forever
        code=$?
        kill -KILL "${pids[@]}" 2> /dev/null || true
        exit "$code"
    }
done
