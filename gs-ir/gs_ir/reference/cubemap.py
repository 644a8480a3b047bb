"""Reference of :mod:`gs_ir.cubemap`."""

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import normalize

from gs_ir.equirect import direction_to_uv, sample_equirect

# Face f looks along +x, -x, +y, -y, +z, -z. Columns of each matrix: what s, t and 1 contribute to the direction.
FACE_FRAMES = (
    ((0, 0, 1), (0, -1, 0), (-1, 0, 0)),
    ((0, 0, -1), (0, -1, 0), (1, 0, 0)),
    ((1, 0, 0), (0, 0, 1), (0, 1, 0)),
    ((1, 0, 0), (0, 0, -1), (0, -1, 0)),
    ((1, 0, 0), (0, -1, 0), (0, 0, 1)),
    ((-1, 0, 0), (0, -1, 0), (0, 0, -1)),
)
OUTPUTS_PER_CHUNK = 512


def face_points(face: Tensor, s: Tensor, t: Tensor) -> Tensor:
    """Points [..., 3] on the unit cube of ``face`` [...] (int64) at ``s`` to the right and ``t`` down, in [-1, 1]."""
    frames = torch.tensor(FACE_FRAMES, dtype=s.dtype, device=s.device)[face]
    return (frames @ torch.stack([s, t, torch.ones_like(s)], -1)[..., None]).squeeze(-1)


