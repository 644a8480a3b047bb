// Triangles of the zero level set of a lattice of values (Lorensen and Cline 1987; see gs_ir/marching_cubes.py).
//
// The table is not written down but derived. Along the ring of a face's corners, every crossing into the inside is
// joined with the next one out of it. That depends on the face alone, so the cells on either side of it agree and no
// hole can appear; where a face is ambiguous, its inside corners are kept apart. The segments of a cell close to loops,
// and each loop becomes a fan whose diagonals stay off the faces, so that no edge has more than two triangles.
#pragma once

#include "gs_ir/common.h"

namespace gs_ir {

constexpr int kCubeEdges = 12;
constexpr int kCubeTriangles = 5;  // of a cell, at most

// Corner 4 z + 2 y + x; edge 4 axis + b + 2 c at offset b along axis + 1 and c along axis + 2.
struct CubeTable {
    uint8_t count[256];
    int8_t edges[256][3 * kCubeTriangles];
};

struct CubePoint {
    int at[3];
};

constexpr int cube_corner(CubePoint p) { return p.at[0] + 2 * p.at[1] + 4 * p.at[2]; }

// Corner i of the ring around face (axis, side), anticlockwise seen from outside the cube.
constexpr CubePoint ring_corner(int axis, int side, int i) {
    const int k = side == 1 ? i & 3 : 3 - (i & 3);
    CubePoint p{};
    p.at[axis] = side;
    p.at[(axis + 1) % 3] = k == 1 || k == 2;
    p.at[(axis + 2) % 3] = k >= 2;
    return p;
}

constexpr int edge_between(CubePoint p, CubePoint q) {
    const int axis = p.at[0] != q.at[0] ? 0 : p.at[1] != q.at[1] ? 1 : 2;
    return 4 * axis + p.at[(axis + 1) % 3] + 2 * p.at[(axis + 2) % 3];
}

// Whether two edges border one face: the diagonal between them would lie in it.
constexpr bool share_face(int first, int second) {
    for (int a = 0; a < 3; ++a) {
        const int i = first / 4, j = second / 4;
        if (a == i || a == j) continue;
        const int side_i = a == (i + 1) % 3 ? first & 1 : first >> 1 & 1;
        const int side_j = a == (j + 1) % 3 ? second & 1 : second >> 1 & 1;
        if (side_i == side_j) return true;
    }
    return false;
}

// Where the surface goes on from each crossed edge of a cell; -1 for the others.
constexpr void join_edges(int inside, int* next) {
    for (int e = 0; e < kCubeEdges; ++e) next[e] = -1;
    for (int face = 0; face < 6; ++face) {
        const auto corner = [&](int i) { return ring_corner(face / 2, face % 2, i); };
        const auto is_inside = [&](int i) { return (inside >> cube_corner(corner(i)) & 1) != 0; };
        for (int i = 0; i < 4; ++i) {
            if (is_inside(i + 3) || !is_inside(i)) continue;
            int last = i;
            while (is_inside(last + 1)) ++last;
            next[edge_between(corner(i + 3), corner(i))] = edge_between(corner(last), corner(last + 1));
        }
    }
}

// Whether the fan of a loop [length] around its member `apex` keeps its diagonals off the faces.
constexpr bool is_good_fan(const int* loop, int length, int apex) {
    for (int k = 2; k < length - 1; ++k)
        if (share_face(loop[apex], loop[(apex + k) % length])) return false;
    return true;
}

constexpr CubeTable make_cube_table() {
    CubeTable table{};
    for (int inside = 0; inside < 256; ++inside) {
        int next[kCubeEdges]{}, entries = 0;
        join_edges(inside, next);
        for (int start = 0; start < kCubeEdges; ++start) {
            int loop[kCubeEdges]{}, length = 0, apex = 0;
            for (int e = start; next[e] >= 0;) {
                loop[length++] = e;
                const int following = next[e];
                next[e] = -1;
                e = following;
            }
            while (apex < length - 1 && !is_good_fan(loop, length, apex)) ++apex;
            for (int k = 1; k < length - 1; ++k)
                for (int corner = 0; corner < 3; ++corner)
                    table.edges[inside][entries++] =
                        int8_t(loop[(apex + (corner == 0 ? 0 : k + corner - 1)) % length]);
        }
        table.count[inside] = uint8_t(entries / 3);
    }
    return table;
}

// ---- Lattice --------------------------------------------------------------------------------------------------------

template <typename T>
struct FieldLattice {
    const T* values;  // [Z, Y, X]; negative inside, NaN is outside
    int64_t size[3];  // X, Y, Z

