// Light scattered by points along rays, integrated by drawn directions (see gs_ir/scattering.py).
//
// Draw k of ray r has number k R + r: neighbouring threads take neighbouring rays. 32 rays share the order of their
// strata over the first two uniforms, so that these threads draw by one strategy, and their rays point alike.
#pragma once

#include "gs_ir/far_light.h"
#include "gs_ir/philox.h"
#include "gs_ir/rows.h"

namespace gs_ir {

constexpr int kScatterChannels = 7;  // radiance, demodulated, open share
constexpr int kSurfaceWidth = 8;     // normal, albedo, roughness, metallic
constexpr uint32_t kRaysOfOrder = 32;

// ---- Points ---------------------------------------------------------------------------------------------------------

// Inverts the CDF of a ray's weights at the centres of `draws` strata: emit(k, interval, depth, share of the pixel) in
// order, with interval -1 in the background. What an interval weighs is shared by its draws. No depth is beyond `limit`.
template <typename T, typename Emit>
GS_IR_HD void scatter_points_ray(const T* starts, const T* ends, const T* weights, int64_t count, T limit,
                                 int32_t draws, Emit emit) {
    T total = T(0);
    for (int64_t i = 0; i < count; ++i) total += weights[i];
    total = maximum(total, T(1));
    const T inverse = T(1) / T(draws);
    const auto position = [=](int32_t k) { return (T(k) + T(0.5)) * inverse; };
    T sum = T(0), low = T(0);
    int32_t first = 0;
    for (int64_t i = 0; i < count && first < draws; ++i) {
        sum += weights[i];
        const T high = sum / total;
        int32_t end = first;
        while (end < draws && position(end) < high) ++end;
        const T share = weights[i] / T(maximum(end - first, 1));
        for (; first < end; ++first) {
            const T place = clamp((position(first) - low) / (high - low), T(0), T(1));
            emit(first, i, minimum(starts[i] + place * (ends[i] - starts[i]), limit), share);
        }
        low = high;
    }
    for (; first < draws; ++first) emit(first, int64_t(-1), T(0), T(0));
}

// ---- Random numbers -------------------------------------------------------------------------------------------------

enum class Strategy { kCosine, kLight, kMaterial, kMixture };

// What a thread draws by: three uniforms, by the light or by the surface.
template <typename T>
struct ScatterUniforms {
    T u0, u1, u2;
    bool by_light;
};

enum RandomStream : uint32_t { kJitter, kOrder, kLobe, kOdd };

// A grid of `count` cells over the unit square, about half as many rows as columns.
struct Strata {
    uint32_t count, rows;
};

// How K draws of a ray are shared out: of a mixture the light gets half, of an odd number sometimes one more.
struct ScatterPlan {
    Strategy strategy;
    uint32_t draws;
    Strata fewer, more;  // what a strategy may get

