#!/usr/bin/env bash
# Everything that is said of GPUs, in under 8 minutes, unattended: tests of what runs there, kernels, costs.
#
#     benchmarks/gpu.sh [FOLDER]
#
# Installs nothing. Each row is printed and kept in FOLDER (default: gpu) as soon as it is measured; what needs a package
# that is not there says so and is left out.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:-gpu}
mkdir -p "$out"
python=${PYTHON:-python3}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader | tee "$out/gpu.txt"

part() { # seconds, name, command …
    local seconds=$1 name=$2
    shift 2
    echo "== $name"
    timeout "$seconds" "$@" 2>&1 | tee "$out/$name.txt" | tail -n 60
    echo "$name: exit ${PIPESTATUS[0]}" | tee -a "$out/summary.txt"
}

part 120 kernels "$python" benchmarks/kernels_gpu.py --output "$out/kernels.jsonl"
part 90 inference "$python" benchmarks/cost.py inference --device cuda --batch_size 200
part 60 neuron "$python" benchmarks/cost.py neuron --device cuda --batch_size 200
part 90 calibration "$python" benchmarks/cost.py calibration --device cuda --batch_size 200 ${AUTHORS:+--authors-repo "$AUTHORS"}
part 90 tests "$python" -m pytest tests/test_gpu.py -q -p no:cacheprovider -o filterwarnings=default
