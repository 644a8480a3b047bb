// Connected parts by union-find: parents always have the smaller number, so a part is named after its smallest member
// in whatever order links are made (without locks: Jaiganesh and Burtscher 2018).
#pragma once

#include "gs_ir/common.h"

namespace gs_ir {

// The present root of `member`, halving the path to it. Threads may do so at once: parents only come nearer the root.
template <class Parents>
GS_IR_HD int32_t find_root(Parents parents, int32_t member) {
    int32_t previous = member, current = parents[member];
    while (true) {
        const int32_t next = parents[current];
        if (next == current) return current;
        parents[previous] = next;
        previous = current;
        current = next;
    }
}

// Join the parts of two members. claim(root, parent) hangs `root` below `parent` unless it no longer is a root; it
// returns whether it did.
template <class Parents, class Claim>
GS_IR_HD void join_parts(Parents parents, int32_t first, int32_t second, Claim claim) {
    while (true) {
        first = find_root(parents, first);
        second = find_root(parents, second);
        if (first == second) return;
        if (first < second ? claim(second, first) : claim(first, second)) return;
    }
}

}  // namespace gs_ir
