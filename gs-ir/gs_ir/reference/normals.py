"""Reference of :mod:`gs_ir.normals`."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from gs_ir.reference.spherical_harmonics import basis


def carry_normals(jacobian: Tensor, gradient: Tensor) -> Tensor:
    """Unit J^-T g [N, 3]: the cofactor matrix has cross products of the columns of J."""
    columns = jacobian.unbind(-1)
    cofactors = [torch.linalg.cross(columns[k - 2], columns[k - 1]) for k in range(3)]
    carried = sum(cofactor * g[:, None] for cofactor, g in zip(cofactors, gradient.unbind(-1), strict=True))
    return normalize(torch.as_tensor(carried), dim=-1, eps=1e-12)


def reflected_harmonics(normal: Tensor, view: Tensor) -> Tensor:
    """Bands 0 to 3 [N, 16] along 2 (n.v) n - v."""
    return basis(2 * (normal * view).sum(-1, keepdim=True) * normal - view, 3)
