// CPU loops of gs_ir/surfel_raster.h: threads over tiles, SIMD lanes over the pixels of a tile's row.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <atomic>
#include <vector>

#include "gs_ir/surfel_raster.h"
#include "gs_ir/tiling.h"

namespace {

using namespace gs_ir;

constexpr int64_t kSurfelsPerTask = 1024;
// Below this a second thread costs more than it does.
constexpr int64_t kInstancesPerThread = 512;

struct Rectangle {
    int32_t x0, y0, x1, y1;
};

// Calls work(scratch, number, rectangle) for the tiles that list surfels (`offsets` into the lists). Tiles are handed
// out one by one, since their loads differ much.
template <class MakeScratch, class Work>
void for_each_tile(const int32_t* offsets, int32_t width, int32_t height, MakeScratch make_scratch, Work work) {
    const int32_t columns = (width + kTile - 1) / kTile, tiles = columns * ((height + kTile - 1) / kTile);
    const int64_t useful = offsets[tiles] / kInstancesPerThread + 1;
    std::atomic<int32_t> next{0};
    at::parallel_for(0, std::min<int64_t>(useful, at::get_num_threads()), 1, [&](int64_t, int64_t) {
        auto scratch = make_scratch();
        for (int32_t tile = next++; tile < tiles; tile = next++) {
            if (offsets[tile] == offsets[tile + 1]) continue;
            const int32_t x = tile % columns * kTile, y = tile / columns * kTile;
            work(scratch, tile, Rectangle{x, y, std::min(x + kTile, width), std::min(y + kTile, height)});
        }
    });
}

// Visits the chunks of lanes of a tile that a surfel's box meets: visit(chunk, x of the lanes, y).
template <class V, class Visit>
void for_each_chunk(const Rectangle& tile, const int32_t* box, Visit visit) {
    constexpr int32_t kLanes = LaneTraits<V>::kCount;
    using T = ScalarOf<V>;
    const V lanes = lane_numbers<V>() + T(0.5);
    const int32_t first = std::max(box[0] - tile.x0, 0) / kLanes;
    const int32_t last = (std::min(box[2], tile.x1) - tile.x0 - 1) / kLanes;
    for (int32_t y = std::max(box[1], tile.y0); y < std::min(box[3], tile.y1); ++y)
        for (int32_t c = first; c <= last; ++c)
            visit((y - tile.y0) * (kTile / kLanes) + c, lanes + T(tile.x0 + c * kLanes), T(y) + T(0.5));
}

template <class V>
constexpr int32_t kChunks = kTile * kTile / LaneTraits<V>::kCount;

// Calls visit(pixel in the image, chunk, lane) for the pixels of a tile.
template <class V, class Visit>
void for_each_pixel(const Rectangle& tile, int32_t width, Visit visit) {
    constexpr int32_t kLanes = LaneTraits<V>::kCount;
    for (int32_t y = tile.y0; y < tile.y1; ++y)
        for (int32_t x = tile.x0; x < tile.x1; ++x) {
            const int32_t inside = (y - tile.y0) * kTile + x - tile.x0;
            visit(int64_t(y) * width + x, inside / kLanes, inside % kLanes);
        }
}

// Not inlined, so that forward and backward round alike and agree on which surfels a pixel blended.
template <class V, class T>
[[gnu::noinline]] SurfelHit<V> hit_at(const RasterSurfel<T>& surfel, V x, T y) {
    return intersect(surfel, x, y);
}

template <class T>
std::vector<RasterSurfel<T>> prepare(const T* transforms, const T* opacities, const int32_t* boxes, int64_t count) {
    std::vector<RasterSurfel<T>> surfels(count);
    at::parallel_for(0, count, kSurfelsPerTask, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i)
            if (boxes[4 * i + 2] > boxes[4 * i])
                surfels[i] = raster_surfel(load_transform(transforms + 9 * i), opacities[i]);
    });
    return surfels;
}

