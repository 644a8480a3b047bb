"""The surfel set and its PLY file."""

import pytest
import torch

from core.errors import InputError
from explicit_branch.ply import read_ply, write_ply
from explicit_branch.surfels import ALBEDO_RANGE, ROUGHNESS_RANGE, SurfaceMaterial, Surfels, raw_attributes


def some_surfels(count: int = 7, feature_dim: int = 32) -> Surfels:
    """Random surfels with materials inside the teacher's ranges."""
    torch.manual_seed(0)
    material = SurfaceMaterial(
        torch.rand(count, 3) * 0.6 + 0.1, torch.rand(count) * 0.7 + 0.2, torch.rand(count) * 0.8 + 0.1
    )
    raw = raw_attributes(
        torch.randn(count, 3),
        torch.randn(count, 4),
        torch.rand(count) * 0.01 + 0.01,
        opacity=0.9,
        feature_dim=feature_dim,
        material=material,
    )
    raw["features"] = torch.randn(count, feature_dim)
    surfels = Surfels(raw)
    surfels.expected = material
    return surfels


def test_physical_values_survive_the_activations():
    """Fails when an activation and its inverse disagree: materials would not transfer from the teacher."""
    surfels = some_surfels()
    torch.testing.assert_close(surfels.material.albedo, surfels.expected.albedo)
    torch.testing.assert_close(surfels.material.roughness, surfels.expected.roughness)
    torch.testing.assert_close(surfels.material.metallic, surfels.expected.metallic)
    torch.testing.assert_close(surfels.opacities, torch.full((7,), 0.9))


def test_materials_stay_in_the_published_ranges():
    """Fails when a range changes: albedo 0.03-0.80, roughness 0.09-0.99 (student spec 1.1)."""
    surfels = some_surfels()
    with torch.no_grad():
        surfels.albedo_logits.fill_(50)
        surfels.roughness_logits.fill_(-50)
    assert float(surfels.material.albedo.detach().max()) == pytest.approx(ALBEDO_RANGE[1])
    assert float(surfels.material.roughness.detach().min()) == pytest.approx(ROUGHNESS_RANGE[0])
    assert (ALBEDO_RANGE, ROUGHNESS_RANGE) == ((0.03, 0.80), (0.09, 0.99))


def test_ply_has_the_published_columns_and_round_trips(tmp_path):
    """Fails when the order of the 53 columns changes, or when 32-dimensional features are misread as 3 x n SH."""
    surfels = some_surfels()
    path = tmp_path / "cloud.ply"
    write_ply(surfels, path)
    header = path.read_bytes().split(b"end_header")[0].decode()
    names = [line.split()[-1] for line in header.splitlines() if line.startswith("property")]
    assert len(names) == 53
    assert names[:8] == ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_rest_0"]
    last = "f_rest_30 opacity normal_0 normal_1 normal_2 albedo_0 albedo_1 albedo_2 roughness metallic"
    assert names[37:] == [*last.split(), "scale_0", "scale_1", "rot_0", "rot_1", "rot_2", "rot_3"]
    again = read_ply(path)
    for name, value in surfels.raw().items():
        torch.testing.assert_close(again.raw()[name], value, rtol=0, atol=0)


def test_truncated_ply_is_refused(tmp_path):
    """Fails when a cut file is read as fewer surfels."""
    path = tmp_path / "cloud.ply"
    write_ply(some_surfels(), path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match="bytes of data"):
        read_ply(path)
