// Marching, resampling and compositing along one ray (see gs_ir/marching.py).
#pragma once

#include "gs_ir/common.h"

namespace gs_ir {

// --- marching ------------------------------------------------------------

// Occupancy of one frame: cells [z][y][x] that split the box from `low` to `high` evenly.
template <typename T>
struct OccupancyGrid {
    const uint8_t* cells;
    int32_t size_x, size_y, size_z;
    Vec3<T> low, high;
};

// Interval k of a ray is [(k + jitter) step, (k + 1 + jitter) step].
template <typename T>
struct LatticeRay {
    Vec3<T> origin, direction;
    T step, jitter;

    GS_IR_HD T start(int32_t k) const { return (T(k) + jitter) * step; }
    GS_IR_HD T end(int32_t k) const { return (T(k) + jitter + T(1)) * step; }
    GS_IR_HD T middle(int32_t k) const { return (T(k) + jitter + T(0.5)) * step; }
    // The first interval whose midpoint reaches t, or for rounding errors one before. The bound is where single
    // precision stops telling intervals apart.
    GS_IR_HD int32_t reach(T t, T inverse_step) const {
        return int32_t(clamp(std::ceil(t * inverse_step - jitter - T(0.5) - T(1e-2)), T(-1), T(1 << 24)));
    }
};

// One coordinate of a ray in units of cells: position(t) = offset + slope t.
template <typename T>
struct CellAxis {
    T offset, slope, inverse;
    int32_t size, ahead;  // ahead: 1 where the cell's upper side is the exit

    GS_IR_HD CellAxis(T origin, T direction, T low, T high, int32_t size) : size(size) {
        const T cells_per_unit = T(size) / (high - low);
        offset = (origin - low) * cells_per_unit;
        slope = direction * cells_per_unit;
        // A ray across the axis leaves the cell by another side: any exit that is far enough does.
        inverse = slope != T(0) ? T(1) / slope : T(1e30);
        ahead = slope >= T(0);
    }
    GS_IR_HD T position(T t) const { return offset + slope * t; }
    GS_IR_HD T exit(int32_t cell) const { return (T(cell + ahead) - offset) * inverse; }
    // Narrows [near, far] to the depths inside the grid.
    GS_IR_HD void clip(T& near, T& far) const {
        if (slope == T(0) && !(offset >= T(0) && offset <= T(size))) far = T(-1);
        if (slope == T(0)) return;
        near = maximum(near, (T(ahead ? 0 : size) - offset) * inverse);
        far = minimum(far, (T(ahead ? size : 0) - offset) * inverse);
    }
};

// Calls emit(k) for every interval whose midpoint lies in an occupied cell, in order. With a counting `emit` this is
// the count pass, with a storing one the fill pass; the latter may drop what exceeds a fixed capacity.
template <typename T, typename Emit>
GS_IR_HD void march_ray(const LatticeRay<T>& ray, const OccupancyGrid<T>& grid, Emit emit) {
    const CellAxis<T> x(ray.origin.x, ray.direction.x, grid.low.x, grid.high.x, grid.size_x);
    const CellAxis<T> y(ray.origin.y, ray.direction.y, grid.low.y, grid.high.y, grid.size_y);
    const CellAxis<T> z(ray.origin.z, ray.direction.z, grid.low.z, grid.high.z, grid.size_z);
    T near = T(0), far = T(INFINITY);
    x.clip(near, far), y.clip(near, far), z.clip(near, far);
    if (!(near <= far && far < T(INFINITY))) return;
    const T inverse_step = T(1) / ray.step;
    // Jumping to a cell's exit waits for the exit, testing the next interval does not: it must pass several to pay off.
    const T cells_per_step = ray.step * maximum(std::abs(x.slope), maximum(std::abs(y.slope), std::abs(z.slope)));
    const bool jump = cells_per_step < T(0.125);
    // One interval more at both ends: the cell test decides, not the rounding of the clipped depths.
    const int32_t last = ray.reach(far, inverse_step) + 1;
    for (int32_t k = maximum(ray.reach(near, inverse_step) - 1, 0); k <= last;) {
        const T t = ray.middle(k);
        const int32_t i = int32_t(std::floor(x.position(t))), j = int32_t(std::floor(y.position(t))),
                      l = int32_t(std::floor(z.position(t)));
        if (uint32_t(i) >= uint32_t(x.size) || uint32_t(j) >= uint32_t(y.size) || uint32_t(l) >= uint32_t(z.size)) {
            ++k;
        } else if (grid.cells[(int64_t(l) * y.size + j) * x.size + i]) {
            emit(k++);
        } else if (jump) {
            k = maximum(k + 1, ray.reach(minimum(minimum(x.exit(i), y.exit(j)), z.exit(l)), inverse_step));
        } else {
            ++k;
        }
    }
}

// Rays and the grids of all frames: origins, directions [R][3], jitter [R], frames [R]; boxes [B][2][3], occupancy
// [B][z][y][x].
template <typename T>
struct MarchScene {
    const T *origins, *directions, *boxes, *jitter;
    const uint8_t* occupancy;
    const int64_t* frames;
    int64_t size_z, size_y, size_x;
    T step;

