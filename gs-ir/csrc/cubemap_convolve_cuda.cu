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

#include "cuda_launch.cuh"
#include "gs_ir/cubemap.h"

namespace {

using gs_ir::Vec3;

constexpr int kEdge = 4, kGroup = kEdge * kEdge;
constexpr int kGroupsAcross = 8, kGroups = kGroupsAcross * kGroupsAcross, kBlockEdge = kEdge * kGroupsAcross;
constexpr int kMaxChannels = 4;
constexpr int kWarps = 4;                  // of a thread block
constexpr int kPerLane = kGroup / 2;       // targets in the registers of a lane
constexpr int64_t kEnoughWarps = 8192;     // below it several warps share the sources of a tile
constexpr double kLargestNarrowAlpha = 0.5;
constexpr unsigned kAllLanes = 0xffffffffu;

template <typename T>
struct alignas(16) Quad {
    T x, y, z, w;
};

// ---- Geometry -----------------------------------------------------------------------------------------------------

struct Place {
    int face, row, column;
};

// First texel of square `index` of those with `edge` texels a side that cover the faces row by row.
__host__ __device__ Place square_place(int index, int edge, int resolution) {
    const int across = (resolution + edge - 1) / edge;
    return {index / (across * across), index / across % across * edge, index % across * edge};
}

// Unit direction of a texel; rows and columns past the end name the last one.
template <typename T>
__device__ Vec3<T> direction(Place p, int resolution) {
    const T s = gs_ir::texel_centre<T>(min(p.column, resolution - 1), resolution);
    const T t = gs_ir::texel_centre<T>(min(p.row, resolution - 1), resolution);
    const Vec3<T> point = gs_ir::face_point(p.face, s, t);
    return point * (T(1) / gs_ir::length(point));
}

// Centre and radius of a sphere around the directions of a square of texels; the corners are the farthest ones.
template <typename T>
__device__ Quad<T> bounding_sphere(Place p, int edge, int resolution) {
    Vec3<T> corners[4], centre = {T(0), T(0), T(0)};
    for (int k = 0; k < 4; ++k) {
        corners[k] = direction<T>({p.face, p.row + k / 2 * (edge - 1), p.column + k % 2 * (edge - 1)}, resolution);
        centre = centre + corners[k] * T(0.25);
    }
    T radius = T(0);
    for (int k = 0; k < 4; ++k) radius = gs_ir::maximum(radius, gs_ir::length(corners[k] - centre));
    return {centre.x, centre.y, centre.z, radius * T(1.001) + T(1e-6)};  // more than rounding
}

// Whether the centres lie within `distance`; a negative one is never reached.
template <typename T>
__device__ bool within(Quad<T> a, Quad<T> b, T distance) {
    const Vec3<T> d = {a.x - b.x, a.y - b.y, a.z - b.z};
    return (distance >= T(0)) & (gs_ir::dot(d, d) <= distance * distance);
}

// Whether some point of the one sphere may lie within `reach` of some point of the other.
template <typename T>
__device__ bool touches(Quad<T> a, Quad<T> b, T reach) { return within(a, b, reach + a.w + b.w); }

// Whether all points of the one sphere lie within `reach` of all points of the other.
template <typename T>
__device__ bool covers(Quad<T> a, Quad<T> b, T reach) { return within(a, b, reach - a.w - b.w); }

// Orthonormal frame whose z axis points at the middle of a block. Near that axis a direction (x, y, 1 - drop) keeps the
// digits that a cosine loses: the squared chord of two is 2 (drop_a - x_a x_b - y_a y_b + (1 - drop_a) drop_b).
template <typename T>
struct Frame {
    Vec3<T> x, y, z;
};

template <typename T>
__device__ Frame<T> frame_around(int face, Quad<T> sphere) {
    const Vec3<T> centre = {sphere.x, sphere.y, sphere.z};
    const Vec3<T> z = centre * (T(1) / gs_ir::length(centre));
    const Vec3<T> along = gs_ir::from_face<T>(face, {T(1), T(0), T(0)});
    const Vec3<T> flat = along - z * gs_ir::dot(along, z);
    const Vec3<T> x = flat * (T(1) / gs_ir::length(flat));
    return {x, gs_ir::cross(z, x), z};
}

// x, y and drop of a unit direction.
template <typename T>
__device__ Vec3<T> to_frame(const Frame<T>& f, Vec3<T> d) {
    const T x = gs_ir::dot(f.x, d), y = gs_ir::dot(f.y, d), z = gs_ir::dot(f.z, d);
    return {x, y, z > T(0) ? (x * x + y * y) / (T(1) + z) : T(1) - z};
}

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

int squares(int64_t resolution, int edge) {
    const int64_t across = (resolution + edge - 1) / edge;
    return int(6 * across * across);
}

template <typename T, int C, class Lobe>
void launch(const Sources<T>& sources, const Texels<T>& out, T reach, const Lobe& lobe) {
    const int tiles = squares(out.resolution, kEdge);
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

at::Tensor convolve_ggx(
    const at::Tensor& values, int64_t resolution, double alpha, double min_cosine, const Factors& before,
    const Factors& after) {
    const int channels = int(values.size(3)), source_resolution = int(values.size(1));
    TORCH_CHECK(channels >= 1 && channels <= kMaxChannels, "convolve_ggx: 1 to 4 channels expected, found ", channels);
    const int blocks = squares(source_resolution, kBlockEdge);
    const c10::cuda::CUDAGuard guard(values.device());
    at::Tensor out = at::empty({6, resolution, resolution, channels}, values.options());
    AT_DISPATCH_FLOATING_TYPES(values.scalar_type(), "convolve_ggx", [&] {
        using T = scalar_t;
        at::Tensor memory = at::empty({blocks * kBytesPerBlock<T>}, values.options().dtype(at::kByte));
        const auto sources = layout<T>(memory.mutable_data_ptr(), blocks);
        const Texels<const T> in = {
            values.const_data_ptr<T>(), data_or_null<T>(before), source_resolution, channels};
        gs_ir::for_each(values, int64_t(blocks) * kGroups * kGroup, [=] __device__(int64_t slot) {
            store_source(sources, int(slot), in);
        });
        const Texels<T> to = {out.mutable_data_ptr<T>(), data_or_null<T>(after), int(resolution), channels};
        auto* by_channels = channels == 1 ? convolve<T, 1> : channels <= 3 ? convolve<T, 3> : convolve<T, 4>;
        by_channels(sources, to, alpha, min_cosine);
    });
    return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(gs_ir, CUDA, m) {
    m.impl("convolve_ggx", convolve_ggx);
}
