"""Signals, full disks, two runs at once: nothing is half-written, and what to do next is said."""

import json
import os
import re
import resource
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch
from lightning.pytorch import Trainer

from ftbc_pl.cli import main
from ftbc_pl.safety.checkpoints import AtomicCheckpointIO
from ftbc_pl.safety.output import LOCK, OutputFolder
from ftbc_pl.safety.signals import resuming
from tests.pipeline import CONFIGS, QUICK, QUIET, ROOT, checkpoint, results

pytestmark = pytest.mark.usefixtures("own_folder")
FILES = ["config.yaml", "report.html", "results.json", "snn.json", "snn.safetensors"]
LONGER = [f"--config={CONFIGS / 'quickstart.yaml'}", *QUIET, "--trainer.max_epochs=3", "--ftbc.num_steps=2",
          "--ftbc.batch_size=40"]  # fmt: skip


def start(*arguments, at=None, then="", **environment):
    """Start a command line in a process of its own.

    Args:
        *arguments: Those of the command line.
        at: Function, as `module:name`, before which the process does `then`.
        then: A statement.
        **environment: Further variables.
    """
    # A shell starts what runs in its background with Ctrl-C ignored, and children inherit that.
    code = "import os, signal, time, importlib\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    if at is not None:
        module, name = at.split(":")
        owner, _, attribute = name.rpartition(".")
        code += (
            f"place = importlib.import_module({module!r})\n"
            + (f"place = getattr(place, {owner!r})\n" if owner else "")
            + f"real = place.{attribute}\n"
            f"def before(*a, **k):\n    {then}\n    return real(*a, **k)\n"
            f"place.{attribute} = before\n"
        )
    code += "from ftbc_pl.cli import main\nmain()"
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "MPLBACKEND": "agg"} | environment
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def ended(process):
    _, said = process.communicate(timeout=900)  # a loaded machine is slow; a process that hangs never ends
    assert "Traceback" not in said
    return process.returncode, said


def wait_for(pattern, process, seconds=600):
    until = time.monotonic() + seconds
    while not list(Path().glob(pattern)):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_folder_that_was_made_for_nothing_is_taken_away():
    Path("there").mkdir()
    for name in ("there", "new", "used"):
        output = OutputFolder(name, overwrite=False)
        if name == "used":
            Path("used", "last.ckpt").touch()
        output.abandon()
    assert sorted(os.listdir()) == ["there", "used"]
    assert os.listdir("used") == ["last.ckpt"]


@pytest.mark.slow
@pytest.mark.parametrize("place", ["batch", "validation"])
def test_a_training_that_is_terminated_goes_on_as_if_unbroken(place):
    main(["fit", *LONGER, "--ftbc.output_dir=whole"])
    at = {
        "batch": "ftbc_pl.task:ImageClassifier.training_step",
        "validation": "ftbc_pl.task:ImageClassifier.validation_step",
    }[place]
    number = {"batch": 27, "validation": 3}[place]
    then = f"before.n = getattr(before, 'n', 0) + 1; before.n == {number} and os.kill(os.getpid(), signal.SIGTERM)"
    code, said = ended(start("fit", *LONGER, "--data.eval_batch_size=40", "--ftbc.output_dir=part", at=at, then=then))
    assert code == 143
    assert not Path("part").exists()
    command = shlex.split(re.search(r"stopped by SIGTERM; go on with: (.*)", said)[1])
    step = torch.load(command[-1].partition("=")[2], weights_only=True)["global_step"]
    assert step == {"batch": 27, "validation": 16}[place]
    code, said = ended(start(*command[3:]))
    assert code == 0
    assert results("part")["accuracy"] == results("whole")["accuracy"]
    assert results("part")["ann"] == results("whole")["ann"]
    one, other = (safetensors.torch.load_file(f"{folder}/snn.safetensors") for folder in ("part", "whole"))
    assert all(torch.equal(one[key], other[key]) for key in one)


