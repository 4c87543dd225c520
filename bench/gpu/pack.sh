#!/usr/bin/env bash
# Packs what a GPU host without a network needs for engines.sh, in parts small enough to copy.
#
#   bench/gpu/pack.sh OUT [SM]        SM of the host's GPU without a dot, 90 for an H100 (the default); on the workstation
#
# Leaves OUT/kit.tar.part-00, -01, … of 50 MB each: TensorRT-RTX's wheels and what pycuda builds from, for the host's Python
# (PYTHON_TAG, 312), and one bundle each of RMT-T, RMT-S and the trained reference. RMT-T and -S have weights drawn from a
# seed, as the public checkpoints are not ours to ship: their speed is right, their accuracy means nothing. VARIANTS="rmt_t"
# packs fewer. On the host, with the parts in one folder:
#
#   cat kit.tar.part-* | tar -x && bench/gpu/engines.sh kit
set -euo pipefail
out=$(realpath -m "${1:?usage: pack.sh OUT [SM]}")
sm=${2:-90}
tag=${PYTHON_TAG:-312}
cd "$(dirname "$0")/../.."
edge=${EDGE:-.venv/bin/rmt-edge}
python=${PYTHON:-.venv/bin/python}
kit=$out/kit
mkdir -p "$kit/wheels" "$kit/work"

for_host=(--only-binary=:all: --python-version "${tag:0:1}.${tag:1}" --implementation cp
    --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64)
version() { sed -n "s/^$1==\([^;]*\).*/\1/p" constraints.txt | tail -1; }
for package in tensorrt_rtx_cu13_libs tensorrt_rtx_cu13_bindings nvidia-ml-py tqdm; do
    "$python" -m pip download -q --no-deps "${for_host[@]}" -d "$kit/wheels" "$package==$(version $package)"
done
"$python" -m pip download -q --no-deps "${for_host[@]}" -d "$kit/wheels" pytools platformdirs mako markupsafe siphash24
"$python" -m pip download -q --no-deps --no-binary pycuda -d "$kit/wheels" pycuda # built on the host, against its CUDA

"$edge" plugin build --sm "$sm" --sm 86 --arch x86_64 --output "$kit/work/plugin"
"$python" bench/gpu/make_bundles.py --variants ${VARIANTS:-rmt_t rmt_s} --libraries "$kit/work/plugin" \
    --work "$kit/work" --output "$kit/bundles"
rm -rf "$kit/work"
tar -C "$out" -cf - kit | split -b 50000000 -d - "$out/kit.tar.part-"
rm -rf "$kit"
ls -l "$out"
