"""What a forward holds in memory, and how many timesteps are run at once for it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from ftbc_pl import calibrate_, convert
from ftbc_pl.simulation.memory import HeldBytes, bytes_per_row, free_bytes
from tests.networks import images


def network(size):
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * size**2, 10)).eval()


def converted(size=8):
    return convert(network(size), 32, batches=[images(4, size)], threshold="max")


def test_bytes_are_counted_while_tensors_live():
    x = torch.zeros(100)
    with HeldBytes() as held:
        y = x + 1  # 400 bytes
        z = y * 2  # 800
        del y
        z.view(10, 10).add_(1)  # a view, and in place: no more
        z = z + 1  # 800 again
    assert held.peak == 800


def test_a_row_of_a_network_holds_input_and_output_of_its_widest_layer():
    with torch.no_grad():
        assert bytes_per_row(nn.Sequential(nn.Linear(4, 100), nn.ReLU(), nn.Linear(100, 2)), torch.zeros(5, 4)) == 800


def test_a_limit_in_bytes_makes_chunks_that_hold_no_more():
    snn, batch = converted(), images(4, 8)
    whole = snn(batch)
    with HeldBytes() as held:
        snn(batch)
    everything = held.peak
    assert snn.chunks(4, batch) == [32]
    for limit in (everything // 2, everything // 4):
        snn.memory_limit = limit
        assert 1 < snn.chunks(4, batch)[0] < 32
        with HeldBytes() as held:
            chunked = snn(batch)
        assert held.peak <= limit
        torch.testing.assert_close(chunked, whole)
    snn.memory_limit = 1
    assert snn.chunks(4, batch) == [1] * 32
    snn.time_chunk = 5  # what is asked for counts
    assert snn.chunks(4, batch)[0] == 5


@pytest.mark.parametrize("solver", ["exact", "balanced"])
def test_a_calibration_of_32_steps_holds_no_more_than_the_limit(solver):
    batch, peaks, reports, limit = images(4, 32), [], [], 4_000_000
    for memory_limit in (10**12, limit):
        snn = converted(32)
        snn.memory_limit = memory_limit
        with HeldBytes() as held:
            reports.append(calibrate_(snn, [batch], solver=solver, progress=False))
        peaks.append(held.peak)
    assert peaks[1] <= limit < peaks[0] / 2
    assert reports[0].forward_passes == reports[1].forward_passes == 1
    for one, other in zip(*(report.sites for report in reports), strict=True):
        assert abs(one.firing_rate - other.firing_rate) < 1e-3


# The kernel's own peak of this program: ru_maxrss begins with that of the process which started it.
PEAKS = """
import re
from pathlib import Path
from ftbc_pl import calibrate_
from tests.conversion.test_memory import converted, images

snn, batch = converted(96), images(4, 96)
for limit in (1, {limit}, 10**12):
    snn.memory_limit = limit
    calibrate_(snn, [batch if limit > 1 else batch[:2]], solver="{solver}", progress=False)
    print(1024 * int(re.search("VmHWM: *([0-9]+)", Path("/proc/self/status").read_text().replace("\\t", " "))[1]))
"""


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="peaks are counted in KiB on Linux")
@pytest.mark.parametrize("solver", ["exact", "balanced"])
def test_a_process_that_calibrates_32_steps_takes_about_the_limit(solver):
    # What convolutions and NumPy take beside tensors counts here, and what the allocator keeps.
    limit = 60_000_000
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PEAKS.format(solver=solver, limit=limit)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    before, limited, everything = map(int, done.stdout.split())
    assert limited - before <= 1.6 * limit < everything - before


def test_half_of_the_free_memory_is_taken():
    assert 0 < free_bytes(torch.device("cpu")) < 2**50
    assert free_bytes(torch.device("meta")) is None


def test_layers_in_16_bits_keep_membranes_in_32():
    snn, batch = converted(), images(4, 8)
    expected = snn(batch)
    kept = []
    for _, site in snn.neurons():
        site.register_forward_hook(lambda site, inputs, out: kept.append((inputs[0].dtype, site.membrane.dtype)))
    snn.precision = "bf16"
    found = snn(batch)
    assert kept == [(torch.bfloat16, torch.float32)] * 2
    assert found.dtype == torch.float32
    # Some spikes come a step later or earlier; the mean over the steps is that of 16 bits.
    torch.testing.assert_close(found.mean(0), expected.mean(0), rtol=0.1, atol=0.1)
    assert not torch.equal(found, expected)
