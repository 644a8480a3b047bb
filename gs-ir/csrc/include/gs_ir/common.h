// What every operator header needs: the host/device macro and small vector algebra. No torch, no allocation.
#pragma once

#include <cmath>
#include <cstdint>

#if defined(__CUDACC__)
#define GS_IR_HD __host__ __device__ __forceinline__
#else
#define GS_IR_HD inline
#endif

namespace gs_ir {

template <typename T>
struct Vec3 {
    T x, y, z;
};

template <typename T>
GS_IR_HD Vec3<T> load3(const T* p) { return {p[0], p[1], p[2]}; }
template <typename T>
GS_IR_HD void store3(T* p, Vec3<T> v) { p[0] = v.x; p[1] = v.y; p[2] = v.z; }
template <typename T>
GS_IR_HD Vec3<T> operator+(Vec3<T> a, Vec3<T> b) { return {a.x + b.x, a.y + b.y, a.z + b.z}; }
template <typename T>
GS_IR_HD Vec3<T> operator-(Vec3<T> a, Vec3<T> b) { return {a.x - b.x, a.y - b.y, a.z - b.z}; }
template <typename T>
GS_IR_HD Vec3<T> operator*(Vec3<T> a, T s) { return {a.x * s, a.y * s, a.z * s}; }
template <typename T>
GS_IR_HD T dot(Vec3<T> a, Vec3<T> b) { return a.x * b.x + a.y * b.y + a.z * b.z; }
template <typename T>
GS_IR_HD Vec3<T> cross(Vec3<T> a, Vec3<T> b) {
    return {a.y * b.z - a.z * b.y, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x};
}
template <typename T>
GS_IR_HD T length(Vec3<T> a) { return std::sqrt(dot(a, a)); }
template <typename T>
GS_IR_HD T minimum(T a, T b) { return a < b ? a : b; }
template <typename T>
GS_IR_HD T maximum(T a, T b) { return a > b ? a : b; }
template <typename T>
GS_IR_HD T clamp(T x, T low, T high) { return minimum(maximum(x, low), high); }

}  // namespace gs_ir
