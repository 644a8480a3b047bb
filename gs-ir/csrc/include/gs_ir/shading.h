// Split-sum shading of one surface element (Karis 2013) and its adjoint: what gs_ir/reference/shading.py computes.
#pragma once

#include "gs_ir/prepared_light.h"

namespace gs_ir {

// Scale and bias of F0 by roughness (rows) and n.v (columns), at texel centres.
template <typename T>
struct SplitSumTable {
    const T* entries;  // [resolution, resolution, 2]
    int32_t resolution;
};

enum class NormalRule { kVisible, kPublished, kGiven };

struct ShadingRules {
    NormalRule normals;
    bool lagarde;      // specular occlusion by lobe width
    bool multi_bounce;
    bool dominant;     // light read at the lobe's mean direction, else at the mirror direction
};

// Also the cotangent of one.
template <typename T>
struct SurfaceElement {
    Vec3<T> normal, to_viewer, albedo;
    T roughness, metallic, visibility;
};

template <typename T>
struct Lobes {
    Vec3<T> diffuse, specular;
};

template <typename T>
GS_IR_HD Vec3<T> grey(T value) { return {value, value, value}; }

template <typename T>
GS_IR_HD T sum(Vec3<T> a) { return a.x + a.y + a.z; }

template <typename T>
GS_IR_HD Vec3<T> multiplied(Vec3<T> a, Vec3<T> b) { return {a.x * b.x, a.y * b.y, a.z * b.z}; }

template <typename T>
GS_IR_HD Vec3<T> normalized(Vec3<T> a, T smallest = T(1e-12)) { return a * (T(1) / maximum(length(a), smallest)); }

template <typename T>
GS_IR_HD Vec3<T> mixed(Vec3<T> a, Vec3<T> b, T share) { return a + (b - a) * share; }

template <typename T>
GS_IR_HD Vec3<T> oriented_normal(Vec3<T> normal, Vec3<T> to_viewer, NormalRule rule) {
    const T cosine = dot(normal, to_viewer);
    if (rule == NormalRule::kGiven) return normal;
    if (rule == NormalRule::kPublished) return cosine < T(-0.3) ? normal * T(-1) : normal;
    return normalized(normal - to_viewer * minimum(cosine, T(0)));
}

// ---- Surface ------------------------------------------------------------------------------------------------------

// A bilinear cell of the table and the place in it.
template <typename T>
struct SplitSumCell {
    const T *near, *far;  // entries of two rows; each holds scale and bias of two columns
    T fx, fy;
    bool free_x, free_y;  // not held by the border
};

template <typename T>
GS_IR_HD SplitSumCell<T> split_sum_cell(const SplitSumTable<T>& table, T n_dot_v, T roughness) {
    const T last = T(table.resolution - 1);
    const T x = n_dot_v * T(table.resolution) - T(0.5), y = roughness * T(table.resolution) - T(0.5);
    const T inner_x = clamp(x, T(0), last), inner_y = clamp(y, T(0), last);
    const int32_t column = minimum(int32_t(inner_x), table.resolution - 2);
    const int32_t row = minimum(int32_t(inner_y), table.resolution - 2);
    const T* near = table.entries + 2 * (row * table.resolution + column);
    return {near, near + 2 * table.resolution, inner_x - T(column), inner_y - T(row), x > T(0) && x < last,
            y > T(0) && y < last};
}

template <typename T>
GS_IR_HD void sample_split_sum(const SplitSumTable<T>& table, T n_dot_v, T roughness, T& scale, T& bias) {
    const SplitSumCell<T> c = split_sum_cell(table, n_dot_v, roughness);
    const T wx = T(1) - c.fx, wy = T(1) - c.fy;
    scale = wy * (wx * c.near[0] + c.fx * c.near[2]) + c.fy * (wx * c.far[0] + c.fx * c.far[2]);
    bias = wy * (wx * c.near[1] + c.fx * c.near[3]) + c.fy * (wx * c.far[1] + c.fx * c.far[3]);
}

// Adds to the gradients of the cosine and the roughness.
template <typename T>
GS_IR_HD void adj_sample_split_sum(
    const SplitSumTable<T>& table, T n_dot_v, T roughness, T grad_scale, T grad_bias, T& grad_n_dot_v,
    T& grad_roughness) {
    const SplitSumCell<T> c = split_sum_cell(table, n_dot_v, roughness);
    const T size = T(table.resolution);
    T near[2], far[2];  // value of each column under the cotangents
    for (int k = 0; k < 2; ++k) {
        near[k] = grad_scale * c.near[2 * k] + grad_bias * c.near[2 * k + 1];
        far[k] = grad_scale * c.far[2 * k] + grad_bias * c.far[2 * k + 1];
    }
    if (c.free_x) grad_n_dot_v += size * ((T(1) - c.fy) * (near[1] - near[0]) + c.fy * (far[1] - far[0]));
    if (c.free_y) grad_roughness += size * ((T(1) - c.fx) * (far[0] - near[0]) + c.fx * (far[1] - near[1]));
}

// How far the mean direction of the GGX lobe times cosine lies from the normal towards the mirror direction (Lagarde
// and de Rousiers 2014, section 4.9.3).
template <typename T>
GS_IR_HD T lobe_share(T alpha) {
    const T smoothness = maximum(T(1) - alpha, T(1e-6));
    return smoothness * (std::sqrt(smoothness) + alpha);
}

template <typename T>
GS_IR_HD T adj_lobe_share(T alpha, T grad) {
    const T smoothness = maximum(T(1) - alpha, T(1e-6));
    const T by_smoothness = T(1) - alpha >= T(1e-6) ? T(1.5) * std::sqrt(smoothness) + alpha : T(0);
    return grad * (smoothness - by_smoothness);
}

// Gradient of `a` from that of normalized(a).
template <typename T>
GS_IR_HD Vec3<T> adj_normalized(Vec3<T> a, Vec3<T> grad, T smallest = T(1e-12)) {
    const T size = length(a), inverse = T(1) / maximum(size, smallest);
    const Vec3<T> direction = a * inverse;
    return size >= smallest ? (grad - direction * dot(direction, grad)) * inverse : grad * inverse;
}

// Lagarde and de Rousiers 2014, section 4.10.2.
template <typename T>
GS_IR_HD T specular_visibility(T visibility, T n_dot_v, T alpha) {
    const T exponent = std::exp2(T(-16) * alpha - T(1));
    return clamp(std::pow(maximum(n_dot_v + visibility, T(1e-6)), exponent) - T(1) + visibility, T(0), T(1));
}

template <typename T>
GS_IR_HD void adj_specular_visibility(
    T visibility, T n_dot_v, T alpha, T grad, T& grad_visibility, T& grad_n_dot_v, T& grad_alpha) {
    const T exponent = std::exp2(T(-16) * alpha - T(1)), base = maximum(n_dot_v + visibility, T(1e-6));
    const T power = std::pow(base, exponent), unclamped = power - T(1) + visibility;
    if (unclamped < T(0) || unclamped > T(1)) return;
    const T by_base = n_dot_v + visibility >= T(1e-6) ? grad * exponent * std::pow(base, exponent - T(1)) : T(0);
    grad_visibility += grad + by_base;
    grad_n_dot_v += by_base;
    grad_alpha -= grad * power * std::log(base) * exponent * T(16 * 0.6931471805599453);
}

// Jimenez et al. 2016.
template <typename T>
GS_IR_HD T multi_bounce_visibility(T open, T albedo) {
    const T a = T(2.0404) * albedo - T(0.3324), b = T(-4.7951) * albedo + T(0.6417);
    const T c = T(2.7552) * albedo + T(0.6903);
    return maximum(open, ((open * a + b) * open + c) * open);
}

// Adds to the visibility's gradient, returns the albedo's. Where both values agree (at 0) each gets half.
template <typename T>
GS_IR_HD T adj_multi_bounce_visibility(T open, T albedo, T grad, T& grad_open) {
    const T a = T(2.0404) * albedo - T(0.3324), b = T(-4.7951) * albedo + T(0.6417);
    const T c = T(2.7552) * albedo + T(0.6903), bounced = ((open * a + b) * open + c) * open;
    const T share = bounced > open ? T(1) : (bounced == open ? T(0.5) : T(0));
    grad_open += grad * (T(1) - share + share * ((T(3) * a * open + T(2) * b) * open + c));
    return grad * share * ((T(2.0404) * open - T(4.7951)) * open + T(2.7552)) * open;
}

// ---- Both lobes ---------------------------------------------------------------------------------------------------

constexpr double kDielectricF0 = 0.04, kMinGgxAlpha = 1e-3, kMinNDotV = 1e-4;

template <typename T>
GS_IR_HD T ggx_alpha(T roughness) { return maximum(roughness * roughness, T(kMinGgxAlpha)); }

// The direction to the viewer mirrored at the normal, `facing` being the cosine of both.
template <typename T>
GS_IR_HD Vec3<T> mirrored(Vec3<T> normal, Vec3<T> to_viewer, T facing) {
    return normal * (T(2) * maximum(facing, T(0))) - to_viewer;
}

// Where the specular lobe points.
template <typename T>
GS_IR_HD Vec3<T> lobe_direction(const SurfaceElement<T>& s, const ShadingRules& rules) {
    const Vec3<T> mirror = mirrored(s.normal, s.to_viewer, dot(s.normal, s.to_viewer));
    return rules.dominant ? normalized(mixed(s.normal, mirror, lobe_share(ggx_alpha(s.roughness)))) : mirror;
}

// What both lobes are made of besides the light.
template <typename T>
struct LobeTerms {
    T facing, n_dot_v, alpha, scale, bias, shine;
    Vec3<T> mirrored, leaning, lobe;  // lobe: where light is read
    Vec3<T> diffuse_albedo, base, reflectance, open;
};

template <typename T>
GS_IR_HD LobeTerms<T> lobe_terms(const SurfaceElement<T>& s, const SplitSumTable<T>& table, const ShadingRules& rules) {
    LobeTerms<T> t;
    t.facing = dot(s.normal, s.to_viewer);
    t.n_dot_v = clamp(t.facing, T(kMinNDotV), T(1));
    t.alpha = ggx_alpha(s.roughness);
    t.mirrored = mirrored(s.normal, s.to_viewer, t.facing);
    t.leaning = rules.dominant ? mixed(s.normal, t.mirrored, lobe_share(t.alpha)) : t.mirrored;
    t.lobe = rules.dominant ? normalized(t.leaning) : t.mirrored;
    sample_split_sum(table, t.n_dot_v, s.roughness, t.scale, t.bias);
    t.diffuse_albedo = s.albedo * (T(1) - s.metallic);
    t.base = s.albedo * s.metallic + grey(T(kDielectricF0) * (T(1) - s.metallic));
    t.reflectance = t.base * t.scale + grey(t.bias);
    t.open = grey(s.visibility);
    if (rules.multi_bounce)
        t.open = {multi_bounce_visibility(s.visibility, t.diffuse_albedo.x),
                  multi_bounce_visibility(s.visibility, t.diffuse_albedo.y),
                  multi_bounce_visibility(s.visibility, t.diffuse_albedo.z)};
    t.shine = rules.lagarde ? specular_visibility(s.visibility, t.n_dot_v, t.alpha) : s.visibility;
    return t;
}

// Radiance towards the viewer by each lobe; the normal is used as given.
template <typename T, class Light>
GS_IR_HD Lobes<T> shade_lobes(
    const SurfaceElement<T>& s, const Light& light, const SplitSumTable<T>& table, const ShadingRules& rules) {
    const LobeTerms<T> t = lobe_terms(s, table, rules);
    return {multiplied(multiplied(t.diffuse_albedo, irradiance(light, s.normal)), t.open),
            multiplied(t.reflectance, radiance(light, t.lobe, s.roughness)) * t.shine};
}

template <typename T, class Light>
GS_IR_HD Vec3<T> shade(
    const SurfaceElement<T>& s, const Light& light, const SplitSumTable<T>& table, const ShadingRules& rules) {
    const Lobes<T> lobes = shade_lobes(s, light, table, rules);
    return lobes.diffuse + lobes.specular;
}

// Adds the gradients that come from the visibility of the two lobes, returns that of the diffuse albedo.
template <typename T>
GS_IR_HD Vec3<T> adj_visibility(
    const SurfaceElement<T>& s, const LobeTerms<T>& t, const ShadingRules& rules, Vec3<T> grad_open, T grad_shine,
    T& grad_visibility, T& grad_n_dot_v, T& grad_alpha) {
    if (rules.lagarde)
        adj_specular_visibility(
            s.visibility, t.n_dot_v, t.alpha, grad_shine, grad_visibility, grad_n_dot_v, grad_alpha);
    else
        grad_visibility += grad_shine;
    if (!rules.multi_bounce) {
        grad_visibility += sum(grad_open);
        return {};
    }
    return {adj_multi_bounce_visibility(s.visibility, t.diffuse_albedo.x, grad_open.x, grad_visibility),
            adj_multi_bounce_visibility(s.visibility, t.diffuse_albedo.y, grad_open.y, grad_visibility),
            adj_multi_bounce_visibility(s.visibility, t.diffuse_albedo.z, grad_open.z, grad_visibility)};
}

// Adds the gradients that come from the direction in which light is read.
template <typename T>
GS_IR_HD void adj_lobe_direction(
    const SurfaceElement<T>& s, const LobeTerms<T>& t, const ShadingRules& rules, Vec3<T> grad, SurfaceElement<T>& out,
    T& grad_facing, T& grad_alpha) {
    if (rules.dominant) {
        const Vec3<T> by_leaning = adj_normalized(t.leaning, grad);
        const T share = lobe_share(t.alpha);
        grad_alpha += adj_lobe_share(t.alpha, dot(by_leaning, t.mirrored - s.normal));
        out.normal = out.normal + by_leaning * (T(1) - share);
        grad = by_leaning * share;
    }
    out.normal = out.normal + grad * (T(2) * maximum(t.facing, T(0)));
    out.to_viewer = out.to_viewer - grad;
    if (t.facing >= T(0)) grad_facing += T(2) * dot(s.normal, grad);
}

// Adjoint of shade_lobes: the element's gradient; calls add(index, value) for entries of the texels' gradient.
template <typename T, class Add>
GS_IR_HD SurfaceElement<T> adj_shade_lobes(
    const SurfaceElement<T>& s, const CubeLight<T>& light, const SplitSumTable<T>& table, const ShadingRules& rules,
    const Lobes<T>& grad, const Add& add) {
    SurfaceElement<T> out = {};
    if (is_zero(grad.diffuse) && is_zero(grad.specular)) return out;
    const LobeTerms<T> t = lobe_terms(s, table, rules);
    T grad_n_dot_v = T(0), grad_alpha = T(0), grad_facing = T(0);

    const Vec3<T> arriving = irradiance(light, s.normal), seen = radiance(light, t.lobe, s.roughness);
    const Vec3<T> by_product = multiplied(grad.diffuse, t.diffuse_albedo);
    const Vec3<T> by_shine = multiplied(grad.specular, t.reflectance);
    out.normal = adj_irradiance(light, s.normal, multiplied(by_product, t.open), add);
    const Vec3<T> by_lobe = adj_radiance(light, t.lobe, s.roughness, by_shine * t.shine, add, out.roughness);

    const Vec3<T> by_open = multiplied(by_product, arriving);
    const Vec3<T> by_bounces = adj_visibility(
        s, t, rules, by_open, dot(by_shine, seen), out.visibility, grad_n_dot_v, grad_alpha);
    const Vec3<T> by_diffuse_albedo = multiplied(multiplied(grad.diffuse, arriving), t.open) + by_bounces;
    const Vec3<T> by_reflectance = multiplied(grad.specular, seen) * t.shine, by_base = by_reflectance * t.scale;
    out.albedo = by_diffuse_albedo * (T(1) - s.metallic) + by_base * s.metallic;
    out.metallic = dot(by_base - by_diffuse_albedo, s.albedo) - T(kDielectricF0) * sum(by_base);

    adj_sample_split_sum(
        table, t.n_dot_v, s.roughness, dot(by_reflectance, t.base), sum(by_reflectance), grad_n_dot_v, out.roughness);
    adj_lobe_direction(s, t, rules, by_lobe, out, grad_facing, grad_alpha);
    if (t.n_dot_v == t.facing) grad_facing += grad_n_dot_v;
    out.normal = out.normal + s.to_viewer * grad_facing;
    out.to_viewer = out.to_viewer + s.normal * grad_facing;
    if (s.roughness * s.roughness >= T(kMinGgxAlpha)) out.roughness += T(2) * s.roughness * grad_alpha;
    return out;
}

// IEC 61966-2-1.
template <typename T>
GS_IR_HD T to_srgb(T linear) {
    return linear <= T(0.0031308) ? T(12.92) * linear
                                  : T(1.055) * std::pow(maximum(linear, T(0.0031308)), T(1 / 2.4)) - T(0.055);
}

}  // namespace gs_ir
