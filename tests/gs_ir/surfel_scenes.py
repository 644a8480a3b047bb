"""Scenes for the surfel tests, and a float64 renderer written apart from the code under test: no tiles, no boxes, no
screen transforms; every ray is intersected with every disc by solving p + u t_u + v t_v = z d in camera space."""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

MIN_ALPHA = 1 / 255


@dataclass(frozen=True)
class Scene:
    """Arguments of ``rasterize_surfels``."""

    centers: Tensor
    tangents_u: Tensor
    tangents_v: Tensor
    opacities: Tensor
    features: Tensor
    camera_from_world: Tensor
    intrinsics: Tensor
    width: int
    height: int

    @property
    def surfels(self) -> tuple[Tensor, ...]:
        """The differentiable arguments."""
        return self.centers, self.tangents_u, self.tangents_v, self.opacities, self.features

    @property
    def view(self) -> dict:
        """The keyword arguments."""
        names = ("camera_from_world", "intrinsics", "width", "height")
        return {name: getattr(self, name) for name in names}

    def to(self, dtype: torch.dtype) -> "Scene":
        """The scene in another precision."""
        return replace(self, **{k: v.to(dtype) for k, v in vars(self).items() if isinstance(v, Tensor)})


def rotation(axis_angle: list[float]) -> Tensor:
    """Rotation matrix [3, 3] of an axis-angle vector."""
    x, y, z = axis_angle
    return torch.matrix_exp(torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64))


