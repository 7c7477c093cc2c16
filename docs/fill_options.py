"""Write the table of options in docs/options.md anew from the classes in ftbc_pl/options.py.

python docs/fill_options.py
"""

from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

import docstring_parser

from ftbc_pl.options import CalibrationOptions, ConversionOptions, RunOptions, SimulationOptions

PAGE = Path(__file__).with_name("options.md")
START, END = "<!-- options -->\n", "<!-- /options -->"
GROUPS = {
    ConversionOptions: "Conversion: `ftbc.…`, `convert(ann, …)`",
    CalibrationOptions: "Calibration: `ftbc.…`, `calibrate_(snn, loader, …)`",
    SimulationOptions: "Simulation: `ftbc.…`",
    RunOptions: "Run: `ftbc.…`, `FTBC(…)`, which takes all the others as well",
}


def table(cls: type) -> str:
    """The options that a class declares itself, as a Markdown table."""
    texts = {entry.arg_name: entry.description or "" for entry in docstring_parser.parse(cls.__doc__ or "").params}
    rows = [
        f"| `{field.name}` | {_default(field)} | {' '.join(texts[field.name].split())} |"
        for field in fields(cls)  # type: ignore[arg-type]
        if field.name in cls.__annotations__
    ]
    return "\n".join(["| option | default | meaning |", "|---|---|---|", *rows])


def page(text: str) -> str:
    """The page with its tables made anew."""
    tables = "\n\n".join(f"**{title}**\n\n{table(cls)}" for cls, title in GROUPS.items())
    before, _, rest = text.partition(START)
    return f"{before}{START}\n{tables}\n\n{END}{rest.partition(END)[2]}"


def _default(field: Field[Any]) -> str:
    value = field.default
    return "" if value is MISSING else "left out" if value is None else f"`{str(value).lower()}`"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
