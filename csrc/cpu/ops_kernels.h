// What a kernel object offers beside the recurrence: the loss, optimisers, and sums over scattered rows. Like Kernels,
// plain data without inline functions.
#pragma once

#include <cstdint>

namespace rnnfast {

constexpr int kMaxOptimiserStates = 2;

// Softmax and cross-entropy of rows of logits. With p = softmax(logits): loss = log(denominator) - target_logit, and
// dlogits = scale * (p - one_hot(target)).
template <class T>
struct CrossEntropyArgs {
  int64_t classes;
  const T* logits;  // row -> [classes]
  int64_t stride;
  T* dlogits;  // row -> [width]; may be `logits`; null where only the loss is wanted
  int64_t dlogits_stride;
  int64_t width;          // classes, or the next multiple of L: what is behind the classes is set to zero
  const int32_t* target;  // [rows]; negative: the row counts for nothing
  const T* scale;         // [rows]
  T* denominator;         // [rows] sum of exp(logit - largest logit); 1 where the row counts for nothing
  T* target_logit;        // [rows] the target's logit - largest logit; 0 there
};

enum class UpdateRule { sgd, rmsprop, adam };
constexpr int kUpdateRules = 3;

// One optimiser step, by PyTorch's formulas. g = grad_scale * grad + weight_decay * param.
template <class T>
struct UpdateArgs {
  T grad_scale, weight_decay;
  T shrink;        // of the parameter, before the step: 1 - lr * weight_decay in AdamW, else 1
  T step_size;     // lr; Adam: divided by the bias correction of the first moment
  T momentum;      // SGD, RMSprop
  T mean, square;  // Adam: 1 - beta1, beta2; RMSprop: square = alpha
  T square_new;    // 1 - beta2; 1 - alpha
  T correction;    // Adam: square root of the bias correction of the second moment
  T eps;
  bool nesterov;
  // State 0: SGD momentum_buffer (unless momentum is 0), RMSprop square_avg, Adam exp_avg. State 1: RMSprop
  // momentum_buffer (unless momentum is 0), Adam exp_avg_sq.
  T* param;
  const T* grad;
  T* state[kMaxOptimiserStates];
  int64_t size;
};

template <class T>
struct OpsKernels {
  void (*cross_entropy)(const CrossEntropyArgs<T>&, int64_t begin, int64_t end);
  void (*update[kUpdateRules])(const UpdateArgs<T>&);
  // Sum of x[i]^2 in double; NaN or infinite where an element is.
  double (*sum_of_squares)(const T* x, int64_t n);
  void (*scale)(T* x, int64_t n, T factor);
  void (*clip)(T* x, int64_t n, T limit);        // into [-limit, limit]; NaN stays
  void (*add)(T* to, const T* from, int64_t n);  // to += from
  // to += sum of the rows order[0 .. count) of rows, n elements each
  void (*add_rows)(T* to, const T* rows, const int32_t* order, int64_t count, int64_t n);
};

// The table of the instruction set in use, as kernels<T>().
template <class T>
const OpsKernels<T>& ops_kernels();

}  // namespace rnnfast
