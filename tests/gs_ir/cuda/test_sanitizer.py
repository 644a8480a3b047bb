"""Small cases of every CUDA kernel under compute-sanitizer."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
SANITIZER = shutil.which("compute-sanitizer")
FRAMES = FOLDER.parents[1] / "explicit_branch" / "rendering" / "test_real_time.py"
FRAME_CASES = ["::test_frame_equals_the_operators[ambient-forward]",
               "::test_frame_equals_the_operators[directional-deferred]"]  # fmt: skip
CASES = [
    "test_bvh_cuda.py::test_fan[plain-1-1]",
    "test_bvh_cuda.py::test_refit[plain-1]",
    "test_correspondence_cuda.py::test_seeds[plain-7-129-3]",
    "test_correspondence_cuda.py::test_search[plain-127]",
    "test_cubemap_cuda.py::test_convolution[plain-16-16-0.03-3-dtype0]",
    "test_cubemap_cuda.py::test_convolution[plain-3-5-0.5-1-dtype1]",
    "test_cubemap_cuda.py::test_levels_beside_each_other[plain-4-dtype0]",
    "test_cubemap_cuda.py::test_lookup_and_gradients[plain-sizes0-3-0-dtype0]",
    "test_cubemap_cuda.py::test_pyramid[plain-64-2-dtype0]",
    "test_directional_cuda.py::test_direction_tables[plain-9-dtype0]",
    "test_directional_cuda.py::test_lobe_visibility[plain-31-4-dtype0]",
    "test_directional_cuda.py::test_turn_masks[plain-9]",
    "test_hash_grid_cuda.py::test_levels[plain-encode_with_jacobian-8-8]",
    "test_marching_cuda.py::test_insert_samples[plain-63-dtype0]",
    "test_marching_cuda.py::test_march[plain-63-0.11]",
    "test_marching_cuda.py::test_resample[plain-64-0.02-dtype0]",
    "test_marching_cuda.py::test_render_weights[plain-63-2-dtype0]",
    "test_mlp_cuda.py::test_counts[plain-True-2-129]",
    "test_mlp_cuda.py::test_fields[plain-True-1-True-5-5-31]",
    "test_mlp_cuda.py::test_signed_distance[plain-127-32-13]",
    "test_nearest_cuda.py::test_distances[plain-1000-1-dtype0]",
    "test_normals_cuda.py::test_normals[plain-1000-dtype0]",
    "test_packed_cuda.py::test_accumulate[plain-700]",
    "test_posing_cuda.py::test_pose_surfels[plain-visible-127-dtype1]",
    "test_probes_cuda.py::test_other_visibility[plain-31-4-False-dtype0]",
    "test_probes_cuda.py::test_own_visibility[plain-31-4-dtype0]",
    "test_scattering_cuda.py::test_one_direction_each[plain-127-3-map]",
    "test_scattering_cuda.py::test_points[plain-127-16]",
    "test_scattering_cuda.py::test_rays_and_their_sums[plain-127-16-3-map]",
    "test_scattering_cuda.py::test_surface_at_hits[plain-127-dtype0]",
    "test_surfels_cuda.py::test_drawing_and_gradients[plain-5-300-scale1-size1]",
    "test_surfels_cuda.py::test_drawing_and_gradients[poisoned-40-300-scale1-size1]",
    "test_surfels_cuda.py::test_tile_lists[plain-5000-dtype0]",
]


@pytest.mark.slow
@pytest.mark.skipif(SANITIZER is None, reason="no compute-sanitizer on this machine")
@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
def test_kernels_are_clean(tool, fresh_memory):
    """Fails when a kernel reads or writes outside its tensors, or two of its threads race in shared memory."""
    if fresh_memory == "poisoned":
        pytest.skip("memory is poisoned in the cases themselves")
    command = [SANITIZER, "--tool", tool, "--error-exitcode", "9", sys.executable, "-m", "pytest"]
    cases = [str(FOLDER / case) for case in CASES] + [str(FRAMES) + case for case in FRAME_CASES]
    done = subprocess.run([*command, *cases], capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stdout[-4000:]
    assert f"{len(cases)} passed" in done.stdout
