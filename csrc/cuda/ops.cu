// The kernels of ops.h: one thread an element, but for the loss (a block a row) and sums (blocks of a fixed size, so
// that the bits do not depend on the device).
#include "ops.h"

#include "../cells/math.h"
#include "device.h"
#include "params.h"

namespace rnnfast::cuda {

namespace {

constexpr int64_t kSquares = 16 * kThreads;  // elements of a partial sum

int64_t blocks_of(int64_t elements) { return (elements + kThreads - 1) / kThreads; }

RNNFAST_DEVICE int64_t element() { return int64_t{block_index()} * kThreads + thread_index(); }

struct GatherParams {
  const float* table;
  const int32_t* token;
  int64_t rows, width;
  float* y;
};

RNNFAST_KERNEL(kThreads, 1) gather_kernel(GatherParams p) {
  const int64_t i = element();
  if (i < p.rows * p.width) p.y[i] = p.table[p.token[i / p.width] * p.width + i % p.width];
}

struct BiasParams {
  const float* bias;
  int64_t size, width;
  float* y;
};

RNNFAST_KERNEL(kThreads, 1) bias_kernel(BiasParams p) {
  const int64_t i = element();
  if (i < p.size) p.y[i] += p.bias[i % p.width];
}

// The block's values folded in halves, in every thread. `shared` has kThreads elements.
template <class T, class Op>
RNNFAST_DEVICE T fold_block(T value, T* values, Op op) {
  values[thread_index()] = value;
  block_barrier();
  for (int half = kThreads / 2; half > 0; half /= 2) {
    if (thread_index() < half) values[thread_index()] = op(values[thread_index()], values[thread_index() + half]);
    block_barrier();
  }
  const T result = values[0];
  block_barrier();
  return result;
}

RNNFAST_KERNEL(kThreads, 1) cross_entropy_kernel(CrossEntropyParams p) {
  const int64_t row = block_index();
  float *logits = p.logits + row * p.classes, *values = shared<float>();
  const int32_t target = p.target[row];
  float most = -__builtin_inff();
  for (int64_t i = thread_index(); i < p.classes; i += kThreads) most = logits[i] > most ? logits[i] : most;
  most = fold_block(most, values, [](float a, float b) { return a > b ? a : b; });
  float sum = 0;
  for (int64_t i = thread_index(); i < p.classes; i += kThreads) sum += exp(Vec(logits[i] - most)).v;
  sum = fold_block(sum, values, [](float a, float b) { return a + b; });
  if (thread_index() == 0) {
    p.denominator[row] = target < 0 ? 1.0f : sum;
    p.target_logit[row] = target < 0 ? 0.0f : logits[target] - most;
  }
  if (!p.gradient) return;
  block_barrier();
  const float factor = target < 0 ? 0.0f : p.scale / sum;
  for (int64_t i = thread_index(); i < p.classes; i += kThreads) {
    const float gradient = target < 0 ? 0.0f : exp(Vec(logits[i] - most)).v * factor;
    logits[i] = i == target ? gradient - p.scale : gradient;
  }
}

struct UpdateParams {
  UpdateRule rule;
  UpdateArgs<float> u;
};

RNNFAST_DEVICE float gradient_of(const UpdateArgs<float>& u, float param, int64_t i) {
  return multiply_add(u.weight_decay, param, u.grad[i] * u.grad_scale);
}

RNNFAST_DEVICE void sgd(const UpdateArgs<float>& u, int64_t i) {
  const float param = u.param[i];
  float step = gradient_of(u, param, i);
  if (u.momentum != 0) {
    const float buffer = multiply_add(u.momentum, u.state[0][i], step);
    u.state[0][i] = buffer;
    step = u.nesterov ? multiply_add(u.momentum, buffer, step) : buffer;
  }
  u.param[i] = multiply_add(-u.step_size, step, param);
}

RNNFAST_DEVICE void rmsprop(const UpdateArgs<float>& u, int64_t i) {
  const float param = u.param[i], grad = gradient_of(u, param, i);
  const float square = multiply_add(u.square_new * grad, grad, u.square * u.state[0][i]);
  u.state[0][i] = square;
  float step = grad / (::sqrtf(square) + u.eps);
  if (u.momentum != 0) {
    step = multiply_add(u.momentum, u.state[1][i], step);
    u.state[1][i] = step;
  }
  u.param[i] = multiply_add(-u.step_size, step, param);
}

RNNFAST_DEVICE void adam(const UpdateArgs<float>& u, int64_t i) {
  const float param = u.param[i] * u.shrink, grad = gradient_of(u, param, i), before = u.state[0][i];
  const float mean = multiply_add(u.mean, grad - before, before);
  const float square = multiply_add(u.square_new * grad, grad, u.square * u.state[1][i]);
  u.state[0][i] = mean, u.state[1][i] = square;
  u.param[i] = param - u.step_size * mean / (::sqrtf(square) / u.correction + u.eps);
}

RNNFAST_KERNEL(kThreads, 1) update_kernel(UpdateParams p) {
  const int64_t i = element();
  if (i >= p.u.size) return;
  if (p.rule == UpdateRule::sgd) sgd(p.u, i);
  if (p.rule == UpdateRule::rmsprop) rmsprop(p.u, i);
  if (p.rule == UpdateRule::adam) adam(p.u, i);
}

struct SquaresParams {
  const float* x;
  int64_t size;
  double* partial;
};

RNNFAST_KERNEL(kThreads, 1) squares_kernel(SquaresParams p) {
  double sum = 0;
  const int64_t begin = block_index() * kSquares, end = begin + kSquares < p.size ? begin + kSquares : p.size;
  for (int64_t i = begin + thread_index(); i < end; i += kThreads) sum += double{p.x[i]} * double{p.x[i]};
  sum = fold_block(sum, shared<double>(), [](double a, double b) { return a + b; });
  if (thread_index() == 0) p.partial[block_index()] = sum;
}

struct LimitParams {
  float* x;
  int64_t size;
  float factor, limit;  // the limit comes after the factor; both bounds are tried first, so NaN passes
};

RNNFAST_KERNEL(kThreads, 1) limit_kernel(LimitParams p) {
  const int64_t i = element();
  if (i < p.size) p.x[i] = min(Vec(p.limit), max(Vec(-p.limit), Vec(p.x[i] * p.factor))).v;
}

}  // namespace

void gather_rows(const float* table, const int32_t* token, int64_t rows, int64_t width, float* y, Stream stream) {
  if (rows == 0) return;
  launch("gather_kernel", gather_kernel, {blocks_of(rows * width), kThreads, 0, stream},
         GatherParams{table, token, rows, width, y});
}

void add_bias(const float* bias, int64_t rows, int64_t width, float* y, Stream stream) {
  if (rows == 0) return;
  launch("bias_kernel", bias_kernel, {blocks_of(rows * width), kThreads, 0, stream},
         BiasParams{bias, rows * width, width, y});
}

void cross_entropy(const CrossEntropyParams& p, Stream stream) {
  if (p.rows == 0) return;
  launch("cross_entropy_kernel", cross_entropy_kernel, {p.rows, kThreads, kThreads * sizeof(float), stream}, p);
}

void update(UpdateRule rule, const UpdateArgs<float>& args, Stream stream) {
  launch("update_kernel", update_kernel, {blocks_of(args.size), kThreads, 0, stream}, UpdateParams{rule, args});
}

int64_t square_sums(int64_t size) { return (size + kSquares - 1) / kSquares; }

void sum_of_squares(const float* x, int64_t size, double* partial, Stream stream) {
  launch("squares_kernel", squares_kernel, {square_sums(size), kThreads, kThreads * sizeof(double), stream},
         SquaresParams{x, size, partial});
}

void scale_values(float* x, int64_t size, float factor, Stream stream) {
  launch("limit_kernel", limit_kernel, {blocks_of(size), kThreads, 0, stream},
         LimitParams{x, size, factor, __builtin_inff()});
}

void clip_values(float* x, int64_t size, float limit, Stream stream) {
  launch("limit_kernel", limit_kernel, {blocks_of(size), kThreads, 0, stream}, LimitParams{x, size, 1, limit});
}

}  // namespace rnnfast::cuda
