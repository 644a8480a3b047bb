"""Point distillation: the loss that was dead, and its cache."""

import torch

from explicit_branch.distillation.points import PointTargets, surface_deviation


def test_position_loss_pulls_towards_the_surface(avatar, teacher):
    """Fails when the target follows the surfel, as published: the gradient would be exactly zero."""
    with torch.no_grad():
        normals = teacher.query_canonical(avatar.surfels.positions).normal
        avatar.surfels.positions += 0.003 * normals
    loss = PointTargets(teacher).losses(avatar.surfels)["pos_distill"]
    (gradient,) = torch.autograd.grad(loss, avatar.surfels.positions)
    along = (gradient * normals).sum(-1) * len(avatar.surfels)
    # Huber beyond 2 mm: slope 1 per metre, in units of millimetres.
    assert float(along.median()) == 1000 or abs(float(along.median()) - 1000) < 50


def test_cached_distance_is_extrapolated(avatar, teacher):
    """Fails when a surfel that moves between refreshes sees its old distance."""
    targets = PointTargets(teacher)
    targets.losses(avatar.surfels)
    with torch.no_grad():
        normals = teacher.query_canonical(avatar.surfels.positions).normal
        avatar.surfels.positions += 0.001 * normals
    asked = teacher.queries
    cached = float(targets.losses(avatar.surfels)["pos_distill"].detach())
    assert teacher.queries == asked
    targets.refresh()
    fresh = float(targets.losses(avatar.surfels)["pos_distill"].detach())
    assert teacher.queries == asked + 1
    assert abs(cached - fresh) < 0.05 * fresh


def test_perfect_student_has_no_point_loss(avatar, teacher):
    """Fails when teacher and student disagree about a convention: sign of the normal, order of the materials."""
    terms = PointTargets(teacher).losses(avatar.surfels)
    # The nearest vertex may change when a point is moved onto its plane: a residue of hundredths of a millimetre.
    assert max(float(t.detach()) for t in terms.values()) < 1e-2
    deviation = surface_deviation(avatar.surfels, teacher)
    assert deviation["surface_mm"] < 0.1
    assert deviation["normal_degrees"] < 2
