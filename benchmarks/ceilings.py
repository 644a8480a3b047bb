"""What each shading model can reach at best: ``python -m benchmarks.ceilings --geometry FILE --data FOLDER``.

The true mesh, posed, with its true normals, albedo and roughness is shaded by each model and compared with the
path-traced test frames, so that the loss from shading is told apart from the loss from reconstruction. Models:

none                no occlusion
ambient_exact       one visibility per point, the cosine-weighted share of the sky that rays leave open
ambient_probes      the same through the part-wise probes that the student uses
directional_probes  visibility along each of 127 directions, for both lobes, through the masks that the student uses
exact               visibility along every one of 512 directions, for both lobes, by ray casting

``--geometry`` is an npz file with ``v`` [V, 3], ``f`` [F, 3], ``W`` [V, 24], ``J`` [24, 3], ``albedo`` [V, 3] linear
and ``rough`` [V], at rest, as ``data.synthetic`` makes it; ``--data`` a folder in the RANA layout with a relit test
split.
"""

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize
from tqdm import tqdm

from body_models.mesh import vertex_normals
from body_models.parts import DRIVING_JOINTS, PART_OF_JOINT
from body_models.skinning import joint_transforms, rigid_inverse, skin, translated
from core.color import composite, linear_to_srgb
from core.evaluation import mean_of, relit_metrics
from core.files import write_json_atomically
from core.frames import Frame
from core.images import read_hdr, write_image
from data.hdr import bundled_hdris
from data.rana import RanaFrames
from explicit_branch.rendering.directional import lobe_directions
from explicit_branch.rendering.light import ImageLight
from explicit_branch.rendering.probe_baking import bake_probes
from explicit_branch.rendering.shading import Shading, ShadingOptions, oriented_normals, shade
from gs_ir.bvh import any_hit_fan, build_bvh, closest_hit
from gs_ir.directional import lobe_visibility, own_masks
from gs_ir.probes import ProbeVolumes, query_probes
from gs_ir.sphere import fibonacci_directions

DIRECTIONS = 512
SUPERSAMPLING = 2
"""Rays per pixel and axis; edges and textures inside the mask would alias otherwise."""
REACH = 10.0
"""Metres within which rays find occluders."""
OFFSET = 2e-3
"""Metres above the surface where rays start."""
CELL_SAMPLES = 64
"""Directions per cell over which the light is averaged."""
GIVEN = ShadingOptions(normals="given")


@dataclass(frozen=True)
class Subject:
    """The true surface at rest."""

    vertices: Tensor
    faces: Tensor
    weights: Tensor
    joints: Tensor
    albedo: Tensor
    roughness: Tensor
    probes: ProbeVolumes


@dataclass(frozen=True)
class Seen:
    """The N points of the surface that a frame's pixels see."""

    hit: Tensor
    """[s H s W] bool, with s the supersampling."""
    points: Tensor
    normals: Tensor
    to_viewer: Tensor
    albedo: Tensor
    roughness: Tensor
    ambient: Tensor
    """[N] visibility through the probes."""
    shares: Callable[..., Tensor]
    """[N, 7] shares of light through the masks: ``lobe_visibility`` at these points."""
    visible: Tensor
    """[N, DIRECTIONS] by ray casting."""


def read_subject(path: Path, device: str) -> Subject:
    """The geometry file, with probes baked from it at rest."""
    arrays = {k: torch.from_numpy(v).to(device) for k, v in np.load(path).items() if v.dtype.kind in "fi"}
    parts = torch.tensor(PART_OF_JOINT, device=device)
    probes = bake_probes(arrays["v"], arrays["f"], arrays["W"].argmax(1), parts)
    names = ("v", "f", "W", "J", "albedo", "rough")
    return Subject(*(arrays[name] for name in names), probes)


