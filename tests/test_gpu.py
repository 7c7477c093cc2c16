"""What runs on a GPU gives what it gives on the CPU. Skipped where there is none."""

import copy
import math

import pytest
import torch

from ftbc_pl import calibrate_, convert, evaluate, load_snn, prepare, save_snn
from ftbc_pl.calibration.solvers.exact import exact_bias
from ftbc_pl.data.batches import TensorImages
from ftbc_pl.data.on_device import DeviceMemory
from ftbc_pl.functional import kernels
from ftbc_pl.functional.qcfs import qcfs
from ftbc_pl.functional.selection import by_sorting
from ftbc_pl.functional.targets import Target
from ftbc_pl.simulation import Simulation
from tests.networks import create, images
from tests.pipeline import QUICK, results

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture(autouse=True)
def exact_float32(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    # Some convolutions add up in another order each time, those of float64 of contiguous images on an H100, say.
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)


def network(activation="qcfs"):
    return prepare(create("cifar_resnet20"), activation, levels=4, threshold=1.5).double().cuda()


def converted(ann, num_steps=4):
    """The same network on the GPU and on the CPU, with the same thresholds."""
    on_gpu = convert(ann, num_steps, batches=[images(8, 32).double()])
    on_cpu = convert(copy.deepcopy(ann).cpu(), num_steps, batches=[images(8, 32).double()])
    for (_, site), (_, other) in zip(on_gpu.neurons(), on_cpu.neurons(), strict=True):
        torch.testing.assert_close(site.threshold.cpu(), other.threshold)
    return on_gpu, on_cpu


@pytest.mark.parametrize("activation", ["relu", "qcfs", "rts"])
@pytest.mark.parametrize("solver", ["exact", "balanced", "heuristic"])
def test_calibration_is_that_of_the_cpu(activation, solver):
    on_gpu, on_cpu = converted(network(activation))
    batch = images(16, 32).double()
    for snn in (on_gpu, on_cpu):
        calibrate_(snn, [batch], solver=solver, progress=False)
    for (_, site), (_, other) in zip(on_gpu.neurons(), on_cpu.neurons(), strict=True):
        torch.testing.assert_close(site.temporal_bias.cpu(), other.temporal_bias, rtol=0, atol=1e-9)
    torch.testing.assert_close(on_gpu.readout_weights.cpu(), on_cpu.readout_weights, rtol=0, atol=1e-6)
    torch.testing.assert_close(on_gpu(batch.cuda()).cpu(), on_cpu(batch), rtol=0, atol=1e-9)


@pytest.mark.parametrize("solver", ["exact", "balanced"])
def test_calibration_is_the_same_each_time_and_with_deterministic_algorithms(solver):
    found = []
    for deterministic in (False, True):
        torch.use_deterministic_algorithms(deterministic)
        try:
            snn = convert(network().float(), 4)
            calibrate_(snn, [images(16, 32)], solver=solver, progress=False)
        finally:
            torch.use_deterministic_algorithms(False)
        found.append([site.temporal_bias.clone() for _, site in snn.neurons()])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_compiled_neurons_give_the_same_bits(memory_format, monkeypatch):
    monkeypatch.setattr(kernels, "available", lambda device: False)
    ann = network().float().to(memory_format=memory_format)
    snn, compiled = (convert(ann, 5) for _ in range(2))
    compiled.compile_neurons()
    batch = images(4, 32).cuda().contiguous(memory_format=memory_format)
    expected = snn(batch)
    # With the eager neuron gone, only compiled code can have given the result.
    monkeypatch.delattr("ftbc_pl.layers.integrate_and_fire_")
    assert torch.equal(compiled(batch), expected)


