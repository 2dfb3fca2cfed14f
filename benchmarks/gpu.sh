#!/bin/sh
# All benchmarks that want a GPU, in one command: sh benchmarks/gpu.sh [OUT]
#
# Needs Python with torch and timm (2.11 and newer are known to work) and, beside the repository, a
# folder `wheels/` with whatever else pyproject.toml lists; nothing is fetched from a network.
# Figures go to OUT (benchmarks/results by default), one JSON a benchmark.
set -eu
cd "$(dirname "$0")/.."
out=${1:-benchmarks/results}
mkdir -p "$out"
if [ -d wheels ]; then
    # torch and its companions stay as they are: the wheels' own dependencies are not followed.
    python3 -m pip install --quiet --no-index --no-deps --find-links wheels wheels/*.whl
fi
export PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}" HF_HUB_OFFLINE=1
python3 -c 'import torch; assert torch.cuda.is_available(), "this machine has no CUDA device"'
for name in finetune embed; do
    # Each has its share of nine minutes.
    timeout 260 python3 -m benchmarks "$name" > "$out/${name}_gpu.json"
    cat "$out/${name}_gpu.json"
done
