"""Triangle meshes."""

import torch
from torch import Tensor


def vertex_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Area-weighted unit normals [..., V, 3] of ``vertices`` [..., V, 3] under ``faces`` [F, 3]; differentiable.

    Vertices without a face get the zero vector.
    """
    first, second, third = (vertices[..., faces[:, corner], :] for corner in range(3))
    face_normals = torch.linalg.cross(second - first, third - first)
    summed = torch.zeros_like(vertices)
    for corner in range(3):
        summed = summed.index_add(-2, faces[:, corner], face_normals)
    return torch.nn.functional.normalize(summed, dim=-1, eps=1e-20)
