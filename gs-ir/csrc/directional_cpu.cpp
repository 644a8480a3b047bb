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

at::Tensor direction_tables(const at::Tensor& part_from_world, const at::Tensor& directions, const at::Tensor& baked) {
    at::Tensor out = at::empty({part_from_world.size(0), kBits}, directions.options().dtype(at::kByte));
    auto* table = out.mutable_data_ptr<uint8_t>();
    AT_DISPATCH_FLOATING_TYPES(directions.scalar_type(), "direction_tables", [&] {
        const auto* pose = part_from_world.const_data_ptr<scalar_t>();
        const auto *d = directions.const_data_ptr<scalar_t>(), *b = baked.const_data_ptr<scalar_t>();
        for (int64_t i = 0; i < out.numel(); ++i)
            table[i] = gs_ir::table_entry(pose + 12 * (i / kBits), d, b, int(i % kBits));
    });
    return out;
}

at::Tensor turn_masks(const at::Tensor& masks, const at::Tensor& offsets, const at::Tensor& tables) {
    at::Tensor out = at::empty_like(masks);
    const uint32_t* in = words(masks);
    auto* turned = reinterpret_cast<uint32_t*>(out.mutable_data_ptr<int64_t>());
    const auto* first = offsets.const_data_ptr<int64_t>();
    for (int64_t part = 0; part < tables.size(0); ++part) {
        const uint8_t* table = tables.const_data_ptr<uint8_t>() + kBits * part;
        at::parallel_for(first[part], first[part + 1], kProbesPerTask, [&](int64_t begin, int64_t end) {
            for (int64_t i = kMaskWords * begin; i < kMaskWords * end; ++i)
                turned[i] = gs_ir::turned_word(in + i / kMaskWords * kMaskWords, table, int(i % kMaskWords));
        });
    }
    return out;
}

// volumes: turned masks, offsets, origins, shapes, tables.
template <typename T>
gs_ir::MaskVolumes<T> view(at::TensorList volumes, double cell) {
    return {words(volumes[0]), volumes[1].const_data_ptr<int64_t>(), volumes[2].const_data_ptr<float>(),
            volumes[3].const_data_ptr<int64_t>(), T(cell), volumes[2].size(0)};
}

// Points, normals, own parts and own masks; the pose.
template <typename T>
struct Query {
    gs_ir::MaskVolumes<T> probes;
    const T *points, *normals;
    const int64_t* own;
    const uint32_t* own_masks;
    const uint8_t* tables;
    const T* part_from_world;
    T shift;

    Query(at::TensorList volumes, at::TensorList surface, const at::Tensor& pose, at::ArrayRef<double> metres)
        : probes(view<T>(volumes, metres[0])),
          points(surface[0].const_data_ptr<T>()),
          normals(surface[1].const_data_ptr<T>()),
          own(surface[2].const_data_ptr<int64_t>()),
          own_masks(words(surface[3])),
          tables(volumes[4].const_data_ptr<uint8_t>()),
          part_from_world(pose.const_data_ptr<T>()),
          shift(T(metres[1])) {}

    // sink(k, visibility of direction k) for every direction; exact for those that wanted(word) has bits of.
    template <typename Wanted, typename Sink>
    void visit(int64_t i, const Wanted& wanted, const Sink& sink) const {
        const gs_ir::SurfacePoint<T> at = {
            gs_ir::load3(points + 3 * i), gs_ir::load3(normals + 3 * i), own[i], own_masks + kMaskWords * i};
        T visible[kMaskWords][kWordBits];
        uint32_t bits[kMaskWords];
        for (int word = 0; word < kMaskWords; ++word) {
            gs_ir::start(at, tables, probes.parts, word, visible[word]);
            bits[word] = wanted(word);
        }
        for (int64_t part = 0; part < probes.parts; ++part) {
            const auto cell = gs_ir::occluding_cell(probes, part, at, part_from_world, shift);
            for (int word = 0; word < kMaskWords; ++word)
                gs_ir::darken(probes.masks, cell, word, bits[word], visible[word]);
        }
        for (int k = 0; k < kDirections; ++k) sink(k, visible[k / kWordBits][k % kWordBits]);
    }
};

at::Tensor directional_visibility(
    at::TensorList volumes, at::TensorList surface, const at::Tensor& part_from_world, at::ArrayRef<double> metres) {
    at::Tensor out = at::empty({surface[0].size(0), kDirections}, surface[0].options());
    AT_DISPATCH_FLOATING_TYPES(out.scalar_type(), "directional_visibility", [&] {
        const Query<scalar_t> query(volumes, surface, part_from_world, metres);
        auto* o = out.mutable_data_ptr<scalar_t>();
        at::parallel_for(0, out.size(0), kPointsPerTask, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i)
                query.visit(i, gs_ir::direction_bits, [&](int k, scalar_t visible) { o[kDirections * i + k] = visible; });
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
        const Query<scalar_t> query(volumes, surface, part_from_world, metres);
        const auto *directions = light[0].const_data_ptr<scalar_t>(), *energies = light[1].const_data_ptr<scalar_t>();
        const auto *axes = lobes[0].const_data_ptr<scalar_t>(), *roughness = lobes[1].const_data_ptr<scalar_t>();
        auto* o = out.mutable_data_ptr<scalar_t>();
        at::parallel_for(0, out.size(0), kPointsPerTask, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) {
                const auto normal = gs_ir::load3(query.normals + 3 * i);
                const auto lobe = gs_ir::specular_lobe(gs_ir::load3(axes + 3 * i), roughness[i]);
                gs_ir::LobeSums<scalar_t> sums;
                const auto above = [&](int word) {
                    return gs_ir::bits_above(
                        normal, word, [&](int b) { return gs_ir::load3(directions + 3 * (kWordBits * word + b)); });
                };
                query.visit(i, above, [&](int k, scalar_t visible) {
                    sums.add(normal, lobe, gs_ir::load3(directions + 3 * k), gs_ir::load3(energies + 3 * k), visible);
                });
                for (int s = 0; s < gs_ir::kShares; ++s) o[gs_ir::kShares * i + s] = sums.share(s);
            }
        });
    });
    return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(gs_ir, CPU, m) {
    m.impl("direction_tables", direction_tables);
    m.impl("turn_masks", turn_masks);
    m.impl("directional_visibility", directional_visibility);
    m.impl("lobe_visibility", lobe_visibility);
}
