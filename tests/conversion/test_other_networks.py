"""Networks as others write and train them: each converts to what it computes, or is refused in one sentence."""

import logging
import threading

import pytest
import timm
import torch
from lightning.pytorch import LightningModule, Trainer
from timm.utils import ModelEma, ModelEmaV3
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, TensorDataset

from ftbc_pl import ConversionError, calibrate_, convert, evaluate, load_snn, prepare, save_snn
from ftbc_pl.conversion.copies import unwrapped
from tests.networks import images, small_cnn

LABELS = torch.arange(16) % 10


def approaches(snn, ann, x, tolerance=0.1):
    """Whether the mean output is near the ANN's, which is that of the network that was handed in."""
    with torch.no_grad():
        exact = ann(x)
    torch.testing.assert_close(snn.network(x), exact, rtol=1e-4, atol=1e-5)
    return ((snn(x).mean(0) - exact).norm() / exact.norm()).item() < tolerance


def trained(network, steps=2):
    optimizer = torch.optim.SGD(network.parameters(), 0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(network.train()(images()), LABELS).backward()
        optimizer.step()
    return network


# Sizes of the batch


class Flat(nn.Module):
    """Reads the size of the batch before the first activation and uses it behind it."""

    def __init__(self, read):
        super().__init__()
        self.read = read
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8 * 6 * 6, 10)

    def forward(self, x):
        n = self.read(x)
        return self.head(F.relu(self.conv(x)).view(n, -1))


class Repeated(nn.Module):
    """A constant for each image, made before the first activation (PointNet's alignment)."""

    def forward(self, x):
        eye = torch.eye(8).flatten().repeat(len(x), 1)
        return F.relu(x).mean(1).flatten(1) + eye


