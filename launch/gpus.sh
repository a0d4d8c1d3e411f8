#!/usr/bin/env bash
# Run a command on several GPUs of one machine, as one process: on all GPUs, or on those you name.
#
#   launch/gpus.sh [--dry-run] [GPUS] -- dnabert2 pretrain --config FILE --workdir DIR
#   launch/gpus.sh [--dry-run] [GPUS] -- dnabert2 finetune --config FILE --workdir DIR
#
# GPUS is a list as nvidia-smi numbers them, such as 0,1,2,3. The command follows "--" exactly as you would type it.
# For pretraining, training.batch_size must be a multiple of the number of GPUs times training.accumulate. Rerun the same
# command to resume from the last checkpoint. --dry-run prints what would run.
# Prerequisites: an NVIDIA driver, and the package installed with its GPU extra: pip install -e '.[gpu]'
set -euo pipefail

usage() { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; }

dry=
case ${1:-} in
    --help) usage; exit 0 ;;
    --dry-run) dry=1; shift ;;
esac
gpus=
[[ ${1:-} == -- ]] || { gpus=${1:-}; shift || true; }
[[ ${1:-} == -- && $# -gt 1 && ($gpus == "" || $gpus =~ ^[0-9]+(,[0-9]+)*$) ]] || { usage >&2; exit 2; }
shift

[[ $dry || -n $(command -v nvidia-smi) ]] || { echo "nvidia-smi not found: is the NVIDIA driver installed?" >&2; exit 2; }
mapfile -t environment < <("$(dirname "$0")/environment.sh" gpu)
# In an interactive Slurm job, JAX would take this process for one of several with one GPU each, hence -u.
command=(env -u SLURM_STEP_NODELIST ${gpus:+CUDA_VISIBLE_DEVICES="$gpus"} "${environment[@]}" "$@")
if [[ $dry ]]; then
    printf '%q ' "${command[@]}" && echo
else
    exec "${command[@]}"
fi
