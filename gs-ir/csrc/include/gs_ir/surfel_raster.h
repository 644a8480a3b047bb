// One surfel at one pixel, and the running compositing of a pixel, forward and adjoint (see gs_ir/surfels.py).
// V is a scalar (a CUDA thread's pixel) or a SIMD vector (neighbouring pixels of a row); surfel parameters are scalars.
#pragma once

#include "gs_ir/lanes.h"
#include "gs_ir/surfel_projection.h"

namespace gs_ir {

// A surfel as the rasteriser reads it.
template <class T>
struct RasterSurfel {
    SurfelPlane<T> plane;
    T opacity;
    T rho_limit;  // 2 ln(255 opacity): alpha >= 1/255 iff rho <= rho_limit
};

template <class T>
GS_IR_HD RasterSurfel<T> raster_surfel(const ScreenTransform<T>& t, T opacity) {
    return {invert_transform(t), opacity, T(2) * std::log(opacity / T(kMinAlpha))};
}

template <class V>
struct SurfelHit {
    V rho, depth;
    V q0, q1, inverse;          // u = q0 inverse, v = q1 inverse
    MaskOf<V> on_disc;          // rho is the disc's, not the screen filter's
    MaskOf<V> intersects;       // depth is the intersection's, not the centre's
    MaskOf<V> drawn;
};

// rho = min(u^2 + v^2, 2 d^2). The depth of the centre stands in where the ray misses the disc.
template <class V, class T>
GS_IR_HD SurfelHit<V> intersect(const RasterSurfel<T>& s, V x, T y) {
    const SurfelPlane<T>& p = s.plane;
    SurfelHit<V> hit;
    const V dx = x - p.x;
    const T dy = y - p.y;
    hit.q0 = multiply_add(dx, p.a.x, dy * p.b.x);
    hit.q1 = multiply_add(dx, p.a.y, dy * p.b.y);
    const V q2 = multiply_add(dx, p.a.z, multiply_add(dy, p.b.z, T(1)));
    const MaskOf<V> ahead = q2 > T(1e-6);
    const V one = V{} + T(1);
    hit.inverse = reciprocal(select(ahead, q2, one));
    const V rho_disc = select(ahead, multiply_add(hit.q0, hit.q0, hit.q1 * hit.q1) * (hit.inverse * hit.inverse), one * T(1e30));
    const V fx = x - p.filter_x;
    const T fy = y - p.filter_y;
    const V rho_screen = multiply_add(fx, fx, fy * fy) * T(kScreenPrecision);
    hit.on_disc = rho_disc <= rho_screen;
    hit.rho = select(hit.on_disc, rho_disc, rho_screen);
    hit.intersects = rho_disc <= T(kDiscLimit);
    hit.depth = select(hit.intersects, hit.inverse * p.z, one * p.z);
    hit.drawn = (hit.rho <= s.rho_limit) & (hit.depth >= T(kNear));
    return hit;
}

template <class V, class T>
GS_IR_HD V hit_alpha(const RasterSurfel<T>& s, const SurfelHit<V>& hit) {
    const V alpha = exp_lanes(hit.rho * T(-0.5)) * s.opacity;
    return select(alpha < T(kMaxAlpha), alpha, V{} + T(kMaxAlpha));
}

// Cotangents of a RasterSurfel, summed over pixels: of q, of a and b as moments of q's, and the rest.
template <class V>
struct SurfelMoments {
    V q[3], q_dx[3], q_dy[3];
    V depth, filter_x, filter_y, opacity;
};
constexpr int kMoments = 13;

// Adds one pixel's part; grad_alpha and grad_depth must be finite.
template <class V, class T>
GS_IR_HD void adj_intersect(
    const RasterSurfel<T>& s, const SurfelHit<V>& hit, V x, T y, V alpha, V grad_alpha, V grad_depth,
    SurfelMoments<V>& out) {
    const SurfelPlane<T>& p = s.plane;
    const V zero = V{};
    grad_alpha = select(hit.drawn & (alpha < T(kMaxAlpha)), grad_alpha, zero);
    grad_depth = select(hit.drawn, grad_depth, zero);
    out.opacity += grad_alpha * alpha * (T(1) / s.opacity);
    const V grad_rho = grad_alpha * alpha * T(-0.5);

    const V on_screen = select(hit.on_disc, zero, grad_rho) * T(-2 * kScreenPrecision);
    out.filter_x += on_screen * (x - p.filter_x);
    out.filter_y += on_screen * (y - p.filter_y);

    // rho = (q0^2 + q1^2) / q2^2 and depth = z / q2
    const V grad_disc = select(hit.on_disc, grad_rho, zero) * (hit.inverse * hit.inverse) * T(2);
    const V depth_scale = select(hit.intersects, hit.inverse, zero + T(1));
    out.depth += grad_depth * depth_scale;
    V grad_q[3];
    grad_q[0] = grad_disc * hit.q0;
    grad_q[1] = grad_disc * hit.q1;
    grad_q[2] = -(grad_q[0] * hit.q0 + grad_q[1] * hit.q1) * hit.inverse;
    grad_q[2] -= select(hit.intersects, grad_depth * hit.depth * hit.inverse, zero);
    const V dx = x - p.x;
    const T dy = y - p.y;
    for (int i = 0; i < 3; ++i) {
        out.q[i] += grad_q[i];
        out.q_dx[i] += grad_q[i] * dx;
        out.q_dy[i] += grad_q[i] * dy;
    }
}

// Cotangent of the plane from the moments (q depends on the pixel through dx = x - plane.x).
template <class T>
GS_IR_HD SurfelPlane<T> plane_cotangent(const SurfelMoments<T>& m, const SurfelPlane<T>& p) {
    const Vec3<T> q = {m.q[0], m.q[1], m.q[2]};
    return {-dot(q, p.a), -dot(q, p.b), m.depth, {m.q_dx[0], m.q_dx[1], m.q_dx[2]}, {m.q_dy[0], m.q_dy[1], m.q_dy[2]},
            m.filter_x, m.filter_y};
}

// Depth in the distortion, m = far / (far - near) (1 - near / z), counted from an origin's so that nothing cancels.
template <class V>
GS_IR_HD V distortion_depth(V z, V origin) {
    return (z - origin) * ScalarOf<V>(kFar * kNear / (kFar - kNear)) * reciprocal(z * origin);
}

// Running state of a pixel, front to back.
template <class V>
struct PixelState {
    V transmittance, depth, median_depth, distortion;
    V origin;            // depth of the first contributor
    V moment1, moment2;  // sums of w m and w m^2
    IntegerOf<V> median, last;  // instance numbers; -1: none
    MaskOf<V> open;
};

// Blends a surfel; returns its weight, zero where it does not contribute.
template <class V>
GS_IR_HD V blend(PixelState<V>& s, MaskOf<V> drawn, V alpha, V depth, IntegerOf<V> instance) {
    using T = ScalarOf<V>;
    drawn = drawn & s.open;
    const V after = s.transmittance * (T(1) - alpha);
    const MaskOf<V> goes_on = after >= T(kMinTransmittance);
    s.open = select(drawn, goes_on, s.open);
    drawn = drawn & goes_on;
    const V weight = select(drawn, s.transmittance * alpha, V{});
    s.origin = select(drawn & (s.last < 0), depth, s.origin);
    s.last = select(drawn, instance, s.last);
    const MaskOf<V> is_median = drawn & (s.transmittance > T(0.5));
    s.median = select(is_median, instance, s.median);
    s.median_depth = select(is_median, depth, s.median_depth);
    const V z = select(drawn, depth, s.origin);
    const V m = distortion_depth(z, s.origin), wm = weight * m;
    s.distortion += weight * (m * m * (T(1) - s.transmittance) + s.moment2 - T(2) * m * s.moment1);
    s.moment1 += wm;
    s.moment2 += wm * m;
    s.depth += weight * z;
    s.transmittance = select(drawn, after, s.transmittance);
    return weight;
}

// The same pixel walked back to front: cotangents, what the forward left, and the running values.
template <class V>
struct PixelAdjoint {
    V grad_alpha, grad_depth, grad_median, grad_distortion;
    V alpha, origin, moment1, moment2;
    IntegerOf<V> median, last;
    V transmittance;  // after the surfel at hand; starts at the pixel's final value
    V behind;         // sum over the surfels behind of weight times the cotangent of weight
};

// Undoes blend for one surfel. grad_value is the cotangent of the weight through the feature channels. Returns the
// weight and writes the cotangents of alpha and depth (zero where the surfel did not contribute).
template <class V>
GS_IR_HD V adj_blend(
    PixelAdjoint<V>& p, MaskOf<V> drawn, V alpha, V depth, IntegerOf<V> instance, V grad_value, V& grad_alpha,
    V& grad_depth) {
    using T = ScalarOf<V>;
    drawn = drawn & (instance <= p.last);
    const V zero = V{};
    const V through = reciprocal(T(1) - alpha);
    const V before = p.transmittance * through;
    const V weight = select(drawn, alpha * before, zero);
    const V z = select(drawn, depth, p.origin);
    const V m = distortion_depth(z, p.origin);
    // the distortion is sum_i w_i sum_j w_j (m_i - m_j)^2 / 2
    const V spread = m * m * p.alpha + p.moment2 - T(2) * m * p.moment1;
    const V grad_weight = grad_value + p.grad_alpha + p.grad_depth * z + p.grad_distortion * spread;
    grad_alpha = select(drawn, before * grad_weight - p.behind * through, zero);
    const V grad_m = p.grad_distortion * weight * T(2) * (m * p.alpha - p.moment1);
    grad_depth = weight * p.grad_depth + grad_m * T(kFar * kNear / (kFar - kNear)) * reciprocal(z * z);
    grad_depth += select(drawn & (instance == p.median), p.grad_median, zero);
    p.behind += weight * grad_weight;
    p.transmittance = select(drawn, before, p.transmittance);
    return weight;
}

}  // namespace gs_ir
