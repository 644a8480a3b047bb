// CUDA kernels of convolve_ggx: every texel gathers the source texels inside its lobe's cone.
//
// The source is stored in blocks of 32 x 32 texels, each cut into 8 x 8 groups of 4 x 4. A warp gathers for a tile of
// 4 x 4 targets: it tests one block or group a lane against the tile, then adds the groups that it can reach, one
// source a lane and half of the targets in its registers. Sums are reduced in a fixed order: the same bits each time.
#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <optional>
#include <type_traits>
#include <vector>

#include "cubemap_squares.cuh"
#include "cuda_launch.cuh"

namespace {

using namespace gs_ir::squares;
using gs_ir::Vec3;

constexpr int kEdge = 4, kGroup = kEdge * kEdge;
constexpr int kGroupsAcross = 8, kGroups = kGroupsAcross * kGroupsAcross, kBlockEdge = kEdge * kGroupsAcross;
constexpr int kMaxChannels = 4;
constexpr int kWarps = 4;                  // of a thread block
constexpr int kPerLane = kGroup / 2;       // targets in the registers of a lane
constexpr int64_t kEnoughWarps = 8192;     // below it several warps share the sources of a tile
constexpr double kLargestNarrowAlpha = 0.5;
constexpr unsigned kAllLanes = 0xffffffffu;

// ---- Sources ------------------------------------------------------------------------------------------------------

template <typename T>
struct Block {
    Quad<T> sphere;
    Frame<T> frame;
};

template <typename T>
struct Group {
    Quad<T> places[kGroup];  // x, y, -drop in the block's frame
    Quad<T> values[kGroup];
};

template <typename T>
struct Sources {
    Block<T>* blocks;
    Quad<T>* spheres;  // around each group
    Group<T>* groups;  // by block
    int count;         // of blocks
};

// Bytes of the arrays of Sources, which lie one after another.
template <typename T>
constexpr int64_t kBytesPerBlock = sizeof(Block<T>) + kGroups * (sizeof(Quad<T>) + sizeof(Group<T>));

template <typename T>
Sources<T> layout(void* memory, int blocks) {
    Sources<T> s;
    s.count = blocks;
    s.groups = static_cast<Group<T>*>(memory);
    s.spheres = reinterpret_cast<Quad<T>*>(s.groups + int64_t(blocks) * kGroups);
    s.blocks = reinterpret_cast<Block<T>*>(s.spheres + int64_t(blocks) * kGroups);
    return s;
}

// Texels [6, resolution, resolution, channels]; `factors` [6, resolution, resolution] scale them where given.
template <typename T>
struct Texels {
    T* values;
    const T* factors;
    int resolution, channels;

    __device__ int64_t index(Place p) const { return (int64_t(p.face) * resolution + p.row) * resolution + p.column; }
    __device__ bool contains(Place p) const { return p.row < resolution && p.column < resolution; }
    __device__ T factor(Place p) const { return factors ? factors[index(p)] : T(1); }
};

// Stores one texel; the first of a group or block stores that one's sphere and frame too.
template <typename T>
__device__ void store_source(const Sources<T>& sources, int slot, const Texels<const T>& texels) {
    const int resolution = texels.resolution;
    const int block = slot / (kGroups * kGroup), group = slot / kGroup % kGroups, k = slot % kGroup;
    const Place origin = square_place(block, kBlockEdge, resolution);
    const Place corner = {
        origin.face, origin.row + group / kGroupsAcross * kEdge, origin.column + group % kGroupsAcross * kEdge};
    const Place texel = {corner.face, corner.row + k / kEdge, corner.column + k % kEdge};
    const Quad<T> sphere = bounding_sphere<T>(origin, kBlockEdge, resolution);
    const Frame<T> frame = frame_around(origin.face, sphere);
    const Vec3<T> place = to_frame(frame, direction<T>(texel, resolution));
    T value[kMaxChannels] = {};
    if (texels.contains(texel))
        for (int c = 0; c < kMaxChannels; ++c)
            if (c < texels.channels)
                value[c] = texels.values[texels.index(texel) * texels.channels + c] * texels.factor(texel);
    sources.groups[slot / kGroup].places[k] = {place.x, place.y, -place.z, T(0)};
    sources.groups[slot / kGroup].values[k] = {value[0], value[1], value[2], value[3]};
    if (k == 0) {
        Quad<T> around = bounding_sphere<T>(corner, kEdge, resolution);
        if (!texels.contains(corner)) around.w = T(-100);  // empty: nothing touches it
        sources.spheres[slot / kGroup] = around;
    }
    if (k == 0 && group == 0) sources.blocks[block] = {sphere, frame};
}

// ---- Lobes --------------------------------------------------------------------------------------------------------

// A lobe as a function of v = offset + scale * squared chord.
template <typename T>
struct WideLobe {
    T offset, scale, limit;
    gs_ir::Lobe<T> lobe;

