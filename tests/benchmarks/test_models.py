"""The scripts behind the tables of the README still run."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "models.py"


@pytest.fixture(scope="module")
def models():
    spec = importlib.util.spec_from_file_location("benchmark_models", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPT.parent))  # where its neighbours are, as when it runs as a script
        spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["timm resnet18", "torchvision shufflenet_v2_x1_0", "timm vit_tiny_patch16_224"])
def test_the_error_falls_about_as_one_over_the_number_of_steps(models, name):
    errors = models.convergence(name, 128, models.batch(name, 2), 8)
    assert list(errors) == [16, 32, 64, 128]
    assert errors[128] < errors[16] / 4  # 8 would be exactly 1/T
    assert errors[128] < 0.05


def test_outcomes_are_counted_independently_of_the_converter(models):
    name = "torchvision mobilenet_v2"
    images = models.batch(name, 2)
    activations = models.count_activations(name, images)
    assert activations == 35
    assert models.outcome(models.ours, name, images, activations) == "converted"
    assert models.outcome(lambda ann, images: 9, name, images, activations) == "9 of 35"
    assert models.outcome(lambda ann, images: 1 / 0, name, images, activations).startswith("failed: ZeroDivisionError")


def test_the_figure_is_drawn(models, tmp_path):
    curves = {name: {16: 0.1, 32: 0.05} for name in models.CONVERGENCE}
    models.draw(curves, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000