def random_scene(
    count: int, scale: tuple[float, float], seed: int = 0, size: tuple[int, int] = (37, 29), channels: int = 3
):
    """``count`` discs with standard deviations between ``scale`` (metres) 1.5-3.5 m before a turned, shifted camera."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator, dtype=torch.float64)

    width, height = size
    focal = 1.1 * width
    depth = uniform(1.5, 3.5, count)
    pixels = uniform(-2, 2, count, 2) + uniform(0, 1, count, 2) * torch.tensor([width, height])
    center = torch.tensor([width / 2 + 0.3, height / 2 - 0.8])
    local = torch.cat([(pixels - center) / focal, torch.ones(count, 1)], 1) * depth[:, None]
    frames = torch.linalg.qr(torch.randn(count, 3, 3, generator=generator, dtype=torch.float64))[0]
    low, high = map(math.log, scale)
    world_from_camera = torch.eye(4, dtype=torch.float64)
    world_from_camera[:3, :3] = rotation([0.3, -0.9, 0.2])
    world_from_camera[:3, 3] = torch.tensor([0.5, -0.2, 1.0])
    intrinsics = torch.tensor([[focal, 0, center[0]], [0, 1.05 * focal, center[1]], [0, 0, 1]], dtype=torch.float64)
    return Scene(
        centers=local @ world_from_camera[:3, :3].T + world_from_camera[:3, 3],
        tangents_u=frames[:, :, 0] * uniform(low, high, count, 1).exp(),
        tangents_v=frames[:, :, 1] * uniform(low, high, count, 1).exp(),
        opacities=uniform(0.05, 0.97, count),
        features=torch.randn(count, channels, generator=generator, dtype=torch.float64),
        camera_from_world=torch.linalg.inv(world_from_camera),
        intrinsics=intrinsics,
        width=width,
        height=height,
    )


def one_surfel(
    center, tangent_u, tangent_v, *, opacity: float = 0.8, size: tuple[int, int] = (32, 24), focal: float = 40.0
) -> Scene:
    """A scene of one disc (or several, given nested lists); camera at the origin, looking through the middle."""
    double = {"dtype": torch.float64}
    center, tangent_u, tangent_v = (torch.tensor(x, **double).reshape(-1, 3) for x in (center, tangent_u, tangent_v))
    width, height = size
    return Scene(
        centers=center,
        tangents_u=tangent_u,
        tangents_v=tangent_v,
        opacities=torch.full((len(center),), opacity, **double),
        features=torch.arange(2.0 * len(center), **double).reshape(-1, 2) + 1,
        camera_from_world=torch.eye(4, **double),
        intrinsics=torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], **double),
        width=width,
        height=height,
    )


def camera_space(scene: Scene) -> tuple[np.ndarray, ...]:
    """Centres and tangents in camera space, each [N, 3]."""
    turn, shift = scene.camera_from_world[:3, :3].numpy(), scene.camera_from_world[:3, 3].numpy()
    return (
        scene.centers.numpy() @ turn.T + shift,
        scene.tangents_u.numpy() @ turn.T,
        scene.tangents_v.numpy() @ turn.T,
    )


def filter_center(p: np.ndarray, u: np.ndarray, v: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    """Middle [2] of the box around the projection of the 3 sigma circle, from the circle's dual conic.

    A circle that meets the camera's plane has no such box; then it is the projected centre.
    """
    rows = intrinsics @ np.stack([u, v, p], 1)
    if 3 * math.hypot(u[2], v[2]) >= p[2]:
        return rows[:2, 2] / rows[2, 2]
    g = np.array([9.0, 9.0, -1.0])
    return (rows[:2] * rows[2] * g).sum(1) / (rows[2] ** 2 * g).sum()


def hit(disc: tuple[np.ndarray, np.ndarray, np.ndarray], opacity: float, pixels: np.ndarray, intrinsics: np.ndarray):
    """alpha and depth [P] of one disc at ``pixels`` [P, 2], along camera rays with z = 1."""
    directions = np.concatenate([pixels, np.ones((len(pixels), 1))], 1) @ np.linalg.inv(intrinsics).T
    p, u, v = disc
    system = np.stack([np.broadcast_to(u, directions.shape), np.broadcast_to(v, directions.shape), -directions], -1)
    solution = np.linalg.solve(system, np.broadcast_to(-p, directions.shape)[..., None])[..., 0]
    rho_disc = np.where(solution[:, 2] > 0, solution[:, 0] ** 2 + solution[:, 1] ** 2, np.inf)
    rho_screen = 2 * ((pixels - filter_center(p, u, v, intrinsics)) ** 2).sum(1)
    alpha = np.minimum(0.99, opacity * np.exp(-np.minimum(rho_disc, rho_screen) / 2))
    depth = np.where(rho_disc <= 2 * np.log(255), solution[:, 2], p[2])
    return np.where((alpha >= MIN_ALPHA) & (depth >= 0.2), alpha, 0), depth


def render(scene: Scene) -> dict[str, np.ndarray]:
    """Images of ``scene`` by the definition, pixel by pixel, every name of SurfelRaster but radii."""
    p, u, v = camera_space(scene)
    intrinsics, shape = scene.intrinsics.numpy(), (scene.height, scene.width)
    rows, columns = np.mgrid[: scene.height, : scene.width].reshape(2, -1)
    pixels = np.stack([columns, rows], 1) + 0.5
    order = [i for i in np.argsort(p[:, 2], kind="stable") if p[i, 2] > 0.2]
    hits = [hit((p[i], u[i], v[i]), float(scene.opacities[i]), pixels, intrinsics) for i in order]
    normals = np.cross(scene.tangents_u.numpy(), scene.tangents_v.numpy())
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    normals[(np.cross(u, v) * p).sum(1) > 0] *= -1
    channels = scene.features.shape[1]
    images = {"features": np.zeros((len(pixels), channels)), "normal": np.zeros((len(pixels), 3))}
    images |= {name: np.zeros(len(pixels)) for name in ("alpha", "depth", "median_depth", "distortion")}
    for pixel in range(len(pixels)):
        transmittance, blended = 1.0, []
        for i, (alpha, depth) in zip(order, hits, strict=True):
            a, z = alpha[pixel], depth[pixel]
            if a == 0:
                continue
            if transmittance * (1 - a) < 1e-4:
                break
            w = transmittance * a
            if transmittance > 0.5:
                images["median_depth"][pixel] = z
            m = 100 / 99.8 * (1 - 0.2 / z)
            images["distortion"][pixel] += sum(w * other * (m - before) ** 2 for other, before in blended)
            blended.append((w, m))
            images["features"][pixel] += w * scene.features[i].numpy()
            images["normal"][pixel] += w * normals[i]
            images["depth"][pixel] += w * z
            transmittance *= 1 - a
        images["alpha"][pixel] = 1 - transmittance
    return {name: image.reshape(*shape, *image.shape[1:]) for name, image in images.items()}
