// Projection of surfels (see gs_ir/surfels.py): screen transforms, normals, bounds, and the inverse transforms that the
// rasteriser evaluates per pixel. A surfel is the disc c + u t_u + v t_v; its transform T (rows u, v, w) takes
// (u, v, 1) to (x w, y w, w) with (x, y) in pixels and w the depth. 2DGS, Huang et al. 2024; Weyrich et al. 2007.
#pragma once

#include "gs_ir/common.h"

namespace gs_ir {

constexpr double kNear = 0.2;
constexpr double kFar = 100.0;
constexpr double kCutoff = 3.0;
constexpr double kMaxAlpha = 0.99;
constexpr double kMinAlpha = 1.0 / 255.0;
constexpr double kMinTransmittance = 1e-4;
// 1 / variance of the screen-space low-pass filter, pixel^-2
constexpr double kScreenPrecision = 2.0;
constexpr double kEdgeOnCosine = 1e-5;
// 2 ln 255: beyond this u^2 + v^2 a disc of opacity 1 is below kMinAlpha
constexpr double kDiscLimit = 11.0825270905;

template <class T>
struct ScreenTransform {
    Vec3<T> u, v, w;
};

template <class T>
GS_IR_HD ScreenTransform<T> load_transform(const T* p) { return {load3(p), load3(p + 3), load3(p + 6)}; }
template <class T>
GS_IR_HD void store_transform(T* p, const ScreenTransform<T>& t) {
    store3(p, t.u);
    store3(p + 3, t.v);
    store3(p + 6, t.w);
}

// T = P [t_u | t_v | c; 0 0 1] for the camera P [3, 4] in row-major order
template <class T>
GS_IR_HD ScreenTransform<T> screen_transform(Vec3<T> center, Vec3<T> tangent_u, Vec3<T> tangent_v, const T* camera) {
    ScreenTransform<T> t;
    Vec3<T>* rows[3] = {&t.u, &t.v, &t.w};
    for (int i = 0; i < 3; ++i) {
        const Vec3<T> row = load3(camera + 4 * i);
        *rows[i] = {dot(row, tangent_u), dot(row, tangent_v), dot(row, center) + camera[4 * i + 3]};
    }
    return t;
}

template <class T>
GS_IR_HD void adj_screen_transform(
    const ScreenTransform<T>& grad, const T* camera, Vec3<T>& grad_center, Vec3<T>& grad_tangent_u,
    Vec3<T>& grad_tangent_v) {
    const Vec3<T> u = load3(camera), v = load3(camera + 4), w = load3(camera + 8);
    grad_tangent_u = u * grad.u.x + v * grad.v.x + w * grad.w.x;
    grad_tangent_v = u * grad.u.y + v * grad.v.y + w * grad.w.y;
    grad_center = u * grad.u.z + v * grad.v.z + w * grad.w.z;
}

// n = cross / |cross|
template <class T>
GS_IR_HD Vec3<T> unit(Vec3<T> a) { return a * (T(1) / length(a)); }
// da = (dn - n <n, dn>) / |a|
template <class T>
GS_IR_HD Vec3<T> adj_unit(Vec3<T> grad, Vec3<T> a) {
    const T inverse = T(1) / length(a);
    const Vec3<T> n = a * inverse;
    return (grad - n * dot(n, grad)) * inverse;
}

// d(a x b): da = b x g, db = g x a
template <class T>
GS_IR_HD void adj_cross(Vec3<T> grad, Vec3<T> a, Vec3<T> b, Vec3<T>& grad_a, Vec3<T>& grad_b) {
    grad_a = grad_a + cross(b, grad);
    grad_b = grad_b + cross(grad, a);
}

// The transform about the pixel where the centre appears: rows T_u - x T_w and T_v - y T_w have no third entry.
template <class T>
struct CentredTransform {
    T x, y;
    T u0, u1, v0, v1;
};

template <class T>
GS_IR_HD CentredTransform<T> about_center(const ScreenTransform<T>& t) {
    const T x = t.u.z / t.w.z, y = t.v.z / t.w.z;
    return {x, y, t.u.x - x * t.w.x, t.u.y - x * t.w.y, t.v.x - y * t.w.x, t.v.y - y * t.w.y};
}

// Adds the adjoint of about_center.
template <class T>
GS_IR_HD void adj_about_center(
    const CentredTransform<T>& grad, const ScreenTransform<T>& t, const CentredTransform<T>& c,
    ScreenTransform<T>& out) {
    const T grad_x = grad.x - grad.u0 * t.w.x - grad.u1 * t.w.y;
    const T grad_y = grad.y - grad.v0 * t.w.x - grad.v1 * t.w.y;
    out.u = out.u + Vec3<T>{grad.u0, grad.u1, grad_x / t.w.z};
    out.v = out.v + Vec3<T>{grad.v0, grad.v1, grad_y / t.w.z};
    out.w = out.w - Vec3<T>{c.x * grad.u0 + c.y * grad.v0, c.x * grad.u1 + c.y * grad.v1,
                            (grad_x * c.x + grad_y * c.y) / t.w.z};
}

// (t_u x t_v) . p, p the centre in camera space: positive where the camera sees the disc's back.
template <class T>
GS_IR_HD T facing(const ScreenTransform<T>& t, const CentredTransform<T>& c, T camera_determinant) {
    return (c.u0 * c.v1 - c.u1 * c.v0) * t.w.z / camera_determinant;
}

// What turns t_u x t_v towards the camera.
template <class T>
GS_IR_HD T facing_sign(const ScreenTransform<T>& t, T camera_determinant) {
    return facing(t, about_center(t), camera_determinant) > T(0) ? T(-1) : T(1);
}

// Scale s of the dual conic of the disc u^2 + v^2 <= r^2: with it the box on screen has its centre at
// (x, y) - s <row, T_w> and half extents sqrt(offset^2 + s |row|^2). Zero: the disc meets the camera's plane.
template <class T>
GS_IR_HD T conic_scale(const ScreenTransform<T>& t, T squared_radius) {
    const T denominator = t.w.z * t.w.z - squared_radius * (t.w.x * t.w.x + t.w.y * t.w.y);
    return denominator > T(1e-6) * t.w.z * t.w.z ? squared_radius / denominator : T(0);
}

template <class T>
struct DiscExtent {
    T offset_x, offset_y, half_x, half_y;
};

template <class T>
GS_IR_HD DiscExtent<T> disc_extent(const ScreenTransform<T>& t, const CentredTransform<T>& c, T scale) {
    const T x = -scale * (c.u0 * t.w.x + c.u1 * t.w.y), y = -scale * (c.v0 * t.w.x + c.v1 * t.w.y);
    const T squared_u = c.u0 * c.u0 + c.u1 * c.u1, squared_v = c.v0 * c.v0 + c.v1 * c.v1;
    return {x, y, std::sqrt(x * x + scale * squared_u), std::sqrt(y * y + scale * squared_v)};
}

struct PixelBox {
    int32_t x0, y0, x1, y1;
    int32_t radius;
};

// First and last + 1 pixel whose centre lies within the disc's or the filter's half extent of their centres (offsets
// from `center`), within [0, size].
template <class T>
GS_IR_HD void pixel_range(
    T center, T disc_offset, T disc_half, T filter_offset, T filter_half, int32_t size, int32_t& first, int32_t& last) {
    const T margin = T(1e-3) + T(1e-4) * disc_half;  // rounding must not shave off a pixel
    const T low = center + minimum(disc_offset - disc_half, filter_offset - filter_half) - margin;
    const T high = center + maximum(disc_offset + disc_half, filter_offset + filter_half) + margin;
    first = int32_t(clamp(std::ceil(low - T(0.5)), T(0), T(size)));
    last = int32_t(clamp(std::floor(high - T(0.5)) + T(1), T(0), T(size)));
}

// Pixels that a surfel can touch, empty (and radius 0) when it is culled. A pixel is drawn iff
// min(rho_disc, rho_screen) <= r^2 = 2 ln(255 opacity): the box of the disc at r joined with the filter's is exact.
template <class T>
GS_IR_HD PixelBox bound_surfel(
    const ScreenTransform<T>& t, Vec3<T> crossed, T camera_determinant, T opacity, int32_t width, int32_t height) {
    constexpr PixelBox kCulled = {0, 0, 0, 0, 0};
    const Vec3<T> all = t.u + t.v + t.w;
    // the comparison is false where a coordinate is not finite
    const bool finite = std::abs(all.x + all.y + all.z + opacity) <= T(1e30);
    if (!finite || !(t.w.z > T(kNear)) || !(opacity >= T(kMinAlpha))) return kCulled;
    const CentredTransform<T> c = about_center(t);
    if (!(std::abs(facing(t, c, camera_determinant)) > T(kEdgeOnCosine) * length(crossed) * t.w.z)) return kCulled;

    const T squared_radius = maximum(T(2) * std::log(opacity / T(kMinAlpha)), T(0));
    const T filter_radius = std::sqrt(squared_radius / T(kScreenPrecision));
    const T scale = conic_scale(t, squared_radius), filter_scale = conic_scale(t, T(kCutoff * kCutoff));
    const DiscExtent<T> disc = disc_extent(t, c, scale), filter = disc_extent(t, c, filter_scale);
    PixelBox box = {0, 0, width, height, 0};
    if (scale > T(0) || squared_radius == T(0)) {
        pixel_range(c.x, disc.offset_x, disc.half_x, filter.offset_x, filter_radius, width, box.x0, box.x1);
        pixel_range(c.y, disc.offset_y, disc.half_y, filter.offset_y, filter_radius, height, box.y0, box.y1);
    }
    if (box.x1 <= box.x0 || box.y1 <= box.y0) return kCulled;
    const T largest = T(maximum(width, height));
    const T half = filter_scale > T(0) ? maximum(filter.half_x, filter.half_y) : largest;
    const T floor_radius = T(kCutoff) / std::sqrt(T(kScreenPrecision));
    box.radius = int32_t(minimum(std::ceil(maximum(half, floor_radius)), largest));
    return box;
}

GS_IR_HD void store_box(int32_t* out, const PixelBox& box) {
    out[0] = box.x0, out[1] = box.y0, out[2] = box.x1, out[3] = box.y1;
}

// Determinant of the camera's left 3 x 3 part: positive for a proper camera.
template <class T>
GS_IR_HD T camera_determinant(const T* camera) {
    return dot(load3(camera), cross(load3(camera + 4), load3(camera + 8)));
}

template <class T>
struct ProjectedSurfel {
    ScreenTransform<T> transform;
    Vec3<T> normal;  // world space, facing the camera
    PixelBox box;
};

// All zero for a culled surfel.
template <class T>
GS_IR_HD ProjectedSurfel<T> project_surfel(
    Vec3<T> center, Vec3<T> tangent_u, Vec3<T> tangent_v, T opacity, const T* camera, int32_t width, int32_t height) {
    ProjectedSurfel<T> out = {};
    const ScreenTransform<T> t = screen_transform(center, tangent_u, tangent_v, camera);
    const Vec3<T> crossed = cross(tangent_u, tangent_v);
    const T determinant = camera_determinant(camera);
    out.box = bound_surfel(t, crossed, determinant, opacity, width, height);
    if (out.box.radius == 0) return out;
    out.transform = t;
    out.normal = unit(crossed) * facing_sign(t, determinant);
    return out;
}

template <class T>
struct SurfelFrame {
    Vec3<T> center, tangent_u, tangent_v;
};

// Adjoint of project_surfel for a surfel that was not culled.
template <class T>
GS_IR_HD SurfelFrame<T> adj_project_surfel(
    const ScreenTransform<T>& grad_transform, Vec3<T> grad_normal, const SurfelFrame<T>& surfel, const T* camera) {
    const ScreenTransform<T> t = screen_transform(surfel.center, surfel.tangent_u, surfel.tangent_v, camera);
    SurfelFrame<T> grad;
    adj_screen_transform(grad_transform, camera, grad.center, grad.tangent_u, grad.tangent_v);
    const Vec3<T> signed_grad = grad_normal * facing_sign(t, camera_determinant(camera));
    adj_cross(adj_unit(signed_grad, cross(surfel.tangent_u, surfel.tangent_v)), surfel.tangent_u, surfel.tangent_v,
              grad.tangent_u, grad.tangent_v);
    return grad;
}

// Inverse transform: with (dx, dy) the pixel's offset from (x, y), q = (0, 0, 1) + a dx + b dy gives u = q0 / q2,
// v = q1 / q2 and depth z / q2. It is 2DGS's k x l with k = x T_w - T_u, l = y T_w - T_v, divided by its value at the
// centre: affine in the pixel and free of the cancellation that k and l have far from the image's origin.
template <class T>
struct SurfelPlane {
    T x, y, z;
    Vec3<T> a, b;
    T filter_x, filter_y;  // centre of the screen-space filter: of the box at kCutoff
};

template <class T>
GS_IR_HD SurfelPlane<T> invert_transform(const ScreenTransform<T>& t) {
    const CentredTransform<T> c = about_center(t);
    const T inverse = T(1) / (c.u0 * c.v1 - c.u1 * c.v0);
    const Vec3<T> a = {c.v1 * t.w.z, -c.v0 * t.w.z, c.v0 * t.w.y - c.v1 * t.w.x};
    const Vec3<T> b = {-c.u1 * t.w.z, c.u0 * t.w.z, t.w.x * c.u1 - t.w.y * c.u0};
    const T scale = conic_scale(t, T(kCutoff * kCutoff));
    return {c.x, c.y, t.w.z, a * inverse, b * inverse,
            c.x - scale * (c.u0 * t.w.x + c.u1 * t.w.y), c.y - scale * (c.v0 * t.w.x + c.v1 * t.w.y)};
}

template <class T>
GS_IR_HD ScreenTransform<T> adj_invert_transform(const SurfelPlane<T>& grad, const ScreenTransform<T>& t) {
    const CentredTransform<T> c = about_center(t);
    const T inverse = T(1) / (c.u0 * c.v1 - c.u1 * c.v0);
    const SurfelPlane<T> plane = invert_transform(t);
    const Vec3<T> grad_a = grad.a * inverse, grad_b = grad.b * inverse;
    const T grad_det = -inverse * (dot(grad.a, plane.a) + dot(grad.b, plane.b));
    const T scale = conic_scale(t, T(kCutoff * kCutoff));

    CentredTransform<T> g;
    g.x = grad.x + grad.filter_x;
    g.y = grad.y + grad.filter_y;
    g.u0 = grad_b.y * t.w.z - grad_b.z * t.w.y + grad_det * c.v1 - scale * grad.filter_x * t.w.x;
    g.u1 = -grad_b.x * t.w.z + grad_b.z * t.w.x - grad_det * c.v0 - scale * grad.filter_x * t.w.y;
    g.v0 = -grad_a.y * t.w.z + grad_a.z * t.w.y - grad_det * c.u1 - scale * grad.filter_y * t.w.x;
    g.v1 = grad_a.x * t.w.z - grad_a.z * t.w.x + grad_det * c.u0 - scale * grad.filter_y * t.w.y;

    ScreenTransform<T> out = {{0, 0, 0}, {0, 0, 0}, {0, 0, 0}};
    out.w.x = -grad_a.z * c.v1 + grad_b.z * c.u1 - scale * (grad.filter_x * c.u0 + grad.filter_y * c.v0);
    out.w.y = grad_a.z * c.v0 - grad_b.z * c.u0 - scale * (grad.filter_x * c.u1 + grad.filter_y * c.v1);
    out.w.z = grad.z + grad_a.x * c.v1 - grad_a.y * c.v0 - grad_b.x * c.u1 + grad_b.y * c.u0;
    // scale = k / (w_z^2 - k (w_x^2 + w_y^2)), or constantly zero
    const T grad_scale = -grad.filter_x * (c.u0 * t.w.x + c.u1 * t.w.y) - grad.filter_y * (c.v0 * t.w.x + c.v1 * t.w.y);
    const T along = T(2) * grad_scale * scale * scale;
    out.w = out.w + Vec3<T>{t.w.x * along, t.w.y * along, -t.w.z * along / T(kCutoff * kCutoff)};
    adj_about_center(g, t, c, out);
    return out;
}

}  // namespace gs_ir
