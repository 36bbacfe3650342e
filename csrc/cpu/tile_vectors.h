// The tiles of tile.h in vector registers: M rows by Q panels of N vectors, a function each.
#pragma once

#include "tile.h"

namespace rnnfast::RNNFAST_TARGET {

// Of k: a loop's own instructions take turns of the multiply-adds where a core is shared. Measured with 32 registers.
constexpr int kStepsATurn = kRegisters == 32 ? 2 : 1;

template <class T, class E, int M, int N, int Q>
void tile(Tile<T, E>& t) {
  using V = Vec<T>;
  constexpr int L = V::lanes;
  V sum[M][Q * N];
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 16
    for (int j = 0; j < Q * N; ++j) sum[m][j] = V::load(t.init[m] + j / N * t.init_panel + j % N * L);

  const E* a[M];
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) a[m] = t.a[m];
  const E* b = t.b;
  const int64_t b_panel = t.b_panel, length = t.run_length;
  // Where nothing is needed, a line that is in L1 anyway: a prefetch costs less than a branch. But a tile that has all
  // rows never needs any, and those of one or two read weights as fast as L2 gives them: they would be a tenth slower.
  constexpr bool fetch = 2 * M + 1 > max_tile_rows(N == 1 ? Q : N);
  const char* ahead = t.ahead.step > 0 ? t.ahead.next : reinterpret_cast<const char*>(b);
  for (int64_t run = 0; run < t.runs; ++run) {
    if (run + 1 < t.runs)  // runs lie far apart, where no processor foresees the next one
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m)
        for (int64_t k = 0; k < length; k += 64 / static_cast<int64_t>(sizeof(E)))
          __builtin_prefetch(a[m] + t.run_stride + k);
#pragma GCC unroll kStepsATurn
    for (int64_t k = 0; k < length; ++k) {
      if (fetch) __builtin_prefetch(ahead, 0, 2);
      if (fetch) ahead += t.ahead.step;
      Vec<E> w[Q * N];
#pragma GCC unroll 16
      for (int j = 0; j < Q * N; ++j) w[j] = Vec<E>::load(b + j / N * b_panel + j % N * L);
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) {
        const Vec<E> x(a[m][k]);
#pragma GCC unroll 16
        for (int j = 0; j < Q * N; ++j) sum[m][j] = fma(x, w[j], sum[m][j]);
      }
      b += N * L;
    }
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) a[m] += t.run_stride;
  }

#pragma GCC unroll 8
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 16
    for (int j = 0; j < Q * N; ++j) sum[m][j].store(t.out[m] + j / N * t.out_panel + j % N * L);
  t.ahead.next = ahead;
}

template <class T, class E, int M, int N, int Q>
void weight_tile(const WeightTile<T, E>& t) {
  using V = Vec<T>;
  constexpr int L = V::lanes;
  V sum[M][Q * N];
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 16
    for (int j = 0; j < Q * N; ++j) {
      sum[m][j] = V(0);
      __builtin_prefetch(t.out + j / N * t.out_panel + (m * N + j % N) * L, 1);
    }
  const E *x = t.x, *da = t.da;
  const int64_t da_row = t.da_row, da_panel = t.da_panel;
  for (int64_t k = 0; k < t.count; ++k) {
    Vec<E> w[Q * N];
#pragma GCC unroll 16
    for (int j = 0; j < Q * N; ++j) w[j] = Vec<E>::load(da + j / N * da_panel + j % N * L);
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
      const Vec<E> element(x[m]);
#pragma GCC unroll 16
      for (int j = 0; j < Q * N; ++j) sum[m][j] = fma(element, w[j], sum[m][j]);
    }
    x += M;
    da += da_row;
  }
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 16
    for (int j = 0; j < Q * N; ++j) {
      T* out = t.out + j / N * t.out_panel + (m * N + j % N) * L;
      (V::load(out) + sum[m][j]).store(out);
    }
}

// Shapes that fit the registers, by [Q - 1][M - 1]; null where they do not.
template <class T, class E, int N>
struct Tiles {
  using Fn = void (*)(Tile<T, E>&);
  using WeightFn = void (*)(const WeightTile<T, E>&);

  template <int M, int Q>
  static constexpr Fn at() {
    if constexpr (M <= max_tile_rows(N * Q)) {
      return tile<T, E, M, N, Q>;
    } else {
      return nullptr;
    }
  }
  template <int M, int Q>
  static constexpr WeightFn weight_at() {
    // Several panels only where one is narrow: the gradient never lacks rows.
    if constexpr (M <= max_tile_rows(N * Q) && (N == 1 || Q == 1)) {
      return weight_tile<T, E, M, N, Q>;
    } else {
      return nullptr;
    }
  }
#define RNNFAST_ROWS(f, Q) {f<1, Q>(), f<2, Q>(), f<3, Q>(), f<4, Q>(), f<5, Q>(), f<6, Q>(), f<7, Q>(), f<8, Q>()}
  static constexpr Fn table[kMaxTilePanels][kMaxTileRows] = {RNNFAST_ROWS(at, 1), RNNFAST_ROWS(at, 2),
                                                             RNNFAST_ROWS(at, 3), RNNFAST_ROWS(at, 4)};
  static constexpr WeightFn weight_table[kMaxTilePanels][kMaxTileRows] = {
      RNNFAST_ROWS(weight_at, 1), RNNFAST_ROWS(weight_at, 2), RNNFAST_ROWS(weight_at, 3), RNNFAST_ROWS(weight_at, 4)};
#undef RNNFAST_ROWS
};

