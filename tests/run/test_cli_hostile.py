"""A configuration from somewhere else runs nothing: it is checked before anything that it names is called."""

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
import yaml

from ftbc_pl.cli import main
from ftbc_pl.command.allowed import DEEPEST, check_size
from tests.pipeline import QUICK

# jsonargparse's own warning of such names is no error outside of tests.
pytestmark = [pytest.mark.usefixtures("own_folder"), pytest.mark.filterwarnings("ignore")]
MARKER = "marker"
GADGETS = {
    "os.system": {"command": f"touch {MARKER}"},
    "os.popen": {"cmd": f"touch {MARKER}"},
    "os.makedirs": {"name": MARKER},
    "subprocess.Popen": {"args": ["touch", MARKER]},
    "subprocess.check_output": {"args": ["touch", MARKER]},
    "builtins.eval": {"source": f"open('{MARKER}', 'w')"},
    "builtins.exec": {"source": f"open('{MARKER}', 'w')"},
    "builtins.open": {"file": MARKER, "mode": "w"},
    "functools.partial": {"func": "os.system"},
    "operator.methodcaller": {"name": "touch"},
    "pickle.loads": {"data": f"cos\nsystem\n(S'touch {MARKER}'\ntR."},
    "importlib.import_module": {"name": "antigravity"},
    "shutil.copyfile": {"src": "empty", "dst": MARKER},
    "pathlib.Path.write_text": {"self": MARKER, "data": ""},
    "pathlib.Path": {"path": MARKER},
    "logging.FileHandler": {"filename": MARKER},
    "torch.hub.load": {"repo_or_dir": ".", "model": "m", "source": "local"},
    "torch.save": {"obj": 1, "f": MARKER},
    "numpy.savetxt": {"fname": MARKER, "X": [1]},
    "lightning.pytorch.callbacks.LambdaCallback": {"on_fit_start": "os.system"},
}
FEW = ["os.system", "builtins.exec", "functools.partial", "pathlib.Path"]
SECTIONS = [
    "lr_scheduler",
    "data",
    "trainer.logger",
    "trainer.callbacks",
    "trainer.strategy",
    "trainer.profiler",
    "trainer.plugins",
    "trainer.accelerator",
    "ftbc",
    "ftbc.solver",
    "ftbc.output_dir",
    "model",
    "model.network",
    "model.network_args",
    "checkpoint",
]


def hostile(section, class_path, arguments, as_list=False):
    gadget = {"class_path": class_path, "init_args": arguments}
    content = [gadget] if as_list else gadget
    for key in reversed(section.split(".")):
        content = {key: content}
    Path("hostile.yaml").write_text(yaml.safe_dump(content))
    Path("empty").touch()


def refused(command, capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main([command, *QUICK, *arguments])
    said = capsys.readouterr().err
    assert ended.value.code in (1, 2)
    assert "Traceback" not in said
    assert not Path(MARKER).exists()
    return said


@pytest.mark.parametrize("class_path", GADGETS)
def test_the_optimizer_is_none_of_what_can_run_commands(class_path, capsys):
    hostile("optimizer", class_path, GADGETS[class_path])
    refused("fit", capsys, "--config=hostile.yaml")


@pytest.mark.parametrize("section", SECTIONS)
def test_no_section_calls_what_a_configuration_names(section, capsys):
    for class_path in FEW:
        hostile(section, class_path, GADGETS[class_path])
        refused("fit", capsys, "--config=hostile.yaml")


@pytest.mark.parametrize("section", ["trainer.logger", "trainer.callbacks", "trainer.plugins"])
def test_nor_do_lists(section, capsys):
    # LambdaCallback is a callback, and so may stand there; what it would call may not.
    for class_path in [*FEW, "lightning.pytorch.callbacks.LambdaCallback"]:
        hostile(section, class_path, GADGETS[class_path], as_list=True)
        refused("fit", capsys, "--config=hostile.yaml")


@pytest.mark.parametrize("command", ["calibrate", "test", "validate", "predict"])
@pytest.mark.parametrize("section", ["optimizer", "lr_scheduler", "trainer.callbacks", "data"])
def test_nor_does_any_other_subcommand(command, section, capsys):
    hostile(section, "os.system", GADGETS["os.system"])
    refused(command, capsys, "--config=hostile.yaml")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--optimizer=os.system", f"--optimizer.command=touch {MARKER}"],
        ["--optimizer", '{"class_path": "os.system", "init_args": {"command": "touch marker"}}'],
        ["--lr_scheduler=torch.optim.lr_scheduler.LambdaLR", "--lr_scheduler.lr_lambda=os.system"],
        ["--trainer.callbacks=lightning.pytorch.callbacks.LambdaCallback", "--trainer.callbacks.on_fit_start=os.abort"],
        ["--trainer.callbacks=StochasticWeightAveraging", "--trainer.callbacks.swa_lrs=0.1",
         "--trainer.callbacks.avg_fn=os.system"],
        ["--ftbc.solver=os:system"],
        ["--model.activation=os:system"],
    ],
)  # fmt: skip
def test_nor_does_the_command_line(arguments, capsys):
    refused("fit", capsys, *arguments)


