// The body of every isa_<name>.cpp: the table of kernels for the vector type that the file has included.
#pragma once

#include "../core/random.h"
#include "driver.h"
#include "limits.h"
#include "loss.h"
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

template <class T>
constexpr Kernels<T> make_kernels(const char* isa) {
  Kernels<T> k{};
  k.isa = isa;
  k.lanes = Vec<T>::lanes;
  k.step_row_bytes = sizeof(StepRow<T>);
#define RNNFAST_CELL_KERNELS(name, Type) k.cell[cell_##name] = {forward<Type, T>, backward<Type, T>};
  RNNFAST_CELLS(RNNFAST_CELL_KERNELS)
#undef RNNFAST_CELL_KERNELS
  k.pack = pack<T>;
  k.pack_transposed = pack_transposed<T>;
  k.pack_bias = pack_bias<T>;
  k.gemm = gemm<T>;
  k.weight_gradient = weight_gradient<T>;
  k.sum_rows = sum_rows<T>;
  k.add_gradient = add_gradient<T>;
  k.add_products = add_products<T>;
  k.dropout = dropout<T>;
  k.math = math<T>;
  k.fma_loop = fma_loop<T>;
  k.read_loop = read_loop<T>;
#if defined(__AVX512F__)
  k.bf16_loop = bf16_loop;
#endif
  return k;
}

template <class T>
constexpr OpsKernels<T> make_ops_kernels() {
  OpsKernels<T> k{};
  k.cross_entropy = cross_entropy<T>;
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
extern const Kernels<float> kernels_f32;
extern const Kernels<double> kernels_f64;
constinit const Kernels<float> kernels_f32 = make_kernels<float>(RNNFAST_STRING(RNNFAST_TARGET));
constinit const Kernels<double> kernels_f64 = make_kernels<double>(RNNFAST_STRING(RNNFAST_TARGET));
extern const OpsKernels<float> ops_kernels_f32;
extern const OpsKernels<double> ops_kernels_f64;
constinit const OpsKernels<float> ops_kernels_f32 = make_ops_kernels<float>();
constinit const OpsKernels<double> ops_kernels_f64 = make_ops_kernels<double>();

}  // namespace rnnfast::RNNFAST_TARGET
