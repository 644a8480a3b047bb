"""A small subject for the student's tests: the embedded body as its own teacher, and frames rendered from it."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from body_models import load_body
from body_models.canonical import CanonicalBody
from core.camera import Camera
from core.frames import BodyPose, Frame
from core.protocols import CanonicalSample
from explicit_branch.avatar import Avatar, AvatarRecord
from explicit_branch.initialisation import sample_mesh, surfels_on
from explicit_branch.rendering.renderer import Renderer
from gs_ir.cubemap import PrefilteredLight, texel_directions
from gs_ir.nearest import nearest_neighbours
from gs_ir.prefiltering import prefilter

SIZE = 64


class BodyField:
    """A teacher made of the canonical body: plane through the nearest vertex, one material, light from above."""

    def __init__(self, body: CanonicalBody) -> None:
        self.body = body
        self.queries = 0

    def query_canonical(self, points: Tensor) -> CanonicalSample:
        self.queries += 1
        nearest = nearest_neighbours(points, self.body.vertices, 1)[1][:, 0]
        normal = self.body.normals[nearest]
        sdf = ((points - self.body.vertices[nearest]) * normal).sum(-1)
        flat = torch.ones_like(sdf)
        return CanonicalSample(sdf, normal, normal * 0 + torch.tensor([0.5, 0.3, 0.2]), 0.6 * flat, 0 * flat)

    def eval_light(self, directions: Tensor) -> Tensor:
        return (0.6 - 0.4 * directions[:, 1:2]).expand(-1, 3)


@pytest.fixture(scope="session")
def body() -> CanonicalBody:
    return CanonicalBody(load_body(None, "male"), torch.zeros(10))


@pytest.fixture
def teacher(body: CanonicalBody) -> BodyField:
    return BodyField(body)


@pytest.fixture(scope="session")
def camera() -> Camera:
    intrinsics = torch.tensor([[1.55 * SIZE, 0, SIZE / 2], [0, 1.55 * SIZE, SIZE / 2], [0, 0, 1]])
    return Camera(intrinsics, torch.eye(4), SIZE, SIZE)


@pytest.fixture(scope="session")
def pose_of() -> Callable[..., BodyPose]:
    """Poses by turn about the vertical in radians, one arm raised."""

    def make(turn: float, lean: float = 0.3) -> BodyPose:
        half = torch.tensor(turn / 2)
        # Half a turn about an axis in the x-z plane: upright in OpenCV axes, facing away by ``turn``.
        root = torch.pi * torch.stack([half.cos(), torch.tensor(0.0), -half.sin()])
        body_pose = torch.zeros(69)
        body_pose[46] = lean
        return BodyPose(root, body_pose, torch.tensor([0.0, 0.1, 3.5]))

    return make


@pytest.fixture
def make_avatar(body: CanonicalBody, teacher: BodyField) -> Callable[..., Avatar]:
    """Avatars on the body by number of surfels; further arguments go into the record."""

    def make(count: int = 3000, feature_dim: int = 32, **record) -> Avatar:
        torch.manual_seed(0)
        cloud = sample_mesh(body.vertices, body.faces, count, torch.Generator().manual_seed(1))
        surfels = surfels_on(cloud, feature_dim=feature_dim, teacher=teacher)
        options = {"rendering": {"min_size": SIZE}, **record}
        return Avatar(surfels, body, AvatarRecord("tester", "male", [0.0] * 10, "A_pose", 4, **options))

    return make


@pytest.fixture
def avatar(make_avatar: Callable[..., Avatar]) -> Avatar:
    return make_avatar()


@pytest.fixture(scope="session")
def light() -> PrefilteredLight:
    directions = texel_directions(16)
    return prefilter((0.6 - 0.4 * directions[..., 1:2]).expand(-1, -1, -1, 3).contiguous())


@pytest.fixture
def frames(avatar: Avatar, camera: Camera, light: PrefilteredLight, pose_of: Callable[..., BodyPose]) -> list[Frame]:
    """Four views of the untrained avatar, with the maps that a distillation set has."""
    with torch.no_grad():
        return [_frame(avatar, camera, light, pose_of(0.6 * index), index) for index in range(4)]


def _frame(avatar: Avatar, camera: Camera, light: PrefilteredLight, pose: BodyPose, index: int) -> Frame:
    render = Renderer(avatar).render(pose, camera, light)
    buffer = render.buffer
    assert buffer is not None
    return Frame(
        index,
        f"{index:04d}",
        camera,
        pose,
        image=render.image,
        mask=render.alpha,
        albedo=buffer.albedo,
        normal=buffer.normal * torch.tensor([1.0, -1.0, -1.0]),
        roughness=buffer.roughness,
        metallic=buffer.metallic,
        depth=buffer.depth,
    )
