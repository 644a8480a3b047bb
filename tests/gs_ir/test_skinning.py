"""Lookup of blended transforms: affine fields in closed form, native against reference, adjoints by differences."""

import pytest
import torch

from gs_ir.reference import skinning as reference
from gs_ir.skinning import blend_transforms, sample_transforms

BOX = [[-1.0, -0.5, -2.0], [1.0, 1.5, 0.5]]


def _scene(dtype: torch.dtype, points: int = 400, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    volume = torch.randn(3, 4, 5, 6, 12, generator=generator, dtype=dtype)
    query = torch.randn(points, 3, generator=generator, dtype=dtype)  # a good part lies outside the box
    frame = torch.randint(0, 3, (points,), generator=generator)
    return query, volume, torch.tensor(BOX, dtype=dtype), frame


def test_affine_field_is_reproduced():
    """Fails when axes are swapped, corners are not aligned with the box, or frames are mixed up."""
    box = torch.tensor(BOX, dtype=torch.float64)
    axes = [
        torch.linspace(float(box[0, a]), float(box[1, a]), n, dtype=torch.float64) for a, n in ((2, 4), (1, 5), (0, 6))
    ]
    lattice = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flip(-1)
    slope = torch.randn(2, 3, 12, dtype=torch.float64)
    offset = torch.randn(2, 1, 1, 1, 12, dtype=torch.float64)
    volume = torch.einsum("zyxk,bkc->bzyxc", lattice, slope) + offset
    points = box[0] + torch.rand(100, 3, dtype=torch.float64) * (box[1] - box[0])
    frame = torch.randint(0, 2, (100,))
    expected = (torch.einsum("nk,nkc->nc", points, slope[frame]) + offset[frame, 0, 0, 0]).reshape(-1, 3, 4)
    torch.testing.assert_close(sample_transforms(points, volume, box, frame), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_reference(dtype):
    """Fails when the native corner order, border clamp or one of the scatter loops differs from the definition."""
    query, volume, box, frame = _scene(dtype)
    grad = torch.randn(query.shape[0], 3, 4, dtype=dtype)
    torch.testing.assert_close(
        sample_transforms(query, volume, box, frame), reference.sample_transforms(query, volume, box, frame)
    )
    for name in ("sample_transforms_backward_points", "sample_transforms_backward_volume"):
        native = getattr(torch.ops.gs_ir, name)(grad, query, volume, box, frame)
        expected = getattr(reference, name)(grad, query, volume, box, frame)
        torch.testing.assert_close(native, expected, rtol=1e-4, atol=1e-4 if dtype == torch.float32 else 1e-10)


def test_gradcheck():
    """Fails when an adjoint forgets the scale of an axis or writes to a neighbouring corner."""
    query, volume, box, frame = _scene(torch.float64, points=12)
    query.requires_grad_(), volume.requires_grad_()
    assert torch.autograd.gradcheck(lambda q, v: sample_transforms(q, v, box, frame), (query, volume), fast_mode=True)


def test_gradient_is_zero_beyond_the_border():
    """Fails when a clamped axis still passes a slope."""
    _, volume, box, _ = _scene(torch.float64)
    point = torch.tensor([[5.0, 0.3, -0.4]], dtype=torch.float64, requires_grad=True)
    sample_transforms(point, volume, box, torch.zeros(1, dtype=torch.int64)).sum().backward()
    assert point.grad[0, 0] == 0
    assert (point.grad[0, 1:] != 0).all()


def test_volume_gradient_does_not_depend_on_threads():
    """Fails when two threads add to the same voxel, which loses additions of order 1."""
    query, volume, box, frame = _scene(torch.float64, points=200000)
    volume, frame = volume[:1], torch.zeros_like(frame)
    grad = torch.randn(query.shape[0], 3, 4, dtype=torch.float64)
    threads = torch.get_num_threads()
    results = []
    for count in (1, 2):
        torch.set_num_threads(count)
        results.append(torch.ops.gs_ir.sample_transforms_backward_volume(grad, query, volume, box, frame))
    torch.set_num_threads(threads)
    torch.testing.assert_close(*results)


def test_only_wanted_gradients_are_computed():
    """Fails when the gradient of the large volume is made although nothing asked for it."""
    query, volume, box, frame = _scene(torch.float64, points=5)
    query.requires_grad_()
    sample_transforms(query, volume, box, frame).sum().backward()
    assert query.grad is not None
    assert volume.grad is None


def test_operator_registration():
    """Fails when schema, fake kernel or autograd registration contradict the kernel."""
    query, volume, box, frame = _scene(torch.float64, points=6)
    query.requires_grad_(), volume.requires_grad_()
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(torch.ops.gs_ir.sample_transforms.default, (query, volume, box, frame), test_utils=checks)


def test_blend_transforms():
    """Fails when rows and columns of the transforms are exchanged or the last row is kept."""
    weights = torch.rand(2, 3, 4, 5, dtype=torch.float64)
    transforms = torch.randn(2, 5, 4, 4, dtype=torch.float64)
    blended = blend_transforms(weights, transforms)
    expected = sum(weights[1, 2, 3, j] * transforms[1, j] for j in range(5))[:3]
    torch.testing.assert_close(blended[1, 1, 2, 3].reshape(3, 4), expected)


def test_blend_then_sample_equals_sampled_weights():
    """The claim of the module: interpolating blended transforms is blending with interpolated weights."""
    weights = torch.rand(4, 5, 6, 12, dtype=torch.float64)
    transforms = torch.randn(1, 12, 4, 4, dtype=torch.float64)
    box = torch.tensor(BOX, dtype=torch.float64)
    points, frame = torch.rand(50, 3, dtype=torch.float64) - 0.5, torch.zeros(50, dtype=torch.int64)
    at_points = sample_transforms(points, weights[None], box, frame).reshape(50, 12)
    expected = torch.einsum("nj,jrc->nrc", at_points, transforms[0, :, :3])
    torch.testing.assert_close(sample_transforms(points, blend_transforms(weights, transforms), box, frame), expected)


def test_without_points():
    """No points give no transforms, and a zero gradient for the volume."""
    _, volume, box, _ = _scene(torch.float32)
    volume.requires_grad_()
    out = sample_transforms(torch.empty(0, 3), volume, box, torch.empty(0, dtype=torch.int64))
    assert out.shape == (0, 3, 4)
    out.sum().backward()
    assert not volume.grad.any()


def test_wrong_shapes_are_refused():
    """Fails when a volume of another layout is read as if it were channel last."""
    query, volume, box, frame = _scene(torch.float32)
    with pytest.raises(ValueError, match="volume"):
        sample_transforms(query, volume.permute(0, 4, 1, 2, 3), box, frame)
    with pytest.raises(ValueError, match="2\\*\\*31"):
        sample_transforms(query, volume[:, :1, :1, :1].expand(-1, 600, 600, 600, -1), box, frame)
    with pytest.raises(ValueError, match="points"):
        sample_transforms(query[:, :2], volume, box, frame)
    with pytest.raises(ValueError, match="bone_transforms"):
        blend_transforms(torch.rand(2, 2, 2, 5), torch.rand(1, 4, 4, 4))


def test_strided_inputs():
    """Fails when memory is read as if an expanded index or a transposed volume were contiguous."""
    query, volume, box, _ = _scene(torch.float64)
    expected = sample_transforms(query, volume, box, torch.full((len(query),), 2))
    strided = volume.permute(0, 3, 2, 1, 4).contiguous().permute(0, 3, 2, 1, 4)
    one = torch.full((1,), 2).expand(len(query))
    torch.testing.assert_close(sample_transforms(query.T.contiguous().T, strided, box, one), expected)


def test_frame_outside_the_volume_is_refused():
    """Fails when a wrong frame index reads foreign memory."""
    query, volume, box, frame = _scene(torch.float32)
    with pytest.raises(IndexError):
        sample_transforms(query, volume, box, frame + 3)
