// Random numbers by position: Philox4x32-10 (Salmon et al. 2011), and permutations keyed by its words.
#pragma once

#include "gs_ir/common.h"

namespace gs_ir {

struct RandomWords {
    uint32_t word[4];
};

// The four words of a counter under a 64-bit key; counters in any order give independent words.
GS_IR_HD RandomWords philox(uint32_t c0, uint32_t c1, uint32_t c2, uint64_t key) {
    uint32_t c3 = 0, k0 = uint32_t(key), k1 = uint32_t(key >> 32);
    for (int round = 0; round < 10; ++round) {
        const uint64_t a = uint64_t(0xD2511F53u) * c0, b = uint64_t(0xCD9E8D57u) * c2;
        c0 = uint32_t(b >> 32) ^ c1 ^ k0;
        c1 = uint32_t(b);
        c2 = uint32_t(a >> 32) ^ c3 ^ k1;
        c3 = uint32_t(a);
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return {{c0, c1, c2, c3}};
}

// In [0, 1): 24 bits, so that single and double precision see the same number.
template <typename T>
GS_IR_HD T uniform(uint32_t word) { return T(word >> 8) * T(1.0 / 16777216); }

// Spreads every bit over all of them.
GS_IR_HD uint32_t scrambled(uint32_t x) {
    x = (x ^ (x >> 16)) * 0x85EBCA6Bu;
    x = (x ^ (x >> 13)) * 0xC2B2AE35u;
    return x ^ (x >> 16);
}

// Where a permutation of [0, count) takes i: a Feistel network over the next power of four, walked until it comes back
// into the range, then a rotation. The rotation alone takes every i everywhere equally often; the network sees to
// several at once, for which the small ones need this many rounds.
GS_IR_HD uint32_t permuted(uint32_t i, uint32_t count, const RandomWords& keys) {
    uint32_t half = 1;
    while ((1u << (2 * half)) < count) ++half;
    const uint32_t mask = (1u << half) - 1;
    do {
        uint32_t left = i >> half, right = i & mask;
        for (uint32_t round = 0; round < 8; ++round) {
            const uint32_t next = left ^ (scrambled(right ^ (keys.word[round % 4] + round)) & mask);
            left = right;
            right = next;
        }
        i = left << half | right;
    } while (i >= count);
    const uint32_t turn = scrambled(keys.word[0] ^ scrambled(keys.word[1] ^ scrambled(keys.word[2] ^ keys.word[3])));
    return (i + uint32_t(uint64_t(turn) * count >> 32)) % count;
}

}  // namespace gs_ir
