"""The script that trains networks on a GPU runs here on a few images, and its weights are what it says."""

import json
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def benchmarks_are_importable(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.fixture
def packed(tmp_path):
    """Files of 60 training images, 20 of which are held out, and 10 test images; all of noise."""
    import fast_data

    pixels = torch.randint(0, 256, (70, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = fast_data.Cifar10Images(pixels, torch.arange(70) % 10, torch.arange(0, 60, 3), 60)
    assert len(fast_data.pack(images, tmp_path / "packed")) == 2
    return tmp_path / "packed", images


def test_unpacked_images_are_those_that_were_packed(packed):
    import fast_data

    folder, images = packed
    paths = sorted(folder.iterdir(), reverse=True)
    unpacked = fast_data.unpack(paths)
    for role, count in {"train": 40, "val": 20, "test": 10}.items():
        for got, expected in zip(unpacked.part(role, "cpu"), images.part(role, "cpu"), strict=True):
            assert torch.equal(got, expected)
            assert len(got) == count
    with pytest.raises(ValueError, match="all files"):
        fast_data.unpack(paths[:1])


@pytest.mark.slow
@pytest.mark.long
def test_networks_are_trained_written_and_score_what_is_said(packed, tmp_path, monkeypatch):
    import train_gpu
    import trained
    from fast_data import normalise

    folder, images = packed
    monkeypatch.setattr(train_gpu, "GRACE_SECONDS", 600)
    options = ["--networks", "cifar10_r20_qcfs8", "--budget", "1", "--batch_size", "20"]
    train_gpu.main(["train", "--packed", str(folder), "--output", str(tmp_path / "output"), *options])
    train_gpu.main(["join", "--output", str(tmp_path / "output"), "--weights", str(tmp_path / "weights")])
    monkeypatch.setattr(trained, "WEIGHTS", tmp_path / "weights")
    (name,) = trained.names()
    about = trained.description(name)
    assert about["model"] == {"network": "cifar_resnet20", "activation": "qcfs", "levels": 8}
    assert (about["epoch"], about["steps"]) == (1, 2)
    for role, key in {"val": "validation", "test": "test"}.items():
        pixels, labels = images.part(role, "cpu")
        assert trained.accuracy(trained.load(name), [(normalise(pixels), labels)]) == about["accuracy"][key]
    records = [json.loads(line) for line in (tmp_path / "output" / "log.jsonl").read_text().splitlines()]
    assert [record["event"] for record in records if "event" in record] == ["start", "end"]


def test_a_network_that_fails_does_not_keep_the_next_from_being_trained(packed, tmp_path, monkeypatch):
    import train_gpu

    monkeypatch.setattr(train_gpu, "GRACE_SECONDS", -1)
    options = ["--networks", "cifar10_r20_qcfs4", "cifar10_r20_qcfs8", "--budget", "0.1", "0.1"]
    train_gpu.main(["train", "--packed", str(packed[0]), "--output", str(tmp_path / "output"), *options])
    records = [json.loads(line) for line in (tmp_path / "output" / "log.jsonl").read_text().splitlines()]
    assert [(record["name"], record["event"]) for record in records] == [(name, "failed") for name in options[1:3]]


def test_large_weights_are_rounded_and_cut_and_small_ones_are_kept(tmp_path, monkeypatch):
    import fast_files

    monkeypatch.setattr(fast_files, "LARGE_MATRIX", 100)
    weights = {"matrix": torch.randn(30, 20), "kernel": torch.randn(4, 3, 3, 3), "threshold": torch.tensor(1.1)}
    assert fast_files.compact(weights).keys() == weights.keys()
    monkeypatch.setattr(fast_files, "SMALL_BYTES", 500)
    rounded = fast_files.compact(weights)
    fast_files.write(rounded, tmp_path, "net")
    assert len(list(tmp_path.iterdir())) > 1
    assert all(path.stat().st_size <= 500 for path in tmp_path.iterdir())
    expanded = fast_files.expand(fast_files.read(tmp_path, "net"))
    assert torch.equal(expanded["threshold"], weights["threshold"])
    assert torch.equal(expanded["kernel"], weights["kernel"].half())
    step = weights["matrix"].abs().amax(1, keepdim=True) / 127
    assert ((expanded["matrix"] - weights["matrix"]).abs() <= 0.501 * step + 0.001 * weights["matrix"].abs()).all()


def test_an_augmented_image_is_shifted_mirrored_and_cut_out():
    from fast_data import Augmentation

    torch.manual_seed(0)
    images = torch.randn(50, 3, 32, 32)
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2))
    crops = [padded[..., top : top + 32, left : left + 32] for top in range(5) for left in range(5)]
    crops += [crop.flip(-1) for crop in crops]
    augmented = Augmentation(shift=2, cutout=0)(images)
    found = torch.stack([(augmented - crop).abs().amax((1, 2, 3)) < 1e-5 for crop in crops])
    assert torch.equal(found.sum(0), torch.ones(50))
    assert found.any(1).sum() > 20
    cut = Augmentation(shift=0, cutout=8)(torch.ones(50, 3, 32, 32))
    assert set(cut.unique().tolist()) == {0.0, 1.0}
    zeros = (cut == 0).sum((1, 2, 3)) / 3
    assert zeros.max() == 64
    assert zeros.min() >= 16
    assert Augmentation(changed=1.0)(images).isfinite().all()


def test_the_average_is_lent_to_the_network_and_taken_back():
    from fast_step import Average

    network = torch.nn.BatchNorm1d(3)
    average = Average(network, decay=0.5)
    torch.nn.init.constant_(network.weight, 3.0)
    average.update()
    with average.applied():
        # The first step counts for 10/11 at most: decay is min(0.5, 1/11).
        torch.testing.assert_close(network.weight.data, torch.full((3,), 1 + 2 * 10 / 11))
    assert network.weight.tolist() == [3.0] * 3


def test_the_rate_rises_and_falls():
    from fast_step import learning_rate

    rates = [learning_rate(progress / 100, 0.1) for progress in range(101)]
    assert rates.index(max(rates)) == 4
    assert max(rates) == pytest.approx(0.1)
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[-1] == pytest.approx(0, abs=1e-12)
