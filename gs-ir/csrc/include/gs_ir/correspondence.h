// Posed -> canonical search: choice of seeds for a cell, Newton from each (see gs_ir/correspondence.py).
#pragma once

#include <limits>

#include "gs_ir/skinning.h"

namespace gs_ir {

constexpr int kMaxSeeds = 8;
// Candidates that one thread looks at together.
#if defined(__CUDA_ARCH__)
constexpr int kSeedLanes = 4;
#else
constexpr int kSeedLanes = 16;
#endif

template <typename T>
struct SeedSettings {
    T radius;
    T half_cell[3];
    int max_seeds;
    static constexpr T kSeparation = T(0.03);  // metres in canonical space between seeds
    static constexpr T kSheetStretch = T(2);   // canonical / posed distance that one surface sheet does not exceed
};

// Cells of one frame.
template <typename T>
struct SeedCells {
    T low[3], cell[3];
    SeedSettings<T> settings;

    GS_IR_HD void centre(const int64_t* at, T* out) const {
        for (int a = 0; a < 3; ++a) out[a] = low[a] + (T(at[a]) + T(0.5)) * cell[a];
    }
    // Whether `point` may be within the radius of a cell among `extent` from cell `first` on. The slack is for
    // rounding: the exact test is made cell by cell.
    GS_IR_HD bool reaches(const int64_t* first, const int64_t* extent, const T* point) const {
        T squared = T(0);
        for (int a = 0; a < 3; ++a) {
            const T from = low[a] + T(first[a]) * cell[a], to = from + T(extent[a]) * cell[a];
            const T outside = maximum(maximum(from - point[a], point[a] - to), T(0));
            squared += outside * outside;
        }
        return squared <= settings.radius * settings.radius * T(1.001);
    }
};

template <typename T>
GS_IR_HD SeedCells<T> make_seed_cells(const T* box, int64_t resolution, T radius, int max_seeds) {
    SeedCells<T> cells;
    cells.settings.radius = radius;
    cells.settings.max_seeds = max_seeds;
    for (int a = 0; a < 3; ++a) {
        cells.low[a] = box[a];
        cells.cell[a] = (box[3 + a] - box[a]) / T(resolution);
        cells.settings.half_cell[a] = cells.cell[a] * T(0.5);
    }
    return cells;
}

// Points that may seed a cell, as structure of arrays. `count` rounded up to kSeedLanes entries are readable; the
// posed coordinates of the padding are infinite.
template <typename T>
struct SeedCandidates {
    const T* posed[3];
    const T* canonical[3];
    int64_t count;
};

// priority[lane]: squared distance of candidate first + lane to the cell's centre, infinite beyond the radius.
template <typename T>
GS_IR_HD void seed_distances(
    const SeedCandidates<T>& candidates, int64_t first, const T* centre, const SeedSettings<T>& settings, T* priority) {
    const T *px = candidates.posed[0] + first, *py = candidates.posed[1] + first, *pz = candidates.posed[2] + first;
    const T radius_squared = settings.radius * settings.radius;
#pragma omp simd
    for (int lane = 0; lane < kSeedLanes; ++lane) {
        const T dx = std::abs(px[lane] - centre[0]), dy = std::abs(py[lane] - centre[1]);
        const T dz = std::abs(pz[lane] - centre[2]);
        const T ox = maximum(dx - settings.half_cell[0], T(0)), oy = maximum(dy - settings.half_cell[1], T(0)),
                oz = maximum(dz - settings.half_cell[2], T(0));
        const bool near = ox * ox + oy * oy + oz * oz <= radius_squared;
        priority[lane] = near ? dx * dx + dy * dy + dz * dz : std::numeric_limits<T>::infinity();
    }
}

template <typename T>
struct Seed {
    T posed[3], canonical[3];
};

// Makes the priority of candidates on the same surface sheet as `seed` infinite.
template <typename T>
GS_IR_HD void drop_sheet(const SeedCandidates<T>& candidates, int64_t first, const Seed<T>& seed, T* priority) {
    constexpr T separation = SeedSettings<T>::kSeparation, stretch = SeedSettings<T>::kSheetStretch;
    const T *cx = candidates.canonical[0], *cy = candidates.canonical[1], *cz = candidates.canonical[2];
    const T *px = candidates.posed[0], *py = candidates.posed[1], *pz = candidates.posed[2];
    const T c0 = seed.canonical[0], c1 = seed.canonical[1], c2 = seed.canonical[2];
    const T p0 = seed.posed[0], p1 = seed.posed[1], p2 = seed.posed[2];
#pragma omp simd
    for (int lane = 0; lane < kSeedLanes; ++lane) {
        const int64_t i = first + lane;
        const T dx = cx[i] - c0, dy = cy[i] - c1, dz = cz[i] - c2;
        const T ex = px[i] - p0, ey = py[i] - p1, ez = pz[i] - p2;
        const T least = maximum(separation * separation, stretch * stretch * (ex * ex + ey * ey + ez * ez));
        const T kept = priority[lane];
        priority[lane] = dx * dx + dy * dy + dz * dz > least ? kept : std::numeric_limits<T>::infinity();
    }
}

template <typename T>
GS_IR_HD T smallest_of(const T* priority) {
    T smallest = std::numeric_limits<T>::infinity();
#pragma omp simd reduction(min : smallest)
    for (int lane = 0; lane < kSeedLanes; ++lane) smallest = minimum(priority[lane], smallest);
    return smallest;
}

// Replaces seeds[found] by the candidate nearest to `centre` if that is nearer than `best` (its squared distance, made
// smaller) and on no sheet of the first `found` seeds. The first of equally near candidates is taken.
template <typename T>
GS_IR_HD void improve_seed(const SeedCandidates<T>& candidates, const T* centre, const SeedSettings<T>& settings,
                           Seed<T>* seeds, int found, T& best) {
    int64_t nearest = -1;
    for (int64_t first = 0; first < candidates.count; first += kSeedLanes) {
        T priority[kSeedLanes];
        seed_distances(candidates, first, centre, settings, priority);
        for (int k = 0; k < found; ++k) drop_sheet(candidates, first, seeds[k], priority);
        const T smallest = smallest_of(priority);
        if (!(smallest < best)) continue;
        best = smallest;
        for (int lane = kSeedLanes - 1; lane >= 0; --lane)
            if (priority[lane] == smallest) nearest = first + lane;
    }
    for (int a = 0; nearest >= 0 && a < 3; ++a) {
        seeds[found].posed[a] = candidates.posed[a][nearest];
        seeds[found].canonical[a] = candidates.canonical[a][nearest];
    }
}

// Seeds of the cell around `centre`, nearest first: writes up to settings.max_seeds, returns how many.
template <typename T>
GS_IR_HD int choose_seeds(
    const SeedCandidates<T>& candidates, const T* centre, const SeedSettings<T>& settings, Seed<T>* seeds) {
    for (int found = 0; found < settings.max_seeds; ++found) {
        T best = std::numeric_limits<T>::infinity();
        improve_seed(candidates, centre, settings, seeds, found, best);
        if (best == std::numeric_limits<T>::infinity()) return found;
    }
    return settings.max_seeds;
}

template <typename T>
struct SearchSettings {
    int iterations;
    T tolerance;
    T longest_step;
    static constexpr T kStepVoxels = T(4);  // longest Newton step: the interpolant is smooth only inside a voxel
    static constexpr T kSmallestDeterminant = T(1e-6);
    static constexpr T kDuplicateDistance = T(1e-3);
};

template <typename T>
GS_IR_HD SearchSettings<T> make_search_settings(const Lattice<T>& lattice, int iterations, T tolerance) {
    const T finest = minimum(lattice.scale[0], minimum(lattice.scale[1], lattice.scale[2]));
    return {iterations, tolerance, SearchSettings<T>::kStepVoxels / finest};
}

// Solve J s = -r, shortened to settings.longest_step; where J is singular, steepest descent with its transpose.
template <typename T>
GS_IR_HD Vec3<T> newton_step(const T* jacobian, Vec3<T> residual, const SearchSettings<T>& settings) {
    const Vec3<T> c0{jacobian[0], jacobian[3], jacobian[6]}, c1{jacobian[1], jacobian[4], jacobian[7]},
        c2{jacobian[2], jacobian[5], jacobian[8]};
    const Vec3<T> r0 = cross(c1, c2), r1 = cross(c2, c0), r2 = cross(c0, c1);
    const T determinant = dot(c0, r0);
    const bool solvable = std::abs(determinant) > SearchSettings<T>::kSmallestDeterminant;
    const T factor = solvable ? T(-1) / determinant : T(-1);
    const Vec3<T> step = solvable ? Vec3<T>{dot(r0, residual), dot(r1, residual), dot(r2, residual)}
                                  : Vec3<T>{dot(c0, residual), dot(c1, residual), dot(c2, residual)};
    const T size = length(step) * std::abs(factor);
    return step * (size > settings.longest_step ? factor * settings.longest_step / size : factor);
}

// The first step from a seed takes the blended transform for constant. The target may be a shell's thickness away, and
// over that distance this extrapolates better than the transform's slope at the seed (fewer failures beside folds).
template <typename T>
GS_IR_HD void step_from_seed(
    const T* volume, const Lattice<T>& lattice, const T* target, const SearchSettings<T>& settings, T* point) {
    T transform[kTransformSize], rotation[9], residual[3];
    sample_transform(volume, lattice, point, transform);
    for (int row = 0; row < 3; ++row) {
        const T* r = transform + 4 * row;
        residual[row] = r[0] * point[0] + r[1] * point[1] + r[2] * point[2] + r[3] - target[row];
        for (int c = 0; c < 3; ++c) rotation[3 * row + c] = r[c];
    }
    store3(point, load3(point) + newton_step(rotation, load3(residual), settings));
}

// Newton from point[3] (in: seed, out: root); jacobian[9] is that of the root. Returns whether it converged inside the
// lattice. Steps that do not reduce the residual are followed too: halving them gets stuck where voxels meet.
template <typename T>
GS_IR_HD bool search_root(
    const T* volume, const Lattice<T>& lattice, const T* target, const SearchSettings<T>& settings, T* point,
    T* jacobian) {
    step_from_seed(volume, lattice, target, settings, point);
    for (int iteration = 1;; ++iteration) {
        T posed[3];
        skin_with_jacobian(volume, lattice, point, posed, jacobian);
        const Vec3<T> residual = load3(posed) - load3(target);
        if (length(residual) < settings.tolerance) return inside_lattice(lattice, point);
        if (iteration >= settings.iterations) return false;
        store3(point, load3(point) + newton_step(jacobian, residual, settings));
    }
}

template <typename T>
GS_IR_HD bool is_duplicate(const T* point, const T* earlier, const bool* valid, int count) {
    for (int k = 0; k < count; ++k)
        if (valid[k] && length(load3(point) - load3(earlier + 3 * k)) < SearchSettings<T>::kDuplicateDistance)
            return true;
    return false;
}

// Roots of one posed point from `count` of `slots` seeds; slots that end without a new root hold 0 and the identity.
template <typename T>
GS_IR_HD void find_roots(
    const T* volume, const Lattice<T>& lattice, const T* target, const SearchSettings<T>& settings, const T* seeds,
    int count, int slots, T* canonical, bool* valid, T* jacobian) {
    for (int k = 0; k < slots; ++k) {
        T point[3], at_root[9];
        valid[k] = false;
        if (k < count) {
            store3(point, load3(seeds + 3 * k));
            valid[k] = search_root(volume, lattice, target, settings, point, at_root) &&
                       !is_duplicate(point, canonical, valid, k);
        }
        for (int a = 0; a < 3; ++a) canonical[3 * k + a] = valid[k] ? point[a] : T(0);
        for (int e = 0; e < 9; ++e) jacobian[9 * k + e] = valid[k] ? at_root[e] : T(e % 4 == 0);
    }
}

// Cell of a posed point in a frame's seed grid of `resolution` (z, y, x) cells over box[6], or -1 outside.
template <typename T>
GS_IR_HD int64_t seed_cell(const T* box, const int64_t* resolution, const T* point) {
    int64_t cell = 0;
    for (int a = 2; a >= 0; --a) {
        const T cells = T(resolution[2 - a]);
        const T scaled = (point[a] - box[a]) / (box[3 + a] - box[a]) * cells;
        if (!(scaled >= T(0) && scaled < cells)) return -1;
        cell = cell * resolution[2 - a] + int64_t(scaled);
    }
    return cell;
}

}  // namespace gs_ir
