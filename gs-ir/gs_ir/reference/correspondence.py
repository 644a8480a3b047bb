"""Reference of :mod:`gs_ir.correspondence`."""

import torch
from torch import Tensor

from gs_ir.reference.skinning import cell_coordinates, sample_transforms

POINTS_PER_CHUNK = 256
SEED_SEPARATION = 0.03
"""Metres in canonical space below which two posed points are the same seed."""
SHEET_STRETCH = 2.0
"""Points of one surface sheet are at most this much farther apart in canonical than in posed space."""
DUPLICATE_DISTANCE = 1e-3
STEP_VOXELS = 4.0
"""Longest Newton step, in voxels of the transform volume: the interpolant is linear only inside a voxel."""
SMALLEST_DETERMINANT = 1e-6


def build_seeds(
    posed: Tensor, canonical: Tensor, resolution: int, radius: float, max_seeds: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Seeds [B, R, R, R, K, 3], counts [B, R, R, R] (uint8) and boxes [B, 2, 3], frame by frame."""
    low, high = posed.amin(1) - radius, posed.amax(1) + radius
    boxes = torch.stack([low, high], 1)
    frames = [
        _frame_seeds(p, canonical, b, resolution=resolution, radius=radius, max_seeds=max_seeds)
        for p, b in zip(posed, boxes)
    ]
    seeds, counts = zip(*frames)
    return torch.stack(seeds), torch.stack(counts), boxes


def _frame_seeds(
    posed: Tensor, canonical: Tensor, box: Tensor, *, resolution: int, radius: float, max_seeds: int
) -> tuple[Tensor, Tensor]:
    cells, points, distances = _cells_near_points(posed, box, resolution, radius)
    order = torch.sort(distances, stable=True).indices
    order = order[torch.sort(cells[order], stable=True).indices]
    cells, points = cells[order], points[order]
    seeds = posed.new_zeros(resolution**3, max_seeds, 3)
    counts = torch.zeros(resolution**3, dtype=torch.uint8, device=posed.device)
    winner = torch.zeros(resolution**3, dtype=torch.int64, device=posed.device)
    for k in range(max_seeds):
        first = torch.ones_like(cells, dtype=torch.bool)
        first[1:] = cells[1:] != cells[:-1]
        seeds[cells[first], k] = canonical[points[first]]
        counts[cells[first]] = k + 1
        winner[cells[first]] = points[first]
        kept = winner[cells]
        apart = (canonical[points] - canonical[kept]).norm(dim=-1)
        apart_posed = (posed[points] - posed[kept]).norm(dim=-1)
        other_sheet = (apart > SEED_SEPARATION) & (apart > SHEET_STRETCH * apart_posed)
        cells, points = cells[other_sheet], points[other_sheet]
    grid = (resolution,) * 3
    return seeds.reshape(*grid, max_seeds, 3), counts.reshape(grid)


def _cells_near_points(posed: Tensor, box: Tensor, resolution: int, radius: float) -> tuple[Tensor, Tensor, Tensor]:
    """All pairs (cell, point) within ``radius`` of each other: flat cell, point, squared distance to the centre."""
    size = (box[1] - box[0]) / resolution
    reach = (radius / size).ceil().long() + 1
    ranges = [torch.arange(-int(r), int(r) + 1, device=posed.device) for r in reach]
    window = torch.cartesian_prod(*ranges)
    home = ((posed - box[0]) / size).floor().long()
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for start in range(0, posed.shape[0], POINTS_PER_CHUNK):
        chunk = posed[start : start + POINTS_PER_CHUNK]
        cell = home[start : start + POINTS_PER_CHUNK, None] + window
        centre = box[0] + (cell + 0.5) * size
        offset = (chunk[:, None] - centre).abs()
        to_cell = (offset - 0.5 * size).clamp(min=0).square().sum(-1)
        near = (to_cell <= radius**2) & (cell >= 0).all(-1) & (cell < resolution).all(-1)
        flat = (cell[..., 2] * resolution + cell[..., 1]) * resolution + cell[..., 0]
        point = torch.arange(start, start + chunk.shape[0], device=posed.device)[:, None].expand_as(flat)
        found.append((flat[near], point[near], offset.square().sum(-1)[near]))
    cells, points, distances = zip(*found)
    return torch.cat(cells), torch.cat(points), torch.cat(distances)


def skin_with_jacobian(points: Tensor, volume: Tensor, box: Tensor, frame_index: Tensor) -> tuple[Tensor, Tensor]:
    """Posed points y = T(x) [x; 1] and the exact Jacobian dy/dx = T_3x3 + sum_k dT/dx_k [x; 1] e_k^T.

    Args:
        points: [N, 3] canonical.
        volume: [B, Z, Y, X, 12].
        box: [2, 3].
        frame_index: [N].

    Returns:
        [N, 3] and [N, 3, 3]; outside the box T is constant along the clamped axes.
    """
    frames, nz, ny, nx, channels = volume.shape
    base, fraction = cell_coordinates(points, box, (nz, ny, nx))
    flat = volume.reshape(frames * nz * ny * nx, channels)
    first = ((frame_index * nz + base[:, 2]) * ny + base[:, 1]) * nx + base[:, 0]
    inside = (points >= box[0]) & (points <= box[1])
    last = points.new_tensor([nx - 1, ny - 1, nz - 1])
    slope = torch.where(inside, last / (box[1] - box[0]), torch.zeros_like(points))
    homogeneous = torch.cat([points, torch.ones_like(points[:, :1])], -1)[:, :, None]
    posed, jacobian = torch.zeros_like(points), points.new_zeros(points.shape[0], 3, 3)
    for corner in torch.cartesian_prod(*[torch.arange(2)] * 3).to(points.device):
        transform = flat[first + (corner[2] * ny + corner[1]) * nx + corner[0]].reshape(-1, 3, 4)
        image = (transform @ homogeneous)[..., 0]
        factors = 1 - corner + (2 * corner - 1) * fraction
        weight = factors.prod(-1, keepdim=True)
        others = torch.stack([factors[:, [1, 2]], factors[:, [0, 2]], factors[:, [0, 1]]], 1).prod(-1)
        weight_slope = (2 * corner - 1) * others * slope
        posed = posed + weight * image
        jacobian = jacobian + weight[..., None] * transform[..., :3] + image[:, :, None] * weight_slope[:, None]
    return posed, jacobian


def newton_step(jacobian: Tensor, residual: Tensor, longest: Tensor) -> Tensor:
    """Solve J s = -r [N, 3], shortened to ``longest``; where J is singular, steepest descent with its transpose."""
    columns = jacobian.unbind(-1)
    cofactors = torch.stack([torch.linalg.cross(columns[(i + 1) % 3], columns[(i + 2) % 3]) for i in range(3)], -2)
    determinant = (columns[0] * cofactors[:, 0]).sum(-1)
    solvable = determinant.abs() > SMALLEST_DETERMINANT
    safe = torch.where(solvable, determinant, torch.ones_like(determinant))
    matrix = torch.where(solvable[:, None, None], cofactors / safe[:, None, None], jacobian.transpose(-1, -2))
    step = -(matrix @ residual[..., None])[..., 0]
    length = step.norm(dim=-1, keepdim=True)
    return step * (longest / length.clamp(min=1e-30)).clamp(max=1)


def find_correspondences(
    points: Tensor,
    frame_index: Tensor,
    grid: list[Tensor],
    volume: Tensor,
    box: Tensor,
    *,
    iterations: int,
    tolerance: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Roots [N, K, 3], validity [N, K] and Jacobians [N, K, 3, 3] of all seeds of each point's cell."""
    seeds, counts, boxes = grid
    resolution = points.new_tensor(counts.shape[:0:-1])
    frame_box = boxes[frame_index]
    scaled = (points - frame_box[:, 0]) / (frame_box[:, 1] - frame_box[:, 0]) * resolution
    inside = ((scaled >= 0) & (scaled < resolution)).all(-1)
    cell = torch.where(inside[:, None], scaled, torch.zeros_like(scaled)).long()
    where = (frame_index, cell[:, 2], cell[:, 1], cell[:, 0])
    slots = torch.arange(seeds.shape[-2], device=points.device)
    wanted = inside[:, None] & (slots < counts[where][:, None])

    canonical = torch.zeros_like(seeds[where])
    jacobian = torch.eye(3, dtype=points.dtype, device=points.device).repeat(*canonical.shape[:2], 1, 1)
    row, slot = wanted.nonzero(as_tuple=True)
    target, frame = points[row], frame_index[row]
    start = seeds[where][row, slot]
    root, at_root, converged = _solve(
        start, target, frame, volume=volume, box=box, iterations=iterations, tolerance=tolerance
    )
    row, slot = row[converged], slot[converged]
    canonical[row, slot], jacobian[row, slot] = root[converged], at_root[converged]
    valid = torch.zeros_like(wanted)
    valid[row, slot] = True
    for later in range(1, valid.shape[1]):
        same = (canonical[:, :later] - canonical[:, later, None]).norm(dim=-1) < DUPLICATE_DISTANCE
        valid[:, later] &= ~(same & valid[:, :later]).any(-1)
    identity = torch.eye(3, dtype=points.dtype, device=points.device)
    canonical = torch.where(valid[..., None], canonical, torch.zeros_like(canonical))
    return canonical, valid, torch.where(valid[..., None, None], jacobian, identity)


def _solve(
    start: Tensor, target: Tensor, frame: Tensor, *, volume: Tensor, box: Tensor, iterations: int, tolerance: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Newton from ``start`` [S, 3]; the first step takes the blended transform for constant."""
    extent = (box[1] - box[0]) / box.new_tensor([n - 1 for n in volume.shape[3:0:-1]])
    longest = STEP_VOXELS * extent.amax()
    transform = sample_transforms(start, volume, box, frame)
    residual = (transform[:, :, :3] @ start[:, :, None])[..., 0] + transform[:, :, 3] - target
    point = start + newton_step(transform[:, :, :3], residual, longest)
    for iteration in range(1, iterations + 1):
        posed, jacobian = skin_with_jacobian(point, volume, box, frame)
        residual = posed - target
        converged = residual.norm(dim=-1) < tolerance
        if iteration < iterations:
            step = newton_step(jacobian, residual, longest)
            point = torch.where(converged[:, None], point, point + step)
    inside = ((point >= box[0]) & (point <= box[1])).all(-1)
    return point, jacobian, converged & inside
