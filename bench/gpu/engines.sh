#!/usr/bin/env bash
# Whole engines on this GPU, accuracy and latency, in under 9 minutes. Needs CUDA, PyTorch and a kit, no network.
#
#   bench/gpu/engines.sh KIT [--device NAME] [--output FOLDER] [--dry-run]
#
# KIT is the folder that bench/gpu/pack.sh packed. Its wheels go into SITE (/tmp/rmt-edge-site), which a second run finds;
# pycuda is compiled there against this host's CUDA. --dry-run runs on a CPU and measures no engine. PYTHON=… for another
# interpreter.
set -euo pipefail
cd "$(dirname "$0")/../.."
kit=$(realpath "${1:?usage: engines.sh KIT [--dry-run]}")
shift
python=${PYTHON:-python3}
if [ -d "$kit/wheels" ]; then
    site=${SITE:-/tmp/rmt-edge-site}
    if [ ! -f "$site/.installed" ]; then
        "$python" -m pip install -q --no-index --no-deps --target "$site" "$kit"/wheels/*.whl
        CUDA_ROOT=${CUDA_ROOT:-/usr/local/cuda} "$python" -m pip install -q --no-index --no-deps --no-build-isolation \
            --target "$site" "$kit"/wheels/pycuda-*.tar.gz
        mkdir -p "$site/tensorrt_rtx" # the meta-package, which pip could not fetch as a wheel, holds no more than this
        printf 'from tensorrt_rtx_bindings import *\nfrom tensorrt_rtx_bindings import __version__\n' \
            > "$site/tensorrt_rtx/__init__.py"
        touch "$site/.installed"
    fi
    export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}"
fi
export PYTHONPATH=".:bench${PYTHONPATH:+:$PYTHONPATH}"
exec "$python" bench/gpu/engines.py "$kit" --work "${WORK:-$(mktemp -d)}" "$@"
