// Lambert plus GGX (core/brdf.py): both lobes, and directions drawn by them. Directions are unit and point away from the
// surface; densities are per solid angle.
#pragma once

#include "gs_ir/shading.h"
#include "gs_ir/equirect.h"

namespace gs_ir {

constexpr double kMinCosine = 1e-6;

// A point that scatters light towards `view`.
template <typename T>
struct ScatterPoint {
    Vec3<T> normal, view, albedo;
    T roughness, metallic;

    GS_IR_HD Vec3<T> f0() const { return albedo * metallic + grey(T(kDielectricF0) * (T(1) - metallic)); }
};

template <typename T>
GS_IR_HD bool both_above(const ScatterPoint<T>& p, Vec3<T> light) {
    return dot(p.normal, p.view) > T(kMinCosine) && dot(p.normal, light) > T(kMinCosine);
}

// Rec. 709.
template <typename T>
GS_IR_HD T luminance(Vec3<T> a) { return T(0.212671) * a.x + T(0.715160) * a.y + T(0.072169) * a.z; }

template <typename T>
GS_IR_HD T fifth_power(T x) { return x * x * x * x * x; }

// Components along the frame about a unit normal (Duff et al. 2017), and back.
template <typename T>
struct NormalFrame {
    Vec3<T> tangent, bitangent, normal;

