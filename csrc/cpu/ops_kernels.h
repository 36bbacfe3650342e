// What a kernel object offers beside the recurrence: the loss, optimisers, and sums over scattered rows. Like Kernels,
// plain data without inline functions.
#pragma once

#include <cstdint>

namespace rnnfast {

constexpr int kMaxOptimiserStates = 2;

// Softmax and cross-entropy of rows of logits. With p = softmax(logits): loss = log(denominator) - target_logit, and
// dlogits = scale * (p - q), where q = (1 - smoothing) * one_hot(target) + smoothing / classes.
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
  T* target_logit;        // [rows] the mean, weighted by q, of logit - largest logit; 0 there
  T smoothing;
};

// Scores v . tanh(query + key) of one sequence (Bahdanau et al. 2015), and backward their gradients.
template <class T>
struct AdditiveArgs {
  int64_t queries, keys, width;
  const T *query, *key;  // row -> [width]
  int64_t query_stride, key_stride;
  const T* v;  // [width]
  T* score;    // [queries][score_stride]; backward: their gradient
  int64_t score_stride;
  T *dquery, *dkey;  // as query and key, assigned
  T* dv;             // [width], added to
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
  // Softmax of rows of n numbers in place, zeros behind them up to the stride, the next multiple of L;
  void (*softmax_rows)(T* rows, int64_t count, int64_t n, int64_t stride);
  // in place of the gradients d of such rows those of what the softmax was taken of.
  void (*softmax_back_rows)(const T* weight, T* d, int64_t count, int64_t stride);
  void (*additive_scores)(const AdditiveArgs<T>&);
  void (*additive_back)(const AdditiveArgs<T>&);
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
