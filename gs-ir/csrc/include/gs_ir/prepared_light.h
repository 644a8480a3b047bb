// Prefiltered light (see gs_ir/cubemap.py) as kernels read it: irradiance and radiance, with adjoints.
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

// A light for training: plain levels of three channels, as sample_cube reads them.
template <typename T>
struct CubeLight {
    CubeLevels<T> cube;
    const T* roughness;         // [levels]
    const T* light_from_world;  // [3, 3]; null: the light's frame is the world
};

template <typename T>
GS_IR_HD Vec3<T> rotated(const T* m, Vec3<T> v) {
    return {dot(load3(m), v), dot(load3(m + 3), v), dot(load3(m + 6), v)};
}

template <typename T>
GS_IR_HD Vec3<T> rotated_back(const T* m, Vec3<T> v) {
    return load3(m) * v.x + load3(m + 3) * v.y + load3(m + 6) * v.z;
}

template <typename T>
GS_IR_HD bool is_zero(Vec3<T> a) { return a.x == T(0) && a.y == T(0) && a.z == T(0); }

// Level of detail whose interpolated roughness is `roughness`, and the derivative; at least two levels, ascending.
template <typename T>
GS_IR_HD T level_of_roughness(const T* knots, int32_t levels, T roughness, T& slope) {
    const T r = clamp(roughness, knots[0], knots[levels - 1]);
    int32_t lower = 0;
    while (lower < levels - 2 && r >= knots[lower + 1]) ++lower;
    const T step = knots[lower + 1] - knots[lower];
    slope = r == roughness ? T(1) / step : T(0);
    return T(lower) + (r - knots[lower]) / step;
}

template <typename T>
GS_IR_HD Vec3<T> irradiance(const FrameLight<T>& light, Vec3<T> normal) {
    const int32_t last = light.levels - 1;
    const Vec3<T> local = rotated(light.light_from_world, normal);
    return sample_bordered(light.texels, light.first + last, light.resolution + last, 1, local, T(0));
}

template <typename T>
GS_IR_HD Vec3<T> radiance(const FrameLight<T>& light, Vec3<T> direction, T roughness) {
    const Vec3<T> local = rotated(light.light_from_world, direction);
    T slope;
    const T lod = level_of_roughness(light.roughness, light.levels, roughness, slope);
    return sample_bordered(light.texels, light.first, light.resolution, light.levels, local, lod);
}

template <typename T>
GS_IR_HD Vec3<T> to_light(const CubeLight<T>& light, Vec3<T> direction) {
    return light.light_from_world ? rotated(light.light_from_world, direction) : direction;
}

template <typename T>
GS_IR_HD Vec3<T> from_light(const CubeLight<T>& light, Vec3<T> direction) {
    return light.light_from_world ? rotated_back(light.light_from_world, direction) : direction;
}

template <typename T>
GS_IR_HD Vec3<T> irradiance(const CubeLight<T>& light, Vec3<T> normal) {
    T found[3] = {};
    add_level(light.cube, light.cube.levels - 1, pierce(to_light(light, normal)), T(1), found);
    return load3(found);
}

template <typename T>
GS_IR_HD Vec3<T> radiance(const CubeLight<T>& light, Vec3<T> direction, T roughness) {
    T slope, found[3];
    const T lod = level_of_roughness(light.roughness, int32_t(light.cube.levels), roughness, slope);
    sample_cube(light.cube, to_light(light, direction), lod, found);
    return load3(found);
}

// Adjoints of lookups: call add(index, value) for entries of the texels' gradient and return the direction's.
template <typename T, class Add>
GS_IR_HD Vec3<T> adj_irradiance(const CubeLight<T>& light, Vec3<T> normal, Vec3<T> grad, const Add& add) {
    if (is_zero(grad)) return {};
    const T by_channel[3] = {grad.x, grad.y, grad.z};
    const FacePoint<T> p = pierce(to_light(light, normal));
    T grad_s = T(0), grad_t = T(0);
    adj_add_level(light.cube, light.cube.levels - 1, p, T(1), by_channel, add, grad_s, grad_t);
    return from_light(light, adj_pierce(p, grad_s, grad_t));
}

template <typename T, class Add>
GS_IR_HD Vec3<T> adj_radiance(
    const CubeLight<T>& light, Vec3<T> direction, T roughness, Vec3<T> grad, const Add& add, T& grad_roughness) {
    if (is_zero(grad)) return {};
    const T by_channel[3] = {grad.x, grad.y, grad.z};
    T slope, by_lod;
    const T lod = level_of_roughness(light.roughness, int32_t(light.cube.levels), roughness, slope);
    Vec3<T> by_direction;
    adj_sample_cube(light.cube, to_light(light, direction), lod, by_channel, add, by_direction, by_lod);
    grad_roughness += by_lod * slope;
    return from_light(light, by_direction);
}

}  // namespace gs_ir
