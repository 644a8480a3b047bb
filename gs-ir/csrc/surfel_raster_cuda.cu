// CUDA loops of gs_ir/surfel_raster.h, forward: one thread a pixel. Bit-stable.
#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <optional>

#include "surfel_scene.cuh"

namespace {

using namespace gs_ir;

template <class T>
struct Images {
    T *values, *alpha, *depth, *median, *distortion, *state;
    int32_t* contributors;
};

template <class T>
__device__ void write_state(const PixelState<T>& s, int64_t pixel, const Images<T>& out) {
    out.alpha[pixel] = T(1) - s.transmittance;
    out.depth[pixel] = s.depth;
    out.median[pixel] = s.median_depth;
    out.distortion[pixel] = s.distortion;
    const T state[4] = {s.transmittance, s.origin, s.moment1, s.moment2};
    for (int k = 0; k < 4; ++k) out.state[4 * pixel + k] = state[k];
    out.contributors[2 * pixel] = int32_t(s.median);
    out.contributors[2 * pixel + 1] = int32_t(s.last);
}

// kWhole: all channels fit; else `first_channel` on, and the images of the state are written with the first.
template <class T, int kWidth, bool kWhole>
__global__ void __launch_bounds__(kQuarterThreads)
    draw_quarters(TileScene<T> scene, int32_t first_channel, Images<T> out) {
    __shared__ QuarterStage<T, kWidth> stage;
    static_assert(sizeof(stage.values) >= sizeof(T) * kQuarterThreads * kWidth, "the stage is also the output buffer");
    const Place place(scene.width);
    T sums[kWidth] = {};
    const PixelState<T> state = blend_quarter(scene, stage, place, first_channel, sums);
    const bool inside = place.x < scene.width && place.y < scene.height;
    const int64_t pixel = int64_t(place.y) * scene.width + place.x;
    if (inside && first_channel == 0) write_state(state, pixel, out);
    if (kWhole) {
        __syncthreads();
        write_patch(place, scene.width, scene.height, scene.channels, sums, &stage.values[0][0], out.values);
    } else if (inside) {
#pragma unroll
        for (int c = 0; c < kWidth; ++c)
            if (first_channel + c < scene.channels)
                out.values[pixel * scene.channels + first_channel + c] = sums[c];
    }
}

template <class T, int kWidth>
void draw_whole(const TileScene<T>& scene, int64_t tiles, const Images<T>& out, cudaStream_t stream) {
    draw_quarters<T, kWidth, true><<<kQuarters * tiles, kQuarterThreads, 0, stream>>>(scene, 0, out);
    C10_CUDA_KERNEL_LAUNCH_CHECK();
}

template <class T, int kWidth>
void draw_in_parts(const TileScene<T>& scene, int64_t tiles, const Images<T>& out, cudaStream_t stream) {
    for (int32_t first = 0; first < scene.channels; first += kWidth) {
        draw_quarters<T, kWidth, false><<<kQuarters * tiles, kQuarterThreads, 0, stream>>>(scene, first, out);
        C10_CUDA_KERNEL_LAUNCH_CHECK();
    }
}

void draw(const TileScene<float>& scene, int64_t tiles, const Images<float>& out, cudaStream_t stream) {
    switch ((scene.channels + 3) / 4) {
        case 0: case 1: case 2: return draw_whole<float, 8>(scene, tiles, out, stream);
        case 3: return draw_whole<float, 12>(scene, tiles, out, stream);
        case 4: return draw_whole<float, 16>(scene, tiles, out, stream);
        case 5: return draw_whole<float, 20>(scene, tiles, out, stream);
        case 6: return draw_whole<float, 24>(scene, tiles, out, stream);
        default: return draw_in_parts<float, 24>(scene, tiles, out, stream);
    }
}

void draw(const TileScene<double>& scene, int64_t tiles, const Images<double>& out, cudaStream_t stream) {
    if (scene.channels <= 16) return draw_whole<double, 16>(scene, tiles, out, stream);
    draw_in_parts<double, 16>(scene, tiles, out, stream);
}

using SevenTensors = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

SevenTensors rasterize_surfels(
    const at::Tensor& transforms, const at::Tensor& opacities, const at::Tensor& values, const at::Tensor& boxes,
    const at::Tensor& offsets, const at::Tensor& members, const std::optional<at::Tensor>&, int64_t width,
    int64_t height) {
    const auto image = [&](at::IntArrayRef shape) { return at::empty(shape, values.options()); };
    const at::Tensor blended = image({height, width, values.size(1)}), state = image({height, width, 4});
    const at::Tensor alpha = image({height, width}), depth = image({height, width}), median = image({height, width}),
                     distortion = image({height, width});
    const at::Tensor contributors = at::empty({height, width, 2}, boxes.options());
    const c10::cuda::CUDAGuard guard(values.device());
    AT_DISPATCH_FLOATING_TYPES(values.scalar_type(), "rasterize_surfels", [&] {
        using T = scalar_t;
        const at::Tensor records = tile_records<T>(transforms, opacities, boxes);
        const TileScene<T> scene = tile_scene<T>(records, values, offsets, members, width, height);
        const Images<T> out = {
            blended.mutable_data_ptr<T>(),    alpha.mutable_data_ptr<T>(), depth.mutable_data_ptr<T>(),
            median.mutable_data_ptr<T>(),     distortion.mutable_data_ptr<T>(), state.mutable_data_ptr<T>(),
            contributors.mutable_data_ptr<int32_t>()};
        draw(scene, offsets.size(0) - 1, out, c10::cuda::getCurrentCUDAStream());
    });
    return {blended, alpha, depth, median, distortion, state, contributors};
}

}  // namespace

TORCH_LIBRARY_IMPL(gs_ir, CUDA, m) { m.impl("rasterize_surfels", rasterize_surfels); }