    GS_IR_HD explicit NormalFrame(Vec3<T> n) : normal(n) {
        const T sign = n.z >= T(0) ? T(1) : T(-1), a = T(-1) / (sign + n.z), b = n.x * n.y * a;
        tangent = {T(1) + sign * n.x * n.x * a, sign * b, -sign * n.x};
        bitangent = {b, sign + n.y * n.y * a, -n.y};
    }
    GS_IR_HD Vec3<T> to_world(Vec3<T> d) const { return tangent * d.x + bitangent * d.y + normal * d.z; }
    GS_IR_HD Vec3<T> to_local(Vec3<T> d) const { return {dot(tangent, d), dot(bitangent, d), dot(normal, d)}; }
};

// A point at polar height `z` of the unit sphere.
template <typename T>
GS_IR_HD Vec3<T> at_height(T z, T turn) {
    const T radius = std::sqrt(maximum(T(1) - z * z, T(0))), angle = T(2 * kPi) * turn;
    return {radius * std::cos(angle), radius * std::sin(angle), z};
}

// D of the half vector; the cross product keeps the digits that 1 - cos**2 loses at the peak of a smooth lobe.
template <typename T>
GS_IR_HD T ggx_distribution(Vec3<T> normal, Vec3<T> half, T alpha) {
    const T cosine = dot(normal, half), squared = alpha * alpha;
    const Vec3<T> sine = cross(normal, half);
    const T spread = maximum(dot(sine, sine) + squared * cosine * cosine, T(0.1 * kMinGgxAlpha * kMinGgxAlpha));
    return cosine > T(0) ? squared / (T(kPi) * spread * spread) : T(0);
}

// ---- Values ---------------------------------------------------------------------------------------------------------

// Reflectance times n.l: the diffuse lobe of albedo 1, and the specular one. Height-correlated Smith (Heitz 2014).
template <typename T>
struct LobesCosine {
    T diffuse;
    Vec3<T> specular;
};

template <typename T>
GS_IR_HD LobesCosine<T> lobes_cosine(const ScatterPoint<T>& p, Vec3<T> light) {
    if (!both_above(p, light)) return {T(0), {T(0), T(0), T(0)}};
    const T n_dot_v = dot(p.normal, p.view), n_dot_l = dot(p.normal, light);
    const Vec3<T> half = normalized(p.view + light), f0 = p.f0();
    const T alpha = ggx_alpha(p.roughness), squared = alpha * alpha;
    const T towards_view = n_dot_l * std::sqrt(n_dot_v * n_dot_v * (T(1) - squared) + squared);
    const T towards_light = n_dot_v * std::sqrt(n_dot_l * n_dot_l * (T(1) - squared) + squared);
    const T shape = ggx_distribution(p.normal, half, alpha) * n_dot_l * T(0.5) / (towards_view + towards_light);
    const T rise = fifth_power(T(1) - clamp(dot(p.view, half), T(0), T(1)));
    return {n_dot_l / T(kPi), (f0 + (grey(T(1)) - f0) * rise) * shape};
}

// Both lobes with the body's colour.
template <typename T>
GS_IR_HD Vec3<T> scattered_cosine(const ScatterPoint<T>& p, const LobesCosine<T>& lobes) {
    return p.albedo * ((T(1) - p.metallic) * lobes.diffuse) + lobes.specular;
}

// ---- Directions -----------------------------------------------------------------------------------------------------

template <typename T>
GS_IR_HD Vec3<T> sample_cosine(Vec3<T> normal, T u0, T u1) {
    const T radius = std::sqrt(u0), angle = T(2 * kPi) * u1;
    return NormalFrame<T>(normal).to_world(
        {radius * std::cos(angle), radius * std::sin(angle), std::sqrt(maximum(T(1) - u0, T(0)))});
}

template <typename T>
GS_IR_HD T pdf_cosine(Vec3<T> normal, Vec3<T> light) { return maximum(dot(normal, light), T(0)) / T(kPi); }

// Mirror directions about visible normals (spherical caps: Dupuy and Benyoub 2023).
template <typename T>
GS_IR_HD Vec3<T> sample_ggx(const ScatterPoint<T>& p, T u0, T u1) {
    const NormalFrame<T> frame(p.normal);
    const T alpha = ggx_alpha(p.roughness);
    const Vec3<T> view = frame.to_local(p.view), stretched = normalized(Vec3<T>{alpha * view.x, alpha * view.y, view.z});
    const Vec3<T> cap = at_height((T(1) - u0) * (T(1) + stretched.z) - stretched.z, u1) + stretched;
    const Vec3<T> half = normalized(Vec3<T>{alpha * cap.x, alpha * cap.y, cap.z});
    return frame.to_world(half * (T(2) * dot(view, half)) - view);
}

// G1(view) D(half) / (4 n.v), with the exact Smith G1.
template <typename T>
GS_IR_HD T pdf_ggx(const ScatterPoint<T>& p, Vec3<T> light) {
    const T alpha = ggx_alpha(p.roughness), squared = alpha * alpha;
    const T n_dot_v = maximum(dot(p.normal, p.view), T(kMinCosine));
    const T masking = T(2) / (n_dot_v + std::sqrt(squared + (T(1) - squared) * n_dot_v * n_dot_v));
    return masking * ggx_distribution(p.normal, normalized(p.view + light), alpha) / T(4);
}

// How often the specular lobe is taken: by the luminance of what both reflect.
template <typename T>
GS_IR_HD T specular_probability(const ScatterPoint<T>& p) {
    const T n_dot_v = dot(p.normal, p.view);
    if (!(n_dot_v > T(kMinCosine))) return T(0);
    const Vec3<T> f0 = p.f0();
    const T rise = fifth_power(T(1) - clamp(n_dot_v, T(0), T(1)));
    const T specular = luminance(f0 + (grey(T(1)) - f0) * rise);
    return specular / (specular + (T(1) - p.metallic) * luminance(p.albedo));
}

template <typename T>
GS_IR_HD Vec3<T> sample_lobes(const ScatterPoint<T>& p, T u0, T u1, T u2) {
    return u2 < specular_probability(p) ? sample_ggx(p, u0, u1) : sample_cosine(p.normal, u0, u1);
}

template <typename T>
GS_IR_HD T pdf_lobes(const ScatterPoint<T>& p, Vec3<T> light) {
    const T specular = specular_probability(p);
    const T glossy = specular > T(0) ? pdf_ggx(p, light) : T(0);
    return specular * glossy + (T(1) - specular) * pdf_cosine(p.normal, light);
}

}  // namespace gs_ir
