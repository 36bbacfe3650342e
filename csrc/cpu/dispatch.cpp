// Which instruction set runs: the best that was built, that the processor and the system have, and RNNFAST_ISA allows.
#include "dispatch.h"

#include <unistd.h>

#ifdef RNNFAST_HAVE_AVX512_AMX
#include <cpuid.h>
#include <sys/syscall.h>
#endif

#include <cstdlib>
#include <stdexcept>

namespace rnnfast {

#define RNNFAST_DECLARE(target)                     \
  namespace target {                                \
  extern const Kernels<float> kernels_f32;          \
  extern const Kernels<double> kernels_f64;         \
  extern const Kernels<float, Bf16x2> kernels_bf16; \
  extern const OpsKernels<float> ops_kernels_f32;   \
  extern const OpsKernels<double> ops_kernels_f64;  \
  }

#ifdef RNNFAST_HAVE_SCALAR
RNNFAST_DECLARE(scalar)
#endif
#ifdef RNNFAST_HAVE_SSE42
RNNFAST_DECLARE(sse42)
#endif
#ifdef RNNFAST_HAVE_AVX2
RNNFAST_DECLARE(avx2)
#endif
#ifdef RNNFAST_HAVE_AVX512
RNNFAST_DECLARE(avx512)
#endif
#ifdef RNNFAST_HAVE_NEON
RNNFAST_DECLARE(neon)
#endif
#ifdef RNNFAST_HAVE_AVX512_BF16
namespace avx512_bf16 {
extern const Kernels<float, Bf16x2> kernels_bf16;
}
#endif

#ifdef RNNFAST_HAVE_AVX512_AMX
namespace avx512_amx {
extern const Kernels<float, Bf16x2> kernels_bf16;
}
#endif

namespace {

struct Target {
  const char* name;
  bool (*usable)();
  bool (*fast)();  // whether it is taken where none is asked for
  const Kernels<float>* f32;
  const Kernels<double>* f64;
  const Kernels<float, Bf16x2>* bf16;
  const OpsKernels<float>* ops_f32;
  const OpsKernels<double>* ops_f64;
};
#define RNNFAST_TABLES(target, bf16_target)                                                         \
  &target::kernels_f32, &target::kernels_f64, &bf16_target::kernels_bf16, &target::ops_kernels_f32, \
      &target::ops_kernels_f64

bool always() { return true; }

#ifdef RNNFAST_HAVE_AVX512_BF16
// Intel's processors take four times as long for a dot product of bf16 pairs as for a multiply-add of floats, so the
// two multiply-adds that give the same bits are faster there; AMD's take twice as long.
bool has_fast_bf16() { return !__builtin_cpu_is("intel"); }
#endif

// __builtin_cpu_supports asks cpuid and XGETBV: an AVX register that the system does not save is no AVX.
#ifdef RNNFAST_HAVE_AVX512
bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma");
}
#endif

#ifdef RNNFAST_HAVE_AVX512_AMX
// The registers are large, so Linux wants to be asked before a process uses them, and saves them from then on.
bool has_amx() {
#if defined(__linux__) && defined(SYS_arch_prctl)
  constexpr unsigned kBf16 = 1u << 22, kTile = 1u << 24;  // of leaf 7's edx
  constexpr long kRequest = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM of asm/prctl.h, not old enough to rely on
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!has_avx512() || __get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return false;
  return (d & kBf16) != 0 && (d & kTile) != 0 && syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
#else
  return false;
#endif
}
#endif

const Target targets[] = {
#ifdef RNNFAST_HAVE_AVX512_AMX
    {"avx512_amx", has_amx, always, RNNFAST_TABLES(avx512, avx512_amx)},
#endif
#ifdef RNNFAST_HAVE_AVX512_BF16
    {"avx512_bf16", [] { return has_avx512() && __builtin_cpu_supports("avx512bf16"); }, has_fast_bf16,
     RNNFAST_TABLES(avx512, avx512_bf16)},
#endif
#ifdef RNNFAST_HAVE_AVX512
    {"avx512", has_avx512, always, RNNFAST_TABLES(avx512, avx512)},
#endif
#ifdef RNNFAST_HAVE_AVX2
    {"avx2", [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }, always,
     RNNFAST_TABLES(avx2, avx2)},
#endif
#ifdef RNNFAST_HAVE_SSE42
    {"sse42", [] { return __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("popcnt"); }, always,
     RNNFAST_TABLES(sse42, sse42)},
#endif
#ifdef RNNFAST_HAVE_NEON
    {"neon", always, always, RNNFAST_TABLES(neon, neon)},
#endif
#ifdef RNNFAST_HAVE_SCALAR
    {"scalar", always, always, RNNFAST_TABLES(scalar, scalar)},
#endif
};

const Target& choose() {
  const char* forced = std::getenv("RNNFAST_ISA");
  const std::string wanted = forced != nullptr ? forced : "";
  for (const Target& target : targets)
    if ((wanted.empty() ? target.fast() : wanted == target.name) && target.usable()) return target;
  std::string have;
  for (const std::string& name : isa_names()) have += (have.empty() ? "" : ", ") + name;
  throw std::runtime_error("RNNFAST_ISA must be one of what this processor and build have (" + have + "), got '" +
                           wanted + "'");
}

const Target& target() {
  static const Target& chosen = choose();
  return chosen;
}

}  // namespace

template <>
const Kernels<float>& kernels<float, float>() {
  return *target().f32;
}

template <>
const Kernels<double>& kernels<double, double>() {
  return *target().f64;
}

template <>
const Kernels<float, Bf16x2>& kernels<float, Bf16x2>() {
  return *target().bf16;
}

template <>
const OpsKernels<float>& ops_kernels<float>() {
  return *target().ops_f32;
}

template <>
const OpsKernels<double>& ops_kernels<double>() {
  return *target().ops_f64;
}

int64_t core_cache_bytes() {
#ifdef _SC_LEVEL2_CACHE_SIZE
  static const int64_t found = sysconf(_SC_LEVEL2_CACHE_SIZE);
#else
  constexpr int64_t found = 0;
#endif
  return found > 0 ? found : int64_t{1} << 20;
}

std::string isa_name() { return target().name; }

std::vector<std::string> isa_names() {
  std::vector<std::string> names;
  for (const bool fast : {true, false})
    for (const Target& target : targets)
      if (target.usable() && target.fast() == fast) names.emplace_back(target.name);
  return names;
}

}  // namespace rnnfast
