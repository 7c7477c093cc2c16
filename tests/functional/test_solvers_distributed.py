"""Solvers give one answer, whether one process holds the calibration images or two hold a part of them each."""

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from ftbc_pl.distributed import merge_over_processes
from ftbc_pl.functional.targets import Target
from tests.solving import balanced_bias, exact_bias, heuristic_bias


def inputs():
    generator = torch.Generator().manual_seed(0)
    membrane = torch.randn(24, 5, 7, 7, generator=generator)
    membrane[:, 3] = 0.25  # a constant channel
    activation = torch.randn(24, 5, 7, 7, generator=generator).relu()
    activation[:, 4] = 0  # a dead channel
    return membrane, activation, torch.linspace(0.5, 2, 5)


def solve(rows):
    membrane, activation, threshold = inputs()
    membrane, activation = membrane[rows], activation[rows]
    merge = merge_over_processes()
    target = Target.of(activation, threshold, 1, merge)
    found = {}
    for granularity in ("channel", "layer"):
        found[f"exact {granularity}"] = exact_bias(membrane, target, threshold, 1, granularity, merge)
        for weight in (0.0, 3.0):
            found[f"balanced {granularity} {weight}"] = balanced_bias(
                membrane, activation, threshold, 1, weight, granularity, merge
            )
        found[f"heuristic {granularity}"] = heuristic_bias(
            membrane, torch.zeros(5), target, threshold, 1, 0.5, granularity, merge
        )
    return found


def share(rank, store, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    torch.save(solve(slice(0, 9) if rank == 0 else slice(9, 24)), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_find_the_bias_of_one(tmp_path):
    mp.spawn(share, (tmp_path / "store", tmp_path), nprocs=2)
    whole = solve(slice(0, 24))
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert found.keys() == whole.keys()
        for name, bias in whole.items():
            assert bias.isfinite().all()
            if name.startswith("heuristic"):  # its means are sums of floating-point numbers
                torch.testing.assert_close(found[name], bias, rtol=0, atol=1e-7)
            else:
                assert torch.equal(found[name], bias), name
