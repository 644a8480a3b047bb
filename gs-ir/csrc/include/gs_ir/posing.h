// From a surfel at rest to a surfel under a pose and before a camera: frame of its quaternion, linear blend skinning,
// normal, direction to the viewer, and the opacity that the screen filter leaves it; each beside its adjoint.
#pragma once

#include "gs_ir/pose.h"
#include "gs_ir/shading.h"
#include "gs_ir/surfel_projection.h"

namespace gs_ir {

constexpr double kBackFade = 0.1;        // cosine past grazing at which a surfel seen from behind has faded out
constexpr double kSmallestArea = 1e-20;  // square metres, below which a surfel has no normal
constexpr double kSmallestLength = 1e-12;

// dx of u = x / |x| and of the length |x|, which is at least the floor of the division.
template <typename T>
GS_IR_HD Vec3<T> adj_direction(Vec3<T> grad_unit, T grad_length, Vec3<T> unit, T length) {
    return (grad_unit - unit * (dot(unit, grad_unit) - length * grad_length)) * (T(1) / length);
}

template <typename T>
struct Quaternion {
    T w, x, y, z;
};

template <typename T>
GS_IR_HD T dot(const Quaternion<T>& a, const Quaternion<T>& b) { return a.w * b.w + a.x * b.x + a.y * b.y + a.z * b.z; }

// Columns of a rotation matrix.
template <typename T>
struct Axes {
    Vec3<T> u, v, n;
};

template <typename T>
GS_IR_HD Axes<T> axes_of(const Quaternion<T>& q) {
    const T two = T(2);
    return {{T(1) - two * (q.y * q.y + q.z * q.z), two * (q.x * q.y + q.w * q.z), two * (q.x * q.z - q.w * q.y)},
            {two * (q.x * q.y - q.w * q.z), T(1) - two * (q.x * q.x + q.z * q.z), two * (q.y * q.z + q.w * q.x)},
            {two * (q.x * q.z + q.w * q.y), two * (q.y * q.z - q.w * q.x), T(1) - two * (q.x * q.x + q.y * q.y)}};
}

template <typename T>
GS_IR_HD Quaternion<T> adj_axes_of(const Axes<T>& g, const Quaternion<T>& q) {
    const T yx = g.u.y + g.v.x, zx = g.u.z + g.n.x, zy = g.v.z + g.n.y;
    return {T(2) * (q.x * (g.v.z - g.n.y) + q.y * (g.n.x - g.u.z) + q.z * (g.u.y - g.v.x)),
            T(2) * (q.w * (g.v.z - g.n.y) + q.y * yx + q.z * zx - T(2) * q.x * (g.v.y + g.n.z)),
            T(2) * (q.w * (g.n.x - g.u.z) + q.x * yx + q.z * zy - T(2) * q.y * (g.u.x + g.n.z)),
            T(2) * (q.w * (g.u.y - g.v.x) + q.x * zx + q.y * zy - T(2) * q.z * (g.u.x + g.v.y))};
}

// Blended transform of one surfel.
template <typename T>
GS_IR_HD Transform<T> blend_bones(const T* weights, const Transform<T>* bones, int32_t joints) {
    Transform<T> blended = {};
    for (int32_t j = 0; j < joints; ++j) {
        const T weight = weights[j];
        if (weight == T(0)) continue;
        for (int k = 0; k < 12; ++k) blended.m[k] += weight * bones[j].m[k];
    }
    return blended;
}

// Transpose of Transform::rotate.
template <typename T>
GS_IR_HD Vec3<T> adj_rotate(const Transform<T>& a, Vec3<T> grad) {
    return load3(a.m) * grad.x + load3(a.m + 4) * grad.y + load3(a.m + 8) * grad.z;
}

// Centre of the camera with the rigid transform camera_from_world, row-major with four columns.
template <typename T>
GS_IR_HD Vec3<T> camera_center(const T* e) {
    return (load3(e) * e[3] + load3(e + 4) * e[7] + load3(e + 8) * e[11]) * T(-1);
}

// How a camera sees a posed surfel.
template <typename T>
struct SurfelSight {
    Vec3<T> normal, to_viewer;  // unit; the normal is that of the frame, outward
    T area, distance, cosine;   // of the parallelogram of the tangents; to the camera; of normal and to_viewer
};

template <typename T>
GS_IR_HD SurfelSight<T> see_surfel(const SurfelFrame<T>& posed, Vec3<T> camera) {
    const Vec3<T> crossed = cross(posed.tangent_u, posed.tangent_v), away = camera - posed.center;
    SurfelSight<T> out;
    out.area = maximum(length(crossed), T(kSmallestArea));
    out.distance = maximum(length(away), T(kSmallestLength));
    out.normal = crossed * (T(1) / out.area);
    out.to_viewer = away * (T(1) / out.distance);
    out.cosine = dot(out.normal, out.to_viewer);
    return out;
}

template <typename T>
GS_IR_HD SurfelFrame<T> adj_see_surfel(const SurfelSight<T>& grad, const SurfelSight<T>& s, const SurfelFrame<T>& posed) {
    const Vec3<T> grad_normal = grad.normal + s.to_viewer * grad.cosine;
    const Vec3<T> grad_viewer = grad.to_viewer + s.normal * grad.cosine;
    SurfelFrame<T> out = {};
    out.center = adj_direction(grad_viewer, grad.distance, s.to_viewer, s.distance) * T(-1);
    adj_cross(adj_direction(grad_normal, grad.area, s.normal, s.area), posed.tangent_u, posed.tangent_v, out.tangent_u,
              out.tangent_v);
    return out;
}

// Pixels that a surfel covers in units of the screen filter's; `focal` is the product of both focal lengths.
template <typename T>
GS_IR_HD T filter_coverage(const SurfelSight<T>& s, T focal) {
    return focal * T(kScreenPrecision) * s.area * std::abs(s.cosine) / (s.distance * s.distance);
}

// Factor on opacity that keeps a surfel's coverage when the screen filter spreads it over more pixels, zero for a
// surfel turned away (see gs_ir/posing.py).
template <typename T>
GS_IR_HD T footprint_factor(const SurfelSight<T>& s, T focal) {
    return minimum(filter_coverage(s, focal), T(1)) * clamp(s.cosine / T(kBackFade) + T(1), T(0), T(1));
}

template <typename T>
GS_IR_HD void adj_footprint_factor(T grad, const SurfelSight<T>& s, T focal, SurfelSight<T>& out) {
    const T coverage = filter_coverage(s, focal), fade = s.cosine / T(kBackFade) + T(1);
    if (coverage <= T(1)) {
        const T along = grad * clamp(fade, T(0), T(1)), slope = focal * T(kScreenPrecision) / (s.distance * s.distance);
        out.area += along * slope * std::abs(s.cosine);
        out.distance -= along * T(2) * coverage / s.distance;
        if (s.cosine != T(0)) out.cosine += along * slope * (s.cosine > T(0) ? s.area : -s.area);
    }
    if (fade >= T(0) && fade <= T(1)) out.cosine += grad * minimum(coverage, T(1)) / T(kBackFade);
}

// Adjoint of oriented_normal, whose cosine is that of the sight.
template <typename T>
GS_IR_HD void adj_oriented_normal(Vec3<T> grad, const SurfelSight<T>& s, NormalRule rule, SurfelSight<T>& out) {
    if (rule == NormalRule::kVisible) {
        const T behind = minimum(s.cosine, T(0));
        grad = adj_normalized(s.normal - s.to_viewer * behind, grad);
        out.to_viewer = out.to_viewer - grad * behind;
        if (s.cosine <= T(0)) out.cosine -= dot(s.to_viewer, grad);
    } else if (rule == NormalRule::kPublished && s.cosine < T(-0.3)) {
        grad = grad * T(-1);
    }
    out.normal = out.normal + grad;
}

template <typename T>
struct RestSurfel {
    Vec3<T> position;
    T log_scale_u, log_scale_v;
    Quaternion<T> quaternion;  // of any length
    T opacity_logit;
};

// What poses and sees all surfels alike.
template <typename T>
struct PosingView {
    Vec3<T> camera;
    T focal;  // product of both focal lengths, in samples of the raster
    NormalRule normals;
    bool area_opacity;
};

template <typename T>
struct PosedSurfel {
    Vec3<T> center, tangent_u, tangent_v, normal, normal_canonical, to_viewer, oriented;
    T cosine, opacity;
};

// What the forward pass and its adjoint both compute.
template <typename T>
struct PosingSteps {
    Quaternion<T> unit;
    T quaternion_length;
    SurfelFrame<T> rest, posed;
    Axes<T> axes;
    SurfelSight<T> sight;
};

template <typename T>
GS_IR_HD PosingSteps<T> posing_steps(const RestSurfel<T>& s, const Transform<T>& blended, Vec3<T> camera) {
    PosingSteps<T> out;
    const Quaternion<T>& q = s.quaternion;
    out.quaternion_length = maximum(std::sqrt(dot(q, q)), T(kSmallestLength));
    const T inverse = T(1) / out.quaternion_length;
    out.unit = {q.w * inverse, q.x * inverse, q.y * inverse, q.z * inverse};
    out.axes = axes_of(out.unit);
    out.rest = {s.position, out.axes.u * std::exp(s.log_scale_u), out.axes.v * std::exp(s.log_scale_v)};
    out.posed = {blended.apply(out.rest.center), blended.rotate(out.rest.tangent_u), blended.rotate(out.rest.tangent_v)};
    out.sight = see_surfel(out.posed, camera);
    return out;
}

template <typename T>
GS_IR_HD T sigmoid(T x) { return T(1) / (T(1) + std::exp(-x)); }

template <typename T>
GS_IR_HD PosedSurfel<T> pose_surfel(const RestSurfel<T>& s, const Transform<T>& blended, const PosingView<T>& view) {
    const PosingSteps<T> steps = posing_steps(s, blended, view.camera);
    const SurfelSight<T>& sight = steps.sight;
    const T factor = view.area_opacity ? footprint_factor(sight, view.focal) : T(1);
    return {steps.posed.center, steps.posed.tangent_u, steps.posed.tangent_v, sight.normal, steps.axes.n, sight.to_viewer,
            oriented_normal(sight.normal, sight.to_viewer, view.normals), sight.cosine, sigmoid(s.opacity_logit) * factor};
}

template <typename T>
GS_IR_HD RestSurfel<T> adj_pose_surfel(
    const PosedSurfel<T>& grad, const RestSurfel<T>& s, const Transform<T>& blended, const PosingView<T>& view) {
    const PosingSteps<T> steps = posing_steps(s, blended, view.camera);
    const T opacity = sigmoid(s.opacity_logit);
    const T factor = view.area_opacity ? footprint_factor(steps.sight, view.focal) : T(1);
    SurfelSight<T> g = {grad.normal, grad.to_viewer, T(0), T(0), grad.cosine};
    if (view.area_opacity) adj_footprint_factor(grad.opacity * opacity, steps.sight, view.focal, g);
    adj_oriented_normal(grad.oriented, steps.sight, view.normals, g);
    const SurfelFrame<T> seen = adj_see_surfel(g, steps.sight, steps.posed);

    const Vec3<T> tangent_u = adj_rotate(blended, grad.tangent_u + seen.tangent_u);
    const Vec3<T> tangent_v = adj_rotate(blended, grad.tangent_v + seen.tangent_v);
    const Axes<T> axes = {tangent_u * std::exp(s.log_scale_u), tangent_v * std::exp(s.log_scale_v), grad.normal_canonical};
    const Quaternion<T> q = adj_axes_of(axes, steps.unit), &u = steps.unit;
    const T along = dot(q, u), inverse = T(1) / steps.quaternion_length;
    return {adj_rotate(blended, grad.center + seen.center), dot(tangent_u, steps.rest.tangent_u),
            dot(tangent_v, steps.rest.tangent_v),
            {(q.w - u.w * along) * inverse, (q.x - u.x * along) * inverse, (q.y - u.y * along) * inverse,
             (q.z - u.z * along) * inverse},
            grad.opacity * factor * opacity * (T(1) - opacity)};
}

}  // namespace gs_ir
