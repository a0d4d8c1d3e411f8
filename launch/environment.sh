#!/usr/bin/env bash
# The environment variables of a run on each platform, with the reason for each: the one place where they are set.
#
#   launch/environment.sh cpu|gpu|tpu                prints them, one NAME=VALUE per line, as the other scripts read them
#   launch/environment.sh cpu|gpu|tpu -- COMMAND     runs a command with them
#
# GLIBC_TUNABLES that are set already are kept and come last, where they win.
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
        # No XLA_FLAGS: --xla_gpu_enable_latency_hiding_scheduler=true, which NVIDIA's images of JAX set, leaves the pretraining
        # step of four H100 as it is, instruction by instruction (jaxlib 0.10.2).
        ;;
    tpu)
        variables+=(JAX_PLATFORMS=tpu)
        # No LIBTPU_INIT_ARGS: the two flags with which others overlap sums between slices with the backward pass leave a step
        # on two slices of v5e as it is (libtpu 0.0.52); what overlaps collectives within a slice is on by default.
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
