// Where the levels of a cube map lie in memory, for host and device.
#pragma once

#include <c10/util/ArrayRef.h>
#include <c10/util/Exception.h>

#include "gs_ir/cubemap.h"

namespace gs_ir {

constexpr int kMaxLevels = 16;

// First texel and resolution of each level; `border` is the width of the frame around each face. A kernel's parameter:
// no copy to the device is needed.
template <typename I>
struct CubeLayout {
    I first[kMaxLevels] = {}, resolution[kMaxLevels] = {};
    int levels;
    int64_t total = 0;

    CubeLayout(c10::IntArrayRef resolutions, int64_t border) : levels(int(resolutions.size())) {
        TORCH_CHECK(levels <= kMaxLevels, "cube map: at most ", kMaxLevels, " levels expected, found ", levels);
        for (int i = 0; i < levels; ++i) {
            first[i] = I(total), resolution[i] = I(resolutions[i]);
            total += 6 * (resolutions[i] + 2 * border) * (resolutions[i] + 2 * border);
        }
    }

    template <typename T>
    GS_IR_HD CubeLevels<T> view(const T* texels, int64_t channels) const {
        return {texels, first, resolution, levels, channels};
    }
};

}  // namespace gs_ir
