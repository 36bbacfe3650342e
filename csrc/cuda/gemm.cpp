// The few prototypes of cuBLAS that are used are declared here. A handle belongs to a device and is used by one thread
// at a time; the workspace is given to it, because its own would be allocated, and waited for, in the first call.
#include "gemm.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <stdexcept>
#include <vector>

#include "bf16.h"

#ifndef RNNFAST_EMULATE
#include <dlfcn.h>
#endif

namespace rnnfast::cuda {

#ifdef RNNFAST_EMULATE

namespace {

float number(float x) { return x; }
float number(Bf16 x) { return to_float(x); }

template <class T>
void multiply(const Gemm& g, const T* a, const T* b) {
  for (int64_t i = 0; i < g.m; ++i)
    for (int64_t j = 0; j < g.n; ++j) {
      float sum = 0;
      for (int64_t k = 0; k < g.k; ++k)
        sum = __builtin_fmaf(number(a[g.transpose_a ? k * g.lda + i : i * g.lda + k]),
                             number(b[g.transpose_b ? j * g.ldb + k : k * g.ldb + j]), sum);
      float& to = g.c[i * g.ldc + j];
      to = g.beta == 0 ? sum : __builtin_fmaf(g.beta, to, sum);
    }
}

}  // namespace

void gemm(const Gemm& g, Stream) {
  if (g.bf16)
    multiply(g, static_cast<const Bf16*>(g.a), static_cast<const Bf16*>(g.b));
  else
    multiply(g, static_cast<const float*>(g.a), static_cast<const float*>(g.b));
}

void gemm_search(const std::string&) {}
const char* gemm_problem() { return nullptr; }

#else

namespace {

using Handle = struct Opaque*;
constexpr int kNormal = 0, kTransposed = 1;  // cublasOperation_t
constexpr int kFloat = 0, kBf16 = 14;        // cudaDataType_t
constexpr int kInFloat = 68;                 // cublasComputeType_t
constexpr int kAnyAlgorithm = -1;            // cublasGemmAlgo_t
constexpr size_t kWorkspace = size_t{32} << 20;

struct Library {
  int (*create)(Handle*);
  int (*set_stream)(Handle, void*);
  int (*set_workspace)(Handle, void*, size_t);
  int (*sgemm)(Handle, int, int, int64_t, int64_t, int64_t, const float*, const float*, int64_t, const float*, int64_t,
               const float*, float*, int64_t);
  int (*gemm_ex)(Handle, int, int, int64_t, int64_t, int64_t, const void*, const void*, int, int64_t, const void*, int,
                 int64_t, const void*, void*, int, int64_t, int, int);
  const char* (*status)(int);
};

std::mutex mutex;
std::vector<std::string> paths;
std::string problem;

// Opens the library once; an attempt that failed is made again when another path has been named.
const Library* library() {
  static Library loaded{};
  static bool done = false;
  static size_t tried = 0;
  if (done) return &loaded;
  if (!problem.empty() && tried == paths.size()) return nullptr;
  tried = paths.size();
  std::vector<std::string> names = paths;
  for (const char* name : {"libcublas.so.13", "libcublas.so.12", "libcublas.so"}) names.emplace_back(name);
  void* opened = nullptr;
  problem.clear();
  for (size_t i = 0; i < names.size() && opened == nullptr; ++i) {
    opened = dlopen(names[i].c_str(), RTLD_NOW | RTLD_LOCAL);
    if (opened == nullptr) problem = dlerror();
  }
  if (opened == nullptr) {
    problem = "cuBLAS was not found (pip install nvidia-cublas): " + problem;
    return nullptr;
  }
  const auto find = [&](auto& function, const char* name) {
    function = reinterpret_cast<std::decay_t<decltype(function)>>(dlsym(opened, name));
    if (function == nullptr) problem = std::string("cuBLAS has no ") + name + "; version 12 or newer is needed";
  };
  find(loaded.create, "cublasCreate_v2");
  find(loaded.set_stream, "cublasSetStream_v2");
  find(loaded.set_workspace, "cublasSetWorkspace_v2");
  find(loaded.sgemm, "cublasSgemm_v2_64");
  find(loaded.gemm_ex, "cublasGemmEx_64");
  find(loaded.status, "cublasGetStatusString");
  done = problem.empty();
  return done ? &loaded : nullptr;
}

void check(const Library& of, int status, const char* call, int line) {
  if (status == 0) return;
  throw std::runtime_error(std::string(call) + " failed at gemm.cpp:" + std::to_string(line) + " on device " +
                           std::to_string(current_device()) + ": " + of.status(status));
}
#define RNNFAST_CUBLAS(lib, call) check(lib, (lib).call, "cublas " #call, __LINE__)

}  // namespace

void gemm_search(const std::string& path) {
  const std::lock_guard<std::mutex> lock(mutex);
  if (std::find(paths.begin(), paths.end(), path) == paths.end()) paths.push_back(path);
}

const char* gemm_problem() {
  const std::lock_guard<std::mutex> lock(mutex);
  return library() == nullptr ? problem.c_str() : nullptr;
}

void gemm(const Gemm& g, Stream stream) {
  if (g.m == 0 || g.n == 0) return;
  const std::lock_guard<std::mutex> lock(mutex);
  const Library* lib = library();
  if (lib == nullptr) throw std::runtime_error(problem);
  static std::map<std::pair<int, Stream>, Handle> handles;  // of a stream: its own workspace goes with it
  Handle& handle = handles[{current_device(), stream}];
  if (handle == nullptr) {
    RNNFAST_CUBLAS(*lib, create(&handle));
    RNNFAST_CUBLAS(*lib, set_stream(handle, stream));
    RNNFAST_CUBLAS(*lib, set_workspace(handle, allocate_async(kWorkspace, stream), kWorkspace));
  }
  const float one = 1;
  // Row-major c = a b is column-major c' = b' a'.
  const int first = g.transpose_b ? kTransposed : kNormal, second = g.transpose_a ? kTransposed : kNormal;
  if (g.bf16) {
    RNNFAST_CUBLAS(*lib, gemm_ex(handle, first, second, g.n, g.m, g.k, &one, g.b, kBf16, g.ldb, g.a, kBf16, g.lda,
                                 &g.beta, g.c, kFloat, g.ldc, kInFloat, kAnyAlgorithm));
  } else {
    RNNFAST_CUBLAS(*lib, sgemm(handle, first, second, g.n, g.m, g.k, &one, static_cast<const float*>(g.b), g.ldb,
                               static_cast<const float*>(g.a), g.lda, &g.beta, g.c, g.ldc));
  }
}

#endif

}  // namespace rnnfast::cuda
