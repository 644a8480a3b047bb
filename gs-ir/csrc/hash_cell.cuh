// A cell of a hash grid as kernels on the GPU read it: for gs_ir/hash_grid.h, in any .cu.
#pragma once

#include "gs_ir/hash_grid.h"
#include "gs_ir/pack.h"

namespace gs_ir {

// A cell and its corners' values, fetched with one load each: corner c is entry c of `values`.
template <int F, typename T>
struct LoadedCell {
    HashCell<T> cell;
    uint32_t entries[8];
    T values[8 * F];

    __device__ LoadedCell(const HashLevel& level, Vec3<T> point)
        : cell(locate_cell(point, level.resolution)) {
        corner_entries(level, cell, entries);
    }
    template <typename S>
    __device__ void load(const S* level_table) {
        S stored[8 * F];
#pragma unroll
        for (int c = 0; c < 8; ++c) load_pack<F>(level_table + int64_t(entries[c]) * F, stored + c * F);
#pragma unroll
        for (int i = 0; i < 8 * F; ++i) values[i] = T(stored[i]);
    }
};

}  // namespace gs_ir
