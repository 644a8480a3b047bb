"""Posed and seen surfels: native against reference, adjoint against finite differences, degenerate surfels."""

import pytest
import torch

from gs_ir.posing import PosingRules
from tests.gs_ir.posing_scenes import ATTRIBUTES, RULES, by_reference, inputs, native

TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-5}
NAMES = [rules.normals for rules in RULES]


def _values_and_gradients(pose, tensors, rules, chosen=slice(None)):
    leaves = [x.detach().requires_grad_() for x in tensors[:ATTRIBUTES]]
    outputs = pose(*leaves, *tensors[ATTRIBUTES:], rules=rules)
    generator = torch.Generator().manual_seed(3)
    cotangents = [torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x) for x in outputs]
    gradients = torch.autograd.grad(outputs[chosen], leaves, cotangents[chosen], materialize_grads=True)
    return *outputs, *gradients


def _assert_same(found, expected, tolerance):
    for name, (a, b) in enumerate(zip(found, expected, strict=True)):
        largest = 1 + float(b.detach().abs().max()) if b.numel() else 1
        torch.testing.assert_close(
            a / largest, b / largest, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("count", [0, 1, 700])
@pytest.mark.parametrize("rules", RULES, ids=NAMES)
def test_equals_reference(rules, count, dtype):
    """Fails when a column, a rule, a floor or any term of the adjoint differs: values and gradients of everything."""
    tensors = inputs(count, dtype)
    found, expected = (_values_and_gradients(pose, tensors, rules) for pose in (native, by_reference))
    _assert_same(found, expected, TOLERANCE[dtype])


@pytest.mark.parametrize("output", range(9))
def test_each_output_has_its_gradient(output):
    """Fails when a missing cotangent is not read as zero, or two cotangents are swapped."""
    tensors = inputs(40, torch.float64, seed=1)
    chosen = slice(output, output + 1)
    found, expected = (_values_and_gradients(pose, tensors, RULES[0], chosen) for pose in (native, by_reference))
    _assert_same(found, expected, 1e-11)


@pytest.mark.parametrize("rules", RULES, ids=NAMES)
def test_gradcheck(rules):
    """Fails when the adjoint is not the derivative; surfels away from kinks."""
    tensors = inputs(6, torch.float64, seed=2)
    leaves = [x.requires_grad_() for x in tensors[:ATTRIBUTES]]
    rest = tensors[ATTRIBUTES:]
    assert torch.autograd.gradcheck(lambda *x: native(*x, *rest, rules=rules), leaves)


def _degenerate(dtype):
    """A quaternion of zeros, no rotation, a disc without area, a surfel at the camera, and one without weights."""
    positions, log_scales, quaternions, logits, weights, bones, camera, intrinsics = inputs(5, dtype)
    quaternions[0] = 0
    quaternions[1] = torch.tensor([1.0, 0, 0, 0])
    log_scales[2] = -200.0
    center = -camera[:3, :3].T @ camera[:3, 3]
    bones[0] = torch.eye(3, 4)
    weights[3], positions[3] = torch.eye(bones.shape[0])[0], center
    weights[4] = 0
    return positions, log_scales, quaternions, logits, weights, bones, camera, intrinsics


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_degenerate_surfels_stay_finite(dtype):
    """Fails when a length of zero is divided by: values as the reference's, gradients finite."""
    tensors = _degenerate(dtype)
    found, expected = (_values_and_gradients(pose, tensors, RULES[0], slice(0, 3)) for pose in (native, by_reference))
    # At the camera the direction to it is the rounding of zero over the floor.
    seen = slice(0, 5)
    _assert_same(found[seen], expected[seen], TOLERANCE[dtype])
    assert all(bool(x.isfinite().all()) for x in found)
    assert torch.equal(found[4][:2], torch.tensor([[0.0, 0, 1], [0, 0, 1]], dtype=dtype))
    everything = _values_and_gradients(native, tensors, RULES[0])
    assert all(bool(x.isfinite().all()) for x in everything)


def test_learned_weights_and_bones_get_gradients():
    """Fails when learned skinning or learned poses are treated as constants."""
    tensors = inputs(30, torch.float64)
    learned = [x.requires_grad_() for x in tensors[4:6]]
    outputs = native(*tensors[:4], *learned, *tensors[6:], rules=RULES[0])
    sum(x.square().sum() for x in outputs[:4]).backward()
    assert all(float(x.grad.abs().sum()) > 0 for x in learned)
    with torch.no_grad():
        _assert_same(native(*tensors, rules=RULES[0]), outputs, 1e-11)


def test_wrong_arguments_are_refused():
    """Fails when a transposed tensor or an unknown rule is taken."""
    tensors = list(inputs(3, torch.float32))
    tensors[4] = tensors[4].T
    with pytest.raises(ValueError, match="pose_surfels"):
        native(*tensors, rules=RULES[0])
    with pytest.raises(ValueError, match="normals"):
        PosingRules("flipped")
