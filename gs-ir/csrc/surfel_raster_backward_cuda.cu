// CUDA loops of gs_ir/surfel_raster.h, backward: each warp walks its patch's surfels back to front, adds its pixels'
// cotangents up by shuffles, and adds one row for each surfel to memory by atomics. Where deterministic algorithms are
// asked for, each warp keeps a row of its own for each instance and the rows are added in a fixed order.
#include <ATen/Context.h>
#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include "surfel_scene.cuh"
#include "tile_lists.cuh"

namespace {

using namespace gs_ir;

constexpr int kTileWarps = kQuarters * kQuarterWarps;

// Null pointers stand for zeros.
template <class T>
struct Cotangents {
    const T *values, *alpha, *depth, *median, *distortion, *state;
    const int32_t* contributors;
};

template <class T>
__device__ PixelAdjoint<T> read_pixel(const Cotangents<T>& in, int64_t pixel, bool inside) {
    PixelAdjoint<T> p = {};
    p.transmittance = p.origin = T(1);
    p.median = p.last = -1;
    if (!inside) return p;
    if (in.alpha) {
        p.grad_alpha = in.alpha[pixel];
        p.grad_depth = in.depth[pixel];
        p.grad_median = in.median[pixel];
        p.grad_distortion = in.distortion[pixel];
    }
    const T* state = in.state + 4 * pixel;
    p.transmittance = state[0];
    p.alpha = T(1) - state[0];
    p.origin = state[1];
    p.moment1 = state[2];
    p.moment2 = state[3];
    p.median = in.contributors[2 * pixel];
    p.last = in.contributors[2 * pixel + 1];
    return p;
}

// Adds the half of the row that a lane keeps to its partner's, kHalf apart, until one number is left.
template <int kHalf, class T, int kRow>
__device__ __forceinline__ void fold_row(T (&row)[kRow]) {
    const bool upper = threadIdx.x & kHalf;
#pragma unroll
    for (int k = 0; k < kHalf; ++k) {
        const T keep = upper ? row[k + kHalf] : row[k], give = upper ? row[k] : row[k + kHalf];
        row[k] = keep + __shfl_xor_sync(kAllLanes, give, kHalf);
    }
    if constexpr (kHalf > 1) fold_row<kHalf / 2>(row);
}

// Sums of kRow numbers over the warp, spread over its lanes: lane k returns the sum of row[k]. 31 shuffles for 32 sums
// instead of 160.
template <class T, int kRow>
__device__ __forceinline__ T spread_sum(T (&row)[kRow]) {
    fold_row<kRow / 2>(row);
    T sum = row[0];
    if constexpr (kRow == 16) sum += __shfl_xor_sync(kAllLanes, sum, 16);
    return sum;
}

// The thread's pixel undoes one surfel: cotangents of its moments and values.
template <class T, int kWidth, int kRow>
__device__ __forceinline__ void undraw(
    const RasterSurfel<T>& surfel, const T* values, const T (&grads)[kWidth], T x, T y, int32_t instance,
    const SurfelHit<T>& hit, PixelAdjoint<T>& pixel, T (&row)[kRow]) {
    const T alpha = hit_alpha(surfel, hit);
    T through_value = T(0), grad_alpha, grad_depth;
#pragma unroll
    for (int c = 0; c < kWidth; ++c) through_value += grads[c] * values[c];
    const T weight = adj_blend(pixel, true, alpha, hit.depth, instance, through_value, grad_alpha, grad_depth);
    SurfelMoments<T> m = {};
    adj_intersect(surfel, hit, x, y, alpha, grad_alpha, grad_depth, m);
#pragma unroll
    for (int i = 0; i < 3; ++i) row[i] = m.q[i], row[3 + i] = m.q_dx[i], row[6 + i] = m.q_dy[i];
    row[9] = m.depth, row[10] = m.filter_x, row[11] = m.filter_y, row[12] = m.opacity;
#pragma unroll
    for (int c = 0; c < kWidth; ++c) row[kMoments + c] = weight * grads[c];
}

__device__ int32_t largest_of_block(int32_t value) {
    __shared__ int32_t largest;
    if (threadIdx.x == 0) largest = -1;
    __syncthreads();
    for (int apart = 16; apart > 0; apart /= 2) value = maximum(value, __shfl_xor_sync(kAllLanes, value, apart));
    if (threadIdx.x % 32 == 0) atomicMax(&largest, value);
    __syncthreads();
    return largest;
}

// Rows [., kMoments + channels]: one for each surfel, or (kOrdered) one for each instance and warp. The channels from
// `first_channel` on are handled; the operator is linear in the cotangents, so several launches add up.
template <class T, int kRow, bool kOrdered>
__global__ void __launch_bounds__(kQuarterThreads)
    undraw_quarters(TileScene<T> scene, int32_t first_channel, Cotangents<T> in, T* rows) {
    constexpr int kWidth = kRow - kMoments;
    __shared__ QuarterStage<T, kWidth> stage;
    const Place place(scene.width);
    const bool inside = place.x < scene.width && place.y < scene.height;
    const int64_t index = int64_t(place.y) * scene.width + place.x;
    const T x = T(place.x) + T(0.5), y = T(place.y) + T(0.5);
    PixelAdjoint<T> pixel = read_pixel(in, index, inside);
    T grads[kWidth];
#pragma unroll
    for (int c = 0; c < kWidth; ++c)
        grads[c] = inside && first_channel + c < scene.channels
                       ? in.values[index * scene.channels + first_channel + c] : T(0);

    const int32_t stride = kMoments + scene.channels;
    const int32_t column = place.lane < kMoments ? place.lane : place.lane + first_channel;
    const bool has_column = place.lane < kRow && column < stride;
    const int32_t first = scene.offsets[place.tile];
    for (int32_t end = first + largest_of_block(pixel.last) + 1; end > first; end -= kBatch) {
        const int32_t begin = maximum(first, end - kBatch);
        const int32_t count = stage.load(scene, place, begin, end - begin, first_channel);
        for (int32_t group = (count - 1) / 32 * 32; group >= 0 && count > 0; group -= 32)
            for (unsigned met = meeting_lanes(stage, place, group, count); met;) {
                const int32_t bit = 31 - __clz(met), j = group + bit, instance = begin - first + stage.places[j];
                met ^= 1u << bit;
                const RasterSurfel<T> surfel = stage.surfels[j].surfel;
                const SurfelHit<T> hit = intersect(surfel, x, y);
                const bool drawn = hit.drawn && instance <= pixel.last;
                if (!__any_sync(kAllLanes, drawn)) continue;
                T row[kRow] = {};
                if (drawn) undraw(surfel, stage.values[j], grads, x, y, instance, hit, pixel, row);
                const T sum = spread_sum(row);
                if (!has_column) continue;
                if (kOrdered)
                    rows[(int64_t(first + instance) * kTileWarps + place.warp) * stride + column] += sum;
                else
                    atomicAdd(rows + int64_t(stage.members[j]) * stride + column, sum);
            }
    }
}

template <class T, bool kOrdered>
void undraw_channels(
    const TileScene<T>& scene, int64_t tiles, Cotangents<T> in, T* rows, cudaStream_t stream) {
    constexpr int kWidest = 32 - kMoments;
    for (int32_t first = 0; first == 0 || first < scene.channels; first += kWidest) {
        if (scene.channels <= 16 - kMoments)
            undraw_quarters<T, 16, kOrdered><<<kQuarters * tiles, kQuarterThreads, 0, stream>>>(scene, first, in, rows);
        else
            undraw_quarters<T, 32, kOrdered><<<kQuarters * tiles, kQuarterThreads, 0, stream>>>(scene, first, in, rows);
        C10_CUDA_KERNEL_LAUNCH_CHECK();
        in.alpha = nullptr;
    }
}

// Adds the rows of each surfel's instances and warps in ascending order: [N, stride].
template <class T>
at::Tensor ordered_rows(const TileScene<T>& scene, const at::Tensor& members, int64_t count, const at::Tensor& parts) {
    const int64_t instances = members.size(0), stride = parts.size(1);
    const cudaStream_t stream = c10::cuda::getCurrentCUDAStream();
    const at::Tensor rows = at::zeros({count, stride}, parts.options());
    if (instances == 0) return rows;
    const at::Tensor numbers = integers(members, instances), by_surfel = integers(members, instances),
                     sorted = integers(members, instances);
    int32_t *number = numbers.mutable_data_ptr<int32_t>(), *surfel = sorted.mutable_data_ptr<int32_t>(),
            *instance = by_surfel.mutable_data_ptr<int32_t>();
    for_each(members, instances, [=] __device__(int64_t i) { number[i] = int32_t(i); });
    with_workspace(members, [&](void* workspace, size_t& size) {
        return cub::DeviceRadixSort::SortPairs(
            workspace, size, scene.members, surfel, number, instance, int(instances), 0, 32, stream);
    });
    const T* part = parts.const_data_ptr<T>();
    T* out = rows.mutable_data_ptr<T>();
    for_each(members, instances * stride, [=] __device__(int64_t t) {
        const int64_t first = t / stride, column = t % stride;
        if (first > 0 && surfel[first - 1] == surfel[first]) return;
        T sum = T(0);
        for (int64_t i = first; i < instances && surfel[i] == surfel[first]; ++i)
            for (int warp = 0; warp < kTileWarps; ++warp)
                sum += part[(int64_t(instance[i]) * kTileWarps + warp) * stride + column];
        out[int64_t(surfel[first]) * stride + column] = sum;
    });
    return rows;
}

template <class T>
at::Tensor summed_rows(
    const TileScene<T>& scene, const at::Tensor& members, int64_t tiles, int64_t count, const Cotangents<T>& in,
    const at::TensorOptions& options) {
    const cudaStream_t stream = c10::cuda::getCurrentCUDAStream();
    const int64_t stride = kMoments + scene.channels;
    if (!at::globalContext().deterministicAlgorithms()) {
        const at::Tensor rows = at::zeros({count, stride}, options);
        undraw_channels<T, false>(scene, tiles, in, rows.mutable_data_ptr<T>(), stream);
        return rows;
    }
    const at::Tensor parts = at::zeros({members.size(0) * kTileWarps, stride}, options);
    undraw_channels<T, true>(scene, tiles, in, parts.mutable_data_ptr<T>(), stream);
    return ordered_rows(scene, members, count, parts);
}

// From the rows to the inputs' cotangents, one thread a surfel.
template <class T>
void split_rows(
    const at::Tensor& rows, const TileScene<T>& scene, const at::Tensor& transforms, const at::Tensor& boxes,
    const at::Tensor& grad_transforms, const at::Tensor& grad_opacities, const at::Tensor& grad_values) {
    const int64_t stride = rows.size(1), channels = scene.channels;
    const T *row = rows.const_data_ptr<T>(), *transform = transforms.const_data_ptr<T>();
    const int32_t* box = boxes.const_data_ptr<int32_t>();
    T *out_t = grad_transforms.mutable_data_ptr<T>(), *out_o = grad_opacities.mutable_data_ptr<T>(),
      *out_v = grad_values.mutable_data_ptr<T>();
    for_each(rows, rows.size(0), [=] __device__(int64_t s) {
        const T* r = row + s * stride;
        const SurfelMoments<T> m = {{r[0], r[1], r[2]}, {r[3], r[4], r[5]}, {r[6], r[7], r[8]}, r[9], r[10], r[11], r[12]};
        ScreenTransform<T> grad = {};
        if (box[4 * s + 2] > box[4 * s])
            grad = adj_invert_transform(
                plane_cotangent(m, scene.surfels[s].surfel.plane), load_transform(transform + 9 * s));
        store_transform(out_t + 9 * s, grad);
        out_o[s] = m.opacity;
        for (int64_t c = 0; c < channels; ++c) out_v[s * channels + c] = r[kMoments + c];
    });
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> rasterize_surfels_backward(
    const at::Tensor& grad_values, const at::Tensor& grad_alpha, const at::Tensor& grad_depth,
    const at::Tensor& grad_median, const at::Tensor& grad_distortion, const at::Tensor& state,
    const at::Tensor& contributors, const at::Tensor& transforms, const at::Tensor& opacities, const at::Tensor& values,
    const at::Tensor& boxes, const at::Tensor& offsets, const at::Tensor& members, int64_t width, int64_t height) {
    const int64_t count = transforms.size(0);
    const at::Tensor out_transforms = at::empty({count, 9}, values.options());
    const at::Tensor out_opacities = at::empty({count}, values.options());
    const at::Tensor out_values = at::empty({count, values.size(1)}, values.options());
    const c10::cuda::CUDAGuard guard(values.device());
    AT_DISPATCH_FLOATING_TYPES(values.scalar_type(), "rasterize_surfels_backward", [&] {
        using T = scalar_t;
        const at::Tensor records = tile_records<T>(transforms, opacities, boxes);
        const TileScene<T> scene = tile_scene<T>(records, values, offsets, members, width, height);
        const Cotangents<T> in = {grad_values.const_data_ptr<T>(),  grad_alpha.const_data_ptr<T>(),
                                  grad_depth.const_data_ptr<T>(),   grad_median.const_data_ptr<T>(),
                                  grad_distortion.const_data_ptr<T>(), state.const_data_ptr<T>(),
                                  contributors.const_data_ptr<int32_t>()};
        const at::Tensor rows = summed_rows(scene, members, offsets.size(0) - 1, count, in, values.options());
        split_rows(rows, scene, transforms, boxes, out_transforms, out_opacities, out_values);
    });
    return {out_transforms, out_opacities, out_values};
}

}  // namespace

TORCH_LIBRARY_IMPL(gs_ir, CUDA, m) { m.impl("rasterize_surfels_backward", rasterize_surfels_backward); }
