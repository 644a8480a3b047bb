"""Every option of the teacher's configuration is built and takes a training step."""

import lightning
import pytest
import torch
from torch.utils.data import DataLoader

from implicit_branch.module import StepIndices
from tests.workflows.test_configuration import compose, options
from tests.workflows.test_teacher import CAPTURE, TINY
from workflows.build_data import implicit_frames
from workflows.build_teacher import new_teacher, training_module

GROUPS = ("sampler", "geometry", "radiance", "material", "scatterer", "light", "deformer", "non_rigid_deformer",
          "density", "pose_encoder", "pose_correction")  # fmt: skip
SMALL = (
    "implicit_branch.geometry.init=sphere",
    "implicit_branch.deformer.resolution=12",
    "implicit_branch.trainer.max_steps=1",
    "implicit_branch.model.phys_kick_in_step=0",
)
SPECIAL = {
    "light=envlight_tensor": ("implicit_branch.light.base_res=8",),
    "light=envlight_tensor_blender": ("implicit_branch.light.base_res=8",),
    "light=envlight_MLP": ("implicit_branch.light.base_res=8", "implicit_branch.light.log2_hashmap_size=8"),
    "sampler=patch": ("implicit_branch.sampler.patch_size=8",),
    "deformer=non_rigid_deformer": (
        "implicit_branch/pose_encoder=leap",
        "implicit_branch.non_rigid_deformer.start_step=0",
    ),
    "non_rigid_deformer=mlp": ("implicit_branch.non_rigid_deformer.start_step=0",),
    "pose_correction=pose_residual_enable": ("implicit_branch.pose_correction.start_step=0",),
}  # fmt: skip
CASES = [f"{group}={name}" for group in GROUPS for name in options(f"implicit_branch/{group}")]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES)
def test_option_takes_a_step(case: str, tmp_path):
    """Fails when an option of a group names no component, or its component cannot be trained."""
    overrides = [*TINY, *CAPTURE, *SMALL, f"implicit_branch/{case}", *SPECIAL.get(case, ())]
    config = compose("config_rana", *overrides)
    frames = implicit_frames(config, "train")
    module = training_module(config, new_teacher(config, frames), frames)
    before = torch.cat([p.detach().flatten().clone() for p in module.teacher.parameters()])
    trainer = lightning.Trainer(
        max_steps=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(module, DataLoader(StepIndices(len(frames)), batch_size=1))
    after = torch.cat([p.detach().flatten() for p in module.teacher.parameters()])
    assert torch.isfinite(after).all()
    assert not torch.equal(before, after)
