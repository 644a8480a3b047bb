// Cube maps: which texels a direction reads, with which weights, and the weight of a GGX lobe (see gs_ir/cubemap.py).
#pragma once

#include "gs_ir/common.h"
#include "gs_ir/lanes.h"

namespace gs_ir {

// ---- Geometry -----------------------------------------------------------------------------------------------------

template <typename T>
struct FacePoint {
    int face;  // +x, -x, +y, -y, +z, -z
    T s, t;    // in [-1, 1], s to the right, t down
    T major;   // the direction's component across the face
};

// Point (s, t) of a face of the unit cube.
template <typename T>
GS_IR_HD Vec3<T> face_point(int face, T s, T t) {
    switch (face) {
        case 0: return {T(1), -t, -s};
        case 1: return {T(-1), -t, s};
        case 2: return {s, T(1), t};
        case 3: return {s, T(-1), -t};
        case 4: return {s, -t, T(1)};
        default: return {-s, -t, T(-1)};
    }
}

// Transpose of the face's frame: components of v along s, t and outwards.
template <typename T>
GS_IR_HD Vec3<T> to_face(int face, Vec3<T> v) {
    switch (face) {
        case 0: return {-v.z, -v.y, v.x};
        case 1: return {v.z, -v.y, -v.x};
        case 2: return {v.x, v.z, v.y};
        case 3: return {v.x, -v.z, -v.y};
        case 4: return {v.x, -v.y, v.z};
        default: return {-v.x, -v.y, -v.z};
    }
}

template <typename T>
GS_IR_HD Vec3<T> from_face(int face, Vec3<T> v) {
    switch (face) {
        case 0: return {v.z, -v.y, -v.x};
        case 1: return {-v.z, -v.y, v.x};
        case 2: return {v.x, v.z, v.y};
        case 3: return {v.x, -v.z, -v.y};
        case 4: return {v.x, -v.y, v.z};
        default: return {-v.x, -v.y, -v.z};
    }
}

template <typename T>
GS_IR_HD FacePoint<T> pierce(Vec3<T> d) {
    const T ax = std::abs(d.x), ay = std::abs(d.y), az = std::abs(d.z);
    const int axis = ax >= ay && ax >= az ? 0 : (ay >= az ? 1 : 2);
    const T along = axis == 0 ? d.x : (axis == 1 ? d.y : d.z);
    const int face = 2 * axis + (along > T(0) ? 0 : 1);
    const Vec3<T> local = to_face(face, d);
    return {face, local.x / local.z, local.y / local.z, local.z};
}

// Gradient of the direction from gradients of s and t.
template <typename T>
GS_IR_HD Vec3<T> adj_pierce(const FacePoint<T>& p, T grad_s, T grad_t) {
    const Vec3<T> local = {grad_s / p.major, grad_t / p.major, -(grad_s * p.s + grad_t * p.t) / p.major};
    return from_face(p.face, local);
}

template <typename T, typename I>
GS_IR_HD T texel_centre(I index, I resolution) { return T(2 * index + 1) / T(resolution) - T(1); }

template <typename T>
GS_IR_HD Vec3<T> texel_direction(int64_t index, int64_t resolution) {
    const int64_t column = index % resolution, row = index / resolution % resolution;
    const int face = int(index / (resolution * resolution));
    const Vec3<T> p = face_point(face, texel_centre<T>(column, resolution), texel_centre<T>(row, resolution));
    return p * (T(1) / length(p));
}

// ---- Seamless bilinear lookup -------------------------------------------------------------------------------------

// Four texels with their weights and the weights' derivatives by s and t.
template <typename T>
struct Taps {
    int64_t index[4];
    T weight[4], by_s[4], by_t[4];
};

// Flat index of a texel; a row or column one step outside names the texel of the neighbouring face.
template <typename T>
GS_IR_HD int64_t wrapped_texel(int face, int64_t row, int64_t column, int64_t resolution) {
    const bool inside = row >= 0 && row < resolution && column >= 0 && column < resolution;
    if (!inside) {
        const T s = texel_centre<T>(column, resolution), t = texel_centre<T>(row, resolution);
        const FacePoint<T> p = pierce(face_point(face, s, t));
        const T half = T(resolution) / T(2);
        face = p.face;
        column = clamp<int64_t>(int64_t((p.s + T(1)) * half), 0, resolution - 1);
        row = clamp<int64_t>(int64_t((p.t + T(1)) * half), 0, resolution - 1);
    }
    return (face * resolution + row) * resolution + column;
}

template <typename T>
GS_IR_HD Taps<T> bilinear_taps(const FacePoint<T>& p, int64_t resolution) {
    const T half = T(resolution) / T(2);
    const T x = (p.s + T(1)) * half + T(0.5), y = (p.t + T(1)) * half + T(0.5);
    const int64_t left = clamp<int64_t>(int64_t(x), 0, resolution), top = clamp<int64_t>(int64_t(y), 0, resolution);
    const T fx = x - T(left), fy = y - T(top);
    Taps<T> taps;
    int missing = -1;
    for (int k = 0; k < 4; ++k) {
        const int64_t row = top - 1 + k / 2, column = left - 1 + k % 2;
        const T wx = k % 2 ? fx : T(1) - fx, wy = k / 2 ? fy : T(1) - fy;
        taps.weight[k] = wx * wy;
        taps.by_s[k] = (k % 2 ? half : -half) * wy;
        taps.by_t[k] = (k / 2 ? half : -half) * wx;
        const bool corner = (row < 0 || row >= resolution) && (column < 0 || column >= resolution);
        if (corner) missing = k;
        taps.index[k] = corner ? 0 : wrapped_texel<T>(p.face, row, column, resolution);
    }
    if (missing < 0) return taps;
    // Three faces meet at a cube corner: the fourth value is the mean of the other three, which keeps continuity.
    for (int k = 0; k < 4; ++k) {
        if (k == missing) continue;
        taps.weight[k] += taps.weight[missing] / T(3);
        taps.by_s[k] += taps.by_s[missing] / T(3);
        taps.by_t[k] += taps.by_t[missing] / T(3);
    }
    taps.weight[missing] = taps.by_s[missing] = taps.by_t[missing] = T(0);
    return taps;
}

// ---- Trilinear lookup ---------------------------------------------------------------------------------------------

// The pair of levels that a level of detail lies between.
template <typename T>
struct LevelPair {
    int64_t lower;
    T fraction;  // of the upper one
};

template <typename T>
GS_IR_HD LevelPair<T> level_pair(T lod, int64_t levels) {
    const int64_t lower = clamp<int64_t>(int64_t(lod), 0, levels > 1 ? levels - 2 : 0);
    return {lower, levels > 1 ? lod - T(lower) : T(0)};
}

// Levels lie one after another in `texels` [*, channels]; `first` and `resolution` describe each.
template <typename T>
struct CubeLevels {
    const T* texels;
    const int64_t* first;
    const int64_t* resolution;
    int64_t levels, channels;
};

template <typename T>
GS_IR_HD void add_level(const CubeLevels<T>& cube, int64_t level, const FacePoint<T>& p, T share, T* out) {
    const Taps<T> taps = bilinear_taps(p, cube.resolution[level]);
    for (int k = 0; k < 4; ++k) {
        const T* texel = cube.texels + (cube.first[level] + taps.index[k]) * cube.channels;
        for (int64_t c = 0; c < cube.channels; ++c) out[c] += share * taps.weight[k] * texel[c];
    }
}

template <typename T>
GS_IR_HD void sample_cube(const CubeLevels<T>& cube, Vec3<T> direction, T lod, T* out) {
    const FacePoint<T> p = pierce(direction);
    const LevelPair<T> pair = level_pair(lod, cube.levels);
    for (int64_t c = 0; c < cube.channels; ++c) out[c] = T(0);
    add_level(cube, pair.lower, p, T(1) - pair.fraction, out);
    if (cube.levels > 1 && pair.fraction > T(0)) add_level(cube, pair.lower + 1, p, pair.fraction, out);
}

// Adjoint of one level: calls add(index, value) for entries of the texels' gradient, adds to grad_s and grad_t, returns
// <grad, value>.
template <typename T, class Add>
GS_IR_HD T adj_add_level(
    const CubeLevels<T>& cube, int64_t level, const FacePoint<T>& p, T share, const T* grad, const Add& add, T& grad_s,
    T& grad_t) {
    const Taps<T> taps = bilinear_taps(p, cube.resolution[level]);
    T value = T(0);
    for (int k = 0; k < 4; ++k) {
        const int64_t offset = (cube.first[level] + taps.index[k]) * cube.channels;
        T along = T(0);
        for (int64_t c = 0; c < cube.channels; ++c) {
            along += grad[c] * cube.texels[offset + c];
            add(offset + c, share * taps.weight[k] * grad[c]);
        }
        value += taps.weight[k] * along;
        grad_s += share * taps.by_s[k] * along;
        grad_t += share * taps.by_t[k] * along;
    }
    return value;
}

template <typename T, class Add>
GS_IR_HD void adj_sample_cube(
    const CubeLevels<T>& cube, Vec3<T> direction, T lod, const T* grad, const Add& add, Vec3<T>& grad_direction,
    T& grad_lod) {
    const FacePoint<T> p = pierce(direction);
    const LevelPair<T> pair = level_pair(lod, cube.levels);
    T grad_s = T(0), grad_t = T(0);
    grad_lod = T(0);
    const T lower = adj_add_level(cube, pair.lower, p, T(1) - pair.fraction, grad, add, grad_s, grad_t);
    if (cube.levels > 1)
        grad_lod = adj_add_level(cube, pair.lower + 1, p, pair.fraction, grad, add, grad_s, grad_t) - lower;
    grad_direction = adj_pierce(p, grad_s, grad_t);
}

// ---- Bordered levels ----------------------------------------------------------------------------------------------
// Faces widened by one texel on each side, [6, R + 2, R + 2, 4] (rgb and 0): bilinear interpolation inside a widened
// face is the seamless lookup.

template <typename T>
struct alignas(4 * sizeof(T)) BorderedTexel {
    T r, g, b, unused;
};

// Texel `index` of a bordered level, from the level's `texels` [6, R, R, 3].
template <typename T>
GS_IR_HD BorderedTexel<T> bordered_texel(const T* texels, int64_t index, int64_t resolution) {
    const int64_t side = resolution + 2;
    const int64_t column = index % side - 1, row = index / side % side - 1;
    const int face = int(index / (side * side));
    const int64_t inner_row = clamp<int64_t>(row, 0, resolution - 1);
    const int64_t inner_column = clamp<int64_t>(column, 0, resolution - 1);
    if (row == inner_row || column == inner_column) {
        const T* t = texels + 3 * wrapped_texel<T>(face, row, column, resolution);
        return {t[0], t[1], t[2], T(0)};
    }
    // At a cube corner: the mean of the three texels that meet there.
    const T* own = texels + 3 * wrapped_texel<T>(face, inner_row, inner_column, resolution);
    const T* beside = texels + 3 * wrapped_texel<T>(face, inner_row, column, resolution);
    const T* above = texels + 3 * wrapped_texel<T>(face, row, inner_column, resolution);
    const T third = T(1) / T(3);
    return {
        (own[0] + beside[0] + above[0]) * third, (own[1] + beside[1] + above[1]) * third,
        (own[2] + beside[2] + above[2]) * third, T(0)};
}

template <typename T>
GS_IR_HD Vec3<T> sample_bordered_level(const BorderedTexel<T>* texels, int32_t resolution, const FacePoint<T>& p) {
    const T half = T(resolution) / T(2);
    const T x = (p.s + T(1)) * half + T(0.5), y = (p.t + T(1)) * half + T(0.5);
    const int32_t left = clamp<int32_t>(int32_t(x), 0, resolution), top = clamp<int32_t>(int32_t(y), 0, resolution);
    const T fx = x - T(left), fy = y - T(top);
    const int32_t side = resolution + 2;
    const BorderedTexel<T>* corner = texels + (p.face * side + top) * side + left;
    const BorderedTexel<T> a = corner[0], b = corner[1], c = corner[side], d = corner[side + 1];
    const T wa = (T(1) - fx) * (T(1) - fy), wb = fx * (T(1) - fy), wc = (T(1) - fx) * fy, wd = fx * fy;
    return {
        wa * a.r + wb * b.r + wc * c.r + wd * d.r, wa * a.g + wb * b.g + wc * c.g + wd * d.g,
        wa * a.b + wb * b.b + wc * c.b + wd * d.b};
}

// sample_cube for bordered levels [sum 6 (R + 2)^2, 4]; `first` counts texels. `texels` is aligned to four scalars.
template <typename T>
GS_IR_HD Vec3<T> sample_bordered(
    const T* texels, const int32_t* first, const int32_t* resolution, int32_t levels, Vec3<T> direction, T lod) {
    const auto* base = reinterpret_cast<const BorderedTexel<T>*>(texels);
    const FacePoint<T> p = pierce(direction);
    const int32_t lower = clamp<int32_t>(int32_t(lod), 0, levels > 1 ? levels - 2 : 0);
    const T fraction = levels > 1 ? lod - T(lower) : T(0);
    const Vec3<T> near = sample_bordered_level(base + first[lower], resolution[lower], p);
    if (!(fraction > T(0))) return near;
    const Vec3<T> far = sample_bordered_level(base + first[lower + 1], resolution[lower + 1], p);
    return near + (far - near) * fraction;
}

// ---- Prefilter ----------------------------------------------------------------------------------------------------

// A GGX lobe seen along its own axis (n = v = r), up to a constant factor; symmetric in the two directions.
// V is a scalar, or a vector of scalars (lanes.h).
template <typename V>
struct Lobe {
    V squared_alpha;  // ggx_alpha squared
    V max_chord;      // squared chord from the axis to the rim of the cone that is visited
};

template <typename V>
GS_IR_HD Lobe<V> ggx_lobe(ScalarOf<V> alpha, ScalarOf<V> min_cosine) {
    using T = ScalarOf<V>;
    return {V{} + alpha * alpha, V{} + T(2) * (T(1) - min_cosine)};
}

// n.l D(h) for directions whose difference has the squared length `chord`: 1 - n.l = chord / 2, and
// 1 - (n.h)^2 = chord / 4. The chord keeps the digits that the cosine loses near the axis.
template <typename V>
GS_IR_HD V lobe_weight(const Lobe<V>& lobe, V chord) {
    using T = ScalarOf<V>;
    const V spread = lobe.squared_alpha + (T(1) - lobe.squared_alpha) * (chord * T(0.25));
    const V weight = (T(1) - T(0.5) * chord) / (spread * spread);
    return select(chord <= lobe.max_chord, weight, V{});
}

}  // namespace gs_ir
