"""Normals of deformed surfaces, and the basis by which reflected directions enter a network. No gradient."""

import torch
from torch import Tensor

from gs_ir._library import define
from gs_ir.reference import normals as reference

define("carry_normals", "(Tensor jacobian, Tensor gradient) -> Tensor", reference.carry_normals)
define("reflected_harmonics", "(Tensor normal, Tensor view) -> Tensor", reference.reflected_harmonics)


@torch.no_grad()
def carry_normals(jacobian: Tensor, gradient: Tensor) -> Tensor:
    """Unit normals [N, 3] of a surface that was carried along: J^-T g, for Jacobians of positive determinant.

    Args:
        jacobian: [N, 3, 3] d carried / d original.
        gradient: [N, 3] of the surface's distance, original space, any length.

    Raises:
        ValueError: shapes disagree.
    """
    if gradient.shape[1:] != (3,) or jacobian.shape != (len(gradient), 3, 3):
        found = f"{tuple(jacobian.shape)} and {tuple(gradient.shape)}"
        raise ValueError(f"carry_normals: jacobian [N, 3, 3] and gradient [N, 3] expected, found {found}")
    return torch.ops.gs_ir.carry_normals(jacobian.contiguous(), gradient.contiguous())


@torch.no_grad()
def reflected_harmonics(normal: Tensor, view: Tensor) -> Tensor:
    """Spherical harmonics of bands 0 to 3 along mirrored view directions, in the order of the reference's basis.

    Args:
        normal: [N, 3] unit.
        view: [N, 3] unit, to the viewer.

    Returns:
        [N, 16]

    Raises:
        ValueError: shapes disagree.
    """
    if normal.shape != view.shape or normal.shape[1:] != (3,):
        raise ValueError(f"reflected_harmonics: two [N, 3] expected, found {tuple(normal.shape)}, {tuple(view.shape)}")
    return torch.ops.gs_ir.reflected_harmonics(normal.contiguous(), view.contiguous())
