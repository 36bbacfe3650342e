// The fused output layer and loss, the optimisers and the sampling loop on each instruction set, against plain double
// arithmetic; and that the number of threads and of samples changes no bit. The Python tests look at more.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <exception>
#include <limits>
#include <random>

#include "core/embedding.h"
#include "core/loss.h"
#include "core/optim.h"
#include "core/sampler.h"

namespace {

using namespace rnnfast;

int failures = 0;

template <class T>
void check(bool right, const char* what, double error = 0) {
  if (right) return;
  ++failures;
  std::printf("%s, float%d: %s (%.3g)\n", kernels<T>().isa, static_cast<int>(8 * sizeof(T)), what, error);
}

template <class T>
void close(const std::vector<T>& got, const std::vector<double>& want, const char* what) {
  double error = 0, most = 1e-300;
  for (size_t i = 0; i < want.size(); ++i) {
    error = std::max(error, std::abs(static_cast<double>(got[i]) - want[i]));
    most = std::max(most, std::abs(want[i]));
  }
  check<T>(error <= most * (sizeof(T) == 4 ? 5e-6 : 1e-13), what, error / most);
}

template <class T>
std::vector<T> normal(std::mt19937& random, size_t n) {
  std::normal_distribution<double> draw(0, 1);
  std::vector<T> out(n);
  for (T& each : out) each = static_cast<T>(draw(random));
  return out;
}

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

template <class T>
struct LossProblem {
  size_t rows = 301, in = 19, classes = 37;  // more than one block of sums, no multiple of any register
  std::mt19937 random{5};
  std::vector<T> x = normal<T>(random, rows* in), weight = normal<T>(random, classes* in),
                 bias = normal<T>(random, classes);
  std::vector<int32_t> target;

  LossProblem() {
    for (size_t r = 0; r < rows; ++r) target.push_back(static_cast<int32_t>(r * 7 % (classes + 1)) - 1);  // -1: none
  }

  // dx, dweight, dbias and the loss, behind one another.
  std::vector<T> kernels(int threads) const {
    std::vector<T> out((rows + classes) * in + classes + 1, T(0));
    const LossTargets<T> targets{static_cast<int64_t>(rows), target.data(), nullptr, Reduction::mean, nullptr, 0.0};
    const LinearLoss<T> io{
        static_cast<int64_t>(in), static_cast<int64_t>(classes), x.data(), weight.data(), bias.data(), out.data(),
        &out[rows * in],          &out[(rows + classes) * in]};
    out.back() = static_cast<T>(linear_cross_entropy(targets, io, threads));
    return out;
  }