class Crops(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = small_cnn()

    def forward(self, x):
        n, crops = x.shape[:2]
        return self.body(x.flatten(0, 1)).view(n, crops, -1).mean(1)


class Masked(nn.Module):
    """A tensor of as many rows as there are images, made before the first activation."""

    def forward(self, x):
        noise = torch.ones_like(x[:, :1])
        return (F.relu(x) * noise).flatten(1)


READERS = {
    "size(0)": (lambda: Flat(lambda x: x.size(0)), (3, 8, 8)),
    "size(dim=0)": (lambda: Flat(lambda x: x.size(dim=0)), (3, 8, 8)),
    "size(-4)": (lambda: Flat(lambda x: x.size(-4)), (3, 8, 8)),
    "shape": (lambda: Flat(lambda x: x.shape[0]), (3, 8, 8)),
    "len": (lambda: Flat(len), (3, 8, 8)),
    "numel": (lambda: Flat(lambda x: x.numel() // 192), (3, 8, 8)),
    "a constant for each image": (Repeated, (3, 8, 8)),
    "ten crops": (Crops, (10, 3, 8, 8)),
    "ones_like": (Masked, (3, 8, 8)),
}


@pytest.mark.parametrize(("make", "shape"), READERS.values(), ids=READERS)
@pytest.mark.parametrize("check", [True, False])
def test_a_forward_may_use_its_batch_size_anywhere(make, shape, check, tmp_path):
    torch.manual_seed(0)
    network = make().eval()
    x = torch.randn(5, *shape)
    snn = convert(network, 64, batches=[x], threshold="max", check=check)
    assert not snn.trace.static_prefix
    assert approaches(snn, network, x)
    assert snn(x[:1]).shape == (64, 1, *network(x).shape[1:])
    save_snn(snn, tmp_path)
    assert torch.equal(load_snn(tmp_path, ann=make())(x), snn(x))


class Harmless(nn.Module):
    """Reads sizes, the batch's too, and uses them where there are as many rows."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 10)

    def forward(self, x):
        n, c, height, _ = x.shape
        x = F.pad(x.view(n, c, height, -1), (1, 1, 1, 1))
        x = F.relu(self.conv(x))
        return self.head(x.view(x.size(0), 8, -1).mean(2))


@pytest.mark.parametrize(
    "read", [lambda x: x.size(2), lambda x: x.ndim, lambda x: x.dtype], ids=["size", "ndim", "dtype"]
)
def test_constant_layers_run_once_where_sizes_do_no_harm(read):
    class Reading(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = small_cnn()

        def forward(self, x):
            read(x)
            return self.body(x)

    assert convert(Reading(), 2, batches=[images()]).trace.static_prefix
    assert convert(Harmless().eval(), 2, batches=[images()]).trace.static_prefix


@pytest.mark.parametrize("count", [2, 8])
def test_a_batch_size_written_into_the_forward(count):
    network = Flat(lambda x: count).eval()
    with pytest.raises(ConversionError, match=rf"runs on {count} images but not on .* x.size\(0\)"):
        convert(network, 2, batches=[images(count)])


# After training steps


class Keeps(nn.Module):
    """Keeps its features, in an attribute, a dict of lists and an object."""

    def __init__(self):
        super().__init__()
        self.conv, self.head, self.kept = nn.Conv2d(3, 8, 3), nn.Linear(8, 10), {"features": []}
        self.other = type("Other", (), {})()

    def forward(self, x):
        self.features = F.relu(self.conv(x))
        self.kept["features"].append((self.features,))
        self.other.features = self.features * 2
        return self.head(self.features.mean((2, 3)))


def normed(norm):
    network = small_cnn()
    norm(network[3])
    return network


AFTER_TRAINING = {
    "weight_norm": lambda: normed(weight_norm),
    "spectral_norm": lambda: normed(spectral_norm),
    "a parametrisation": lambda: normed(parametrizations.weight_norm),
    "an orthogonal one": lambda: normed(parametrizations.spectral_norm),
    "pruning": lambda: normed(lambda layer: prune.l1_unstructured(layer, "weight", 0.3)),
    "kept features": Keeps,
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize("make", AFTER_TRAINING.values(), ids=AFTER_TRAINING)
@pytest.mark.parametrize("fold_bn", [False, True])
def test_a_network_converts_right_after_training_steps(make, fold_bn):
    torch.manual_seed(0)
    network = trained(make())
    snn = convert(network, 64, batches=[images()], threshold="max", fold_bn=fold_bn)
    assert network.training
    assert all(p.grad is not None and p.requires_grad for p in network.parameters())
    assert approaches(snn, network.eval(), images())


def test_a_saved_network_is_loaded_into_one_that_was_trained_or_wrapped(tmp_path):
    snn = convert(trained(Keeps()), 2, batches=[images()])
    save_snn(snn, tmp_path)
    for ann in (trained(Keeps()), nn.DataParallel(Keeps())):
        assert torch.equal(load_snn(tmp_path, ann=ann)(images()), snn(images()))


def test_preparation_copies_such_a_network_too():
    class Features(Keeps):
        def __init__(self):
            super().__init__()
            self.act = nn.ReLU()

        def forward(self, x):
            self.features = self.act(self.conv(x))
            return self.head(self.features.mean((2, 3)))

    network = trained(Features())
    assert prepare(network, "qcfs", levels=4, threshold=1.0).act.levels == 4


def test_what_can_not_be_copied_is_said():
    network = small_cnn()
    network.lock = threading.Lock()
    with pytest.raises(ConversionError, match=r"can't be copied: TypeError: cannot pickle .*lock"):
        convert(network, 2, batches=[images()])


# Wrapped networks


class Wrapped(LightningModule):
    def __init__(self):
        super().__init__()
        self.network, self.loss = small_cnn(), nn.CrossEntropyLoss()

    def training_step(self, batch, batch_idx):
        return self.loss(self.network(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


class WithForward(Wrapped):
    def forward(self, x):
        return 2 * self.network(x)


class WithShell(Wrapped):
    def forward(self, x):
        return self.network(x)


class Parts(nn.Module):
    """Wrappers around parts, as in PyTorch's own example for ImageNet."""

    def __init__(self):
        super().__init__()
        body = small_cnn()
        self.features, self.classifier = nn.DataParallel(body[:-2]), torch.compile(body[-2:])

    def forward(self, x):
        return self.classifier(self.features(x))


def compiled_in_place():
    network = small_cnn()
    network.compile()
    return network


WRAPPERS = {
    "DataParallel": lambda: nn.DataParallel(small_cnn()),
    "torch.compile": lambda: torch.compile(small_cnn()),
    "compiled in place": compiled_in_place,
    "averaged": lambda: AveragedModel(small_cnn()),
    "timm's first average": lambda: ModelEma(small_cnn()),
    "timm's average": lambda: ModelEmaV3(small_cnn()),
    "several": lambda: torch.compile(ModelEmaV3(nn.DataParallel(small_cnn()))),
    "a LightningModule": Wrapped,
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_a_wrapped_network_is_taken_out(wrap):
    snn = convert(wrap(), 4, batches=[images()])
    assert type(snn.network) is nn.Sequential
    assert torch.equal(snn(images()), convert(small_cnn(), 4, batches=[images()])(images()))


def test_wrappers_around_parts_are_left_out():
    snn = convert(Parts().eval(), 4, batches=[images()])
    assert type(snn.network.features) is type(snn.network.classifier) is nn.Sequential
    assert torch.equal(snn(images()), convert(small_cnn(), 4, batches=[images()])(images()))


def test_it_is_said_what_is_converted(caplog):
    with caplog.at_level(logging.WARNING, "ftbc_pl"):
        convert(nn.DataParallel(small_cnn()), 2, batches=[images()])
    assert "Converting module of DataParallel: a Sequential." in caplog.text


@pytest.mark.parametrize("kind", [Wrapped, WithShell, WithForward])
def test_a_lightning_module_with_its_trainer(kind, tmp_path):
    module = kind().train()
    settings = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = Trainer(max_steps=1, default_root_dir=tmp_path, enable_progress_bar=False, **settings)
    trainer.fit(module, DataLoader(TensorDataset(images(), LABELS), 16))
    snn = convert(module, 64, batches=[images()], threshold="max")
    assert module.trainer is trainer
    assert (type(snn.network) is nn.Sequential) == (kind is not WithForward)
    ann = module.eval() if kind is WithForward else module.network.eval()
    assert approaches(snn, ann, images())


def test_a_lightning_module_whose_network_is_not_known():
    class Several(LightningModule):
        def __init__(self):
            super().__init__()
            self.encoder, self.decoder = small_cnn(), nn.Linear(10, 5)

    with pytest.raises(ConversionError, match=r"Several has no forward, .* among encoder, decoder: pass the network"):
        convert(Several(), 2, batches=[images()])


@pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning", "ignore:.*is deprecated:DeprecationWarning")
@pytest.mark.parametrize("place", ["(network)", "0"])
def test_torchscript_can_not_be_read(place):
    network = torch.jit.trace(small_cnn(), images())
    network = network if place == "(network)" else nn.Sequential(network, nn.ReLU())
    with pytest.raises(ConversionError, match="it is TorchScript, whose operations can't be seen") as error:
        convert(network, 2, batches=[images()])
    assert error.value.problems[0].startswith(f"{place}: ")


@pytest.mark.parametrize("thing", [lambda x: x, None, {"weight": torch.ones(1)}])
def test_what_is_no_module(thing):
    with pytest.raises(TypeError, match=r"Expected the network as a torch.nn.Module, got"):
        unwrapped(thing)


def test_a_spiking_network_is_not_converted_again():
    with pytest.raises(TypeError, match="a spiking network already"):
        convert(convert(small_cnn().eval(), 2, batches=[images()]), 2, batches=[images()])


# Networks and images that don't fit


class Two(nn.Module):
    def forward(self, image, mask):
        return F.relu(image * mask)


@pytest.mark.parametrize(
    ("network", "x", "message"),
    [
        (Two(), images(), r"takes 2 inputs \(image, mask\): wrap it"),
        (small_cnn(), images().half(), r"type float16, .*: its weights are float32: use images.to\(torch.float32\)"),
        (small_cnn(), images().double(), r"type float64, .*: its weights are float32: use images.to\(torch.float32\)"),
        (small_cnn(), images(channels=1), r"not run on images of shape \(2, 1, 8, 8\) and type float32, RuntimeError:"),
        (small_cnn(), images(size=9)[:, :, 0], r"not run on images of shape \(2, 3, 9\)"),
        (timm.create_model("resnet18", num_classes=10), images()[0], r"not run on images of shape \(2, 8, 8\)"),
    ],
)
def test_images_that_the_network_does_not_take(network, x, message):
    with pytest.raises(ConversionError, match=message) as error:
        convert(network, 2, batches=[x])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("batches", [images(), {"image": images()}], ids=["tensor", "dict"])
def test_one_batch_is_no_loader(batches):
    with pytest.raises(
        TypeError, match=r"Expected a loader or a list of batches, got a? ?(Tensor|dict).*: put it into a"
    ):
        convert(small_cnn(), 2, batches=batches)


@pytest.mark.parametrize("use", [lambda snn, data: convert(small_cnn(), 2, batches=data), calibrate_, evaluate])
def test_a_data_set_is_no_loader(use):
    single = [(image, 0) for image in images()]
    with pytest.raises(TypeError, match="got one image with its label: this is a data set; hand in a loader"):
        use(convert(small_cnn(), 2, batches=[images()]), single)


def test_a_batch_without_images():
    with pytest.raises(ValueError, match="got a batch without any"):
        convert(small_cnn(), 2, batches=[images()[:0]])


def test_weights_that_have_no_values():
    with torch.device("meta"):
        network = small_cnn()
    for unmade in (network, nn.Sequential(nn.LazyConv2d(4, 3), nn.ReLU())):
        with pytest.raises(ConversionError, match=r"0.weight has no values yet"):
            convert(unmade, 2, batches=[images()])


@pytest.mark.parametrize("steps", [4097, 10**9])
def test_more_timesteps_than_memory_holds(steps):
    with pytest.raises(ValueError, match=rf"num_steps must be at most 4,096, got {steps:,}"):
        convert(small_cnn(), steps, batches=[images()])


def test_a_forward_that_fails_where_gradients_are_needed():
    class Numpy(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = small_cnn()

        def forward(self, x):
            x = self.body[:2](x)
            self.mean = x.numpy().mean()
            return self.body[2:](x)

    with torch.no_grad(), pytest.raises(ConversionError, match="numpy: its result depends on the data") as error:
        convert(Numpy().eval(), 2, batches=[images()])
    assert "does not run where the input requires a gradient" in error.value.problems[-1]


class Spellings(nn.Module):
    """Calls sites with their input as a keyword, in a list and beside another one."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 10)

    def forward(self, x):
        x = torch.clamp(input=self.conv(x), min=0.0)
        x = torch.maximum(F.max_pool2d(input=x, kernel_size=2), F.avg_pool2d(x, 2))
        return self.head(F.relu(input=x - 0.1).mean((2, 3)))


def test_the_input_of_a_site_may_be_given_in_any_way():
    torch.manual_seed(0)
    network = Spellings().eval()
    assert approaches(convert(network, 64, batches=[images()], threshold="max"), network, images())


class Aside(nn.Module):
    """Computes something beside its output, which takes images together, hides from autograd, or is no ReLU."""

    def __init__(self, look):
        super().__init__()
        self.conv, self.head, self.look = nn.Conv2d(3, 8, 3), nn.Linear(8, 10), look

    def forward(self, x):
        x = F.relu(self.conv(x))
        self.seen = self.look(x)
        return self.head(x.mean((2, 3)))


ASIDE = {
    "detached features": lambda x: x.detach(),
    "detached, elsewhere": lambda x: x.detach().clone().cpu() * 2,
    "a mean over the batch": lambda x: x.mean(),
    "a loss": lambda x: x.pow(2).mean().sqrt() + x.abs().sum(),
    "a norm": lambda x: x.flatten().norm(),
    "a mask": lambda x: (x > 0).float().mean().relu(),
    "a smooth activation": lambda x: F.gelu(x),
}


@pytest.mark.parametrize("look", ASIDE.values(), ids=ASIDE)
def test_what_goes_into_no_output_does_no_harm(look):
    torch.manual_seed(0)
    network = Aside(look).eval()
    assert approaches(convert(network, 64, batches=[images()], threshold="max"), network, images())


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda x: x.add(x.detach()), "detach: it hides the data flow"),
        (lambda x: x * (x > 0.1), "gt: it compares values"),
        (lambda x: x - F.relu(x.mean()), "mean: it takes images of the batch together"),
        (lambda x: x if x.detach().mean() > 0 else -x, "bool: its result depends on the data"),
        (lambda x: x * x.detach().nonzero().size(0), "nonzero: it is not known to be linear"),
        (lambda x: [x, x.data.mul_(2)][0], "data: it hides the data flow"),
        (lambda x: x + float(x.detach().sum()), "detach: it hides the data flow"),
    ],
)
def test_what_goes_into_an_output_is_named(use, message):
    class Used(Aside):
        def forward(self, x):
            return self.head(use(F.relu(self.conv(x))).mean((2, 3)))

    with pytest.raises(ConversionError, match=message):
        convert(Used(None).eval(), 2, batches=[images(2)])
