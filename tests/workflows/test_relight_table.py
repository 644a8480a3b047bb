"""The published table: its columns, its files, and its numbers against hand-computed ones."""

import csv
import math

import pytest
import torch

from core.camera import Camera
from core.evaluation import Surface, mean_of, relit_metrics, surface_metrics
from core.frames import BodyPose, Frame
from core.metrics import valid_rectangle
from workflows.relight_table import as_text, table, write_frame_values, write_table


def frame(**maps):
    """A frame of 40 x 60 whose mask is rows 10-29, columns 20-39, with a valid rectangle two pixels around."""
    mask = torch.zeros(40, 60)
    mask[10:30, 20:40] = 1
    camera = Camera(torch.eye(3), torch.eye(4), 60, 40)
    pose = BodyPose(torch.zeros(3), torch.zeros(69), torch.zeros(3))
    return Frame(0, "0000", camera, pose, mask=mask, valid=valid_rectangle(mask, 5), **maps)


def box():
    rows, columns = torch.zeros(40, 60, dtype=torch.bool), torch.zeros(40, 60, dtype=torch.bool)
    rows[8:32] = True
    columns[:, 18:42] = True
    return rows & columns


def test_relit_image_by_hand():
    """Fails when errors outside the rectangle count, the mean is over another region, or SSIM's data range is lost."""
    truth = frame(image=torch.full((40, 60, 3), 0.5))
    image = torch.full((40, 60, 3), 0.6)
    image[~box()] = 0.0
    found = relit_metrics(image, truth)
    assert found["published_rana/psnr"] == pytest.approx(20, abs=1e-4)
    # Uniform images have no variance: SSIM is its luminance term (2ab + c) / (a^2 + b^2 + c) with c = (0.01 range)^2.
    for name, data_range in (("published_rana", 2.0), ("standard", 1.0)):
        c = (0.01 * data_range) ** 2
        assert found[f"{name}/ssim"] == pytest.approx((0.6 + c) / (0.61 + c), abs=1e-5)
    half_wrong = torch.full((40, 60, 3), 0.5)
    half_wrong[8:20, 18:42] = 0.7
    expected = -10 * math.log10(0.5 * 0.04)
    assert relit_metrics(half_wrong, truth)["published_rana/psnr"] == pytest.approx(expected, abs=1e-4)


def test_surface_by_hand():
    """Fails when albedo is not aligned by one least-squares gain a channel in linear RGB, is compared outside the mask,
    or degrees are averaged as cosines."""
    albedo = torch.full((40, 60, 3), 0.4)
    albedo[10:20, 20:40] = 0.2
    tilted = torch.zeros(40, 60, 3)
    tilted[..., 2] = 1
    normal = tilted.clone()
    angle = math.radians(30)
    tilted[10:20, 20:40] = torch.tensor([math.sin(angle), 0, math.cos(angle)])
    truth = frame(albedo=albedo, normal=normal)
    predicted = torch.full((40, 60, 3), 0.6)
    predicted[~(truth.mask > 0.5)] = 9.0
    found = surface_metrics(Surface(truth.mask, tilted * 3, predicted), truth)
    assert found["normal_error_deg"] == pytest.approx(15, abs=1e-4)
    # gain = mean(0.2, 0.4) / 0.6 = 0.5, aligned 0.3, errors of 0.1 everywhere inside.
    assert found["albedo_psnr"] == pytest.approx(20, abs=1e-3)
    assert found["mask_iou"] == 1
    scaled = surface_metrics(Surface(truth.mask, normal, albedo * torch.tensor([0.5, 1.5, 0.7])), truth)
    assert scaled["albedo_psnr"] > 100
    assert scaled["albedo_ssim"] == pytest.approx(1)


def test_metrics_are_averaged_over_frames():
    """Fails when PSNR is taken of the mean error: 20 and 40 dB are 30 on average."""
    truth = frame(image=torch.full((40, 60, 3), 0.5))
    rows = [relit_metrics(torch.full((40, 60, 3), 0.5 + error), truth) for error in (0.1, 0.01)]
    assert mean_of(rows)["published_rana/psnr"] == pytest.approx(30, abs=1e-3)


def test_table_and_its_files(tmp_path):
    """Fails when a published column is missing or filled with another convention's number, or FLIP takes its place."""
    surface = {"albedo_psnr": 24.5, "albedo_ssim": 0.9, "albedo_lpips": 0.2, "normal_error_deg": 9.8}
    relit = {"relit_psnr": 29.5, "published_rana/psnr": 29.5, "published_rana/ssim": 0.97, "published_rana/lpips": 0.1,
             "standard/ssim": 0.93, "published_peoplesnapshot/psnr": 33.0, "flip": 0.05}  # fmt: skip
    results = {"surface": surface, "forward": relit, "frames": 8, "lpips_sha256": {"vgg": "0"}}
    (row,) = table(results)
    assert list(row) == ["shading", "albedo PSNR", "albedo SSIM", "albedo LPIPS", "normal error", "relit PSNR",
                         "relit SSIM", "relit LPIPS", "SSIM range 1", "FLIP"]  # fmt: skip
    assert list(row.values()) == ["forward", 24.5, 0.9, 0.2, 9.8, 29.5, 0.97, 0.1, 0.93, 0.05]
    assert as_text(results).splitlines()[1].split() == ["forward", "24.5000", "0.9000", "0.2000", "9.8000", "29.5000",
                                                        "0.9700", "0.1000", "0.9300", "0.0500"]  # fmt: skip
    write_table(tmp_path / "results.csv", results)
    with (tmp_path / "results.csv").open() as stream:
        assert [float(r["relit PSNR"]) for r in csv.DictReader(stream)] == [29.5]
    write_frame_values(tmp_path / "frames.csv", {"surface": [surface, surface], "forward": [relit]})
    with (tmp_path / "frames.csv").open() as stream:
        lines = list(csv.DictReader(stream))
    assert [(line["shading"], line["frame"]) for line in lines] == [
        ("surface", "0"),
        ("surface", "1"),
        ("forward", "0"),
    ]
    assert lines[2]["albedo_psnr"] == ""


def test_without_ground_truth(tmp_path):
    """Fails when an animation, which nothing can be compared with, writes an empty table or fails."""
    results = {"frames": 3, "lights": ["city"]}
    write_table(tmp_path / "results.csv", results)
    assert not list(tmp_path.iterdir())
    assert "nothing measured" in as_text(results)
