// Layers of a small network on tensor cores: a warp holds 16 points, activations stay in its registers.
//
// Every float32 operand is the sum of two bfloat16 numbers, a product the sum of three of theirs, accumulated in float32.
// What is lost is about 1e-5 of a factor: signed distances keep their tenth of a millimetre, and gradients their range.
#pragma once

#include "gs_ir/common.h"
#include "mma.cuh"

namespace gs_ir {

constexpr int kHidden = 64;      // width of the hidden layers
constexpr int kMaxOutputs = 16;
constexpr int kRows = 16;        // points of a warp
constexpr int kWarps = 8;
constexpr int kMlpBlock = 32 * kWarps;
constexpr int kHiddenTiles = kHidden / 8, kOutputTiles = kMaxOutputs / 8, kHiddenSteps = kHidden / 16;
constexpr float kSharpness = 100.0f;

enum class Activation { kRelu, kSoftplus };

using Hidden = float[kHiddenTiles][4];    // [16, 64], tiles of C
using Outputs = float[kOutputTiles][4];   // [16, 16]

struct Lane {
    int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
};

// 16 columns of A, in two parts.
struct Fragment {
    uint32_t high[4], low[4];
};

__device__ inline void split_pair(float first, float second, uint32_t& high, uint32_t& low) {
    high = pack_bf16(first, second);
    low = pack_bf16(first - __uint_as_float(high << 16), second - __uint_as_float(high & 0xffff0000u));
}

// Columns of `rows` [16, stride] from `column` on.
__device__ inline Fragment fragment_of_rows(const float* rows, int stride, int column) {
    const Lane at;
    Fragment a;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const float* pair = rows + (at.g + 8 * (i & 1)) * stride + column + 2 * at.t + 8 * (i >> 1);
        const float2 values = *reinterpret_cast<const float2*>(pair);
        split_pair(values.x, values.y, a.high[i], a.low[i]);
    }
    return a;
}

// Columns 16 step.. of tiles of C.
template <int kTiles>
__device__ Fragment fragment_of_tiles(const float (&c)[kTiles][4], int step) {
    Fragment a;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const float* pair = c[2 * step + (i >> 1)] + 2 * (i & 1);
        split_pair(pair[0], pair[1], a.high[i], a.low[i]);
    }
    return a;
}

// c += a B, where `weights` are this lane's of B's tiles in that row of tiles.
template <int kTiles>
__device__ void multiply_step(float (&c)[kTiles][4], const Fragment& a, const uint4* weights) {
    constexpr int kTogether = kTiles < 4 ? kTiles : 4;  // independent chains
#pragma unroll
    for (int first = 0; first < kTiles; first += kTogether) {
        uint4 b[kTogether];
#pragma unroll
        for (int i = 0; i < kTogether; ++i) b[i] = weights[32 * (first + i)];
#pragma unroll
        for (int i = 0; i < kTogether; ++i) mma(c[first + i], a.high, b[i].x, b[i].y);
#pragma unroll
        for (int i = 0; i < kTogether; ++i) mma(c[first + i], a.low, b[i].x, b[i].y);
#pragma unroll
        for (int i = 0; i < kTogether; ++i) mma(c[first + i], a.high, b[i].z, b[i].w);
    }
}

// c += h B, both kept by the warp
template <int kInner, int kTiles>
__device__ void multiply(float (&c)[kTiles][4], const float (&h)[kInner][4], const uint4* weights) {
#pragma unroll
    for (int step = 0; step < kInner / 2; ++step)
        multiply_step(c, fragment_of_tiles(h, step), weights + 32 * step * kTiles + Lane().lane);
}

// c += rows B for `steps` times 16 columns
__device__ inline void multiply_rows(Hidden& c, const float* rows, int stride, int steps, const uint4* weights) {
    for (int step = 0; step < steps; ++step)
        multiply_step(c, fragment_of_rows(rows, stride, 16 * step), weights + 32 * step * kHiddenTiles + Lane().lane);
}

// Writes B [16 steps, 8 tiles] as multiply_step reads it; element(row, column) is a number of it.
template <typename Element>
__device__ void pack_weights(uint4* to, int steps, int tiles, const Element& element) {
    for (int i = threadIdx.x; i < 32 * steps * tiles; i += kMlpBlock) {
        const int lane = i % 32, column = i / 32 % tiles * 8 + lane / 4, row = i / 32 / tiles * 16 + lane % 4 * 2;
        uint4 b;
        split_pair(element(row, column), element(row + 1, column), b.x, b.z);
        split_pair(element(row + 8, column), element(row + 9, column), b.y, b.w);
        to[i] = b;
    }
}

template <int kTiles>
__device__ void set_all(float (&c)[kTiles][4], float value) {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
        for (int i = 0; i < 4; ++i) c[tile][i] = value;
}

// Rows of c = `bias` [8 kTiles]
template <int kTiles>
__device__ void set_bias(float (&c)[kTiles][4], const float* bias) {
    const Lane at;
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
        for (int i = 0; i < 4; ++i) c[tile][i] = bias[8 * tile + 2 * at.t + (i & 1)];
}

template <Activation kActivation>
__device__ float activate(float a) {
    if constexpr (kActivation == Activation::kRelu) return fmaxf(a, 0.0f);
    return fmaxf(a, 0.0f) + __logf(1.0f + __expf(-kSharpness * fabsf(a))) / kSharpness;
}

// Derivative of the activation where its value is `h`.
template <Activation kActivation>
__device__ float slope_at(float h) {
    if constexpr (kActivation == Activation::kRelu) return h > 0.0f ? 1.0f : 0.0f;
    return 1.0f - __expf(-kSharpness * h);
}

template <Activation kActivation>
__device__ void activate_all(Hidden& h) {
#pragma unroll
    for (int tile = 0; tile < kHiddenTiles; ++tile)
#pragma unroll
        for (int i = 0; i < 4; ++i) h[tile][i] = activate<kActivation>(h[tile][i]);
}

template <Activation kActivation>
__device__ void times_slopes(Hidden& gradient, const Hidden& h) {
#pragma unroll
    for (int tile = 0; tile < kHiddenTiles; ++tile)
#pragma unroll
        for (int i = 0; i < 4; ++i) gradient[tile][i] *= slope_at<kActivation>(h[tile][i]);
}

// Calls body(row, column, number) for this lane's numbers of c.
template <int kTiles, typename Body>
__device__ void each_number(const float (&c)[kTiles][4], const Body& body) {
    const Lane at;
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
        for (int i = 0; i < 4; ++i) body(at.g + 8 * (i >> 1), 8 * tile + 2 * at.t + (i & 1), c[tile][i]);
}

}  // namespace gs_ir
