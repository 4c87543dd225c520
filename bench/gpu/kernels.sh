#!/usr/bin/env bash
# The kernels' correctness matrix and latencies on this GPU, in under 8 minutes. Needs CUDA, PyTorch and Triton, no network.
#
#   bench/gpu/kernels.sh [--libraries build/plugin] [--output FOLDER] [--dry-run]
#
# --libraries also checks and times the plugin library (`rmt-edge plugin build --sm 90 --arch x86_64` made it elsewhere).
# --dry-run runs a small case on a CPU and measures nothing. PYTHON=… for another interpreter.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PYTHONPATH=".:bench${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-python3}" bench/gpu/kernels.py "$@"
