// The only loop over time.
//
// A thread owns some sequences and some panels (Part) and takes them through all steps: for each step and each tile of
// rows and panels, the recurrent product ends in a scratch that stays in L1 and the cell's function runs on it at
// once, so that states, saved values and gradients are written exactly once. Where a sequence's panels are spread over
// threads there is one barrier a step; where each thread has sequences of its own there is none.
#pragma once

#include "gemm_unpacked.h"

namespace rnnfast::RNNFAST_TARGET {

constexpr int bits_first(unsigned mask) { return mask & 1 ? 0 : 1 + bits_first(mask >> 1); }
constexpr int bits_count(unsigned mask) { return mask == 0 ? 0 : (mask & 1) + bits_count(mask >> 1); }

template <class Cell>
struct Traits {
  static constexpr int P = Cell::pre_activations, S = Cell::states, saved = Cell::saved;
  static constexpr int input_first = bits_first(Cell::input_mask), input_count = bits_count(Cell::input_mask);
  static constexpr int first = bits_first(Cell::recurrent_mask), count = bits_count(Cell::recurrent_mask);
  static_assert(Cell::recurrent_mask >> first == (1u << count) - 1, "the recurrent pre-activations must be a run");
  static_assert(Cell::input_mask >> input_first == (1u << input_count) - 1, "the inputs' must be a run");
  static_assert(P <= kMaxPre && S <= kMaxStates && saved <= kMaxPre);
};

// One sequence at one step: where everything of that row begins (unit 0).
template <class T, class E>
struct StepRow {
  const E* a;     // of the product: h_prev [H]; backward, da of the step after
  const E* x;     // [I], where the step brings the input product
  const T* init;  // of the product: pre-activations [panel][P][L]; backward, the cell's own gradient of h
  const T* prev[kMaxStates];
  T* state[kMaxStates];
  E* h;  // state 0 as an operand, where E is not T
  T* saved;
  const T* dy;  // [H] or null; from here on backward only
  T* ds[kMaxStates];
  E* da;
  bool cut;  // no gradient passes to the step before
};

RNNFAST_INLINE int64_t sequences(const Share& share, int64_t active) {
  const int64_t end = active < share.end ? active : share.end;
  return end > share.first ? (end - share.first + share.stride - 1) / share.stride : 0;
}

// Row of step s (in this direction's order) of sequence j, and of the step before it.
struct Walk {
  const ScheduleView& schedule;
  bool reverse;
  RNNFAST_INLINE int64_t time(int64_t s, int64_t j) const { return reverse ? schedule.length[j] - 1 - s : s; }
  RNNFAST_INLINE int64_t row(int64_t s, int64_t j) const { return schedule.offset[time(s, j)] + j; }
  // Whether the state before step s is cut off; at step 0 only the forward direction can be.
  RNNFAST_INLINE bool cut(int64_t s, int64_t j) const {
    if (schedule.cut == nullptr || (reverse && s == 0)) return false;
    return schedule.cut[reverse ? row(s - 1, j) : row(s, j)] != 0;
  }
};

// Short steps ask every sixteenth time whether to stop, and a single one not at all, so that the clock is never seen in
// a profile.
RNNFAST_INLINE int64_t poll_mask_of(const ScheduleView& schedule, const Part& part, int64_t panel_work) {
  const int64_t panels = part.panels.end - part.panels.begin;
  return schedule.batch / part.share.stride * panels * panel_work < 100000 ? 15 : 0;
}

// A vector of a panel, without what lies behind the last unit: weights of zero make NaN of inf there, which all that
// reads the panel would take over.
template <class T>
RNNFAST_INLINE Vec<T> load_panel(const T* lanes, int64_t unit, int64_t hidden) {
  constexpr int L = Vec<T>::lanes;
  return unit + L <= hidden ? Vec<T>::load(lanes) : Vec<T>::load_first(lanes, static_cast<int>(hidden - unit));
}

// A state's vector in a row of [H] elements that ends where the units end.
template <class T>
RNNFAST_INLINE Vec<T> load_units(const T* row, int64_t unit, int64_t hidden) {
  return load_panel(row + unit, unit, hidden);
}
template <class T>
RNNFAST_INLINE void store_units(Vec<T> v, T* row, int64_t unit, int64_t hidden) {
  constexpr int L = Vec<T>::lanes;
  if (unit + L <= hidden) {
    v.store(row + unit);
  } else {
    v.store_first(row + unit, static_cast<int>(hidden - unit));
  }
}

// The input product of the rows of steps [s0, s1): bias, then W x; a pre-activation that gets no input has its bias.
template <class Cell, class T, class E>
void input_product(const ForwardArgs<T, E>& f, const Scratch<T, E>& scratch, const Part& part, int64_t s0, int64_t s1,
                   int64_t r_bytes, Team& team) {
  using C = Traits<Cell>;
  using V = Vec<T>;
  constexpr int L = V::lanes, N = C::input_count;
  const Walk walk{f.schedule, f.reverse};
  const int64_t own = part.panels.end - part.panels.begin, row_size = own * C::P * L;
  const T* bias = f.bias + part.panels.begin * C::P * L;
  const int64_t inputs = (f.input + depth<E> - 1) / depth<E>;
  int64_t rows = 0;
  for (int64_t s = s0; s < s1; ++s) {
    const int64_t count = sequences(part.share, f.schedule.active[s]);
    for (int64_t i = 0; i < count; ++i, ++rows) {
      const int64_t r = walk.row(s, part.share.first + i * part.share.stride);
      T* pre = scratch.pre + rows * row_size;
      if (f.token != nullptr) {
        for (int64_t panel = 0; panel < own; ++panel) {
          const T* column = f.columns + ((part.panels.begin + panel) * f.input + f.token[r]) * N * L;
#pragma GCC unroll 4
          for (int p = 0; p < C::P; ++p) {
            const V b = V::load(bias + (panel * C::P + p) * L);
            const bool fed = Cell::input_mask >> p & 1;
            (fed ? b + V::load(column + (p - C::input_first) * L) : b).store(pre + (panel * C::P + p) * L);
          }
        }
      } else {
        scratch.x_rows[rows] = row_of(f.x, r);
        for (int64_t panel = 0; N < C::P && panel < own; ++panel)
          for (int p = 0; p < C::P; ++p)
            if ((Cell::input_mask >> p & 1) == 0)
              V::load(bias + (panel * C::P + p) * L).store(pre + (panel * C::P + p) * L);
      }
    }
  }
  if (f.token != nullptr) return;
  GemmArgs<T, E> g;
  g.n = N, g.runs = 1, g.run_length = inputs, g.run_stride = 0;
  g.a = {nullptr, 0, scratch.x_rows};
  g.b = f.w + part.panels.begin * inputs * N * L;
  g.init = {bias + C::input_first * L, 0, nullptr}, g.init_panel = C::P * L;
  g.out = {scratch.pre + C::input_first * L, row_size, nullptr}, g.out_panel = C::P * L;
  g.width = -1, g.others = r_bytes;
  if (f.w != nullptr) {
    gemm(g, {0, rows}, {0, own}, team);
  } else {
    gemm_unpacked(g, f.w_rows, scratch.weights, {0, rows}, {0, own}, part.panels.begin, team);
  }
}

// Adds the recurrent product of a single step to the pre-activations that wait in the scratch.
template <class Cell, class T, class E>
void recurrent_product_unpacked(const ForwardArgs<T, E>& f, const Scratch<T, E>& scratch, const Part& part,
                                int64_t count, Team& team) {
  using C = Traits<Cell>;
  constexpr int L = Vec<T>::lanes;
  const StepRow<T, E>* rows = static_cast<const StepRow<T, E>*>(scratch.step_rows);
  const int64_t own = part.panels.end - part.panels.begin;
  for (int64_t i = 0; i < count; ++i) scratch.x_rows[i] = rows[i].a;
  GemmArgs<T, E> g;
  g.n = C::count, g.runs = 1, g.run_length = (f.hidden + depth<E> - 1) / depth<E>, g.run_stride = 0;
  g.a = {nullptr, 0, scratch.x_rows};
  g.b = nullptr;
  g.out = {scratch.pre + C::first * L, own * C::P * L, nullptr}, g.out_panel = C::P * L;
  g.init = {g.out.base, g.out.stride, nullptr}, g.init_panel = g.out_panel;
  g.width = -1, g.others = 0;
  gemm_unpacked(g, f.r_rows, scratch.weights, {0, count}, {0, own}, part.panels.begin, team);
}

template <class Cell, class T, class E>
void cell_forward(const ForwardArgs<T, E>& f, const StepRow<T, E>& row, const T* product, int64_t panel,
                  int64_t pre_panel) {
  using C = Traits<Cell>;
  using V = Vec<T>;
  constexpr int L = V::lanes;
  const int64_t unit = panel * L;
  V a[C::P], prev[C::S], state[C::S], saved[C::saved > 0 ? C::saved : 1];
#pragma GCC unroll 4
  for (int p = 0; p < C::P; ++p)
    a[p] =
        load_panel(Cell::recurrent_mask >> p & 1 ? product + (p - C::first) * L : row.init + (pre_panel * C::P + p) * L,
                   unit, f.hidden);
  prev[0] = load_units(row.prev[0], unit, f.hidden);
  for (int k = 1; k < C::S; ++k) prev[k] = V::load(row.prev[k] + unit);
  Cell::forward(a, prev, state, saved);
  store_units(state[0], row.state[0], unit, f.hidden);
  if constexpr (!same_type<T, E>) store_operand(state[0], row.h + panel * operands<E>);
  for (int k = 1; k < C::S; ++k) state[k].store(row.state[k] + unit);
  if (C::saved > 0 && row.saved != nullptr)
#pragma GCC unroll 4
    for (int k = 0; k < C::saved; ++k) saved[k].store(row.saved + (panel * f.panel_rows * C::saved + k) * L);
}

// The input product of a step, for cells whose pre-activations have both products: the sums go on in registers.
template <class T, class E>
struct InputOfStep {
  Tile<T, E> tile;
  const E* w;     // [panel][I][N][L]
  const T* bias;  // [panel][N][L]
  RNNFAST_INLINE void place(const StepRow<T, E>* row, int count, int64_t panel) {
    tile.b = w + panel * tile.b_panel;
    for (int m = 0; m < count; ++m) {
      tile.a[m] = row[m].x;
      tile.init[m] = bias + panel * tile.init_panel;
    }
  }
};

// Every tile of one step of this part: the product that `row.a` takes part in, behind that of `input` if there is one,
// then `finish(row, product, panel)`.
// Steps alternate between both ends where weights fill L2 or more: what the step before read last is still there.
// `others`: bytes of weights that other products read between two steps.
template <int N, class T, class E, class Finish>
RNNFAST_INLINE void step_tiles(Tile<T, E>& t, const StepRow<T, E>* rows, int64_t count, Span panels, bool odd,
                               const E* b, int64_t init_offset, int64_t init_base, Finish finish,
                               InputOfStep<T, E>* input = nullptr, int64_t others = 0) {
  constexpr int L = Vec<T>::lanes;
  alignas(64) T product[kTileRows * kMaxTilePanels * kMaxPre * L];
  const Tiling tiling(count, N, panels.end - panels.begin);
  const int64_t steps = t.runs * t.run_length, panel_bytes = t.b_panel * static_cast<int64_t>(sizeof(E));
  t.out_panel = N * L;
  t.before = input != nullptr ? &input->tile : nullptr;
  const int64_t groups = (panels.end - panels.begin + tiling.panels - 1) / tiling.panels;
  const bool from_last = odd && (panels.end - panels.begin) * panel_bytes > core_cache_bytes() / 2;
  const auto group = [&](int64_t i) {
    const int64_t begin = panels.begin + (from_last ? groups - 1 - i : i) * tiling.panels;
    return Span{begin, begin + tiling.panels < panels.end ? begin + tiling.panels : panels.end};
  };
  for (int64_t g = 0; g < groups; ++g) {
    const Span at = group(g), next = group(g + 1 < groups ? g + 1 : g);
    const int64_t panel = at.begin;
    const int q_count = static_cast<int>(at.end - at.begin);
    t.b = b + panel * t.b_panel;
    t.ahead = Ahead(b + next.begin * t.b_panel, (next.end - next.begin) * panel_bytes, steps * tiling.tiles,
                    (panels.end - panels.begin) * panel_bytes + others);
    for (int64_t i = 0; i < tiling.tiles; ++i) {
      const StepRow<T, E>* row = rows + tiling.begin(i);
      const int m_count = static_cast<int>(tiling.begin(i + 1) - tiling.begin(i));
      for (int m = 0; m < m_count; ++m) {
        t.a[m] = row[m].a;
        t.init[m] = row[m].init + (panel - init_base) * t.init_panel + init_offset;
        t.out[m] = product + m * q_count * N * L;
      }
      if (input != nullptr) input->place(row, m_count, panel);
      run_tile(t, m_count, N, q_count);
      for (int m = 0; m < m_count; ++m)
        for (int q = 0; q < q_count; ++q) finish(row[m], product + (m * q_count + q) * N * L, panel + q);
    }
  }
}

template <class Cell, class T, class E>
void forward(const ForwardArgs<T, E>& f, const Scratch<T, E>& scratch, const Part& part, Team& team) {
  using C = Traits<Cell>;
  constexpr int L = Vec<T>::lanes;
  const Walk walk{f.schedule, f.reverse};
  const ScheduleView& schedule = f.schedule;
  const int64_t panels = (f.hidden + L - 1) / L, padded = panels * L;
  const int64_t own = part.panels.end - part.panels.begin;
  const int64_t pre_base = part.panels.begin;  // scratch.pre holds this part's panels only
  const int64_t poll_mask = poll_mask_of(schedule, part, f.hidden * L);
  StepRow<T, E>* rows = static_cast<StepRow<T, E>*>(scratch.step_rows);

  Tile<T, E> t;
  t.runs = 1, t.run_length = (f.hidden + depth<E> - 1) / depth<E>, t.run_stride = 0;
  t.b_panel = t.run_length * C::count * L, t.init_panel = C::P * L;

  InputOfStep<T, E> input;
  Tile<T, E>& w = input.tile;
  w.runs = 1, w.run_length = (f.input + depth<E> - 1) / depth<E>, w.run_stride = 0;
  w.b_panel = w.run_length * C::P * L, w.init_panel = C::P * L;
  input.w = f.w, input.bias = f.bias;
  const int64_t r_bytes = own * t.b_panel * static_cast<int64_t>(sizeof(E));
  const int64_t w_numbers = f.token != nullptr ? 0 : own * w.run_length * C::input_count * L;
  const int64_t w_bytes = w_numbers * static_cast<int64_t>(sizeof(E));
  // Worth it where all weights stay in L2 and a step has rows enough for a tile of its own.
  const bool input_by_step =
      kInputByStep && C::input_count == C::P && C::count == C::P && f.token == nullptr && f.w != nullptr &&
      f.r != nullptr && w_bytes + r_bytes <= core_cache_bytes() &&
      schedule.rows * sequences(part.share, schedule.batch) >= kTileRows / 2 * schedule.steps * schedule.batch;

  int64_t chunk_end = 0, chunk_row = 0;
  for (int64_t s = 0; s < schedule.steps; ++s) {
    const int64_t count = sequences(part.share, schedule.active[s]);
    if (s == chunk_end && count > 0 && !input_by_step) {
      int64_t total = 0;
      for (; chunk_end < schedule.steps; ++chunk_end) {
        const int64_t n = sequences(part.share, schedule.active[chunk_end]);
        if (total > 0 && total + n > scratch.chunk_rows) break;
        total += n;
      }
      input_product<Cell>(f, scratch, part, s, chunk_end, r_bytes, team);
      chunk_row = 0;
    }
    for (int64_t i = 0; i < count; ++i) {
      const int64_t j = part.share.first + i * part.share.stride, r = walk.row(s, j);
      StepRow<T, E>& row = rows[i];
      row.x = input_by_step ? row_of(f.x, r) : nullptr;
      row.init = input_by_step ? f.bias : scratch.pre + (chunk_row + i) * own * C::P * L;
      row.state[0] = row_of(f.y, r);
      const bool first = s == 0, cut = walk.cut(s, j);
      row.prev[0] = cut || first ? f.state0[0] + j * padded : row_of(f.y, walk.row(s - 1, j));
      for (int k = 1; k < C::S; ++k) {
        row.state[k] = f.state[k] + (f.keep_states ? r : j) * padded;
        row.prev[k] = cut || first    ? f.state0[k] + j * padded
                      : f.keep_states ? f.state[k] + walk.row(s - 1, j) * padded
                                      : row.state[k];
      }
      if (cut)
        for (int k = 0; k < C::S; ++k) row.prev[k] = f.zeros;
      if constexpr (same_type<T, E>) {
        row.a = row.prev[0];
      } else {
        row.a = cut ? f.zero_row : first ? f.h0 + j * f.h_stride : f.h + walk.row(s - 1, j) * f.h_stride;
        row.h = f.h + r * f.h_stride;
      }
      row.saved = f.saved != nullptr ? f.saved + r * C::saved * L : nullptr;
    }
    chunk_row += count;
    const bool from_zeros = s == 0 && f.from_zeros && !input_by_step;
    if (from_zeros || f.r == nullptr) {
      if (!from_zeros) recurrent_product_unpacked<Cell>(f, scratch, part, count, team);
      for (int64_t i = 0; i < count; ++i)
        for (int64_t panel = 0; panel < own; ++panel)
          cell_forward<Cell>(f, rows[i], rows[i].init + (panel * C::P + C::first) * L, pre_base + panel, panel);
    } else if (count > 0 && own > 0) {
      step_tiles<C::count>(
          t, rows, count, part.panels, s % 2 == 1, f.r, C::first * L, pre_base,
          [&](const StepRow<T, E>& row, const T* product, int64_t panel) {
            cell_forward<Cell>(f, row, product, panel, panel - pre_base);
          },
          input_by_step ? &input : nullptr, w_bytes);
    }
    if (part.barrier ? kernel_barrier(team) : (((s + 1) & poll_mask) == 0 && kernel_stopped(team))) return;
  }
}

template <class Cell, class T, class E>
void cell_backward(const BackwardArgs<T, E>& b, const StepRow<T, E>& row, const T* dh, int64_t panel) {
  using C = Traits<Cell>;
  using V = Vec<T>;
  constexpr int L = V::lanes;
  const int64_t unit = panel * L;
  V saved[C::saved > 0 ? C::saved : 1], prev[C::S], state[C::S], ds[C::S], da[C::P];
#pragma GCC unroll 4
  for (int k = 0; k < C::saved; ++k) saved[k] = V::load(row.saved + (panel * b.panel_rows * C::saved + k) * L);
  prev[0] = load_units(row.prev[0], unit, b.hidden);
  state[0] = load_units<T>(row.state[0], unit, b.hidden);
  ds[0] = load_panel(dh, unit, b.hidden);
  if (row.dy != nullptr) ds[0] = ds[0] + load_units(row.dy, unit, b.hidden);
  for (int k = 1; k < C::S; ++k) {
    prev[k] = V::load(row.prev[k] + unit);
    state[k] = V::load(row.state[k] + unit);
    ds[k] = V::load(row.ds[k] + unit);
  }
  Cell::backward(saved, prev, state, ds, da);
#pragma GCC unroll 4
  for (int p = 0; p < C::P; ++p) store_operand(da[p], row.da + (panel * b.panel_rows * C::P + p) * operands<E>);
  for (int k = 0; k < C::S; ++k) (row.cut ? V(T(0)) : ds[k]).store(row.ds[k] + unit);
}

template <class Cell, class T, class E>
void backward(const BackwardArgs<T, E>& b, const Scratch<T, E>& scratch, const Part& part, Team& team) {
  using C = Traits<Cell>;
  constexpr int L = Vec<T>::lanes, W = operands<E>;
  const Walk walk{b.schedule, b.reverse};
  const ScheduleView& schedule = b.schedule;
  const int64_t panels = (b.hidden + L - 1) / L, padded = panels * L;
  const int64_t own = part.panels.end - part.panels.begin;
  const int64_t poll_mask = poll_mask_of(schedule, part, b.hidden * L);
  StepRow<T, E>* rows = static_cast<StepRow<T, E>*>(scratch.step_rows);
  const E* da_of_none = b.da + schedule.rows * C::P * W;  // zeros

  // dh = the cell's own path from the step after + da of that step times R, one run of k for each panel of da.
  Tile<T, E> t;
  t.runs = panels, t.run_length = C::count * W, t.run_stride = b.panel_rows * C::P * W;
  t.b_panel = panels * C::count * W * L, t.init_panel = L;

  for (int64_t s = schedule.steps - 1; s >= 0; --s) {
    const int64_t count = sequences(part.share, schedule.active[s]);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t j = part.share.first + i * part.share.stride, r = walk.row(s, j);
      StepRow<T, E>& row = rows[i];
      const bool last = j >= schedule.active[s + 1];
      row.a = last || walk.cut(s + 1, j) ? da_of_none : b.da + walk.row(s + 1, j) * C::P * W;
      row.a += C::first * W;
      row.dy = b.dy.base != nullptr || b.dy.index != nullptr ? row_of(b.dy, r) : nullptr;
      row.state[0] = const_cast<T*>(row_of(b.y, r));  // read only
      const bool cut = walk.cut(s, j);
      row.prev[0] = cut ? b.zeros : s == 0 ? b.state0[0] + j * padded : row_of(b.y, walk.row(s - 1, j));
      for (int k = 1; k < C::S; ++k) {
        row.state[k] = const_cast<T*>(b.state[k]) + r * padded;
        row.prev[k] = cut ? b.zeros : s == 0 ? b.state0[k] + j * padded : b.state[k] + walk.row(s - 1, j) * padded;
      }
      for (int k = 0; k < C::S; ++k) row.ds[k] = b.dstate[k] + j * padded;
      row.init = row.ds[0];
      row.saved = const_cast<T*>(b.saved) + r * C::saved * L;
      row.da = b.da + r * C::P * W;
      row.cut = cut;
    }
    if (s == schedule.steps - 1) {  // no step after it: nothing to multiply
      for (int64_t i = 0; i < count; ++i)
        for (int64_t panel = part.panels.begin; panel < part.panels.end; ++panel)
          cell_backward<Cell>(b, rows[i], rows[i].init + panel * L, panel);
    } else if (count > 0 && own > 0) {
      step_tiles<1>(
          t, rows, count, part.panels, s % 2 == 1, b.r, 0, 0,
          [&](const StepRow<T, E>& row, const T* dh, int64_t panel) { cell_backward<Cell>(b, row, dh, panel); });
    }
    if (part.barrier ? kernel_barrier(team) : (((s + 1) & poll_mask) == 0 && kernel_stopped(team))) return;
  }

