// The microkernel: M rows by Q panels of N vectors of a matrix product, the accumulators in registers, which are
// vectors (tile_vectors.h) or AMX's (tile_amx.h).
//
// Every product of the library ends here or in weight_tile: the input and recurrent products of a forward step (N = a
// unit's pre-activations), the gradient of h and of x (N = 1, Q panels). An output is one chain of fused multiply-adds
// in the order of k (AMX's: of blocks of k) whatever M and Q are, so a row has the same bits alone and in a batch. M *
// N * Q accumulators leave room for a panel's weights and one broadcast; a step of k reads N * Q vectors of weights and
// M elements.
#pragma once

#include "vec_bf16.h"

namespace rnnfast::RNNFAST_TARGET {

// The most rows of a tile, its accumulators, and elements of k that are summed by themselves before they join the rest.
#ifdef RNNFAST_AMX
constexpr int kTileRows = 32, kAccumulators = 4 * kTileRows, kBlockOfK = 16;
constexpr bool kFullTiles = true;    // one of few rows takes as long, and is not read where it is
constexpr bool kInputByStep = true;  // its sums stay in registers for the recurrent product
#else
constexpr int kTileRows = kMaxTileRows, kAccumulators = kRegisters == 32 ? 24 : 12, kBlockOfK = 1;
constexpr bool kFullTiles = false, kInputByStep = false;
#endif

template <class T>
RNNFAST_INLINE T* row_of(const Rows<T>& rows, int64_t r) {
  return rows.index != nullptr ? rows.index[r] : rows.base + r * rows.stride;
}

// What the next tiles need of weights that fill L2 or more: a cache line of it, or less, is brought there at each step
// of k. Processors foresee what one tile reads in order, but not the next panel while many rows pass this one, and
// waiting for L3 takes up to a third of the time. Several lines at once, every few steps, would be in the way of other
// loads.
struct Ahead {
  const char* next = nullptr;
  int64_t step = 0;  // bytes
  Ahead() = default;
  // `bytes` from `weights` on, in `steps` steps of k; all weights that take turns in L2 are `all` bytes.
  RNNFAST_INLINE Ahead(const void* weights, int64_t bytes, int64_t steps, int64_t all)
      : next(static_cast<const char*>(weights)) {
    constexpr int64_t kMost = 128;  // beyond it too few of the lines would come to be worth their turn
    if (all >= core_cache_bytes() && bytes <= kMost * steps) step = bytes / steps;
  }
};

template <class T, class E>
struct Tile {
  const E* a[kTileRows];
  int64_t runs, run_length, run_stride;
  const E* b;  // [k][N][L], panels b_panel apart
  int64_t b_panel;
  const T* init[kTileRows];
  int64_t init_panel;
  T* out[kTileRows];
  int64_t out_panel;
  Ahead ahead;
  Tile* before = nullptr;  // the product that is added first, to its own init, where there is one: AMX only
};

// The same with the roles of the weight gradient: the sum runs over rows k, x[k][0 .. M) times da[k]; the result
// is added to out, so that a block's sum is complete before it joins those of the earlier blocks.
template <class T, class E>
struct WeightTile {
  const E* x;  // [count][M], or as pack_inputs makes it; where k goes in blocks, zeros to their end, as in da
  int64_t count;
  const E* da;  // [N][L] a row
  int64_t da_row, da_panel;
  T* out;  // [M][N][L], panels out_panel apart
  int64_t out_panel;
};

constexpr int max_tile_rows(int vectors) {
  return vectors > kAccumulators ? 0 : kAccumulators / vectors > kTileRows ? kTileRows : kAccumulators / vectors;
}

// Panels of one vector a tile takes, of so many: no more than kMaxTilePanels, and five are 3 + 2, not 4 + 1.
RNNFAST_INLINE int balanced_panels(int64_t panels) {
  const int64_t groups = (panels + kMaxTilePanels - 1) / kMaxTilePanels;
  return groups > 0 ? static_cast<int>((panels + groups - 1) / groups) : 1;
}

// How `rows` rows and panels of N vectors are cut into tiles: as few tiles as the registers allow, of equal size
// (25 rows are 5 x 5, not 4 x 6 + 1), and for few rows several panels, so that enough chains hide the latency of an
// fma and each row's element is broadcast once for all of them.
struct Tiling {
  int64_t tiles, rows;
  int panels;
  RNNFAST_INLINE Tiling(int64_t rows_, int n, int64_t max_panels) : rows(rows_), panels(1) {
    const int narrow = max_panels < kMaxTilePanels ? static_cast<int>(max_panels) : kMaxTilePanels;
    int limit = max_tile_rows(n);
    if (n == 1) {
      panels = balanced_panels(max_panels);
      limit = max_tile_rows(panels);
    }
    tiles = (rows + limit - 1) / limit;
    const int64_t largest = kFullTiles ? kTileRows : tiles > 0 ? (rows + tiles - 1) / tiles : 1;
    while (n > 1 && panels < narrow && (panels + 1) * n * largest <= kAccumulators) ++panels;
  }
  RNNFAST_INLINE int64_t begin(int64_t i) const {
    if (!kFullTiles) return rows * i / tiles;
    return i < tiles ? i * kTileRows : rows;
  }
};

}  // namespace rnnfast::RNNFAST_TARGET

#ifdef RNNFAST_AMX
#include "tile_amx.h"
#else
#include "tile_vectors.h"
#endif
