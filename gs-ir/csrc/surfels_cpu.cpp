// CPU loops of gs_ir/surfel_projection.h.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include "gs_ir/surfel_projection.h"

namespace {

using namespace gs_ir;

constexpr int64_t kSurfelsPerTask = 1024;

// Determinant of the camera's left 3 x 3 part: positive for a proper camera.
template <class T>
T camera_determinant(const T* camera) {
    return dot(load3(camera), cross(load3(camera + 4), load3(camera + 8)));
}

template <class T>
PixelBox project_one(
    const T* center, const T* tangent_u, const T* tangent_v, T opacity, const T* camera, int32_t width, int32_t height,
    T* transform, T* normal) {
    const ScreenTransform<T> t = screen_transform(load3(center), load3(tangent_u), load3(tangent_v), camera);
    const Vec3<T> crossed = cross(load3(tangent_u), load3(tangent_v));
    const T determinant = camera_determinant(camera);
    const PixelBox box = bound_surfel(t, crossed, determinant, opacity, width, height);
    if (box.radius == 0) {
        std::fill(transform, transform + 9, T(0));
        std::fill(normal, normal + 3, T(0));
        return box;
    }
    store_transform(transform, t);
    store3(normal, unit(crossed) * facing_sign(t, determinant));
    return box;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> project_surfels(
    const at::Tensor& centers, const at::Tensor& tangents_u, const at::Tensor& tangents_v, const at::Tensor& opacities,
    const at::Tensor& screen_from_world, int64_t width, int64_t height) {
    const int64_t count = centers.size(0);
    const auto integers = centers.options().dtype(at::kInt);
    at::Tensor transforms = at::empty({count, 9}, centers.options());
    at::Tensor normals = at::empty({count, 3}, centers.options());
    at::Tensor boxes = at::empty({count, 4}, integers), radii = at::empty({count}, integers);
    int32_t* box_out = boxes.mutable_data_ptr<int32_t>();
    int32_t* radius_out = radii.mutable_data_ptr<int32_t>();
    AT_DISPATCH_FLOATING_TYPES(centers.scalar_type(), "project_surfels", [&] {
        const auto *c = centers.const_data_ptr<scalar_t>(), *u = tangents_u.const_data_ptr<scalar_t>(),
                   *v = tangents_v.const_data_ptr<scalar_t>(), *o = opacities.const_data_ptr<scalar_t>(),
                   *camera = screen_from_world.const_data_ptr<scalar_t>();
        auto *t = transforms.mutable_data_ptr<scalar_t>(), *n = normals.mutable_data_ptr<scalar_t>();
        at::parallel_for(0, count, kSurfelsPerTask, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) {
                const PixelBox box = project_one(c + 3 * i, u + 3 * i, v + 3 * i, o[i], camera, int32_t(width),
                                                 int32_t(height), t + 9 * i, n + 3 * i);
                int32_t* out = box_out + 4 * i;
                out[0] = box.x0, out[1] = box.y0, out[2] = box.x1, out[3] = box.y1;
                radius_out[i] = box.radius;
            }
        });
    });
    return {transforms, normals, boxes, radii};
}

template <class T>
void adj_project_one(
    const T* grad_transform, const T* grad_normal, const T* center, Vec3<T> tangent_u, Vec3<T> tangent_v,
    const T* camera, T* grads[3]) {
    const ScreenTransform<T> t = screen_transform(load3(center), tangent_u, tangent_v, camera);
    Vec3<T> grad_center, grad_u, grad_v;
    adj_screen_transform(load_transform(grad_transform), camera, grad_center, grad_u, grad_v);
    const Vec3<T> signed_grad = load3(grad_normal) * facing_sign(t, camera_determinant(camera));
    adj_cross(adj_unit(signed_grad, cross(tangent_u, tangent_v)), tangent_u, tangent_v, grad_u, grad_v);
    store3(grads[0], grad_center);
    store3(grads[1], grad_u);
    store3(grads[2], grad_v);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> project_surfels_backward(
    const at::Tensor& grad_transforms, const at::Tensor& grad_normals, const at::Tensor& centers,
    const at::Tensor& tangents_u, const at::Tensor& tangents_v, const at::Tensor& screen_from_world,
    const at::Tensor& radii) {
    at::Tensor grad_centers = at::empty_like(centers);
    at::Tensor grad_u = at::empty_like(tangents_u), grad_v = at::empty_like(tangents_v);
    const int32_t* radius = radii.const_data_ptr<int32_t>();
    AT_DISPATCH_FLOATING_TYPES(centers.scalar_type(), "project_surfels_backward", [&] {
        const auto *c = centers.const_data_ptr<scalar_t>(), *u = tangents_u.const_data_ptr<scalar_t>(),
                   *v = tangents_v.const_data_ptr<scalar_t>(), *camera = screen_from_world.const_data_ptr<scalar_t>(),
                   *gt = grad_transforms.const_data_ptr<scalar_t>(), *gn = grad_normals.const_data_ptr<scalar_t>();
        scalar_t* outputs[3] = {grad_centers.mutable_data_ptr<scalar_t>(), grad_u.mutable_data_ptr<scalar_t>(),
                                grad_v.mutable_data_ptr<scalar_t>()};
        at::parallel_for(0, centers.size(0), kSurfelsPerTask, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) {
                scalar_t* rows[3] = {outputs[0] + 3 * i, outputs[1] + 3 * i, outputs[2] + 3 * i};
                if (radius[i] > 0)
                    adj_project_one(
                        gt + 9 * i, gn + 3 * i, c + 3 * i, load3(u + 3 * i), load3(v + 3 * i), camera, rows);
                else
                    for (auto* row : rows) std::fill(row, row + 3, scalar_t(0));
            }
        });
    });
    return {grad_centers, grad_u, grad_v};
}

}  // namespace

TORCH_LIBRARY_IMPL(gs_ir, CPU, m) {
    m.impl("project_surfels", project_surfels);
    m.impl("project_surfels_backward", project_surfels_backward);
}
