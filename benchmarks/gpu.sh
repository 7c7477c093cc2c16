#!/usr/bin/env bash
# Everything that is said of GPUs, unattended, in four minutes or so: costs, kernels, tests of
# what runs there. The limits of all parts add up to less than eight minutes; the first parts are those that matter most.
#
#     benchmarks/gpu.sh [FOLDER]
#
# Installs nothing. Each row is printed and kept in FOLDER (default: gpu) as soon as it is measured; what is left out, and
# why, is said and kept in FOLDER/summary.txt. Without a GPU the rows of a few small images run on the CPU, to see that
# they run.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:-gpu}
mkdir -p "$out"
python=${PYTHON:-python3}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1

say() {
    echo "$*" | tee -a "$out/summary.txt"
}

has() { # module
    "$python" -c "import importlib.util as u, sys; sys.exit(u.find_spec('$1') is None)"
}

part() { # seconds, name, command …
    local seconds=$1 name=$2
    shift 2
    echo "== $name"
    timeout -k 2 "$seconds" "$@" 2>&1 | tee "$out/$name.txt" | tail -n 60
    local code=${PIPESTATUS[0]} why=""
    [[ $code == 124 || $code == 137 ]] && why=", after its $seconds s"
    say "$name: exit $code$why"
}

rows() { # seconds, section
    part "$1" "rows_$2" "$python" benchmarks/gpu_rows.py "$2" --output "$out/rows.jsonl" $small
}

on_gpu() { # seconds, name, command …: what makes no sense elsewhere
    if [[ -n $small ]]; then say "$2: left out, there is no GPU"; else part "$@"; fi
}

cost() { # seconds, what, options …
    local seconds=$1 what=$2
    shift 2
    on_gpu "$seconds" "$what" "$python" benchmarks/cost.py "$what" --device cuda "$@"
}

small="" authors=()
if "$python" -c "import sys, torch; sys.exit(not torch.cuda.is_available())"; then
    nvidia-smi --query-gpu=name,driver_version --format=csv,noheader | tee "$out/gpu.txt"
else
    small=--small
    say "There is no GPU that torch can use: a few small images on the CPU."
fi
has triton || say "Triton is not installed: neurons take many small kernels, and no row of kernels is measured."
has spikingjelly || say "SpikingJelly is not installed: no comparison with it."
if [[ -n ${AUTHORS:-} ]]; then
    authors=(--authors-repo "$AUTHORS")
else
    say "AUTHORS names no checkout of the authors' code: no comparison with it."
fi

rows 80 calibration
cost 50 calibration --batch_size 200 --runs 3 ${authors[@]+"${authors[@]}"}
rows 45 data
rows 60 inference
on_gpu 50 kernels "$python" benchmarks/kernels_gpu.py --output "$out/kernels.jsonl"
cost 50 inference --batch_size 200 --runs 3
if has pytest; then
    on_gpu 60 tests "$python" -m pytest tests/test_gpu.py -q -p no:cacheprovider -o filterwarnings=default
else
    say "tests: left out, pytest is not installed"
fi
rows 20 memory
rows 20 precision
cost 20 profile --batch_size 200
rows 15 convolutions
