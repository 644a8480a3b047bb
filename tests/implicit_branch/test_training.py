"""Training: steps learn, a resumed run continues exactly, checkpoints are self-contained."""

import copy
from dataclasses import replace
from pathlib import Path

import lightning
import pytest
import torch
from torch.utils.data import DataLoader

from core.camera import Camera
from core.errors import InputError
from core.frames import BodyPose, Frame
from implicit_branch import losses
from implicit_branch.building import settings_from
from implicit_branch.fields.material import Material
from implicit_branch.module import StepIndices, TeacherModule, TrainingSettings
from implicit_branch.rendering.frame import render_frame
from implicit_branch.sampling.pixels import edge_sampler
from implicit_branch.teacher import Teacher, load_teacher
from implicit_branch.training_images import TrainingImages
from tests.implicit_branch.conftest import RECIPE

WEIGHTS = {
    "rgb_l1": 1.0,
    "rgb_phys_l1": 0.2,
    "mask_bce": 0.1,
    "eikonal": 0.1,
    "curvature": 0.1,
    "albedo_smoothness": 0.01,
    "roughness_prior": 0.01,
    "metallic_prior": 0.01,
    "light_neutrality": 0.01,
    "light_scale": 0.01,
    "albedo_greyness": 0.01,
    "lipshitz_bound": 1e-6,
}
STEPS = 6


@pytest.fixture(scope="module")
def frames(teacher: Teacher) -> list[Frame]:
    """Three frames of a red body: silhouettes rendered from the untrained teacher itself."""
    camera = Camera(torch.tensor([[36.0, 0, 12], [0, 36.0, 16], [0, 0, 1]]), torch.eye(4), 24, 32)
    made = []
    for k in range(3):
        pose = BodyPose(torch.tensor([torch.pi, 0.0, 0.0]), torch.zeros(69), torch.tensor([0.05 * k, 0.2, 3.0]))
        mask = (render_frame(teacher, pose, camera).alpha > 0.5).float()
        image = torch.ones(32, 24, 3)
        image[mask > 0] = torch.tensor([0.7, 0.2, 0.2])
        made.append(Frame(k, f"{k:04d}", camera, pose, image=image, mask=mask))
    return made


def _module(frames: list[Frame], teacher: Teacher, steps: int = STEPS) -> TeacherModule:
    teacher = copy.deepcopy(teacher).train()
    recipe = copy.deepcopy(RECIPE)
    recipe["model"]["proxy"] |= {"start_step": 5000, "interval": 12_000}
    teacher.recipe, teacher.settings = recipe, settings_from(recipe)
    images = TrainingImages(frames)
    settings = TrainingSettings(
        max_steps=steps, weights=WEIGHTS, frames_per_step=2, shaded_rays=32, samples_per_pixel=4, rate=5e-3, log_every=1
    )
    return TeacherModule(teacher, settings, images, edge_sampler(images.masks, num_sample=64))


def _trainer(folder: Path, steps: int) -> lightning.Trainer:
    return lightning.Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder,
    )  # fmt: skip


def _loader(frames: list[Frame]) -> DataLoader:
    return DataLoader(StepIndices(len(frames)), batch_size=1)


@pytest.mark.filterwarnings("ignore")
def test_resume_continues_exactly(frames, teacher, tmp_path):
    """Fails when a resumed run draws other pixels, or forgets moments, rate, level or proxy."""
    whole = _module(frames, teacher)
    _trainer(tmp_path, STEPS).fit(whole, _loader(frames))

    half = _module(frames, teacher)
    trainer = _trainer(tmp_path, 4)
    trainer.fit(half, _loader(frames))
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    torch.manual_seed(123)
    rest = _module(frames, teacher)
    _trainer(tmp_path, STEPS).fit(rest, _loader(frames), ckpt_path=str(tmp_path / "half.ckpt"))

    for (name, expected), actual in zip(whole.teacher.named_parameters(), rest.teacher.parameters(), strict=True):
        torch.testing.assert_close(actual, expected, rtol=0, atol=0, msg=lambda m, n=name: f"{n}: {m}")
    assert rest.teacher.proxy_generation == whole.teacher.proxy_generation > 0
    torch.testing.assert_close(rest.teacher.proxy.vertices, whole.teacher.proxy.vertices)


@pytest.mark.filterwarnings("ignore")
def test_training_learns_the_colour(frames, teacher, tmp_path):
    """Fails when gradients do not reach the radiance field, or a step's pixels and rays belong to different frames."""
    module = _module(frames, teacher, steps=40)
    _trainer(tmp_path, 40).fit(module, _loader(frames))
    frame = frames[1]
    maps = render_frame(module.teacher, frame.pose, frame.camera)
    inside = (frame.mask > 0) & (maps.alpha > 0.9)
    colour = maps.radiance[inside].mean(0)
    assert inside.sum() > 20
    assert colour[0] > 2.5 * colour[1]


@pytest.mark.filterwarnings("ignore")
def test_checkpoint_stands_alone(frames, teacher, tmp_path):
    """Fails when a checkpoint needs the configuration or body: the loaded teacher must render the same image."""
    module = _module(frames, teacher)
    trainer = _trainer(tmp_path, STEPS)
    trainer.fit(module, _loader(frames))
    trainer.save_checkpoint(tmp_path / "teacher.ckpt")
    loaded = load_teacher(tmp_path / "teacher.ckpt", "cpu")
    assert loaded.identity.gender == "male"
    frame = frames[0]
    expected = render_frame(module.teacher.eval(), frame.pose, frame.camera)
    actual = render_frame(loaded, frame.pose, frame.camera)
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b)
    points = loaded.proxy.vertices[:50]
    sample = loaded.query_canonical(points)
    torch.testing.assert_close(sample.normal.norm(dim=-1), torch.ones(50))
    torch.testing.assert_close(sample.albedo, module.teacher.query_canonical(points).albedo)