    WideLobe(T alpha, T min_cosine) : offset(0), scale(1), lobe(gs_ir::ggx_lobe<T>(alpha, min_cosine)) {
        limit = lobe.max_chord;
    }
    __device__ T weight(T v) const { return gs_ir::lobe_weight(lobe, v); }
};

// v = spread of gs_ir::lobe_weight, in which n.l is linear: fewer instructions, inexact where alpha is close to 1.
struct NarrowLobe {
    float offset, scale, limit, constant, slope;

    NarrowLobe(double alpha, double min_cosine) {
        const double squared = alpha * alpha, rate = (1 - squared) / 4;
        offset = float(squared), scale = float(rate), limit = float(squared + rate * 2 * (1 - min_cosine));
        constant = float(1 + squared / (2 * rate)), slope = float(-1 / (2 * rate));
    }
    __device__ float weight(float v) const {
        float inverse;
        asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(v));  // one instruction, one unit in the last place
        return inverse * (constant * inverse + slope);
    }
};

// ---- Gather -------------------------------------------------------------------------------------------------------

template <typename T, int C>
struct Gatherer {
    Quad<T> line[kPerLane];  // v of a source at p: line.w + <line.xyz, p>
    T sums[kPerLane][C];

    // Each lane writes one target's line to `shared`; then reads those of its half of the tile.
    template <class Lobe>
    __device__ void enter(const Frame<T>& frame, Vec3<T> target, const Lobe& lobe, Quad<T>* shared, int lane) {
        const Vec3<T> p = to_frame(frame, target);
        const T twice = T(-2) * lobe.scale;
        __syncwarp();
        if (lane < kGroup) shared[lane] = {twice * p.x, twice * p.y, twice * (T(1) - p.z), lobe.offset - twice * p.z};
        __syncwarp();
#pragma unroll
        for (int t = 0; t < kPerLane; ++t) line[t] = shared[lane / kGroup * kPerLane + t];
    }

    // kWhole: all targets are known to have the source inside their cones.
    template <bool kWhole, class Lobe>
    __device__ void add(Quad<T> place, Quad<T> value, const Lobe& lobe) {
        const T channel[kMaxChannels] = {value.x, value.y, value.z, value.w};
#pragma unroll
        for (int t = 0; t < kPerLane; ++t) {
            const T v = line[t].w + line[t].x * place.x + line[t].y * place.y + line[t].z * place.z;
            const T inside = lobe.weight(v);  // computed first: no branch
            const T weight = kWhole || v <= lobe.limit ? inside : T(0);
#pragma unroll
            for (int c = 0; c < C; ++c) sums[t][c] += weight * channel[c];
        }
    }

    // The groups of `members` whose bits are set in `chosen`, the same in all lanes; source k of each.
    template <bool kWhole, class Lobe>
    __device__ void add_groups(const Group<T>* members, unsigned chosen, int k, const Lobe& lobe) {
        while (chosen) {
            const int next = 31 - __clz(chosen);
            chosen ^= 1u << next;
            add<kWhole>(members[next].places[k], members[next].values[k], lobe);
        }
    }

    // Sums over the lanes of a half warp, one source each.
    __device__ void reduce() {
#pragma unroll
        for (int t = 0; t < kPerLane; ++t)
#pragma unroll
            for (int c = 0; c < C; ++c)
                for (int step = kGroup / 2; step > 0; step /= 2)
                    sums[t][c] += __shfl_xor_sync(kAllLanes, sums[t][c], step);
    }
};

