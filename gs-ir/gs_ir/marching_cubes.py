"""Triangle meshes of the level sets of lattices, and their connected parts."""

import torch
from torch import Tensor

from gs_ir._library import define
from gs_ir.reference import marching_cubes as reference

define("marching_cubes", "(Tensor values) -> (Tensor, Tensor)", reference.marching_cubes)
define("mesh_parts", "(Tensor faces, int vertices) -> Tensor", reference.mesh_parts)


@torch.library.register_fake("gs_ir::marching_cubes")
def _(values: Tensor) -> tuple[Tensor, Tensor]:
    context = torch.library.get_ctx()
    vertices = values.new_empty(context.new_dynamic_size(), 3)
    return vertices, values.new_empty(context.new_dynamic_size(), 3, dtype=torch.int64)


@torch.library.register_fake("gs_ir::mesh_parts")
def _(faces: Tensor, vertices: int) -> Tensor:
    return faces.new_empty(vertices)


def marching_cubes(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mesh of the surface between negative and other values (Lorensen and Cline 1987).

    Vertices are shared, and cells agree on how they join them: where the surface does not leave the lattice, each edge
    has two triangles that run along it in opposite directions. On an ambiguous face negative corners are kept apart.
    On a GPU the host waits once, for the sizes.

    Args:
        values: [Z, Y, X] float32 or float64, negative inside; NaN counts as outside.

    Returns:
        vertices [V, 3] in lattice units (x, y, z), where values are linear along an edge of the lattice, and faces
        [F, 3] int64, anticlockwise seen from outside; both in the order of the lattice. Triangles are degenerate where
        values are exactly zero. No gradient.

    Raises:
        ValueError: ``values`` is no lattice.
    """
    if values.ndim != 3 or not values.is_floating_point():
        found = f"{tuple(values.shape)} {values.dtype}"
        raise ValueError(f"marching_cubes: floating-point values [Z, Y, X] expected, found {found}")
    return torch.ops.gs_ir.marching_cubes(values.detach().contiguous())


def mesh_parts(faces: Tensor, vertices: int) -> Tensor:
    """The smallest vertex [vertices] int64 of each vertex's connected part.

    Args:
        faces: [F, 3] int64.
        vertices: how many there are.

    Raises:
        ValueError: ``faces`` are no triangles.
    """
    if faces.ndim != 2 or faces.shape[1] != 3:
        raise ValueError(f"mesh_parts: faces [F, 3] expected, found {tuple(faces.shape)}")
    return torch.ops.gs_ir.mesh_parts(faces.contiguous(), vertices)