STAGES = {
    "conversion": "ftbc_pl.run:convert",
    "calibration": "ftbc_pl.run:calibrate_",
    "saving": "ftbc_pl.run:save_snn",
    "evaluation": "ftbc_pl.run:Run.measure",
    "report": "ftbc_pl.run:write_report_html",
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "number"),
    [
        pytest.param("conversion", signal.SIGTERM, marks=pytest.mark.long),
        ("calibration", signal.SIGINT),
        pytest.param("saving", signal.SIGTERM, marks=pytest.mark.long),
        pytest.param("evaluation", signal.SIGTERM, marks=pytest.mark.long),
        ("report", signal.SIGTERM),
        pytest.param("report", signal.SIGINT, marks=pytest.mark.long),
    ],
)
def test_a_signal_after_the_training_leaves_whole_files(stage, number, fitted):
    then = f"os.kill(os.getpid(), {int(number)}); time.sleep(0.1)"
    code, said = ended(start("fit", *QUICK, "--ftbc.output_dir=out", at=STAGES[stage], then=then))
    assert code == 128 + number
    assert "the training is over; for the conversion and what follows go on with: python -m ftbc_pl fit" in said
    assert {path.name for path in Path("out").glob("*")} <= {
        "snn.json",
        "snn.safetensors",
        "config.yaml",
        "results.json",
    }
    assert "Saved to" not in said
    command = shlex.split(re.search(r"go on with: (.*)", said)[1])
    code, said = ended(start(*command[3:], "--ftbc.overwrite=true"))
    assert code == 0
    assert sorted(os.listdir("out")) == FILES
    assert results("out")["accuracy"] == results(fitted / "out")["accuracy"]


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "number"),
    [
        ("ftbc_pl.run:convert", signal.SIGTERM),
        ("ftbc_pl.evaluation.module:SpikingClassifier.validation_step", signal.SIGTERM),
        ("ftbc_pl.run:write_report_html", signal.SIGINT),
    ],
)
def test_a_signal_leaves_the_results_of_an_earlier_run(stage, number, fitted):
    main(["calibrate", *QUICK, f"--ckpt_path={checkpoint(fitted)}", "--ftbc.output_dir=out"])
    before = {name: Path("out", name).read_bytes() for name in FILES}
    then = f"os.kill(os.getpid(), {int(number)}); time.sleep(0.1)"
    code, said = ended(
        start("calibrate", *QUICK, f"--ckpt_path={checkpoint(fitted)}", "--ftbc.solver=heuristic",
              "--ftbc.output_dir=out", "--ftbc.overwrite=true", at=stage, then=then)
    )  # fmt: skip
    assert code == 128 + number
    assert "no file is half-written" in said
    assert {name: Path("out", name).read_bytes() for name in os.listdir("out")} == before


@pytest.mark.slow
@pytest.mark.parametrize(
    "stage",
    [
        pytest.param("ftbc_pl.run:calibrate_", marks=pytest.mark.long),
        "ftbc_pl.run:write_results_json",
        pytest.param("ftbc_pl.run:write_report_html", marks=pytest.mark.long),
    ],
)
def test_a_kill_leaves_the_results_of_an_earlier_run(stage, fitted):
    main(["calibrate", *QUICK, f"--ckpt_path={checkpoint(fitted)}", "--ftbc.output_dir=out"])
    before = {name: Path("out", name).read_bytes() for name in FILES}
    again = ["calibrate", *QUICK, f"--ckpt_path={checkpoint(fitted)}", "--ftbc.solver=heuristic",
             "--ftbc.output_dir=out", "--ftbc.overwrite=true"]  # fmt: skip
    code, _ = ended(start(*again, at=stage, then="os.kill(os.getpid(), signal.SIGKILL)"))
    assert code == -signal.SIGKILL
    assert {name: Path("out", name).read_bytes() for name in FILES} == before
    main(again)
    assert sorted(os.listdir("out")) == FILES
    assert results("out")["calibration"]["solver"] == "heuristic"


