// A cell of a hash grid as kernels on the GPU read it: for gs_ir/hash_grid.h, in any .cu.
#pragma once

#include <cuda_fp16.h>

#include <type_traits>

#include "gs_ir/hash_grid.h"
#include "gs_ir/pack.h"

namespace gs_ir {

// Pairs of halves, fetched as aligned blocks of two entries. The corners of a cell come in pairs along x, which share a
// block more often than not, and the number of fetches is what limits encoding.
struct HalfBlocks {
    const uint2* blocks;  // the first may begin one entry before the table, the last end one behind: memory of its allocation
    uint32_t shift;       // entries between the first block's beginning and the table's

    __device__ explicit HalfBlocks(const __half* table) {
        const uintptr_t address = reinterpret_cast<uintptr_t>(table);
        shift = uint32_t(address / sizeof(uint32_t)) % 2;
        blocks = reinterpret_cast<const uint2*>(address - shift * sizeof(uint32_t));
    }
    __device__ static void unpack(uint2 block, uint32_t entry, float* values) {
        const uint32_t bits = entry % 2 ? block.y : block.x;
        __half2 pair;
        memcpy(&pair, &bits, sizeof(bits));
        const float2 numbers = __half22float2(pair);
        values[0] = numbers.x;
        values[1] = numbers.y;
    }
    // Values of entries i and j, two each.
    __device__ void load(uint32_t i, uint32_t j, float* values) const {
        i += shift;
        j += shift;
        const uint2 first = __ldg(blocks + i / 2);
        uint2 second = first;
        if (i / 2 != j / 2) second = __ldg(blocks + j / 2);
        unpack(first, i, values);
        unpack(second, j, values + 2);
    }
};

// A cell and its corners' values: corner c is entry c of `values`.
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
        if constexpr (std::is_same_v<S, __half> && std::is_same_v<T, float> && F == 2) {
            const HalfBlocks halves(level_table);
#pragma unroll
            for (int c = 0; c < 8; c += 2) halves.load(entries[c], entries[c + 1], values + c * F);
        } else {
            S stored[8 * F];
#pragma unroll
            for (int c = 0; c < 8; ++c) load_pack<F>(level_table + int64_t(entries[c]) * F, stored + c * F);
#pragma unroll
            for (int i = 0; i < 8 * F; ++i) values[i] = T(stored[i]);
        }
    }
};

}  // namespace gs_ir