  std::vector<double> plain() const {
    std::vector<double> out((rows + classes) * in + classes + 1, 0.0);
    double count = 0;
    for (int32_t t : target) count += t >= 0;
    for (size_t r = 0; r < rows; ++r) {
      if (target[r] < 0) continue;
      std::vector<double> p(classes);
      double sum = 0;
      for (size_t v = 0; v < classes; ++v) {
        p[v] = static_cast<double>(bias[v]);
        for (size_t k = 0; k < in; ++k)
          p[v] += static_cast<double>(x[r * in + k]) * static_cast<double>(weight[v * in + k]);
      }
      const auto hit = static_cast<size_t>(target[r]);
      const double logit = p[hit];
      for (double& each : p) sum += each = std::exp(each);
      out.back() += (std::log(sum) - logit) / count;
      for (size_t v = 0; v < classes; ++v) {
        const double d = (p[v] / sum - (v == hit)) / count;
        out[(rows + classes) * in + v] += d;
        for (size_t k = 0; k < in; ++k) {
          out[r * in + k] += d * static_cast<double>(weight[v * in + k]);
          out[rows * in + v * in + k] += d * static_cast<double>(x[r * in + k]);
        }
      }
    }
    return out;
  }
};

template <class T>
void test_loss() {
  const LossProblem<T> problem;
  const std::vector<T> got = problem.kernels(1);
  close(got, problem.plain(), "output layer and loss");
  check<T>(same_bits(got, problem.kernels(2)), "output layer and loss change with the threads");
}

template <class T>
void test_optimisers() {
  std::mt19937 random(3);
  const size_t n = 20011;
  const std::vector<T> start = normal<T>(random, n), grad = normal<T>(random, n);
  std::vector<T> param = start, mean(n, T(0)), square(n, T(0));
  std::vector<double> want(start.begin(), start.end()), m(n, 0.0), s(n, 0.0);
  OptimiserStep step{Optimiser::adamw, 0.01, 0.1, 0, 0, 0.9, 0.99, 1e-8, 1, false, 0};
  for (step.step = 1; step.step <= 3; ++step.step) {
    optimiser_step<T>(step, {{param.data(), grad.data(), {mean.data(), square.data()}, static_cast<int64_t>(n)}}, 2);
    for (size_t i = 0; i < n; ++i) {
      const auto g = static_cast<double>(grad[i]), t = static_cast<double>(step.step);
      m[i] = 0.9 * m[i] + 0.1 * g, s[i] = 0.99 * s[i] + 0.01 * g * g;
      want[i] -= 0.01 * 0.1 * want[i];
      want[i] -= 0.01 * m[i] / (1 - std::pow(0.9, t)) / (std::sqrt(s[i] / (1 - std::pow(0.99, t))) + 1e-8);
    }
  }
  close(param, want, "AdamW");
  double sum = 0;
  for (T g : grad) sum += static_cast<double>(g) * static_cast<double>(g);
  std::vector<T> values = grad;
  const double one = sum_of_squares<T>({{values.data(), static_cast<int64_t>(n)}}, 1);
  check<T>(std::abs(one - sum) <= 1e-12 * sum, "sum of squares", one - sum);
  check<T>(one == sum_of_squares<T>({{values.data(), static_cast<int64_t>(n)}}, 2), "sum of squares with threads");
  values[n - 1] = std::numeric_limits<T>::quiet_NaN();
  check<T>(std::isnan(sum_of_squares<T>({{values.data(), static_cast<int64_t>(n)}}, 1)), "NaN is lost in the norm");
  clip_values<T>({{values.data(), static_cast<int64_t>(n)}}, 0.5, 1);
  check<T>(std::isnan(values[n - 1]) && std::abs(values[0]) <= T(0.5), "clipping by value");
}

// Tokens of `count` samples, (length, count).
template <class T>
std::vector<int64_t> sample(int64_t count, const SamplingRule& rule, int64_t length) {
  std::mt19937 random(9);
  const RnnConfig config{cell_lstm, 7, 23, 1, 1, 0.0, false, false};
  const std::vector<T> w_ih = normal<T>(random, 4 * 23 * 7), w_hh = normal<T>(random, 4 * 23 * 23),
                       out = normal<T>(random, 7 * 23);
  const RnnWeights<T> weights{w_ih.data(), w_hh.data(), nullptr, nullptr};
  RnnStepper<T> stepper(config, pack_rnn<T, T>(config, &weights, 2), count, 2, true);
  Sampler<T> sampler(stepper, nullptr, pack_linear<T>(out.data(), nullptr, 23, 7, false, 1), 2);
  const std::vector<int32_t> prompt(static_cast<size_t>(2 * count), 3);
  sampler.prime(prompt.data(), 2);
  std::vector<int64_t> ids(static_cast<size_t>(length * count));
  sampler.sample(rule, length, ids.data());
  return ids;
}

template <class T>
void test_sampling() {
  for (const SamplingRule& rule : {SamplingRule{1, 0, 1, 77, 0}, SamplingRule{0.7, 5, 0.8, 77, 100}}) {
    const std::vector<int64_t> one = sample<T>(1, rule, 50), three = sample<T>(3, rule, 50);
    bool same = true, others = false;
    for (size_t i = 0; i < one.size(); ++i) {
      same = same && one[i] == three[3 * i] && one[i] >= 0 && one[i] < 7;
      others = others || three[3 * i + 1] != one[i];
    }
    check<T>(same, "a sample changes with the number of samples");
    check<T>(others, "two samples are the same");
  }
}

template <class T>
void test_all() {
  test_loss<T>();
  test_optimisers<T>();
  test_sampling<T>();
}

}  // namespace

int main() try {
  test_all<float>();
  test_all<double>();
  return failures > 0;
} catch (const std::exception& error) {  // the instruction set that RNNFAST_ISA asks for is not there
  std::printf("%s\n", error.what());
  return 1;
}