    GS_IR_HD LatticeRay<T> ray(int64_t r) const {
        return {load3(origins + 3 * r), load3(directions + 3 * r), step, jitter[r]};
    }
    GS_IR_HD OccupancyGrid<T> grid(int64_t r) const {
        const int64_t b = frames[r];
        return {occupancy + b * size_z * size_y * size_x, int32_t(size_x), int32_t(size_y), int32_t(size_z),
                load3(boxes + 6 * b), load3(boxes + 6 * b + 3)};
    }
};

// --- resampling ------------------------------------------------------------

// Inverts the CDF of `count` weights at each position: depth and interval index, -1 and 0 in the background bin.
template <typename T>
GS_IR_HD void resample_ray(const T* starts, const T* ends, const T* weights, int64_t count, int64_t first,
                           const T* positions, int64_t draws, T* t, int64_t* interval) {
    T total = T(0);
    for (int64_t i = 0; i < count; ++i) total += weights[i];
    total = maximum(total, T(1));
    int64_t i = 0;
    T sum = T(0), low = T(0), high = count > 0 ? weights[0] / total : T(0);
    for (int64_t k = 0; k < draws; ++k) {
        const T u = positions[k];
        if (u < low) {  // positions that do not ascend start over
            i = 0;
            sum = low = T(0);
            high = count > 0 ? weights[0] / total : T(0);
        }
        while (i < count && !(u < high)) {
            sum += weights[i++];
            low = high;
            if (i < count) high = (sum + weights[i]) / total;
        }
        if (i == count) {
            t[k] = T(0);
            interval[k] = -1;
            continue;
        }
        const T share = clamp((u - low) / (high - low), T(0), T(1));
        t[k] = starts[i] + share * (ends[i] - starts[i]);
        interval[k] = first + i;
    }
}

// Cuts a ray's `count` intervals at those of `draws` ascending depths that lie in an interval (not -1); writes
// `new_count` = count + their number. Depths out of order are lost, to intervals of no length at the ray's end.
template <typename T>
GS_IR_HD void insert_ray(const T* starts, const T* ends, int64_t count, int64_t first, const T* t,
                         const int64_t* interval, int64_t draws, int64_t new_count, T* new_starts, T* new_ends) {
    int64_t out = 0, k = 0;
    for (int64_t i = 0; i < count; ++i) {
        T edge = starts[i];
        for (; k < draws && (interval[k] < 0 || interval[k] == first + i); ++k) {
            if (interval[k] < 0) continue;
            const T cut = clamp(t[k], edge, ends[i]);
            new_starts[out] = edge;
            new_ends[out++] = cut;
            edge = cut;
        }
        new_starts[out] = edge;
        new_ends[out++] = ends[i];
    }
    for (; out < new_count; ++out) new_starts[out] = new_ends[out] = count > 0 ? ends[count - 1] : T(0);
}

// --- compositing ------------------------------------------------------------

// w_i = alpha_i prod_{j<i} (1 - alpha_j)
template <typename T>
GS_IR_HD void render_weights_ray(const T* alphas, int64_t count, T* weights) {
    T transmittance = T(1);
    for (int64_t i = 0; i < count; ++i) {
        weights[i] = transmittance * alphas[i];
        transmittance *= T(1) - alphas[i];
    }
}

// d alpha_i = T_i (g_i - A_i), A_i = g_{i+1} alpha_{i+1} + (1 - alpha_{i+1}) A_{i+1}: no division by 1 - alpha.
template <typename T>
GS_IR_HD void adj_render_weights_ray(const T* grad, const T* alphas, int64_t count, T* grad_alphas) {
    T behind = T(0);
    for (int64_t i = count; i-- > 0;) {
        grad_alphas[i] = grad[i] - behind;
        behind = grad[i] * alphas[i] + (T(1) - alphas[i]) * behind;
    }
    T transmittance = T(1);
    for (int64_t i = 0; i < count; ++i) {
        grad_alphas[i] *= transmittance;
        transmittance *= T(1) - alphas[i];
    }
}

}  // namespace gs_ir
