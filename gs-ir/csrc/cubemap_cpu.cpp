// CPU loops of gs_ir/cubemap.h.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "cubemap_layout.h"

namespace {

constexpr int64_t kPointsPerTask = 512;
constexpr int64_t kMaxBuffers = 16;  // private texel gradients of the backward lookup

// ---- Lookup -------------------------------------------------------------------------------------------------------

at::Tensor sample_cubemap(
    const at::Tensor& texels, at::IntArrayRef resolutions, const at::Tensor& directions, const at::Tensor& lod) {
    const int64_t points = directions.size(0), channels = texels.size(1);
    const gs_ir::CubeLayout<int64_t> layout(resolutions, 0);
    at::Tensor out = at::empty({points, channels}, texels.options());
    AT_DISPATCH_FLOATING_TYPES(texels.scalar_type(), "sample_cubemap", [&] {
        const auto cube = layout.view(texels.const_data_ptr<scalar_t>(), channels);
        const auto* d = directions.const_data_ptr<scalar_t>();
        const auto* l = lod.const_data_ptr<scalar_t>();
        auto* o = out.mutable_data_ptr<scalar_t>();
        at::parallel_for(0, points, kPointsPerTask, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i)
                gs_ir::sample_cube(cube, gs_ir::load3(d + 3 * i), l[i], o + i * channels);
        });
    });
    return out;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> sample_cubemap_backward(
    const at::Tensor& grad, const at::Tensor& texels, at::IntArrayRef resolutions, const at::Tensor& directions,
    const at::Tensor& lod) {
    const int64_t points = directions.size(0), channels = texels.size(1);
    const int64_t tasks = std::clamp<int64_t>(points / kPointsPerTask, 1, std::min<int64_t>(at::get_num_threads(), kMaxBuffers));
    const gs_ir::CubeLayout<int64_t> layout(resolutions, 0);
    // One buffer per task instead of atomics: the sum does not depend on the order in which threads run.
    at::Tensor buffers = at::zeros({tasks, texels.size(0), channels}, texels.options());
    at::Tensor grad_directions = at::empty_like(directions), grad_lod = at::empty_like(lod);
    AT_DISPATCH_FLOATING_TYPES(texels.scalar_type(), "sample_cubemap_backward", [&] {
        const auto cube = layout.view(texels.const_data_ptr<scalar_t>(), channels);
        const auto* g = grad.const_data_ptr<scalar_t>();
        const auto* d = directions.const_data_ptr<scalar_t>();
        const auto* l = lod.const_data_ptr<scalar_t>();
        auto* gd = grad_directions.mutable_data_ptr<scalar_t>();
        auto* gl = grad_lod.mutable_data_ptr<scalar_t>();
        auto* gt = buffers.mutable_data_ptr<scalar_t>();
        at::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) {
            for (int64_t task = begin; task < end; ++task) {
                scalar_t* own = gt + task * texels.numel();
                const auto add = [own](int64_t index, scalar_t value) { own[index] += value; };
                for (int64_t i = points * task / tasks; i < points * (task + 1) / tasks; ++i) {
                    gs_ir::Vec3<scalar_t> by_direction;
                    gs_ir::adj_sample_cube(
                        cube, gs_ir::load3(d + 3 * i), l[i], g + i * channels, add, by_direction, gl[i]);
                    gs_ir::store3(gd + 3 * i, by_direction);
                }
            }
        });
    });
    return {tasks == 1 ? buffers[0] : buffers.sum(0), grad_directions, grad_lod};
}

// ---- Bordered levels ----------------------------------------------------------------------------------------------

at::Tensor border_cubemap(const at::Tensor& texels, at::IntArrayRef resolutions) {
    int64_t total = 0;
    for (int64_t r : resolutions) total += 6 * (r + 2) * (r + 2);
    at::Tensor out = at::empty({total, 4}, texels.options());
    AT_DISPATCH_FLOATING_TYPES(texels.scalar_type(), "border_cubemap", [&] {
        const auto* from = texels.const_data_ptr<scalar_t>();
        auto* to = reinterpret_cast<gs_ir::BorderedTexel<scalar_t>*>(out.mutable_data_ptr<scalar_t>());
        for (int64_t r : resolutions) {
            const int64_t count = 6 * (r + 2) * (r + 2);
            for (int64_t i = 0; i < count; ++i) to[i] = gs_ir::bordered_texel(from, i, r);
            from += 3 * 6 * r * r, to += count;
        }
    });
    return out;
}