  // The gradient of the initial h still lacks the product; one that was cut off has none.
  if (!b.dstate0) return;
  const int64_t count = sequences(part.share, schedule.active[0]);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t j = part.share.first + i * part.share.stride;
    rows[i].a = (walk.cut(0, j) ? da_of_none : b.da + walk.row(0, j) * C::P * W) + C::first * W;
    rows[i].init = rows[i].ds[0] = b.dstate[0] + j * padded;
    if (b.r == nullptr) scratch.x_rows[i] = rows[i].a;
  }
  if (b.r == nullptr) {
    GemmArgs<T, E> g{};
    g.n = 1, g.runs = t.runs, g.run_length = t.run_length, g.run_stride = t.run_stride;
    g.a = {nullptr, 0, scratch.x_rows};
    g.out = {b.dstate[0] + part.share.first * padded, part.share.stride * padded, nullptr}, g.out_panel = L;
    g.init = {g.out.base, g.out.stride, nullptr}, g.init_panel = L, g.width = padded;
    gemm_transposed_unpacked(g, b.r_rows, scratch.weights, {0, count}, part.panels, team);
  } else if (count > 0 && own > 0) {
    step_tiles<1>(
        t, rows, count, part.panels, true, b.r, 0, 0,
        [](const StepRow<T, E>& row, const T* dh, int64_t panel) { Vec<T>::load(dh).store(row.ds[0] + panel * L); });
  }
}

}  // namespace rnnfast::RNNFAST_TARGET
