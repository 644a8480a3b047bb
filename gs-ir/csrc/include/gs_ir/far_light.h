// Light from far away (see gs_ir/scattering.py): radiance along a world direction, drawing directions, their density.
#pragma once

#include "gs_ir/equirect.h"
#include "gs_ir/microfacet.h"
#include "gs_ir/prepared_light.h"

namespace gs_ir {

// First entry of an ascending table that is greater than x; the last one where none is.
GS_IR_HD int32_t first_above(const double* table, int32_t count, double x) {
    int32_t low = 0, high = count - 1;
    while (low < high) {
        const int32_t middle = (low + high) / 2;
        if (table[middle] > x)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

// ---- An equirectangular map -----------------------------------------------------------------------------------------

template <typename T>
struct MapLight {
    EquirectImage<T> image;
    const double *row_cdf, *column_cdf;  // [H], and [H, W] to whose row r the number r is added
    const T* density;                    // [H, W] per solid angle
    T light_from_world[9];
};

template <typename T>
GS_IR_HD Vec3<T> radiance(const MapLight<T>& light, Vec3<T> direction) {
    return sample_equirect(light.image, rotated(light.light_from_world, direction));
}

template <typename T>
GS_IR_HD T pdf(const MapLight<T>& light, Vec3<T> direction) {
    const EquirectPlace<T> at(rotated(light.light_from_world, direction));
    const int32_t height = light.image.height, width = light.image.width;
    const int32_t row = clamp<int32_t>(int32_t(at.v * T(height)), 0, height - 1);
    const int32_t column = clamp<int32_t>(int32_t(at.u * T(width)), 0, width - 1);
    return light.density[int64_t(row) * width + column];
}

// Inverts a row of a cumulative table that starts at `base`: its entry, and the place inside the entry.
GS_IR_HD int32_t invert(const double* cdf, int32_t count, double base, double u, double& offset) {
    const int32_t entry = first_above(cdf, count, base + u);
    const double below = entry > 0 ? cdf[entry - 1] : base, width = cdf[entry] - below;
    offset = width > 0 ? clamp((base + u - below) / width, 0.0, 1.0) : 0.0;
    return entry;
}

// A texel by its energy, then uniform by solid angle inside of it.
template <typename T>
GS_IR_HD Vec3<T> sample(const MapLight<T>& light, T u0, T u1, T) {
    const int32_t height = light.image.height, width = light.image.width;
    double down, across;
    const int32_t row = invert(light.row_cdf, height, 0.0, double(u0), down);
    const int32_t column = invert(light.column_cdf + int64_t(row) * width, width, double(row), double(u1), across);
    // Counted from the nearer pole, where 1 - |y| = 2 sin^2(angle / 2) keeps its digits.
    const bool lower = 2 * row >= height;
    const int32_t to_pole = lower ? height - 1 - row : row;
    const T inner = std::sin(T(to_pole) * T(0.5 * kPi) / T(height)), outer = std::sin(T(to_pole + 1) * T(0.5 * kPi) / T(height));
    const T share = T(lower ? 1.0 - down : down);
    const T from_pole = T(2) * (inner * inner + (outer * outer - inner * inner) * share);
    const T radius = std::sqrt(maximum(from_pole * (T(2) - from_pole), T(0)));
    const T longitude = T(2 * kPi) * (T((double(column) + across) / width) - T(0.5));
    const T y = lower ? T(1) - from_pole : from_pole - T(1);
    return rotated_back(light.light_from_world, {radius * std::sin(longitude), y, radius * std::cos(longitude)});
}

// ---- Spherical Gaussians --------------------------------------------------------------------------------------------

// Lobes amplitude exp(sharpness (axis . d - 1)), chosen by their energy.
template <typename T>
struct GaussianLight {
    const T* lobes;       // [K, 8]: unit axis, sharpness, amplitude, density at the axis times the lobe's probability
    const T* cumulative;  // [K] of the lobes' probabilities
    int32_t count;
};

template <typename T>
GS_IR_HD T falloff(const T* lobe, Vec3<T> direction) {
    const T exponent = lobe[3] * (dot(load3(lobe), direction) - T(1));
    return exponent < T(-25) ? T(0) : std::exp(exponent);  // most lobes are far away: 1e-11 saves their exponential
}

template <typename T>
GS_IR_HD Vec3<T> radiance(const GaussianLight<T>& light, Vec3<T> direction) {
    Vec3<T> sum = {T(0), T(0), T(0)};
    for (int32_t k = 0; k < light.count; ++k)
        sum = sum + load3(light.lobes + 8 * k + 4) * falloff(light.lobes + 8 * k, direction);
    return sum;
}

template <typename T>
GS_IR_HD T pdf(const GaussianLight<T>& light, Vec3<T> direction) {
    T sum = T(0);
    for (int32_t k = 0; k < light.count; ++k) sum += light.lobes[8 * k + 7] * falloff(light.lobes + 8 * k, direction);
    return sum;
}

// Von Mises-Fisher distributed about the axis of a lobe.
template <typename T>
GS_IR_HD Vec3<T> sample(const GaussianLight<T>& light, T u0, T u1, T u2) {
    int32_t k = 0;
    while (k < light.count - 1 && light.cumulative[k] < u0) ++k;
    const T* lobe = light.lobes + 8 * k;
    const T height = T(1) + std::log1p(u1 * std::expm1(T(-2) * lobe[3])) / lobe[3];
    return NormalFrame<T>(load3(lobe)).to_world(at_height(height, u2));
}

}  // namespace gs_ir
