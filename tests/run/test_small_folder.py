"""A folder with fewer images than the default calibration takes."""

from types import SimpleNamespace

import pytest

from ftbc_pl.data import DigitsData
from ftbc_pl.loaders import size_that_fits
from ftbc_pl.options import RunOptions
from ftbc_pl.run import Run


def trainer_with(images):
    class Trainer(SimpleNamespace):
        __hash__ = object.__hash__

    return Trainer(datamodule=DigitsData(val_split=1437 - images), lightning_module=None)


def test_the_images_there_are_serve_where_no_size_was_given(caplog):
    caplog.set_level("INFO")
    trainer = trainer_with(100)
    run = Run(RunOptions(num_batches=3))
    assert [len(labels) for _, labels in run._calibration_loader(trainer)] == [33, 33, 33]
    run._calibration_loader(trainer)
    assert caplog.text.count("FTBC calibrates with 99 of the 100 training images that are not held out") == 1


def test_a_size_that_was_given_is_kept():
    with pytest.raises(ValueError, match=r"lower ftbc\.batch_size"):
        Run(RunOptions(batch_size=101))._calibration_loader(trainer_with(100))


def test_enough_images_change_nothing(caplog):
    caplog.set_level("INFO")
    assert size_that_fits(trainer_with(128), 128, 1) == 128
    assert not caplog.text
