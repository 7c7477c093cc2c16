"""What a comparison hands to its loggers: the table and the picture to W&B, curves to the others."""

from collections.abc import Iterable

from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from ftbc_pl.comparisons.store import Store
from ftbc_pl.comparisons.table import COLUMNS, ComparisonTable
from ftbc_pl.reports.tracking import FOLDER_KEY

KEY = "comparison"


@rank_zero_only
def log_comparison(loggers: Iterable[Logger], table: ComparisonTable, store: Store) -> None:
    """Log a comparison to every logger; process 0 only, no-op in others.

    W&B gets the table as `comparison` and the picture as `comparison_figure`; any other logger the mean accuracy of
    each rule and readout as `comparison/RULE/READOUT`, with T as the step.

    Args:
        loggers: `trainer.loggers`.
        table: What was measured.
        store: Where it was written.
    """
    rows = list(table.rows())
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.log_hyperparams({FOLDER_KEY: str(store.folder)})
            logger.log_table(KEY, columns=list(COLUMNS), data=[[row[name] for name in COLUMNS] for row in rows])
            if store.folder is not None:
                logger.log_image(f"{KEY}_figure", [str(store.folder / "comparison.png")])
            continue
        for steps in table.plan.num_steps:
            metrics = {_name(row): row["accuracy"] for row in rows if row["T"] == steps}
            logger.log_metrics(metrics, step=steps)
        logger.save()


def _name(row: dict[str, object]) -> str:
    rule = row["solver"] if row["weights"] == "keep" else f"{row['solver']}_{row['weights']}"
    return f"{KEY}/{rule}/{row['readout']}"