template <class T>
struct Scene {
    std::vector<RasterSurfel<T>> surfels;
    const T* values;
    const int32_t *boxes, *offsets, *members;
    int32_t channels, width, height;
};

template <class T>
struct Images {
    T *values, *alpha, *depth, *median, *distortion, *state;
    int32_t* contributors;
};

template <class T>
struct ForwardScratch {
    using V = LanesOf<T>;
    std::vector<PixelState<V>> states;
    std::vector<V> values;  // [chunk, channel]
    explicit ForwardScratch(int32_t channels) : states(kChunks<V>), values(size_t(kChunks<V>) * channels) {}

    void clear() {
        PixelState<V> start = {};
        start.transmittance = start.origin = broadcast<V>(T(1));
        start.median = start.last = IntegerOf<V>{} - 1;
        start.open = MaskOf<V>{} - 1;
        std::fill(states.begin(), states.end(), start);
        std::fill(values.begin(), values.end(), V{});
    }
};

template <class T>
void draw_tile(const Scene<T>& scene, ForwardScratch<T>& scratch, int32_t tile, const Rectangle& area) {
    using V = LanesOf<T>;
    const int32_t channels = scene.channels, first = scene.offsets[tile];
    bool is_open[kChunks<V>];
    std::fill(is_open, is_open + kChunks<V>, true);
    int32_t open = kChunks<V>;
    for (int32_t i = first; i < scene.offsets[tile + 1] && open > 0; ++i) {
        const int32_t member = scene.members[i];
        const RasterSurfel<T>& surfel = scene.surfels[member];
        const T* value = scene.values + int64_t(member) * channels;
        for_each_chunk<V>(area, scene.boxes + 4 * member, [&](int32_t chunk, V x, T y) {
            if (!is_open[chunk]) return;
            const SurfelHit<V> hit = hit_at(surfel, x, y);
            PixelState<V>& state = scratch.states[chunk];
            if (!any_lane(hit.drawn & state.open)) return;
            const V weight = blend(state, hit.drawn, hit_alpha(surfel, hit), hit.depth, IntegerOf<V>{} + (i - first));
            V* sums = scratch.values.data() + chunk * channels;
            for (int32_t c = 0; c < channels; ++c) sums[c] += weight * value[c];
            if (!any_lane(state.open)) is_open[chunk] = false, --open;
        });
    }
}

template <class T>
void write_tile(const Scene<T>& scene, const ForwardScratch<T>& scratch, const Rectangle& area, const Images<T>& out) {
    using V = LanesOf<T>;
    const int32_t channels = scene.channels;
    for_each_pixel<V>(area, scene.width, [&](int64_t pixel, int32_t chunk, int32_t lane) {
        const PixelState<V>& s = scratch.states[chunk];
        const V* sums = scratch.values.data() + chunk * channels;
        for (int32_t c = 0; c < channels; ++c) out.values[pixel * channels + c] = sums[c][lane];
        out.alpha[pixel] = T(1) - s.transmittance[lane];
        out.depth[pixel] = s.depth[lane];
        out.median[pixel] = s.median_depth[lane];
        out.distortion[pixel] = s.distortion[lane];
        const T state[4] = {s.transmittance[lane], s.origin[lane], s.moment1[lane], s.moment2[lane]};
        std::copy(state, state + 4, out.state + 4 * pixel);
        out.contributors[2 * pixel] = int32_t(s.median[lane]);
        out.contributors[2 * pixel + 1] = int32_t(s.last[lane]);
    });
}

template <class T>
Scene<T> make_scene(
    const at::Tensor& transforms, const at::Tensor& opacities, const at::Tensor& values, const at::Tensor& boxes,
    const at::Tensor& offsets, const at::Tensor& members, int64_t width, int64_t height) {
    const int32_t* box = boxes.const_data_ptr<int32_t>();
    return {prepare(transforms.const_data_ptr<T>(), opacities.const_data_ptr<T>(), box, boxes.size(0)),
            values.const_data_ptr<T>(), box, offsets.const_data_ptr<int32_t>(), members.const_data_ptr<int32_t>(),
            int32_t(values.size(1)), int32_t(width), int32_t(height)};
}

