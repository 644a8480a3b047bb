// Split-sum shading of one surface element (Karis 2013): what explicit_branch/rendering/shading.py computes, for kernels.
#pragma once

#include "gs_ir/cubemap.h"

namespace gs_ir {

// A light prepared for lookups: bordered levels of ascending roughness, the last one of roughness 1.
template <typename T>
struct FrameLight {
    const T* texels;            // [sum 6 (R + 2)^2, 4]
    const int32_t* first;       // [levels] texels before each level
    const int32_t* resolution;  // [levels]
    const T* roughness;         // [levels]
    int32_t levels;
    const T* light_from_world;  // [3, 3]
};

// Scale and bias of F0 by roughness (rows) and n.v (columns), at texel centres.
template <typename T>
struct SplitSumTable {
    const T* entries;  // [resolution, resolution, 2]
    int32_t resolution;
};

enum class NormalRule { kVisible, kPublished, kGiven };

struct ShadingRules {
    NormalRule normals;
    bool lagarde;      // specular occlusion by lobe width
    bool multi_bounce;
    bool dominant;     // light read at the lobe's mean direction, else at the mirror direction
};

template <typename T>
struct SurfaceElement {
    Vec3<T> normal, to_viewer, albedo;
    T roughness, metallic, visibility;
};

template <typename T>
GS_IR_HD Vec3<T> rotated(const T* m, Vec3<T> v) {
    return {dot(load3(m), v), dot(load3(m + 3), v), dot(load3(m + 6), v)};
}

template <typename T>
GS_IR_HD Vec3<T> multiplied(Vec3<T> a, Vec3<T> b) { return {a.x * b.x, a.y * b.y, a.z * b.z}; }

template <typename T>
GS_IR_HD Vec3<T> normalized(Vec3<T> a, T smallest = T(1e-12)) { return a * (T(1) / maximum(length(a), smallest)); }

template <typename T>
GS_IR_HD Vec3<T> mixed(Vec3<T> a, Vec3<T> b, T share) { return a + (b - a) * share; }

template <typename T>
GS_IR_HD Vec3<T> oriented_normal(Vec3<T> normal, Vec3<T> to_viewer, NormalRule rule) {
    const T cosine = dot(normal, to_viewer);
    if (rule == NormalRule::kGiven) return normal;
    if (rule == NormalRule::kPublished) return cosine < T(-0.3) ? normal * T(-1) : normal;
    return normalized(normal - to_viewer * minimum(cosine, T(0)));
}

// Level of detail whose interpolated roughness is `roughness`.
template <typename T>
GS_IR_HD T level_of_roughness(const FrameLight<T>& light, T roughness) {
    const T r = clamp(roughness, light.roughness[0], light.roughness[light.levels - 1]);
    int32_t lower = 0;
    while (lower < light.levels - 2 && r >= light.roughness[lower + 1]) ++lower;
    return T(lower) + (r - light.roughness[lower]) / (light.roughness[lower + 1] - light.roughness[lower]);
}

template <typename T>
GS_IR_HD Vec3<T> irradiance(const FrameLight<T>& light, Vec3<T> normal) {
    const int32_t last = light.levels - 1;
    return sample_bordered(light.texels, light.first + last, light.resolution + last, 1, rotated(light.light_from_world, normal), T(0));
}

template <typename T>
GS_IR_HD Vec3<T> radiance(const FrameLight<T>& light, Vec3<T> direction, T roughness) {
    const Vec3<T> local = rotated(light.light_from_world, direction);
    return sample_bordered(
        light.texels, light.first, light.resolution, light.levels, local, level_of_roughness(light, roughness));
}

template <typename T>
GS_IR_HD void sample_split_sum(const SplitSumTable<T>& table, T n_dot_v, T roughness, T& scale, T& bias) {
    const T last = T(table.resolution - 1);
    const T x = clamp(n_dot_v * T(table.resolution) - T(0.5), T(0), last);
    const T y = clamp(roughness * T(table.resolution) - T(0.5), T(0), last);
    const int32_t column = minimum(int32_t(x), table.resolution - 2), row = minimum(int32_t(y), table.resolution - 2);
    const T fx = x - T(column), fy = y - T(row);
    const T* near = table.entries + 2 * (row * table.resolution + column);
    const T* far = near + 2 * table.resolution;
    scale = (T(1) - fy) * ((T(1) - fx) * near[0] + fx * near[2]) + fy * ((T(1) - fx) * far[0] + fx * far[2]);
    bias = (T(1) - fy) * ((T(1) - fx) * near[1] + fx * near[3]) + fy * ((T(1) - fx) * far[1] + fx * far[3]);
}

// Mean direction of the GGX lobe times cosine (Lagarde and de Rousiers 2014, section 4.9.3).
template <typename T>
GS_IR_HD Vec3<T> dominant_direction(Vec3<T> normal, Vec3<T> mirrored, T alpha) {
    const T smoothness = maximum(T(1) - alpha, T(1e-6));
    return normalized(mixed(normal, mirrored, smoothness * (std::sqrt(smoothness) + alpha)));
}

// Lagarde and de Rousiers 2014, section 4.10.2.
template <typename T>
GS_IR_HD T specular_visibility(T visibility, T n_dot_v, T alpha) {
    const T exponent = std::exp2(T(-16) * alpha - T(1));
    return clamp(std::pow(maximum(n_dot_v + visibility, T(1e-6)), exponent) - T(1) + visibility, T(0), T(1));
}

// Jimenez et al. 2016.
template <typename T>
GS_IR_HD T multi_bounce_visibility(T open, T albedo) {
    const T a = T(2.0404) * albedo - T(0.3324), b = T(-4.7951) * albedo + T(0.6417);
    const T c = T(2.7552) * albedo + T(0.6903);
    return maximum(open, ((open * a + b) * open + c) * open);
}

// Radiance towards the viewer; the normal is used as given.
template <typename T>
GS_IR_HD Vec3<T> shade(
    const SurfaceElement<T>& s, const FrameLight<T>& light, const SplitSumTable<T>& table, const ShadingRules& rules) {
    const T facing = dot(s.normal, s.to_viewer), alpha = maximum(s.roughness * s.roughness, T(1e-3));
    const T n_dot_v = clamp(facing, T(1e-4), T(1));
    Vec3<T> lobe = s.normal * (T(2) * maximum(facing, T(0))) - s.to_viewer;
    if (rules.dominant) lobe = dominant_direction(s.normal, lobe, alpha);
    T scale, bias;
    sample_split_sum(table, n_dot_v, s.roughness, scale, bias);
    const Vec3<T> diffuse_albedo = s.albedo * (T(1) - s.metallic);
    const T dielectric = T(0.04) * (T(1) - s.metallic);
    const Vec3<T> reflectance =
        Vec3<T>{dielectric + s.metallic * s.albedo.x, dielectric + s.metallic * s.albedo.y,
                dielectric + s.metallic * s.albedo.z} * scale + Vec3<T>{bias, bias, bias};
    Vec3<T> open = {s.visibility, s.visibility, s.visibility};
    if (rules.multi_bounce)
        open = {multi_bounce_visibility(s.visibility, diffuse_albedo.x),
                multi_bounce_visibility(s.visibility, diffuse_albedo.y),
                multi_bounce_visibility(s.visibility, diffuse_albedo.z)};
    const T shine = rules.lagarde ? specular_visibility(s.visibility, n_dot_v, alpha) : s.visibility;
    return multiplied(multiplied(diffuse_albedo, irradiance(light, s.normal)), open) +
           multiplied(reflectance, radiance(light, lobe, s.roughness)) * shine;
}

// IEC 61966-2-1.
template <typename T>
GS_IR_HD T to_srgb(T linear) {
    return linear <= T(0.0031308) ? T(12.92) * linear
                                  : T(1.055) * std::pow(maximum(linear, T(0.0031308)), T(1 / 2.4)) - T(0.055);
}

}  // namespace gs_ir