    GS_IR_HD uint32_t by_light(uint32_t ray, uint64_t seed) const {
        if (strategy != Strategy::kMixture) return strategy == Strategy::kLight ? draws : 0;
        const uint32_t extra = draws % 2 == 0 ? 0 : philox(ray, 0, kOdd, seed).word[0] & 1;
        return draws / 2 + extra;
    }
};

// Each strategy's draws are stratified over the first two uniforms and, independently, over the third.
template <typename T>
GS_IR_HD ScatterUniforms<T> stratified_uniforms(const ScatterPlan& plan, uint64_t seed, uint32_t ray, uint32_t k) {
    const uint32_t group = ray / kRaysOfOrder, light = plan.by_light(ray, seed);
    const uint32_t slot = permuted(k, plan.draws, philox(group, 0, kOrder, seed));
    const bool by_light = slot < light;
    const uint32_t count = by_light ? light : plan.draws - light, cell = by_light ? slot : slot - light;
    const uint32_t rows = count == plan.more.count ? plan.more.rows : plan.fewer.rows, columns = count / rows;
    const uint32_t line = permuted(cell, count, philox(ray, by_light, kLobe, seed));
    const RandomWords jitter = philox(ray, k, kJitter, seed);
    return {(T(cell / columns) + uniform<T>(jitter.word[0])) / T(rows),
            (T(cell % columns) + uniform<T>(jitter.word[1])) / T(columns),
            (T(line) + uniform<T>(jitter.word[2])) / T(count), by_light};
}

template <typename T>
GS_IR_HD ScatterUniforms<T> single_uniforms(Strategy strategy, uint64_t seed, uint32_t item) {
    const RandomWords words = philox(item, 0, kJitter, seed);
    const bool by_light = strategy == Strategy::kMixture ? words.word[3] >> 31 : strategy == Strategy::kLight;
    return {uniform<T>(words.word[0]), uniform<T>(words.word[1]), uniform<T>(words.word[2]), by_light};
}

// ---- Directions -----------------------------------------------------------------------------------------------------

template <typename T>
GS_IR_HD ScatterPoint<T> scatter_point(const T* surface, Vec3<T> view) {
    const auto s = row<kSurfaceWidth>(surface);
    return {{s[0], s[1], s[2]}, view, {s[3], s[4], s[5]}, s[6], s[7]};
}

template <typename T, class Light>
GS_IR_HD Vec3<T> scatter_direction(
    const ScatterPoint<T>& p, const Light& light, Strategy strategy, const ScatterUniforms<T>& u) {
    if (u.by_light) return sample(light, u.u0, u.u1, u.u2);
    if (strategy == Strategy::kCosine) return sample_cosine(p.normal, u.u0, u.u1);
    return sample_lobes(p, u.u0, u.u1, u.u2);
}

// Of a mixture, that of both strategies: dividing by it is the balance heuristic (Veach 1997).
template <typename T, class Light>
GS_IR_HD T scatter_density(const ScatterPoint<T>& p, const Light& light, Strategy strategy, Vec3<T> direction) {
    if (strategy == Strategy::kCosine) return pdf_cosine(p.normal, direction);
    if (strategy == Strategy::kLight) return pdf(light, direction);
    if (strategy == Strategy::kMaterial) return pdf_lobes(p, direction);
    return T(0.5) * (pdf(light, direction) + pdf_lobes(p, direction));
}

// A direction and its density; direction zero where nothing is scattered: below the surface.
template <typename T>
struct ScatterDraw {
    Vec3<T> direction;
    T density;
};

template <typename T, class Light>
GS_IR_HD ScatterDraw<T> scatter(
    const ScatterPoint<T>& p, const Light& light, Strategy strategy, const ScatterUniforms<T>& u) {
    constexpr T nothing = T(0);
    if (!(dot(p.normal, p.view) > T(kMinCosine))) return {{nothing, nothing, nothing}, T(1)};
    const Vec3<T> direction = scatter_direction(p, light, strategy, u);
    if (!both_above(p, direction)) return {{nothing, nothing, nothing}, T(1)};
    return {direction, maximum(scatter_density(p, light, strategy, direction), T(1e-6))};
}

// Drawn points and the rays [R] they lie on.
template <typename T>
struct ScatterScene {
    const T *origins, *directions;  // [R, 3]
    const int32_t* rows;            // [K, R] of the surface, -1: background
    const T* surface;               // [S, 8]
    int64_t rays, draws;

    GS_IR_HD ScatterPoint<T> point(int64_t i, int64_t ray) const {
        return scatter_point(surface + int64_t(rows[i]) * kSurfaceWidth, load3(directions + 3 * ray) * T(-1));
    }
};

// Draw k of a ray, and where it starts: `offset` off the surface.
template <typename T, class Light>
GS_IR_HD ScatterDraw<T> scatter_ray(const ScatterScene<T>& scene, const T* depth, const Light& light,
                                    const ScatterPlan& plan, uint64_t seed, T offset, uint32_t k, uint32_t ray,
                                    Vec3<T>& origin) {
    const int64_t i = k * scene.rays + ray;
    origin = {T(0), T(0), T(0)};
    if (scene.rows[i] < 0) return {origin, T(1)};
    const ScatterPoint<T> p = scene.point(i, ray);
    origin = load3(scene.origins + 3 * int64_t(ray)) - p.view * depth[i] + p.normal * offset;
    return scatter(p, light, plan.strategy, stratified_uniforms<T>(plan, seed, ray, k));
}

// ---- Light ----------------------------------------------------------------------------------------------------------

// What the drawn rays found: [K R] each; `indirect` may be null.
template <typename T>
struct ScatterFound {
    const T *share, *directions, *density;
    const bool* visible;
    const T* indirect;

