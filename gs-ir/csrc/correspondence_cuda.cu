// CUDA loops of gs_ir/correspondence.h: one thread a cell, or one a posed point.
#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/stack.h>
#include <torch/library.h>

#include <algorithm>
#include <limits>

#include "cuda_launch.cuh"
#include "cuda_vector.cuh"
#include "gs_ir/correspondence.h"
#include "transform_volumes.cuh"

namespace {

// The cells of one block of threads, a tile, share their candidates.
constexpr int kTileX = 8, kTileY = 4, kTileZ = 4;
constexpr int kSeedThreads = kTileX * kTileY * kTileZ;
constexpr int kSlabThreads = 1024;
static_assert(kSeedThreads % gs_ir::kSeedLanes == 0, "the padding of a full list is read");

__device__ int tile_side(int axis) { return axis == 0 ? kTileX : axis == 1 ? kTileY : kTileZ; }

template <typename T>
struct SeedFrames {
    const T *posed, *canonical, *boxes;
    int64_t points;
    int resolution, max_seeds, slabs;
    T radius;
    // Points within reach of the tiles that share a coordinate along the longest side of a frame's box: points
    // [B][slabs][points], of which the first slab_sizes[B][slabs] are set.
    int32_t *slab_points, *slab_sizes;
    T* seeds;
    uint8_t* counts;

    __device__ gs_ir::SeedCells<T> cells(int frame) const {
        return gs_ir::make_seed_cells(boxes + 6 * frame, resolution, radius, max_seeds);
    }
};

template <typename T>
__device__ int longest_side(const gs_ir::SeedCells<T>& cells) {
    const T* cell = cells.cell;
    return cell[0] >= cell[1] && cell[0] >= cell[2] ? 0 : cell[1] >= cell[2] ? 1 : 2;
}

// Numbers the threads of a block that say `take`, in order. Between two calls the block must synchronise once more.
template <int kThreads>
struct OrderedVotes {
    int votes[kThreads / 32];

    __device__ void number(bool take, int& slot, int& count) {
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        const unsigned ballot = __ballot_sync(~0u, take);
        if (lane == 0) votes[warp] = __popc(ballot);
        __syncthreads();
        slot = __popc(ballot & ((1u << lane) - 1)), count = 0;
        for (int w = 0; w < kThreads / 32; ++w) {
            if (w < warp) slot += votes[w];
            count += votes[w];
        }
    }
};

// One block a slab. Order is kept, so that among equally near points the first becomes the seed.
template <typename T>
__global__ void __launch_bounds__(kSlabThreads) list_slab_kernel(const SeedFrames<T> frames) {
    __shared__ OrderedVotes<kSlabThreads> votes;
    const int slab = blockIdx.x, frame = blockIdx.y, n = frames.resolution;
    const auto cells = frames.cells(frame);
    const int axis = longest_side(cells);
    int64_t first[3] = {0, 0, 0}, extent[3] = {n, n, n};
    first[axis] = slab * tile_side(axis), extent[axis] = tile_side(axis);
    const int64_t list = int64_t(frame) * frames.slabs + slab;
    int32_t* points = frames.slab_points + list * frames.points;
    const T* posed = frames.posed + frame * frames.points * 3;
    int size = 0;
    for (int64_t begin = 0; begin < frames.points; begin += kSlabThreads) {
        const int64_t i = begin + threadIdx.x;
        const bool take = i < frames.points && cells.reaches(first, extent, posed + 3 * i);
        int slot, count;
        votes.number(take, slot, count);
        if (take) points[size + slot] = int32_t(i);
        size += count;
        __syncthreads();
    }
    if (threadIdx.x == 0) frames.slab_sizes[list] = size;
}

// As many points as the block has threads, less those out of reach.
template <typename T>
struct SharedCandidates {
    T posed[3][kSeedThreads], canonical[3][kSeedThreads];
    OrderedVotes<kSeedThreads> votes;