@pytest.mark.filterwarnings("ignore")
def test_foreign_checkpoint_is_refused(frames, teacher, tmp_path):
    """Fails when a run resumes from another subject's checkpoint, or a file that is no teacher is loaded."""
    module = _module(frames, teacher)
    trainer = _trainer(tmp_path, 1)
    trainer.fit(module, _loader(frames))
    trainer.save_checkpoint(tmp_path / "other.ckpt")
    mine = _module(frames, teacher)
    mine.teacher.identity = mine.teacher.identity.__class__("someone", "male", [0.0] * 10, "A_pose")
    with pytest.raises(InputError, match="subject"):
        _trainer(tmp_path, 2).fit(mine, _loader(frames), ckpt_path=str(tmp_path / "other.ckpt"))
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    with pytest.raises(InputError, match="teacher"):
        load_teacher(tmp_path / "foreign.ckpt", "cpu")


@pytest.mark.filterwarnings("ignore")
def test_pose_residuals_undo_a_wrong_translation(frames, teacher, tmp_path):
    """Fails when the pose gets no gradient, or one that points the wrong way: a shifted frame must shift back."""
    shift = torch.tensor([0.04, 0.0, 0.0])
    wrong = Frame(1, "0001", frames[1].camera, BodyPose(frames[1].pose.global_orient, frames[1].pose.body_pose,
                  frames[1].pose.transl + shift), image=frames[1].image, mask=frames[1].mask)  # fmt: skip
    module = _module([frames[0], wrong, frames[2]], teacher, steps=25)
    module.teacher.residuals.enable = True
    module.settings = module.settings.__class__(
        **{**vars(module.settings), "rate": 1e-5, "rates": {"pose_correction": 4e-3}, "frames_per_step": 3,
           "weights": {"mask_bce": 1.0}}
    )  # fmt: skip
    module.weights = losses.LossWeights({"mask_bce": 1.0})
    _trainer(tmp_path, 25).fit(module, _loader(frames))
    assert float(module.teacher.residuals.transl[1, 0].detach()) < -0.015
    assert float(module.teacher.residuals.transl[0, 0].detach().abs()) < 0.015


def test_frames_without_images_are_refused(frames):
    """Fails when a motion is trained on: it has poses but nothing to learn from."""
    bare = Frame(0, "0000", frames[0].camera, frames[0].pose)
    with pytest.raises(InputError, match="0000"):
        TrainingImages([bare])
    with pytest.raises(InputError, match="none"):
        TrainingImages([])


def test_silhouette_pixels_do_not_teach_colour(frames):
    """Fails when pixels that mix body and background train the radiance, or the margin eats the whole body."""
    images = TrainingImages(frames, silhouette_margin=1)
    mask = frames[0].mask > 0.5
    trusted = images.trusted[0].reshape(mask.shape) > 0.5
    border = mask & ~(mask.roll(1, 0) & mask.roll(-1, 0) & mask.roll(1, 1) & mask.roll(-1, 1))
    assert not (trusted & border).any()
    assert (trusted & mask).any()


def test_target_is_the_image_over_white(frames):
    """Fails when white is not taken away from the image, or compositing happens in sRGB."""
    images = TrainingImages(frames)
    pixels = torch.arange(32 * 24)[None]
    batch = images.batch(torch.tensor([2]), pixels, torch.tensor([2]))
    target = batch.target(torch.ones(3)).reshape(32, 24, 3)
    torch.testing.assert_close(target, frames[2].image, atol=1e-5, rtol=0)


def test_bytes_hold_what_floats_hold(frames):
    """Fails when pictures that came as bytes are not kept as bytes, or are decoded to another colour or weight."""
    rounded = [replace(f, image=(f.image * 255).round() / 255) for f in frames]
    shifted = [replace(rounded[0], image=rounded[0].image + 0.2 / 255), *rounded[1:]]
    stored, in_floats = TrainingImages(rounded), TrainingImages(shifted)
    assert stored._pixels.dtype == torch.uint8
    assert in_floats._pixels.dtype == torch.float32
    pixels, row = torch.arange(32 * 24)[None], torch.tensor([1])
    one, other = (images.batch(row, pixels, row) for images in (stored, in_floats))
    for name in ("image", "mask", "trusted"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=1e-5, atol=1e-6)


def test_greyness_ignores_brightness():
    """Fails when the prior pulls albedos towards a value instead of towards equal channels."""

    def loss(albedo):
        material = Material(albedo, torch.zeros(4), torch.zeros(4))
        return float(losses.material_priors(torch.ones(4), material)["albedo_greyness"])

    grey = torch.tensor([[0.1], [0.5], [0.3], [0.8]]).expand(4, 3)
    assert loss(grey) == pytest.approx(0, abs=1e-9)
    assert loss(0.5 * grey) == pytest.approx(0, abs=1e-9)
    assert loss(grey * torch.tensor([1.0, 0.7, 0.5])) > 0.01


def test_schedules_stretch_to_the_run():
    """Fails when a threshold stays at its published step in a short run."""
    weights = losses.LossWeights.stretched({"curvature": [1.5, 0, 12500], "rgb_l1": 1.0}, 1000)
    assert weights.at(499, 0) == {"curvature": 1.5, "rgb_l1": 1.0}
    assert weights.at(500, 0) == {"rgb_l1": 1.0}
