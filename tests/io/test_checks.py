"""Saved networks that a disk or a person has changed: the same network or one sentence, never another one."""

import copy
import json
import math
import os
import shutil
import subprocess
import sys

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from ftbc_pl import calibrate_, convert, create_network, load_snn, prepare, save_snn
from ftbc_pl.io import load_calibration, recipe
from tests.networks import create, images, randomise_, small_cnn

FUZZ = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def tiny():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)).eval()


BATCH = images(4, 4, channels=1)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Folder of a saved network, its outputs and its report."""
    folder = tmp_path_factory.mktemp("original")
    snn = convert(tiny(), 3, batches=[BATCH], threshold="max", fold_bn=False)
    report = calibrate_(snn, [BATCH], progress=False)
    save_snn(snn, folder / "snn", report=report)
    return folder, snn.readout(snn(BATCH)), report


@pytest.fixture
def changed(original, tmp_path):
    shutil.copytree(original[0], tmp_path / "run")
    return tmp_path / "run"


def loaded(folder):
    """Network and report, or an error that must be one sentence with the file; no other error is expected at all."""
    try:
        return load_snn(folder, ann=tiny()), load_calibration(folder)
    except (FileNotFoundError, ValueError) as error:
        sentence = str(error)
    assert str(folder) in sentence
    assert "\n" not in sentence
    return None


def harmless_or_a_sentence(folder, original):
    """Load what a change left: bit-equal, or an error of one sentence that names a file."""
    found = loaded(folder)
    if found is None:
        return False
    snn, report = found
    assert torch.equal(snn.readout(snn(BATCH)), original[1])
    assert report == original[2]
    return True


def edit(folder, function):
    path = folder / "snn.json"
    description = json.loads(path.read_text())
    function(description)
    path.write_text(json.dumps(description))


@FUZZ
@given(data=st.data())
@pytest.mark.parametrize("name", ["snn.json", "snn.safetensors"])
def test_any_byte(name, data, original, changed):
    shutil.copytree(original[0], changed, dirs_exist_ok=True)
    content = bytearray((original[0] / name).read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    kind = data.draw(st.sampled_from(["flip", "set", "cut", "drop", "insert"]))
    if kind == "flip":
        content[position] ^= 1 << data.draw(st.integers(0, 7))
    elif kind == "set":
        content[position] = data.draw(st.integers(0, 255))
    elif kind == "cut":
        del content[position:]
    elif kind == "drop":
        del content[position]
    else:
        content.insert(position, data.draw(st.integers(0, 255)))
    (changed / name).write_bytes(content)
    harmless_or_a_sentence(changed, original)


def paths_in(value, path=()):
    yield path
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from paths_in(item, (*path, key))


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 10**12), st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8), st.just([]), st.just({}), st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2), st.just("hf-hub:a/b"),
)  # fmt: skip


@FUZZ
@given(data=st.data())
@pytest.mark.parametrize("version", [1, 2, 3])
def test_any_field(version, data, original, changed):
    shutil.copytree(original[0], changed, dirs_exist_ok=True)
    description = json.loads((original[0] / "snn.json").read_text())
    if version < 3:
        description = {k: v for k, v in description.items() if k not in ("tensors", "checksums")}
        description["version"] = version
    path = data.draw(st.sampled_from(list(paths_in(description))[1:]))
    parent = description
    for key in path[:-1]:
        parent = parent[key]
    kind = data.draw(st.sampled_from(["set", "delete", "rename"]))
    if kind == "set":
        parent[path[-1]] = data.draw(VALUES)
    elif kind == "delete" or isinstance(parent, list):
        del parent[path[-1]]
    else:
        parent[f"{path[-1]}x"] = parent.pop(path[-1])
    (changed / "snn.json").write_text(json.dumps(description))
    if version == 3:
        harmless_or_a_sentence(changed, original)
        return
    # Without checksums another value may pass; but nothing other than a sentence is raised.
    loaded(changed)


@pytest.mark.parametrize("key", ["token", "network", "conversion", "time_chunk", "channels_last", "sites", "report",
                                 "tensors", "checksums"])  # fmt: skip
def test_each_key_that_is_missing_or_of_another_type_is_named(key, original, changed):
    edit(changed, lambda d: d.pop(key))
    with pytest.raises(ValueError, match=rf"snn\.json lacks the key '{key}'"):
        load_snn(changed, ann=tiny())
    shutil.copytree(original[0], changed, dirs_exist_ok=True)
    edit(changed, lambda d: d.update({key: 1.5}))
    with pytest.raises(ValueError, match=rf"snn\.json has 1\.5 under '{key}'; expected"):
        load_snn(changed, ann=tiny())


@pytest.mark.parametrize(
    ("key", "value"),
    [("v0", 1.5), ("v0", -0.1), ("v0", True), ("num_steps", 0), ("num_steps", "3"), ("smooth", "x"), ("fold_bn", 1),
     ("threshold", 0), ("threshold", []), ("input_size", 4), ("input_size", [1, 1 << 20, 1 << 20]), ("other", 1)],
)  # fmt: skip
def test_options_of_the_conversion_are_checked(key, value, changed):
    def old(description):
        description["conversion"][key] = value
        description["version"] = 2

    edit(changed, old)
    with pytest.raises(ValueError, match=rf"snn\.json has a wrong value under 'conversion', key '{key}'"):
        load_snn(changed, ann=tiny())


@pytest.mark.parametrize("version", [1, 2])
def test_a_billion_timesteps_ask_for_no_memory(version, changed):
    edit(changed, lambda d: d.update(version=version) or d["conversion"].update(num_steps=1_000_000_000))
    with pytest.raises(ValueError, match=r"readout_weights is \(3, 3\), expected \(1000000000, 1000000000\)"):
        load_snn(changed, ann=tiny())


def test_unknown_keys_are_harmless(original, changed):
    edit(changed, lambda d: [d.update(remark={"by": "me"}), d["checksums"].update(remark="x")])
    assert harmless_or_a_sentence(changed, original)


def test_files_of_earlier_versions_load(original, changed):
    edit(changed, lambda d: [d.update(version=2), d.pop("tensors"), d.pop("checksums")])
    assert harmless_or_a_sentence(changed, original)
    edit(changed, lambda d: [d.update(version=1), d["report"].pop("readout_weights")])
    tensors = load_file(changed / "snn.safetensors")
    del tensors["readout_weights"]
    token = json.loads((changed / "snn.json").read_text())["token"]
    save_file(tensors, changed / "snn.safetensors", metadata={"format": "ftbc_pl.snn", "token": token})
    snn = load_snn(changed, ann=tiny())
    mean = torch.tensor([[1, 0, 0], [1 / 2, 1 / 2, 0], [1 / 3, 1 / 3, 1 / 3]])
    assert torch.equal(snn.readout_weights, mean)
    assert load_calibration(changed).readout_weights == pytest.approx((1 / 3, 1 / 3, 1 / 3))


def rewrite(folder, function, version=3):
    """Change tensors; version 2 has no checksums, so that the other checks are reached."""
    tensors = load_file(folder / "snn.safetensors")
    function(tensors)
    token = json.loads((folder / "snn.json").read_text())["token"]
    save_file(tensors, folder / "snn.safetensors", metadata={"format": "ftbc_pl.snn", "token": token})
    edit(folder, lambda d: d.update(version=version))


def set_value(name, value):
    return lambda tensors: tensors[name].view(-1)[0].fill_(value)


def swap(tensors):
    a, b = "network.1.weight", "network.1.bias"
    tensors[a], tensors[b] = tensors[b], tensors[a]


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        (swap, r"the content of the tensor network\.1\.\w+ changed"),
        (set_value("network.0.weight", 1e-3), r"the content of the tensor network\.0\.weight changed"),
        (lambda t: t.update({"network.0.bias": t["network.0.bias"].double()}), r"numbers .* float64, was float32"),
        (lambda t: t.update({"network.0.bias": t["network.0.bias"][:1]}), r"shape .* \[1\], was \[2\]"),
        (lambda t: t.pop("network.0.bias"), r"network\.0\.bias is missing"),
        (lambda t: t.update(more=torch.ones(1)), "more is not one of those"),
    ],
)
def test_a_changed_tensor_is_named(function, sentence, changed):
    rewrite(changed, function)
    with pytest.raises(ValueError, match=rf"snn\.safetensors is not as it was saved: .*{sentence}"):
        load_snn(changed, ann=tiny())


@pytest.mark.parametrize(
    ("name", "value"),
    [("sites.0.threshold", 0.0), ("sites.0.threshold", -1.0), ("sites.0.threshold", math.inf),
     ("sites.0.threshold", math.nan), ("sites.0.temporal_bias", math.nan), ("sites.0.temporal_bias", math.inf),
     ("readout_weights", math.inf), ("network.0.weight", math.nan), ("network.1.running_var", math.inf)],
)  # fmt: skip
def test_what_no_working_network_has_is_refused(name, value, changed):
    rewrite(changed, set_value(name, value), version=2)
    with pytest.raises(ValueError, match=rf"snn\.safetensors is no working network: the tensor {name} holds"):
        load_snn(changed, ann=tiny())


def test_a_network_that_could_not_be_loaded_is_not_saved(tmp_path):
    snn = convert(tiny(), 3, batches=[BATCH])
    snn.sites[0].threshold[0] = 0
    with pytest.raises(ValueError, match=r"not saved to .*the tensor sites\.0\.threshold"):
        save_snn(snn, tmp_path / "snn")
    assert list(tmp_path.iterdir()) == []


def test_another_dtype_in_an_old_file_is_refused(changed):
    rewrite(changed, lambda t: t.update({"network.0.bias": t["network.0.bias"].double()}), version=2)
    with pytest.raises(ValueError, match=r"network\.0\.bias is torch\.float64, not torch\.float32"):
        load_snn(changed, ann=tiny())


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    folder = tmp_path_factory.mktemp("named")
    network = prepare(create("cifar_resnet20"), "qcfs", levels=4)
    save_snn(convert(network, 2, batches=[images(2, 32)]), folder / "snn")
    return folder


RECIPES = [
    ({"pretrained": True}, "'pretrained'"), ({"weights": "w.pth"}, "'weights'"), ({"cache_dir": "x"}, "'cache_dir'"),
    ({"checkpoint_path": "w.pth"}, "'checkpoint_path'"), ({"pretrained_cfg": {"file": "w.pth"}}, "'file'"),
    ({"pretrained_cfg": "resnet18"}, "'pretrained_cfg'"), ({"pretrained_cfg_overlay": {"url": "x"}}, "'pretrained_cfg"),
    ({"block": {"deep": [{"hf_hub_id": "a/b"}]}}, "'hf_hub_id'"), ({"name": "hf-hub:timm/resnet18"}, "pass ann="),
    ({"name": "hf_hub:timm/resnet18"}, "pass ann="), ({"name": "local-dir:/etc"}, "pass ann="),
    ({"name": "../resnet18"}, "pass ann="), ({"name": "timm/resnet18"}, "pass ann="),
    ({"name": 3}, "expected the name"),
    ({"name": "nonsense"}, "none of this release"), ({"nonsense": 3}, "none of this release"),
    ({"num_classes": "x"}, "none of this release"), ({"prepare": {"nonsense": 1}}, "none of this release"),
    ({"prepare": 3}, "none of this release"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "sentence"), RECIPES, ids=lambda value: str(value))
def test_a_recipe_opens_neither_files_nor_the_network(change, sentence, named, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a connection was asked for")

    monkeypatch.setattr("socket.socket.connect", refuse)
    shutil.copytree(named, tmp_path / "run")
    edit(tmp_path / "run", lambda d: [d["network"].update(change), d.update(version=2)])
    with pytest.raises(ValueError, match=sentence) as error:
        load_snn(tmp_path / "run")
    assert str(tmp_path / "run" / "snn.json") in str(error.value)
    assert "\n" not in str(error.value)


def test_what_loads_weights_is_not_written_down(tmp_path):
    made = create_network("cifar_resnet20", cache_dir=str(tmp_path), pretrained_cfg_overlay={"url": "x"}, drop_rate=0.1)
    known = recipe(made)
    assert known["drop_rate"] == 0.1
    assert not {"cache_dir", "pretrained_cfg_overlay", "weights", "pretrained"} & set(known)


def test_arguments_that_have_no_name_do_not_prevent_saving(tmp_path):
    network = randomise_(create_network("resnet18", num_classes=2, input_size=32, act_layer=nn.ReLU))
    snn = convert(network, 2, batches=[images(2, 32)])
    save_snn(snn, tmp_path / "snn")
    with pytest.raises(ValueError, match="pass ann="):
        load_snn(tmp_path / "snn")
    assert torch.equal(load_snn(tmp_path / "snn", ann=network)(images(2, 32)), snn(images(2, 32)))


def test_the_network_handed_in_is_left_as_it_is(original):
    ann = tiny().double()
    before = copy.deepcopy(ann.state_dict())
    snn = load_snn(original[0], ann=ann)
    assert {value.dtype for value in snn.network.parameters()} == {torch.float32}  # as it was saved
    assert all(torch.equal(value, before[key]) for key, value in ann.state_dict().items())
    assert ann[0].weight.dtype == torch.float64


FULL = """
import resource, sys
from ftbc_pl import convert, save_snn
from tests.networks import images, small_cnn
snn = convert(small_cnn(), 4, batches=[images(4)])
for limit in (1000, 7000):  # the tensors do not fit, the description does not
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        save_snn(snn, sys.argv[1] + "/snn")
    except OSError as error:
        print(error)
"""


def test_a_full_disk_names_the_folder_and_leaves_the_old_network(tmp_path):
    save_snn(convert(small_cnn(), 2, batches=[images(4)]), tmp_path / "snn")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    program = [sys.executable, "-c", FULL, str(tmp_path)]
    printed = subprocess.run(program, env=environment, capture_output=True, text=True, check=True).stdout
    assert printed.count("File too large: there is no room to write") == 2
    assert printed.count(str(tmp_path)) == 2
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
