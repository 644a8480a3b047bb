// Screen tiles that a pixel box meets, and depths as integers in the same order (see gs_ir/tiling.py).
#pragma once

#include <cstring>

#include "gs_ir/common.h"

namespace gs_ir {

constexpr int32_t kTile = 16;

// Tiles [x0, x1) x [y0, y1).
struct TileRange {
    int32_t x0, y0, x1, y1;

    GS_IR_HD int64_t count() const { return int64_t(x1 - x0) * (y1 - y0); }
};

// Of a box (x0, y0, x1, y1); empty for an empty box.
GS_IR_HD TileRange tile_range(const int32_t* box) {
    if (box[2] <= box[0] || box[3] <= box[1]) return {0, 0, 0, 0};
    return {box[0] / kTile, box[1] / kTile, (box[2] - 1) / kTile + 1, (box[3] - 1) / kTile + 1};
}

template <class T>
struct DepthKey;
template <>
struct DepthKey<float> { using Type = uint32_t; };
template <>
struct DepthKey<double> { using Type = uint64_t; };

// Unsigned integers in the order of the floats (IEEE 754: flip all bits of negatives, the sign of the others).
template <class T>
GS_IR_HD typename DepthKey<T>::Type sortable(T depth) {
    using Key = typename DepthKey<T>::Type;
    constexpr Key kSign = Key(1) << (8 * sizeof(T) - 1);
    Key bits;
    memcpy(&bits, &depth, sizeof bits);
    return bits & kSign ? Key(~bits) : Key(bits | kSign);
}

}  // namespace gs_ir
