// Products of row-major matrices by cuBLAS, which is found at run time: the wheel nvidia-cublas, torch's copy, or the
// system's. Nothing of it is linked, so a build needs no cuBLAS and a module imports where there is none.
#pragma once

#include <cstdint>
#include <string>

#include "runtime.h"

namespace rnnfast::cuda {

// c [m][n] = a [m][k] b [k][n] + beta c, all row-major with rows lda, ldb, ldc apart; with transpose_a `a` lies as
// [k][m], with transpose_b `b` as [n][k]. a and b are float, or both Bf16, which are multiplied and added in float.
struct Gemm {
  int64_t m, n, k;
  const void* a;
  int64_t lda;
  bool transpose_a;
  const void* b;
  int64_t ldb;
  bool transpose_b;
  float* c;
  int64_t ldc;
  float beta;
  bool bf16 = false;
};

void gemm(const Gemm&, Stream stream);

// Where to look for the library first: paths of libcublas.so.*, tried in order before the system's.
void gemm_search(const std::string& path);
const char* gemm_problem();  // why there is no cuBLAS, or null

}  // namespace rnnfast::cuda
