// Normals of deformed surfaces, and the basis by which reflected directions enter a network (see gs_ir/normals.py).
#pragma once

#include "gs_ir/common.h"
#include "gs_ir/spherical_harmonics.h"

namespace gs_ir {

constexpr int kCubicHarmonics = 16;

// J^-T g up to the determinant, unit: the columns of the cofactor matrix are cross products of the columns of J [3][3].
template <typename T>
GS_IR_HD Vec3<T> carried_normal(const T* jacobian, Vec3<T> gradient) {
    const Vec3<T> a = {jacobian[0], jacobian[3], jacobian[6]}, b = {jacobian[1], jacobian[4], jacobian[7]};
    const Vec3<T> c = {jacobian[2], jacobian[5], jacobian[8]};
    const Vec3<T> carried = cross(b, c) * gradient.x + cross(c, a) * gradient.y + cross(a, b) * gradient.z;
    return carried * (T(1) / maximum(length(carried), T(1e-12)));
}

// Spherical harmonics of bands 0 to 3 along the mirrored view direction.
template <typename T>
GS_IR_HD void reflected_harmonics(Vec3<T> normal, Vec3<T> view, T* out) {
    const Vec3<T> d = normal * (T(2) * dot(normal, view)) - view;
    T lower[kHarmonics];
    harmonics(d, lower);
    for (int k = 0; k < kHarmonics; ++k) out[k] = lower[k];
    const T xx = d.x * d.x, yy = d.y * d.y, zz = d.z * d.z;
    out[9] = T(0.5900435899266435) * d.y * (T(3) * xx - yy);
    out[10] = T(2.890611442640554) * d.x * d.y * d.z;
    out[11] = T(0.4570457994644658) * d.y * (T(5) * zz - T(1));
    out[12] = T(0.3731763325901154) * d.z * (T(5) * zz - T(3));
    out[13] = T(0.4570457994644658) * d.x * (T(5) * zz - T(1));
    out[14] = T(1.445305721320277) * d.z * (xx - yy);
    out[15] = T(0.5900435899266435) * d.x * (xx - T(3) * yy);
}

}  // namespace gs_ir