def test_the_error_says_where_and_what_is_taken_there(capsys):
    hostile("optimizer", "os.system", GADGETS["os.system"])
    said = refused("fit", capsys, "--config=hostile.yaml")
    assert "optimizer names os.system, which is not one of the classes taken there (Optimizer)" in said


def test_own_classes_of_the_right_kind_are_taken(monkeypatch):
    Path("mine_too.py").write_text(
        "import torch\nfrom lightning.pytorch import Callback\n"
        "class Mine(torch.optim.SGD):\n    pass\n"
        "class Touch(Callback):\n"
        "    def on_fit_start(self, trainer, pl_module):\n        open('touched', 'w').close()\n"
    )
    monkeypatch.syspath_prepend(".")
    main(["fit", *QUICK, "--optimizer=mine_too.Mine", "--optimizer.lr=0.1", "--trainer.callbacks=mine_too.Touch",
          "--trainer.limit_train_batches=1", "--ftbc.enabled=false"])  # fmt: skip
    assert Path("touched").exists()


class Touch:
    """Makes a file where it is unpickled."""

    def __reduce__(self):
        return Path.touch, (Path(MARKER).absolute(),)


@pytest.mark.parametrize("command", ["fit", "test"])
@pytest.mark.parametrize("place", ["file", "address"])
def test_nor_does_a_checkpoint_that_a_configuration_names(place, command, capsys, monkeypatch):
    Path("served").mkdir()
    torch.save({"state_dict": {}, "callbacks": Touch()}, "served/evil.ckpt")
    monkeypatch.setenv("TORCH_HOME", "torch_home")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory="served"))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        path = "served/evil.ckpt" if place == "file" else f"http://127.0.0.1:{server.server_port}/evil.ckpt"
        Path("hostile.yaml").write_text(yaml.safe_dump({"ckpt_path": path}))
        refused(command, capsys, "--config=hostile.yaml")
        Path("hostile.yaml").write_text(yaml.safe_dump({"ckpt_path": path, "weights_only": False}))
        refused(command, capsys, "--config=hostile.yaml")
    finally:
        server.shutdown()
        server.server_close()


def bomb(levels=9, width=10):
    lines = [f"a0: &a0 [{', '.join(['x'] * width)}]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize("section", ["", "model.network_args", "ftbc"])
def test_a_bomb_of_aliases_is_refused(section, capsys):
    text = bomb()
    for key in reversed(section.split(".") if section else []):
        text = f"{key}:\n" + "\n".join(f"  {line}" for line in text.splitlines())
    Path("bomb.yaml").write_text(text)
    assert "write out what its aliases repeat" in refused("fit", capsys, "--config=bomb.yaml")


def test_so_is_one_that_refers_to_itself_or_is_too_deep():
    with pytest.raises(ValueError, match="values"):
        check_size("a: &a [*a]")
    with pytest.raises(ValueError, match="deep"):
        check_size("[" * (DEEPEST + 2) + "]" * (DEEPEST + 2))
    check_size("a: &a {lr: 0.1}\nb: *a")


def test_a_key_that_is_there_twice_is_refused():
    # YAML would take the last one, without a word.
    with pytest.raises(ValueError, match=r"got lr in line 3 and again in line 4: leave one out"):
        check_size("optimizer:\n  - a: 1\n  - {lr: 0.1,\n     lr: 0.2}")
    check_size("a: &a {lr: 0.1}\nb: {<<: *a, lr: 0.2, x: {lr: 1}}\nc: [{lr: 1}, {lr: 2}]")


@pytest.mark.parametrize("option", ["optimizer.lr", "ftbc.alpha", "trainer.gradient_clip_val"])
def test_what_is_no_number_is_said_before_anything_is_made(option, capsys):
    with pytest.raises(SystemExit):
        main(["fit", *QUICK, "--optimizer=SGD", f"--{option}=.nan"])
    assert f"{option} is no number (NaN)" in capsys.readouterr().err
    assert not Path("runs").exists()
