#!/usr/bin/env bash
# Everything that is said of GPUs, unattended, in four minutes or so: costs, kernels, tests of
# what runs there. No part takes longer than its limit; the first are those that matter most.
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

rows() { # seconds, section
    part "$1" "rows_$2" "$python" benchmarks/gpu_rows.py "$2" --output "$out/rows.jsonl"
}

rows 90 calibration
part 60 calibration "$python" benchmarks/cost.py calibration --device cuda --batch_size 200 --runs 3 ${AUTHORS:+--authors-repo "$AUTHORS"}
rows 60 data
rows 75 inference
part 75 kernels "$python" benchmarks/kernels_gpu.py --output "$out/kernels.jsonl"
part 60 inference "$python" benchmarks/cost.py inference --device cuda --batch_size 200 --runs 3
part 75 tests "$python" -m pytest tests/test_gpu.py -q -p no:cacheprovider -o filterwarnings=default
rows 30 memory
rows 40 precision
rows 30 convolutions