def see(subject: Subject, frame: Frame) -> Seen:
    """Cast the frame's camera rays at the posed surface, and rays from there to the sky."""
    from_rest = joint_transforms(frame.pose.axis_angles, subject.joints)
    from_rest = translated(from_rest, frame.pose.transl)
    posed = skin(subject.vertices, subject.weights, from_rest)
    bvh = build_bvh(posed, subject.faces)
    camera = frame.camera.resized(SUPERSAMPLING * frame.camera.width, SUPERSAMPLING * frame.camera.height)
    origins, directions = (x.reshape(-1, 3).contiguous() for x in camera.all_rays())
    hits = closest_hit(bvh, origins, directions, 0.0, math.inf)
    hit = hits.face >= 0
    corners, tail = subject.faces[hits.face[hit]], hits.barycentric[hit]
    share = torch.cat([1 - tail.sum(1, keepdim=True), tail], 1)[..., None]

    def at(values: Tensor) -> Tensor:
        return (values[corners] * share).sum(1)

    to_viewer = -directions[hit]
    outward = normalize(at(vertex_normals(posed, subject.faces)), dim=-1)
    points, normals = at(posed), oriented_normals(outward, to_viewer)
    parts = {
        "own_part": torch.tensor(PART_OF_JOINT, device=points.device)[at(subject.weights).argmax(1)],
        "part_from_world": rigid_inverse(from_rest[list(DRIVING_JOINTS)])[:, :3],
    }
    ambient = query_probes(
        subject.probes,
        points,
        normals,
        points_canonical=at(subject.vertices),
        normals_canonical=normalize(at(vertex_normals(subject.vertices, subject.faces)), dim=-1),
        **parts,
    )
    masks = own_masks(subject.probes, at(subject.vertices))
    shares = partial(lobe_visibility, subject.probes, points, normals, own_masks=masks, **parts)
    sky = fibonacci_directions(DIRECTIONS, device=points.device)
    visible = ~any_hit_fan(bvh, points + OFFSET * normals, sky, 1e-3, REACH)
    albedo, roughness = at(subject.albedo), at(subject.roughness[:, None])[:, 0]
    return Seen(hit, points, normals, to_viewer, albedo, roughness, ambient, shares, visible)


def cell_radiance(light: ImageLight, sky: Tensor) -> Tensor:
    """Mean radiance [D, 3] of the light over the directions nearest to each of ``sky`` [D, 3]."""
    fine = fibonacci_directions(len(sky) * CELL_SAMPLES, device=sky.device)
    nearest = (fine @ sky.T).argmax(1)
    total = torch.zeros_like(sky).index_add_(0, nearest, light.radiance(fine))
    return total / torch.bincount(nearest, minlength=len(sky))[:, None]


def shaded(seen: Seen, light: ImageLight, occlusion: Tensor | None) -> Shading:
    """Both lobes with an ambient visibility [N], or none."""
    return shade(
        seen.normals,
        seen.to_viewer,
        albedo=seen.albedo,
        roughness=seen.roughness,
        metallic=torch.zeros_like(seen.roughness),
        occlusion=occlusion,
        light=light.prefiltered,
        options=GIVEN,
    )


def ambient_exact(seen: Seen, light: ImageLight) -> Tensor:
    """Radiance [N, 3]."""
    cosine = (seen.normals @ fibonacci_directions(DIRECTIONS, device=seen.normals.device).T).clamp_min(0)
    return shaded(seen, light, (seen.visible * cosine).sum(1) / cosine.sum(1)).total


def specular_directions(seen: Seen) -> Tensor:
    """Where the specular lobes [N, 3] point."""
    return lobe_directions(seen.normals, seen.to_viewer, seen.roughness, GIVEN.lobe_direction)


def directional_probes(seen: Seen, light: ImageLight) -> Tensor:
    """Radiance [N, 3]."""
    cells = light.prefiltered.cells()
    shares = seen.shares(
        light=(cells.directions, cells.energy), lobe_directions=specular_directions(seen), roughness=seen.roughness
    )
    lobes = shaded(seen, light, None)
    return lobes.diffuse * shares[:, 1:4] + lobes.specular * shares[:, 4:]


