// What a header's template may be instantiated with: a scalar (CUDA, plain C++) or a SIMD vector of scalars (CPU).
// Comparisons of vectors give a mask; select, any_lane and exp_lanes read the same for both.
#pragma once

#include "gs_ir/common.h"

#if !defined(__CUDACC__)
#include <cstring>
#endif

namespace gs_ir {

template <class V>
struct LaneTraits;

template <>
struct LaneTraits<float> {
    using Scalar = float;
    using Integer = int32_t;
    using Mask = bool;
    static constexpr int kCount = 1;
};

template <>
struct LaneTraits<double> {
    using Scalar = double;
    using Integer = int64_t;
    using Mask = bool;
    static constexpr int kCount = 1;
};

template <class V>
using ScalarOf = typename LaneTraits<V>::Scalar;
template <class V>
using IntegerOf = typename LaneTraits<V>::Integer;
template <class V>
using MaskOf = typename LaneTraits<V>::Mask;

template <class T>
GS_IR_HD T select(bool mask, T yes, T no) { return mask ? yes : no; }
GS_IR_HD bool any_lane(bool mask) { return mask; }
GS_IR_HD double exp_lanes(double x) { return std::exp(x); }
#if defined(__CUDA_ARCH__)
// The hardware's exponential and reciprocal: two units in the last place.
__device__ __forceinline__ float exp_lanes(float x) { return __expf(x); }
__device__ __forceinline__ float reciprocal(float x) { return __fdividef(1.0f, x); }
__device__ __forceinline__ double reciprocal(double x) { return 1.0 / x; }
#else
inline float exp_lanes(float x) { return std::exp(x); }
template <class V>
inline V reciprocal(V x) { return ScalarOf<V>(1) / x; }
#endif

// a b + c. On a GPU one instruction whatever surrounds it, so that two kernels round alike.
#if defined(__CUDA_ARCH__)
__device__ __forceinline__ float multiply_add(float a, float b, float c) { return __fmaf_rn(a, b, c); }
__device__ __forceinline__ double multiply_add(double a, double b, double c) { return __fma_rn(a, b, c); }
#else
template <class A, class B, class C>
inline auto multiply_add(A a, B b, C c) { return a * b + c; }
#endif

#if !defined(__CUDACC__)

// 32 bytes even where registers of 64 exist: what is rasterised is a few pixels wide, and more lanes would idle.
#if defined(__AVX__)
constexpr int kLaneBytes = 32;
#else
constexpr int kLaneBytes = 16;
#endif

// GCC and Clang vector extension.
typedef float FloatLanes __attribute__((vector_size(kLaneBytes)));
typedef double DoubleLanes __attribute__((vector_size(kLaneBytes)));
typedef int32_t Int32Lanes __attribute__((vector_size(kLaneBytes)));
typedef int64_t Int64Lanes __attribute__((vector_size(kLaneBytes)));

template <>
struct LaneTraits<FloatLanes> {
    using Scalar = float;
    using Integer = Int32Lanes;
    using Mask = Int32Lanes;
    static constexpr int kCount = kLaneBytes / 4;
};

template <>
struct LaneTraits<DoubleLanes> {
    using Scalar = double;
    using Integer = Int64Lanes;
    using Mask = Int64Lanes;
    static constexpr int kCount = kLaneBytes / 8;
};

template <class T>
struct NativeLanes;
template <>
struct NativeLanes<float> { using Type = FloatLanes; };
template <>
struct NativeLanes<double> { using Type = DoubleLanes; };
template <class T>
using LanesOf = typename NativeLanes<T>::Type;

inline FloatLanes select(Int32Lanes mask, FloatLanes yes, FloatLanes no) { return mask ? yes : no; }
inline Int32Lanes select(Int32Lanes mask, Int32Lanes yes, Int32Lanes no) { return mask ? yes : no; }
inline DoubleLanes select(Int64Lanes mask, DoubleLanes yes, DoubleLanes no) { return mask ? yes : no; }
inline Int64Lanes select(Int64Lanes mask, Int64Lanes yes, Int64Lanes no) { return mask ? yes : no; }

inline bool any_lane(Int64Lanes mask) {
    int64_t all = 0;
    for (int i = 0; i < LaneTraits<DoubleLanes>::kCount; ++i) all |= mask[i];
    return all != 0;
}
inline bool any_lane(Int32Lanes mask) { return any_lane(reinterpret_cast<Int64Lanes>(mask)); }

template <class V>
inline ScalarOf<V> sum_lanes(V x) {
    ScalarOf<V> total = 0;
    for (int i = 0; i < LaneTraits<V>::kCount; ++i) total += x[i];
    return total;
}

template <class V>
inline V load_lanes(const ScalarOf<V>* p) {
    V x;
    std::memcpy(&x, p, sizeof x);
    return x;
}
template <class V>
inline void store_lanes(ScalarOf<V>* p, V x) { std::memcpy(p, &x, sizeof x); }

template <class V>
inline V broadcast(ScalarOf<V> x) { return V{} + x; }

template <class V>
inline V lane_numbers() {
    V x;
    for (int i = 0; i < LaneTraits<V>::kCount; ++i) x[i] = ScalarOf<V>(i);
    return x;
}

template <class T>
struct ExpConstants;
template <>
struct ExpConstants<float> {
    // 1.5 * 2^23: adding it leaves the nearest integer in the low bits of the mantissa
    static constexpr float kRound = 12582912.0f;
    // ln 2 = high + low with few bits in high, so that n * high is exact
    static constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
    static constexpr int kDegree = 7, kMantissaBits = 23;
    static constexpr float kLowest = -80.0f;
};
template <>
struct ExpConstants<double> {
    static constexpr double kRound = 6755399441055744.0;
    static constexpr double kLn2High = 6.93147180369123816490e-01, kLn2Low = 1.90821492927058770002e-10;
    static constexpr int kDegree = 13, kMantissaBits = 52;
    static constexpr double kLowest = -600.0;
};

// exp(x) = 2^n exp(r), |r| <= ln(2) / 2 by its Taylor polynomial; about one unit in the last place, for x <= 80.
// Below kLowest it returns exp(kLowest).
template <class V>
inline V exp_lanes(V x) {
    using T = ScalarOf<V>;
    using I = IntegerOf<V>;
    using C = ExpConstants<T>;
    x = select(x < C::kLowest, broadcast<V>(C::kLowest), x);
    const V shifted = x * T(1.4426950408889634) + C::kRound;
    const V n = shifted - C::kRound;
    const V r = (x - n * C::kLn2High) - n * C::kLn2Low;
    V sum = broadcast<V>(T(1));
    for (int k = C::kDegree; k > 0; --k) sum = sum * r * (T(1) / T(k)) + T(1);
    const I power = reinterpret_cast<I>(shifted) << C::kMantissaBits;
    return reinterpret_cast<V>(reinterpret_cast<I>(sum) + power);
}

#endif

}  // namespace gs_ir
