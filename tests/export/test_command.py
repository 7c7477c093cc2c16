"""The subcommand `export`."""

import nir
import pytest

from ftbc_pl import calibrate_, convert, create_network, save_snn
from ftbc_pl.cli import main
from tests.networks import images


@pytest.fixture
def saved(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ann = create_network("cifar_resnet20", num_classes=10, in_chans=3).eval()
    snn = convert(ann, 2, batches=[images(4, 32)])
    report = calibrate_(snn, [images(4, 32)], progress=False)
    save_snn(snn, "run/snn", report=report)


def test_it_writes_the_file(saved):
    main(["export", "--snn_path=run", "--format=nir", "--output=snn.nir"])
    assert any(isinstance(node, nir.IF) for node in nir.read("snn.nir").nodes.values())


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ["--snn_path=run", "--format=nir", "--output=run/snn.json"],
            1,
            "expected a new file to write, got run/snn.json, which exists: name another, or pass --overwrite true.",
        ),
        (["--snn_path=nowhere", "--format=nir", "--output=a.nir"], 1, "There is no saved spiking network at nowhere"),
        (["--snn_path=run", "--format=onx", "--output=a.nir"], 2, "onx"),
        (["--snn_path=run", "--format=nir"], 2, "output"),
    ],
)
def test_what_it_can_not_do_is_one_sentence(saved, arguments, code, message, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["export", *arguments])
    assert ended.value.code == code
    told = capsys.readouterr().err
    assert message in told
    assert "Traceback" not in told