// Gathers the groups whose number modulo `shares` is `share`; a whole warp calls it.
template <typename T, int C, class Lobe>
__device__ void gather_tile(
    Gatherer<T, C>& gatherer, const Sources<T>& sources, Place tile, int resolution, int share, int shares, T reach,
    const Lobe& lobe, Quad<T>* shared) {
    const int lane = threadIdx.x % 32, k = lane % kGroup;
    const Quad<T> around = bounding_sphere<T>(tile, kEdge, resolution);
    const Vec3<T> target = direction<T>({tile.face, tile.row + k / kEdge, tile.column + k % kEdge}, resolution);
    for (int first = 0; first < sources.count; first += 32) {
        const bool found = first + lane < sources.count && touches(around, sources.blocks[first + lane].sphere, reach);
        for (unsigned blocks = __ballot_sync(kAllLanes, found); blocks; blocks &= blocks - 1) {
            const int block = first + __ffs(blocks) - 1;
            gatherer.enter(sources.blocks[block].frame, target, lobe, shared, lane);
            for (int group = block * kGroups; group < (block + 1) * kGroups; group += 32) {
                const Quad<T> sphere = sources.spheres[group + lane];
                const bool near = (lane % shares == share) & touches(around, sphere, reach);
                const bool whole = near & covers(around, sphere, reach);
                const unsigned inside = __ballot_sync(kAllLanes, whole), rim = __ballot_sync(kAllLanes, near & !whole);
                gatherer.template add_groups<true>(sources.groups + group, inside, k, lobe);
                gatherer.template add_groups<false>(sources.groups + group, rim, k, lobe);
            }
        }
    }
}

template <typename T, int C, class Lobe>
__global__ void __launch_bounds__(32 * kWarps, sizeof(T) == 4 ? 5 : 2) convolve_kernel(
    Sources<T> sources, Texels<T> out, int tiles, int shares, T reach, Lobe lobe) {
    __shared__ Quad<T> lines[kWarps][kGroup];
    __shared__ T partial[kWarps][kGroup][C];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, first = blockIdx.x * (kWarps / shares);
    const int tile = first + warp / shares;
    if (tile < tiles) {
        Gatherer<T, C> gatherer = {};
        const Place place = square_place(tile, kEdge, out.resolution);
        gather_tile(gatherer, sources, place, out.resolution, warp % shares, shares, reach, lobe, lines[warp]);
        gatherer.reduce();
        if (lane % kGroup == 0)
            for (int t = 0; t < kPerLane; ++t)
                for (int c = 0; c < C; ++c) partial[warp][lane / kGroup * kPerLane + t][c] = gatherer.sums[t][c];
    }
    __syncthreads();
    const int mine = threadIdx.x / kGroup, k = threadIdx.x % kGroup;
    if (mine >= kWarps / shares || first + mine >= tiles) return;
    const Place corner = square_place(first + mine, kEdge, out.resolution);
    const Place texel = {corner.face, corner.row + k / kEdge, corner.column + k % kEdge};
    if (!out.contains(texel)) return;
    for (int c = 0; c < min(C, out.channels); ++c) {
        T sum = T(0);
        for (int w = mine * shares; w < (mine + 1) * shares; ++w) sum += partial[w][k][c];
        out.values[out.index(texel) * out.channels + c] = sum * out.factor(texel);
    }
}

int count_squares(int64_t resolution, int edge) {
    const int64_t across = (resolution + edge - 1) / edge;
    return int(6 * across * across);
}

template <typename T, int C, class Lobe>
void launch(const Sources<T>& sources, const Texels<T>& out, T reach, const Lobe& lobe) {
    const int tiles = count_squares(out.resolution, kEdge);
    int shares = 1;
    while (shares < kWarps && tiles * int64_t(shares) < kEnoughWarps) shares *= 2;
    const int blocks = gs_ir::blocks_for(tiles, kWarps / shares);
    convolve_kernel<T, C><<<blocks, 32 * kWarps, 0, c10::cuda::getCurrentCUDAStream()>>>(
        sources, out, tiles, shares, reach, lobe);
    C10_CUDA_KERNEL_LAUNCH_CHECK();
}

template <typename T, int C>
void convolve(const Sources<T>& sources, const Texels<T>& out, double alpha, double min_cosine) {
    const T reach = T(std::sqrt(2 * (1 - min_cosine)));
    if constexpr (std::is_same_v<T, float>)
        if (alpha <= kLargestNarrowAlpha) return launch<T, C>(sources, out, reach, NarrowLobe(alpha, min_cosine));
    launch<T, C>(sources, out, reach, WideLobe<T>(T(alpha), T(min_cosine)));
}

