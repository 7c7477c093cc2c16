"""Processes with unequal shares of the images calibrate together, and fail together."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from ftbc_pl import calibrate_, convert, prepare
from tests.networks import images, small_cnn

SHARES = (slice(0, 17), slice(17, 33))  # on a CPU they would run 7 and 8 timesteps at once


CASES = [(solver, schedule) for schedule in ("stream", "accumulate") for solver in ("balanced", "exact", "heuristic")]


def snn(schedule="stream"):
    network = prepare(small_cnn(), "qcfs", levels=4, threshold=0.75)
    return convert(network, 8, batches=[images()], schedule=schedule).double()


def batch():
    return images(33).double()


def calibration_of(network):
    return [*(site.temporal_bias for _, site in network.neurons()), network.readout_weights]


def broken(rank):
    mine = batch()[SHARES[rank]]
    if rank == 1:
        mine[0, 0, 0, 0] = torch.nan
    return [mine]


LOADERS = {
    "NaN or infinite": broken,
    "the loader holds 1": lambda rank: [batch()[SHARES[rank]]] * (2 - rank),
}


def share(rank, store, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    found = {}
    for solver, schedule in CASES:
        network = snn(schedule)
        calibrate_(network, [batch()[SHARES[rank]]], solver=solver, progress=False)
        found[f"{solver} {schedule}"] = calibration_of(network)
    for message, loader in LOADERS.items():
        with pytest.raises(ValueError, match=message):
            calibrate_(snn(), loader(rank), num_batches=2 if "loader" in message else 1, progress=False)
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_unequal_shares_calibrate_and_fail_together(tmp_path):
    mp.spawn(share, (tmp_path / "store", tmp_path), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    for solver, schedule in CASES:
        network, case = snn(schedule), f"{solver} {schedule}"
        calibrate_(network, [batch()], solver=solver, progress=False)
        for mine, theirs, alone in zip(first[case], second[case], calibration_of(network), strict=True):
            assert torch.equal(mine, theirs)
            torch.testing.assert_close(mine, alone, rtol=0, atol=1e-12)
