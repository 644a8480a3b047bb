// Refitting the tree of gs_ir/bvh.h to moved vertices: first its blocks, then its levels, deepest first.
#pragma once

#include "gs_ir/bvh.h"

namespace gs_ir {

// Corners of slot `lane` of a block; NaN, which is never hit nor near, if it is unused.
template <typename T>
GS_IR_HD void refit_slot(const T* vertices, const int64_t* faces, int32_t face, int lane, T* block_vertices) {
    for (int corner = 0; corner < 3; ++corner)
        for (int k = 0; k < 3; ++k)
            block_vertices[kBvhBlock * (3 * corner + k) + lane] =
                face < 0 ? std::numeric_limits<T>::quiet_NaN() : vertices[3 * faces[3 * int64_t(face) + corner] + k];
}

// Extent along axis k of a node's child, from its block or from a deeper node, which must be up to date.
template <typename T>
GS_IR_HD void refit_extent(const BvhView<T>& bvh, int64_t node, int lane, int k, T* boxes) {
    constexpr T infinity = std::numeric_limits<T>::infinity();
    const int32_t child = bvh.node_children[node * kBvhWidth + lane];
    T low = infinity, high = -infinity;  // no child: inverted, so nothing meets it
    if (child >= 0) {
        const T* of_child = bvh.node_boxes + int64_t(child) * 6 * kBvhWidth;
        for (int i = 0; i < kBvhWidth; ++i) {
            low = minimum(of_child[kBvhWidth * k + i], low);
            high = maximum(of_child[kBvhWidth * (3 + k) + i], high);
        }
    } else if (child != kBvhEmpty) {
        const T* corners = bvh.block_vertices + int64_t(-1 - child) * 9 * kBvhBlock;
        for (int corner = 0; corner < 3; ++corner)
            for (int i = 0; i < kBvhBlock; ++i) {
                const T x = corners[kBvhBlock * (3 * corner + k) + i];
                low = minimum(x, low);  // NaN leaves the second argument
                high = maximum(x, high);
            }
    }
    boxes[kBvhWidth * k + lane] = low;
    boxes[kBvhWidth * (3 + k) + lane] = high;
}

}  // namespace gs_ir
