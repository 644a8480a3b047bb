"""A tiny teacher of the embedded body: real components, small tables."""

import copy

import pytest
import torch

from body_models import CanonicalBody, load_body
from core.frames import BodyPose
from implicit_branch.teacher import SubjectIdentity, Teacher

GRID = {
    "n_levels": 5,
    "n_features_per_level": 2,
    "log2_hashmap_size": 12,
    "base_resolution": 8,
    "per_level_scale": 1.5,
    "start_level": 5,
    "start_step": 0,
    "update_steps": 1,
}
RECIPE = {
    "geometry": {
        "init": "body",
        "init_steps": 200,
        "feature_dim": 13,
        "xyz_encoding_config": GRID,
        "mlp_network_config": {
            "n_neurons": 32,
            "n_hidden_layers": 1,
            "weight_norm": True,
            "sphere_init_radius": 0.5,
        },
    },
    "density": {"name": "laplace-density", "beta": 0.002, "floor_start": 0.002, "floor_end": 0.001},
    "radiance": {
        "xyz_encoding_config": GRID,
        "dir_encoding_config": {"degree": 4},
        "mlp_network_config": {"n_neurons": 16, "n_hidden_layers": 1},
    },
    "material": {
        "initial_roughness": 0.55,
        "initial_metallic": 0.05,
        "mlp_network_config": {"n_neurons": 16, "n_hidden_layers": 1},
    },
    "scatterer": {"name": "brdf-multi-lobe"},
    "light": {"name": "envlight-SG", "num_SGs": 8},
    "deformer": {"resolution": 40},
    "non_rigid_deformer": {"name": "dummy"},
    "pose_encoder": {"name": "dummy"},
    "pose_correction": {"name": "pose-residual", "dataset_length": 3, "enable": False, "start_step": 0},
    "model": {
        "scene_aabb": [-1.25, -1.55, -1.25, 1.25, 0.95, 1.25],
        "num_samples_per_ray": 200,
        "importance_rounds": 1,
        "importance_samples": 8,
        "proxy": {"initial_offset": 0.0, "resolution": 64, "seed_resolution": 32},
        "samples_per_pixel": 16,
        "render_mode": "uniform_light",
        "global_illumination": True,
        "resample_light": True,
        "add_emitter": False,
        "secondary_near_plane": 0.004,
        "secondary_far_plane": 1.5,
        "secondary_shader_chunk": 160000,
        "ray_chunk": 4096,
        "supersampling": 1,
        "phys_kick_in_step": 10000,
        "importance_sample_kick_in_step": 0,
        "material_feature": "hybrid",
    },
}


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Tests run beside each other: more threads than cores wait for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def recipe() -> dict:
    """Plain dictionaries of a small teacher; change them freely."""
    return copy.deepcopy(RECIPE)


@pytest.fixture(scope="session")
def body() -> CanonicalBody:
    """The embedded male body in the A-pose."""
    return CanonicalBody(load_body("embedded", "male"), torch.zeros(10))


def make_teacher(recipe: dict, body: CanonicalBody) -> Teacher:
    """A new teacher with random but fixed weights."""
    torch.manual_seed(0)
    return Teacher.from_body(recipe, SubjectIdentity("test", "male", [0.0] * 10, "A_pose"), body)


@pytest.fixture(scope="session")
def teacher(body: CanonicalBody) -> Teacher:
    """A teacher fitted to the body; tests must not change it."""
    return make_teacher(copy.deepcopy(RECIPE), body).eval()


@pytest.fixture(scope="session")
def bent_pose() -> BodyPose:
    """Two different frames, arms and legs bent, body upright in front of the camera (y down)."""
    generator = torch.Generator().manual_seed(1)
    angles = 0.25 * torch.randn(2, 69, generator=generator)
    return BodyPose(
        torch.tensor([[torch.pi, 0.0, 0.0], [torch.pi, 0.0, 0.3]]), angles, torch.tensor([[0.0, 0.2, 3.0]] * 2)
    )