@pytest.mark.slow
def test_a_second_run_into_the_same_folder_is_told_at_the_start():
    first = start("fit", *QUICK, "--ftbc.output_dir=out", at="ftbc_pl.run:convert", then="time.sleep(60)")
    try:
        wait_for(f"out/{LOCK}", first)
        code, said = ended(start("fit", *QUICK, "--ftbc.output_dir=out"))
    finally:
        first.kill()
        first.communicate()
    assert code == 1
    assert f"out is being written to by another run (process {first.pid} on " in said
    assert "max_epochs" not in said
    OutputFolder("out", overwrite=False).abandon()  # the lock has ended with its process
    assert not Path("out", LOCK).exists()


@pytest.mark.slow
def test_a_requeued_job_measures_its_own_network(fitted):
    slurm = {"SLURM_NTASKS": "1", "SLURM_JOB_ID": "1", "SLURM_JOB_NAME": "job", "SLURM_PROCID": "0",
             "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_NODELIST": "localhost"}  # fmt: skip
    Path("hpc_ckpt_1.ckpt").write_bytes(checkpoint(fitted).read_bytes())
    weights = f"--model.weights={checkpoint(fitted)}"
    code, said = ended(start("calibrate", *QUICK, weights, "--ftbc.output_dir=out", **slurm))
    assert code == 0, said
    assert results("out")["accuracy"] == results(fitted / "out")["accuracy"]
    code, said = ended(start("validate", *QUICK, f"--snn_path={fitted / 'out'}", "--ftbc.output_dir=again", **slurm))
    assert code == 0, said
    code, said = ended(start("fit", *QUICK, "--trainer.max_epochs=2", "--ftbc.output_dir=more", **slurm))
    assert code == 0, said
    assert "hpc_ckpt_1.ckpt" in said
    assert sorted(os.listdir("more")) == FILES


def test_left_over_files_are_removed_and_never_listed(fitted, caplog):
    Path("out").mkdir()
    Path("out", ".report.html.0123abcd.tmp").touch()
    Path("out", "notes.txt").touch()
    main(["calibrate", *QUICK, f"--ckpt_path={checkpoint(fitted)}", "--ftbc.output_dir=out"])
    assert f"Saved to out: {', '.join(FILES)}" in caplog.text
    assert sorted(os.listdir("out")) == sorted([*FILES, "notes.txt"])


@pytest.mark.parametrize("command", ["validate", "test", "calibrate"])
def test_a_used_folder_is_refused_before_the_work(command, fitted, capsys, monkeypatch):
    monkeypatch.setattr("ftbc_pl.trainer.load_snn", lambda path: pytest.fail("the work has begun"))
    source = f"--ckpt_path={checkpoint(fitted)}" if command == "calibrate" else f"--snn_path={fitted / 'out'}"
    with pytest.raises(SystemExit):
        main([command, *QUICK, source, f"--ftbc.output_dir={fitted / 'out'}"])
    assert "holds results.json of another run" in capsys.readouterr().err


@pytest.mark.parametrize("there", ["folder", "file"])
def test_predictions_don_t_replace_what_is_there(there, fitted, capsys, monkeypatch):
    path = Path("there")
    path.mkdir() if there == "folder" else path.write_text("mine")
    with monkeypatch.context() as patch:
        step = "ftbc_pl.evaluation.module.SpikingClassifier.predict_step"
        patch.setattr(step, lambda *_: pytest.fail("the work has begun"))
        with pytest.raises(SystemExit):
            main(["predict", *QUICK, f"--snn_path={fitted / 'out'}", "--output=there"])
    said = capsys.readouterr().err
    assert ("is a folder" if there == "folder" else "pass --overwrite true") in said
    if there == "file":
        main(["predict", *QUICK, f"--snn_path={fitted / 'out'}", "--output=there", "--overwrite=true"])
        assert path.read_text().startswith("index,")


def limited(size):
    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit


def test_a_checkpoint_that_does_not_fit_leaves_the_one_before():
    code = """
import sys, torch
from ftbc_pl.safety.checkpoints import AtomicCheckpointIO
try:
    AtomicCheckpointIO().save_checkpoint({"state_dict": {"w": torch.zeros(10**6)}}, "folder/last.ckpt")
except OSError as error:
    sys.exit(f"{error}")
"""
    AtomicCheckpointIO().save_checkpoint({"state_dict": {}}, "folder/last.ckpt")
    before = Path("folder/last.ckpt").read_bytes()
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT)}, text=True,
                          capture_output=True, preexec_fn=limited(100_000), check=False)  # fmt: skip
    assert done.returncode == 1
    assert "folder/last.ckpt" in done.stderr
    assert "no room" in done.stderr
    assert Path("folder/last.ckpt").read_bytes() == before
    assert os.listdir("folder") == ["last.ckpt"]


