// CPU loops of gs_ir/directional.h.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include "gs_ir/directional.h"

namespace {

using gs_ir::kDirections;
using gs_ir::kMaskWords;
using gs_ir::kWordBits;
constexpr int64_t kPointsPerTask = 64, kProbesPerTask = 1024;
constexpr int kBits = kMaskWords * kWordBits;

const uint32_t* words(const at::Tensor& masks) {
    return reinterpret_cast<const uint32_t*>(masks.const_data_ptr<int64_t>());
}

template <typename T>
void fill_table(const T* part_from_world, const T* directions, const T* baked, uint8_t* table) {
    const gs_ir::Rigid<T> transform{part_from_world};
    for (int k = 0; k < kDirections; ++k)
        table[k] = uint8_t(gs_ir::nearest_direction(baked, transform.rotate(gs_ir::load3(directions + 3 * k))));
    table[kDirections] = kDirections;
}

at::Tensor turn_masks(
    const at::Tensor& masks, const at::Tensor& offsets, const at::Tensor& part_from_world, const at::Tensor& directions,
    const at::Tensor& baked) {
    at::Tensor out = at::empty_like(masks);
    const uint32_t* in = words(masks);
    auto* turned = reinterpret_cast<uint32_t*>(out.mutable_data_ptr<int64_t>());
    const auto* first = offsets.const_data_ptr<int64_t>();
    AT_DISPATCH_FLOATING_TYPES(directions.scalar_type(), "turn_masks", [&] {
        for (int64_t part = 0; part < part_from_world.size(0); ++part) {
            uint8_t table[kBits];
            fill_table(
                part_from_world.const_data_ptr<scalar_t>() + 12 * part, directions.const_data_ptr<scalar_t>(),
                baked.const_data_ptr<scalar_t>(), table);
            at::parallel_for(first[part], first[part + 1], kProbesPerTask, [&](int64_t begin, int64_t end) {
                for (int64_t i = kMaskWords * begin; i < kMaskWords * end; ++i)
                    turned[i] = gs_ir::turned_word(in + i / kMaskWords * kMaskWords, table, int(i % kMaskWords));
            });
        }
    });
    return out;
}

// volumes: turned masks, offsets, origins, shapes.
template <typename T>
gs_ir::MaskVolumes<T> view(at::TensorList volumes, double cell) {
    return {words(volumes[0]), volumes[1].const_data_ptr<int64_t>(), volumes[2].const_data_ptr<float>(),
            volumes[3].const_data_ptr<int64_t>(), T(cell), volumes[2].size(0)};
}

// What queries read: points, normals, canonical points, canonical normals, own parts; the pose; the light's directions.
template <typename T>
struct Query {
    gs_ir::MaskVolumes<T> probes;
    const T *points, *normals, *points_canonical, *normals_canonical;
    const int64_t* own;
    const T *part_from_world, *directions;
    gs_ir::Shifts<T> shifts;

    Query(
        at::TensorList volumes, at::TensorList surface, const at::Tensor& transforms, const at::Tensor& light,
        at::ArrayRef<double> metres)
        : probes(view<T>(volumes, metres[0])),
          points(surface[0].const_data_ptr<T>()),
          normals(surface[1].const_data_ptr<T>()),
          points_canonical(surface[2].const_data_ptr<T>()),
          normals_canonical(surface[3].const_data_ptr<T>()),
          own(surface[4].const_data_ptr<int64_t>()),
          part_from_world(transforms.const_data_ptr<T>()),
          directions(light.const_data_ptr<T>()),
          shifts{T(metres[1]), T(metres[2])} {}

    // sink(k, visibility of direction k) for every direction.
    template <typename Sink>
    void visit(int64_t i, const Sink& sink) const {
        const gs_ir::SurfacePoint<T> at = {
            gs_ir::load3(points + 3 * i), gs_ir::load3(normals + 3 * i), gs_ir::load3(points_canonical + 3 * i),
            gs_ir::load3(normals_canonical + 3 * i), own[i]};
        T visible[kMaskWords][kWordBits];
        for (auto& word : visible) std::fill(word, word + kWordBits, T(1));
        for (int64_t part = 0; part < probes.parts; ++part) {
            const auto cell = gs_ir::occluding_cell(probes, part, at, part_from_world, shifts);
            for (int word = 0; word < kMaskWords; ++word) {
                const uint32_t countable =
                    part == at.own ? gs_ir::above_own_surface(directions, word, at, part_from_world, probes.parts)
                                   : gs_ir::direction_bits(word);
                gs_ir::darken(probes.masks, cell, word, countable, visible[word]);
            }
        }
        for (int k = 0; k < kDirections; ++k) sink(k, visible[k / kWordBits][k % kWordBits]);
    }
};

at::Tensor directional_visibility(
    at::TensorList volumes, at::TensorList surface, const at::Tensor& part_from_world, const at::Tensor& directions,
    at::ArrayRef<double> metres) {
    at::Tensor out = at::empty({surface[0].size(0), kDirections}, surface[0].options());
    AT_DISPATCH_FLOATING_TYPES(out.scalar_type(), "directional_visibility", [&] {
        const Query<scalar_t> query(volumes, surface, part_from_world, directions, metres);
        auto* o = out.mutable_data_ptr<scalar_t>();
        at::parallel_for(0, out.size(0), kPointsPerTask, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i)
                query.visit(i, [&](int k, scalar_t visible) { o[kDirections * i + k] = visible; });
        });
    });
    return out;
}

// light: directions, energies. lobes: directions, roughness.
at::Tensor lobe_visibility(
    at::TensorList volumes, at::TensorList surface, const at::Tensor& part_from_world, at::TensorList light,
    at::TensorList lobes, at::ArrayRef<double> metres) {
    at::Tensor out = at::empty({surface[0].size(0), gs_ir::kShares}, surface[0].options());
    AT_DISPATCH_FLOATING_TYPES(out.scalar_type(), "lobe_visibility", [&] {
        const Query<scalar_t> query(volumes, surface, part_from_world, light[0], metres);
        const auto* energies = light[1].const_data_ptr<scalar_t>();
        const auto *axes = lobes[0].const_data_ptr<scalar_t>(), *roughness = lobes[1].const_data_ptr<scalar_t>();
        auto* o = out.mutable_data_ptr<scalar_t>();
        at::parallel_for(0, out.size(0), kPointsPerTask, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) {
                const auto normal = gs_ir::load3(query.normals + 3 * i);
                const auto lobe = gs_ir::specular_lobe(gs_ir::load3(axes + 3 * i), roughness[i]);
                gs_ir::LobeSums<scalar_t> sums;
                query.visit(i, [&](int k, scalar_t visible) {
                    sums.add(
                        normal, lobe, gs_ir::load3(query.directions + 3 * k), gs_ir::load3(energies + 3 * k), visible);
                });
                for (int s = 0; s < gs_ir::kShares; ++s) o[gs_ir::kShares * i + s] = sums.share(s);
            }
        });
    });
    return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(gs_ir, CPU, m) {
    m.impl("turn_masks", turn_masks);
    m.impl("directional_visibility", directional_visibility);
    m.impl("lobe_visibility", lobe_visibility);
}
