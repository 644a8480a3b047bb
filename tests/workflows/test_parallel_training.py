"""Several processes for one teacher, and several teachers by Hydra's launchers: each as a user would start it."""

import os
import pickle
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import lightning
import pytest
import torch

from core.errors import InputError
from implicit_branch.module import TeacherModule, parameter_groups
from tests.workflows.test_configuration import compose
from tests.workflows.test_teacher import CAPTURE, TINY
from workflows import device
from workflows.build_data import implicit_frames
from workflows.build_teacher import new_teacher, training_module
from workflows.paths import StagePaths

ROOT = Path(__file__).parents[2]
SHORT = (
    *TINY,
    *CAPTURE,
    "implicit_branch.geometry.init=sphere",
    "implicit_branch.deformer.resolution=12",
    "implicit_branch.geometry.isosurface.resolution=24",
    "implicit_branch.trainer.max_steps=1",
    "implicit_branch.trainer.val_check_interval=1",
    "implicit_branch.export.maps=[]",
)
TRAIN = """
import sys
import torch
from tests.workflows.test_configuration import compose
from workflows import train_teacher
from workflows.launch import run_stage

folder, *overrides = sys.argv[1:]
if __name__ == "__main__":
    teacher = train_teacher.train(compose("config_rana", *overrides))
    rank = torch.distributed.get_rank()
    torch.save([p.detach() for p in teacher.parameters()], f"{folder}/{rank}.pt")
"""


def _run(*command: str) -> subprocess.CompletedProcess:
    """``command`` by this interpreter on the CPU, without the variables of a surrounding parallel run."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "PYTEST_"))}
    environment |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE",
                    "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "gs-ir")])}  # fmt: skip
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=240
    )


def _sweep(folder: Path, *overrides: str) -> subprocess.CompletedProcess:
    return _run("launch_rana.py", "-m", *SHORT, f"implicit_branch.exp_dir={folder}",
                f"hydra.sweep.dir={folder / 'multirun'}", *overrides)  # fmt: skip


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess]:
    """A folder with what one step of two processes leaves, and what they printed."""
    folder = tmp_path_factory.mktemp("two")
    script = folder / "train.py"
    script.write_text(TRAIN)
    done = _run(str(script), str(folder), *SHORT, f"implicit_branch.exp_dir={folder}",
                "implicit_branch.trainer.devices=2", "implicit_branch.trainer.enable_progress_bar=true")  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder, done


def _gradients(monkeypatch: pytest.MonkeyPatch, rank: int) -> list[torch.Tensor]:
    """Of the first step that process ``rank`` takes, by parameter in the optimiser's order; zero where it has none."""
    monkeypatch.setattr(TeacherModule, "global_rank", rank)
    lightning.seed_everything(compose("config_rana").implicit_branch.seed, verbose=False)
    config = compose("config_rana", *SHORT)
    frames = implicit_frames(config, "train")
    module = training_module(config, new_teacher(config, frames), frames)
    module.training_step(None, 0).backward()
    parameters = [p for group in parameter_groups(module.teacher).values() for p in group]
    return [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]


def test_processes_share_gradients_of_different_pixels(two_processes, monkeypatch):
    """Fails when processes draw the same pixels, step apart, or sum their gradients instead of averaging them."""
    for name in ("log", "log_dict"):
        monkeypatch.setattr(TeacherModule, name, lambda *_, **__: None)
    folder, _ = two_processes
    first, second = (torch.load(folder / f"{rank}.pt") for rank in (0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    gradients = [_gradients(monkeypatch, rank) for rank in (0, 1)]
    assert any((a - b).norm() > 0.05 * a.norm() for a, b in zip(*gradients, strict=True))
    config = compose("config_rana", *SHORT, f"implicit_branch.exp_dir={folder}")
    adam = torch.load(StagePaths(config).teacher_checkpoint, weights_only=False)["optimizer_states"][0]["state"]
    compared = 0
    for number, (own, other) in enumerate(zip(*gradients, strict=True)):
        if number in adam and own.any():
            # Adam's first moment after one step is a tenth of the gradient.
            mean = (own + other) / 2
            tolerance = 1e-4 * float(mean.abs().max())
            torch.testing.assert_close(10 * adam[number]["exp_avg"], mean, rtol=1e-3, atol=tolerance)
            compared += 1
    assert compared > 8


def test_one_of_the_processes_writes_and_speaks(two_processes):
    """Fails when every process writes results or draws a progress bar, or the results have other names than alone."""
    folder, done = two_processes
    run = folder / "intrinsic-avatar-subject_00" / "tiny"
    assert sorted(p.name for p in (run / "ckpt").iterdir()) == ["epoch=0-step=1.ckpt", "last.ckpt"]
    saved = ["it1-0.png", "it1-1.png", "it1-envmap.hdr", "it1-mc512.obj"]
    assert sorted(p.name for p in (run / "save").iterdir()) == saved
    assert len(list((run / "log").glob("events*"))) == 1
    assert (done.stdout + done.stderr).count("| 0/1 [") == 1
    assert done.stderr.count("`Trainer.fit` stopped") == 1


def test_a_sweep_goes_on_after_a_run_that_failed(tmp_path: Path):
    """Fails when the second subject is not trained because the first one's data is missing, or that goes unnoticed."""
    done = _sweep(tmp_path, "implicit_branch.dataset.subject=nobody,subject_00")
    assert done.returncode != 0
    assert "nobody" in done.stderr
    assert len(list(tmp_path.glob("intrinsic-avatar-subject_00/*/save/it1-mc512.obj"))) == 1


@pytest.mark.skipif(find_spec("hydra_plugins.hydra_joblib_launcher") is None, reason="no hydra-joblib-launcher")
def test_subjects_train_side_by_side(tmp_path: Path):
    """Fails when runs of a sweep need something that another process holds, or write to one folder."""
    done = _sweep(tmp_path, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "implicit_branch.tag=one,two",
                  "+hydra.job.env_set.CUDA_VISIBLE_DEVICES='${mod:${hydra:job.num},2}'")  # fmt: skip
    assert done.returncode == 0, done.stderr
    meshes = tmp_path.glob("intrinsic-avatar-subject_00/*/save/it1-mc512.obj")
    assert sorted(p.parents[1].name for p in meshes) == ["one", "two"]


def test_bad_input_is_reported_by_another_process():
    """Fails when the message of a run in another process ends in an exception of pickle."""
    error = InputError(Path("a.png"), found="nothing", expected="a picture", next_step="Look.")
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error)
    assert vars(again) == vars(error)


def test_several_processes_in_a_local_sweep_are_refused(monkeypatch):
    """Fails when the processes of one run would each start the whole sweep again."""
    monkeypatch.setattr(device, "is_sweep", lambda: True)
    monkeypatch.delenv("SLURM_NTASKS", raising=False)
    with pytest.raises(InputError, match="devices"):
        device.check_processes()