class BothWays(Simulation):
    """Runs the eager neuron and the kernel on the same currents: convolutions may round differently each time."""

    def __init__(self, num_steps, monkeypatch):
        super().__init__(num_steps)
        self.monkeypatch, self.sites = monkeypatch, []

    def simulate(self, call, site, current, out):
        expected, start = torch.empty_like(out), site.step
        with self.monkeypatch.context() as without:
            without.setattr(kernels, "available", lambda device: False)
            site(current.clone(), expected)
        membrane, site.membrane, site.step = site.membrane, None, start
        with self.monkeypatch.context() as without:
            without.delattr("ftbc_pl.layers.integrate_and_fire_")
            site(current, out)
        self.sites.append(torch.equal(out, expected) and torch.equal(site.membrane, membrane))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_neurons_in_one_kernel_give_the_same_bits(memory_format, dtype, monkeypatch):
    snn = convert(network().to(dtype).to(memory_format=memory_format), 5)
    for _, site in snn.neurons():
        torch.nn.init.normal_(site.temporal_bias, std=0.1)
    batch = images(4, 32).to("cuda", dtype).contiguous(memory_format=memory_format)
    assert kernels.available(batch.device)
    visitor = BothWays(5, monkeypatch)
    snn.simulate(batch, lambda steps: visitor)
    assert visitor.sites == [True] * len(list(snn.neurons()))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_selection_and_a_step_under_exact_of_a_large_site(memory_format):
    from ftbc_pl.functional.kernels import exact, selection

    membrane, current, activation = (
        torch.randn(50, 64, 28, 28, device="cuda").contiguous(memory_format=memory_format) for _ in range(3)
    )
    threshold = torch.rand(64, device="cuda") + 0.5
    ranks = torch.randint(50 * 28 * 28, (64,), device="cuda")
    found, expected = selection.largest(membrane, ranks, 1), by_sorting(membrane, ranks, 1)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    for granularity in ("channel", "layer"):
        target, v, bias = Target.of(activation, threshold, 1), membrane.clone(), torch.empty_like(threshold)
        cut, out = target.cut(granularity, torch.float32), torch.empty_like(current)
        exact.exact_step_(current, v, threshold, cut, bias, out, 1)
        assert torch.equal(bias, exact_bias(membrane + current, target, threshold, 1, granularity))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_qcfs_in_one_kernel_is_that_of_the_cpu(memory_format, dtype):
    x, grad = (torch.randn(50, 16, 32, 32).to(dtype).contiguous(memory_format=memory_format) for _ in range(2))
    results = []
    for device, in_dtype in (("cuda", dtype), ("cpu", torch.float32), ("cuda", dtype)):
        values, threshold = x.to(device, in_dtype).requires_grad_(), torch.tensor(0.7, device=device).requires_grad_()
        y = qcfs(values, threshold, 8)
        y.backward(grad.to(device, in_dtype))
        results.append([result.detach().cpu() for result in (y.to(dtype), values.grad.to(dtype), threshold.grad)])
    first, on_cpu, again = results
    assert torch.equal(first[0], on_cpu[0])
    assert torch.equal(first[1], on_cpu[1])
    torch.testing.assert_close(first[2], on_cpu[2], rtol=1e-4, atol=1e-2)
    assert torch.equal(first[2], again[2])


@pytest.mark.parametrize("solver", ["exact", "balanced", "heuristic"])
@pytest.mark.parametrize(("granularity", "count"), [("channel", 16), ("channel", 64), ("layer", 16)])
def test_a_calibration_in_kernels_has_the_bits_of_the_eager_one(solver, granularity, count, monkeypatch):
    batch, found = images(count, 32).cuda(), []
    for fast in (True, False):
        with monkeypatch.context() as patch:
            if not fast:
                patch.setattr(kernels, "available", lambda device: False)
            snn = convert(network().float(), 4)
            report = calibrate_(snn, [batch], solver=solver, granularity=granularity, progress=False)
        found.append(([site.temporal_bias for _, site in snn.neurons()], [site.firing_rate for site in report.sites]))
    (biases, rates), (expected, expected_rates) = found
    if solver == "heuristic":  # its means are added up in another order
        assert all(torch.allclose(a, b, rtol=0, atol=1e-5) for a, b in zip(biases[:1], expected[:1], strict=True))
    else:
        assert all(torch.equal(a, b) for a, b in zip(biases, expected, strict=True))
        assert rates == expected_rates


