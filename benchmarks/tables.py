"""Cells and headers of the tables, and the figures beside them."""

import argparse
from collections.abc import Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure


def percent(values: Sequence[float]) -> str:
    """Mean and, for several draws, standard deviation in percent."""
    column = 100 * torch.tensor(values, dtype=torch.float64)
    spread = f" ± {column.std().item():.2f}" if len(column) > 1 else ""
    return f"{column.mean().item():.2f}{spread}"


def row(*cells: object) -> str:
    """One row in Markdown. Row by row, since minutes lie between two of them, so that no library lays them out."""
    return f"| {' | '.join(map(str, cells))} |"


def head(*titles: object) -> str:
    """Titles of the columns, and the rule below them."""
    return f"{row(*titles)}\n{'|---' * len(titles)}|"


def at(steps: Sequence[int]) -> list[str]:
    """Titles of the columns that hold something at each of these timesteps."""
    return [f"T = {t}" for t in steps]


def panels_of(args: argparse.Namespace) -> tuple[Figure, Sequence[Axes]]:
    """A figure with one panel for each network."""
    figure = Figure(figsize=(3.6 * len(args.networks), 4.0), layout="constrained")
    return figure, figure.subplots(1, len(args.networks), squeeze=False)[0]


def save(figure: Figure, args: argparse.Namespace) -> None:
    """Save a figure, if that is wanted, with the lines of its first panel explained below all of them."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize="small", frameon=False)
    if args.figure:
        figure.savefig(args.figure, dpi=120)
