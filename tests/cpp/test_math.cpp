// exp, tanh and sigmoid of the kernels against the C library in more bits: at most 2 ulp for float and 4 for double
// where argument and result are normal numbers, otherwise the result or 0; inf and NaN as they should be. The same as
// tests/test_math.py, for where Python does not run.
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <limits>
#include <vector>

#include "cpu/kernels.h"

namespace {

using rnnfast::MathFunction;

struct Function {
  const char* name;
  MathFunction id;
  long double (*exact)(long double);
};

constexpr Function kFunctions[] = {
    {"exp", MathFunction::exp, [](long double x) { return std::exp(x); }},
    {"tanh", MathFunction::tanh, [](long double x) { return std::tanh(x); }},
    {"sigmoid", MathFunction::sigmoid, [](long double x) { return 1 / (1 + std::exp(-x)); }},
};

int failures = 0;

template <class T>
void fail(const Function& f, T x, T got, long double want) {
  if (++failures <= 20)
    std::printf("%s(%.17g) = %.17g, expected %.17Lg\n", f.name, static_cast<double>(x), static_cast<double>(got), want);
}

// Distance from y to what is right, in units of the last place there; 0 where y is all that is asked for.
template <class T>
double ulps(T x, T y, long double want) {
  using Limits = std::numeric_limits<T>;
  if (want > Limits::max()) return y == Limits::infinity() || y == Limits::max() ? 0 : HUGE_VAL;
  const bool normal = (x == 0 || std::fabs(x) >= Limits::min()) && std::fabs(want) >= Limits::min();
  if (!normal && y == 0) return 0;
  int exponent;
  std::frexp(want, &exponent);
  if (exponent < Limits::min_exponent) exponent = Limits::min_exponent;
  return static_cast<double>(std::fabs(y - want) / std::ldexp(1.0L, exponent - Limits::digits));
}

template <class T>
void compare(const std::vector<T>& x, double limit) {
  std::vector<T> y(x.size());
  for (const Function& f : kFunctions) {
    rnnfast::kernels<T>().math(f.id, x.data(), y.data(), static_cast<int64_t>(x.size()));
    double worst = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      const long double want = f.exact(x[i]);
      const double error = ulps(x[i], y[i], want);
      if (!(error <= limit)) fail(f, x[i], y[i], want);
      if (!(error <= worst)) worst = error;
    }
    std::printf("%s, %zu values in %d bits: %.2f ulp\n", f.name, x.size(), static_cast<int>(8 * sizeof(T)), worst);
  }
}

// All exponents evenly, and once more the range where the functions bend.
template <class T, class Bits>
std::vector<T> sample(Bits step) {
  std::vector<T> x;
  Bits bits = 0;
  do {
    const T value = std::bit_cast<T>(bits);
    if (std::isfinite(value)) x.push_back(value);
    bits += step;
  } while (bits >= step);
  for (int n = -40000; n <= 40000; ++n) x.push_back(static_cast<T>(n) * T(0.00237));
  return x;
}

template <class T>
void special_values() {
  const T inf = std::numeric_limits<T>::infinity(), nan = std::numeric_limits<T>::quiet_NaN();
  const T rows[][4] = {{inf, inf, 1, 1}, {-inf, 0, -1, 0}, {0, 1, 0, T(0.5)}, {nan, nan, nan, nan}};
  for (const auto& row : rows) {
    for (int i = 0; i < 3; ++i) {
      T y;
      rnnfast::kernels<T>().math(kFunctions[i].id, &row[0], &y, 1);
      const T want = row[i + 1];
      if (std::isnan(want) ? !std::isnan(y) : y != want) fail(kFunctions[i], row[0], y, want);
    }
  }
}

}  // namespace

int main() try {
  std::printf("kernels: %s\n", rnnfast::kernels<float>().isa);
  compare(sample<float, uint32_t>(40009), 2);
  compare(sample<double, uint64_t>((uint64_t{1} << 48) + 987654321), 4);
  special_values<float>();
  special_values<double>();
  if (failures > 0) std::printf("%d values are wrong\n", failures);
  return failures > 0;
} catch (const std::exception& error) {  // the instruction set that RNNFAST_ISA asks for is not there
  std::printf("%s\n", error.what());
  return 1;
}
