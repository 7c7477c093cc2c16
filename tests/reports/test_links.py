"""From the log of a run to its folder."""

from lightning.pytorch.loggers import TensorBoardLogger

from ftbc_pl.reports import log_results
from tests.report_results import make_results


def test_tensorboard_names_the_folder(tmp_path):
    logger = TensorBoardLogger(str(tmp_path / "logs"))
    log_results([logger], make_results(2), tmp_path / "the_folder_of_the_run")
    logger.experiment.close()
    (events,) = (tmp_path / "logs").rglob("events.out.*")
    assert str(tmp_path / "the_folder_of_the_run").encode() in events.read_bytes()
