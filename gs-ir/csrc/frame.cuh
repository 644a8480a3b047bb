// What the kernels of a frame read (see gs_ir/frame.py): the avatar at rest, its skeleton, and the view, from which the
// first kernel derives bones and camera.
#pragma once

#include "gs_ir/pose.h"
#include "gs_ir/shading.h"
#include "half_probes.cuh"
#include "surfel_tiles.cuh"

namespace gs_ir {

constexpr int kJoints = 24;
constexpr int kMaxParts = 16;

// What changes from frame to frame, as one row of numbers.
struct FrameView {
    float axis_angles[3 * kJoints], translation[3];
    float intrinsics[9], camera_from_world[12], light_from_world[9];
    float background, albedo_gain[3];
};

struct FrameSetup {
    Transform<float> bones[kJoints], part_from_world[kMaxParts];
    float screen_from_world[12], camera_position[3], ray_of_pixel[9];  // the latter: world direction of (x, y, 1)
};

struct Skeleton {
    const float *joints, *rest_from_canonical;  // [24, 3], [24, 3, 4]
    const int32_t *parents, *driving;           // [24], [parts]
    int32_t parts;
};

struct RestSurfels {
    const float *centers, *tangents_u, *tangents_v;  // [N, 3] canonical; tangents times standard deviation
    const float *weights;                            // [N, 24]
    const float *opacities, *material, *own_visibility;  // [N], [N, 5] albedo roughness metallic, [N]
    const int64_t* part;                             // [N]
    int64_t count;
};

struct FrameRules {
    ShadingRules shading;
    bool deferred, published_compositing, area_opacity, buffer;
    bool directional;  // each lobe has its visibility
    int32_t width, height;
};

// Values of a surfel: radiance (forward), then properties (deferred, or a G-buffer asked for), and behind them what
// arrives of the light where shadows have directions.
constexpr int kProperties = 9;  // albedo, roughness, metallic, normal, visibility
constexpr int kArriving = 6;    // diffuse, specular

__host__ __device__ inline int32_t frame_channels(const FrameRules& rules) {
    const int32_t properties = kProperties + (rules.directional ? kArriving : 0);
    return (rules.deferred ? 0 : 3) + (rules.deferred || rules.buffer ? properties : 0);
}

// Shares of the light that reach each lobe, by colour.
struct ArrivingLight {
    Vec3<float> diffuse, specular;
};

// Radiance towards the viewer; the shares take the place of the element's visibility.
__device__ inline Vec3<float> shade_arriving(
    SurfaceElement<float> s, const ArrivingLight& arriving, const FrameLight<float>& light,
    const SplitSumTable<float>& table, const ShadingRules& rules) {
    s.visibility = 1.0f;
    const Lobes<float> lobes = shade_lobes(s, light, table, rules);
    return multiplied(lobes.diffuse, arriving.diffuse) + multiplied(lobes.specular, arriving.specular);
}

}  // namespace gs_ir