    __device__ gs_ir::SeedCandidates<T> view(int count) const {
        return {{posed[0], posed[1], posed[2]}, {canonical[0], canonical[1], canonical[2]}, count};
    }
    // Lists the points whose thread says `take`, in order; returns their number. Called by the whole block.
    __device__ int collect(bool take, const T* posed_point, const T* canonical_point) {
        int slot, count;
        votes.number(take, slot, count);  // synchronises: everybody is done with the previous list
        const int thread = threadIdx.x;
        for (int a = 0; a < 3; ++a) {
            if (take) posed[a][slot] = posed_point[a], canonical[a][slot] = canonical_point[a];
            if (thread >= count && thread < count + gs_ir::kSeedLanes)
                posed[a][thread] = std::numeric_limits<T>::infinity(), canonical[a][thread] = T(0);
        }
        __syncthreads();
        return count;
    }
};

// The cell of a thread, and the tile of its block.
struct SeedTile {
    int64_t first[3], extent[3], cell[3];

    __device__ explicit SeedTile(int resolution) : extent{kTileX, kTileY, kTileZ} {
        const int tiles_x = (resolution + kTileX - 1) / kTileX, tiles_y = (resolution + kTileY - 1) / kTileY;
        const int tile = blockIdx.x, thread = threadIdx.x;
        first[0] = tile % tiles_x * kTileX;
        first[1] = tile / tiles_x % tiles_y * kTileY;
        first[2] = tile / (tiles_x * tiles_y) * kTileZ;
        cell[0] = first[0] + thread % kTileX;
        cell[1] = first[1] + thread / kTileX % kTileY;
        cell[2] = first[2] + thread / (kTileX * kTileY);
    }
};

// Seeds of the thread's cell, one pass over the slab's points for each of them.
template <typename T>
__device__ int choose_tile_seeds(
    const SeedFrames<T>& frames, int frame, const SeedTile& tile, SharedCandidates<T>& list, gs_ir::Seed<T>* seeds) {
    const auto cells = frames.cells(frame);
    const int axis = longest_side(cells);
    const int64_t slab = int64_t(frame) * frames.slabs + tile.first[axis] / tile_side(axis);
    const int32_t* points = frames.slab_points + slab * frames.points;
    const int size = frames.slab_sizes[slab];
    const T* posed = frames.posed + frame * frames.points * 3;
    T centre[3];
    cells.centre(tile.cell, centre);
    int found = 0;
    for (int k = 0; k < frames.max_seeds; ++k) {
        T best = std::numeric_limits<T>::infinity();
        for (int begin = 0; begin < size; begin += kSeedThreads) {
            const int at = begin + threadIdx.x;
            const int64_t i = at < size ? points[at] : 0;
            const bool take = at < size && cells.reaches(tile.first, tile.extent, posed + 3 * i);
            const int count = list.collect(take, posed + 3 * i, frames.canonical + 3 * i);
            if (found == k && count > 0)
                gs_ir::improve_seed(list.view(count), centre, cells.settings, seeds, k, best);
        }
        const bool improved = best < std::numeric_limits<T>::infinity();
        if (improved) found = k + 1;
        if (!__syncthreads_or(improved)) break;
    }
    return found;
}

template <typename T>
__global__ void __launch_bounds__(kSeedThreads) build_seeds_kernel(const SeedFrames<T> frames) {
    __shared__ SharedCandidates<T> list;
    const int n = frames.resolution, frame = blockIdx.y;
    const SeedTile tile(n);
    gs_ir::Seed<T> seeds[gs_ir::kMaxSeeds];
    const int found = choose_tile_seeds(frames, frame, tile, list, seeds);
    if (tile.cell[0] >= n || tile.cell[1] >= n || tile.cell[2] >= n) return;
    const int64_t cell = ((int64_t(frame) * n + tile.cell[2]) * n + tile.cell[1]) * n + tile.cell[0];
    frames.counts[cell] = uint8_t(found);
    for (int k = 0; k < frames.max_seeds; ++k)
        for (int a = 0; a < 3; ++a)
            frames.seeds[(cell * frames.max_seeds + k) * 3 + a] = k < found ? seeds[k].canonical[a] : T(0);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> build_seeds(
    const at::Tensor& posed, const at::Tensor& canonical, int64_t resolution, double radius, int64_t max_seeds) {
    const int64_t frames = posed.size(0), points = posed.size(1), n = resolution;
    TORCH_CHECK(max_seeds <= gs_ir::kMaxSeeds, "build_seeds: max_seeds <= ", gs_ir::kMaxSeeds, " expected");
    at::Tensor seeds = at::empty({frames, n, n, n, max_seeds, 3}, posed.options());
    at::Tensor counts = at::empty({frames, n, n, n}, posed.options().dtype(at::kByte));
    const at::Tensor boxes = at::stack({posed.amin(1).sub(radius), posed.amax(1).add(radius)}, 1);
    if (frames == 0) return {seeds, counts, boxes};
    const c10::cuda::CUDAGuard guard(posed.device());
    const auto stream = c10::cuda::getCurrentCUDAStream();
    const auto tiles = [n](int side) { return (n + side - 1) / side; };
    const int64_t slabs = tiles(std::min({kTileX, kTileY, kTileZ}));
    const at::Tensor slab_points = at::empty({frames, slabs, points}, posed.options().dtype(at::kInt));
    const at::Tensor slab_sizes = at::empty({frames, slabs}, slab_points.options());
    AT_DISPATCH_FLOATING_TYPES(posed.scalar_type(), "build_seeds", [&] {
        using T = scalar_t;
        const SeedFrames<T> arguments{
            posed.const_data_ptr<T>(), canonical.const_data_ptr<T>(), boxes.const_data_ptr<T>(), points, int(n),
            int(max_seeds), int(slabs), T(radius), slab_points.mutable_data_ptr<int32_t>(),
            slab_sizes.mutable_data_ptr<int32_t>(), seeds.mutable_data_ptr<T>(), counts.mutable_data_ptr<uint8_t>()};
        list_slab_kernel<<<dim3(slabs, frames), kSlabThreads, 0, stream>>>(arguments);
        C10_CUDA_KERNEL_LAUNCH_CHECK();
        const dim3 grid(tiles(kTileX) * tiles(kTileY) * tiles(kTileZ), frames);
        build_seeds_kernel<<<grid, kSeedThreads, 0, stream>>>(arguments);
        C10_CUDA_KERNEL_LAUNCH_CHECK();
    });
    return {seeds, counts, boxes};
}

constexpr int kSearchThreads = 128;

std::tuple<at::Tensor, at::Tensor, at::Tensor> find_correspondences(
    const at::Tensor& points, const at::Tensor& frame_index, at::TensorList grid, const at::Tensor& any_volume,
    const at::Tensor& box, int64_t iterations, double tolerance) {
    const at::Tensor &seeds = grid[0], &counts = grid[1], &boxes = grid[2];
    const int64_t count = points.size(0), slots = seeds.size(4);
    const std::array<int64_t, 3> resolution = {counts.size(1), counts.size(2), counts.size(3)};
    const int64_t cells = resolution[0] * resolution[1] * resolution[2];
    const at::Tensor volume = gs_ir::vector_aligned(any_volume);
    at::Tensor canonical = at::empty({count, slots, 3}, points.options());
    at::Tensor valid = at::empty({count, slots}, points.options().dtype(at::kBool));
    at::Tensor jacobian = at::empty({count, slots, 3, 3}, points.options());
    const uint8_t* seed_count = counts.const_data_ptr<uint8_t>();
    bool* is_root = valid.mutable_data_ptr<bool>();
    AT_DISPATCH_FLOATING_TYPES(points.scalar_type(), "find_correspondences", [&] {
        using T = scalar_t;
        const gs_ir::TransformVolumes<T> volumes(volume, box, frame_index);
        const T *p = points.const_data_ptr<T>(), *s = seeds.const_data_ptr<T>(), *b = boxes.const_data_ptr<T>();
        const T* transforms = volume.const_data_ptr<T>();
        T *c = canonical.mutable_data_ptr<T>(), *j = jacobian.mutable_data_ptr<T>();
        gs_ir::for_each<kSearchThreads>(points, count, [=] __device__(int64_t i) {
            const auto lattice = volumes.lattice();
            const auto settings = gs_ir::make_search_settings(lattice, int(iterations), T(tolerance));
            const int64_t frame = volumes.frame_index[i], begin = volumes.begin(i);
            const int64_t local = gs_ir::seed_cell(b + 6 * frame, resolution.data(), p + 3 * i);
            const int64_t cell = local < 0 ? 0 : frame * cells + local;
            gs_ir::find_roots(transforms + begin, lattice, p + 3 * i, settings, s + cell * slots * 3,
                              local < 0 ? 0 : int(seed_count[cell]), int(slots), c + i * slots * 3, is_root + i * slots,
                              j + i * slots * 9);
        });
    });
    return {canonical, valid, jacobian};
}

}  // namespace

TORCH_LIBRARY_IMPL(gs_ir, CUDA, m) {
    m.impl("build_seeds", build_seeds);
    m.impl("find_correspondences", find_correspondences);
}
