// Arguments of gs_ir::shade as the loops on both kinds of device read them.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>
#include <type_traits>

#include "cubemap_layout.h"
#include "gs_ir/shading.h"

namespace gs_ir {

// N surface elements, or their gradients, as arrays.
template <typename T>
struct SurfaceElements {
    T *normals, *to_viewer, *albedo, *roughness, *metallic, *visibility;  // visibility null: open

    GS_IR_HD SurfaceElement<std::remove_const_t<T>> load(int64_t i) const {
        return {load3<std::remove_const_t<T>>(normals + 3 * i), load3<std::remove_const_t<T>>(to_viewer + 3 * i),
                load3<std::remove_const_t<T>>(albedo + 3 * i), roughness[i], metallic[i],
                visibility ? visibility[i] : std::remove_const_t<T>(1)};
    }

    GS_IR_HD void store(int64_t i, const SurfaceElement<T>& s) const {
        store3(normals + 3 * i, s.normal);
        store3(to_viewer + 3 * i, s.to_viewer);
        store3(albedo + 3 * i, s.albedo);
        roughness[i] = s.roughness;
        metallic[i] = s.metallic;
        if (visibility) visibility[i] = s.visibility;
    }
};

// Everything but the elements; a kernel's parameter.
template <typename T>
struct ShadingSetup {
    CubeLayout<int64_t> layout;
    T level_roughness[kMaxLevels];
    const T *texels, *light_from_world;
    SplitSumTable<T> table;
    ShadingRules rules;

    GS_IR_HD CubeLight<T> light() const { return {layout.view(texels, 3), level_roughness, light_from_world}; }
};

using Turn = std::optional<at::Tensor>;

template <typename T>
SurfaceElements<const T> surface_elements(
    const at::Tensor& normals, const at::Tensor& to_viewer, const at::Tensor& albedo, const at::Tensor& roughness,
    const at::Tensor& metallic, const at::Tensor& visibility) {
    return {normals.const_data_ptr<T>(),  to_viewer.const_data_ptr<T>(), albedo.const_data_ptr<T>(),
            roughness.const_data_ptr<T>(), metallic.const_data_ptr<T>(),
            visibility.numel() ? visibility.const_data_ptr<T>() : nullptr};
}

// Of normals, to_viewer, albedo, roughness, metallic, visibility, texels.
using ShadingGradients =
    std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

template <typename T>
SurfaceElements<T> element_gradients(const ShadingGradients& g) {
    return {std::get<0>(g).mutable_data_ptr<T>(), std::get<1>(g).mutable_data_ptr<T>(),
            std::get<2>(g).mutable_data_ptr<T>(), std::get<3>(g).mutable_data_ptr<T>(),
            std::get<4>(g).mutable_data_ptr<T>(),
            std::get<5>(g).numel() ? std::get<5>(g).mutable_data_ptr<T>() : nullptr};
}

// rules: lagarde, multi_bounce, dominant. Without visibility the first two have nothing to act on.
template <typename T>
ShadingSetup<T> shading_setup(
    const at::Tensor& texels, at::IntArrayRef resolutions, at::ArrayRef<double> level_roughness,
    const Turn& light_from_world, const at::Tensor& table, at::IntArrayRef rules, bool has_visibility) {
    TORCH_CHECK(rules.size() == 3, "shade: 3 rules expected, found ", rules.size());
    TORCH_CHECK(
        resolutions.size() >= 2 && resolutions.size() == level_roughness.size(),
        "shade: at least 2 levels with a roughness each expected, found ", resolutions.size(), " levels and ",
        level_roughness.size(), " values of roughness");
    ShadingSetup<T> setup = {
        CubeLayout<int64_t>(resolutions, 0), {}, texels.const_data_ptr<T>(),
        light_from_world ? light_from_world->const_data_ptr<T>() : nullptr,
        {table.const_data_ptr<T>(), int32_t(table.size(0))},
        {NormalRule::kGiven, has_visibility && rules[0] != 0, has_visibility && rules[1] != 0, rules[2] != 0}};
    TORCH_CHECK(texels.size(0) == setup.layout.total && texels.size(1) == 3, "shade: texels [sum 6 r r, 3] expected");
    for (size_t i = 0; i < level_roughness.size(); ++i) setup.level_roughness[i] = T(level_roughness[i]);
    return setup;
}

}  // namespace gs_ir
