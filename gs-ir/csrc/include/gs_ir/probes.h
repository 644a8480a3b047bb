// Occlusion probes: interpolation in one part's lattice, and the product over parts (see gs_ir/probes.py).
#pragma once

#include "gs_ir/spherical_harmonics.h"

namespace gs_ir {

// Rigid transform, row-major [3, 4].
template <typename T>
struct Rigid {
    const T* m;

    GS_IR_HD Vec3<T> rotate(Vec3<T> v) const {
        return {m[0] * v.x + m[1] * v.y + m[2] * v.z, m[4] * v.x + m[5] * v.y + m[6] * v.z,
                m[8] * v.x + m[9] * v.y + m[10] * v.z};
    }
    GS_IR_HD Vec3<T> apply(Vec3<T> p) const { return rotate(p) + Vec3<T>{m[3], m[7], m[11]}; }
};

// Lattices of all parts. Load turns the stored numbers into T: load(probe, T (&coefficients)[9]).
template <typename T, typename Load>
struct Probes {
    Load load;
    const int64_t* offsets;  // [K + 1]
    const float* origins;    // [K, 3] metres
    const int64_t* shapes;   // [K, 3] x, y, z
    T cell;                  // metres
    int64_t parts;
};

// A query point in lattice units.
template <typename T>
struct LatticePoint {
    T place[3], inside[3], fraction[3];  // inside: clamped to the lattice
    int32_t lower[3];
};

template <typename T>
GS_IR_HD LatticePoint<T> lattice_point(Vec3<T> p, const float* origin, const int64_t* shape, T cell) {
    const T components[3] = {p.x, p.y, p.z}, per_metre = T(1) / cell;
    LatticePoint<T> out;
    for (int a = 0; a < 3; ++a) {
        const int32_t last = int32_t(shape[a]) - 1;
        out.place[a] = (components[a] - T(origin[a])) * per_metre;
        out.inside[a] = clamp(out.place[a], T(0), T(last));
        out.lower[a] = minimum(int32_t(out.inside[a]), last - 1);
        out.fraction[a] = out.inside[a] - T(out.lower[a]);
    }
    return out;
}

// (d_edge / d)^2, distances from the box's centre: how much of the edge's occlusion is left outside. 1 inside.
template <typename T>
GS_IR_HD T fade(const LatticePoint<T>& p, const int64_t* shape) {
    T edge = T(0), distance = T(0);
    for (int a = 0; a < 3; ++a) {
        const T centre = T(int32_t(shape[a]) - 1) / T(2);
        edge += (p.inside[a] - centre) * (p.inside[a] - centre);
        distance += (p.place[a] - centre) * (p.place[a] - centre);
    }
    return distance > edge ? edge / distance : T(1);
}

// Which of the probes around a point count.
enum class ProbeRule {
    kOwn,        // those outside the part that lie in front of the tangent plane
    kOther,      // those outside, and those inside that lie in front
    kPublished,  // those in front
    kAll,
};

constexpr double kFacingRamp = 4.0;  // slope with which probes inside start to count as they move in front
constexpr double kMinWeight = 1e-6;  // of all weights; below it the probes that count say nothing

// `towards`: the way to the probe; `inside`: whether that lies inside the part.
template <typename T>
GS_IR_HD T probe_share(ProbeRule rule, Vec3<T> towards, Vec3<T> normal, bool inside) {
    const T ahead = dot(towards, normal), front = ahead > T(0) ? T(1) : T(0);
    switch (rule) {
        case ProbeRule::kOwn: return inside ? T(0) : front;
        case ProbeRule::kOther:
            if (!inside) return T(1);
            return clamp(T(kFacingRamp) * ahead / maximum(length(towards), T(1e-12)), T(0), T(1));
        case ProbeRule::kPublished: return front;
        default: return T(1);
    }
}

// Interpolated visibility; returns the sum of the weights.
template <typename T, typename Load>
GS_IR_HD T interpolate(
    const Probes<T, Load>& probes, int64_t part, const LatticePoint<T>& p, Vec3<T> normal, ProbeRule rule, T& visible) {
    const int32_t width = int32_t(probes.shapes[3 * part]), height = int32_t(probes.shapes[3 * part + 1]);
    const int64_t first = probes.offsets[part] + (p.lower[2] * height + p.lower[1]) * width + p.lower[0];
    T sum[kHarmonics] = {}, total = T(0);
    for (int corner = 0; corner < 8; ++corner) {
        const int32_t step[3] = {corner & 1, corner >> 1 & 1, corner >> 2};
        T weight = T(1), offset[3];  // in lattice units
        for (int a = 0; a < 3; ++a) {
            weight *= step[a] ? p.fraction[a] : T(1) - p.fraction[a];
            offset[a] = T(step[a]) - p.fraction[a];
        }
        if (weight <= T(0)) continue;
        T coefficients[kHarmonics];
        probes.load(first + (step[2] * height + step[1]) * width + step[0], coefficients);
        const bool inside = coefficients[0] < T(0);
        coefficients[0] = std::abs(coefficients[0]);
        weight *= probe_share(rule, {offset[0], offset[1], offset[2]}, normal, inside);
        for (int k = 0; k < kHarmonics; ++k) sum[k] += weight * coefficients[k];
        total += weight;
    }
    T basis[kHarmonics], value = T(0);
    harmonics(normal, basis);
    for (int k = 0; k < kHarmonics; ++k) value += sum[k] * basis[k];
    visible = clamp(value / maximum(total, T(kMinWeight)), T(0), T(1));
    return total;
}

// Visibility that one part leaves at a point in its own frame. Where no probe counts by the rule, all do.
template <typename T, typename Load>
GS_IR_HD T
part_visibility(const Probes<T, Load>& probes, int64_t part, Vec3<T> point, Vec3<T> normal, ProbeRule rule) {
    const int64_t* shape = probes.shapes + 3 * part;
    const LatticePoint<T> p = lattice_point(point, probes.origins + 3 * part, shape, probes.cell);
    const T left = fade(p, shape);
    T visible;
    if (interpolate(probes, part, p, normal, rule, visible) <= T(kMinWeight))
        interpolate(probes, part, p, normal, ProbeRule::kAll, visible);
    return T(1) - (T(1) - visible) * left;
}

template <typename T, typename Load>
GS_IR_HD T own_visibility(const Probes<T, Load>& probes, int64_t own, Vec3<T> point, Vec3<T> normal, T shift) {
    if (own < 0 || own >= probes.parts) return T(1);
    return part_visibility(probes, own, point + normal * shift, normal, ProbeRule::kOwn);
}

// Visibility that one of the other parts leaves; part_from_world: of this part.
template <typename T, typename Load>
GS_IR_HD T other_part_visibility(
    const Probes<T, Load>& probes, int64_t part, Vec3<T> point, Vec3<T> normal, const T* part_from_world, T shift,
    ProbeRule rule) {
    const Rigid<T> transform{part_from_world};
    Vec3<T> n = transform.rotate(normal);
    n = n * (T(1) / maximum(length(n), T(1e-12)));
    return part_visibility(probes, part, transform.apply(point) + n * shift, n, rule);
}

GS_IR_HD ProbeRule other_rule(bool published) { return published ? ProbeRule::kPublished : ProbeRule::kOther; }

template <typename T, typename Load>
GS_IR_HD T other_visibility(
    const Probes<T, Load>& probes, int64_t own, Vec3<T> point, Vec3<T> normal, const T* part_from_world, T shift,
    bool published) {
    const ProbeRule rule = other_rule(published);
    T visible = T(1);
    for (int64_t part = 0; part < probes.parts; ++part)
        if (part != own)
            visible *= other_part_visibility(probes, part, point, normal, part_from_world + 12 * part, shift, rule);
    return visible;
}

}  // namespace gs_ir
