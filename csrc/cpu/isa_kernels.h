// The body of every isa_<name>.cpp: the tables of kernels for the vector type that the file has included, or with
// RNNFAST_BF16_ALONE the only one that an instruction for bf16 changes.
#pragma once

#include "../core/random.h"
#include "attention.h"
#include "driver.h"
#include "limits.h"
#include "optim.h"

namespace rnnfast::RNNFAST_TARGET {

template <class T>
void dropout(const T* in, T* out, int64_t n, const DropoutKey& key, int64_t time, uint32_t row, T scale) {
  const uint64_t step = key.step + static_cast<uint64_t>(time);
  constexpr int kGroups = 16;  // counters at a time, so that the compiler can put them side by side
  for (int64_t unit = 0; unit < n; unit += 4 * kGroups) {
    uint32_t word[kGroups][4];
    for (int i = 0; i < kGroups; ++i) {
      word[i][0] = static_cast<uint32_t>(unit / 4 + i);
      word[i][1] = row;
      word[i][2] = static_cast<uint32_t>(step);
      word[i][3] = key.stream << 16 | static_cast<uint32_t>(step >> 32 & 0xffff);
      philox(word[i], key.seed);
    }
    const int64_t count = n - unit < 4 * kGroups ? n - unit : 4 * kGroups;
    for (int64_t i = 0; i < count; ++i)
      out[unit + i] = word[i / 4][i % 4] >= key.threshold ? in[unit + i] * scale : T(0);
  }
}

template <class T>
void math(MathFunction function, const T* in, T* out, int64_t n) {
  using V = Vec<T>;
  for (int64_t i = 0; i < n; i += V::lanes) {
    const int count = static_cast<int>(n - i < V::lanes ? n - i : V::lanes);
    const V x = V::load_first(in + i, count);
    const V y = function == MathFunction::exp ? exp(x) : function == MathFunction::tanh ? tanh(x) : sigmoid(x);
    y.store_first(out + i, count);
  }
}

template <class T, class E>
void to_operands(const T* in, int64_t n, E* out, int64_t width) {
  using V = Vec<T>;
  constexpr int L = V::lanes, W = operands<E>;
  for (int64_t at = 0, i = 0; at < width; at += W, i += L) {
    const V v = i + L <= n ? V::load(in + i) : i < n ? V::load_first(in + i, static_cast<int>(n - i)) : V(T(0));
    store_operand(v, out + at);
  }
}

template <class T, class E>
constexpr Kernels<T, E> make_kernels(const char* isa) {
  Kernels<T, E> k{};
  k.isa = isa;
  k.lanes = Vec<T>::lanes;
  k.depth = depth<E>;
  k.row_pair = row_pair<E>;
  k.step_row_bytes = sizeof(StepRow<T, E>);
#define RNNFAST_CELL_KERNELS(name, Type) \
  k.cell[cell_##name] = {entry<forward<Type, T, E>>, entry<backward<Type, T, E>>};
  RNNFAST_CELLS(RNNFAST_CELL_KERNELS)
#undef RNNFAST_CELL_KERNELS
  if constexpr (!same_type<T, E>) {
    k.to_operands = to_operands<T, E>;
    k.pair_rows = pair_rows<T, E>;
  }
  k.pack = pack<T, E>;
  k.pack_columns = pack_columns<T, E>;
  k.pack_transposed = pack_transposed<T, E>;
  k.pack_bias = pack_bias<T>;
  k.gemm = entry<gemm<T, E>>;
  k.gemm_transposed_unpacked = entry<gemm_transposed_unpacked<T, E>>;
  k.weight_gradient = entry<weight_gradient<T, E>>;
  k.sum_rows = sum_rows<T, E>;
  k.add_gradient = add_gradient<T>;
  k.add_products = add_products<T, E>;
  k.dropout = dropout<T>;
  k.math = math<T>;
  k.fma_loop = entry<fma_loop<T, E>>;
  k.read_loop = read_loop<T>;
  return k;
}

template <class T>
constexpr OpsKernels<T> make_ops_kernels() {
  OpsKernels<T> k{};
  k.cross_entropy = cross_entropy<T>;
  k.softmax_rows = softmax_rows<T>;
  k.softmax_back_rows = softmax_back_rows<T>;
  k.additive_scores = additive_scores<T>;
  k.additive_back = additive_back<T>;
  k.update[static_cast<int>(UpdateRule::sgd)] = sgd<T>;
  k.update[static_cast<int>(UpdateRule::rmsprop)] = rmsprop<T>;
  k.update[static_cast<int>(UpdateRule::adam)] = adam<T>;
  k.sum_of_squares = sum_of_squares<T>;
  k.scale = scale<T>;
  k.clip = clip<T>;
  k.add = add<T>;
  k.add_rows = add_rows<T>;
  return k;
}

#define RNNFAST_STRING_OF(x) #x
#define RNNFAST_STRING(x) RNNFAST_STRING_OF(x)
extern const Kernels<float, Bf16x2> kernels_bf16;
constinit const Kernels<float, Bf16x2> kernels_bf16 = make_kernels<float, Bf16x2>(RNNFAST_STRING(RNNFAST_TARGET));
#ifndef RNNFAST_BF16_ALONE
extern const Kernels<float> kernels_f32;
extern const Kernels<double> kernels_f64;
constinit const Kernels<float> kernels_f32 = make_kernels<float, float>(RNNFAST_STRING(RNNFAST_TARGET));
constinit const Kernels<double> kernels_f64 = make_kernels<double, double>(RNNFAST_STRING(RNNFAST_TARGET));
extern const OpsKernels<float> ops_kernels_f32;
extern const OpsKernels<double> ops_kernels_f64;
constinit const OpsKernels<float> ops_kernels_f32 = make_ops_kernels<float>();
constinit const OpsKernels<double> ops_kernels_f64 = make_ops_kernels<double>();
#endif

}  // namespace rnnfast::RNNFAST_TARGET
