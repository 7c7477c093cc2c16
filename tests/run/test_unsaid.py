"""What need not be said on the command line is found, said, and never put before what is given."""

import json
from pathlib import Path

import pytest
import yaml
from PIL import Image

from ftbc_pl.cli import main
from ftbc_pl.command.unsaid import with_found
from tests.imagefolders import write_folder
from tests.pipeline import QUIET, results

pytestmark = pytest.mark.usefixtures("own_folder")
SMALL = [*QUIET, "--trainer.accelerator=cpu", "--trainer.max_epochs=1", "--model.network=cifar_resnet20"]
SMALL += ["--data.input_size=8", "--data.batch_size=8", "--ftbc.batch_size=8", "--ftbc.num_steps=2"]
WEIGHTS = "--model.weights=relu.pt"
RATE = "--optimizer.init_args.lr=0.01"


def images(grey=False):
    for place, name in enumerate(("train", "val")):
        write_folder(Path("images") / name, 12, size=8, start=100 * place)
    if grey:
        for path in Path("images").rglob("*.png"):
            Image.open(path).convert("L").save(path)


def config(name="own.yaml", **content):
    Path(name).write_text(yaml.safe_dump(content))
    return f"--config={name}"


def test_a_folder_is_one_of_images():
    images()
    given = ["fit", "--data.root", "images", "--model.network=resnet18"]
    assert with_found(given) == ["fit", "--data=ImageData", *given[1:]]
    assert with_found(["fit", "--data.root=images", "--data", "Own"]) == ["fit", "--data.root=images", "--data", "Own"]
    own = config(data={"class_path": "ImageData", "init_args": {"root": "elsewhere"}})
    assert with_found(["fit", own, "--data.root=images"]) == ["fit", own, "--data.root=images"]
    of_fit = config(fit={"data": {"class_path": "Own"}})
    assert with_found(["fit", of_fit, "--data.root=images"]) == ["fit", of_fit, "--data.root=images"]


def test_grey_images_make_a_network_for_one_channel(caplog):
    caplog.set_level("INFO")
    images(grey=True)
    given = ["fit", "--data.root=images"]
    assert with_found(given) == ["fit", "--data=ImageData", "--data.root=images", "--model.in_chans=1"]
    assert "The images in images have no colours: the network takes one channel" in caplog.text
    assert "--model.in_chans=3" in with_found([*given, "--data.in_chans=3"])
    for known in ("--model.in_chans=3", "--snn_path=out", "--ckpt_path=best.ckpt", config(model={"in_chans": 3})):
        assert with_found([*given, known]) == ["fit", "--data=ImageData", "--data.root=images", known]
    own = config(data={"class_path": "ftbc_pl.data.ImageData", "init_args": {"root": "images"}})
    assert with_found(["fit", own]) == ["fit", own, "--model.in_chans=1"]


@pytest.mark.parametrize("start", [WEIGHTS, "--model.pretrained=true"])
def test_trained_weights_lower_the_learning_rate(start, caplog):
    caplog.set_level("INFO")
    assert with_found(["fit", start]) == ["fit", start, RATE]
    assert "learning rate is 0.01 instead of 0.1 (--optimizer.lr gives another)" in caplog.text
    decay = "--optimizer.init_args.weight_decay=0"
    assert with_found(["fit", start, decay]) == ["fit", start, decay, RATE]


@pytest.mark.parametrize(
    "given",
    [
        ["fit"],
        ["fit", "--model.pretrained=false"],
        ["calibrate", WEIGHTS],
        ["fit", WEIGHTS, "--optimizer.lr=0.1"],
        ["fit", WEIGHTS, "--optimizer.init_args.lr", "0.1"],
        ["fit", WEIGHTS, "--optimizer=AdamW"],
        ["fit", WEIGHTS, "--optimizer", "torch.optim.Adam"],
        ["fit", WEIGHTS, "--config=rate.yaml"],
        ["fit", WEIGHTS, "--help"],
        ["fit", "--config=none.yaml"],
        ["export", "--snn_path=out"],
        [],
    ],
)
def test_what_is_given_stays(given):
    config("rate.yaml", optimizer={"class_path": "SGD", "init_args": {"lr": 0.2}})
    assert with_found(given) == given


@pytest.mark.slow
def test_an_own_folder_needs_its_root_only(caplog):
    """Grey images in train/ and val/: from the first training to the predictions."""
    images(grey=True)
    main(["fit", "--data.root=images", *SMALL, "--ftbc.output_dir=out"])
    said = "images: 2 classes (china, flower); 24 grey images in train/ to train on; val/ to choose the best epoch"
    assert said in caplog.text
    assert results("out")["images"] == 24
    (metrics,) = Path("runs").rglob("metrics.csv")
    assert "top5" not in metrics.read_text()
    saved = json.loads(Path("out/snn.json").read_text())
    assert saved["images"]["input_size"] == [1, 8, 8]
    main(["predict", "--data.root=images", "--data.test_split=val", *QUIET, "--snn_path=out"])
    rows = Path("predictions.csv").read_text().splitlines()
    assert rows[0] == "index,file,class,class_name,probability,true_class,decided_at,class_T1,class_T2"
    assert len(rows) == 1 + 24
    assert rows[1].startswith("0,china/0100.png,")
