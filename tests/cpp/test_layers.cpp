// Every cell's forward kernels against tests/cpp/naive.h, the backward kernels against finite differences of it, and
// the promise that the number of threads changes no bit: two layers, one and two directions, sequences of all lengths,
// resets, odd sizes. Runs where Python does not; the Python tests look at more.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <random>

#include "naive.h"

namespace {

using naive::Numbers;
using naive::Problem;

int failures = 0;

void check(bool right, const char* what, const Problem& p, int bits, double error) {
  if (right) return;
  ++failures;
  std::printf("%s float%d, %d directions: %s is off by %.3g\n", rnnfast::cell_name(p.config.cell), bits,
              p.config.directions, what, error);
}

Numbers normal(std::mt19937& random, int64_t size, double scale) {
  std::normal_distribution<double> draw(0, scale);
  Numbers out(static_cast<size_t>(size));
  for (double& each : out) each = static_cast<float>(draw(random));  // the same value in either element type
  return out;
}

Problem make_problem(rnnfast::CellId cell, int directions) {
  std::mt19937 random(static_cast<unsigned>(7 + cell));
  Problem p;
  p.config = {cell, 5, 19, 2, directions, 0.0, false, false};
  p.steps = 6, p.batch = 5;
  p.lengths = {6, 3, 0, 6, 1};
  p.reset.resize(static_cast<size_t>(p.steps * p.batch));
  for (uint8_t& each : p.reset) each = random() % 5 == 0;
  const rnnfast::CellShape shape = rnnfast::cell_shape(cell);
  const int64_t rows = shape.gates * p.config.hidden;
  for (int i = 0; i < p.config.layers * directions; ++i) {
    p.parameters.push_back(normal(random, rows * p.config.input_of(i / directions), 0.3));
    p.parameters.push_back(normal(random, rows * p.config.hidden, 0.3));
    p.parameters.push_back(normal(random, rows, 0.3));
    p.parameters.push_back(normal(random, rows, 0.3));
  }
  p.x = normal(random, p.steps * p.batch * p.config.input, 1);
  for (int k = 0; k < shape.states; ++k)
    p.state0[k] = normal(random, p.config.layers * directions * p.batch * p.config.hidden, 1);
  return p;
}

template <class T>
std::vector<T> as(const Numbers& in) {
  return std::vector<T>(in.begin(), in.end());
}

// What the kernels make of a problem, forward and backward of the loss sum(y dy) + sum(state_n dstate_n).
template <class T>
struct Kernels {
  std::vector<T> y, state[rnnfast::kMaxStates], dx, dstate0[rnnfast::kMaxStates];
  std::vector<std::vector<T>> gradients;

  Kernels(const Problem& p, const Numbers& dy, const Numbers* dstate, int threads) {
    const rnnfast::RnnConfig& c = p.config;
    const int64_t width = c.directions * c.hidden;
    std::vector<std::vector<T>> parameters;
    for (const Numbers& each : p.parameters) {
      parameters.push_back(as<T>(each));
      gradients.emplace_back(each.size(), T(0));
    }
    std::vector<rnnfast::RnnWeights<T>> weights;
    std::vector<rnnfast::RnnGradients<T>> into;
    for (size_t i = 0; i < parameters.size(); i += 4) {
      weights.push_back(
          {parameters[i].data(), parameters[i + 1].data(), parameters[i + 2].data(), parameters[i + 3].data()});
      into.push_back({gradients[i].data(), gradients[i + 1].data(), gradients[i + 2].data(), gradients[i + 3].data()});
    }
    const std::vector<T> x = as<T>(p.x), dy_here = as<T>(dy);
    std::vector<T> state0[rnnfast::kMaxStates], dstate_here[rnnfast::kMaxStates];
    const T* first[rnnfast::kMaxStates] = {};
    rnnfast::RnnBackward<T> back{};
    rnnfast::RnnOutput<T> out{};
    for (int k = 0; k < rnnfast::cell_shape(c.cell).states; ++k) {
      state0[k] = as<T>(p.state0[k]), dstate_here[k] = as<T>(dstate[k]);
      state[k].resize(state0[k].size()), dstate0[k].resize(state0[k].size());
      first[k] = state0[k].data(), out.state[k] = state[k].data();
      back.dstate_n[k] = dstate_here[k].data(), back.dstate0[k] = dstate0[k].data();
    }
    y.resize(dy.size()), dx.resize(x.size());
    out.y = y.data(), out.strides = {p.batch * width, width};
    const rnnfast::BatchLayout layout{p.steps, p.batch, p.lengths.data(), p.reset.data(), p.batch, 1};
    const rnnfast::RnnInput<T> in{layout, x.data(), nullptr, {p.batch * c.input, c.input}};
    rnnfast::RnnCache<T> cache(layout);
    rnnfast::rnn_forward<T, T>(c, weights.data(), nullptr, in, first, out, &cache, {0, 0}, threads);
    back.dy = dy_here.data(), back.dy_strides = {p.batch * width, width};
    back.dx = dx.data(), back.dx_strides = {p.batch * c.input, c.input};
    back.gradients = into.data();
    rnnfast::rnn_backward<T, T>(cache, back, false, threads);
  }
};

template <class T, class U>
double difference(const std::vector<T>& a, const std::vector<U>& b) {
  if (a.size() != b.size()) return HUGE_VAL;
  double worst = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double d = std::fabs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
    if (!(d <= worst)) worst = d;  // NaN stays
  }
  return worst;
}

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

