// Directional occlusion in a frame: masks of probes turned with pose and light, then the surfels, those in sight with
// four lanes each while their occlusion is looked up.
#pragma once

#include "directional.cuh"
#include "frame_surfels.cuh"

namespace gs_ir {

// Probes, and the light as lamps (see gs_ir/directional.py and gs_ir/light_cells.py).
struct FrameShadows {
    const uint32_t *masks, *own_masks;           // [P, 4] and [N, 4], as baked
    const float *directions, *energies, *baked;  // [127, 3]; directions of the lamps in the light's frame
    uint8_t* tables;                             // [parts, 128]
    uint32_t* turned;                            // [P, 4], in the order of the lamps
    MaskVolumes<float> probes;                   // of the turned masks
};

__device__ inline Vec3<float> lamp_direction(const FrameView& view, const FrameShadows& shadows, int k) {
    return rotated_back(view.light_from_world, load3(shadows.directions + 3 * k));
}

// Every block derives the table of its part, blockIdx.y, and turns a share of its masks.
static __global__ void __launch_bounds__(kMaskBits) turn_probes(
    const FrameView* view, const FrameSetup* setup, FrameShadows shadows) {
    __shared__ uint8_t table[kMaskBits];
    const int k = threadIdx.x, part = blockIdx.y;
    uint8_t entry = uint8_t(kDirections);
    if (k < kDirections) {
        const Vec3<float> local = setup->part_from_world[part].rotate(lamp_direction(*view, shadows, k));
        entry = uint8_t(nearest_direction(shadows.baked, local));
    }
    table[k] = entry;
    if (blockIdx.x == 0) shadows.tables[kMaskBits * part + k] = entry;
    __syncthreads();
    turn_part(shadows.masks, shadows.probes.offsets, table, shadows.turned);
}

// A surfel in sight, as the lanes of a warp hand it round.
struct SightedSurfel {
    Vec3<float> center, normal, to_viewer, lobe;
    float roughness, shares[kShares];
    int32_t index, part;
    int32_t unused;  // an odd number of words: lanes that read one each meet no bank twice
};

__device__ inline void load_lamps(const FrameView& view, const FrameShadows& shadows, QuadLight<float>& lamps) {
    for (int k = threadIdx.x; k < kMaskBits; k += blockDim.x) {
        const bool shines = k < kDirections;
        const int b = k % kWordBits, word = k / kWordBits;
        store3(lamps.directions[b][word], shines ? lamp_direction(view, shadows, k) : Vec3<float>{});
        store3(lamps.energies[b][word], shines ? load3(shadows.energies + 3 * k) : Vec3<float>{});
    }
}

// Writes the shares of the warp's surfels in sight, eight at a time. A whole warp calls it.
__device__ inline void find_shares(
    SightedSurfel* surfels, int count, const FrameShadows& shadows, const float* part_from_world,
    const QuadLight<float>& lamps) {
    const int word = threadIdx.x % kQuad, quad = threadIdx.x % 32 / kQuad;
    for (int first = 0; first < count; first += 32 / kQuad) {
        // Quads past the end repeat the last surfel, so that the warp stays whole.
        SightedSurfel& s = surfels[minimum(first + quad, count - 1)];
        const SurfacePoint<float> at = {
            s.center, s.normal, s.part, shadows.own_masks + kMaskWords * int64_t(s.index)};
        float visible[kWordBits];
        quad_visibility(
            shadows.probes, at, shadows.tables, part_from_world, kProbeShift, lamps_above(lamps, at.normal), visible);
        const LobeSums<float> sums = quad_lobes(lamps, at.normal, specular_lobe(s.lobe, s.roughness), visible);
        if (first + quad >= count) continue;
        // Two of the seven shares for each lane.
#pragma unroll
        for (int i = 0; i < kShares; ++i)
            if (word == i / 2) s.shares[i] = sums.share(i);
    }
}

__device__ inline void write_shadowed_values(
    const SightedSurfel& at, const RestSurfels& rest, const FrameView& view, const FrameLight<float>& light,
    const SplitSumTable<float>& table, const FrameRules& rules, float* out) {
    SurfaceElement<float> s = surface_of(rest, at.index, at.normal, at.to_viewer, view);
    s.visibility = at.shares[0];
    const ArrivingLight arriving = {load3(at.shares + 1), load3(at.shares + 4)};
    Vec3<float> shaded = {};
    if (!rules.deferred) shaded = shade_arriving(s, arriving, light, table, rules.shading);
    float* end = write_surfel_values(s, shaded, rules, out);
    if (!rules.deferred && !rules.buffer) return;
    store3(end, arriving.diffuse);
    store3(end + 3, arriving.specular);
}

// prepare_surfels with occlusion along the directions of the light.
static __global__ void __launch_bounds__(kSurfelThreads, 4) prepare_shadowed_surfels(
    RestSurfels rest, const FrameView* view, const FrameSetup* setup, FrameShadows shadows, FrameLight<float> light,
    SplitSumTable<float> table, FrameRules rules, SurfelOutputs out) {
    __shared__ Transform<float> bones[kJoints];
    __shared__ QuadLight<float> lamps;
    __shared__ SightedSurfel sighted[kSurfelThreads];
    load_lamps(*view, shadows, lamps);
    load_bones(*setup, bones);
    const int64_t i = int64_t(blockIdx.x) * kSurfelThreads + threadIdx.x;
    const int lane = threadIdx.x % 32;
    SightedSurfel* mine = sighted + threadIdx.x / 32 * 32;
    PlacedSurfel placed;
    const bool seen = i < rest.count && place_surfel(rest, i, bones, *view, *setup, rules, out, placed);
    const unsigned found = __ballot_sync(kWholeWarp, seen);
    const int count = __popc(found);
    if (seen) {
        const SurfaceElement<float> s = surface_of(rest, i, placed.normal, placed.to_viewer, *view);
        SightedSurfel& at = mine[__popc(found & ((1u << lane) - 1))];
        at.center = placed.center, at.normal = s.normal, at.to_viewer = s.to_viewer;
        at.lobe = lobe_direction(s, rules.shading), at.roughness = s.roughness;
        at.index = int32_t(i), at.part = int32_t(rest.part[i]);
    }
    __syncwarp();
    find_shares(mine, count, shadows, setup->part_from_world[0].m, lamps);
    __syncwarp();
    if (lane >= count) return;
    float* values = out.values + mine[lane].index * int64_t(frame_channels(rules));
    write_shadowed_values(mine[lane], rest, *view, light, table, rules, values);
}

}  // namespace gs_ir
