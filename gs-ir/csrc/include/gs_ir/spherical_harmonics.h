// Real spherical harmonics of bands 0 to 2 (see gs_ir/reference/spherical_harmonics.py).
#pragma once

#include "gs_ir/common.h"

namespace gs_ir {

constexpr int kHarmonics = 9;

// Orthonormal, no Condon-Shortley sign, m from -l to l within band l.
template <typename T>
GS_IR_HD void harmonics(Vec3<T> d, T (&out)[kHarmonics]) {
    out[0] = T(0.28209479177387814);
    out[1] = T(0.4886025119029199) * d.y;
    out[2] = T(0.4886025119029199) * d.z;
    out[3] = T(0.4886025119029199) * d.x;
    out[4] = T(1.0925484305920792) * d.x * d.y;
    out[5] = T(1.0925484305920792) * d.y * d.z;
    out[6] = T(0.31539156525252005) * (T(3) * d.z * d.z - T(1));
    out[7] = T(1.0925484305920792) * d.x * d.z;
    out[8] = T(0.5462742152960396) * (d.x * d.x - d.y * d.y);
}

}  // namespace gs_ir
