// Multiresolution hash grid, one cell of one level at a time (see gs_ir/hash_grid.py).
//
// Corner c of a cell lies at offset (c & 1, c >> 1 & 1, c >> 2). A cell's trilinear interpolant v(p, q, r) is computed
// axis by axis, x first, so that values, first and mixed second derivatives share the partial sums.
#pragma once

#include "gs_ir/common.h"

namespace gs_ir {

constexpr uint32_t kHashPrimeY = 2654435761u;
constexpr uint32_t kHashPrimeZ = 805459861u;

struct HashLevel {
    int32_t resolution;  // cells a side
    uint32_t size;       // entries; a power of two unless dense
    bool dense;
    int64_t offset;      // first entry in the table
};

GS_IR_HD HashLevel hash_level(int64_t resolution, int64_t begin, int64_t end) {
    const int64_t side = resolution + 1;
    return {int32_t(resolution), uint32_t(end - begin), side * side * side <= end - begin, begin};
}

template <typename T>
struct HashCell {
    int32_t x, y, z;
    Vec3<T> fraction;  // position inside the cell, 0..1
    Vec3<T> slope;     // d fraction / d point; zero along coordinates that were clamped to the unit cube
};

// NaN is clamped to zero, so that every cell exists.
template <typename T>
GS_IR_HD void locate_axis(T point, int32_t resolution, int32_t& cell, T& fraction, T& slope) {
    const T scaled = clamp(point, T(0), T(1)) * T(resolution);
    const int32_t floored = int32_t(scaled);
    cell = floored < resolution ? floored : resolution - 1;
    fraction = scaled - T(cell);
    slope = point >= T(0) && point <= T(1) ? T(resolution) : T(0);
}

template <typename T>
GS_IR_HD HashCell<T> locate_cell(Vec3<T> point, int32_t resolution) {
    HashCell<T> cell;
    locate_axis(point.x, resolution, cell.x, cell.fraction.x, cell.slope.x);
    locate_axis(point.y, resolution, cell.y, cell.fraction.y, cell.slope.y);
    locate_axis(point.z, resolution, cell.z, cell.fraction.z, cell.slope.z);
    return cell;
}

// Entry of each corner, relative to the level's first.
template <typename T>
GS_IR_HD void corner_entries(const HashLevel& level, const HashCell<T>& cell, uint32_t entries[8]) {
    const uint32_t x = uint32_t(cell.x), y = uint32_t(cell.y), z = uint32_t(cell.z);
    if (level.dense) {
        const uint32_t side = uint32_t(level.resolution) + 1;
        const uint32_t first = x + side * (y + side * z);
        for (int c = 0; c < 8; ++c) entries[c] = first + (c & 1) + side * ((c >> 1 & 1) + side * (c >> 2));
        return;
    }
    const uint32_t mask = level.size - 1;
    const uint32_t hash_y[2] = {y * kHashPrimeY, (y + 1) * kHashPrimeY};
    const uint32_t hash_z[2] = {z * kHashPrimeZ, (z + 1) * kHashPrimeZ};
    for (int c = 0; c < 8; ++c) entries[c] = ((x + (c & 1)) ^ hash_y[c >> 1 & 1] ^ hash_z[c >> 2]) & mask;
}

template <typename T>
GS_IR_HD Vec3<T> scale(Vec3<T> a, Vec3<T> s) { return {a.x * s.x, a.y * s.y, a.z * s.z}; }

// value[f] = v of the level's `table` at `fraction`
template <int F, typename T>
GS_IR_HD void interpolate_cell(const T* table, const uint32_t entries[8], Vec3<T> fraction, T* value) {
    for (int f = 0; f < F; ++f) {
        T v[4];
        for (int i = 0; i < 4; ++i) {
            const T low = table[int64_t(entries[2 * i]) * F + f], high = table[int64_t(entries[2 * i + 1]) * F + f];
            v[i] = low + fraction.x * (high - low);
        }
        const T near = v[0] + fraction.y * (v[1] - v[0]), far = v[2] + fraction.y * (v[3] - v[2]);
        value[f] = near + fraction.z * (far - near);
    }
}

// Interpolant of one feature and its derivatives by the position inside the cell.
template <typename T>
struct CellDerivatives {
    T value, x, y, z, xy, xz, yz;
};

template <int F, typename T>
GS_IR_HD CellDerivatives<T> differentiate_cell(const T* table, const uint32_t entries[8], Vec3<T> fraction, int f) {
    T v[4], dx[4];
    for (int i = 0; i < 4; ++i) {
        const T low = table[int64_t(entries[2 * i]) * F + f], high = table[int64_t(entries[2 * i + 1]) * F + f];
        dx[i] = high - low;
        v[i] = low + fraction.x * dx[i];
    }
    const T dy_near = v[1] - v[0], dy_far = v[3] - v[2];
    const T dxy_near = dx[1] - dx[0], dxy_far = dx[3] - dx[2];
    const T v_near = v[0] + fraction.y * dy_near, v_far = v[2] + fraction.y * dy_far;
    const T dx_near = dx[0] + fraction.y * dxy_near, dx_far = dx[2] + fraction.y * dxy_far;
    CellDerivatives<T> out;
    out.z = v_far - v_near;
    out.xz = dx_far - dx_near;
    out.yz = dy_far - dy_near;
    out.value = v_near + fraction.z * out.z;
    out.x = dx_near + fraction.z * out.xz;
    out.y = dy_near + fraction.z * out.yz;
    out.xy = dxy_near + fraction.z * (dxy_far - dxy_near);
    return out;
}

// value[f], and jacobian[3 f + axis] = d value[f] / d point
template <int F, typename T>
GS_IR_HD void interpolate_cell_jacobian(
    const T* table, const uint32_t entries[8], const HashCell<T>& cell, T* value, T* jacobian) {
    for (int f = 0; f < F; ++f) {
        const CellDerivatives<T> d = differentiate_cell<F>(table, entries, cell.fraction, f);
        value[f] = d.value;
        store3(jacobian + 3 * f, scale({d.x, d.y, d.z}, cell.slope));
    }
}

// Adjoints. With cotangents g_f of the value and h_f = (cotangent of the jacobian) * slope, both are derivatives of
//   phi = sum_f g_f v_f + h_f . grad v_f.

// Gradient of phi by the entries: calls add(corner, gradient[F]).
template <int F, typename T, typename Add>
GS_IR_HD void adj_cell_entries(Vec3<T> fraction, const T* g, const Vec3<T>* h, Add add) {
    const T weight_x[2] = {T(1) - fraction.x, fraction.x};
    const T weight_y[2] = {T(1) - fraction.y, fraction.y};
    const T weight_z[2] = {T(1) - fraction.z, fraction.z};
    for (int c = 0; c < 8; ++c) {
        const T x = weight_x[c & 1], y = weight_y[c >> 1 & 1], z = weight_z[c >> 2];
        const T slope_x = (c & 1) ? y * z : -y * z;
        const T slope_y = (c >> 1 & 1) ? x * z : -x * z;
        const T slope_z = (c >> 2) ? x * y : -x * y;
        T gradient[F];
        for (int f = 0; f < F; ++f)
            gradient[f] = x * y * z * g[f] + slope_x * h[f].x + slope_y * h[f].y + slope_z * h[f].z;
        add(c, gradient);
    }
}

template <int F, typename T, typename Add>
GS_IR_HD void adj_cell_entries(Vec3<T> fraction, const T* g, Add add) {
    const T weight_x[2] = {T(1) - fraction.x, fraction.x};
    const T weight_y[2] = {T(1) - fraction.y, fraction.y};
    const T weight_z[2] = {T(1) - fraction.z, fraction.z};
    for (int c = 0; c < 8; ++c) {
        const T weight = weight_x[c & 1] * weight_y[c >> 1 & 1] * weight_z[c >> 2];
        T gradient[F];
        for (int f = 0; f < F; ++f) gradient[f] = weight * g[f];
        add(c, gradient);
    }
}

// Gradient of phi by the point.
template <int F, typename T>
GS_IR_HD Vec3<T> adj_cell_point(
    const T* table, const uint32_t entries[8], const HashCell<T>& cell, const T* g, const Vec3<T>* h) {
    Vec3<T> sum = {T(0), T(0), T(0)};
    for (int f = 0; f < F; ++f) {
        const CellDerivatives<T> d = differentiate_cell<F>(table, entries, cell.fraction, f);
        sum.x += g[f] * d.x + h[f].y * d.xy + h[f].z * d.xz;
        sum.y += g[f] * d.y + h[f].x * d.xy + h[f].z * d.yz;
        sum.z += g[f] * d.z + h[f].x * d.xz + h[f].y * d.yz;
    }
    return scale(sum, cell.slope);
}

template <int F, typename T>
GS_IR_HD Vec3<T> adj_cell_point(const T* table, const uint32_t entries[8], const HashCell<T>& cell, const T* g) {
    Vec3<T> sum = {T(0), T(0), T(0)};
    for (int f = 0; f < F; ++f) {
        const CellDerivatives<T> d = differentiate_cell<F>(table, entries, cell.fraction, f);
        sum = sum + Vec3<T>{d.x, d.y, d.z} * g[f];
    }
    return scale(sum, cell.slope);
}

}  // namespace gs_ir
