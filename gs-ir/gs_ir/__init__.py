"""Operators of the avatar framework; see the module of each for shapes and units.

Importing compiles nothing. Native kernels come from ``python -m gs_ir.build``; where they are missing, the PyTorch
references in :mod:`gs_ir.reference` run instead.
"""

from gs_ir import _library
from gs_ir._library import has_kernel
from gs_ir.bvh import (
    ClosestPoints,
    Hits,
    TriangleBvh,
    any_hit,
    build_bvh,
    closest_hit,
    closest_point,
    refit_bvh,
    signed_distance,
)
from gs_ir.correspondence import Correspondences, SeedGrid, build_seeds, find_correspondences
from gs_ir.cubemap import PrefilteredLight, equirect_to_cubemap, sample_cubemap, texel_directions, texel_solid_angles
from gs_ir.directional import directional_visibility, lobe_visibility
from gs_ir.field import field_values
from gs_ir.hash_grid import HashGridLayout, encode, encode_with_jacobian
from gs_ir.light_cells import LightCells
from gs_ir.marching import RaySamples, insert_samples, march, render_weights, resample
from gs_ir.marching_cubes import marching_cubes, mesh_parts
from gs_ir.mlp import mlp, sdf_mlp
from gs_ir.nearest import nearest_neighbours
from gs_ir.packed import accumulate
from gs_ir.posing import PosingRules, SeenSurfels, pose_surfels
from gs_ir.prefiltering import prefilter
from gs_ir.probes import ProbeVolumes, query_other_probes, query_own_probes, query_probes
from gs_ir.shading import LobeRules, shade
from gs_ir.skinning import blend_transforms, sample_transforms
from gs_ir.split_sum import sample_split_sum, split_sum_table
from gs_ir.surfels import SurfelRaster, project_surfels, rasterize_surfels
from gs_ir.tiling import tile_surfels

NATIVE_LIBRARIES = _library.load_native()

__all__ = [
    "NATIVE_LIBRARIES",
    "ClosestPoints",
    "Correspondences",
    "HashGridLayout",
    "Hits",
    "LightCells",
    "LobeRules",
    "PosingRules",
    "PrefilteredLight",
    "ProbeVolumes",
    "RaySamples",
    "SeedGrid",
    "SeenSurfels",
    "SurfelRaster",
    "TriangleBvh",
    "accumulate",
    "any_hit",
    "blend_transforms",
    "build_bvh",
    "build_seeds",
    "closest_hit",
    "closest_point",
    "directional_visibility",
    "encode",
    "encode_with_jacobian",
    "equirect_to_cubemap",
    "field_values",
    "find_correspondences",
    "has_kernel",
    "insert_samples",
    "lobe_visibility",
    "march",
    "marching_cubes",
    "mesh_parts",
    "mlp",
    "nearest_neighbours",
    "pose_surfels",
    "prefilter",
    "project_surfels",
    "query_other_probes",
    "query_own_probes",
    "query_probes",
    "rasterize_surfels",
    "refit_bvh",
    "render_weights",
    "resample",
    "sample_cubemap",
    "sample_split_sum",
    "sample_transforms",
    "sdf_mlp",
    "shade",
    "signed_distance",
    "split_sum_table",
    "texel_directions",
    "texel_solid_angles",
    "tile_surfels",
]
