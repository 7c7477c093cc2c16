"""Files that hold no weights, or more than weights: one sentence each, and nothing in them is ever run."""

import argparse
import gzip
import importlib
import io
import pickle
import warnings
import zipfile

import pytest
import torch
from safetensors.torch import save
from torch import nn

from ftbc_pl.models import load_weights, read_checkpoint_state, read_weights

MARK = "mark"


def saved(content, **kwargs):
    buffer = io.BytesIO()
    torch.save(content, buffer, **kwargs)
    return buffer.getvalue()


def zipped(**files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(f"archive/{name}.pkl", content)
    return buffer.getvalue()


def script():
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), buffer)
    return buffer.getvalue()


STATE = {"weight": torch.ones(3, 400), "bias": torch.ones(3)}
FILES = {
    "empty": (b"", "the file is empty"),
    "text": (b"not weights, but words\n" * 50, "it is a text file"),
    "page": ("<!DOCTYPE html><title>Zugriff verweigert – später</title>".encode(), "it is a text file"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "pickle": (pickle.dumps({"weight": [1.0]}), "it is a Python pickle"),
    "pickle 2": (pickle.dumps({"weight": [1.0]}, protocol=2), "it is a Python pickle"),
    "zip": (zipped(readme=b"x").replace(b".pkl", b".txt"), "not one of torch.save"),
    "gzip": (gzip.compress(saved(STATE)), "compressed with gzip"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(64), "HDF5"),
    "noise": (bytes(range(128, 256)) * 8, "may be damaged"),
    "cut": (saved(STATE)[:-300], "cut off or damaged"),
    "cut early": (saved(STATE)[:100], "cut off or damaged"),
    "cut legacy": (saved(STATE, _use_new_zipfile_serialization=False)[:500], "cut off"),
    "cut safetensors": (save(STATE)[:-100], "cut off or damaged"),
    "cut header": (save(STATE)[:40], "cut off or damaged"),
    "module": (saved(nn.Linear(2, 2)), "tensors only"),
    "tensor": (saved(torch.ones(3)), "expected a state dict"),
    "list": (saved([torch.ones(3)]), "expected a state dict"),
    "numbers": (saved({"epoch": 3}), r"keys epoch \(int\)"),
    "none": (saved({}), "expected a state dict"),
}


def test_a_flipped_bit_is_damage(tmp_path):
    content = bytearray(saved(STATE))
    content[content.index(torch.ones(8).numpy().tobytes())] ^= 0x40
    path = tmp_path / "w.pth"
    path.write_bytes(content)
    assert not torch.equal(torch.load(path, weights_only=True)["weight"], STATE["weight"])
    with pytest.raises(ValueError, match=r"checksum of .* it is damaged") as error:
        read_weights(path)
    assert str(path) in str(error.value)


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
@pytest.mark.parametrize("odd", [lambda x: x.to_sparse(), lambda x: x.to("meta")], ids=["sparse", "meta"])
def test_tensors_that_are_not_dense_are_named(odd, tmp_path):
    torch.save({"weight": odd(torch.ones(2, 3)), "bias": torch.ones(2)}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"w.pth are sparse, quantised or without values: weight"):
        load_weights(nn.Linear(3, 2), tmp_path / "w.pth")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_files_without_weights_are_one_sentence(name, suffix, tmp_path):
    content, sentence = FILES[name]
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    for read in (read_weights, read_checkpoint_state):
        with pytest.raises(ValueError, match=sentence if read is read_weights else "expected") as error:
            read(path)
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 600


def test_a_program_of_torchscript_is_refused(tmp_path):
    (tmp_path / "w.pth").write_bytes(script())
    with pytest.raises(ValueError, match="TorchScript"):
        read_weights(tmp_path / "w.pth")


def test_folders_and_missing_files_say_what_to_give(tmp_path):
    with pytest.raises(ValueError, match=r"got the folder .* but it holds none"):
        read_weights(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=r"such as model\.safetensors"):
        read_weights(tmp_path)
    with pytest.raises(FileNotFoundError, match="found none"):
        read_weights(tmp_path / "absent")


class Call:
    """Pickles as the call of a function, which would leave a file behind."""

    def __init__(self, name, *args, state=None):
        self.name, self.args, self.state = name, args, state

    def __reduce__(self):
        module, _, name = self.name.rpartition(".")
        function = getattr(importlib.import_module(module), name)
        return (function, self.args) if self.state is None else (function, self.args, self.state)


TOUCH = f"open({MARK!r}, 'w').close()"
GADGETS = {
    "os.system": Call("os.system", f"touch {MARK}"),
    "eval": Call("builtins.eval", TOUCH),
    "exec": Call("builtins.exec", TOUCH),
    "open": Call("builtins.open", MARK, "w"),
    "subprocess": Call("subprocess.check_output", ["touch", MARK]),
    "popen": Call("subprocess.Popen", ["touch", MARK]),
    "partial": Call("functools.partial", exec, state=(exec, (TOUCH,), {}, {})),
    "partial called": Call("functools.reduce", Call("functools.partial", exec), [TOUCH, {}]),
    "map": Call("builtins.list", Call("builtins.map", exec, [TOUCH])),
    "import": Call("importlib.import_module", "antigravity"),
    "runpy": Call("runpy.run_path", "script.py"),
    "timeit": Call("timeit.timeit", TOUCH),
    "code": Call("code.InteractiveInterpreter", {}, state={"locals": {}}),
    "attrgetter": Call("operator.methodcaller", "touch"),
    "getattr": Call("builtins.getattr", Call("pathlib.Path", MARK), "touch"),
    "copytree": Call("shutil.copyfile", "script.py", MARK),
    "torch.load": Call("torch.load", "script.py"),
    "torch.hub": Call("torch.hub.load_state_dict_from_url", "file:script.py"),
    "bound": Call("builtins.setattr", torch.Tensor, "spoiled", 1),
    "namespace": argparse.Namespace(run=Call("os.system", f"touch {MARK}")),
}


@pytest.mark.parametrize("name", GADGETS)
@pytest.mark.parametrize("place", ["beside", "inside", "instead", "legacy"])
def test_no_code_runs(name, place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "script.py").write_text(f"open({MARK!r}, 'w')")
    gadget = GADGETS[name]
    content = {
        "beside": {"hyper_parameters": gadget, "state_dict": STATE},
        "inside": {"state_dict": STATE | {"extra": gadget}},
        "instead": gadget,
        "legacy": {"hyper_parameters": gadget, "state_dict": STATE},
    }[place]
    (tmp_path / "a.ckpt").write_bytes(saved(content, _use_new_zipfile_serialization=place != "legacy"))
    if place in ("beside", "inside"):
        assert set(read_checkpoint_state("a.ckpt")) == set(STATE)
        load_weights(nn.Linear(400, 3), "a.ckpt")
    else:
        with pytest.raises(ValueError, match=r"a\.ckpt"):
            read_checkpoint_state("a.ckpt")
        with pytest.raises(ValueError, match=r"a\.ckpt"):
            read_weights("a.ckpt")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.ckpt", "script.py"]
    assert not hasattr(torch.Tensor, "spoiled")


# Programs that no object pickles to: they change what reads the file, or call what a name gave.
PROGRAMS = {
    "state on a function": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x01\x00\x00\x00aK\x01sb.",
    "slots on a function": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}X\x05\x00\x00\x00valueK\x01s\x86b.",
    "state on a class": b"\x80\x02cos\nsystem\n}X\x05\x00\x00\x00valueK\x01sb.",
    "call of a result": b"\x80\x02cbuiltins\ngetattr\ncos\nX\x06\x00\x00\x00system\x86RX\x01\x00\x00\x00a\x85R.",
    "stack global": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0atouch mark\x85R.",
    "inst": b"\x80\x02(X\x0a\x00\x00\x00touch markios\nsystem\n.",
    "obj": b"\x80\x02(cos\nsystem\nX\x0a\x00\x00\x00touch marko.",
    "newobj": b"\x80\x02csubprocess\nPopen\nX\x0a\x00\x00\x00touch mark\x85\x81.",
    "persistent": b"\x80\x02(X\x06\x00\x00\x00modulecos\nsystem\nX\x01\x00\x00\x00aX\x01\x00\x00\x00btQ.",
    "negative storage": b"\x80\x02(X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
    b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuJ\xff\xff\xff\xfftQ.",
    "no end": b"\x80\x02}",
    "deep": b"\x80\x02" + b"]" * 10 + b"a" * 20 + b".",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_hand_written_programs_are_one_sentence(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.ckpt").write_bytes(zipped(data=PROGRAMS[name]))
    with pytest.raises(ValueError, match=r"a\.ckpt") as error:
        read_weights("a.ckpt")
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["a.ckpt"]


def test_a_tensor_can_not_reach_beyond_its_storage(tmp_path):
    good = saved({"state_dict": STATE, "hyper_parameters": nn.MSELoss()})
    # 3×400 of the weight become 3×144: still inside; 3×65535 would lie outside.
    bad = good.replace(b"K\x03M\x90\x01\x86", b"K\x03M\xff\xff\x86")
    assert bad != good
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(good)) as source, zipfile.ZipFile(buffer, "w") as archive:
        for name in source.namelist():
            archive.writestr(name, source.read(name).replace(b"K\x03M\x90\x01\x86", b"K\x03M\xff\xff\x86"))
    (tmp_path / "a.ckpt").write_bytes(buffer.getvalue())
    with pytest.raises(ValueError, match=r"a\.ckpt"):
        read_checkpoint_state(tmp_path / "a.ckpt")
