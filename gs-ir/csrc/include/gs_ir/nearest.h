// k nearest neighbours by a bucketed tree of boxes without pointers (see gs_ir/nearest.py).
//
// The tree is complete: nodes 1 .. 2 L - 1 in heap order (children 2 n, 2 n + 1), L = 2^depth leaves. Leaf l is bucket
// l: kBucket points as structure of arrays, x.. y.. z.., unused slots at infinity. How the points are spread over the
// leaves is the builder's choice: a kd-tree on the CPU, the order of a space-filling curve on the GPU.
#pragma once

#include <limits>

#include "gs_ir/rows.h"

namespace gs_ir {

constexpr int kBucket = 8;
constexpr int kMaxNeighbours = 32;
constexpr int kTreeStack = 32;  // 2^31 points are 28 levels of buckets

// On a GPU boxes and buckets start at multiples of 16 bytes.
template <typename T>
struct PointTree {
    const T* boxes;          // [2 L, 6] low x y z, high x y z of each node
    const T* buckets;        // [L, 3, kBucket]
    const int32_t* indices;  // [L, kBucket]
    int64_t leaves;
};

// Box: box[first] to box[first + 5] are low x y z and high x y z.
template <typename T, typename Box>
GS_IR_HD T squared_distance_to_box(const Box& box, int first, const T* q) {
    T sum = T(0);
    for (int a = 0; a < 3; ++a) {
        const T outside = greater(greater(box[first + a] - q[a], q[a] - box[first + 3 + a]), T(0));
        sum += outside * outside;
    }
    return sum;
}

// Keeps the k smallest so far, ascending; `worst` is the k-th.
template <typename T>
struct NeighbourList {
    T distances[kMaxNeighbours];
    int32_t indices[kMaxNeighbours];
    int k;

    GS_IR_HD T worst() const { return distances[k - 1]; }
    GS_IR_HD void clear(T limit) {
        for (int i = 0; i < k; ++i) {
            distances[i] = limit;
            indices[i] = -1;
        }
    }
    GS_IR_HD void insert(T distance, int32_t index) {
        int i = k - 1;
        for (; i > 0 && distances[i - 1] > distance; --i) {
            distances[i] = distances[i - 1];
            indices[i] = indices[i - 1];
        }
        distances[i] = distance;
        indices[i] = index;
    }
};

// The same with a capacity known to the compiler, so that it stays in registers.
template <typename T, int kCapacity>
struct FixedNeighbourList {
    T distances[kCapacity];
    int32_t indices[kCapacity];

    GS_IR_HD T worst() const { return distances[kCapacity - 1]; }
    GS_IR_HD void clear(T limit) {
        for (int i = 0; i < kCapacity; ++i) {
            distances[i] = limit;
            indices[i] = -1;
        }
    }
    GS_IR_HD void insert(T distance, int32_t index) {
        for (int i = kCapacity - 1; i >= 0; --i) {
            const bool before = distances[i] > distance, moves = i > 0 && distances[i > 0 ? i - 1 : 0] > distance;
            if (moves) {
                distances[i] = distances[i - 1];
                indices[i] = indices[i - 1];
            } else if (before) {
                distances[i] = distance;
                indices[i] = index;
            }
        }
    }
};

template <typename T, typename List>
GS_IR_HD void scan_bucket(const PointTree<T>& tree, int64_t leaf, const T* q, List& best) {
    const auto p = row<3 * kBucket>(tree.buckets + leaf * 3 * kBucket);
    T distance[kBucket];
    for (int i = 0; i < kBucket; ++i) {
        const T dx = p[i] - q[0], dy = p[kBucket + i] - q[1], dz = p[2 * kBucket + i] - q[2];
        distance[i] = dx * dx + dy * dy + dz * dz;
    }
    for (int i = 0; i < kBucket; ++i)
        if (distance[i] < best.worst()) best.insert(distance[i], tree.indices[leaf * kBucket + i]);
}

// Fills `best` with the neighbours of q[3] nearer than `limit` (squared; infinity for all).
template <typename T, typename List>
GS_IR_HD void nearest_query(const PointTree<T>& tree, const T* q, T limit, List& best) {
    int32_t stack[kTreeStack];
    T stack_distance[kTreeStack];
    int top = 0;
    best.clear(limit);
    if (!(std::abs(q[0] + q[1] + q[2]) <= std::numeric_limits<T>::max())) return;  // near nothing
    int32_t node = 1;
    T distance = squared_distance_to_box(tree.boxes, 6, q);
    while (true) {
        if (distance < best.worst()) {
            if (node < tree.leaves) {
                const int32_t left = 2 * node;
                const auto boxes = row<12>(tree.boxes + 6 * int64_t(left));  // of both children
                const T to_left = squared_distance_to_box(boxes, 0, q), to_right = squared_distance_to_box(boxes, 6, q);
                const bool left_first = to_left <= to_right;
                stack[top] = left_first ? left + 1 : left;
                stack_distance[top++] = left_first ? to_right : to_left;
                node = left_first ? left : left + 1;
                distance = left_first ? to_left : to_right;
                continue;
            }
            scan_bucket(tree, node - tree.leaves, q, best);
        }
        if (top == 0) return;
        node = stack[--top];
        distance = stack_distance[top];
    }
}

}  // namespace gs_ir