using SevenTensors = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

SevenTensors rasterize_surfels(
    const at::Tensor& transforms, const at::Tensor& opacities, const at::Tensor& values, const at::Tensor& boxes,
    const at::Tensor& offsets, const at::Tensor& members, const std::optional<at::Tensor>&, int64_t width,
    int64_t height) {
    const auto image = [&](at::IntArrayRef shape) { return at::zeros(shape, values.options()); };
    at::Tensor blended = image({height, width, values.size(1)}), state = image({height, width, 4});
    at::Tensor alpha = image({height, width}), depth = image({height, width}), median = image({height, width}),
               distortion = image({height, width});
    at::Tensor contributors = at::empty({height, width, 2}, boxes.options());
    AT_DISPATCH_FLOATING_TYPES(values.scalar_type(), "rasterize_surfels", [&] {
        using T = scalar_t;
        const Scene<T> scene = make_scene<T>(transforms, opacities, values, boxes, offsets, members, width, height);
        const Images<T> out = {
            blended.mutable_data_ptr<T>(),    alpha.mutable_data_ptr<T>(), depth.mutable_data_ptr<T>(),
            median.mutable_data_ptr<T>(),     distortion.mutable_data_ptr<T>(), state.mutable_data_ptr<T>(),
            contributors.mutable_data_ptr<int32_t>()};
        for_each_tile(
            scene.offsets, scene.width, scene.height, [&] { return ForwardScratch<T>(scene.channels); },
            [&](ForwardScratch<T>& scratch, int32_t tile, const Rectangle& area) {
                scratch.clear();
                draw_tile(scene, scratch, tile, area);
                write_tile(scene, scratch, area, out);
            });
    });
    return {blended, alpha, depth, median, distortion, state, contributors};
}

template <class T>
struct Cotangents {
    const T *values, *alpha, *depth, *median, *distortion, *state;
    const int32_t* contributors;
};

template <class T>
struct BackwardScratch {
    using V = LanesOf<T>;
    std::vector<PixelAdjoint<V>> pixels;
    std::vector<V> grads;      // [chunk, channel] cotangents of the blended values
    std::vector<V> value_sum;  // [channel] cotangent of the surfel at hand
    int32_t last[kChunks<V>];
    explicit BackwardScratch(int32_t channels)
        : pixels(kChunks<V>), grads(size_t(kChunks<V>) * channels), value_sum(channels) {}
};

template <class T>
void read_tile(const Scene<T>& scene, BackwardScratch<T>& scratch, const Rectangle& area, const Cotangents<T>& in) {
    using V = LanesOf<T>;
    const int32_t channels = scene.channels;
    PixelAdjoint<V> nothing = {};
    nothing.transmittance = nothing.origin = broadcast<V>(T(1));
    nothing.last = nothing.median = IntegerOf<V>{} - 1;
    std::fill(scratch.pixels.begin(), scratch.pixels.end(), nothing);
    std::fill(scratch.grads.begin(), scratch.grads.end(), V{});
    std::fill(scratch.last, scratch.last + kChunks<V>, -1);
    for_each_pixel<V>(area, scene.width, [&](int64_t pixel, int32_t chunk, int32_t lane) {
        PixelAdjoint<V>& p = scratch.pixels[chunk];
        V* grads = scratch.grads.data() + chunk * channels;
        for (int32_t c = 0; c < channels; ++c) grads[c][lane] = in.values[pixel * channels + c];
        p.grad_alpha[lane] = in.alpha[pixel];
        p.grad_depth[lane] = in.depth[pixel];
        p.grad_median[lane] = in.median[pixel];
        p.grad_distortion[lane] = in.distortion[pixel];
        const T* state = in.state + 4 * pixel;
        p.transmittance[lane] = state[0];
        p.alpha[lane] = T(1) - state[0];
        p.origin[lane] = state[1];
        p.moment1[lane] = state[2];
        p.moment2[lane] = state[3];
        p.median[lane] = in.contributors[2 * pixel];
        p.last[lane] = in.contributors[2 * pixel + 1];
        scratch.last[chunk] = std::max(scratch.last[chunk], in.contributors[2 * pixel + 1]);
    });
}

