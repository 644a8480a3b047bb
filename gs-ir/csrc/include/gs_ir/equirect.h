// Equirectangular images: bilinear lookup, averaging, and resampling to a cube map (see gs_ir/equirect.py).
#pragma once

#include "gs_ir/cubemap.h"

namespace gs_ir {

constexpr double kPi = 3.14159265358979323846;

// [height, width, 3]: rows from -y to +y, the centre column is +z, columns grow towards +x.
template <typename T>
struct EquirectImage {
    const T* texels;
    int32_t height, width;
};

// One row or column past the end is allowed: columns wrap around, rows continue across the pole.
template <typename T>
GS_IR_HD Vec3<T> equirect_texel(const EquirectImage<T>& image, int32_t row, int32_t column) {
    const int32_t inner = clamp<int32_t>(row, 0, image.height - 1);
    if (inner != row) column -= image.width / 2;
    if (column < 0) column += image.width;
    if (column >= image.width) column -= image.width;
    return load3(image.texels + 3 * (int64_t(inner) * image.width + column));
}

// Where a direction of any length lies in an image whose sides are 1.
template <typename T>
struct EquirectPlace {
    T u, v;

    GS_IR_HD explicit EquirectPlace(Vec3<T> d)
        : u(std::atan2(d.x, d.z) * T(0.5 / kPi) + T(0.5)),
          v(std::atan2(d.y, std::sqrt(d.x * d.x + d.z * d.z)) * T(1 / kPi) + T(0.5)) {}
};

// Bilinear radiance at a place.
template <typename T>
GS_IR_HD Vec3<T> sample_equirect(const EquirectImage<T>& image, EquirectPlace<T> at) {
    const T x = at.u * T(image.width) - T(0.5), y = at.v * T(image.height) - T(0.5);
    const int32_t left = clamp<int32_t>(int32_t(std::floor(x)), -1, image.width - 1);
    const int32_t top = clamp<int32_t>(int32_t(std::floor(y)), -1, image.height - 1);
    const T fx = x - T(left), fy = y - T(top);
    const Vec3<T> upper = equirect_texel(image, top, left) * (T(1) - fx) + equirect_texel(image, top, left + 1) * fx;
    const Vec3<T> lower =
        equirect_texel(image, top + 1, left) * (T(1) - fx) + equirect_texel(image, top + 1, left + 1) * fx;
    return upper * (T(1) - fy) + lower * fy;
}

// Bilinear radiance along a direction of any length.
template <typename T>
GS_IR_HD Vec3<T> sample_equirect(const EquirectImage<T>& image, Vec3<T> d) {
    return sample_equirect(image, EquirectPlace<T>(d));
}

// Texel `index` of a cube map: the mean of samples x samples lookups, weighted by `solid_angles`
// [R samples, R samples].
template <typename T>
GS_IR_HD Vec3<T> resample_equirect(
    const EquirectImage<T>& image, const T* solid_angles, int32_t index, int32_t resolution, int32_t samples) {
    const int32_t face = index / (resolution * resolution), fine = resolution * samples;
    const int32_t first_row = index / resolution % resolution * samples, first_column = index % resolution * samples;
    Vec3<T> sum = {T(0), T(0), T(0)};
    T total = T(0);
    for (int32_t row = first_row; row < first_row + samples; ++row)
        for (int32_t column = first_column; column < first_column + samples; ++column) {
            const Vec3<T> d = face_point(face, texel_centre<T>(column, fine), texel_centre<T>(row, fine));
            const T weight = solid_angles[int64_t(row) * fine + column];
            sum = sum + sample_equirect(image, d) * weight;
            total += weight;
        }
    return sum * (T(1) / total);
}

// Texel `index` of the image shrunk by `factor`. Solid angles of whole rows are in proportion to the sine at the row's
// centre.
template <typename T>
GS_IR_HD Vec3<T> shrink_equirect(const EquirectImage<T>& image, int64_t index, int32_t factor) {
    const int32_t width = image.width / factor;
    const int32_t first_row = int32_t(index / width) * factor, first_column = int32_t(index % width) * factor;
    Vec3<T> sum = {T(0), T(0), T(0)};
    T total = T(0);
    for (int32_t row = first_row; row < first_row + factor; ++row) {
        const int32_t to_pole = minimum(row, image.height - 1 - row);
        const T weight = std::sin((T(to_pole) + T(0.5)) * (T(kPi) / T(image.height)));
        const T* texel = image.texels + 3 * (int64_t(row) * image.width + first_column);
        Vec3<T> part = {T(0), T(0), T(0)};
        for (int32_t k = 0; k < factor; ++k) part = part + load3(texel + 3 * k);
        sum = sum + part * weight;
        total += weight;
    }
    return sum * (T(1) / (total * T(factor)));
}

}  // namespace gs_ir