def test_checkpoints_are_written_beside_their_place(monkeypatch):
    written = []
    save = torch.save
    monkeypatch.setattr(torch, "save", lambda content, path: (written.append(Path(path)), save(content, path)))
    main(["fit", *QUICK, "--ftbc.enabled=false", "--checkpoint.dirpath=ckpt"])
    assert {path.parent.name for path in written} == {"ckpt"}
    assert all(path.name.endswith(".tmp") for path in written)
    assert sorted(os.listdir("ckpt")) == ["epoch=0-step=4.ckpt", "last.ckpt"]


KILLED_WORKER = """
import os, signal, time
from ftbc_pl.safety.signals import Stopping

stopping, (ready, tell) = Stopping(), os.pipe()
with stopping.handled():
    child = os.fork()
    if not child:
        os.write(tell, b"1")  # a signal in the instant of the fork would be lost to Python
        time.sleep(60)
        os._exit(0)
    os.read(ready, 1)
    os.kill(child, signal.SIGTERM)
    _, status = os.waitpid(child, 0)
assert os.WTERMSIG(status) == signal.SIGTERM, status
assert not stopping.terminated
"""


@pytest.mark.slow
def test_a_killed_worker_process_ends_by_itself():
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", KILLED_WORKER], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_command_that_goes_on_is_the_same_but_for_the_checkpoint():
    arguments = ["fit", "--ckpt_path", "old.ckpt", "--model.levels=4", "--ckpt_path=older.ckpt"]
    assert resuming(arguments, Path("new.ckpt")) == ["fit", "--model.levels=4", "--ckpt_path=new.ckpt"]


@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_notebook"])
def test_processes_that_end_with_the_training_are_refused_before_it(strategy, capsys):
    if strategy == "ddp_notebook":
        from ftbc_pl.safety.launching import check_launcher

        trainer = Trainer(accelerator="cpu", devices=2, strategy=strategy, logger=False)
        with pytest.raises(ValueError, match="end with the training"):
            check_launcher(trainer)
        return
    with pytest.raises(SystemExit):
        main(["fit", *QUICK, f"--trainer.strategy={strategy}", "--trainer.devices=2"])
    assert "end with the training, before its network can be converted: use ddp" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--trainer.limit_val_batches=0", "--data.val_split=0"])
@pytest.mark.filterwarnings(
    "ignore:.*could not find the monitored key", "ignore:.*no validation images", "ignore:Total length"
)
def test_a_run_without_validation_images_is_saved_without_a_table(option, caplog):
    main(["fit", *QUICK, option, "--ftbc.output_dir=out"])
    assert sorted(os.listdir("out")) == ["config.yaml", "snn.json", "snn.safetensors"]
    assert "No accuracy was measured, since there are no validation images." in caplog.text
    assert json.loads(Path("out/snn.json").read_text())["report"] is not None


def test_which_is_said_before_the_training():
    with pytest.warns(UserWarning, match="There are no validation images") as caught:
        main(["fit", *QUICK, "--trainer.limit_val_batches=0", "--trainer.fast_dev_run=false"])
    assert caught


@pytest.mark.slow
def test_a_killed_process_ends_the_others():
    # Lightning starts the second process by the same command.
    command = [sys.executable, "-m", "ftbc_pl", "fit", *LONGER, "--trainer.devices=2", "--trainer.max_epochs=50"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=env, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        wait_for("runs/**/last.ckpt", process)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        other = next(pid for pid in children if b"LOCAL_RANK=1" in Path(f"/proc/{pid}/environ").read_bytes())
        os.kill(int(other), signal.SIGKILL)
        process.wait(timeout=10)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode != 0
    assert not list(Path("runs").glob("*/results.json"))