// Sums of the lanes into one row: the surfel's moments, then its channels.
template <class V>
void write_row(const SurfelMoments<V>& moments, const std::vector<V>& values, ScalarOf<V>* row) {
    static_assert(sizeof(SurfelMoments<V>) == kMoments * sizeof(V));
    const V* all = reinterpret_cast<const V*>(&moments);
    for (int i = 0; i < kMoments; ++i) row[i] = sum_lanes(all[i]);
    for (size_t c = 0; c < values.size(); ++c) row[kMoments + c] = sum_lanes(values[c]);
}

// Walks the tile's list back to front and writes one row of cotangents per instance.
template <class T>
void undraw_tile(const Scene<T>& scene, BackwardScratch<T>& scratch, int32_t tile, const Rectangle& area, T* rows) {
    using V = LanesOf<T>;
    const int32_t channels = scene.channels, first = scene.offsets[tile];
    for (int32_t i = scene.offsets[tile + 1] - 1; i >= first; --i) {
        const int32_t member = scene.members[i], instance = i - first;
        const RasterSurfel<T>& surfel = scene.surfels[member];
        const T* value = scene.values + int64_t(member) * channels;
        SurfelMoments<V> moments = {};
        std::fill(scratch.value_sum.begin(), scratch.value_sum.end(), V{});
        V* value_sum = scratch.value_sum.data();
        bool touched = false;
        for_each_chunk<V>(area, scene.boxes + 4 * member, [&](int32_t chunk, V x, T y) {
            if (instance > scratch.last[chunk]) return;
            const SurfelHit<V> hit = hit_at(surfel, x, y);
            if (!any_lane(hit.drawn)) return;
            touched = true;
            const V alpha = hit_alpha(surfel, hit);
            const V* grads = scratch.grads.data() + chunk * channels;
            V through_value = {}, grad_alpha, grad_depth;
            for (int32_t c = 0; c < channels; ++c) through_value += grads[c] * value[c];
            const V weight = adj_blend(scratch.pixels[chunk], hit.drawn, alpha, hit.depth, IntegerOf<V>{} + instance,
                                       through_value, grad_alpha, grad_depth);
            for (int32_t c = 0; c < channels; ++c) value_sum[c] += weight * grads[c];
            adj_intersect(surfel, hit, x, y, alpha, grad_alpha, grad_depth, moments);
        });
        T* row = rows + int64_t(i) * (kMoments + channels);
        if (touched)
            write_row(moments, scratch.value_sum, row);
        else
            std::fill(row, row + kMoments + channels, T(0));
    }
}

// Instances grouped by surfel, in ascending order: offsets [count + 1] into the list.
std::pair<std::vector<int32_t>, std::vector<int32_t>> group_by_surfel(
    const int32_t* members, int64_t instances, int64_t count) {
    std::vector<int32_t> offsets(count + 1, 0), list(instances);
    for (int64_t i = 0; i < instances; ++i) ++offsets[members[i] + 1];
    for (int64_t s = 0; s < count; ++s) offsets[s + 1] += offsets[s];
    std::vector<int32_t> next(offsets.begin(), offsets.end() - 1);
    for (int64_t i = 0; i < instances; ++i) list[next[members[i]]++] = int32_t(i);
    return {offsets, list};
}

template <class T>
struct SurfelGradients {
    T *transforms, *opacities, *values;
};

