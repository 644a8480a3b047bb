// The first two kernels of a frame: pose and camera; then, for each surfel, skinning, culling, occlusion and shading.
#pragma once

#include "frame.cuh"
#include "gs_ir/posing.h"

namespace gs_ir {

constexpr float kProbeShift = 1e-4f;  // metres along the normal

__device__ inline void derive_camera(const FrameView& view, FrameSetup& out) {
    const float *k = view.intrinsics, *e = view.camera_from_world;
    for (int i = 0; i < 3; ++i)
        for (int j = 0; j < 4; ++j)
            out.screen_from_world[4 * i + j] = k[3 * i] * e[j] + k[3 * i + 1] * e[4 + j] + k[3 * i + 2] * e[8 + j];
    store3(out.camera_position, camera_center(e));
    float inverse[9];
    invert3(k, inverse);
    for (int i = 0; i < 3; ++i)
        for (int j = 0; j < 3; ++j)
            out.ray_of_pixel[3 * i + j] = e[i] * inverse[j] + e[4 + i] * inverse[3 + j] + e[8 + i] * inverse[6 + j];
}

// One warp: a lane for each joint walks up to the root.
static __global__ void set_up_frame(const FrameView* view, Skeleton skeleton, FrameSetup* out) {
    __shared__ Transform<float> local[kJoints];
    const int joint = threadIdx.x;
    if (joint < kJoints) {
        const int32_t parent = skeleton.parents[joint];
        const Vec3<float> here = load3(skeleton.joints + 3 * joint);
        const Vec3<float> offset = parent < 0 ? here : here - load3(skeleton.joints + 3 * parent);
        local[joint] = rotation_about(load3(view->axis_angles + 3 * joint), offset);
    }
    __syncwarp();
    if (joint < kJoints) {
        Transform<float> posed = local[joint];
        for (int32_t above = skeleton.parents[joint]; above >= 0; above = skeleton.parents[above])
            posed = local[above] * posed;
        const Vec3<float> rest = posed.rotate(load3(skeleton.joints + 3 * joint));
        const float shift[3] = {rest.x, rest.y, rest.z};
        for (int i = 0; i < 3; ++i) posed.m[4 * i + 3] -= shift[i];
        Transform<float> canonical;
        for (int i = 0; i < 12; ++i) canonical.m[i] = skeleton.rest_from_canonical[12 * joint + i];
        Transform<float> bone = posed * canonical;
        for (int i = 0; i < 3; ++i) bone.m[4 * i + 3] += view->translation[i];
        out->bones[joint] = bone;
        for (int32_t part = 0; part < skeleton.parts; ++part)
            if (skeleton.driving[part] == joint) out->part_from_world[part] = rigid_inverse(bone);
    } else if (joint == kJoints) {
        derive_camera(*view, *out);
    }
}

struct SurfelOutputs {
    TileSurfel<float>* surfels;
    int32_t* boxes;
    float *depths, *values;
};

__device__ inline SurfelFrame<float> posed_surfel(const RestSurfels& rest, int64_t i, const Transform<float>* bones) {
    const Transform<float> blended = blend_bones(rest.weights + kJoints * i, bones, kJoints);
    return {blended.apply(load3(rest.centers + 3 * i)), blended.rotate(load3(rest.tangents_u + 3 * i)),
            blended.rotate(load3(rest.tangents_v + 3 * i))};
}

// Returns where the properties end.
__device__ inline float* write_surfel_values(
    const SurfaceElement<float>& s, const Vec3<float>& shaded, const FrameRules& rules, float* out) {
    if (!rules.deferred) {
        store3(out, shaded);
        out += 3;
    }
    if (!rules.deferred && !rules.buffer) return out;
    store3(out, s.albedo);
    out[3] = s.roughness;
    out[4] = s.metallic;
    store3(out + 5, s.normal);
    out[8] = s.visibility;
    return out + kProperties;
}

// A surfel in sight; the normal faces the viewer by the rules.
struct PlacedSurfel {
    Vec3<float> center, normal, to_viewer;
};

// Poses and projects surfel i; false where the camera does not see it.
__device__ inline bool place_surfel(
    const RestSurfels& rest, int64_t i, const Transform<float>* bones, const FrameView& view, const FrameSetup& setup,
    const FrameRules& rules, const SurfelOutputs& out, PlacedSurfel& placed) {
    const SurfelFrame<float> posed = posed_surfel(rest, i, bones);
    const SurfelSight<float> sight = see_surfel(posed, load3(setup.camera_position));
    float opacity = rest.opacities[i];
    if (rules.area_opacity) opacity *= footprint_factor(sight, view.intrinsics[0] * view.intrinsics[4]);
    const ProjectedSurfel<float> p = project_surfel(
        posed.center, posed.tangent_u, posed.tangent_v, opacity, setup.screen_from_world, rules.width, rules.height);
    store_box(out.boxes + 4 * i, p.box);
    if (p.box.radius == 0) return false;
    out.depths[i] = p.transform.w.z;
    out.surfels[i] = tile_surfel(p.transform, opacity, out.boxes + 4 * i);
    placed = {posed.center, oriented_normal(sight.normal, sight.to_viewer, rules.shading.normals), sight.to_viewer};
    return true;
}

// The surface that a surfel shows; visibility is that of its own part.
__device__ inline SurfaceElement<float> surface_of(
    const RestSurfels& rest, int64_t i, const Vec3<float>& normal, const Vec3<float>& to_viewer, const FrameView& view) {
    const float* material = rest.material + 5 * i;
    return {normal, to_viewer, multiplied(load3(material), load3(view.albedo_gain)), material[3], material[4],
            rest.own_visibility[i]};
}

// By all threads of the block, which it synchronises.
__device__ inline void load_bones(const FrameSetup& setup, Transform<float>* bones) {
    for (int t = threadIdx.x; t < kJoints * 12; t += blockDim.x) bones[t / 12].m[t % 12] = setup.bones[t / 12].m[t % 12];
    __syncthreads();
}

constexpr int kSurfelThreads = 128;

// kQuery: whether other parts' probes are looked up.
template <bool kQuery>
__global__ void __launch_bounds__(kSurfelThreads) prepare_surfels(
    RestSurfels rest, const FrameView* view, const FrameSetup* setup, Probes<float, HalfRows> probes,
    FrameLight<float> light, SplitSumTable<float> table, FrameRules rules, SurfelOutputs out) {
    __shared__ Transform<float> bones[kJoints];
    load_bones(*setup, bones);
    const int64_t i = int64_t(blockIdx.x) * kSurfelThreads + threadIdx.x;
    PlacedSurfel placed;
    if (i >= rest.count || !place_surfel(rest, i, bones, *view, *setup, rules, out, placed)) return;
    SurfaceElement<float> s = surface_of(rest, i, placed.normal, placed.to_viewer, *view);
    if (kQuery)
        s.visibility *= other_visibility(
            probes, rest.part[i], placed.center, s.normal, setup->part_from_world[0].m, kProbeShift, false);
    Vec3<float> shaded = {};
    if (!rules.deferred) shaded = shade(s, light, table, rules.shading);
    write_surfel_values(s, shaded, rules, out.values + i * frame_channels(rules));
}

}  // namespace gs_ir
