// Queries of the 8-wide triangle tree (see gs_ir/bvh.py for its layout).
//
// The loops over eight boxes and four triangles have no branches, so that a CPU compiler turns each into vector
// instructions; a GPU unrolls them.
#pragma once

#include <limits>

#include "gs_ir/common.h"

namespace gs_ir {

constexpr int kBvhWidth = 8;
constexpr int kBvhBlock = 4;
constexpr int kBvhStack = 96;
constexpr int32_t kBvhEmpty = -2147483647 - 1;

template <typename T>
struct BvhView {
    const T* node_boxes;           // [N, 6, 8]
    const int32_t* node_children;  // [N, 8]
    const T* block_vertices;       // [L, 9, 4]
    const int32_t* block_faces;    // [L, 4]
};

template <typename T>
struct Ray {
    Vec3<T> origin, direction, inverse;
};

template <typename T>
GS_IR_HD Ray<T> make_ray(const T* origin, const T* direction) {
    Ray<T> ray{load3(origin), load3(direction), {}};
    // A zero component divides to infinity, which the slab test below takes without NaN except for 0 * inf; a tiny
    // number avoids that case and moves nothing.
    const T tiny = std::numeric_limits<T>::min() * T(1e4);
    auto invert = [tiny](T d) { return T(1) / (d == T(0) ? tiny : d); };
    ray.inverse = {invert(ray.direction.x), invert(ray.direction.y), invert(ray.direction.z)};
    return ray;
}

// Entry distances of a ray into the eight child boxes of a node; infinity where it misses [t_min, t_max].
// The far side is widened by a few roundings, so that a hit on a box's face is never lost (Ize 2013).
template <typename T>
GS_IR_HD void intersect_boxes(const T* boxes, const Ray<T>& ray, T t_min, T t_max, T* entry) {
    const T widen = T(1) + T(4) * std::numeric_limits<T>::epsilon();
    for (int i = 0; i < kBvhWidth; ++i) {
        const T x0 = (boxes[i] - ray.origin.x) * ray.inverse.x, x1 = (boxes[24 + i] - ray.origin.x) * ray.inverse.x;
        const T y0 = (boxes[8 + i] - ray.origin.y) * ray.inverse.y, y1 = (boxes[32 + i] - ray.origin.y) * ray.inverse.y;
        const T z0 = (boxes[16 + i] - ray.origin.z) * ray.inverse.z, z1 = (boxes[40 + i] - ray.origin.z) * ray.inverse.z;
        const T near = maximum(maximum(minimum(x0, x1), minimum(y0, y1)), maximum(minimum(z0, z1), t_min));
        const T far = minimum(minimum(maximum(x0, x1), maximum(y0, y1)), minimum(maximum(z0, z1), t_max)) * widen;
        entry[i] = near <= far && boxes[i] <= boxes[24 + i] ? near : std::numeric_limits<T>::infinity();
    }
}

// Moeller and Trumbore (1997) on a block of four triangles: t (infinity: no hit) and the weights of corners 1 and 2.
// The slack closes the gap between two triangles that share an edge.
template <typename T>
GS_IR_HD void intersect_block(const T* c, const Ray<T>& ray, T t_min, T t_max, T* t, T* u, T* v) {
    const T slack = T(4) * std::numeric_limits<T>::epsilon();
    const Vec3<T> o = ray.origin, d = ray.direction;
    for (int i = 0; i < kBvhBlock; ++i) {
        const Vec3<T> a{c[i], c[4 + i], c[8 + i]};
        const Vec3<T> edge1 = Vec3<T>{c[12 + i], c[16 + i], c[20 + i]} - a;
        const Vec3<T> edge2 = Vec3<T>{c[24 + i], c[28 + i], c[32 + i]} - a;
        const Vec3<T> p = cross(d, edge2), offset = o - a, q = cross(offset, edge1);
        const T inverse = T(1) / dot(p, edge1);
        u[i] = dot(p, offset) * inverse;
        v[i] = dot(q, d) * inverse;
        const T distance = dot(q, edge2) * inverse;
        // Comparisons are false for NaN, which padding and degenerate triangles give.
        const bool hit = u[i] >= -slack && v[i] >= -slack && u[i] + v[i] <= T(1) + slack && distance > t_min && distance < t_max;
        t[i] = hit ? distance : std::numeric_limits<T>::infinity();
    }
}

template <typename T>
GS_IR_HD bool any_hit(const BvhView<T>& bvh, const Ray<T>& ray, T t_min, T t_max) {
    int32_t stack[kBvhStack];
    int depth = 0;
    stack[depth++] = 0;
    while (depth > 0) {
        const int32_t node = stack[--depth];
        T entry[kBvhWidth];
        intersect_boxes(bvh.node_boxes + int64_t(node) * 48, ray, t_min, t_max, entry);
        for (int i = 0; i < kBvhWidth; ++i) {
            const int32_t child = bvh.node_children[int64_t(node) * 8 + i];
            if (!(entry[i] < std::numeric_limits<T>::infinity()) || child == kBvhEmpty) continue;
            if (child >= 0) {
                stack[depth++] = child;
                continue;
            }
            T t[kBvhBlock], u[kBvhBlock], v[kBvhBlock];
            intersect_block(bvh.block_vertices + int64_t(-1 - child) * 36, ray, t_min, t_max, t, u, v);
            for (int k = 0; k < kBvhBlock; ++k)
                if (t[k] < std::numeric_limits<T>::infinity()) return true;
        }
    }
    return false;
}

template <typename T>
struct Hit {
    T t;
    int32_t face;
    T weight1, weight2;
};

template <typename T>
GS_IR_HD Hit<T> closest_hit(const BvhView<T>& bvh, const Ray<T>& ray, T t_min, T t_max) {
    const T infinity = std::numeric_limits<T>::infinity();
    Hit<T> best{infinity, -1, T(0), T(0)};
    T limit = t_max;
    int32_t stack[kBvhStack];
    T reached[kBvhStack];
    int depth = 0;
    stack[depth] = 0;
    reached[depth++] = t_min;
    while (depth > 0) {
        const int32_t item = stack[--depth];
        if (reached[depth] > limit) continue;
        if (item < 0) {
            const int64_t block = -1 - item;
            T t[kBvhBlock], u[kBvhBlock], v[kBvhBlock];
            intersect_block(bvh.block_vertices + block * 36, ray, t_min, t_max, t, u, v);
            for (int k = 0; k < kBvhBlock; ++k) {
                const int32_t face = bvh.block_faces[block * 4 + k];
                // Ties go to the lower face, so that the answer does not depend on the tree.
                if (t[k] < best.t || (t[k] == best.t && t[k] < infinity && face < best.face)) best = {t[k], face, u[k], v[k]};
            }
            limit = minimum(limit, best.t);
            continue;
        }
        T entry[kBvhWidth];
        intersect_boxes(bvh.node_boxes + int64_t(item) * 48, ray, t_min, limit, entry);
        const int base = depth;
        for (int i = 0; i < kBvhWidth; ++i) {
            const int32_t child = bvh.node_children[int64_t(item) * 8 + i];
            if (!(entry[i] < infinity) || child == kBvhEmpty) continue;
            // Insertion keeps the nearest child on top of the stack.
            int place = depth++;
            for (; place > base && reached[place - 1] < entry[i]; --place) {
                reached[place] = reached[place - 1];
                stack[place] = stack[place - 1];
            }
            reached[place] = entry[i];
            stack[place] = child;
        }
    }
    return best;
}

template <typename T>
struct Nearest {
    T squared;
    int32_t face;
    T weight1, weight2;
};

// Nearest point of one triangle: the foot point if it lies inside, else the best of the three edges.
template <typename T>
GS_IR_HD void closest_on_triangle(Vec3<T> point, Vec3<T> a, Vec3<T> b, Vec3<T> c, T& squared, T& weight1, T& weight2) {
    const Vec3<T> edge1 = b - a, edge2 = c - a, edge3 = c - b, offset = point - a;
    const T d11 = dot(edge1, edge1), d12 = dot(edge1, edge2), d22 = dot(edge2, edge2);
    const T b1 = dot(offset, edge1), b2 = dot(offset, edge2), determinant = d11 * d22 - d12 * d12;
    auto consider = [&](T w1, T w2) {
        const Vec3<T> gap = edge1 * w1 + edge2 * w2 - offset;
        const T distance = dot(gap, gap);
        if (distance < squared) {
            squared = distance;
            weight1 = w1;
            weight2 = w2;
        }
    };
    squared = std::numeric_limits<T>::infinity();
    const T tiny = T(1e-30);
    const T foot1 = (d22 * b1 - d12 * b2) / determinant, foot2 = (d11 * b2 - d12 * b1) / determinant;
    if (determinant > T(0) && foot1 > T(0) && foot2 > T(0) && foot1 + foot2 < T(1)) consider(foot1, foot2);
    const T along1 = clamp(b1 / maximum(d11, tiny), T(0), T(1));
    const T along3 = clamp(dot(point - b, edge3) / maximum(dot(edge3, edge3), tiny), T(0), T(1));
    const T along2 = clamp(b2 / maximum(d22, tiny), T(0), T(1));
    consider(along1, T(0));
    consider(T(1) - along3, along3);
    consider(T(0), along2);
}

template <typename T>
GS_IR_HD void squared_box_distances(const T* boxes, Vec3<T> p, T* squared) {
    for (int i = 0; i < kBvhWidth; ++i) {
        const T x = maximum(maximum(boxes[i] - p.x, p.x - boxes[24 + i]), T(0));
        const T y = maximum(maximum(boxes[8 + i] - p.y, p.y - boxes[32 + i]), T(0));
        const T z = maximum(maximum(boxes[16 + i] - p.z, p.z - boxes[40 + i]), T(0));
        squared[i] = x * x + y * y + z * z;
    }
}

template <typename T>
GS_IR_HD Nearest<T> closest_point(const BvhView<T>& bvh, Vec3<T> point) {
    const T infinity = std::numeric_limits<T>::infinity();
    Nearest<T> best{infinity, -1, T(0), T(0)};
    int32_t stack[kBvhStack];
    T reached[kBvhStack];
    int depth = 0;
    stack[depth] = 0;
    reached[depth++] = T(0);
    while (depth > 0) {
        const int32_t item = stack[--depth];
        if (reached[depth] > best.squared) continue;
        if (item < 0) {
            const int64_t block = -1 - item;
            const T* c = bvh.block_vertices + block * 36;
            for (int k = 0; k < kBvhBlock; ++k) {
                const int32_t face = bvh.block_faces[block * 4 + k];
                if (face < 0) continue;
                T squared, w1 = T(0), w2 = T(0);
                closest_on_triangle(point, {c[k], c[4 + k], c[8 + k]}, {c[12 + k], c[16 + k], c[20 + k]}, {c[24 + k], c[28 + k], c[32 + k]},
                                    squared, w1, w2);
                if (squared < best.squared || (squared == best.squared && face < best.face)) best = {squared, face, w1, w2};
            }
            continue;
        }
        T entry[kBvhWidth];
        squared_box_distances(bvh.node_boxes + int64_t(item) * 48, point, entry);
        const int base = depth;
        for (int i = 0; i < kBvhWidth; ++i) {
            const int32_t child = bvh.node_children[int64_t(item) * 8 + i];
            if (child == kBvhEmpty || !(entry[i] <= best.squared)) continue;
            int place = depth++;
            for (; place > base && reached[place - 1] < entry[i]; --place) {
                reached[place] = reached[place - 1];
                stack[place] = stack[place - 1];
            }
            reached[place] = entry[i];
            stack[place] = child;
        }
    }
    return best;
}

}  // namespace gs_ir
