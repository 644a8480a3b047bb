// Trilinear lookup of blended 3 x 4 transforms and the skinning map they define (see gs_ir/skinning.py).
// A lattice point holds 12 channels, rows of the transform one after another; x is the fastest axis. On a GPU volumes
// have to begin at a multiple of 16 bytes. One frame has fewer than 2^31 numbers.
#pragma once

#include "gs_ir/pack.h"

namespace gs_ir {

constexpr int kTransformSize = 12;

template <typename T>
struct Lattice {
    int32_t points[3];  // lattice points along x, y, z
    T low[3], high[3];  // positions of the first and last
    T scale[3];         // voxels a metre

    GS_IR_HD int32_t stride_y() const { return points[0]; }
    GS_IR_HD int32_t stride_z() const { return points[0] * points[1]; }
    GS_IR_HD int64_t size() const { return int64_t(stride_z()) * points[2]; }
};

// box: low x y z, high x y z; shape: z, y, x
template <typename T>
GS_IR_HD Lattice<T> make_lattice(const T* box, const int64_t* shape) {
    Lattice<T> lattice;
    for (int a = 0; a < 3; ++a) {
        lattice.points[a] = int32_t(shape[2 - a]);
        lattice.low[a] = box[a];
        lattice.high[a] = box[3 + a];
        lattice.scale[a] = T(lattice.points[a] - 1) / (box[3 + a] - box[a]);
    }
    return lattice;
}

// Where a point lies: lower corner of its voxel, position inside, and whether an axis is clamped at the border.
template <typename T>
struct VoxelPosition {
    int32_t corner;  // index of the lower corner within the volume of one frame
    int32_t layer;   // its z
    T fraction[3];
    T slope[3];      // d fraction / d point: voxels a metre, zero along a clamped axis
};

template <typename T>
GS_IR_HD VoxelPosition<T> locate(const Lattice<T>& lattice, const T* point) {
    VoxelPosition<T> at;
    int32_t base[3];
    for (int a = 0; a < 3; ++a) {
        const T last = T(lattice.points[a] - 1);
        const T scaled = (point[a] - lattice.low[a]) * lattice.scale[a];
        const T inside = clamp(scaled, T(0), last);  // NaN becomes 0
        at.slope[a] = scaled == inside ? lattice.scale[a] : T(0);
        base[a] = minimum(int32_t(inside), lattice.points[a] - 2);
        at.fraction[a] = inside - T(base[a]);
    }
    at.layer = base[2];
    at.corner = base[0] + base[1] * lattice.stride_y() + base[2] * lattice.stride_z();
    return at;
}

template <typename T>
GS_IR_HD bool inside_lattice(const Lattice<T>& lattice, const T* p) {
    bool inside = true;
    for (int a = 0; a < 3; ++a) inside = inside && p[a] >= lattice.low[a] && p[a] <= lattice.high[a];
    return inside;
}

// Offset of corner (dx, dy, dz) = bits 0, 1, 2 of `corner`, in lattice points
template <typename T>
GS_IR_HD int32_t corner_offset(const Lattice<T>& lattice, int corner) {
    return (corner & 1) + ((corner >> 1) & 1) * lattice.stride_y() + (corner >> 2) * lattice.stride_z();
}

// N of a lattice point's channels: on a GPU loaded at once into registers, on a CPU where they are.
#if defined(__CUDA_ARCH__)
constexpr int kRowsTogether = 1;  // rows of the transform that are interpolated at a time
template <typename T, int N>
struct Channels {
    T values[N];
    GS_IR_HD explicit Channels(const T* from) { load_pack<N>(from, values); }
    GS_IR_HD T operator[](int c) const { return values[c]; }
};
#else
constexpr int kRowsTogether = 3;
template <typename T, int N>
struct Channels {
    const T* values;
    GS_IR_HD explicit Channels(const T* from) : values(from) {}
    GS_IR_HD T operator[](int c) const { return values[c]; }
};
#endif

template <typename T>
GS_IR_HD T corner_weight(const VoxelPosition<T>& at, int corner) {
    T weight = T(1);
    for (int a = 0; a < 3; ++a) weight *= (corner >> a) & 1 ? at.fraction[a] : T(1) - at.fraction[a];
    return weight;
}

// out[12]: the transform at `point`; volume: of the point's frame
template <typename T>
GS_IR_HD void sample_transform(const T* volume, const Lattice<T>& lattice, const T* point, T* out) {
    const VoxelPosition<T> at = locate(lattice, point);
    T sum[kTransformSize] = {};
    for (int corner = 0; corner < 8; ++corner) {
        const T weight = corner_weight(at, corner);
        const Channels<T, kTransformSize> value(
            volume + (at.corner + corner_offset(lattice, corner)) * kTransformSize);
        for (int c = 0; c < kTransformSize; ++c) sum[c] += weight * value[c];
    }
    for (int c = 0; c < kTransformSize; ++c) out[c] = sum[c];
}

// Adjoint towards the point: grad_point[3] for grad[12]
template <typename T>
GS_IR_HD void adj_sample_transform_point(
    const T* grad, const T* volume, const Lattice<T>& lattice, const T* point, T* grad_point) {
    const VoxelPosition<T> at = locate(lattice, point);
    T s[8];  // <grad, corner>: the derivative of a sum is the derivative of this scalar's interpolant
    for (int corner = 0; corner < 8; ++corner) {
        const Channels<T, kTransformSize> value(
            volume + (at.corner + corner_offset(lattice, corner)) * kTransformSize);
        s[corner] = T(0);
        for (int c = 0; c < kTransformSize; ++c) s[corner] += grad[c] * value[c];
    }
    for (int a = 0; a < 3; ++a) {
        const int b = (a + 1) % 3, d = (a + 2) % 3;
        T slope = T(0);
        for (int pair = 0; pair < 4; ++pair) {
            const int corner = ((pair & 1) << b) | ((pair >> 1) << d);
            const T wb = pair & 1 ? at.fraction[b] : T(1) - at.fraction[b];
            const T wd = pair >> 1 ? at.fraction[d] : T(1) - at.fraction[d];
            slope += wb * wd * (s[corner | (1 << a)] - s[corner]);
        }
        grad_point[a] = slope * at.slope[a];
    }
}

// Adjoint towards the volume: add(address, values[12]) for each of the 8 lattice points that `point` reads
template <typename T, typename Add>
GS_IR_HD void adj_sample_transform_volume(
    const T* grad, const Lattice<T>& lattice, const T* point, T* grad_volume, const Add& add) {
    const VoxelPosition<T> at = locate(lattice, point);
    for (int corner = 0; corner < 8; ++corner) {
        const T weight = corner_weight(at, corner);
        T values[kTransformSize];
        for (int c = 0; c < kTransformSize; ++c) values[c] = weight * grad[c];
        add(grad_volume + (at.corner + corner_offset(lattice, corner)) * kTransformSize, values);
    }
}

// Posed point y = T(x) [x; 1] and exact Jacobian dy/dx = T_3x3 + sum_k dT/dx_k [x; 1] e_k^T (row-major 3 x 3).
// The interpolant is formed by successive linear interpolation, which yields the three slopes on the way.
template <typename T>
GS_IR_HD void skin_with_jacobian(const T* volume, const Lattice<T>& lattice, const T* point, T* posed, T* jacobian) {
    const VoxelPosition<T> at = locate(lattice, point);
    const T fx = at.fraction[0], fy = at.fraction[1], fz = at.fraction[2];
    const T homogeneous[4] = {point[0], point[1], point[2], T(1)};
    const T* near = volume + at.corner * kTransformSize;
    const T* far = near + lattice.stride_z() * kTransformSize;
    const int32_t up = lattice.stride_y() * kTransformSize;
    constexpr int n = 4 * kRowsTogether;
    for (int first = 0; first < 3; first += kRowsTogether) {
        using Values = Channels<T, n>;
        const T *a = near + 4 * first, *b = far + 4 * first;
        const Values c000(a), c100(a + kTransformSize), c010(a + up), c110(a + up + kTransformSize);
        const Values c001(b), c101(b + kTransformSize), c011(b + up), c111(b + up + kTransformSize);
        T value[n], slope_x[n], slope_y[n], slope_z[n];
        for (int c = 0; c < n; ++c) {
            const T dx00 = c100[c] - c000[c], dx10 = c110[c] - c010[c];
            const T dx01 = c101[c] - c001[c], dx11 = c111[c] - c011[c];
            const T v00 = c000[c] + fx * dx00, v10 = c010[c] + fx * dx10;
            const T v01 = c001[c] + fx * dx01, v11 = c011[c] + fx * dx11;
            const T dy0 = v10 - v00, dy1 = v11 - v01;
            const T v0 = v00 + fy * dy0, v1 = v01 + fy * dy1;
            const T dx0 = dx00 + fy * (dx10 - dx00), dx1 = dx01 + fy * (dx11 - dx01);
            value[c] = v0 + fz * (v1 - v0);
            slope_x[c] = (dx0 + fz * (dx1 - dx0)) * at.slope[0];
            slope_y[c] = (dy0 + fz * (dy1 - dy0)) * at.slope[1];
            slope_z[c] = (v1 - v0) * at.slope[2];
        }
        for (int row = 0; row < kRowsTogether; ++row) {
            T y = T(0), x_image = T(0), y_image = T(0), z_image = T(0);
            for (int c = 0; c < 4; ++c) {
                y += value[4 * row + c] * homogeneous[c];
                x_image += slope_x[4 * row + c] * homogeneous[c];
                y_image += slope_y[4 * row + c] * homogeneous[c];
                z_image += slope_z[4 * row + c] * homogeneous[c];
            }
            T* image = jacobian + 3 * (first + row);
            posed[first + row] = y;
            image[0] = value[4 * row] + x_image;
            image[1] = value[4 * row + 1] + y_image;
            image[2] = value[4 * row + 2] + z_image;
        }
    }
}

}  // namespace gs_ir