    GS_IR_HD int64_t stride(int axis) const { return axis == 0 ? 1 : axis == 1 ? size[0] : size[0] * size[1]; }
    GS_IR_HD int64_t count() const { return size[0] * size[1] * size[2]; }
    GS_IR_HD bool inside(int64_t node) const { return values[node] < T(0); }
    GS_IR_HD void coordinates(int64_t node, int64_t* at) const {
        at[0] = node % size[0];
        at[1] = node / size[0] % size[1];
        at[2] = node / size[0] / size[1];
    }
};

// A node owns the three edges that leave it upwards, and the cell above it. Its code: a bit per crossed edge, and from
// bit 3 the number of the cell's triangles.
GS_IR_HD int crossed_edges(uint8_t code) { return (code & 1) + (code >> 1 & 1) + (code >> 2 & 1); }
GS_IR_HD int cell_triangles(uint8_t code) { return code >> 3; }

// Bit per corner inside of the cell above `node`, which must not lie on an upper border.
template <typename T>
GS_IR_HD int cell_case(const FieldLattice<T>& lattice, int64_t node) {
    int inside = 0;
    for (int corner = 0; corner < 8; ++corner) {
        const int64_t row = (corner >> 1 & 1) * lattice.stride(1) + (corner >> 2) * lattice.stride(2);
        inside |= int(lattice.inside(node + row + (corner & 1))) << corner;
    }
    return inside;
}

template <typename T>
GS_IR_HD uint8_t node_code(const FieldLattice<T>& lattice, const CubeTable& table, int64_t node) {
    int64_t at[3];
    lattice.coordinates(node, at);
    int code = 0;
    bool has_cell = true;
    for (int axis = 0; axis < 3; ++axis) {
        const bool has_edge = at[axis] + 1 < lattice.size[axis];
        has_cell = has_cell && has_edge;
        if (has_edge && lattice.inside(node) != lattice.inside(node + lattice.stride(axis))) code |= 1 << axis;
    }
    if (has_cell) code |= table.count[cell_case(lattice, node)] << 3;
    return uint8_t(code);
}

// Vertices of the edges of `node`, [crossed, 3] in units of the lattice.
template <typename T>
GS_IR_HD void emit_vertices(const FieldLattice<T>& lattice, uint8_t code, int64_t node, T* vertices) {
    int64_t at[3];
    lattice.coordinates(node, at);
    for (int axis = 0; axis < 3; ++axis) {
        if ((code >> axis & 1) == 0) continue;
        const T low = lattice.values[node], high = lattice.values[node + lattice.stride(axis)];
        for (int k = 0; k < 3; ++k) vertices[k] = T(at[k]);
        vertices[axis] += low / (low - high);
        vertices += 3;
    }
}

// Triangles of the cell of `node`, [count, 3]. first_vertex(n) is the number of the first vertex of node n.
template <typename T, class FirstVertex>
GS_IR_HD void emit_triangles(
    const FieldLattice<T>& lattice, const CubeTable& table, const uint8_t* codes, int64_t node,
    FirstVertex first_vertex, int64_t* faces) {
    const int inside = cell_case(lattice, node);
    for (int i = 0; i < 3 * table.count[inside]; ++i) {
        const int edge = table.edges[inside][i], axis = edge / 4;
        const int64_t owner = node + (edge & 1) * lattice.stride((axis + 1) % 3) +
                              (edge >> 1 & 1) * lattice.stride((axis + 2) % 3);
        faces[i] = first_vertex(owner) + crossed_edges(uint8_t(codes[owner] & ((1 << axis) - 1)));
    }
}

}  // namespace gs_ir
