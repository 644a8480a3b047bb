"""Reference of :mod:`gs_ir.scattering`."""

from math import pi

import torch
from torch import Tensor
from torch.nn.functional import normalize

from gs_ir.equirect import sample_equirect
from gs_ir.reference import microfacet, philox
from gs_ir.reference.marching import resample
from gs_ir.reference.microfacet import ScatterPoint

COSINE, LIGHT, MATERIAL, MIXTURE = range(4)
JITTER, ORDER, LOBE, ODD = range(4)
RAYS_OF_ORDER = 32


def scatter_points(
    t_starts: Tensor, t_ends: Tensor, packed_info: Tensor, weights: Tensor, limit: Tensor, draws: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Intervals int32 (-1: background), depths and shares [K, R] of K draws a ray."""
    positions = (torch.arange(draws, device=weights.device, dtype=weights.dtype) + 0.5)[None] / draws
    depth, interval = resample(t_starts, t_ends, packed_info, weights, positions)
    found = interval >= 0
    drawn = torch.zeros_like(weights).index_add(0, interval[found], torch.ones_like(depth[found]))
    share = torch.where(found, (weights / drawn.clamp_min(1))[interval.clamp_min(0)], 0) if len(weights) else depth
    depth = torch.where(found, depth.minimum(limit[:, None]), 0)
    return interval.T.to(torch.int32).contiguous(), depth.T.contiguous(), share.T.contiguous()


def scatter_rays(  # noqa: PLR0917 - the order of the operator's arguments
    origins: Tensor,
    directions: Tensor,
    rows: Tensor,
    depth: Tensor,
    surface: Tensor,
    light: list[Tensor],
    light_from_world: list[float],
    strategy: int,
    offset: float,
    seed: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Origins and directions [K R, 3] and densities [K R] of the drawn rays; direction zero where there is none."""
    draws, rays = rows.shape
    k, ray = (
        x.flatten() for x in torch.meshgrid(*(torch.arange(n, device=rows.device) for n in rows.shape), indexing="ij")
    )
    u0, u1, u2, by_light = _stratified(strategy, seed[0], ray, k, draws, origins.dtype)
    found = rows.flatten() >= 0
    from_, along = torch.zeros(2, len(ray), 3, dtype=origins.dtype, device=origins.device)
    density = torch.ones_like(from_[:, 0])
    ray, u0, u1, u2, by_light = (x[found] for x in (ray, u0, u1, u2, by_light))
    p = ScatterPoint.of(surface[rows.flatten()[found].long()], -directions[ray])
    from_[found] = origins[ray] + depth.flatten()[found][:, None] * directions[ray] + offset * p.normal
    along[found], density[found] = _scatter(p, light, light_from_world, strategy, (u0, u1, u2), by_light)
    return from_, along, density


def gather_scattered(  # noqa: PLR0917 - the order of the operator's arguments
    directions: Tensor,
    rows: Tensor,
    share: Tensor,
    surface: Tensor,
    light: list[Tensor],
    light_from_world: list[float],
    drawn: list[Tensor],
    visible: Tensor,
    indirect: Tensor | None,
) -> Tensor:
    """Sums [R, 7] over the draws of each ray."""
    ray = torch.arange(rows.shape[1], device=rows.device).repeat(rows.shape[0])
    along, density = drawn
    wanted = (rows.flatten() >= 0) & (along != 0).any(-1)
    ray, along = ray[wanted], along[wanted]
    p = ScatterPoint.of(surface[rows.flatten()[wanted].long()], -directions[ray])
    diffuse, specular = microfacet.lobes_cosine(p, along)
    open_sky = visible[wanted].to(along.dtype)
    arriving = radiance(light, light_from_world, along) * open_sky[:, None]
    if indirect is not None:
        arriving = arriving + indirect[wanted]
    part = share.flatten()[wanted] / density[wanted]
    arriving = arriving * part[:, None]
    values = [
        arriving * microfacet.scattered_cosine(p, diffuse, specular),
        arriving * (diffuse[:, None] + specular),
        (part * diffuse * open_sky)[:, None],
    ]
    return directions.new_zeros(len(directions), 7).index_add(0, ray, torch.cat(values, -1))


def scatter_once(
    surface: Tensor,
    view: Tensor,
    light: list[Tensor],
    light_from_world: list[float],
    strategy: int,
    seed: Tensor,
) -> tuple[Tensor, Tensor]:
    """One direction [N, 3] of each point, and the radiance [N, 3] scattered from there if nothing is between."""
    words = philox.philox(torch.arange(len(view), device=view.device), 0, JITTER, seed[0])
    uniforms = tuple(philox.uniform(word, view.dtype) for word in words[:3])
    by_light = words[3] >= 2**31 if strategy == MIXTURE else torch.full_like(words[3], strategy == LIGHT) > 0
    p = ScatterPoint.of(surface, view)
    directions, density = _scatter(p, light, light_from_world, strategy, uniforms, by_light)
    scattered = microfacet.scattered_cosine(p, *microfacet.lobes_cosine(p, directions))
    return directions, scattered * radiance(light, light_from_world, directions) / density[:, None]


def surface_at_hits(  # noqa: PLR0917 - the order of the operator's arguments
    hits: Tensor,
    face: Tensor,
    barycentric: Tensor,
    directions: Tensor,
    faces: Tensor,
    vertices: Tensor,
    canonical: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Canonical and world position, normal and direction back [M, 3] of the rays ``hits`` [M]."""
    second, third = barycentric[hits].unbind(-1)
    weights = torch.stack([1 - second - third, second, third], -1)[..., None]
    corners = faces[face[hits].clamp_min(0)]
    posed = vertices[corners]
    view = -directions[hits]
    normal = normalize(torch.linalg.cross(posed[:, 1] - posed[:, 0], posed[:, 2] - posed[:, 0]), dim=-1)
    normal = torch.where((normal * view).sum(-1, keepdim=True) < 0, -normal, normal)
    return (canonical[corners % len(canonical)] * weights).sum(1), (posed * weights).sum(1), normal, view


# ---- Directions -----------------------------------------------------------------------------------------------------


def strata_rows(count: int) -> int:
    """Rows of the grid of ``count`` cells that is closest to 1 : 2."""
    rows = max(1, round((count / 2) ** 0.5))
    while count % rows:
        rows -= 1
    return rows


def _stratified(
    strategy: int, seed: Tensor, ray: Tensor, k: Tensor, draws: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Three uniforms [N] of draw ``k`` [N] of ``ray`` [N], and whether the light chooses."""
    group = ray // RAYS_OF_ORDER
    by_light = torch.full_like(ray, draws * (strategy == LIGHT))
    if strategy == MIXTURE:
        by_light = draws // 2 + (philox.philox(ray, 0, ODD, seed)[0] & draws % 2)
    slot = philox.permuted(k, torch.full_like(k, draws), philox.philox(group, 0, ORDER, seed))
    of_light = slot < by_light
    count = torch.where(of_light, by_light, draws - by_light)
    cell = torch.where(of_light, slot, slot - by_light)
    rows = torch.zeros_like(count)
    for number in count.unique().tolist():
        rows = torch.where(count == number, strata_rows(number), rows)
    columns = count // rows
    line = philox.permuted(cell, count, philox.philox(ray, of_light.long(), LOBE, seed))
    jitter = [philox.uniform(word, dtype) for word in philox.philox(ray, k, JITTER, seed)]
    u0, u1 = (cell // columns + jitter[0]) / rows, (cell % columns + jitter[1]) / columns
    return u0, u1, (line + jitter[2]) / count, of_light


def _scatter(
    p: ScatterPoint,
    light: list[Tensor],
    light_from_world: list[float],
    strategy: int,
    uniforms: tuple[Tensor, ...],
    by_light: Tensor,
) -> tuple[Tensor, Tensor]:
    """Directions [N, 3], zero below the surface, and their densities [N]."""
    u0, u1, u2 = uniforms
    own = microfacet.sample_cosine(p.normal, u0, u1) if strategy == COSINE else microfacet.sample_lobes(p, u0, u1, u2)
    directions = torch.where(by_light[:, None], sample(light, light_from_world, u0, u1, u2), own)
    seen = microfacet.above(p, directions)
    densities = []
    if strategy in (LIGHT, MIXTURE):
        densities.append(pdf(light, light_from_world, directions))
    if strategy != LIGHT:
        densities.append((microfacet.pdf_cosine if strategy == COSINE else microfacet.pdf_lobes)(p, directions))
    density = torch.stack(densities).mean(0).clamp_min(1e-6)
    return torch.where(seen[:, None], directions, 0), torch.where(seen, density, 1)


# ---- Lights: a map of four tensors, Gaussians of two ----------------------------------------------------------------


def radiance(light: list[Tensor], light_from_world: list[float], directions: Tensor) -> Tensor:
    """Linear radiance [N, 3] along ``directions`` [N, 3]."""
    if len(light) == 4:
        return sample_equirect(light[0], _places(light_from_world, directions))
    return _falloff(light[0], directions) @ light[0][:, 4:7]


def pdf(light: list[Tensor], light_from_world: list[float], directions: Tensor) -> Tensor:
    """Density [N] of :func:`sample`."""
    if len(light) == 2:
        return _falloff(light[0], directions) @ light[0][:, 7]
    height, width = light[3].shape
    u, v = _places(light_from_world, directions).unbind(-1)
    return light[3][(v * height).long().clamp(0, height - 1), (u * width).long().clamp(0, width - 1)]


def sample(light: list[Tensor], light_from_world: list[float], u0: Tensor, u1: Tensor, u2: Tensor) -> Tensor:
    """Directions [N, 3] by the light's energy."""
    if len(light) == 2:
        lobes, cumulative = light
        lobe = lobes[torch.searchsorted(cumulative, u0.contiguous()).clamp_max(len(lobes) - 1)]
        cosine = 1 + torch.log1p(u1 * torch.expm1(-2 * lobe[:, 3])) / lobe[:, 3]
        return microfacet.to_world(lobe[:, :3], microfacet.at_height(cosine, u2))
    _, row_cdf, column_cdf, density = light
    height, width = density.shape
    row, down = _invert(row_cdf[None], torch.zeros_like(u0).long(), u0)
    column, across = _invert(column_cdf.reshape(density.shape), row, u1)
    edges = -torch.cos(pi * torch.stack([row, row + 1]).double() / height)
    y, longitude = torch.lerp(edges[0], edges[1], down), 2 * pi * ((column + across) / width - 0.5)
    radius = (1 - y * y).clamp_min(0).sqrt()
    local = torch.stack([radius * longitude.sin(), y, radius * longitude.cos()], -1)
    return (local @ local.new_tensor(light_from_world).reshape(3, 3)).to(u0.dtype)


def _invert(table: Tensor, row: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Entry [N] of ``row`` [N] of cumulative ``table`` [H, W] where ``uniforms`` [N] lie, and the place inside."""
    flat, width = table.flatten(), table.shape[1]
    wanted = uniforms.double() + row
    entry = (torch.searchsorted(flat, wanted, right=True) - row * width).clamp(0, width - 1)
    index = row * width + entry
    below = torch.where(entry > 0, flat[(index - 1).clamp_min(0)], row.double())
    return entry, ((wanted - below) / (flat[index] - below).clamp_min(1e-300)).clamp(0, 1)


def _places(light_from_world: list[float], directions: Tensor) -> Tensor:
    x, y, z = (directions @ directions.new_tensor(light_from_world).reshape(3, 3).T).unbind(-1)
    return torch.stack([torch.atan2(x, z) / (2 * pi) + 0.5, torch.atan2(y, torch.hypot(x, z)) / pi + 0.5], -1)


def _falloff(lobes: Tensor, directions: Tensor) -> Tensor:
    return torch.exp(lobes[:, 3] * (directions @ lobes[:, :3].T - 1))
