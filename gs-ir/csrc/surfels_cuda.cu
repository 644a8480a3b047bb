// CUDA loops of gs_ir/surfel_projection.h: one thread a surfel.
#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include "cuda_launch.cuh"
#include "gs_ir/surfel_projection.h"

namespace {

using namespace gs_ir;

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> project_surfels(
    const at::Tensor& centers, const at::Tensor& tangents_u, const at::Tensor& tangents_v, const at::Tensor& opacities,
    const at::Tensor& screen_from_world, int64_t width, int64_t height) {
    const int64_t count = centers.size(0);
    const auto integers = centers.options().dtype(at::kInt);
    at::Tensor transforms = at::empty({count, 9}, centers.options());
    at::Tensor normals = at::empty({count, 3}, centers.options());
    at::Tensor boxes = at::empty({count, 4}, integers), radii = at::empty({count}, integers);
    int32_t* box = boxes.mutable_data_ptr<int32_t>();
    int32_t* radius = radii.mutable_data_ptr<int32_t>();
    AT_DISPATCH_FLOATING_TYPES(centers.scalar_type(), "project_surfels", [&] {
        const auto *c = centers.const_data_ptr<scalar_t>(), *u = tangents_u.const_data_ptr<scalar_t>(),
                   *v = tangents_v.const_data_ptr<scalar_t>(), *o = opacities.const_data_ptr<scalar_t>(),
                   *camera = screen_from_world.const_data_ptr<scalar_t>();
        auto *t = transforms.mutable_data_ptr<scalar_t>(), *n = normals.mutable_data_ptr<scalar_t>();
        for_each(centers, count, [=] __device__(int64_t i) {
            const ProjectedSurfel<scalar_t> p = project_surfel(
                load3(c + 3 * i), load3(u + 3 * i), load3(v + 3 * i), o[i], camera, int32_t(width), int32_t(height));
            store_transform(t + 9 * i, p.transform);
            store3(n + 3 * i, p.normal);
            store_box(box + 4 * i, p.box);
            radius[i] = p.box.radius;
        });
    });
    return {transforms, normals, boxes, radii};
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
        auto *out_c = grad_centers.mutable_data_ptr<scalar_t>(), *out_u = grad_u.mutable_data_ptr<scalar_t>(),
             *out_v = grad_v.mutable_data_ptr<scalar_t>();
        for_each(centers, centers.size(0), [=] __device__(int64_t i) {
            SurfelFrame<scalar_t> grad = {};
            if (radius[i] > 0)
                grad = adj_project_surfel(
                    load_transform(gt + 9 * i), load3(gn + 3 * i),
                    SurfelFrame<scalar_t>{load3(c + 3 * i), load3(u + 3 * i), load3(v + 3 * i)}, camera);
            store3(out_c + 3 * i, grad.center);
            store3(out_u + 3 * i, grad.tangent_u);
            store3(out_v + 3 * i, grad.tangent_v);
        });
    });
    return {grad_centers, grad_u, grad_v};
}

}  // namespace

TORCH_LIBRARY_IMPL(gs_ir, CUDA, m) {
    m.impl("project_surfels", project_surfels);
    m.impl("project_surfels_backward", project_surfels_backward);
}
