// What is not the recurrence: linear layers, losses, embeddings, dropout, optimisers, sampling.
#include <pybind11/stl.h>

#include <string>

#include "arrays.h"
#include "core/embedding.h"
#include "core/loss.h"
#include "core/optim.h"
#include "core/sampler.h"

namespace rnnfast {

namespace {

template <class T>
using Arrays = std::vector<Array<T>>;
using Tokens = Array<int32_t>;

template <class T>
T* mutable_or_null(std::optional<Array<T>>& array) {
  return array ? array->mutable_data() : nullptr;
}

template <class T>
std::shared_ptr<PackedLinear<T>> pack(const Array<T>& weight, const std::optional<Array<T>>& bias, bool backward,
                                      int threads) {
  std::shared_ptr<PackedLinear<T>> packed;
  without_gil([&] {
    packed = pack_linear(weight.data(), data_or_null(bias), weight.shape(1), weight.shape(0), backward, threads);
  });
  return packed;
}

using Choice = std::optional<Array<int64_t>>;  // numbers of rows, rising
RowChoice choice_of(const Choice& rows, int64_t all) {
  return {all, data_or_null(rows), rows ? static_cast<int64_t>(rows->size()) : all};
}

template <class T>
Array<T> apply_linear(const PackedLinear<T>& packed, const Array<T>& x, const Choice& rows, int threads) {
  Array<T> y({static_cast<int64_t>(x.shape(0)), packed.out()});
  T* to = y.mutable_data();
  without_gil([&] { linear_forward(packed, x.data(), choice_of(rows, x.shape(0)), to, threads); });
  return y;
}

template <class T>
Array<T> linear_gradients(const PackedLinear<T>& packed, const Array<T>& dy, const Array<T>& x, const Choice& rows,
                          Array<T> dweight, std::optional<Array<T>> dbias, int threads) {
  Array<T> dx({static_cast<int64_t>(x.shape(0)), packed.in()});
  const LinearBackward<T> io{
      choice_of(rows, x.shape(0)), dy.data(), x.data(), dx.mutable_data(), dweight.mutable_data(),
      mutable_or_null(dbias)};
  without_gil([&] { linear_backward(packed, io, threads); });
  return dx;
}

Reduction reduction_of(const std::string& name) {
  return name == "none" ? Reduction::none : name == "sum" ? Reduction::sum : Reduction::mean;
}

// The loss as Python gets it: a number, or with "none" an array; `compute` is given the targets and returns a number.
template <class T, class F>
py::object loss_of(const Tokens& target, const std::optional<Array<T>>& weights, double smoothing,
                   const std::string& reduction, F&& compute) {
  LossTargets<T> targets{target.size(),           target.data(), data_or_null(weights),
                         reduction_of(reduction), nullptr,       smoothing};
  std::optional<Array<T>> rows;
  if (targets.reduction == Reduction::none) {
    rows.emplace(target.size());
    targets.row_loss = rows->mutable_data();
  }
  double loss = 0;
  without_gil([&] { loss = compute(targets); });
  return rows ? py::object(std::move(*rows)) : py::cast(loss);
}

template <class T>
py::tuple cross_entropy(const Array<T>& logits, const Tokens& target, const std::optional<Array<T>>& weights,
                        double smoothing, const std::string& reduction, int threads) {
  Array<T> dlogits({logits.shape(0), logits.shape(1)});
  T* to = dlogits.mutable_data();
  py::object loss = loss_of(target, weights, smoothing, reduction, [&](const LossTargets<T>& targets) {
    return softmax_cross_entropy(targets, logits.data(), logits.shape(1), to, threads);
  });
  return py::make_tuple(std::move(loss), std::move(dlogits));
}

template <class T>
py::tuple fused_cross_entropy(const Array<T>& x, const Array<T>& weight, const std::optional<Array<T>>& bias,
                              const Tokens& target, const std::optional<Array<T>>& weights, double smoothing,
                              const std::string& reduction, std::optional<Array<T>> dweight,
                              std::optional<Array<T>> dbias, int threads) {
  std::optional<Array<T>> dx;
  if (dweight) dx.emplace(std::vector<py::ssize_t>{x.shape(0), x.shape(1)});
  const LinearLoss<T> io{
      weight.shape(1),          weight.shape(0),       x.data(), weight.data(), data_or_null(bias), mutable_or_null(dx),
      mutable_or_null(dweight), mutable_or_null(dbias)};
  py::object loss = loss_of(target, weights, smoothing, reduction,
                            [&](const LossTargets<T>& targets) { return linear_cross_entropy(targets, io, threads); });
  return py::make_tuple(std::move(loss), std::move(dx));
}

template <class T>
Array<T> gather(const Array<T>& table, const Tokens& tokens, int threads) {
  Array<T> y({static_cast<int64_t>(tokens.size()), static_cast<int64_t>(table.shape(1))});
  T* to = y.mutable_data();
  without_gil([&] { embedding_forward(table.data(), table.shape(1), tokens.data(), tokens.size(), to, threads); });
  return y;
}

template <class T>
void scatter_add(const Array<T>& dy, const Tokens& tokens, Array<T> dtable, int threads) {
  T* to = dtable.mutable_data();
  without_gil(
      [&] { embedding_backward(dy.data(), dy.shape(1), tokens.data(), tokens.size(), dtable.shape(0), to, threads); });
}

template <class T>
Array<T> drop(const Array<T>& x, double p, uint64_t seed, uint64_t step, uint32_t stream, int threads) {
  Array<T> y({x.shape(0), x.shape(1), x.shape(2)});
  T* to = y.mutable_data();
  without_gil(
      [&] { dropout_values(x.data(), x.shape(0), x.shape(1), x.shape(2), {p, seed, step, stream}, to, threads); });
  return y;
}

Optimiser optimiser_of(const std::string& name) {
  return name == "SGD"       ? Optimiser::sgd
         : name == "RMSprop" ? Optimiser::rmsprop
         : name == "Adam"    ? Optimiser::adam
                             : Optimiser::adamw;
}

// state[k] has an array for each parameter, or none at all.
template <class T>
void update(const OptimiserStep& step, Arrays<T> params, const Arrays<T>& grads, std::vector<Arrays<T>> state,
            int threads) {
  std::vector<OptimiserArrays<T>> arrays;
  for (size_t i = 0; i < params.size(); ++i) {
    OptimiserArrays<T> a{params[i].mutable_data(), grads[i].data(), {}, params[i].size()};
    for (size_t k = 0; k < state.size(); ++k)
      if (!state[k].empty()) a.state[k] = state[k][i].mutable_data();
    arrays.push_back(a);
  }
  without_gil([&] { optimiser_step(step, arrays, threads); });
}

template <class T>
std::vector<Values<T>> values_of(Arrays<T>& arrays) {
  std::vector<Values<T>> values;
  for (Array<T>& array : arrays) values.push_back({array.mutable_data(), array.size()});
  return values;
}

template <class T>
double squares(Arrays<T> arrays, int threads) {
  double sum = 0;
  const auto values = values_of(arrays);
  without_gil([&] { sum = sum_of_squares(values, threads); });
  return sum;
}

template <class T>
void scale(Arrays<T> arrays, double factor, int threads) {
  const auto values = values_of(arrays);
  without_gil([&] { scale_values(values, factor, threads); });
}

template <class T>
void clip(Arrays<T> arrays, double limit, int threads) {
  const auto values = values_of(arrays);
  without_gil([&] { clip_values(values, limit, threads); });
}

template <class T, class E>
std::unique_ptr<Sampler<T, E>> make_sampler(RnnStepper<T, E>& stepper, const std::optional<Array<T>>& embedding,
                                            std::shared_ptr<PackedLinear<T>> output, int threads) {
  return std::make_unique<Sampler<T, E>>(stepper, data_or_null(embedding), std::move(output), threads);
}

template <class T, class E>
void prime(Sampler<T, E>& sampler, const Tokens& tokens) {
  without_gil([&] { sampler.prime(tokens.data(), tokens.shape(0)); });
}

template <class T, class E>
Array<int64_t> draw(Sampler<T, E>& sampler, int64_t length, double temperature, int64_t top_k, double top_p,
                    uint64_t seed, int64_t start) {
  Array<int64_t> ids({length, sampler.batch()});
  int64_t* to = ids.mutable_data();
  without_gil([&] { sampler.sample({temperature, top_k, top_p, seed, start}, length, to); });
  return ids;
}

template <class T, class E>
void bind_sampler(py::module_& m, const std::string& suffix) {
  using namespace py::literals;
  py::class_<Sampler<T, E>>(m, ("Sampler" + suffix).c_str())
      .def(py::init(&make_sampler<T, E>), "stepper"_a, py::arg("embedding").noconvert(), "output"_a, "threads"_a,
           py::keep_alive<1, 2>())
      .def("prime", prime<T, E>, py::arg("tokens").noconvert())
      .def("sample", draw<T, E>, "length"_a, "temperature"_a, "top_k"_a, "top_p"_a, "seed"_a, "start"_a);
}

template <class T>
void bind_type(py::module_& m, const std::string& suffix) {
  using namespace py::literals;
  const auto a = [](const char* name) { return py::arg(name).noconvert(); };
  py::class_<PackedLinear<T>, std::shared_ptr<PackedLinear<T>>>(m, ("PackedLinear" + suffix).c_str())
      .def(py::init(&pack<T>), a("weight"), a("bias"), "backward"_a, "threads"_a)
      .def("forward", apply_linear<T>, a("x"), a("rows"), "threads"_a)
      .def("backward", linear_gradients<T>, a("dy"), a("x"), a("rows"), a("dweight"), a("dbias"), "threads"_a);
  m.def("softmax_cross_entropy", cross_entropy<T>, a("logits"), a("target"), a("weights"), "smoothing"_a, "reduction"_a,
        "threads"_a);
  m.def("linear_cross_entropy", fused_cross_entropy<T>, a("x"), a("weight"), a("bias"), a("target"), a("weights"),
        "smoothing"_a, "reduction"_a, a("dweight"), a("dbias"), "threads"_a);
  m.def("embedding_forward", gather<T>, a("table"), a("tokens"), "threads"_a);
  m.def("embedding_backward", scatter_add<T>, a("dy"), a("tokens"), a("dtable"), "threads"_a);
  m.def("dropout", drop<T>, a("x"), "p"_a, "seed"_a, "step"_a, "stream"_a, "threads"_a);
  m.def("optimiser_step", update<T>, "step"_a, a("params"), a("grads"), a("state"), "threads"_a);
  m.def("sum_of_squares", squares<T>, a("arrays"), "threads"_a);
  m.def("scale_values", scale<T>, a("arrays"), "factor"_a, "threads"_a);
  m.def("clip_values", clip<T>, a("arrays"), "limit"_a, "threads"_a);
}

}  // namespace

void bind_ops(py::module_& m) {
  using namespace py::literals;
  py::class_<OptimiserStep>(m, "OptimiserStep")
      .def(py::init([](const std::string& kind, double lr, double weight_decay, double momentum, double alpha,
                       double beta1, double beta2, double eps, double grad_scale, bool nesterov, int64_t step) {
             return OptimiserStep{optimiser_of(kind), lr,       weight_decay, momentum, alpha, beta1, beta2, eps,
                                  grad_scale,         nesterov, step};
           }),
           py::kw_only(), "kind"_a, "lr"_a, "weight_decay"_a = 0.0, "momentum"_a = 0.0, "alpha"_a = 0.0,
           "beta1"_a = 0.0, "beta2"_a = 0.0, "eps"_a = 0.0, "grad_scale"_a = 1.0, "nesterov"_a = false, "step"_a = 1);
  bind_type<float>(m, "32");
  bind_type<double>(m, "64");
  bind_sampler<float, float>(m, "32");
  bind_sampler<double, double>(m, "64");
  bind_sampler<float, Bf16x2>(m, "Bf16");
}

}  // namespace rnnfast
