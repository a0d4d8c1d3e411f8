#!/usr/bin/env bash
# Several GPUs of one machine, as one process: all of them, or those that are named.
#
#   launch/gpus.sh [--dry-run] [GPUS] -- dnabert2 pretrain --config FILE --workdir DIR
#
# GPUS is a list as nvidia-smi numbers them, such as 0,1,2,3. training.batch_size must be a multiple of their number times
# training.accumulate. Started again, the command goes on from its last checkpoint.
# Prerequisites: an NVIDIA driver, and the package installed with its GPU extra: pip install -e '.[gpu]'
set -euo pipefail

usage() { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; }

run=
case ${1:-} in
    --help) usage; exit 0 ;;
    --dry-run) run=echo; shift ;;
esac
gpus=
[[ ${1:-} == -- ]] || { gpus=${1:-}; shift || true; }
[[ ${1:-} == -- && $# -gt 1 && ($gpus == "" || $gpus =~ ^[0-9]+(,[0-9]+)*$) ]] || { usage >&2; exit 2; }
shift

[[ $run || -n $(command -v nvidia-smi) ]] || { echo "no nvidia-smi here: is the NVIDIA driver installed?" >&2; exit 2; }
# JAX takes three quarters of the memory unless told otherwise; JAX_PLATFORMS keeps a run from falling back to the CPU; and in
# an interactive Slurm job JAX would take this for one process of several, with one GPU each.
exec $run env -u SLURM_STEP_NODELIST ${gpus:+CUDA_VISIBLE_DEVICES="$gpus"} JAX_PLATFORMS=cuda XLA_PYTHON_CLIENT_MEM_FRACTION=0.92 "$@"
