// Optimiser steps, norms and clipping over many arrays in one call.
#pragma once

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
