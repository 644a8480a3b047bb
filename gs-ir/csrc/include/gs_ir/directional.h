// Directional occlusion probes: which of the light's directions the body leaves open (see gs_ir/directional.py).
//
// A mask is four words. Bit k of the first 127 is set where direction k is open, the last one marks a probe inside its
// part. The masks of eight probes are mixed for four directions at a time, one in each byte of a word.
#pragma once

#include "gs_ir/probes.h"

namespace gs_ir {

constexpr int kDirections = 127;
constexpr int kMaskWords = 4;
constexpr int kWordBits = 32;
constexpr uint32_t kInsideMark = 0x80000000u;  // in the last word
constexpr int kUnit = 255;                     // weights of probes are 255ths

// ---- Masks under a pose -------------------------------------------------------------------------------------------

// Which of the `baked` directions [127, 3] is nearest to d.
template <typename T>
GS_IR_HD int nearest_direction(const T* baked, Vec3<T> d) {
    int nearest = 0;
    T most = T(-2);
    for (int j = 0; j < kDirections; ++j) {
        const T cosine = dot(load3(baked + 3 * j), d);
        if (cosine > most) {
            most = cosine;
            nearest = j;
        }
    }
    return nearest;
}

// table [128]: the baked direction nearest to each of the light's; it keeps the mark in place.
template <typename T>
GS_IR_HD uint8_t table_entry(const T* part_from_world, const T* directions, const T* baked, int k) {
    if (k == kDirections) return uint8_t(kDirections);
    return uint8_t(nearest_direction(baked, Rigid<T>{part_from_world}.rotate(load3(directions + 3 * k))));
}

// A word of a mask whose bit k is bit table[k] of `mask`.
GS_IR_HD uint32_t turned_word(const uint32_t* mask, const uint8_t* table, int word) {
    uint32_t out = 0;
    for (int b = 0; b < kWordBits; ++b) {
        const uint32_t source = table[kWordBits * word + b];
        out |= (mask[source / kWordBits] >> source % kWordBits & 1u) << b;
    }
    return out;
}

// ---- Probes around a point ----------------------------------------------------------------------------------------

// Lattices of all parts, their masks turned into the order of the light's directions.
template <typename T>
struct MaskVolumes {
    const uint32_t* masks;   // [P, 4]
    const int64_t* offsets;  // [K + 1]
    const float* origins;    // [K, 3] metres
    const int64_t* shapes;   // [K, 3] x, y, z
    T cell;                  // metres
    int64_t parts;
};

// A point of the surface under the pose.
template <typename T>
struct SurfacePoint {
    Vec3<T> point, normal;
    int64_t own;           // part
    const uint32_t* mask;  // [4] what the own part leaves open, in its frame
};

// Eight probes, and how much each counts. The weights add up to 255, and to less outside the lattice, where occlusion
// fades.
struct ProbeCell {
    int32_t first, row, plane;  // probes; from one y and z to the next
    uint32_t weights[2];        // a byte for each corner

