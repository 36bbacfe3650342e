// Everything on a device that is not recurrent.
#include <pybind11/stl.h>

#include <array>
#include <string>

#include "common.h"
#include "core/dropout.h"
#include "core/optim.h"
#include "cuda/gemm.h"
#include "cuda/ops.h"
#include "cuda/rows.h"

namespace rnnfast::cuda {

namespace {

// c [m, n] = a b + beta c; each of a and b as it lies, or transposed.
void matmul(uintptr_t a, bool transpose_a, uintptr_t b, bool transpose_b, uintptr_t c, int64_t m, int64_t n, int64_t k,
            float beta) {
  gemm({m, n, k, pointer<float>(a), transpose_a ? m : k, transpose_a, pointer<float>(b), transpose_b ? k : n,
        transpose_b, pointer<float>(c), n, beta},
       nullptr);
}

void dropout(uintptr_t from, uintptr_t to, int64_t steps, int64_t rows, int64_t width, double p, uint64_t seed,
             uint64_t step, uint32_t stream) {
  DropParams d{};
  d.map = {steps * rows, rows, true, nullptr, nullptr, nullptr};
  d.hidden = width, d.directions = 1, d.seed = seed, d.step = step, d.stream = stream;
  d.threshold = dropout_threshold(p), d.scale = static_cast<float>(1.0 / (1.0 - p));
  d.from = pointer<float>(from), d.to = pointer<float>(to);
  drop_rows(d, nullptr);
}

Optimiser optimiser_of(const std::string& kind) {
  if (kind == "SGD") return Optimiser::sgd;
  if (kind == "RMSprop") return Optimiser::rmsprop;
  return kind == "Adam" ? Optimiser::adam : Optimiser::adamw;
}

// arrays: (param, grad, state 0, state 1, size) of each parameter.
void optimiser_step(const std::string& kind, double lr, double weight_decay, double momentum, double alpha,
                    double beta1, double beta2, double eps, double grad_scale, bool nesterov, int64_t step,
                    const std::vector<std::array<uintptr_t, 5>>& arrays) {
  const OptimiserStep s{optimiser_of(kind), lr,       weight_decay, momentum, alpha, beta1, beta2, eps,
                        grad_scale,         nesterov, step};
  for (const auto& [param, grad, state0, state1, size] : arrays) {
    UpdateArgs<float> u = coefficients<float>(s);
    u.param = pointer<float>(param), u.grad = pointer<float>(grad);
    u.state[0] = pointer<float>(state0), u.state[1] = pointer<float>(state1);
    u.size = static_cast<int64_t>(size);
    update(rule_of(s.kind), u, nullptr);
  }
}

double norm_squared(const std::vector<std::array<uintptr_t, 2>>& arrays) {
  int64_t count = 0;
  for (const auto& [address, size] : arrays) count += square_sums(static_cast<int64_t>(size));
  std::vector<double> partial(static_cast<size_t>(count));
  without_gil([&] {  // it waits for the device
    const Memory memory = pooled_memory(partial.size() * sizeof(double), nullptr);
    double* next = static_cast<double*>(memory.data);
    for (const auto& [address, size] : arrays) {
      sum_of_squares(pointer<float>(address), static_cast<int64_t>(size), next, nullptr);
      next += square_sums(static_cast<int64_t>(size));
    }
    copy_async(partial.data(), memory.data, partial.size() * sizeof(double), nullptr);
    synchronize(Stream{});
  });
  double total = 0;
  for (const double sum : partial) total += sum;
  return total;
}

}  // namespace

void bind_ops(py::module_& m) {
  m.def("matmul", matmul, py::arg("a"), py::arg("transpose_a"), py::arg("b"), py::arg("transpose_b"), py::arg("c"),
        py::arg("m"), py::arg("n"), py::arg("k"), py::arg("beta"));
  m.def("dropout", dropout, py::arg("from_"), py::arg("to"), py::arg("steps"), py::arg("rows"), py::arg("width"),
        py::arg("p"), py::arg("seed"), py::arg("step"), py::arg("stream"));
  m.def(
      "gather_rows",
      [](uintptr_t table, uintptr_t token, int64_t rows, int64_t width, uintptr_t y) {
        gather_rows(pointer<float>(table), pointer<int32_t>(token), rows, width, pointer<float>(y), nullptr);
      },
      py::arg("table"), py::arg("token"), py::arg("rows"), py::arg("width"), py::arg("y"));
  m.def(
      "add_token_sums",
      [](uintptr_t from, uintptr_t token, int64_t rows, int64_t tokens, int64_t width, uintptr_t to) {
        token_sums(pointer<float>(from), pointer<int32_t>(token), rows, tokens, width, pointer<float>(to), true,
                   nullptr);
      },
      py::arg("from_"), py::arg("token"), py::arg("rows"), py::arg("tokens"), py::arg("width"), py::arg("to"));
  m.def(
      "add_bias",
      [](uintptr_t bias, int64_t rows, int64_t width, uintptr_t y) {
        add_bias(pointer<float>(bias), rows, width, pointer<float>(y), nullptr);
      },
      py::arg("bias"), py::arg("rows"), py::arg("width"), py::arg("y"));
  m.def(
      "add_column_sums",
      [](uintptr_t from, int64_t rows, int64_t width, uintptr_t to) {
        const int64_t parts = column_sum_parts(rows);
        const Memory memory = pooled_memory(static_cast<size_t>(parts * width) * sizeof(float), nullptr);
        float* partial = static_cast<float*>(memory.data);
        column_sums(pointer<float>(from), rows, width, partial, nullptr);
        add_column_sums(partial, parts, width, pointer<float>(to), nullptr, nullptr);
      },
      py::arg("from_"), py::arg("rows"), py::arg("width"), py::arg("to"));
  m.def(
      "cross_entropy",
      [](uintptr_t logits, uintptr_t target, int64_t rows, int64_t classes, bool gradient, float scale,
         uintptr_t denominator, uintptr_t target_logit) {
        cross_entropy({rows, classes, pointer<float>(logits), gradient, pointer<int32_t>(target), scale,
                       pointer<float>(denominator), pointer<float>(target_logit)},
                      nullptr);
      },
      py::arg("logits"), py::arg("target"), py::arg("rows"), py::arg("classes"), py::arg("gradient"), py::arg("scale"),
      py::arg("denominator"), py::arg("target_logit"));
  m.def("optimiser_step", optimiser_step, py::kw_only(), py::arg("kind"), py::arg("lr"), py::arg("weight_decay") = 0.0,
        py::arg("momentum") = 0.0, py::arg("alpha") = 0.0, py::arg("beta1") = 0.0, py::arg("beta2") = 0.0,
        py::arg("eps") = 0.0, py::arg("grad_scale") = 1.0, py::arg("nesterov") = false, py::arg("step") = 1,
        py::arg("arrays"));
  m.def("sum_of_squares", norm_squared, py::arg("arrays"));
  m.def(
      "scale_values",
      [](const std::vector<std::array<uintptr_t, 2>>& arrays, float factor) {
        for (const auto& [address, size] : arrays)
          scale_values(pointer<float>(address), static_cast<int64_t>(size), factor, nullptr);
      },
      py::arg("arrays"), py::arg("factor"));
  m.def(
      "clip_values",
      [](const std::vector<std::array<uintptr_t, 2>>& arrays, float limit) {
        for (const auto& [address, size] : arrays)
          clip_values(pointer<float>(address), static_cast<int64_t>(size), limit, nullptr);
      },
      py::arg("arrays"), py::arg("limit"));
}

}  // namespace rnnfast::cuda
