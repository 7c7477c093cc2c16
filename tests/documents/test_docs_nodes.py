"""The scripts for clusters in docs/ do what they say: with two launchers for two nodes, and without SLURM."""

import os
import re
import shlex
import socket
import subprocess
import sys

import pytest

from ftbc_pl.cli import main
from tests.documentation import ROOT
from tests.pipeline import QUICK, results

DISTRIBUTED = (ROOT / "docs" / "distributed.md").read_text()
RESUME = (ROOT / "docs" / "resume.md").read_text()


def script(page):
    """The indented block that starts as a script does."""
    block = re.search(r"^    #!/bin/bash\n(?:    .*\n)+", page, flags=re.M).group()
    return re.sub(r"^    ", "", block, flags=re.M)


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def test_the_script_starts_the_line_that_is_explained():
    (line,) = re.findall(r"^    (torchrun .*)$", DISTRIBUTED, flags=re.M)
    started = script(DISTRIBUTED).splitlines()[-1]
    assert started == "srun " + line.replace("HOST:", "$HOST:").replace("--rdzv_id 1", "--rdzv_id $SLURM_JOB_ID")


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.usefixtures("own_folder")
def test_two_launchers_train_and_convert_as_two_nodes():
    (line,) = re.findall(r"^    torchrun (.*) -m ftbc_pl fit (.*)$", DISTRIBUTED, flags=re.M)
    launcher, run = (shlex.split(part) for part in line)
    launcher[launcher.index("--nproc_per_node") + 1] = "1"
    launcher[launcher.index("--rdzv_endpoint") + 1] = f"127.0.0.1:{free_port()}"
    run = run[run.index("--trainer.num_nodes") :]
    run[run.index("--trainer.devices") + 1] = "1"
    command = [sys.executable, "-m", "torch.distributed.run", *launcher, "-m", "ftbc_pl", "fit", *QUICK, *run]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "MPLBACKEND": "agg"}
    nodes = [
        subprocess.Popen([*command, "--ftbc.output_dir=out"], env=env, text=True, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    said = [node.communicate(timeout=600)[1] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said
    found = results("out")
    assert len(found["accuracy"]["calibrated"]) == 4
    assert "MEMBER: 2/2" in "".join(said)


@pytest.mark.parametrize("earlier", [None, "last.ckpt", "interrupted.ckpt"])
def test_a_job_goes_on_from_its_newest_checkpoint_and_queues_again(tmp_path, earlier, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "imagenet" / "lightning_logs" / "version_3" / "checkpoints"
    folder.mkdir(parents=True)
    for age, name in enumerate(["interrupted.ckpt", "last.ckpt"]):
        if earlier is not None:
            (folder / name).touch()
            os.utime(folder / name, (1e9 - age, 1e9 - age) if earlier == "interrupted.ckpt" else (1e9 + age, 1e9 + age))
    (tmp_path / "srun").write_text('#!/bin/bash\nprintf "%s\\n" "$@" > started\nexit 143\n')
    (tmp_path / "scontrol").write_text('#!/bin/bash\necho "$@" > queued\n')
    for name in ("srun", "scontrol"):
        (tmp_path / name).chmod(0o755)
    env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    subprocess.run(["bash", "-c", script(RESUME)], env=env, check=True, timeout=60)
    assert (tmp_path / "queued").read_text() == "requeue 7\n"
    started = (tmp_path / "started").read_text().splitlines()
    assert started[:4] == ["python", "-m", "ftbc_pl", "fit"]
    given = started[started.index("--ckpt_path") + 1] if "--ckpt_path" in started else None
    assert given == (None if earlier is None else os.path.relpath(folder / earlier, tmp_path))
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as ended:
        main(["fit", "--print_config", *started[4:]])
    assert ended.value.code == 0
    assert "save_dir: runs/imagenet" in capsys.readouterr().out