    GS_IR_HD int64_t probe(int corner) const {
        return int64_t(first) + (corner >> 2) * plane + (corner >> 1 & 1) * row + (corner & 1);
    }
    GS_IR_HD uint32_t weight(int corner) const { return weights[corner >> 2] >> 8 * (corner & 3) & 255u; }
};

// Rounds weights [8] times `scale` so that the sum is the rounded sum.
template <typename T>
GS_IR_HD void pack_weights(const T* weights, T scale, uint32_t (&packed)[2]) {
    T sum = T(0);
    int32_t before = 0;
    packed[0] = packed[1] = 0;
    for (int corner = 0; corner < 8; ++corner) {
        sum += weights[corner] * scale;
        const int32_t now = minimum(int32_t(sum + T(0.5)), kUnit);
        packed[corner >> 2] |= uint32_t(now - before) << 8 * (corner & 3);
        before = now;
    }
}

// The probes around a point in their part's frame, weighted as in the ambient query of other parts.
template <typename T>
GS_IR_HD ProbeCell
probe_cell(const MaskVolumes<T>& probes, int64_t part, Vec3<T> point, Vec3<T> normal) {
    const int64_t* shape = probes.shapes + 3 * part;
    const LatticePoint<T> p = lattice_point(point, probes.origins + 3 * part, shape, probes.cell);
    ProbeCell cell;
    cell.row = int32_t(shape[0]);
    cell.plane = cell.row * int32_t(shape[1]);
    cell.first = int32_t(probes.offsets[part]) + p.lower[2] * cell.plane + p.lower[1] * cell.row + p.lower[0];
    T all[8], chosen[8], total = T(0);
    for (int corner = 0; corner < 8; ++corner) {
        const int32_t step[3] = {corner & 1, corner >> 1 & 1, corner >> 2};
        T offset[3];  // in lattice units
        all[corner] = T(1);
        for (int a = 0; a < 3; ++a) {
            all[corner] *= step[a] ? p.fraction[a] : T(1) - p.fraction[a];
            offset[a] = T(step[a]) - p.fraction[a];
        }
        const bool inside = (probes.masks[kMaskWords * cell.probe(corner) + kMaskWords - 1] & kInsideMark) != 0;
        const Vec3<T> towards = {offset[0], offset[1], offset[2]};
        chosen[corner] = all[corner] * probe_share(ProbeRule::kOther, towards, normal, inside);
        total += chosen[corner];
    }
    const bool enough = total > T(kMinWeight);
    for (int corner = 0; corner < 8; ++corner) all[corner] = enough ? chosen[corner] : all[corner];
    pack_weights(all, T(kUnit) * fade(p, shape) / (enough ? total : T(1)), cell.weights);
    return cell;
}

// The probes of one part around a point under the pose; the own part's are left out, by weights of zero.
template <typename T>
GS_IR_HD ProbeCell occluding_cell(
    const MaskVolumes<T>& probes, int64_t part, const SurfacePoint<T>& at, const T* part_from_world, T shift) {
    if (part == at.own) return {};
    const Rigid<T> transform{part_from_world + 12 * part};
    Vec3<T> normal = transform.rotate(at.normal);
    normal = normal * (T(1) / maximum(length(normal), T(1e-12)));
    return probe_cell(probes, part, transform.apply(at.point) + normal * shift, normal);
}

// ---- Visibility ---------------------------------------------------------------------------------------------------

// Bits of a word that stand for directions.
GS_IR_HD uint32_t direction_bits(int word) { return word == kMaskWords - 1 ? ~kInsideMark : ~0u; }

// Visibility that the own part leaves of the 32 directions of one word; tables [K, 128].
template <typename T>
GS_IR_HD void start(const SurfacePoint<T>& at, const uint8_t* tables, int64_t parts, int word, T (&visible)[kWordBits]) {
    const bool known = at.own >= 0 && at.own < parts;
    const uint32_t open = known ? turned_word(at.mask, tables + kMaskWords * kWordBits * at.own, word) : ~0u;
    for (int b = 0; b < kWordBits; ++b) visible[b] = T(int32_t(open >> b & 1u));
}

// Bits of a word whose directions, direction(bit), lie above the horizon of `normal`: the others light no lobe.
template <typename T, typename Direction>
GS_IR_HD uint32_t bits_above(Vec3<T> normal, int word, const Direction& direction) {
    uint32_t above = 0;
#ifdef __CUDA_ARCH__
#pragma unroll 4  // not whole: 32 cosines would wait in registers for the sums over the lobes
#endif
    for (int b = 0; b < kWordBits; ++b)
        if (direction_bits(word) >> b & 1u) above |= uint32_t(dot(normal, direction(b)) > T(0)) << b;
    return above;
}

// Multiplies the visibility of the `wanted` ones of the 32 directions of a word with what a cell's probes leave.
template <typename T>
GS_IR_HD void
darken(const uint32_t* masks, const ProbeCell& cell, int word, uint32_t wanted, T (&visible)[kWordBits]) {
    if ((cell.weights[0] | cell.weights[1]) == 0) return;
    uint32_t shut[8], any = 0;
    for (int corner = 0; corner < 8; ++corner) {
        shut[corner] = ~masks[kMaskWords * cell.probe(corner) + word] & wanted;
        any |= shut[corner];
    }
    if (any == 0) return;
    uint32_t blocked[8] = {};  // byte i of blocked[s]: direction 8 i + s
    for (int corner = 0; corner < 8; ++corner) {
        const uint32_t weight = cell.weight(corner);
        for (int s = 0; s < 8; ++s) blocked[s] += (shut[corner] >> s & 0x01010101u) * weight;
    }
    for (int i = 0; i < 4; ++i)
        for (int s = 0; s < 8; ++s)
            visible[8 * i + s] *= T(kUnit - int32_t(blocked[s] >> 8 * i & 255u)) * T(1.0 / kUnit);
}

// ---- What reaches the lobes ---------------------------------------------------------------------------------------

constexpr double kMinLight = 1e-12;  // of a lobe; below it there is nothing to hide
constexpr int kShares = 7;           // all sky, diffuse rgb, specular rgb

// Direction and width of a specular lobe.
template <typename T>
struct SpecularLobe {
    Vec3<T> direction;
    T alpha_squared;  // of GGX, at least what the light's cells resolve
};

template <typename T>
GS_IR_HD SpecularLobe<T> specular_lobe(Vec3<T> direction, T roughness) {
    const T squared = roughness * roughness;
    return {direction, maximum(squared * squared, T(4.0 / kDirections))};
}

// Light that arrives and that would arrive if nothing were in its way, summed over directions.
template <typename T>
struct LobeSums {
    T open[kShares] = {}, all[kShares] = {};

    GS_IR_HD void add(Vec3<T> normal, const SpecularLobe<T>& lobe, Vec3<T> direction, Vec3<T> energy, T visible) {
        const T cosine = maximum(dot(normal, direction), T(0));
        const T half = T(0.5) + T(0.5) * dot(lobe.direction, direction);
        const T spread = half * (lobe.alpha_squared - T(1)) + T(1);
        const T specular = cosine / (spread * spread);
        const T light[3] = {energy.x, energy.y, energy.z};
        open[0] += cosine * visible;
        all[0] += cosine;
        for (int c = 0; c < 3; ++c) {
            const T left = light[c] * visible;
            open[1 + c] += cosine * left;
            all[1 + c] += cosine * light[c];
            open[4 + c] += specular * left;
            all[4 + c] += specular * light[c];
        }
    }
    // 1 where no light arrives.
    GS_IR_HD T share(int i) const { return all[i] > T(kMinLight) ? open[i] / all[i] : T(1); }
};

}  // namespace gs_ir
