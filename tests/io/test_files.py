import json
import os
import stat

import pytest
import torch
from safetensors.torch import load_file, save_file

from ftbc_pl.files import atomic_path, write_json_atomic, write_text_atomic


def test_text_and_json_are_written_and_nothing_else_is_left(tmp_path):
    write_text_atomic(tmp_path / "a.txt", "théta\n")
    write_json_atomic(tmp_path / "a.json", {"b": [1, 2.5, None]})
    assert (tmp_path / "a.txt").read_bytes() == "théta\n".encode()
    assert json.loads((tmp_path / "a.json").read_text()) == {"b": [1, 2.5, None]}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "a.txt"]


def test_an_existing_file_is_replaced(tmp_path):
    path = tmp_path / "a.txt"
    write_text_atomic(path, "old")
    write_text_atomic(str(path), "new")
    assert path.read_text() == "new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_interrupted_write_leaves_the_old_file_and_no_temporary(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def interrupted_write():
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        interrupted_write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_old_file_is_untouched_until_the_block_ends(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        assert temporary.parent == tmp_path
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_other_libraries_can_write_to_the_temporary_path(tmp_path):
    path = tmp_path / "a.safetensors"
    with atomic_path(path) as temporary:
        save_file({"x": torch.arange(3)}, temporary)
    assert load_file(path)["x"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(("obj", "error"), [({"x": float("nan")}, ValueError), ({"x": object()}, TypeError)])
def test_what_json_cannot_hold_leaves_the_old_file(tmp_path, obj, error):
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(error):
        write_json_atomic(path, obj)
    assert path.read_text() == "old"


def test_a_block_that_writes_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a\.txt"), atomic_path(tmp_path / "a.txt"):
        pass


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="missing"):
        write_text_atomic(tmp_path / "missing" / "a.txt", "x")


def test_the_file_has_the_permissions_of_an_ordinary_new_file(tmp_path):
    (tmp_path / "ordinary").write_text("x")
    write_text_atomic(tmp_path / "atomic", "x")
    assert stat.S_IMODE(os.stat(tmp_path / "atomic").st_mode) == stat.S_IMODE(os.stat(tmp_path / "ordinary").st_mode)
