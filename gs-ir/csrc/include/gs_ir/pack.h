// Several numbers that a GPU moves with loads and stores of up to 16 bytes.
#pragma once

#include "gs_ir/common.h"

namespace gs_ir {

constexpr int pack_alignment(int bytes) { return bytes % 16 == 0 ? 16 : bytes % 8 == 0 ? 8 : bytes % 4 == 0 ? 4 : bytes % 2 == 0 ? 2 : 1; }

template <typename T, int N>
struct alignas(pack_alignment(N * int(sizeof(T)))) Pack {
    T values[N];
};

// `from` must be aligned like Pack<T, N>.
template <int N, typename T>
GS_IR_HD void load_pack(const T* from, T* to) {
    const Pack<T, N> pack = *reinterpret_cast<const Pack<T, N>*>(from);
    for (int i = 0; i < N; ++i) to[i] = pack.values[i];
}

// `to` must be aligned like Pack<T, N>.
template <int N, typename T>
GS_IR_HD void store_pack(T* to, const T* from) {
    Pack<T, N> pack;
    for (int i = 0; i < N; ++i) pack.values[i] = from[i];
    *reinterpret_cast<Pack<T, N>*>(to) = pack;
}

}  // namespace gs_ir
