"""Processes with unequal shares of the images find the costs of all of them."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from ftbc_pl import convert, measure_energy
from tests.networks import images, small_cnn

SHARES = (slice(0, 5), slice(5, 16))


def cost_of(batch):
    return measure_energy(convert(small_cnn(), 3, batches=[images()]), [batch], progress=False)


def share(rank, store, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    cost = cost_of(images()[SHARES[rank]])
    torch.save([cost.images, cost.site_spikes, cost.site_sops], f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_the_costs_are_those_of_the_images_of_all_processes(tmp_path):
    mp.spawn(share, (tmp_path / "store", tmp_path), nprocs=2)
    alone = cost_of(images())
    for rank in range(2):
        count, spikes, sops = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert count == alone.images
        torch.testing.assert_close(spikes, alone.site_spikes, rtol=1e-14, atol=0)
        torch.testing.assert_close(sops, alone.site_sops, rtol=1e-14, atol=0)
