"""The ONNX model does what the spiking network does, in another runtime: outputs, predictions and every spike."""

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ftbc_pl import calibrate_, convert, export_onnx
from ftbc_pl.export import ExportError
from tests.networks import images, small_cnn
from tests.nir_readers import our_run
from tests.own_networks import conv, head, network

# The exporter of torch 2.15 warns of its own use of torch.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def spiking(ann, num_steps=4):
    snn = convert(ann, num_steps, batches=[images()])
    calibrate_(snn, [images()], readout="least_squares")
    return snn


def run(path, batch):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, map(torch.from_numpy, session.run(None, {"images": batch.numpy()})), strict=True))


def gated(x, stem, one, fc):
    x = F.max_pool2d(F.relu(stem(x)), 2)
    x = x * torch.sigmoid(one(x.mean((2, 3), keepdim=True)))
    return fc(F.relu(x).flatten(1))


@pytest.mark.parametrize(
    "make",
    [
        lambda: small_cnn(pool=nn.MaxPool2d(2)),
        lambda: network(gated, stem=conv(), one=conv(4, 4, 1), fc=head(64)),
    ],
    ids=["small", "gated"],
)
def test_outputs_predictions_and_spikes_are_those_of_the_network(make, tmp_path):
    snn = spiking(make())
    assert snn.report.rate_exact > 0
    export_onnx(snn, tmp_path / "new" / "snn.onnx", spikes=True)
    for batch in (images(5, seed=3), images(1, seed=4)):
        theirs = run(tmp_path / "new" / "snn.onnx", batch)
        outputs, spikes = our_run(snn, batch)
        torch.testing.assert_close(theirs["outputs"], outputs, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(theirs["predictions"], snn.readout(outputs), rtol=1e-5, atol=1e-5)
        names = [f"spikes/{call.name}" for call, _ in snn.neurons()]
        assert list(theirs) == ["outputs", "predictions", *names]
        for name, fired in zip(names, spikes, strict=True):
            assert set(np.unique(theirs[name])) == {0.0, 1.0}
            assert ((theirs[name] != 0) == fired).double().mean() >= 0.9999


def several(x, stem, one, fc):
    x = F.relu(stem(x))
    return {"maps": (one(x), x), "classes": fc(x.mean((2, 3)))}


def test_each_of_several_outputs_is_named_by_where_it_is(tmp_path):
    snn = spiking(network(several, stem=conv(), one=conv(4, 2), fc=head(4)))
    export_onnx(snn, tmp_path / "snn.onnx", spikes=True)
    theirs, (outputs, _) = run(tmp_path / "snn.onnx", images(3, seed=3)), our_run(snn, images(3, seed=3))
    places = ["maps/0", "maps/1", "classes"]
    kinds = [f"{kind}/{place}" for kind in ("outputs", "predictions") for place in places]
    assert list(theirs) == [*kinds, *(f"spikes/{call.name}" for call, _ in snn.neurons())]
    for kind, tree in (("outputs", outputs), ("predictions", snn.readout(outputs))):
        for place, ours in zip(places, (*tree["maps"], tree["classes"]), strict=True):
            torch.testing.assert_close(theirs[f"{kind}/{place}"], ours, rtol=1e-5, atol=1e-5)


def test_a_fixed_batch_leaves_the_network_as_it_is(tmp_path):
    snn = spiking(small_cnn())
    before = snn(images())
    export_onnx(snn, tmp_path / "snn.onnx", batch_size=3)
    assert [path.name for path in tmp_path.iterdir()] == ["snn.onnx"]
    session = onnxruntime.InferenceSession(tmp_path / "snn.onnx", providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == [3, 3, 8, 8]
    assert [output.shape for output in session.get_outputs()] == [[4, 3, 10]] * 2
    assert torch.equal(snn(images()), before)


def bounded(x, stem, fc):
    return fc(F.relu(stem(x if len(x) < 100 else x[:100])).mean((2, 3)))


def test_code_that_looks_at_the_batch_is_refused_with_what_to_do(tmp_path):
    snn = spiking(network(bounded, stem=conv(), fc=head(4)), 2)
    with pytest.raises(ExportError, match="batch_size"):
        export_onnx(snn, tmp_path / "snn.onnx")
    assert not (tmp_path / "snn.onnx").exists()
    export_onnx(snn, tmp_path / "snn.onnx", batch_size=2)


def test_weights_that_no_file_can_hold_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("ftbc_pl.export.onnx._LARGEST", 1000)
    with pytest.raises(ExportError, match="2 GB"):
        export_onnx(spiking(small_cnn()), tmp_path / "snn.onnx")
