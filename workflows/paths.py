"""Where each stage reads and writes: derived from subject and tag, unless the configuration names a path.

Layout (names of the published system)::

    exp/intrinsic-avatar-SUBJECT/TAG/{ckpt,config,log}          teacher
    exp/intrinsic-avatar-SUBJECT/TAG/save/itSTEP-test/          its maps on the training frames
    exp/intrinsic-avatar-SUBJECT/TAG/save/itSTEP-mc512.obj      its canonical mesh
    exp/intrinsic-avatar-SUBJECT/DISTILL_TAG/save/it0-test/     its distillation avatar
    explicit_branch.exp_dir / occ_dir                           student, occlusion probes
"""

import re
from pathlib import Path

from omegaconf import DictConfig

from core.errors import InputError, list_some

REFINED_POSES = "refined_poses.npz"
"""In the teacher's ``save``: poses of its training frames as it refined them."""


class StagePaths:
    """The paths of one subject's stages."""

    def __init__(self, config: DictConfig) -> None:
        """Args: config: the composed root configuration."""
        self._implicit, self._explicit = config.implicit_branch, config.explicit_branch

    @property
    def teacher_dir(self) -> Path:
        """Folder of the teacher run, ``exp/intrinsic-avatar-SUBJECT/TAG``."""
        return self._run_dir(self._implicit.tag)

    def _run_dir(self, tag: str) -> Path:
        return Path(self._implicit.exp_dir) / self._implicit.name / tag

    @property
    def checkpoint_dir(self) -> Path:
        """Where the teacher's checkpoints lie."""
        return self.teacher_dir / "ckpt"

    @property
    def save_dir(self) -> Path:
        """Where the teacher's renders and meshes lie."""
        return self.teacher_dir / "save"

    @property
    def teacher_checkpoint(self) -> Path:
        """The teacher to learn from: ``implicit_branch.resume``, else the run's ``last.ckpt``.

        Raises:
            InputError: it does not exist; the message lists the checkpoints there are.
        """
        named = self._implicit.resume
        path = Path(named) if named else self.checkpoint_dir / "last.ckpt"
        if not path.exists():
            found = sorted(Path(self._implicit.exp_dir).glob("*/*/ckpt/*.ckpt"))
            raise InputError(
                path,
                found="no such checkpoint",
                expected="a trained teacher",
                next_step=f"Train one or pass implicit_branch.resume; there are {list_some(found)}.",
            )
        return path

    @property
    def teacher_maps(self) -> Path:
        """Teacher maps of the training frames: ``dataset.distill_data_dir``, else beside the checkpoint."""
        named = self._explicit.dataset.distill_data_dir
        return Path(named) if named else self._latest(self._teacher_save(), "it*-test", "the teacher's maps")

    @property
    def refined_poses(self) -> Path:
        """Poses of the training frames as the teacher refined them; no such file where it trusts them."""
        return self._teacher_save() / REFINED_POSES

    @property
    def mesh(self) -> Path:
        """The teacher's canonical mesh: ``dataset.obj_path``, else beside the checkpoint."""
        named = self._explicit.dataset.obj_path
        return Path(named) if named else self._latest(self._teacher_save(), "it*-mc*.obj", "the canonical mesh")

    @property
    def distillation_dir(self) -> Path:
        """The distillation avatar: ``distill_dataset.distill_pose_data_dir``, else ``save/it0-test`` of its tag."""
        named = self._explicit.distill_dataset.distill_pose_data_dir
        return Path(named) if named else self._run_dir(self._explicit.distill_dataset.tag) / "save" / "it0-test"

    @property
    def student_dir(self) -> Path:
        """Folder of the student run."""
        return Path(self._explicit.exp_dir)

    @property
    def probes(self) -> Path:
        """Folder of the occlusion probes."""
        return Path(self._explicit.occ_dir)

    def _teacher_save(self) -> Path:
        return self.teacher_checkpoint.parent.parent / "save"

    @staticmethod
    def _latest(folder: Path, pattern: str, what: str) -> Path:
        """The match of the highest step; ``it0-*`` belongs to the distillation avatar and only counts alone."""
        found = sorted(folder.glob(pattern), key=lambda p: int(re.match(r"it(\d+)", p.name)[1]))  # type: ignore[index]
        if not found:
            raise InputError(
                folder,
                found=f"no {pattern}",
                expected=what,
                next_step="Finish the teacher run (training_mode=teacher), which writes it, or name its path.",
            )
        return found[-1]