    template <class Light>
    GS_IR_HD Vec3<T> arriving(int64_t i, Vec3<T> direction, const Light& light) const {
        const Vec3<T> sky = visible[i] ? radiance(light, direction) : Vec3<T>{T(0), T(0), T(0)};
        return indirect == nullptr ? sky : sky + load3(indirect + 3 * i);
    }
};

// Sums of a ray over its draws: radiance, the same with the diffuse lobe of albedo 1, visible share of the diffuse lobe.
template <typename T, class Light>
GS_IR_HD void gather_ray(
    const ScatterScene<T>& scene, const ScatterFound<T>& found, const Light& light, int64_t ray, T* out) {
    Vec3<T> radiance = {T(0), T(0), T(0)}, demodulated = radiance;
    T open = T(0);
    for (int64_t k = 0; k < scene.draws; ++k) {
        const int64_t i = k * scene.rays + ray;
        if (scene.rows[i] < 0) continue;
        const Vec3<T> direction = load3(found.directions + 3 * i);
        const ScatterPoint<T> p = scene.point(i, ray);
        if (!both_above(p, direction)) continue;
        const T share = found.share[i] / found.density[i];
        const LobesCosine<T> lobes = lobes_cosine(p, direction);
        const Vec3<T> arriving = found.arriving(i, direction, light) * share;
        radiance = radiance + multiplied(arriving, scattered_cosine(p, lobes));
        demodulated = demodulated + multiplied(arriving, grey(lobes.diffuse) + lobes.specular);
        open += found.visible[i] ? share * lobes.diffuse : T(0);
    }
    store3(out, radiance);
    store3(out + 3, demodulated);
    out[6] = open;
}

// One draw at point i: its direction, and the radiance that arrives from there and is scattered if nothing is between.
template <typename T, class Light>
GS_IR_HD void scatter_once(const T* surface, const T* views, const Light& light, Strategy strategy, uint64_t seed,
                           int64_t i, T* directions, T* radiances) {
    const ScatterPoint<T> p = scatter_point(surface + kSurfaceWidth * i, load3(views + 3 * i));
    const ScatterDraw<T> draw = scatter(p, light, strategy, single_uniforms<T>(strategy, seed, uint32_t(i)));
    Vec3<T> scattered = {T(0), T(0), T(0)};
    if (both_above(p, draw.direction))
        scattered = multiplied(scattered_cosine(p, lobes_cosine(p, draw.direction)), radiance(light, draw.direction)) *
                    (T(1) / draw.density);
    store3(directions + 3 * i, draw.direction);
    store3(radiances + 3 * i, scattered);
}

// ---- Hits -----------------------------------------------------------------------------------------------------------

// A mesh posed several times: faces [B F][3] count the vertices of all copies, `canonical` has those of one.
template <typename T>
struct PosedMesh {
    const int64_t* faces;
    const T *vertices, *canonical;
    int64_t canonical_count;
};

// Those of N rays that hit: their numbers [M], and of all rays face [N], weights of vertices 1 and 2 [N, 2], direction.
template <typename T>
struct FoundHits {
    const int64_t *rays, *face;
    const T *barycentric, *directions;
};

// [M, 3] each; `normal` is unit and towards where the ray came from, as `view` is.
template <typename T>
struct HitSurfaces {
    T *canonical, *world, *normal, *view;
};

template <typename T>
GS_IR_HD void surface_at_hit(
    const PosedMesh<T>& mesh, const FoundHits<T>& hits, const HitSurfaces<T>& out, int64_t i) {
    const int64_t ray = hits.rays[i];
    const int64_t* corner = mesh.faces + 3 * maximum<int64_t>(hits.face[ray], 0);
    const T weight1 = hits.barycentric[2 * ray], weight2 = hits.barycentric[2 * ray + 1];
    const T weights[3] = {T(1) - weight1 - weight2, weight1, weight2};
    Vec3<T> canonical = {T(0), T(0), T(0)}, world = canonical, posed[3];
    for (int c = 0; c < 3; ++c) {
        posed[c] = load3(mesh.vertices + 3 * corner[c]);
        canonical = canonical + load3(mesh.canonical + 3 * (corner[c] % mesh.canonical_count)) * weights[c];
        world = world + posed[c] * weights[c];
    }
    const Vec3<T> normal = normalized(cross(posed[1] - posed[0], posed[2] - posed[0]));
    const Vec3<T> view = load3(hits.directions + 3 * ray) * T(-1);
    store3(out.canonical + 3 * i, canonical);
    store3(out.world + 3 * i, world);
    store3(out.normal + 3 * i, dot(normal, view) < T(0) ? normal * T(-1) : normal);
    store3(out.view + 3 * i, view);
}

}  // namespace gs_ir