def face_coordinates(directions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Face [...] (int64) that ``directions`` [..., 3] (any length) pierce, and s, t [...] on it in [-1, 1]."""
    size = directions.abs()
    x_major = (size[..., 0] >= size[..., 1]) & (size[..., 0] >= size[..., 2])
    axis = torch.where(x_major, 0, torch.where(size[..., 1] >= size[..., 2], 1, 2))
    major = directions.gather(-1, axis[..., None]).squeeze(-1)
    face = 2 * axis + (major <= 0)
    frames = torch.tensor(FACE_FRAMES, dtype=directions.dtype, device=directions.device)[face]
    local = (frames.transpose(-1, -2) @ directions[..., None]).squeeze(-1)
    return face, local[..., 0] / local[..., 2], local[..., 1] / local[..., 2]


def texel_grid(resolution: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Face, s and t of every texel centre, each [6, R, R]; rows follow t."""
    centres = (2 * torch.arange(resolution, dtype=dtype, device=device) + 1) / resolution - 1
    faces = torch.arange(6, dtype=dtype, device=device)
    face, t, s = torch.meshgrid(faces, centres, centres, indexing="ij")
    return face.long(), s, t


def texel_directions(resolution: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Unit directions [6, R, R, 3] of the texel centres."""
    return normalize(face_points(*texel_grid(resolution, dtype, device)), dim=-1)


def texel_solid_angles(resolution: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Exact solid angles [R, R] of the texels of any face, by the corner function A(x, y) = atan2(xy, |(x, y, 1)|)."""
    edges = 2 * torch.arange(resolution + 1, dtype=torch.float64, device=device) / resolution - 1
    y, x = torch.meshgrid(edges, edges, indexing="ij")
    corner = torch.atan2(x * y, (x * x + y * y + 1).sqrt())
    return corner.diff(dim=0).diff(dim=1).to(dtype)


@lru_cache(maxsize=32)
def _border_sources(resolution: int, device: torch.device) -> Tensor:
    """Texels [6, R+2, R+2, 3] (flat indices) whose mean fills each face widened by a border of one texel.

    A border texel is the one that the prolonged face points at on its neighbour. At a corner three faces meet and no
    fourth texel exists; the mean of the three that touch it makes the interpolation continuous.
    """
    steps = torch.arange(-1, resolution + 1, device=device, dtype=torch.float64)
    centres = (2 * steps + 1) / resolution - 1
    face, t, s = torch.meshgrid(torch.arange(6, dtype=torch.float64, device=device), centres, centres, indexing="ij")
    own, own_s, own_t = face_coordinates(face_points(face.long(), s, t))
    column = ((own_s + 1) * resolution / 2).long().clamp(0, resolution - 1)
    row = ((own_t + 1) * resolution / 2).long().clamp(0, resolution - 1)
    sources = ((own * resolution + row) * resolution + column)[..., None].repeat(1, 1, 1, 3)
    for i, inner_i in ((0, 1), (-1, -2)):
        for j, inner_j in ((0, 1), (-1, -2)):
            touching = [sources[:, inner_i, inner_j, 0], sources[:, inner_i, j, 0], sources[:, i, inner_j, 0]]
            sources[:, i, j] = torch.stack(touching, -1)
    return sources


def border_level(texels: Tensor, resolution: int) -> Tensor:
    """One level ``texels`` [6 R R, C] with a border of one texel around each face, [6, R+2, R+2, C]."""
    return texels[_border_sources(resolution, texels.device)].mean(-2)


def sample_border_level(padded: Tensor, directions: Tensor) -> Tensor:
    """Bilinear values [N, C] of a bordered level ``padded`` [6, R+2, R+2, C] along ``directions`` [N, 3]."""
    resolution = padded.shape[1] - 2
    face, s, t = face_coordinates(directions)
    x, y = ((s + 1) * resolution + 1) / 2, ((t + 1) * resolution + 1) / 2
    left, top = x.detach().long().clamp(0, resolution), y.detach().long().clamp(0, resolution)
    fx, fy = (x - left)[:, None], (y - top)[:, None]
    upper = torch.lerp(padded[face, top, left], padded[face, top, left + 1], fx)
    lower = torch.lerp(padded[face, top + 1, left], padded[face, top + 1, left + 1], fx)
    return torch.lerp(upper, lower, fy)


def sample_cubemap(texels: Tensor, resolutions: list[int], directions: Tensor, lod: Tensor) -> Tensor:
    """Trilinear values [N, C] of the levels ``texels`` [sum 6 R R, C] at ``directions`` [N, 3], ``lod`` [N]."""
    levels = texels.split([6 * r * r for r in resolutions])
    return _sample_padded([border_level(x, r) for x, r in zip(levels, resolutions, strict=True)], directions, lod)


def level_of_roughness(roughness: Tensor, level_roughness: tuple[float, ...]) -> Tensor:
    """Level of detail [...] whose interpolated roughness is ``roughness`` [...]; clamped to the levels."""
    knots = _constant(level_roughness, roughness.dtype, roughness.device)
    clamped = roughness.clamp(level_roughness[0], level_roughness[-1])
    lower = (torch.searchsorted(knots, clamped.detach().contiguous(), right=True) - 1).clamp(0, len(knots) - 2)
    return lower + (clamped - knots[lower]) / (knots[lower + 1] - knots[lower])


@lru_cache(maxsize=32)
def _constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """One copy for each device: to make it anew would wait for the device."""
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device)


def border_cubemap(texels: Tensor, resolutions: list[int]) -> Tensor:
    """Bordered levels [sum 6 (R+2)^2, 4], the last column 0, of the levels ``texels`` [sum 6 R R, 3]."""
    levels = texels.split([6 * r * r for r in resolutions])
    padded = [border_level(x, r).reshape(-1, 3) for x, r in zip(levels, resolutions, strict=True)]
    return torch.nn.functional.pad(torch.cat(padded), (0, 1))


def sample_bordered(texels: Tensor, resolutions: list[int], directions: Tensor, lod: Tensor) -> Tensor:
    """Trilinear values [N, 3] of the bordered levels ``texels`` [sum 6 (R+2)^2, 4]."""
    levels = texels[:, :3].split([6 * (r + 2) ** 2 for r in resolutions])
    padded = [x.reshape(6, r + 2, r + 2, 3) for x, r in zip(levels, resolutions, strict=True)]
    return _sample_padded(padded, directions, lod)


def _sample_padded(padded: list[Tensor], directions: Tensor, lod: Tensor) -> Tensor:
    count = len(padded)
    lower = lod.detach().long().clamp(0, max(count - 2, 0))
    fraction = lod - lower
    total = padded[0].new_zeros(directions.shape[0], padded[0].shape[-1])
    for index, level in enumerate(padded):
        near = 1 - fraction if count > 1 else torch.ones_like(lod)
        share = torch.where(lower == index, near, torch.where(lower + 1 == index, fraction, 0))
        total = total + share[:, None] * sample_border_level(level, directions)
    return total


def lobe_weight(cosine: Tensor, alpha: float, min_cosine: float) -> Tensor:
    """n.l D(h) of the lobe that is mirrored at its own axis (n = v = r), up to a constant; 0 outside the cone."""
    spread = (1 + cosine) / 2 * (alpha * alpha - 1) + 1
    return torch.where(cosine >= min_cosine, cosine / (spread * spread), 0)


def convolve_ggx(
    values: Tensor,
    resolution: int,
    alpha: float,
    min_cosine: float,
    before: Tensor | None = None,
    after: Tensor | None = None,
) -> Tensor:
    """Weighted sums [6, R, R, C] of ``values`` [6, r, r, C] around each texel of a cube map of ``resolution``.

    ``before`` [6, r, r, 1] scales the values, ``after`` [6, R, R, 1] the sums.
    """
    values = values if before is None else values * before
    source = texel_directions(values.shape[1], values.dtype, values.device).reshape(-1, 3)
    target = texel_directions(resolution, values.dtype, values.device).reshape(-1, 3)
    flat = values.reshape(source.shape[0], -1)
    sums = [lobe_weight(chunk @ source.T, alpha, min_cosine) @ flat for chunk in target.split(OUTPUTS_PER_CHUNK)]
    convolved = torch.cat(sums).reshape(6, resolution, resolution, values.shape[-1])
    return convolved if after is None else convolved * after


def parent_level(texels: Tensor) -> Tensor:
    """The level of half the resolution [6, R/2, R/2, C]; the mean is weighted by solid angle, so energy is kept."""
    faces, resolution, _, channels = texels.shape
    weights = _parent_weights(resolution, texels.dtype, texels.device)
    return (texels * weights).reshape(faces, resolution // 2, 2, resolution // 2, 2, channels).sum((2, 4))


def cubemap_pyramid(texels: Tensor, solid_angles: Tensor, halvings: int) -> list[Tensor]:
    """The coarser levels, fine to coarse, of ``texels`` [6, R, R, 3] with the texels' ``solid_angles`` [R, R]."""
    del solid_angles  # made here
    levels = [texels]
    for _ in range(halvings):
        levels.append(parent_level(levels[-1]))
    return levels[1:]


def adj_parent_level(grad: Tensor) -> Tensor:
    """Cotangent of the finer level's texels [6, 2 R, 2 R, C] from that of ``parent_level``'s result [6, R, R, C]."""
    faces, resolution, _, channels = grad.shape
    blocks = grad[:, :, None, :, None].expand(faces, resolution, 2, resolution, 2, channels)
    fine = blocks.reshape(faces, 2 * resolution, 2 * resolution, channels)
    return fine * _parent_weights(2 * resolution, grad.dtype, grad.device)


@lru_cache(maxsize=32)
def _parent_weights(resolution: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Share [R, R, 1] of each texel in its parent."""
    with torch.inference_mode(False):
        weights = texel_solid_angles(resolution, torch.float64, device).reshape(resolution // 2, 2, resolution // 2, 2)
        return (weights / weights.sum((1, 3), keepdim=True)).reshape(resolution, resolution, 1).to(dtype)


def resample_equirect(image: Tensor, solid_angles: Tensor, resolution: int) -> Tensor:
    """Means [6, R, R, 3] of bilinear lookups into ``image`` [H, W, 3], one for each of ``solid_angles`` [R n, R n]."""
    fine = texel_directions(solid_angles.shape[0], image.dtype, image.device)
    radiance = sample_equirect(image, direction_to_uv(fine))
    weights = solid_angles[..., None].expand(6, -1, -1, 1)
    samples = solid_angles.shape[0] // resolution
    blocks = (6, resolution, samples, resolution, samples, -1)
    return (radiance * weights).reshape(blocks).sum((2, 4)) / weights.reshape(blocks).sum((2, 4))
