#!/bin/sh
# What wants a CUDA device, in one command of less than nine minutes: sh benchmarks/gpu.sh [OUT]
# Tests that are marked gpu, golden features among them; then rates of every encoder beside its bare
# network, and a small run end to end, into OUT/gpu.json (benchmarks/results by default).
#
# Needs Python with torch and timm and, beside the repository, a folder `wheels/` with whatever else
# pyproject.toml lists (python -m pip download --no-deps -d wheels NAME ...): nothing is fetched from
# a network. On a machine without CUDA the tests are skipped and the figures are those of a trial.
set -u
cd "$(dirname "$0")/.." || exit 1
out=${1:-benchmarks/results}
python=${PYTHON:-python3}
mkdir -p "$out"
if [ -d wheels ]; then
    # torch and its companions stay as they are: the wheels' own dependencies are not followed.
    "$python" -m pip install --quiet --no-index --no-deps --find-links wheels wheels/*.whl || exit 1
fi
export PYTHONPATH="$PWD/src:$PWD${PYTHONPATH:+:$PYTHONPATH}" HF_HUB_OFFLINE=1
failed=0
timeout 150 "$python" -m pytest -m gpu -q || failed=1
timeout 380 "$python" -m benchmarks gpu > "$out/gpu.json" || failed=1
cat "$out/gpu.json"
exit $failed