def exact(seen: Seen, light: ImageLight) -> Tensor:
    """Radiance [N, 3]: each lobe times the share of its light that is not blocked."""
    sky = fibonacci_directions(DIRECTIONS, device=seen.normals.device)
    cells = cell_radiance(light, sky)
    cosine = (seen.normals @ sky.T).clamp_min(0)
    half = (1 + specular_directions(seen) @ sky.T) / 2
    squared_alpha = (seen.roughness**4).clamp_min(4 / DIRECTIONS)[:, None]
    glossy = cosine / (half * (squared_alpha - 1) + 1).square()
    lobes = shaded(seen, light, None)
    shares = [((seen.visible * weight) @ cells) / (weight @ cells).clamp_min(1e-9) for weight in (cosine, glossy)]
    return lobes.diffuse * shares[0] + lobes.specular * shares[1]


MODELS: dict[str, Callable[[Seen, ImageLight], Tensor]] = {
    "none": lambda seen, light: shaded(seen, light, None).total,
    "ambient_exact": ambient_exact,
    "ambient_probes": lambda seen, light: shaded(seen, light, seen.ambient).total,
    "directional_probes": directional_probes,
    "exact": exact,
}


def picture(radiance: Tensor, seen: Seen, frame: Frame) -> Tensor:
    """[H, W, 3] sRGB over white."""
    linear = torch.zeros(len(seen.hit), 4, device=radiance.device)
    linear[seen.hit] = torch.cat([radiance, torch.ones_like(radiance[:, :1])], 1)
    height, width = frame.camera.height, frame.camera.width
    pooled = linear.reshape(height, SUPERSAMPLING, width, SUPERSAMPLING, 4).mean((1, 3))
    return linear_to_srgb(composite(pooled[..., :3], pooled[..., 3], 1.0).clamp(0, 1))


def measure(subject: Subject, frames: list[Frame], pictures: Path | None) -> dict[str, dict]:
    """Metrics by model: means over all frames, and ``by_light`` the inner PSNR."""
    rows: dict[str, dict[str, list]] = {name: {} for name in MODELS}
    lights: dict[Path, ImageLight] = {}
    device = subject.vertices.device
    for stored in tqdm(frames, desc="shading", unit="frame"):
        frame = stored.to(device)
        assert frame.hdri is not None
        if frame.hdri not in lights:
            lights[frame.hdri] = ImageLight.from_image(read_hdr(frame.hdri, bundled=bundled_hdris())).to(device)
        seen = see(subject, frame)
        images = {name: picture(model(seen, lights[frame.hdri]), seen, frame) for name, model in MODELS.items()}
        for name, image in images.items():
            rows[name].setdefault(frame.hdri.stem, []).append(relit_metrics(image, frame))
        if pictures is not None:
            assert frame.image is not None
            write_image(pictures / f"{frame.name}.png", torch.cat([frame.image, *images.values()], 1))
    return {name: summary(found) for name, found in rows.items()}


def summary(found: dict[str, list]) -> dict:
    """Means of the three PSNRs, each light counted alike."""
    lights = {light: mean_of(rows) for light, rows in sorted(found.items())}
    means = {k: v for k, v in mean_of(list(lights.values())).items() if k.startswith("relit_psnr")}
    return {**means, "by_light": {light: row["relit_psnr_inner"] for light, row in lights.items()}}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--geometry", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds test/SUBJECT and hdri/")
    parser.add_argument("--subject", default="subject_00")
    parser.add_argument("--gender", default="male")
    parser.add_argument("--frames", type=int, default=10, help="the first ones of the test split")
    parser.add_argument("--size", type=int, help="side of the pictures; the data's own when not given")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/ceilings.json"))
    parser.add_argument("--pictures", type=Path, help="folder for comparison pictures")
    arguments = parser.parse_args()
    size = (arguments.size, arguments.size) if arguments.size else None
    frames = RanaFrames(
        root=arguments.data, subject=arguments.subject, gender=arguments.gender, split="test", size=size
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    subject = read_subject(arguments.geometry, device)
    chosen = [frames[i] for i in range(min(arguments.frames, len(frames)))]
    with torch.inference_mode():
        measured = measure(subject, chosen, arguments.pictures)
    write_json_atomically(arguments.output, {"frames": len(chosen), "size": size, **measured})
    print(json.dumps(measured, indent=2))  # noqa: T201


if __name__ == "__main__":
    main()
