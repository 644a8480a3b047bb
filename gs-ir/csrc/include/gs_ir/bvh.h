// Traversal of an eight-wide bounding volume hierarchy over triangles (layout: gs_ir/bvh.py).
//
// Boxes and triangles are structures of arrays: the loops over `lane` are one vector operation each on a CPU and wide
// loads on a GPU, where the tensors start at multiples of 16 bytes. The tree is at most kBvhDepth levels deep, the
// builder's promise, so a stack of 64 always suffices. Traversals descend to the next blocks, then test triangles, so
// that the threads of a warp more often do the same.
#pragma once

#include <limits>

#include "gs_ir/rows.h"

namespace gs_ir {

constexpr int kBvhWidth = 8;
constexpr int kBvhBlock = 4;
constexpr int kBvhDepth = 9;
constexpr int kBvhStack = (kBvhWidth - 1) * kBvhDepth + 1;
constexpr int32_t kBvhEmpty = -2147483647 - 1;

template <typename T>
struct BvhView {
    const T* node_boxes;           // [N, 6, 8]
    const int32_t* node_children;  // [N, 8]
    const T* block_vertices;       // [L, 9, 4]
    const int32_t* block_faces;    // [L, 4]
};

GS_IR_HD int lowest_bit(uint32_t mask) {
#if defined(__CUDA_ARCH__)
    return __ffs(int(mask)) - 1;
#else
    return __builtin_ctz(mask);
#endif
}

// ---- Rays -----------------------------------------------------------------------------------------------------------

// A ray prepared for boxes (reciprocal direction, which row of a box is entered first) and for triangles (axes renamed
// so that z is the largest component, and the shear that makes the ray the z axis; Woop, Benthin and Wald 2013).
template <typename T>
struct BvhRay {
    T origin[3], inverse[3];
    T origin_renamed[3], shear[3];
    int near_row[3], far_row[3];
    int axis[3];
    T t_min, t_max;
};

// False for rays that can hit nothing: NaN or infinite components, direction zero.
template <typename T>
GS_IR_HD bool prepare_ray(const T* origin, const T* direction, T t_min, T t_max, BvhRay<T>& ray) {
    constexpr T huge = std::numeric_limits<T>::max();
    bool finite = true;
    int z = 0;
    for (int a = 0; a < 3; ++a) {
        const T d = direction[a];
        finite = finite && std::abs(d) <= huge && std::abs(origin[a]) <= huge;
        ray.origin[a] = origin[a];
        ray.inverse[a] = T(1) / d;  // may be infinite, see intersect_boxes
        ray.near_row[a] = ray.inverse[a] >= T(0) ? a : 3 + a;
        ray.far_row[a] = ray.inverse[a] >= T(0) ? 3 + a : a;
        if (std::abs(d) > std::abs(direction[z])) z = a;
    }
    ray.axis[0] = (z + 1) % 3;
    ray.axis[1] = (z + 2) % 3;
    ray.axis[2] = z;
    for (int a = 0; a < 3; ++a) ray.origin_renamed[a] = origin[ray.axis[a]];
    ray.shear[2] = T(1) / direction[z];
    ray.shear[0] = direction[ray.axis[0]] * ray.shear[2];
    ray.shear[1] = direction[ray.axis[1]] * ray.shear[2];
    ray.t_min = t_min;
    ray.t_max = t_max;
    return finite && direction[z] != T(0);
}

// Bit per child whose box the ray meets in [t_min, t_max]; entry[lane]: where it enters. The far side is moved out by
// the rounding of three operations (Ize 2013). An origin on a box's plane and a zero component of the direction give
// 0 * infinity = NaN, which drops limits and never adds one.
template <typename T>
GS_IR_HD uint32_t intersect_boxes(const T* boxes, const BvhRay<T>& ray, T* entry) {
    constexpr T outwards = T(1) + T(4) * std::numeric_limits<T>::epsilon();
    const auto near_x = row<kBvhWidth>(boxes + kBvhWidth * ray.near_row[0]);
    const auto near_y = row<kBvhWidth>(boxes + kBvhWidth * ray.near_row[1]);
    const auto near_z = row<kBvhWidth>(boxes + kBvhWidth * ray.near_row[2]);
    const auto far_x = row<kBvhWidth>(boxes + kBvhWidth * ray.far_row[0]);
    const auto far_y = row<kBvhWidth>(boxes + kBvhWidth * ray.far_row[1]);
    const auto far_z = row<kBvhWidth>(boxes + kBvhWidth * ray.far_row[2]);
    const T ox = ray.origin[0], oy = ray.origin[1], oz = ray.origin[2], t_min = ray.t_min, t_max = ray.t_max;
    const T ix = ray.inverse[0], iy = ray.inverse[1], iz = ray.inverse[2];
    uint32_t mask = 0;
#pragma omp simd reduction(| : mask)
    for (int lane = 0; lane < kBvhWidth; ++lane) {
        const T enter_x = (near_x[lane] - ox) * ix, leave_x = (far_x[lane] - ox) * ix;
        const T enter_y = (near_y[lane] - oy) * iy, leave_y = (far_y[lane] - oy) * iy;
        const T enter_z = (near_z[lane] - oz) * iz, leave_z = (far_z[lane] - oz) * iz;
        const T enter = greater(greater(enter_x, enter_y), greater(enter_z, t_min));
        const T leave = lesser(lesser(leave_x, leave_y), leave_z) * outwards;
        entry[lane] = enter;
        mask |= enter <= lesser(leave, t_max) ? 1u << lane : 0u;
    }
    return mask;
}

// Woop's test for the triangles of one block. Bit per triangle hit with t_min < t < t_max; t[lane], and weights of
// vertices 1 and 2. Edge functions that are zero up to rounding count as inside, for both triangles of the edge, so no
// ray slips through; triangles whose area is zero up to rounding (degenerate or seen edge-on) are not hit.
template <typename T>
GS_IR_HD uint32_t intersect_block(const T* vertices, const BvhRay<T>& ray, T* t, T* weight1, T* weight2) {
    constexpr T rounding = T(4) * std::numeric_limits<T>::epsilon();
    constexpr int next = 3 * kBvhBlock;
    const T *xs = vertices + kBvhBlock * ray.axis[0], *ys = vertices + kBvhBlock * ray.axis[1],
            *zs = vertices + kBvhBlock * ray.axis[2];
    const auto ax = row<kBvhBlock>(xs), bx = row<kBvhBlock>(xs + next), cx = row<kBvhBlock>(xs + 2 * next);
    const auto ay = row<kBvhBlock>(ys), by = row<kBvhBlock>(ys + next), cy = row<kBvhBlock>(ys + 2 * next);
    const auto az = row<kBvhBlock>(zs), bz = row<kBvhBlock>(zs + next), cz = row<kBvhBlock>(zs + 2 * next);
    const T ox = ray.origin_renamed[0], oy = ray.origin_renamed[1], oz = ray.origin_renamed[2];
    const T sx = ray.shear[0], sy = ray.shear[1], sz = ray.shear[2], t_min = ray.t_min, t_max = ray.t_max;
    uint32_t mask = 0;
#pragma omp simd reduction(| : mask)
    for (int lane = 0; lane < kBvhBlock; ++lane) {
        const T a2 = az[lane] - oz, b2 = bz[lane] - oz, c2 = cz[lane] - oz;
        const T a0 = ax[lane] - ox - sx * a2, b0 = bx[lane] - ox - sx * b2, c0 = cx[lane] - ox - sx * c2;
        const T a1 = ay[lane] - oy - sy * a2, b1 = by[lane] - oy - sy * b2, c1 = cy[lane] - oy - sy * c2;
        const T u = c0 * b1 - c1 * b0, v = a0 * c1 - a1 * c0, w = b0 * a1 - b1 * a0;
        const T slack_u = rounding * (std::abs(c0 * b1) + std::abs(c1 * b0));
        const T slack_v = rounding * (std::abs(a0 * c1) + std::abs(a1 * c0));
        const T slack_w = rounding * (std::abs(b0 * a1) + std::abs(b1 * a0));
        const T determinant = u + v + w;
        const bool front = (u >= -slack_u) & (v >= -slack_v) & (w >= -slack_w);
        const bool back = (u <= slack_u) & (v <= slack_v) & (w <= slack_w);
        const bool area = std::abs(determinant) > slack_u + slack_v + slack_w;
#if defined(__CUDA_ARCH__)
        if (!((front | back) & area)) continue;  // a division saved; on a CPU it would undo the vector loop
#endif
        const T inverse = T(1) / determinant;
        const T distance = (u * a2 + v * b2 + w * c2) * sz * inverse;
        t[lane] = distance;
        weight1[lane] = v * inverse;
        weight2[lane] = w * inverse;
        const bool hit = (front | back) & area & (distance > t_min) & (distance < t_max);
        mask |= hit ? 1u << lane : 0u;
    }
    return mask;
}

// Children of one node that are yet to be visited, as bits. A stack holds at most one such group a level.
struct BvhGroup {
    int32_t node;
    uint32_t lanes;
};

// The next child on a stack of groups; false when it is empty.
GS_IR_HD bool pop_child(const int32_t* node_children, BvhGroup* stack, int& top, int32_t& child) {
    if (top == 0) return false;
    BvhGroup& group = stack[top - 1];
    child = node_children[int64_t(group.node) * kBvhWidth + lowest_bit(group.lanes)];
    group.lanes &= group.lanes - 1;
    if (group.lanes == 0) --top;
    return true;
}

// Bit per child of a node that is a block (or absent).
GS_IR_HD uint32_t block_lanes(const int32_t* children) {
    const auto child = row<kBvhWidth>(children);
    uint32_t mask = 0;
#pragma omp simd reduction(| : mask)
    for (int lane = 0; lane < kBvhWidth; ++lane) mask |= (uint32_t(child[lane]) >> 31) << lane;
    return mask;
}

template <typename T>
GS_IR_HD bool any_hit(const BvhView<T>& bvh, const T* origin, const T* direction, T t_min, T t_max) {
    BvhRay<T> ray;
    if (!prepare_ray(origin, direction, t_min, t_max, ray)) return false;
    BvhGroup stack[kBvhDepth];
    int top = 0;
    int32_t node = 0;
    do {
        uint32_t blocks = 0;
        const int32_t* children;
        do {
            children = bvh.node_children + int64_t(node) * kBvhWidth;
            T entry[kBvhWidth];
            const uint32_t met = intersect_boxes(bvh.node_boxes + int64_t(node) * 6 * kBvhWidth, ray, entry);
            blocks = met & block_lanes(children);
            if (met != blocks) stack[top++] = {node, met & ~blocks};
        } while (blocks == 0 && pop_child(bvh.node_children, stack, top, node));
        for (; blocks != 0; blocks &= blocks - 1) {
            T t[kBvhBlock], weight1[kBvhBlock], weight2[kBvhBlock];
            const int64_t block = -1 - int64_t(children[lowest_bit(blocks)]);
            if (intersect_block(bvh.block_vertices + block * 9 * kBvhBlock, ray, t, weight1, weight2) != 0) return true;
        }
    } while (pop_child(bvh.node_children, stack, top, node));
    return false;
}

template <typename T>
struct BvhHit {
    T t;
    int32_t face;
    T weight1, weight2;
};

// What waits on the stack of an ordered traversal: a child and a bound on how near anything in it can be.
template <typename T>
struct BvhEntry {
    T bound;
    int32_t child;
};

// Push children of `mask`, the one with the smallest bound last.
template <typename T>
GS_IR_HD int push_ordered(const int32_t* children, const T* bounds, uint32_t mask, BvhEntry<T>* stack, int top) {
    const int first = top;
    for (; mask != 0; mask &= mask - 1) {
        const int lane = lowest_bit(mask);
        int i = top++;
        for (; i > first && stack[i - 1].bound < bounds[lane]; --i) stack[i] = stack[i - 1];
        stack[i] = {bounds[lane], children[lane]};
    }
    return top;
}

// Push the children of a node that the ray meets.
template <typename T>
GS_IR_HD int push_met(const BvhView<T>& bvh, int64_t node, const BvhRay<T>& ray, BvhEntry<T>* stack, int top) {
    T entry[kBvhWidth];
    const uint32_t mask = intersect_boxes(bvh.node_boxes + node * 6 * kBvhWidth, ray, entry);
    return push_ordered(bvh.node_children + node * kBvhWidth, entry, mask, stack, top);
}

// Take the nearest hit of a block if it is nearer than `best`, and shorten the ray to it.
template <typename T>
GS_IR_HD void keep_nearest_hit(const BvhView<T>& bvh, int64_t block, BvhRay<T>& ray, BvhHit<T>& best) {
    T t[kBvhBlock], weight1[kBvhBlock], weight2[kBvhBlock];
    const uint32_t mask = intersect_block(bvh.block_vertices + block * 9 * kBvhBlock, ray, t, weight1, weight2);
    for (int lane = 0; lane < kBvhBlock; ++lane) {
        if ((mask >> lane & 1u) != 0 && t[lane] < ray.t_max) {
            ray.t_max = t[lane];
            best = {t[lane], bvh.block_faces[block * kBvhBlock + lane], weight1[lane], weight2[lane]};
        }
    }
}

template <typename T>
GS_IR_HD BvhHit<T> closest_hit(const BvhView<T>& bvh, const T* origin, const T* direction, T t_min, T t_max) {
    BvhHit<T> best{std::numeric_limits<T>::infinity(), -1, T(0), T(0)};
    BvhRay<T> ray;
    if (!prepare_ray(origin, direction, t_min, t_max, ray)) return best;
    BvhEntry<T> stack[kBvhStack];
    int top = 0;
    stack[top++] = {t_min, 0};
    while (true) {
        int32_t child = 0;
        while (top > 0 && child >= 0) {
            child = stack[--top].child;
            if (stack[top].bound > ray.t_max)
                child = 0;
            else if (child >= 0)
                top = push_met(bvh, child, ray, stack, top);
        }
        if (child >= 0) return best;
        keep_nearest_hit(bvh, -1 - int64_t(child), ray, best);
    }
}

// ---- Closest point --------------------------------------------------------------------------------------------------

// Squared distances from point to the boxes of a node's children; bit per child nearer than `limit`.
template <typename T>
GS_IR_HD uint32_t box_distances(const T* boxes, const T* point, T limit, T* squared) {
    const T x = point[0], y = point[1], z = point[2];
    const auto low_x = row<kBvhWidth>(boxes), high_x = row<kBvhWidth>(boxes + 3 * kBvhWidth);
    const auto low_y = row<kBvhWidth>(boxes + kBvhWidth), high_y = row<kBvhWidth>(boxes + 4 * kBvhWidth);
    const auto low_z = row<kBvhWidth>(boxes + 2 * kBvhWidth), high_z = row<kBvhWidth>(boxes + 5 * kBvhWidth);
    uint32_t mask = 0;
#pragma omp simd reduction(| : mask)
    for (int lane = 0; lane < kBvhWidth; ++lane) {
        const T dx = greater(greater(low_x[lane] - x, x - high_x[lane]), T(0));
        const T dy = greater(greater(low_y[lane] - y, y - high_y[lane]), T(0));
        const T dz = greater(greater(low_z[lane] - z, z - high_z[lane]), T(0));
        squared[lane] = dx * dx + dy * dy + dz * dz;
        mask |= squared[lane] < limit ? 1u << lane : 0u;
    }
    return mask;
}

// Nearest point to the origin on the segment from p along e: parameter in [0, 1] and squared distance.
template <typename T>
GS_IR_HD T nearest_on_segment(T px, T py, T pz, T ex, T ey, T ez, T& squared) {
    const T along = -(px * ex + py * ey + pz * ez) / maximum(ex * ex + ey * ey + ez * ez, T(1e-30));
    const T s = minimum(maximum(along, T(0)), T(1));
    const T x = px + s * ex, y = py + s * ey, z = pz + s * ez;
    squared = x * x + y * y + z * z;
    return s;
}

// Nearest points of a block's triangles: squared distance, weights of vertices 1 and 2. The foot point in the plane if
// it is inside, else the best of the three edges; then the weights on edges and corners are exactly 0 or 1.
// Spelled out in scalars: GCC does not vectorise the loop with Vec3.
template <typename T>
GS_IR_HD void nearest_in_block(const T* vertices, const T* point, T* squared, T* weight1, T* weight2) {
    const auto v = row<9 * kBvhBlock>(vertices);
    constexpr int next = kBvhBlock;
    const T qx = point[0], qy = point[1], qz = point[2];
#pragma omp simd
    for (int lane = 0; lane < kBvhBlock; ++lane) {
        const T ax = v[lane] - qx, ay = v[next + lane] - qy, az = v[2 * next + lane] - qz;
        const T bx = v[3 * next + lane] - qx, by = v[4 * next + lane] - qy, bz = v[5 * next + lane] - qz;
        const T cx = v[6 * next + lane] - qx, cy = v[7 * next + lane] - qy, cz = v[8 * next + lane] - qz;
        const T ux = bx - ax, uy = by - ay, uz = bz - az;  // edge 01
        const T wx = cx - ax, wy = cy - ay, wz = cz - az;  // edge 02
        const T d11 = ux * ux + uy * uy + uz * uz, d12 = ux * wx + uy * wy + uz * wz, d22 = wx * wx + wy * wy + wz * wz;
        const T b1 = -(ax * ux + ay * uy + az * uz), b2 = -(ax * wx + ay * wy + az * wz);
        const T determinant = d11 * d22 - d12 * d12;
        const T foot1 = (d22 * b1 - d12 * b2) / determinant, foot2 = (d11 * b2 - d12 * b1) / determinant;
        const T fx = ax + foot1 * ux + foot2 * wx, fy = ay + foot1 * uy + foot2 * wy, fz = az + foot1 * uz + foot2 * wz;
        const T on_plane = fx * fx + fy * fy + fz * fz;
        T on_01, on_02, on_12;
        const T s01 = nearest_on_segment(ax, ay, az, ux, uy, uz, on_01);
        const T s02 = nearest_on_segment(ax, ay, az, wx, wy, wz, on_02);
        const T s12 = nearest_on_segment(bx, by, bz, wx - ux, wy - uy, wz - uz, on_12);
        const T best = minimum(on_01, minimum(on_02, on_12));
        const bool inside = (foot1 > T(0)) & (foot2 > T(0)) & (foot1 + foot2 < T(1)) & (determinant > T(0));
        const bool plane = inside & (on_plane <= best), edge_01 = on_01 == best, edge_02 = on_02 == best;
        const T edge1 = edge_01 ? s01 : (edge_02 ? T(0) : T(1) - s12);
        const T edge2 = edge_01 ? T(0) : (edge_02 ? s02 : s12);
        squared[lane] = plane ? on_plane : best;
        weight1[lane] = plane ? foot1 : edge1;
        weight2[lane] = plane ? foot2 : edge2;
    }
}

// Push the children of a node whose boxes are nearer than `limit`.
template <typename T>
GS_IR_HD int push_near(const BvhView<T>& bvh, int64_t node, const T* point, T limit, BvhEntry<T>* stack, int top) {
    T squared[kBvhWidth];
    const uint32_t mask = box_distances(bvh.node_boxes + node * 6 * kBvhWidth, point, limit, squared);
    return push_ordered(bvh.node_children + node * kBvhWidth, squared, mask, stack, top);
}

// Nearest surface point; t holds the squared distance.
template <typename T>
GS_IR_HD BvhHit<T> closest_point(const BvhView<T>& bvh, const T* point) {
    BvhHit<T> best{std::numeric_limits<T>::infinity(), -1, T(0), T(0)};
    // a NaN would look at everything and find nothing
    if (!(std::abs(point[0] + point[1] + point[2]) <= std::numeric_limits<T>::max())) return best;
    BvhEntry<T> stack[kBvhStack];
    int top = 0;
    stack[top++] = {T(0), 0};
    while (true) {
        int32_t child = 0;
        while (top > 0 && child >= 0) {
            child = stack[--top].child;
            if (!(stack[top].bound < best.t))
                child = 0;
            else if (child >= 0)
                top = push_near(bvh, child, point, best.t, stack, top);
        }
        if (child >= 0) return best;
        const int64_t block = -1 - int64_t(child);
        T squared[kBvhBlock], weight1[kBvhBlock], weight2[kBvhBlock];
        nearest_in_block(bvh.block_vertices + block * 9 * kBvhBlock, point, squared, weight1, weight2);
        for (int lane = 0; lane < kBvhBlock; ++lane)
            if (squared[lane] < best.t)
                best = {squared[lane], bvh.block_faces[block * kBvhBlock + lane], weight1[lane], weight2[lane]};
    }
}

}  // namespace gs_ir