def test_a_forward_that_is_replayed_gives_the_same_bits():
    snn = convert(network().float(), 5)
    for _, site in snn.neurons():
        torch.nn.init.normal_(site.temporal_bias, std=0.1)
    batches = [images(4, 32, seed=seed).cuda() for seed in range(5)]
    plain = [snn._simulate(snn.chunks(4), batch) for batch in batches]
    assert all(torch.equal(snn(batch), expected) for batch, expected in zip(batches, plain, strict=True))
    assert snn._replay._graphs
    with snn.uncalibrated():
        assert not torch.equal(snn(batches[0]), plain[0])
    next(snn.neurons())[1].temporal_bias.zero_()
    assert torch.equal(snn(batches[0]), snn._simulate(snn.chunks(4), batches[0]))
    moved = copy.deepcopy(snn).cpu()
    torch.testing.assert_close(moved(batches[0].cpu()), snn(batches[0]).cpu(), rtol=1e-3, atol=1e-3)


def test_images_in_its_memory_are_those_of_the_cpu():
    pixels = torch.arange(4 * 3 * 8 * 8).remainder(256).to(torch.uint8).view(4, 3, 8, 8)
    plain = TensorImages(pixels, torch.arange(4), [0.4] * 3, [0.2] * 3)
    memory = DeviceMemory()
    batch, labels = memory.take(plain, torch.device("cuda"), 2, 0.5, 0.5).__getitems__([2, 0])
    expected, _ = plain.__getitems__([2, 0])
    assert labels.tolist() == [2, 0]
    torch.testing.assert_close(batch.cpu(), expected)
    plain.augment = plain.erase = lambda images: images
    augmented, _ = memory.take(plain, torch.device("cuda"), 2, 0.5, 0.5).__getitems__([2, 0])
    assert augmented.is_cuda
    assert augmented.shape == expected.shape


def test_layers_in_16_bits_predict_what_those_in_32_do():
    snn = convert(network().float(), 4)
    batch = images(16, 32).cuda()
    calibrate_(snn, [batch], progress=False)
    expected = snn.readout(snn(batch))[-1]
    snn.precision = "bf16"
    found = [snn.readout(snn(batch))[-1] for _ in range(4)]  # the last ones replayed
    assert all(torch.equal(one, found[0]) for one in found)
    assert (found[0] - expected).norm() < 0.5 * expected.norm()


def test_chunks_of_any_size_give_the_same_accuracy():
    snn = convert(network().float(), 5)
    loader = [(images(20, 32), torch.arange(20) % 10)]
    whole = evaluate(snn, loader, progress=False)
    snn.time_chunk = 2
    assert torch.equal(evaluate(snn, loader, progress=False), whole)


def test_a_network_saved_on_the_gpu_is_loaded_on_the_cpu(tmp_path):
    snn = convert(network().float(), 4)
    calibrate_(snn, [images(8, 32)], progress=False)
    save_snn(snn, tmp_path / "snn")
    loaded = load_snn(tmp_path)
    assert loaded.device.type == "cpu"
    assert all(torch.equal(v.cpu(), loaded.state_dict()[k]) for k, v in snn.state_dict().items())
    assert torch.equal(loaded.cuda()(images(4, 32).cuda()), snn(images(4, 32).cuda()))


@pytest.mark.parametrize("more", [[], ["--model.compile=true", "--trainer.precision=bf16-mixed"]])
def test_the_pipeline_runs_on_it(more, own_folder):
    main = pytest.importorskip("ftbc_pl.cli").main
    main(["fit", *QUICK, *more, "--trainer.accelerator=gpu", "--trainer.devices=1", "--ftbc.output_dir=out"])
    found = results("out")
    assert all(math.isfinite(value) for value in found["accuracy"]["calibrated"])
    main(["validate", *QUICK, "--trainer.accelerator=gpu", "--trainer.devices=1", "--snn_path=out"])
    main(["validate", *QUICK, "--trainer.accelerator=cpu", "--trainer.devices=1", "--snn_path=out"])