using Factors = std::optional<at::Tensor>;

template <typename T>
const T* data_or_null(const Factors& factors) { return factors ? factors->const_data_ptr<T>() : nullptr; }

// One convolution with its memory, which comes from the stream that is current when it is made.
struct Convolution {
    at::Tensor values, out, memory;
    double alpha, min_cosine;
    Factors before, after;

    Convolution(
        const at::Tensor& from, int64_t resolution, double alpha_, double min_cosine_, const Factors& before_,
        const Factors& after_)
        : values(from), alpha(alpha_), min_cosine(min_cosine_), before(before_), after(after_) {
        const int64_t channels = values.size(3), blocks = count_squares(values.size(1), kBlockEdge);
        TORCH_CHECK(
            channels >= 1 && channels <= kMaxChannels, "convolve_ggx: 1 to 4 channels expected, found ", channels);
        out = at::empty({6, resolution, resolution, channels}, values.options());
        const int64_t bytes = values.scalar_type() == at::kDouble ? kBytesPerBlock<double> : kBytesPerBlock<float>;
        memory = at::empty({blocks * bytes}, values.options().dtype(at::kByte));
    }

    // On the current stream.
    void launch() const {
        const int channels = int(values.size(3)), blocks = count_squares(values.size(1), kBlockEdge);
        AT_DISPATCH_FLOATING_TYPES(values.scalar_type(), "convolve_ggx", [&] {
            using T = scalar_t;
            const auto sources = layout<T>(memory.mutable_data_ptr(), blocks);
            const Texels<const T> in = {
                values.const_data_ptr<T>(), data_or_null<T>(before), int(values.size(1)), channels};
            gs_ir::for_each(values, int64_t(blocks) * kGroups * kGroup, [=] __device__(int64_t slot) {
                store_source(sources, int(slot), in);
            });
            const Texels<T> to = {out.mutable_data_ptr<T>(), data_or_null<T>(after), int(out.size(1)), channels};
            auto* by_channels = channels == 1 ? convolve<T, 1> : channels <= 3 ? convolve<T, 3> : convolve<T, 4>;
            by_channels(sources, to, alpha, min_cosine);
        });
    }
};

at::Tensor convolve_ggx(
    const at::Tensor& values, int64_t resolution, double alpha, double min_cosine, const Factors& before,
    const Factors& after) {
    const c10::cuda::CUDAGuard guard(values.device());
    const Convolution convolution(values, resolution, alpha, min_cosine, before, after);
    convolution.launch();
    return convolution.out;
}

// What is launched on `later` from now on waits for what has been launched on `earlier`.
void wait_for(cudaStream_t earlier, cudaStream_t later) {
    cudaEvent_t event;
    C10_CUDA_CHECK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    C10_CUDA_CHECK(cudaEventRecord(event, earlier));
    C10_CUDA_CHECK(cudaStreamWaitEvent(later, event, 0));
    C10_CUDA_CHECK(cudaEventDestroy(event));  // once it has passed
}

// The first convolution fills the device; the others, too small for that, run beside it on a stream of high priority.
std::vector<at::Tensor> convolve_levels(
    at::TensorList values, at::IntArrayRef resolutions, at::ArrayRef<double> alphas, at::ArrayRef<double> min_cosines,
    at::TensorList before, at::TensorList after) {
    std::vector<at::Tensor> outs;
    if (values.empty()) return outs;
    const c10::cuda::CUDAGuard guard(values[0].device());
    std::vector<Convolution> made;
    for (size_t i = 0; i < values.size(); ++i) {
        made.emplace_back(values[i], resolutions[i], alphas[i], min_cosines[i], before[i], after[i]);
        outs.push_back(made.back().out);
    }
    const c10::cuda::CUDAStream here = c10::cuda::getCurrentCUDAStream(), aside = c10::cuda::getStreamFromPool(true);
    wait_for(here, aside);
    made[0].launch();
    {
        const c10::cuda::CUDAStreamGuard others(aside);
        for (size_t i = 1; i < made.size(); ++i) made[i].launch();
    }
    wait_for(aside, here);
    return outs;
}

}  // namespace

TORCH_LIBRARY_IMPL(gs_ir, CUDA, m) {
    m.impl("convolve_ggx", convolve_ggx);
    m.impl("convolve_levels", convolve_levels);
}
