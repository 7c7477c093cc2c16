"""Each option is declared once: everything else is made of the declarations."""

import importlib.util
import inspect
from dataclasses import fields
from pathlib import Path

import docstring_parser
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftbc_pl import calibrate_, convert
from ftbc_pl.command.section import ftbc_section
from ftbc_pl.options import CalibrationOptions, ConversionOptions, RunOptions, SimulationOptions
from tests.networks import images, small_cnn

ROOT = Path(__file__).parents[2]
CLASSES = (ConversionOptions, CalibrationOptions, SimulationOptions, RunOptions)


def script(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_in_the_documents_is_that_of_the_fields():
    text = (ROOT / "docs" / "options.md").read_text()
    assert script(ROOT / "docs" / "fill_options.py").page(text) == text, "run python docs/fill_options.py"


@pytest.mark.parametrize("cls", CLASSES)
def test_each_option_has_a_sentence(cls):
    told = [entry.arg_name for entry in docstring_parser.parse(cls.__doc__).params]
    assert told == [field.name for field in fields(cls) if field.name in cls.__annotations__]


def test_no_option_is_declared_twice():
    names = [name for cls in CLASSES for name in cls.__annotations__]
    assert len(names) == len(set(names)) == len(fields(RunOptions))


def test_the_command_line_has_every_option_with_its_default_and_sentence():
    from jsonargparse import ArgumentParser

    parser = ArgumentParser()
    parser.add_function_arguments(ftbc_section, "ftbc")
    defaults = parser.get_defaults()
    assert vars(defaults.ftbc) == {field.name: field.default for field in fields(RunOptions)}
    text = " ".join(parser.format_help().split())
    for cls in CLASSES:
        for entry in docstring_parser.parse(cls.__doc__).params:
            assert " ".join(entry.description.split()) in text


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: convert(small_cnn(), 2, example=images(2), tresholds="max"), "convert has no option 'tresholds'. Did"),
        (lambda: convert(small_cnn(), 2, example=images(2), tresholds="max"), "you mean threshold?"),
        (lambda: calibrate_(None, [], slover="exact"), "calibrate_ has no option 'slover'. Did you mean solver?"),
    ],
)
def test_wrong_keywords_are_named(call, message):
    with pytest.raises(TypeError) as error:
        call()
    assert message in str(error.value)


def test_conversion_and_calibration_hide_no_option_behind_another_name():
    own = set(inspect.signature(convert).parameters) | set(inspect.signature(calibrate_).parameters)
    assert not own & {field.name for field in fields(RunOptions)} - {"num_steps", "num_batches"}


@given(st.floats(0, 1, exclude_min=True))
def test_a_fraction_is_no_percentile(value):
    with pytest.raises(ValueError, match="is a percentile in"):
        ConversionOptions(threshold=value)


@pytest.mark.parametrize("value", [0.0, -1.0, 101.0, float("nan")])
def test_percentiles_out_of_range_are_refused(value):
    with pytest.raises(ValueError, match="percentile"):
        ConversionOptions(threshold=value)


@pytest.mark.parametrize("value", ["4", 2.5])
def test_counts_are_whole_numbers(value):
    with pytest.raises(TypeError, match=f"num_steps must be a whole number, got {value!r}"):
        ConversionOptions(num_steps=value)
