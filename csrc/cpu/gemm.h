// Products and sums over all rows of a layer: what is not in the loop over time.
#pragma once

#include "pack.h"
#include "tile.h"

namespace rnnfast::RNNFAST_TARGET {

template <class T>
RNNFAST_INLINE T* row_of(const Rows<T>& rows, int64_t r) {
  return rows.index != nullptr ? rows.index[r] : rows.base + r * rows.stride;
}

// The last panel of a row whose width is no multiple of L: through a copy, so that nothing behind the row is touched.
template <class T>
void gemm_ragged_panel(const GemmArgs<T>& g, Tile<T>& t, int64_t row, int rows, int64_t panel) {
  using V = Vec<T>;
  constexpr int L = V::lanes;
  alignas(64) T copy[kMaxTileRows][L];
  const int valid = static_cast<int>(g.width - panel * L);
  for (int m = 0; m < rows; ++m) {
    V::load_first(row_of(g.init, row + m) + panel * g.init_panel, valid).store(copy[m]);
    t.init[m] = t.out[m] = copy[m];
  }
  tile_of<T>(rows, 1, 1)(t);
  for (int m = 0; m < rows; ++m) V::load(copy[m]).store_first(row_of(g.out, row + m) + panel * g.out_panel, valid);
}

template <class T>
void gemm(const GemmArgs<T>& g, Span rows, Span panels, Team& team) {
  constexpr int L = Vec<T>::lanes;
  constexpr int64_t kWeightBytes = 256 * 1024;  // of a group of panels that all rows pass while it is in L2
  constexpr int64_t kTilesPerPoll = 64;         // at most a millisecond
  if (rows.begin >= rows.end) return;
  const Tiling tiling(rows.end - rows.begin, g.n, panels.end - panels.begin);
  const int64_t panel_size = g.runs * g.run_length * g.n * L;
  int64_t group = kWeightBytes / (panel_size * static_cast<int64_t>(sizeof(T)) + 1);
  group = group < tiling.panels ? tiling.panels : group / tiling.panels * tiling.panels;
  const int64_t full_panels = g.width < 0 ? panels.end : g.width / L;

  Tile<T> t;
  t.runs = g.runs, t.run_length = g.run_length, t.run_stride = g.run_stride;
  t.b_panel = panel_size, t.init_panel = g.init_panel, t.out_panel = g.out_panel;
  for (int64_t first = panels.begin; first < panels.end; first += group) {
    const int64_t last = first + group < panels.end ? first + group : panels.end;
    for (int64_t i = 0; i < tiling.tiles; ++i) {
      const int64_t row = rows.begin + tiling.begin(i);
      const int m_count = static_cast<int>(tiling.begin(i + 1) - tiling.begin(i));
      for (int m = 0; m < m_count; ++m) t.a[m] = row_of(g.a, row + m);
      for (int64_t panel = first; panel < last;) {
        t.b = g.b + panel * panel_size;
        if (panel >= full_panels) {
          gemm_ragged_panel(g, t, row, m_count, panel);
          ++panel;
          continue;
        }
        const int64_t end = last < full_panels ? last : full_panels;
        const int q = static_cast<int>(end - panel < tiling.panels ? end - panel : tiling.panels);
        for (int m = 0; m < m_count; ++m) {
          t.init[m] = row_of(g.init, row + m) + panel * g.init_panel;
          t.out[m] = row_of(g.out, row + m) + panel * g.out_panel;
        }
        tile_of<T>(m_count, g.n, q)(t);
        panel += q;
      }
      if (i % kTilesPerPoll == 0 && team_stopped(team)) return;
    }
  }
}

// The same with weights as the caller has them: a block of columns of a few panels is packed, used by all rows and
// forgotten, so that weights which are needed once are read once and not written at all. The product's panel 0 is
// `first_panel` of the weights.
template <class T>
void gemm_unpacked(const GemmArgs<T>& g, const UnpackedWeights<T>& u, T* scratch, Span rows, Span panels,
                   int64_t first_panel, Team& team) {
  constexpr int L = Vec<T>::lanes;
  if (rows.begin >= rows.end) return;
  constexpr int kVectors = 8;  // side by side: enough chains of fmas, and blocks of many columns in the scratch
  const int64_t most = kVectors / g.n;
  const Tiling tiling(rows.end - rows.begin, g.n, most < panels.end - panels.begin ? most : panels.end - panels.begin);
  const int64_t column_bytes = tiling.panels * g.n * L * static_cast<int64_t>(sizeof(T));
  const int64_t block = kUnpackedBytes / column_bytes / L * L;
  Tile<T> t;
  t.runs = 1, t.run_stride = 0, t.b = scratch, t.init_panel = g.init_panel, t.out_panel = g.out_panel;
  for (int64_t panel = panels.begin; panel < panels.end; panel += tiling.panels) {
    const int q_count = static_cast<int>(panels.end - panel < tiling.panels ? panels.end - panel : tiling.panels);
    for (int64_t k = 0; k < g.run_length; k += block) {
      t.run_length = g.run_length - k < block ? g.run_length - k : block;
      t.b_panel = t.run_length * g.n * L;
      for (int q = 0; q < q_count; ++q)
        pack_panel(u.weight + k, u.hidden, u.width, nullptr, t.run_length, u.run, scratch + q * t.b_panel,
                   first_panel + panel + q);
      for (int64_t i = 0; i < tiling.tiles; ++i) {
        const int64_t row = rows.begin + tiling.begin(i);
        const int m_count = static_cast<int>(tiling.begin(i + 1) - tiling.begin(i));
        for (int m = 0; m < m_count; ++m) {
          t.a[m] = row_of(g.a, row + m) + k;
          t.out[m] = row_of(g.out, row + m) + panel * g.out_panel;
          t.init[m] = k == 0 ? row_of(g.init, row + m) + panel * g.init_panel : t.out[m];
        }
        if (k > 0) t.init_panel = g.out_panel;
        tile_of<T>(m_count, g.n, q_count)(t);
      }
    }
    t.init_panel = g.init_panel;
    if (team_stopped(team)) return;
  }
}

template <class T>
void weight_gradient(const WeightGradientArgs<T>& g, Span panels, Span inputs, Team& team) {
  using V = Vec<T>;
  constexpr int L = V::lanes;
  if (inputs.begin >= inputs.end) return;
  const int64_t out_panel = g.inputs * g.n * L;
  const int width = g.n == 1 ? kMaxTilePanels : 1;  // panels at a time
  constexpr int64_t kBlocksPerPoll = 16;
  const T* x[kSumBlock];
  for (int64_t panel = panels.begin; panel < panels.end; panel += width) {
    const int q_count = static_cast<int>(panels.end - panel < width ? panels.end - panel : width);
    const int64_t limit = max_tile_rows(g.n * q_count), count = inputs.end - inputs.begin;
    const int64_t tiles = (count + limit - 1) / limit;
    for (int q = 0; q < q_count && !g.add; ++q) {
      T* out = g.gradient + (panel + q) * out_panel;
      for (int64_t i = inputs.begin * g.n * L; i < inputs.end * g.n * L; i += L) V(T(0)).store(out + i);
    }
    for (int64_t end = g.rows, row0; end > 0; end = row0) {  // the last block first, as backward makes them
      row0 = (end - 1) / kSumBlock * kSumBlock;
      const int64_t rows = end - row0;
      for (int64_t r = 0; r < rows; ++r) {
        x[r] = row_of(g.x, row0 + r);
        for (int q = 0; g.packed != nullptr && q < q_count; ++q) {
          const T* from = g.da + (row0 + r) * g.da_row + (panel + q) * g.da_panel + g.first * L;
          for (int n = 0; n < g.n; ++n) V::load(from + n * L).store(g.packed + ((q * kSumBlock + r) * g.n + n) * L);
        }
      }
      WeightTile<T> t;
      t.x = x, t.count = rows, t.out_panel = out_panel;
      if (g.packed != nullptr) {
        t.da = g.packed, t.da_row = g.n * L, t.da_panel = kSumBlock * g.n * L;
      } else {
        t.da = g.da + row0 * g.da_row + panel * g.da_panel + g.first * L, t.da_row = g.da_row, t.da_panel = g.da_panel;
      }
      for (int64_t i = 0; i < tiles; ++i) {
        t.i = inputs.begin + count * i / tiles;
        const int m_count = static_cast<int>(inputs.begin + count * (i + 1) / tiles - t.i);
        t.out = g.gradient + panel * out_panel + t.i * g.n * L;
        weight_tile_of<T>(m_count, g.n, q_count)(t);
      }
      if (row0 / kSumBlock % kBlocksPerPoll == 0 && team_stopped(team)) return;
    }
  }
}

template <class T>
void add_products(const WeightGradientArgs<T>& g, int64_t hidden, const Run& run, T* d_weight, Span panels) {
  using V = Vec<T>;
  constexpr int L = V::lanes, Q = 4;  // vectors of inputs at a time
  for (int64_t panel = panels.begin; panel < panels.end; ++panel) {
    for (int n = 0; n < g.n; ++n) {
      for (int lane = 0; lane < L; ++lane) {
        const int64_t weight = weight_row(run, n, hidden, panel, L, lane);
        if (weight < 0) break;
        const T* da = g.da + panel * g.da_panel + (g.first + n) * L + lane;
        T* to = d_weight + weight * g.inputs;
        int64_t i = 0;
        for (; i + Q * L <= g.inputs; i += Q * L) {
          V sum[Q];
          for (int q = 0; q < Q; ++q) sum[q] = V(T(0));
          for (int64_t r = 0; r < g.rows; ++r) {
            const V element(da[r * g.da_row]);
            const T* x = row_of(g.x, r) + i;
#pragma GCC unroll 4
            for (int q = 0; q < Q; ++q) sum[q] = fma(V::load(x + q * L), element, sum[q]);
          }
          for (int q = 0; q < Q; ++q) (V::load(to + i + q * L) + sum[q]).store(to + i + q * L);
        }
        for (; i < g.inputs; i += L) {
          const int count = static_cast<int>(g.inputs - i < L ? g.inputs - i : L);
          V sum(T(0));
          for (int64_t r = 0; r < g.rows; ++r)
            sum = fma(V::load_first(row_of(g.x, r) + i, count), V(da[r * g.da_row]), sum);
          (V::load_first(to + i, count) + sum).store_first(to + i, count);
        }
      }
    }
  }
}

template <class T, int P>
void sum_rows_of_panel(const T* da, const int32_t* order, int64_t count, int64_t row_size, bool add, T* out) {
  using V = Vec<T>;
  constexpr int L = V::lanes;
  V total[P];
  for (int p = 0; p < P; ++p) total[p] = add ? V::load(out + p * L) : V(T(0));
  for (int64_t end = count, row0; end > 0; end = row0) {
    row0 = (end - 1) / kSumBlock * kSumBlock;
    V sum[P];
    for (int p = 0; p < P; ++p) sum[p] = V(T(0));
    for (int64_t r = row0; r < end; ++r) {
      const T* row = da + (order != nullptr ? order[r] : r) * row_size;
      for (int p = 0; p < P; ++p) sum[p] = sum[p] + V::load(row + p * L);
    }
    for (int p = 0; p < P; ++p) total[p] = total[p] + sum[p];
  }
  for (int p = 0; p < P; ++p) total[p].store(out + p * L);
}

template <class T>
void sum_rows(const T* da, int64_t da_row, int64_t da_panel, const int32_t* order, int64_t count, int pre_activations,
              bool add, T* out, Span panels) {
  static constexpr void (*sum[kMaxPre])(const T*, const int32_t*, int64_t, int64_t, bool, T*) = {
      sum_rows_of_panel<T, 1>, sum_rows_of_panel<T, 2>, sum_rows_of_panel<T, 3>, sum_rows_of_panel<T, 4>};
  for (int64_t panel = panels.begin; panel < panels.end; ++panel)
    sum[pre_activations - 1](da + panel * da_panel, order, count, da_row, add,
                             out + panel * pre_activations * Vec<T>::lanes);
}

}  // namespace rnnfast::RNNFAST_TARGET
