// A frame on the GPU, from pose to sRGB picture, without a word to the host (see gs_ir/frame.py).
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include "frame_shadows.cuh"
#include "tile_lists.cuh"

namespace {

using namespace gs_ir;

constexpr float kAlphaFloor = 1e-4f;  // coverage below which a pixel holds no surface

struct Picture {
    float *image, *alpha, *depth, *values;  // [H, W, 3], [H, W], and for a G-buffer [H, W], [H, W, channels]
};

// What deferred shading makes of a pixel's premultiplied properties: premultiplied radiance.
template <int kWidth>
__device__ Vec3<float> shade_pixel(
    const float (&sums)[kWidth], float alpha, const Place& place, const FrameSetup& setup, const FrameLight<float>& light,
    const SplitSumTable<float>& table, const ShadingRules& rules) {
    if (!(alpha > kAlphaFloor)) return {0.0f, 0.0f, 0.0f};
    const float average = 1.0f / alpha;
    const Vec3<float> pixel = {place.x + 0.5f, place.y + 0.5f, 1.0f};
    SurfaceElement<float> s;
    s.to_viewer = normalized(rotated(setup.ray_of_pixel, pixel)) * -1.0f;
    s.normal = oriented_normal(normalized(load3(sums + 5), kAlphaFloor), s.to_viewer, rules.normals);
    s.albedo = load3(sums) * average;
    s.roughness = sums[3] * average;
    s.metallic = sums[4] * average;
    s.visibility = sums[8] * average;
    if constexpr (kWidth >= kProperties + kArriving)
        return shade_arriving(
                   s, {load3(sums + kProperties) * average, load3(sums + kProperties + 3) * average}, light, table, rules) *
               alpha;
    return shade(s, light, table, rules) * alpha;
}

__device__ float finished(float radiance, float alpha, float background, bool in_srgb) {
    const float behind = (1.0f - alpha) * background;
    if (in_srgb) return to_srgb(clamp(radiance / maximum(alpha, kAlphaFloor), 0.0f, 1.0f)) * alpha + behind;
    return to_srgb(clamp(radiance + behind, 0.0f, 1.0f));
}

template <int kWidth, bool kDeferred>
__global__ void __launch_bounds__(kQuarterThreads) draw_picture(
    TileScene<float> scene, const FrameView* view, const FrameSetup* setup, FrameLight<float> light,
    SplitSumTable<float> table, FrameRules rules, Picture out) {
    __shared__ QuarterStage<float, kWidth> stage;
    const Place place(scene.width);
    float sums[kWidth] = {};
    const PixelState<float> state = blend_quarter(scene, stage, place, 0, sums);
    const float alpha = 1.0f - state.transmittance;
    const bool inside = place.x < scene.width && place.y < scene.height;
    Vec3<float> radiance = load3(sums);
    if constexpr (kDeferred) radiance = shade_pixel(sums, alpha, place, *setup, light, table, rules.shading);
    const bool in_srgb = kDeferred && rules.published_compositing;
    const float linear[3] = {radiance.x, radiance.y, radiance.z};
    float colour[4];
    for (int c = 0; c < 3; ++c) colour[c] = finished(linear[c], alpha, view->background, in_srgb);
    __syncthreads();
    float* buffer = &stage.values[0][0];
    write_patch(place, scene.width, scene.height, 3, colour, buffer, out.image);
    const int64_t pixel = int64_t(place.y) * scene.width + place.x;
    if (inside) out.alpha[pixel] = alpha;
    if (!rules.buffer) return;
    if (inside) out.depth[pixel] = state.depth;
    __syncthreads();  // rows of other widths lie elsewhere: one warp's are where the other's were
    write_patch(place, scene.width, scene.height, scene.channels, sums, buffer, out.values);
}

FrameRules frame_rules(at::IntArrayRef flags, bool directional, int64_t width, int64_t height) {
    TORCH_CHECK(flags.size() == 8, "draw_frame: 8 rules expected, found ", flags.size());
    const ShadingRules shading = {NormalRule(flags[0]), flags[1] != 0, flags[2] != 0, flags[3] != 0};
    return {shading,       flags[4] != 0, flags[5] != 0,  flags[6] != 0,
            flags[7] != 0, directional,   int32_t(width), int32_t(height)};
}

RestSurfels rest_surfels(at::TensorList t) {
    const auto data = [&](int i) { return t[i].const_data_ptr<float>(); };
    return {data(0), data(1), data(2), data(3), data(4), data(5), data(6), t[7].const_data_ptr<int64_t>(), t[0].size(0)};
}

Skeleton frame_skeleton(at::TensorList t) {
    return {t[0].const_data_ptr<float>(), t[1].const_data_ptr<float>(), t[2].const_data_ptr<int32_t>(),
            t[3].const_data_ptr<int32_t>(), int32_t(t[3].size(0))};
}

FrameLight<float> frame_light(at::TensorList t, const FrameView* view) {
    return {t[0].const_data_ptr<float>(),   t[1].const_data_ptr<int32_t>(), t[2].const_data_ptr<int32_t>(),
            t[3].const_data_ptr<float>(), int32_t(t[3].size(0)),          view->light_from_world};
}

constexpr int kTurningBlocks = 528;  // of all parts together: 4 for each SM of a large GPU

// shadows: masks, own masks; directions and energies of the lamps, directions baked. `turned` and `tables` are filled.
FrameShadows frame_shadows(
    at::TensorList shadows, at::TensorList volumes, double cell, const at::Tensor& turned, const at::Tensor& tables) {
    const auto words = [](const at::Tensor& t) { return reinterpret_cast<const uint32_t*>(t.const_data_ptr<int64_t>()); };
    const MaskVolumes<float> probes = {
        words(turned), volumes[1].const_data_ptr<int64_t>(), volumes[2].const_data_ptr<float>(),
        volumes[3].const_data_ptr<int64_t>(), float(cell), volumes[2].size(0)};
    return {words(shadows[0]), words(shadows[1]), shadows[2].const_data_ptr<float>(), shadows[3].const_data_ptr<float>(),
            shadows[4].const_data_ptr<float>(), tables.mutable_data_ptr<uint8_t>(),
            reinterpret_cast<uint32_t*>(turned.mutable_data_ptr<int64_t>()), probes};
}

// What occludes the surfels: nothing more than their own part, ambient visibility of others, or directional shadows.
struct Occluders {
    at::TensorList volumes, shadows;
    double cell;
};

void prepare(
    const RestSurfels& rest, const Occluders& occluders, const FrameView* view, const FrameSetup* setup,
    const FrameLight<float>& light, const SplitSumTable<float>& table, const FrameRules& rules, const SurfelOutputs& out) {
    if (rest.count == 0) return;
    const cudaStream_t stream = c10::cuda::getCurrentCUDAStream();
    const int blocks = blocks_for(rest.count, kSurfelThreads);
    const at::TensorList volumes = occluders.volumes;
    if (rules.directional) {
        const int64_t parts = volumes[2].size(0);
        const at::Tensor turned = at::empty_like(occluders.shadows[0]);
        const at::Tensor tables = at::empty({parts, kMaskBits}, turned.options().dtype(at::kByte));
        const FrameShadows shadows = frame_shadows(occluders.shadows, volumes, occluders.cell, turned, tables);
        const dim3 grid(unsigned((kTurningBlocks + parts - 1) / parts), unsigned(parts));
        turn_probes<<<grid, kMaskBits, 0, stream>>>(view, setup, shadows);
        C10_CUDA_KERNEL_LAUNCH_CHECK();
        prepare_shadowed_surfels<<<blocks, kSurfelThreads, 0, stream>>>(
            rest, view, setup, shadows, light, table, rules, out);
    } else {
        const bool query = !volumes.empty();
        const at::Tensor rows = query ? half_rows(volumes[0]) : at::Tensor();
        const auto probes = query ? device_probes<float>(rows, volumes, occluders.cell) : Probes<float, HalfRows>{};
        const auto kernel = query ? prepare_surfels<true> : prepare_surfels<false>;
        kernel<<<blocks, kSurfelThreads, 0, stream>>>(rest, view, setup, probes, light, table, rules, out);
    }
    C10_CUDA_KERNEL_LAUNCH_CHECK();
}

void draw(
    const TileScene<float>& scene, int64_t tiles, const FrameView* view, const FrameSetup* setup,
    const FrameLight<float>& light, const SplitSumTable<float>& table, const FrameRules& rules, const Picture& out) {
    const auto launch = [&](auto kernel) {
        kernel<<<kQuarters * tiles, kQuarterThreads, 0, c10::cuda::getCurrentCUDAStream()>>>(
            scene, view, setup, light, table, rules, out);
        C10_CUDA_KERNEL_LAUNCH_CHECK();
    };
    if (rules.deferred) return launch(rules.directional ? draw_picture<16, true> : draw_picture<12, true>);
    if (rules.buffer) return launch(rules.directional ? draw_picture<18, false> : draw_picture<12, false>);
    launch(draw_picture<4, false>);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor> draw_frame(
    at::TensorList surfels, at::TensorList skeleton, const at::Tensor& view, at::TensorList volumes, double cell,
    at::TensorList shadows, at::TensorList light, const at::Tensor& table, at::IntArrayRef flags, int64_t width,
    int64_t height, int64_t capacity) {
    const c10::cuda::CUDAGuard guard(view.device());
    const FrameRules rules = frame_rules(flags, !shadows.empty(), width, height);
    const RestSurfels rest = rest_surfels(surfels);
    const auto bytes = view.options().dtype(at::kByte), integers = view.options().dtype(at::kInt);
    TORCH_CHECK(view.numel() * sizeof(float) == sizeof(FrameView), "draw_frame: view of another size");
    const auto* seen = reinterpret_cast<const FrameView*>(view.const_data_ptr<float>());
    const at::Tensor setup_memory = at::empty({int64_t(sizeof(FrameSetup))}, bytes);
    auto* setup = reinterpret_cast<FrameSetup*>(setup_memory.mutable_data_ptr());
    set_up_frame<<<1, 32, 0, c10::cuda::getCurrentCUDAStream()>>>(seen, frame_skeleton(skeleton), setup);
    C10_CUDA_KERNEL_LAUNCH_CHECK();

    const int64_t channels = frame_channels(rules);
    const at::Tensor records = at::empty({rest.count * int64_t(sizeof(TileSurfel<float>))}, bytes),
                     boxes = at::empty({rest.count, 4}, integers), depths = at::empty({rest.count}, view.options()),
                     values = at::empty({rest.count, channels}, view.options());
    const SurfelOutputs prepared = {
        reinterpret_cast<TileSurfel<float>*>(records.mutable_data_ptr()), boxes.mutable_data_ptr<int32_t>(),
        depths.mutable_data_ptr<float>(), values.mutable_data_ptr<float>()};
    const FrameLight<float> lit = frame_light(light, seen);
    const SplitSumTable<float> split_sum = {table.const_data_ptr<float>(), int32_t(table.size(0))};
    prepare(rest, {volumes, shadows, cell}, seen, setup, lit, split_sum, rules, prepared);
    const TileLists lists = make_tile_lists(boxes, depths.const_data_ptr<float>(), width, height, capacity);

    const auto image = [&](at::IntArrayRef shape) { return at::empty(shape, view.options()); };
    const at::Tensor colour = image({height, width, 3}), alpha = image({height, width});
    const at::Tensor depth = image({rules.buffer ? height : 0, width});
    const at::Tensor properties = image({rules.buffer ? height : 0, width, channels});
    const Picture out = {colour.mutable_data_ptr<float>(), alpha.mutable_data_ptr<float>(),
                         depth.mutable_data_ptr<float>(), properties.mutable_data_ptr<float>()};
    const TileScene<float> scene = {
        prepared.surfels, prepared.values, lists.offsets.const_data_ptr<int32_t>(),
        lists.members.const_data_ptr<int32_t>(), int32_t(channels), int32_t(width), int32_t(height)};
    const int64_t tiles = lists.offsets.size(0) - 1;
    draw(scene, tiles, seen, setup, lit, split_sum, rules, out);
    return {colour, alpha, depth, properties, lists.offsets.narrow(0, tiles, 1)};
}

}  // namespace

TORCH_LIBRARY_IMPL(gs_ir, CUDA, m) { m.impl("draw_frame", draw_frame); }