// Adds up the rows of one surfel's instances, always in the same order, and takes them back to its transform.
template <class T>
void gather_surfel(
    const Scene<T>& scene, const T* transforms, int64_t surfel, const int32_t* begin, const int32_t* end, const T* rows,
    const SurfelGradients<T>& out) {
    const int32_t channels = scene.channels;
    SurfelMoments<T> moments = {};
    T* sums = reinterpret_cast<T*>(&moments);
    T* values = out.values + surfel * channels;
    std::fill(values, values + channels, T(0));
    for (const int32_t* i = begin; i < end; ++i) {
        const T* row = rows + int64_t(*i) * (kMoments + channels);
        for (int k = 0; k < kMoments; ++k) sums[k] += row[k];
        for (int32_t c = 0; c < channels; ++c) values[c] += row[kMoments + c];
    }
    out.opacities[surfel] = moments.opacity;
    ScreenTransform<T> grad = {};
    if (begin < end) {
        const SurfelPlane<T> grad_plane = plane_cotangent(moments, scene.surfels[surfel].plane);
        grad = adj_invert_transform(grad_plane, load_transform(transforms + 9 * surfel));
    }
    store_transform(out.transforms + 9 * surfel, grad);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> rasterize_surfels_backward(
    const at::Tensor& grad_values, const at::Tensor& grad_alpha, const at::Tensor& grad_depth,
    const at::Tensor& grad_median, const at::Tensor& grad_distortion, const at::Tensor& state,
    const at::Tensor& contributors, const at::Tensor& transforms, const at::Tensor& opacities, const at::Tensor& values,
    const at::Tensor& boxes, const at::Tensor& offsets, const at::Tensor& members, int64_t width, int64_t height) {
    const int64_t count = transforms.size(0), channels = values.size(1), instances = members.size(0);
    at::Tensor out_transforms = at::empty({count, 9}, values.options());
    at::Tensor out_opacities = at::empty({count}, values.options());
    at::Tensor out_values = at::empty({count, channels}, values.options());
    at::Tensor rows = at::empty({instances, kMoments + channels}, values.options());
    AT_DISPATCH_FLOATING_TYPES(values.scalar_type(), "rasterize_surfels_backward", [&] {
        using T = scalar_t;
        const Scene<T> scene = make_scene<T>(transforms, opacities, values, boxes, offsets, members, width, height);
        const Cotangents<T> in = {grad_values.const_data_ptr<T>(),  grad_alpha.const_data_ptr<T>(),
                                  grad_depth.const_data_ptr<T>(),   grad_median.const_data_ptr<T>(),
                                  grad_distortion.const_data_ptr<T>(), state.const_data_ptr<T>(),
                                  contributors.const_data_ptr<int32_t>()};
        T* row = rows.mutable_data_ptr<T>();
        for_each_tile(
            scene.offsets, scene.width, scene.height, [&] { return BackwardScratch<T>(scene.channels); },
            [&](BackwardScratch<T>& scratch, int32_t tile, const Rectangle& area) {
                read_tile(scene, scratch, area, in);
                undraw_tile(scene, scratch, tile, area, row);
            });
        const auto groups = group_by_surfel(scene.members, instances, count);
        const SurfelGradients<T> out = {out_transforms.mutable_data_ptr<T>(), out_opacities.mutable_data_ptr<T>(),
                                        out_values.mutable_data_ptr<T>()};
        const T* transform = transforms.const_data_ptr<T>();
        at::parallel_for(0, count, kSurfelsPerTask, [&](int64_t begin, int64_t end) {
            for (int64_t s = begin; s < end; ++s) {
                const int32_t* list = groups.second.data();
                gather_surfel(scene, transform, s, list + groups.first[s], list + groups.first[s + 1], row, out);
            }
        });
    });
    return {out_transforms, out_opacities, out_values};
}

}  // namespace

TORCH_LIBRARY_IMPL(gs_ir, CPU, m) {
    m.impl("rasterize_surfels", rasterize_surfels);
    m.impl("rasterize_surfels_backward", rasterize_surfels_backward);
}
