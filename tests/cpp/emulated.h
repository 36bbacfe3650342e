// For the tests of the emulator: a fault is a kernel in two versions, without it and with it planted. The first must
// run and the second must be reported, in every schedule.
#pragma once

#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "cuda/device.h"
#include "cuda/emulate/emulate.h"
#include "cuda/runtime.h"

namespace emulated {

namespace cuda = rnnfast::cuda;
namespace emulate = rnnfast::emulate;

inline int failures = 0;
inline void check(bool right, const std::string& what) {
  if (right) return;
  ++failures;
  std::printf("%s\n", what.c_str());
  std::fflush(stdout);  // a crash may follow
}

struct Params {
  float *x, *y;     // [n] ones, [n] NaN
  unsigned* words;  // [64] zeros
  int n;
};
constexpr int kSize = 4096;
constexpr const char* kSchedules[] = {"in_order", "reverse", "random", "thread_ahead", "block_ahead"};

// The arrays of a launch, new for each.
class Arrays {
 public:
  Arrays() {
    params.n = kSize;
    params.x = static_cast<float*>(cuda::allocate_async(kSize * sizeof(float), nullptr));
    params.y = static_cast<float*>(cuda::allocate_async(kSize * sizeof(float), nullptr));
    params.words = static_cast<unsigned*>(cuda::allocate_async(64 * sizeof(unsigned), nullptr));
    const std::vector<float> ones(kSize, 1.0f);
    cuda::copy_async(params.x, ones.data(), kSize * sizeof(float), nullptr);
    cuda::fill_async(params.words, 0, 64 * sizeof(unsigned), nullptr);
  }
  ~Arrays() {
    cuda::free_async(params.x, nullptr);
    cuda::free_async(params.y, nullptr);
    cuda::free_async(params.words, nullptr);
  }
  Arrays(const Arrays&) = delete;
  Arrays& operator=(const Arrays&) = delete;
  Params params;
};

using Kernel = void (*)(Params);

struct Shape {
  int blocks = 1, threads = 64;
  bool cooperative = false;
  size_t shared_bytes = 4096;
};

// What is wrong with it, empty if nothing is.
inline std::string run(Kernel kernel, const Shape& shape, const Params& params) {
  const cuda::Launch launch{shape.blocks, shape.threads, shape.shared_bytes, nullptr};
  try {
    if (!shape.cooperative)
      cuda::launch("kernel", kernel, launch, params);
    else if (!cuda::launch_cooperative("kernel", kernel, launch, params))
      return "not launched";
  } catch (const emulate::Fault& fault) {
    return fault.what();
  }
  return "";
}

inline void planted(const char* name, Kernel right, Kernel wrong, const Shape& shape, const char* report) {
  for (const char* schedule : kSchedules)
    for (uint64_t seed = 1; seed < 4; ++seed) {
      emulate::set_schedule(schedule, seed);
      const std::string where = std::string(name) + ", " + schedule + ", seed " + std::to_string(seed) + ": ";
      const std::string clean = run(right, shape, Arrays().params), found = run(wrong, shape, Arrays().params);
      check(clean.empty(), where + "reported without a fault: " + clean);
      check(found.find(report) != std::string::npos, where + "no '" + report + "' in '" + found + "'");
      if (std::strcmp(schedule, "random") != 0 && std::strstr(schedule, "ahead") == nullptr) break;
    }
  emulate::set_schedule("in_order", 0);
}

}  // namespace emulated
