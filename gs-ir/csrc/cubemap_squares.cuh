// Squares of texels on the faces of a cube map: their directions, spheres around them, frames in which chords are exact.
#pragma once

#include "gs_ir/cubemap.h"

namespace gs_ir::squares {

template <typename T>
struct alignas(16) Quad {
    T x, y, z, w;
};

struct Place {
    int face, row, column;
};

// First texel of square `index` of those with `edge` texels a side that cover the faces row by row.
__host__ __device__ inline Place square_place(int index, int edge, int resolution) {
    const int across = (resolution + edge - 1) / edge;
    return {index / (across * across), index / across % across * edge, index % across * edge};
}

// Unit direction of a texel; rows and columns past the end name the last one.
template <typename T>
__device__ Vec3<T> direction(Place p, int resolution) {
    const T s = texel_centre<T>(min(p.column, resolution - 1), resolution);
    const T t = texel_centre<T>(min(p.row, resolution - 1), resolution);
    const Vec3<T> point = face_point(p.face, s, t);
    return point * (T(1) / length(point));
}

// Centre and radius of a sphere around the directions of a square of texels; the corners are the farthest ones.
template <typename T>
__device__ Quad<T> bounding_sphere(Place p, int edge, int resolution) {
    Vec3<T> corners[4], centre = {T(0), T(0), T(0)};
    for (int k = 0; k < 4; ++k) {
        corners[k] = direction<T>({p.face, p.row + k / 2 * (edge - 1), p.column + k % 2 * (edge - 1)}, resolution);
        centre = centre + corners[k] * T(0.25);
    }
    T radius = T(0);
    for (int k = 0; k < 4; ++k) radius = maximum(radius, length(corners[k] - centre));
    return {centre.x, centre.y, centre.z, radius * T(1.001) + T(1e-6)};  // more than rounding
}

// Whether the centres lie within `distance`; a negative one is never reached.
template <typename T>
__device__ bool within(Quad<T> a, Quad<T> b, T distance) {
    const Vec3<T> d = {a.x - b.x, a.y - b.y, a.z - b.z};
    return (distance >= T(0)) & (dot(d, d) <= distance * distance);
}

// Whether some point of the one sphere may lie within `reach` of some point of the other.
template <typename T>
__device__ bool touches(Quad<T> a, Quad<T> b, T reach) { return within(a, b, reach + a.w + b.w); }

// Whether all points of the one sphere lie within `reach` of all points of the other.
template <typename T>
__device__ bool covers(Quad<T> a, Quad<T> b, T reach) { return within(a, b, reach - a.w - b.w); }

// Orthonormal frame whose z axis points at the middle of a block. Near that axis a direction (x, y, 1 - drop) keeps the
// digits that a cosine loses: the squared chord of two is 2 (drop_a - x_a x_b - y_a y_b + (1 - drop_a) drop_b).
template <typename T>
struct Frame {
    Vec3<T> x, y, z;
};

template <typename T>
__device__ Frame<T> frame_around(int face, Quad<T> sphere) {
    const Vec3<T> centre = {sphere.x, sphere.y, sphere.z};
    const Vec3<T> z = centre * (T(1) / length(centre));
    const Vec3<T> along = from_face<T>(face, {T(1), T(0), T(0)});
    const Vec3<T> flat = along - z * dot(along, z);
    const Vec3<T> x = flat * (T(1) / length(flat));
    return {x, cross(z, x), z};
}

// x, y and drop of a unit direction.
template <typename T>
__device__ Vec3<T> to_frame(const Frame<T>& f, Vec3<T> d) {
    const T x = dot(f.x, d), y = dot(f.y, d), z = dot(f.z, d);
    return {x, y, z > T(0) ? (x * x + y * y) / (T(1) + z) : T(1) - z};
}

}  // namespace gs_ir::squares
