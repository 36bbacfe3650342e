// What the three recurrences share: which row a step of a sequence is, and one unit of one sequence through the cell,
// forward and backward. A thread always has the same (sequence, unit) pairs, so what it carries from step to step
// through device memory (c, the gradients of the states) is read by the thread that wrote it and needs no barrier.
#pragma once

#include "../cells/registry.h"
#include "device.h"
#include "params.h"

namespace rnnfast::cuda {

RNNFAST_INLINE constexpr int round_up(int n, int to) { return (n + to - 1) / to * to; }

RNNFAST_DEVICE int lane_index() { return thread_index() % kWarp; }
RNNFAST_DEVICE int warp_index() { return thread_index() / kWarp; }

template <class Cell>
struct Traits {
  static constexpr int P = Cell::pre_activations, S = Cell::states, saved = Cell::saved;
  static constexpr int G = __builtin_popcount(Cell::recurrent_mask);
  static constexpr bool split = Cell::input_mask != Cell::recurrent_mask;
  static constexpr int stored = saved > 0 ? saved : 1;
};

RNNFAST_DEVICE int64_t row_of(const Sequences& q, int64_t s, int64_t j) {
  if (q.uniform) return (q.reverse ? q.steps - 1 - s : s) * q.batch + j;
  return q.offset[q.reverse ? q.length[j] - 1 - s : s] + j;
}

RNNFAST_DEVICE int64_t active_at(const Sequences& q, int64_t s) {
  if (q.uniform) return s < q.steps ? q.batch : 0;
  return q.active[s];
}

// Whether the state before step s is cut off; at step 0 only the forward direction can be.
RNNFAST_DEVICE bool cut_before(const Sequences& q, int64_t s, int64_t j) {
  if (q.cut == nullptr || (q.reverse && s == 0)) return false;
  return q.cut[q.reverse ? row_of(q, s - 1, j) : row_of(q, s, j)] != 0;
}

// Sequences first, first + stride, ... of those active at step s.
RNNFAST_DEVICE int count_at(const Sequences& q, int64_t s, int first, int stride) {
  const int64_t active = active_at(q, s);
  return active <= first ? 0 : static_cast<int>((active - first + stride - 1) / stride);
}

// h before step s: [H], or null for zeros.
template <class Params>
RNNFAST_DEVICE const float* h_before(const Params& p, int64_t s, int64_t j) {
  if (cut_before(p.seq, s, j)) return nullptr;
  if (s == 0) return p.state0[0] != nullptr ? p.state0[0] + j * p.hidden : nullptr;
  return p.y + row_of(p.seq, s - 1, j) * p.y_stride;
}

// Sequences of a block at step s, of which it has `all` at first: a division less where none ends early.
RNNFAST_DEVICE int count_of(const Sequences& q, int64_t s, int all, int first, int stride) {
  return q.uniform ? (s < q.steps ? all : 0) : count_at(q, s, first, stride);
}

// ---- forward ----

// What a unit's step needs that does not depend on other units: it can be fetched before the product is there. Nothing
// is computed from what was fetched, because a thread goes on until it first needs a number.
template <class Cell>
struct ForwardUnit {
  using C = Traits<Cell>;
  int64_t row, state_row;
  float x[C::P], b_ih[C::P], b_hh[C::P], prev[C::S];
};

template <class Cell>
RNNFAST_DEVICE ForwardUnit<Cell> load_unit(const ForwardParams& p, int64_t s, int64_t j, int64_t unit) {
  using C = Traits<Cell>;
  ForwardUnit<Cell> u;
  u.row = row_of(p.seq, s, j), u.state_row = p.keep_states ? u.row : j;
  const float* x = p.x + (p.token != nullptr ? p.token[u.row] : u.row) * C::G * p.hidden + unit;
  RNNFAST_UNROLL
  for (int n = 0; n < C::P; ++n) {
    const int64_t at = Cell::gate_of(n) * p.hidden;
    u.x[n] = u.b_ih[n] = u.b_hh[n] = 0;
    if (Cell::input_mask >> n & 1) {
      u.x[n] = x[at];
      if (p.b_ih != nullptr) u.b_ih[n] = p.b_ih[at + unit];
    }
    if ((Cell::recurrent_mask >> n & 1) && p.b_hh != nullptr) u.b_hh[n] = p.b_hh[at + unit];
  }
  const bool cut = cut_before(p.seq, s, j);
  const int64_t before = s == 0 ? 0 : row_of(p.seq, s - 1, j);
  RNNFAST_UNROLL
  for (int k = 0; k < C::S; ++k) {
    const float* from = s == 0   ? p.state0[k] + j * p.hidden
                        : k == 0 ? p.y + before * p.y_stride
                                 : p.state[k] + (p.keep_states ? before : j) * p.hidden;
    u.prev[k] = 0;
    if (!cut && (s > 0 || p.state0[k] != nullptr)) u.prev[k] = from[unit];
  }
  return u;
}

// Returns h. `product(gate)` is that unit's part of R h.
template <class Cell, class Product>
RNNFAST_DEVICE float finish_unit(const ForwardParams& p, const ForwardUnit<Cell>& u, int64_t unit, Product product) {
  using C = Traits<Cell>;
  Vec a[C::P], prev[C::S], state[C::S], saved[C::stored];
  RNNFAST_UNROLL
  for (int n = 0; n < C::P; ++n)
    a[n] = Vec(u.b_ih[n] + u.x[n] + u.b_hh[n] + ((Cell::recurrent_mask >> n & 1) ? product(Cell::gate_of(n)) : 0.0f));
  RNNFAST_UNROLL
  for (int k = 0; k < C::S; ++k) prev[k] = Vec(u.prev[k]);
  Cell::forward(a, prev, state, saved);
  p.y[u.row * p.y_stride + unit] = state[0].v;
  RNNFAST_UNROLL
  for (int k = 1; k < C::S; ++k) p.state[k][u.state_row * p.hidden + unit] = state[k].v;
  if (C::saved > 0 && p.saved != nullptr) {
    RNNFAST_UNROLL
    for (int k = 0; k < C::saved; ++k) p.saved[(u.row * C::saved + k) * p.hidden + unit] = saved[k].v;
  }
  return state[0].v;
}

// ---- backward ----

template <class Cell>
struct BackwardUnit {
  using C = Traits<Cell>;
  int64_t row;
  bool cut;
  float saved[C::stored], prev[C::S], state[C::S], carry[C::S], dy;
};

template <class Cell>
RNNFAST_DEVICE BackwardUnit<Cell> load_unit(const BackwardParams& p, int64_t s, int64_t j, int64_t unit) {
  using C = Traits<Cell>;
  BackwardUnit<Cell> u;
  u.row = row_of(p.seq, s, j), u.cut = cut_before(p.seq, s, j);
  const int64_t before = s == 0 ? 0 : row_of(p.seq, s - 1, j);
  RNNFAST_UNROLL
  for (int k = 0; k < C::saved; ++k) u.saved[k] = p.saved[(u.row * C::saved + k) * p.hidden + unit];
  RNNFAST_UNROLL
  for (int k = 0; k < C::S; ++k) {
    const float* from = s == 0   ? p.state0[k] + j * p.hidden
                        : k == 0 ? p.y + before * p.y_stride
                                 : p.state[k] + before * p.hidden;
    u.prev[k] = 0;
    if (!u.cut && (s > 0 || p.state0[k] != nullptr)) u.prev[k] = from[unit];
    u.state[k] = k == 0 ? p.y[u.row * p.y_stride + unit] : p.state[k][u.row * p.hidden + unit];
    u.carry[k] = p.carry[k][j * p.hidden + unit];
  }
  u.dy = 0;
  if (p.dy != nullptr) u.dy = p.dy[u.row * p.y_stride + unit];
  return u;
}

struct AsItIs {
  RNNFAST_DEVICE float operator()(float x) const { return x; }
};

// `product` is what later steps give to h. `keep(gate, value)` gets the gradient of R h, zero where a cut lies; `round`
// is what becomes of all gradients of pre-activations.
template <class Cell, class Keep, class Round = AsItIs>
RNNFAST_DEVICE void finish_unit(const BackwardParams& p, const BackwardUnit<Cell>& u, int64_t j, int64_t unit,
                                float product, Keep keep, Round round = {}) {
  using C = Traits<Cell>;
  Vec saved[C::stored], prev[C::S], state[C::S], ds[C::S], da[C::P];
  RNNFAST_UNROLL
  for (int k = 0; k < C::saved; ++k) saved[k] = Vec(u.saved[k]);
  RNNFAST_UNROLL
  for (int k = 0; k < C::S; ++k) prev[k] = Vec(u.prev[k]), state[k] = Vec(u.state[k]), ds[k] = Vec(u.carry[k]);
  ds[0].v += u.dy + product;
  Cell::backward(saved, prev, state, ds, da);
  RNNFAST_UNROLL
  for (int n = 0; n < C::P; ++n) {
    const int64_t at = (u.row * C::G + Cell::gate_of(n)) * p.hidden + unit;
    const float value = round(da[n].v);
    if (C::split && (Cell::input_mask >> n & 1)) p.dax[at] = value;
    if (Cell::recurrent_mask >> n & 1) {
      p.dah[at] = value;
      keep(Cell::gate_of(n), u.cut ? 0.0f : value);
    }
  }
  RNNFAST_UNROLL
  for (int k = 0; k < C::S; ++k) p.carry[k][j * p.hidden + unit] = u.cut ? 0.0f : ds[k].v;
}

}  // namespace rnnfast::cuda
