// Softmax cross-entropy, alone and fused with the linear layer below it.
#pragma once

#include "linear.h"

namespace rnnfast {

enum class Reduction { none, sum, mean };

// What counts. Loss of a row: class_weight[target] * -log softmax(logits)[target]; "mean" divides the sum by that of
// the weights that counted, as PyTorch does (over nothing it is NaN, and the gradient 0). The gradient is that of the
// reduced loss, with "none" that of the sum.
template <class T>
struct LossTargets {
  int64_t rows;
  const int32_t* target;  // [rows]; negative: the row does not count
  const T* class_weight;  // [classes] or null
  Reduction reduction;
  T* row_loss;           // [rows] or null
  double smoothing = 0;  // the target is this part spread over all classes alike; without class weights
};

// dlogits [rows, classes] is assigned. Returns the loss, with "none" the sum.
template <class T>
double softmax_cross_entropy(const LossTargets<T>&, const T* logits, int64_t classes, T* dlogits, int threads);

// logits = x W^T + b are never seen by the caller; they exist for some rows at a time.
template <class T>
struct LinearLoss {
  int64_t in, classes;
  const T* x;              // [rows, in]
  const T *weight, *bias;  // (classes, in), (classes) or null
  T* dx;                   // [rows, in], assigned; null: no gradient is wanted, of the weights neither
  T *dweight, *dbias;      // += ; may be null
};
template <class T>
double linear_cross_entropy(const LossTargets<T>&, const LinearLoss<T>&, int threads);

}  // namespace rnnfast