// The lookup that kernels of frames use; no gradient.
at::Tensor sample_bordered(
    const at::Tensor& texels, at::IntArrayRef resolutions, const at::Tensor& directions, const at::Tensor& lod) {
    std::vector<int32_t> first, resolution(resolutions.begin(), resolutions.end());
    int32_t total = 0;
    for (int32_t r : resolution) first.push_back(total), total += 6 * (r + 2) * (r + 2);
    const int64_t points = directions.size(0);
    at::Tensor out = at::empty({points, 3}, texels.options());
    AT_DISPATCH_FLOATING_TYPES(texels.scalar_type(), "sample_bordered", [&] {
        const auto* t = texels.const_data_ptr<scalar_t>();
        const auto* d = directions.const_data_ptr<scalar_t>();
        const auto* l = lod.const_data_ptr<scalar_t>();
        auto* o = out.mutable_data_ptr<scalar_t>();
        for (int64_t i = 0; i < points; ++i)
            gs_ir::store3(
                o + 3 * i,
                gs_ir::sample_bordered(
                    t, first.data(), resolution.data(), int32_t(first.size()), gs_ir::load3(d + 3 * i), l[i]));
    });
    return out;
}

// ---- Prefilter ----------------------------------------------------------------------------------------------------

constexpr int kMaxChannels = 4;
constexpr int64_t kSourcesPerGroup = 64;

// Texels in the order of small square tiles, cut into groups with a cone around each group's directions.
template <typename T>
struct DirectionGroups {
    int64_t per_group, groups;
    std::vector<int64_t> texel;  // flat index of each slot; -1 pads the last group
    std::vector<T> x, y, z;      // directions by slot
    std::vector<gs_ir::Vec3<T>> axis;
    std::vector<T> angle;  // half opening of each cone

    DirectionGroups(int64_t resolution, int64_t tile, int64_t size)
        : per_group(size), groups((6 * resolution * resolution + size - 1) / size), texel(groups * size, -1) {
        order(resolution, tile);
        for (int64_t slot = 0; slot < groups * size; ++slot) {
            const auto d = gs_ir::texel_direction<T>(std::max<int64_t>(texel[slot], 0), resolution);
            x.push_back(d.x), y.push_back(d.y), z.push_back(d.z);
        }
        for (int64_t group = 0; group < groups; ++group) bound(group * size, (group + 1) * size);
    }

    gs_ir::Vec3<T> direction(int64_t slot) const { return {x[slot], y[slot], z[slot]}; }

private:
    void order(int64_t resolution, int64_t tile) {
        const int64_t across = (resolution + tile - 1) / tile;
        int64_t slot = 0;
        for (int64_t t = 0; t < 6 * across * across; ++t)
            for (int64_t k = 0; k < tile * tile; ++k) {
                const int64_t row = t / across % across * tile + k / tile, column = t % across * tile + k % tile;
                if (row < resolution && column < resolution)
                    texel[slot++] = (t / (across * across) * resolution + row) * resolution + column;
            }
    }

    void bound(int64_t begin, int64_t end) {
        gs_ir::Vec3<T> sum = direction(begin) * T(1e-3);  // opposite directions must not cancel to nothing
        for (int64_t i = begin; i < end; ++i) sum = sum + direction(i);
        sum = sum * (T(1) / gs_ir::length(sum));
        T lowest = 1;
        for (int64_t i = begin; i < end; ++i) lowest = std::min(lowest, gs_ir::dot(sum, direction(i)));
        axis.push_back(sum);
        angle.push_back(std::acos(std::max(lowest, T(-1))) + T(1e-3));
    }
};

template <typename T, int C>
struct Convolution {
    using V = gs_ir::LanesOf<T>;
    static constexpr int64_t kLanes = gs_ir::LaneTraits<V>::kCount;

    DirectionGroups<T> source, target;
    std::vector<T> values;  // [C, slots]
    gs_ir::Lobe<V> lobe;
    T opening, widest;

