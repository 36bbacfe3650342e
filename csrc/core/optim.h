// Optimiser steps, norms and clipping over many arrays in one call.
#pragma once

#include <cmath>
#include <vector>

#include "../cpu/kernels.h"
#include "../cpu/ops_kernels.h"

namespace rnnfast {

enum class Optimiser { sgd, rmsprop, adam, adamw };

struct OptimiserStep {
  Optimiser kind;
  double lr, weight_decay, momentum, alpha, beta1, beta2, eps, grad_scale;
  bool nesterov;
  int64_t step;  // 1, 2, ...
};

inline UpdateRule rule_of(Optimiser kind) {
  return kind == Optimiser::sgd ? UpdateRule::sgd : kind == Optimiser::rmsprop ? UpdateRule::rmsprop : UpdateRule::adam;
}

// Everything that is the same for all elements, computed in double as PyTorch does.
template <class T>
inline UpdateArgs<T> coefficients(const OptimiserStep& s) {
  const bool adam = s.kind == Optimiser::adam || s.kind == Optimiser::adamw;
  const auto step = static_cast<double>(s.step);
  UpdateArgs<T> u{};
  u.grad_scale = static_cast<T>(s.grad_scale);
  u.weight_decay = s.kind == Optimiser::adamw ? T(0) : static_cast<T>(s.weight_decay);
  u.shrink = s.kind == Optimiser::adamw ? static_cast<T>(1 - s.lr * s.weight_decay) : T(1);
  u.step_size = static_cast<T>(adam ? s.lr / (1 - std::pow(s.beta1, step)) : s.lr);
  u.momentum = static_cast<T>(s.momentum);
  u.mean = static_cast<T>(1 - s.beta1);
  u.square = static_cast<T>(adam ? s.beta2 : s.alpha);
  u.square_new = static_cast<T>(1 - (adam ? s.beta2 : s.alpha));
  u.correction = static_cast<T>(std::sqrt(1 - std::pow(s.beta2, step)));
  u.eps = static_cast<T>(s.eps);
  u.nesterov = s.nesterov;
  return u;
}

// A parameter, its gradient and what the optimiser keeps of it (see UpdateArgs); `size` elements each.
template <class T>
struct OptimiserArrays {
  T* param;
  const T* grad;
  T* state[kMaxOptimiserStates];
  int64_t size;
};

// Never interrupted: all arrays are updated, or none.
template <class T>
void optimiser_step(const OptimiserStep&, const std::vector<OptimiserArrays<T>>&, int threads);

template <class T>
struct Values {
  T* data;
  int64_t size;
};

// Of all elements together: NaN or infinite where one is.
template <class T>
double sum_of_squares(const std::vector<Values<T>>&, int threads);
template <class T>
void scale_values(const std::vector<Values<T>>&, double factor, int threads);
template <class T>
void clip_values(const std::vector<Values<T>>&, double limit, int threads);

}  // namespace rnnfast
