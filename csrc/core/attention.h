// Attention: for each query a mean of a sequence's values, weighted by the softmax of its scores with their keys.
//
// Scores are query . key (Luong et al. 2015), or with v they are v . tanh(query + key) (Bahdanau et al. 2015). A key
// behind a sequence's length has no weight and is not looked at. Results of a sequence, and of a query, depend on
// nothing else in the batch: one sequence belongs to one thread, and its products are chains in the order of k.
#pragma once

#include "linear.h"

namespace rnnfast {

template <class T>
struct AttentionInput {
  int64_t queries, keys, batch, width, values;
  const int32_t* length;  // [batch] keys that a sequence has; null: all
  const T* query;         // [queries, batch, width]
  const T* key;           // [keys, batch, width]
  const T* value;         // [keys, batch, values]
  const T* v;             // [width] or null
  int64_t length_of(int64_t b) const { return length != nullptr ? length[b] : keys; }
  double flops() const {  // forward; an exponential costs about as much as 30
    const double dense = static_cast<double>(values + (v != nullptr ? 30 * width : width));
    return 2.0 * static_cast<double>(queries * keys * batch) * dense;
  }
};

// The keys and values of one sequence as the products read them.
template <class T>
class AttentionMemory {
 public:
  // Allocates, for up to `keys` of them.
  AttentionMemory(int64_t keys, int64_t width, int64_t values, bool additive);
  // Takes those of sequence b of the input.
  void load(const AttentionInput<T>& in, int64_t b);
  int64_t padded() const { return padded_; }  // numbers in a row of weights
  // query (row -> [width] at query_stride), weights [rows][padded()], context (row -> [values] at context_stride).
  void attend(const T* query, int64_t query_stride, const T* v, int64_t rows, T* weights, T* context,
              int64_t context_stride, Team& team) const;

 private:
  int64_t width_, values_, lanes_, keys_ = 0, padded_ = 0;
  bool additive_;
  Buffer<T> rows_;         // [keys][width] of additive scores, else scratch of load
  Buffer<T> key_, value_;  // [panel of keys][width][L]; [panel of values][padded keys][L]
};

// context [queries, batch, values] and weights [queries, batch, keys] are assigned.
template <class T>
void attention_forward(const AttentionInput<T>& in, T* context, T* weights, int threads);

// All are assigned, and have the shapes of the inputs; v's only where there is a v.
template <class T>
struct AttentionGradients {
  T *query, *key, *value, *v;
};
template <class T>
void attention_backward(const AttentionInput<T>& in, const T* weights, const T* dcontext,
                        const AttentionGradients<T>& out, int threads);

// y = tanh(x) of n numbers, with the kernels' tanh.
template <class T>
void tanh_values(const T* x, int64_t n, T* y, int threads);

}  // namespace rnnfast
