// One step at a time, for what is too large to stay on the chip: a product by cuBLAS, then one of these kernels, which
// does everything else of the step. The product is written and read once more than it must be, and two launches a step
// cost some microseconds, which large products hide.
#pragma once

#include "kernel_common.h"

namespace rnnfast::cuda {

// A thread is one unit of one sequence; units are neighbours in a warp.
template <class Cell>
RNNFAST_KERNEL(kThreads, 1)
step_forward(ForwardLaunch p) {
  const ForwardParams& f = p.f;
  const int64_t at = int64_t{block_index()} * kThreads + thread_index(), s = p.step.step;
  if (at >= active_at(f.seq, s) * f.hidden) return;
  const int64_t j = at / f.hidden, unit = at % f.hidden;
  const float* product = p.step.product + j * Traits<Cell>::G * f.hidden + unit;
  const ForwardUnit<Cell> u = load_unit<Cell>(f, s, j, unit);
  const float h = finish_unit<Cell>(f, u, unit, [&](int gate) { return product[gate * f.hidden]; });
  const float next = j < active_at(f.seq, s + 1) && cut_before(f.seq, s + 1, j) ? 0.0f : h;
  if (p.bf16.operand != nullptr)
    p.bf16.operand[j * p.bf16.padded + unit] = to_bf16(next);
  else
    p.step.operand[at] = next;
}

// Step -1 is the end: the gradient of the first h still lacks the product.
template <class Cell>
RNNFAST_KERNEL(kThreads, 1)
step_backward(BackwardLaunch p) {
  const BackwardParams& b = p.b;
  const int64_t at = int64_t{block_index()} * kThreads + thread_index(), s = p.step.step;
  if (at >= active_at(b.seq, s < 0 ? 0 : s) * b.hidden) return;
  const int64_t j = at / b.hidden, unit = at % b.hidden;
  const float product = j < active_at(b.seq, s + 1) ? p.step.product[at] : 0.0f;
  if (s < 0) {
    b.carry[0][at] += product;
    return;
  }
  const BackwardUnit<Cell> u = load_unit<Cell>(b, s, j, unit);
  const bool rounds = p.bf16.operand != nullptr;
  const auto keep = [&](int gate, float da) {
    if (rounds)
      p.bf16.operand[j * p.bf16.padded + gate * b.hidden + unit] = to_bf16(da);
    else
      p.step.operand[(j * Traits<Cell>::G + gate) * b.hidden + unit] = da;
  };
  finish_unit<Cell>(b, u, j, unit, product, keep, [&](float da) { return rounds ? to_float(to_bf16(da)) : da; });
}

}  // namespace rnnfast::cuda
