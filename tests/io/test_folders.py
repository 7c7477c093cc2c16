import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ftbc_pl import folders
from ftbc_pl.files import remove_leftovers, write_text_atomic
from ftbc_pl.folders import FolderUpdate, atomic_folder_update, recover

PACKAGE = str(Path(folders.__file__).parent)
NAMES = ("a.txt", "b.txt", "c.txt")


def content(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


def update(folder, text, names=NAMES):
    with atomic_folder_update(folder, NAMES) as aside:
        for name in names:
            (aside / name).write_text(text)


def test_files_change_together_and_others_stay(tmp_path):
    (tmp_path / "other.txt").write_text("other")
    update(tmp_path / "new", "1")
    assert content(tmp_path / "new") == dict.fromkeys(NAMES, "1")
    update(tmp_path, "1")
    with atomic_folder_update(tmp_path, NAMES) as aside:
        (aside / "a.txt").write_text("2")
        (aside / "b.txt").write_text("2")
        assert (tmp_path / "a.txt").read_text() == "1"
    # c.txt belongs to the old run, with which it goes.
    (tmp_path / "new").rename(tmp_path.parent / "elsewhere")
    assert content(tmp_path) == {"a.txt": "2", "b.txt": "2", "other.txt": "other"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_leaves_the_old_files(tmp_path, error):
    update(tmp_path, "1")

    def interrupted():
        with atomic_folder_update(tmp_path, NAMES) as aside:
            (aside / "a.txt").write_text("2")
            raise error

    with pytest.raises(error):
        interrupted()
    assert content(tmp_path) == dict.fromkeys(NAMES, "1")


def test_only_plain_files_with_plain_names(tmp_path):
    for name in ("../a.txt", "", "..", "b/a.txt"):
        with pytest.raises(ValueError, match="plain names"):
            FolderUpdate(tmp_path, [name])

    def nested():
        with atomic_folder_update(tmp_path, NAMES) as aside:
            (aside / "folder").mkdir()

    with pytest.raises(ValueError, match="plain files"):
        nested()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("moved", range(6))
def test_an_update_that_was_committed_is_finished(moved, tmp_path):
    update(tmp_path, "1")
    committed = tmp_path / ".update.0123abcd.commit"
    committed.mkdir()
    for name in NAMES[:2]:
        (committed / name).write_text("2")
    (committed / ".removed.json").write_text(json.dumps(["c.txt"]))
    # Killed after some of the steps that follow the commit.
    steps = [
        lambda: os.replace(committed / "a.txt", tmp_path / "a.txt"),
        lambda: os.replace(committed / "b.txt", tmp_path / "b.txt"),
        lambda: (tmp_path / "c.txt").unlink(),
        lambda: (committed / ".removed.json").unlink(),
        lambda: committed.rmdir(),
    ]
    for step in steps[:moved]:
        step()
    assert recover(tmp_path) == (moved < 5)
    assert content(tmp_path) == {"a.txt": "2", "b.txt": "2"}
    assert not recover(tmp_path)


def test_a_journal_can_remove_nothing_outside_of_the_folder(tmp_path):
    (tmp_path / "keep.txt").write_text("keep")
    committed = tmp_path / "run" / ".update.0123abcd.commit"
    committed.mkdir(parents=True)
    (committed / ".removed.json").write_text(json.dumps(["../keep.txt"]))
    with pytest.raises(ValueError, match="plain names"):
        recover(tmp_path / "run")
    assert (tmp_path / "keep.txt").read_text() == "keep"


# Without the package's own __init__, which takes seconds to import torch.
WRITER = """
import sys, types
sys.modules["ftbc_pl"] = package = types.ModuleType("ftbc_pl")
package.__path__ = [sys.argv[4]]
from ftbc_pl.folders import atomic_folder_update
folder, names = sys.argv[1], sys.argv[2].split(",")
run = int(sys.argv[3])
print("ready", flush=True)
while True:
    run += 1
    with atomic_folder_update(folder, names) as aside:
        for name in names[: 2 + run % 2]:
            (aside / name).write_text(f"{run}\\n" * 500)
"""


def test_a_kill_at_any_instant_leaves_one_run(tmp_path):
    names = tuple(f"{letter}.txt" for letter in "abc")
    generator = random.Random(0)
    run, interrupted = 0, 0
    for _ in range(24):
        program = [sys.executable, "-c", WRITER, str(tmp_path), ",".join(names), str(run), PACKAGE]
        with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout.readline() == "ready\n"
            time.sleep(generator.uniform(0.005, 0.05))
            process.send_signal(signal.SIGKILL)
        interrupted += any(path.name.endswith(".commit") for path in tmp_path.iterdir())
        recover(tmp_path)
        interrupted += bool(remove_leftovers(tmp_path))
        found = content(tmp_path)
        runs = {text.splitlines()[0] for text in found.values()}
        assert len(runs) <= 1, found
        if runs:
            run = int(runs.pop())
            assert found == dict.fromkeys(names[: 2 + run % 2], f"{run}\n" * 500)
    assert run > 0
    assert interrupted > 0, "no kill came in the middle of an update"


def test_only_our_leftovers_are_removed(tmp_path):
    ours = [".results.json.0123abcd.tmp", ".update.89abcdef.tmp"]
    others = ["results.json", "a.tmp", ".hidden", ".a.tmp", ".results.json.0123ABCD.tmp", ".b.0123abcd.tmp.txt"]
    (tmp_path / ours[0]).write_text("half")
    (tmp_path / ours[1]).mkdir()
    (tmp_path / ours[1] / "a.txt").write_text("half")
    for name in others:
        (tmp_path / name).write_text("x")
    assert sorted(path.name for path in remove_leftovers(tmp_path)) == sorted(ours)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(others)


FULL = """
import resource, sys
import torch
from pathlib import Path
from safetensors.torch import save_file
from ftbc_pl.files import atomic_path
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
tensors = {"x": torch.zeros(50_000)}
write = {"text": lambda p: p.write_text("x" * 50_000), "safetensors": lambda p: save_file(tensors, p),
         "torch": lambda p: torch.save(tensors, p)}
for kind, function in write.items():
    try:
        with atomic_path(sys.argv[1]) as temporary:
            function(temporary)
    except OSError as error:
        print(kind, error)
"""


def test_a_full_disk_names_the_path_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    write_text_atomic(path, "old")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    program = [sys.executable, "-c", FULL, str(path)]
    lines = subprocess.run(program, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["text", "safetensors", "torch"]
    assert all(f"no room to write {path}" in line for line in lines)
    assert content(tmp_path) == {"file": "old"}


def test_a_folder_in_the_place_of_a_file_is_named(tmp_path):
    with pytest.raises(IsADirectoryError, match=tmp_path.name):
        write_text_atomic(tmp_path, "x")
