// Forward kinematics of a small skeleton, one joint at a time (Loper et al. 2015, eq. 2-4). Transforms are row-major 3 x 4.
#pragma once

#include "gs_ir/common.h"

namespace gs_ir {

template <typename T>
struct Transform {
    T m[12];

    GS_IR_HD Vec3<T> rotate(Vec3<T> v) const { return {dot(load3(m), v), dot(load3(m + 4), v), dot(load3(m + 8), v)}; }
    GS_IR_HD Vec3<T> apply(Vec3<T> p) const { return rotate(p) + Vec3<T>{m[3], m[7], m[11]}; }
};

template <typename T>
GS_IR_HD Transform<T> operator*(const Transform<T>& a, const Transform<T>& b) {
    Transform<T> out;
    for (int i = 0; i < 3; ++i)
        for (int j = 0; j < 4; ++j)
            out.m[4 * i + j] = a.m[4 * i] * b.m[j] + a.m[4 * i + 1] * b.m[4 + j] + a.m[4 * i + 2] * b.m[8 + j] +
                               (j == 3 ? a.m[4 * i + 3] : T(0));
    return out;
}

template <typename T>
GS_IR_HD Transform<T> rigid_inverse(const Transform<T>& a) {
    Transform<T> out;
    for (int i = 0; i < 3; ++i) {
        for (int j = 0; j < 3; ++j) out.m[4 * i + j] = a.m[4 * j + i];
        out.m[4 * i + 3] = -(a.m[i] * a.m[3] + a.m[4 + i] * a.m[7] + a.m[8 + i] * a.m[11]);
    }
    return out;
}

// Rodrigues' formula, with the given translation.
template <typename T>
GS_IR_HD Transform<T> rotation_about(Vec3<T> axis_angle, Vec3<T> translation) {
    const T squared = dot(axis_angle, axis_angle), angle = std::sqrt(squared);
    const bool small = squared < T(1e-8);
    const T sine = small ? T(1) - squared / T(6) : std::sin(angle) / angle;
    const T cosine = small ? T(0.5) - squared / T(24) : (T(1) - std::cos(angle)) / squared;
    const T x = axis_angle.x, y = axis_angle.y, z = axis_angle.z;
    return {{T(1) - cosine * (y * y + z * z), cosine * x * y - sine * z, cosine * x * z + sine * y, translation.x,
             cosine * x * y + sine * z, T(1) - cosine * (x * x + z * z), cosine * y * z - sine * x, translation.y,
             cosine * x * z - sine * y, cosine * y * z + sine * x, T(1) - cosine * (x * x + y * y), translation.z}};
}

// Inverse of a 3 x 3 matrix.
template <typename T>
GS_IR_HD void invert3(const T* m, T* out) {
    const Vec3<T> a = load3(m), b = load3(m + 3), c = load3(m + 6);
    const Vec3<T> bc = cross(b, c), ca = cross(c, a), ab = cross(a, b);
    const T inverse = T(1) / dot(a, bc);
    const Vec3<T> columns[3] = {bc * inverse, ca * inverse, ab * inverse};
    for (int j = 0; j < 3; ++j) out[j] = columns[j].x, out[3 + j] = columns[j].y, out[6 + j] = columns[j].z;
}

}  // namespace gs_ir
