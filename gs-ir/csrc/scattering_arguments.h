// From the operators' tensors to the structures of gs_ir/scattering.h.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include "gs_ir/scattering.h"

namespace gs_ir {

template <typename T>
MapLight<T> map_light(at::TensorList light, at::ArrayRef<double> light_from_world) {
    MapLight<T> out{{light[0].const_data_ptr<T>(), int32_t(light[0].size(0)), int32_t(light[0].size(1))},
                    light[1].const_data_ptr<double>(), light[2].const_data_ptr<double>(),
                    light[3].const_data_ptr<T>(), {}};
    for (int i = 0; i < 9; ++i) out.light_from_world[i] = T(light_from_world[i]);
    return out;
}

template <typename T>
GaussianLight<T> gaussian_light(at::TensorList light) {
    return {light[0].const_data_ptr<T>(), light[1].const_data_ptr<T>(), int32_t(light[1].size(0))};
}

// Calls body(light) for the kind of light that the tensors hold.
template <typename T, class Body>
void with_light(at::TensorList light, at::ArrayRef<double> light_from_world, const Body& body) {
    TORCH_CHECK(light.size() == 2 || light.size() == 4, "a light of 2 or 4 tensors expected, found ", light.size());
    if (light.size() == 4)
        body(map_light<T>(light, light_from_world));
    else
        body(gaussian_light<T>(light));
}

// A grid of `count` cells that is closest to 1 : 2.
inline Strata strata(uint32_t count) {
    uint32_t rows = maximum<uint32_t>(1, uint32_t(std::lrint(std::sqrt(count / 2.0))));
    while (count % rows != 0) --rows;
    return {count, rows};
}

inline ScatterPlan scatter_plan(int64_t strategy, int64_t draws) {
    const auto all = uint32_t(draws);
    const bool mixture = Strategy(strategy) == Strategy::kMixture;
    return {Strategy(strategy), all, mixture ? strata(all / 2) : Strata{0, 1}, strata(mixture ? all - all / 2 : all)};
}

template <typename T>
ScatterScene<T> scatter_scene(
    const at::Tensor& origins, const at::Tensor& directions, const at::Tensor& rows, const at::Tensor& surface) {
    return {origins.const_data_ptr<T>(), directions.const_data_ptr<T>(), rows.const_data_ptr<int32_t>(),
            surface.const_data_ptr<T>(), rows.size(1), rows.size(0)};
}

template <typename T>
ScatterFound<T> scatter_found(const at::Tensor& share, at::TensorList drawn, const at::Tensor& visible,
                              const std::optional<at::Tensor>& indirect) {
    return {share.const_data_ptr<T>(), drawn[0].const_data_ptr<T>(), drawn[1].const_data_ptr<T>(),
            visible.const_data_ptr<bool>(), indirect ? indirect->const_data_ptr<T>() : nullptr};
}

template <typename T>
PosedMesh<T> posed_mesh(const at::Tensor& faces, const at::Tensor& vertices, const at::Tensor& canonical) {
    return {faces.const_data_ptr<int64_t>(), vertices.const_data_ptr<T>(), canonical.const_data_ptr<T>(),
            canonical.size(0)};
}

}  // namespace gs_ir
