// exp, tanh and sigmoid of the vector type of this architecture against the C library in more bits: at most 2 ulp for
// float and 4 for double where argument and result are normal numbers, otherwise the result or 0; inf and NaN as they
// should be. tests/test_math.py does the same, more densely, for each instruction set of an x86-64.
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>

#define RNNFAST_TARGET test
#if defined(__aarch64__)
#include "cpu/vec_neon.h"
#else
#include "cpu/vec_scalar.h"
#endif
#include "cells/math.h"

namespace {

int failures = 0;

template <class T>
struct Function {
  const char* name;
  void (*ours)(const T*, T*);
  long double (*exact)(long double);
};

using V32 = rnnfast::test::Vec<float>;
using V64 = rnnfast::test::Vec<double>;

template <class V>
constexpr int kLanes = V::lanes;

template <class V, class T>
const Function<T> kFunctions[] = {
    {"exp", [](const T* x, T* y) { rnnfast::exp(V::load(x)).store(y); }, [](long double x) { return std::exp(x); }},
    {"tanh", [](const T* x, T* y) { rnnfast::tanh(V::load(x)).store(y); }, [](long double x) { return std::tanh(x); }},
    {"sigmoid", [](const T* x, T* y) { rnnfast::sigmoid(V::load(x)).store(y); },
     [](long double x) { return 1 / (1 + std::exp(-x)); }},
};

template <class T>
void fail(const char* name, T x, T got, long double want) {
  if (++failures <= 20)
    std::printf("%s(%.17g) = %.17g, expected %.17Lg\n", name, static_cast<double>(x), static_cast<double>(got), want);
}

// Distance from y to what is right, in units of the last place there; 0 where y is all that is asked for.
template <class T>
double ulps(T x, T y, long double want) {
  using Limits = std::numeric_limits<T>;
  const bool normal_argument = x == 0 || std::fabs(x) >= Limits::min();
  if (want > Limits::max()) return y == Limits::infinity() || y == Limits::max() ? 0 : HUGE_VAL;
  if (std::fabs(want) < Limits::min() || !normal_argument) {
    if (y == 0) return 0;
    const long double size = std::fabs(want) < Limits::min() ? Limits::denorm_min() : Limits::epsilon() * want;
    return static_cast<double>(std::fabs((y - want) / size)) / 2;
  }
  int exponent;
  std::frexp(want, &exponent);
  return static_cast<double>(std::fabs(y - want) / std::ldexp(1.0L, exponent - Limits::digits));
}

template <class V, class T>
void compare(const Function<T>& function, const T* x, double limit, double* worst) {
  T y[kLanes<V>];
  function.ours(x, y);
  for (int i = 0; i < kLanes<V>; ++i) {
    const long double want = function.exact(x[i]);
    const double error = ulps(x[i], y[i], want);
    if (!(error <= limit)) fail(function.name, x[i], y[i], want);
    if (error > *worst) *worst = error;
  }
}

template <class V, class T, class Bits>
void sweep(double limit, Bits step) {
  for (const Function<T>& function : kFunctions<V, T>) {
    double worst = 0;
    T x[kLanes<V>];
    for (Bits bits = 0;; bits += step) {
      bool over = false;
      for (int i = 0; i < kLanes<V>; ++i) {
        x[i] = std::bit_cast<T>(static_cast<Bits>(bits + static_cast<Bits>(i) * (step / 7 + 1)));
        if (!std::isfinite(x[i])) x[i] = T(i) / 8;
      }
      compare<V, T>(function, x, limit, &worst);
      over = static_cast<Bits>(bits + step) < bits;
      if (over) break;
    }
    // The bits of a float spread over its exponents; the range where the functions bend gets a sweep of its own.
    for (int n = -40000; n < 40000; n += kLanes<V>) {
      for (int i = 0; i < kLanes<V>; ++i) x[i] = static_cast<T>(n + i) * T(0.00237);
      compare<V, T>(function, x, limit, &worst);
    }
    std::printf("%s %d: %.2f ulp\n", function.name, static_cast<int>(sizeof(T) * 8), worst);
  }
}

template <class V, class T>
void special_values() {
  const T inf = std::numeric_limits<T>::infinity(), nan = std::numeric_limits<T>::quiet_NaN();
  const T at[][4] = {{inf, inf, 1, 1}, {-inf, 0, -1, 0}, {0, 1, 0, T(0.5)}, {nan, nan, nan, nan}};
  for (const auto& row : at) {
    for (int f = 0; f < 3; ++f) {
      T x[kLanes<V>], y[kLanes<V>];
      for (T& each : x) each = row[0];
      kFunctions<V, T>[f].ours(x, y);
      for (T each : y)
        if (!(std::isnan(row[f + 1]) ? std::isnan(each) : each == row[f + 1]))
          fail(kFunctions<V, T>[f].name, row[0], each, row[f + 1]);
    }
  }
}

}  // namespace

int main() {
  sweep<V32, float, uint32_t>(2, 40009);
  sweep<V64, double, uint64_t>(4, (uint64_t{1} << 50) + 987654321);
  special_values<V32, float>();
  special_values<V64, double>();
  if (failures > 0) std::printf("%d values are wrong\n", failures);
  return failures > 0;
}
