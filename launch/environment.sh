#!/usr/bin/env bash
# The environment variables of a run on each platform, with the reason for each: the one place where they are set.
#
#   launch/environment.sh cpu|gpu|tpu                prints them, one NAME=VALUE per line, as the other scripts read them
#   launch/environment.sh cpu|gpu|tpu -- COMMAND     runs a command with them
#
# GLIBC_TUNABLES, XLA_FLAGS, and LIBTPU_INIT_ARGS that are set already are kept and come last, where they win.
# Prerequisites: none.
set -euo pipefail

usage() { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; }
[[ ${1:-} != --help ]] || { usage; exit 0; }

# Memory in huge pages: a step on a CPU is about a tenth faster, and so is what the host does beside a GPU or TPU.
variables=("GLIBC_TUNABLES=glibc.malloc.hugetlb=1${GLIBC_TUNABLES:+:$GLIBC_TUNABLES}")

# JAX_PLATFORMS: a run that does not find its devices must fail rather than compute on the CPU.
case ${1:-} in
    cpu)
        variables+=(JAX_PLATFORMS=cpu)
        ;;
    gpu)
        variables+=(JAX_PLATFORMS=cuda)
        # By default JAX takes only three quarters of the memory. The rest is for CUDA, NCCL, and compiled programs.
        variables+=(XLA_PYTHON_CLIENT_MEM_FRACTION=0.92)
        # A collective starts as soon as its input is ready and is waited for only when its result is needed, so that gradients
        # are summed while the backward pass goes on. Off by default; on in NVIDIA's own images of JAX.
        variables+=("XLA_FLAGS=--xla_gpu_enable_latency_hiding_scheduler=true${XLA_FLAGS:+ $XLA_FLAGS}")
        ;;
    tpu)
        variables+=(JAX_PLATFORMS=tpu)
        # Gradients are summed between slices over the data center's network, far slower than the links within a slice: both
        # flags let that overlap with the backward pass. What overlaps collectives within a slice is on by default.
        flags="--xla_tpu_enable_data_parallel_all_reduce_opt=true --xla_tpu_data_parallel_opt_different_sized_ops=true"
        variables+=("LIBTPU_INIT_ARGS=$flags${LIBTPU_INIT_ARGS:+ $LIBTPU_INIT_ARGS}")
        ;;
    *)
        usage >&2
        exit 2
        ;;
esac

case ${2:-} in
    "") printf '%s\n' "${variables[@]}" ;;
    --) exec env "${variables[@]}" "${@:3}" ;;
    *) usage >&2; exit 2 ;;
esac