double loss(const Problem& p, const Numbers& dy, const Numbers* dstate) {
  const naive::Result r = naive::forward(p);
  double sum = 0;
  for (size_t i = 0; i < dy.size(); ++i) sum += r.y[i] * dy[i];
  for (int k = 0; k < rnnfast::cell_shape(p.config.cell).states; ++k)
    for (size_t i = 0; i < dstate[k].size(); ++i) sum += r.state[k][i] * dstate[k][i];
  return sum;
}

// Some entries of a gradient against central differences of the naive loss.
void check_gradient(const char* what, Problem& p, Numbers& at, const std::vector<double>& gradient, const Numbers& dy,
                    const Numbers* dstate) {
  constexpr double step = 1e-5;
  double worst = 0, largest = 1;
  for (size_t i = 0; i < at.size(); i += 1 + at.size() / 23) {
    const double middle = at[i];
    at[i] = middle + step;
    const double above = loss(p, dy, dstate);
    at[i] = middle - step;
    const double below = loss(p, dy, dstate);
    at[i] = middle;
    const double error = std::fabs((above - below) / (2 * step) - gradient[i]);
    if (!(error <= worst)) worst = error;
    if (std::fabs(gradient[i]) > largest) largest = std::fabs(gradient[i]);
  }
  check(worst <= 2e-8 * largest, what, p, 64, worst);
}

void test_cell(rnnfast::CellId cell, int directions) {
  Problem p = make_problem(cell, directions);
  const int states = rnnfast::cell_shape(cell).states;
  std::mt19937 random(99);
  const Numbers dy = normal(random, p.steps * p.batch * directions * p.config.hidden, 1);
  Numbers dstate[rnnfast::kMaxStates];
  for (int k = 0; k < states; ++k) dstate[k] = normal(random, static_cast<int64_t>(p.state0[k].size()), 1);

  const naive::Result want = naive::forward(p);
  const Kernels<double> wide(p, dy, dstate, 1), wide2(p, dy, dstate, 2);
  const Kernels<float> narrow(p, dy, dstate, 1), narrow2(p, dy, dstate, 2);
  check(difference(wide.y, want.y) < 1e-13, "y", p, 64, difference(wide.y, want.y));
  check(difference(narrow.y, want.y) < 1e-5, "y", p, 32, difference(narrow.y, want.y));
  for (int k = 0; k < states; ++k) {
    check(difference(wide.state[k], want.state[k]) < 1e-13, "a state", p, 64, difference(wide.state[k], want.state[k]));
    check(difference(narrow.state[k], want.state[k]) < 1e-5, "a state", p, 32,
          difference(narrow.state[k], want.state[k]));
    check_gradient("the gradient of a state", p, p.state0[k], wide.dstate0[k], dy, dstate);
  }
  check_gradient("the gradient of x", p, p.x, wide.dx, dy, dstate);
  check(difference(narrow.dx, wide.dx) < 1e-4, "the gradient of x", p, 32, difference(narrow.dx, wide.dx));
  bool same = same_bits(wide.y, wide2.y) && same_bits(narrow.y, narrow2.y) && same_bits(wide.dx, wide2.dx) &&
              same_bits(narrow.dx, narrow2.dx);
  for (size_t i = 0; i < p.parameters.size(); ++i) {
    check_gradient("the gradient of a parameter", p, p.parameters[i], wide.gradients[i], dy, dstate);
    const double error = difference(narrow.gradients[i], wide.gradients[i]);
    check(error < 2e-4, "the gradient of a parameter", p, 32, error);
    same = same && same_bits(wide.gradients[i], wide2.gradients[i]) &&
           same_bits(narrow.gradients[i], narrow2.gradients[i]);
  }
  check(same, "two threads give other bits: it", p, 0, 0);
}

}  // namespace

int main() try {
  std::printf("kernels: %s\n", rnnfast::kernels<float>().isa);
  for (int cell = 0; cell < rnnfast::cell_count; ++cell)
    for (int directions = 1; directions <= 2; ++directions) test_cell(static_cast<rnnfast::CellId>(cell), directions);
  std::printf(failures == 0 ? "ok\n" : "%d failures\n", failures);
  return failures > 0;
} catch (const std::exception& error) {  // the instruction set that RNNFAST_ISA asks for is not there
  std::printf("%s\n", error.what());
  return 1;
}