    Convolution(const T* texels, int64_t source_resolution, int64_t resolution, T alpha, T min_cosine)
        : source(source_resolution, 8, kSourcesPerGroup), target(resolution, 4, kLanes),
          values(C * source.texel.size(), T(0)), lobe(gs_ir::ggx_lobe<V>(alpha, min_cosine)),
          opening(std::acos(min_cosine)), widest(*std::max_element(source.angle.begin(), source.angle.end())) {
        const int64_t slots = source.texel.size();
        for (int64_t i = 0; i < slots; ++i)
            for (int c = 0; c < C && source.texel[i] >= 0; ++c) values[c * slots + i] = texels[source.texel[i] * C + c];
    }

    // Weighted sums of one group of targets, one target a lane; the source group's texels are broadcast one by one.
    void add_group(int64_t group, V nx, V ny, V nz, V (&sums)[C]) const {
        const int64_t slots = source.texel.size(), first = group * kSourcesPerGroup;
        for (int64_t i = first; i < first + kSourcesPerGroup; ++i) {
            const V dx = nx - source.x[i], dy = ny - source.y[i], dz = nz - source.z[i];
            const V weight = gs_ir::lobe_weight(lobe, dx * dx + dy * dy + dz * dz);
            for (int c = 0; c < C; ++c) sums[c] += weight * values[c * slots + i];
        }
    }

    void operator()(int64_t group, T* out) const {
        const int64_t first = group * kLanes;
        const V nx = gs_ir::load_lanes<V>(&target.x[first]), ny = gs_ir::load_lanes<V>(&target.y[first]),
                nz = gs_ir::load_lanes<V>(&target.z[first]);
        const T reach = opening + target.angle[group] + widest;
        const T lowest = reach < T(3.14159) ? std::cos(reach) : T(-2);
        V sums[C] = {};
        for (int64_t other = 0; other < source.groups; ++other)
            if (gs_ir::dot(target.axis[group], source.axis[other]) >= lowest) add_group(other, nx, ny, nz, sums);
        for (int64_t k = 0; k < kLanes && target.texel[first + k] >= 0; ++k)
            for (int c = 0; c < C; ++c) out[target.texel[first + k] * C + c] = sums[c][k];
    }
};

template <typename T, int C>
void convolve(const T* values, int64_t source_resolution, int64_t resolution, T alpha, T min_cosine, T* out) {
    const Convolution<T, C> convolution(values, source_resolution, resolution, alpha, min_cosine);
    at::parallel_for(0, convolution.target.groups, 4, [&](int64_t begin, int64_t end) {
        for (int64_t group = begin; group < end; ++group) convolution(group, out);
    });
}

using Factors = std::optional<at::Tensor>;

at::Tensor convolve_ggx(
    const at::Tensor& unscaled, int64_t resolution, double alpha, double min_cosine, const Factors& before,
    const Factors& after) {
    const at::Tensor values = before ? unscaled.mul(*before) : unscaled;
    const int64_t channels = values.size(3);
    TORCH_CHECK(channels >= 1 && channels <= kMaxChannels, "convolve_ggx: 1 to 4 channels expected, found ", channels);
    at::Tensor out = at::empty({6, resolution, resolution, channels}, values.options());
    AT_DISPATCH_FLOATING_TYPES(values.scalar_type(), "convolve_ggx", [&] {
        constexpr void (*kByChannels[])(const scalar_t*, int64_t, int64_t, scalar_t, scalar_t, scalar_t*) = {
            convolve<scalar_t, 1>, convolve<scalar_t, 2>, convolve<scalar_t, 3>, convolve<scalar_t, 4>};
        kByChannels[channels - 1](
            values.const_data_ptr<scalar_t>(), values.size(1), resolution, scalar_t(alpha), scalar_t(min_cosine),
            out.mutable_data_ptr<scalar_t>());
    });
    return after ? out.mul_(*after) : out;
}

}  // namespace

TORCH_LIBRARY_IMPL(gs_ir, CPU, m) {
    m.impl("sample_cubemap", sample_cubemap);
    m.impl("sample_cubemap_backward", sample_cubemap_backward);
    m.impl("border_cubemap", border_cubemap);
    m.impl("sample_bordered", sample_bordered);
    m.impl("convolve_ggx", convolve_ggx);
}