template <class T, class E>
RNNFAST_INLINE void run_tile(Tile<T, E>& t, int rows, int n, int panels) {
  switch (n) {
    case 1:
      return Tiles<T, E, 1>::table[panels - 1][rows - 1](t);
    case 2:
      return Tiles<T, E, 2>::table[panels - 1][rows - 1](t);
    case 3:
      return Tiles<T, E, 3>::table[panels - 1][rows - 1](t);
    default:
      return Tiles<T, E, 4>::table[panels - 1][rows - 1](t);
  }
}

template <class T, class E>
RNNFAST_INLINE void run_weight_tile(const WeightTile<T, E>& t, int rows, int n, int panels) {
  switch (n) {
    case 1:
      return Tiles<T, E, 1>::weight_table[panels - 1][rows - 1](t);
    case 2:
      return Tiles<T, E, 2>::weight_table[panels - 1][rows - 1](t);
    case 3:
      return Tiles<T, E, 3>::weight_table[panels - 1][rows - 1](t);
    default:
      return Tiles<T, E, 4>::weight_table[panels - 1][rows - 1](t);
  }
}

// How the inputs of a weight gradient are cut into tiles, each of whose columns of a block of rows are packed as
// [k][columns]. Rows of x are too far apart to be read where they are: no processor foresees that, and with a power of
// two of columns a block of rows falls on a few sets of a cache.
struct InputTiles {
  int64_t tiles, size, larger;  // the first `larger` tiles have one column more than `size`
  RNNFAST_INLINE InputTiles(int64_t count, int vectors) {
    const int64_t limit = max_tile_rows(vectors);
    tiles = (count + limit - 1) / limit;
    size = count / tiles, larger = count % tiles;
  }
  RNNFAST_INLINE int64_t columns(int64_t i) const { return size + (i < larger); }
  RNNFAST_INLINE int64_t begin(int64_t i) const { return i * size + (i < larger ? i : larger); }
  // Where those of a tile are packed, of `rows` rows.
  RNNFAST_INLINE int64_t place(int64_t i, int64_t rows) const { return begin(i) * rows; }
};

template <class E, int M>
void copy_tiles(const E* row, int64_t tiles, E* to, int64_t rows) {
  for (int64_t i = 0; i < tiles; ++i, row += M, to += M * rows) __builtin_memcpy(to, row, M * sizeof(E));
}

template <class E>
void pack_inputs(Rows<const E> x, int64_t row0, int64_t rows, int64_t first, const InputTiles& tiling, E* packed) {
  using Fn = void (*)(const E*, int64_t, E*, int64_t);
  static constexpr Fn copy[kMaxTileRows + 1] = {nullptr,          copy_tiles<E, 1>, copy_tiles<E, 2>,
                                                copy_tiles<E, 3>, copy_tiles<E, 4>, copy_tiles<E, 5>,
                                                copy_tiles<E, 6>, copy_tiles<E, 7>, copy_tiles<E, 8>};
  const int64_t split = tiling.begin(tiling.larger);
  for (int64_t k = 0; k < rows; ++k) {
    const E* row = row_of(x, row0 + k) + first;
    if (tiling.larger > 0) copy[tiling.size + 1](row, tiling.larger, packed + k * (tiling.size + 1), rows);
    copy[tiling.size](row + split, tiling.tiles - tiling.larger, packed + split * rows + k * tiling.size, rows);
  }
}

constexpr int kChains = 12;  // more than latency times throughput of any core, and 16 registers hold them

// `rounds` times kChains vectors of multiply-adds, of pairs where E holds pairs; returns their floating-point
// operations. sink: [kChains][L], in and out, so that nothing can be left out.
template <class T, class E>
int64_t fma_loop(int64_t rounds, E x, T* sink) {
  using V = Vec<T>;
  V sum[kChains];
#pragma GCC unroll 12
  for (int i = 0; i < kChains; ++i) sum[i] = V::load(sink + i * V::lanes);
  const Vec<E> factor(x);
  for (int64_t round = 0; round < rounds; ++round)
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) sum[i] = fma(factor, factor, sum[i]);
#pragma GCC unroll 12
  for (int i = 0; i < kChains; ++i) sum[i].store(sink + i * V::lanes);
  return rounds * kChains * V::lanes * 2 * depth<E>;
}

RNNFAST_INLINE bool kernel_barrier(Team& team) { return team_barrier(team); }
RNNFAST_INLINE bool kernel_stopped(Team& team) { return team_stopped(team); }

// What a table has of a kernel that multiplies.
template <auto kernel>
constexpr auto entry = kernel;

}  // namespace rnnfast::RNNFAST_TARGET
