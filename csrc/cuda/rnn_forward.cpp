// Forward, layer by layer: the product of all inputs, then the recurrence of each direction.
#include "../core/dropout.h"
#include "gemm.h"
#include "rnn.h"

namespace rnnfast::cuda {

namespace {

class ForwardPass {
 public:
  ForwardPass(const RnnConfig& config, const RnnWeights<float>* weights, const RnnInput<float>& in,
              const float* const* state0, const RnnOutput<float>& out, bool keep, Choice choice, DeviceCache& cache,
              const Context& context)
      : config_(config),
        weights_(weights),
        kernels_(cell_kernels(config.cell)),
        in_(in),
        state0_(state0),
        out_(out),
        keep_(keep),
        choice_(choice),
        cache_(cache),
        context_(context),
        rows_(cache.schedule.host().rows()),
        batch_(cache.schedule.host().batch()),
        gates_(kernels_.gates * config.hidden),
        width_(config.directions * config.hidden) {}

  void run() {
    take_input();
    for (int layer = 0; layer < config_.layers; ++layer) {
      cache_.layers.emplace_back();
      auto& at = cache_.layers.back();
      at.y = DeviceBuffer<float>(context_, rows_ * width_);
      at.direction.resize(static_cast<size_t>(config_.directions));
      for (int d = 0; d < config_.directions; ++d) recur(layer, d);
      if (drops(layer)) drop(layer);
      if (!keep_ && layer > 0) cache_.layers[static_cast<size_t>(layer) - 1] = {};
    }
    const int64_t width = width_;
    copy_rows(cache_.schedule.rows(), width, {cache_.layers.back().y.data(), width, 0, 0},
              place_of(out_.y, out_.strides), context_.stream);
  }

 private:
  bool drops(int layer) const { return keep_ && config_.dropout > 0 && layer + 1 < config_.layers; }

  void take_input() {
    const RowMap map = cache_.schedule.rows();
    if (in_.tokens != nullptr) {  // copied as they are: a token has the size of a float
      cache_.token = DeviceBuffer<int32_t>(context_, rows_);
      copy_rows(map, 1, place_of(reinterpret_cast<const float*>(in_.tokens), in_.strides),
                {reinterpret_cast<float*>(cache_.token.data()), 1, 0, 0}, context_.stream);
    } else {
      cache_.x = DeviceBuffer<float>(context_, rows_ * config_.input);
      copy_rows(map, config_.input, place_of(in_.x, in_.strides), {cache_.x.data(), config_.input, 0, 0},
                context_.stream);
    }
  }

  // The products of the inputs of a layer [rows][G * H]; of tokens the columns [I][G * H] that they pick from.
  DeviceBuffer<float> input_product(int layer, const float* w) {
    const int64_t inputs = config_.input_of(layer);
    const bool tokens = layer == 0 && in_.tokens != nullptr;
    DeviceBuffer<float> to(context_, (tokens ? inputs : rows_) * gates_);
    if (tokens) {
      transpose(w, gates_, inputs, to.data(), false, context_.stream, choice_.bf16);
    } else if (rows_ > 0) {
      const bool bf16 = choice_.bf16;
      const float* from = layer == 0 ? cache_.x.data() : cache_.layers[static_cast<size_t>(layer) - 1].outputs();
      const Operand x(from, rows_, inputs, bf16, context_), weights(w, gates_, inputs, bf16, context_);
      gemm({rows_, gates_, inputs, x.data(), inputs, false, weights.data(), inputs, true, to.data(), gates_, 0, bf16},
           context_.stream);
    }
    return to;
  }

  DeviceBuffer<float> copy_of(const float* from, int64_t size) const {
    DeviceBuffer<float> to(context_, size);
    copy_async(to.data(), from, to.bytes(), context_.stream);
    return to;
  }

  DeviceBuffer<float> first_state(int64_t index, int k) const {
    if (state0_[k] == nullptr) return {};
    DeviceBuffer<float> to(context_, batch_ * config_.hidden);
    copy_rows(cache_.schedule.batch(), config_.hidden,
              {state0_[k] + index * batch_ * config_.hidden, 0, 0, config_.hidden}, {to.data(), config_.hidden, 0, 0},
              context_.stream);
    return to;
  }

  void recur(int layer, int d) {
    const int64_t index = layer * config_.directions + d, hidden = config_.hidden;
    const RnnWeights<float>& w = weights_[index];
    auto& own = cache_.layers[static_cast<size_t>(layer)];
    auto& at = own.direction[static_cast<size_t>(d)];
    for (int k = 0; k < kernels_.states; ++k) {
      at.state0[k] = first_state(index, k);
      if (k > 0 && keep_) at.state[k] = DeviceBuffer<float>(context_, rows_ * hidden);
      if (k > 0 && !keep_) at.state[k] = DeviceBuffer<float>(context_, batch_ * hidden);
    }
    if (keep_) {
      at.w = copy_of(w.w_ih, gates_ * config_.input_of(layer)), at.r = copy_of(w.w_hh, gates_ * hidden);
      at.saved = DeviceBuffer<float>(context_, rows_ * kernels_.saved * hidden);
    }
    const DeviceBuffer<float> product = input_product(layer, w.w_ih);
    ForwardParams f{};
    f.seq = cache_.schedule.sequences(d == 1), f.hidden = hidden;
    f.r = w.w_hh, f.b_ih = w.b_ih, f.b_hh = w.b_hh;
    f.x = product.data(), f.token = layer == 0 && in_.tokens != nullptr ? cache_.token.data() : nullptr;
    f.y = own.y.data() + d * hidden, f.y_stride = width_;
    for (int k = 0; k < kernels_.states; ++k) f.state0[k] = at.state0[k].data(), f.state[k] = at.state[k].data();
    f.keep_states = keep_;
    f.saved = at.saved.size() > 0 ? at.saved.data() : nullptr;
    if (rows_ > 0) {
      const LaunchPlan plan = plan_forward(kernels_, hidden, batch_, choice_);
      run_forward(kernels_, plan, f, context_, cache_.schedule.active());
    }
    LastParams last{f.seq, hidden, cache_.schedule.order(), {}};
    for (int k = 0; k < kernels_.states; ++k) {
      float* to = out_.state[k] != nullptr ? out_.state[k] + index * batch_ * hidden : nullptr;
      last.state[k] = {k == 0 ? f.y : f.state[k], k == 0 ? width_ : hidden, k > 0 && !keep_, f.state0[k], to};
    }
    last_rows(last, context_.stream);
  }

  void drop(int layer) {
    auto& at = cache_.layers[static_cast<size_t>(layer)];
    at.out = DeviceBuffer<float>(context_, rows_ * width_);
    drop_rows(drop_params(cache_, layer, at.y.data(), at.out.data()), context_.stream);
  }

  const RnnConfig& config_;
  const RnnWeights<float>* weights_;
  const CellKernels& kernels_;
  const RnnInput<float>& in_;
  const float* const* state0_;
  const RnnOutput<float>& out_;
  bool keep_;
  Choice choice_;
  DeviceCache& cache_;
  const Context& context_;
  int64_t rows_, batch_, gates_, width_;
};

}  // namespace

DropParams drop_params(const DeviceCache& cache, int layer, const float* from, float* to) {
  const RnnConfig& c = cache.config;
  return {cache.schedule.rows(),
          c.hidden,
          c.directions,
          cache.dropout.seed,
          cache.dropout.step,
          static_cast<uint32_t>(layer * 2),
          dropout_threshold(c.dropout),
          static_cast<float>(1.0 / (1.0 - c.dropout)),
          from,
          to};
}

size_t DeviceCache::bytes() const {
  size_t sum = x.bytes() + token.bytes();
  for (const Layer& layer : layers) {
    sum += layer.y.bytes() + layer.out.bytes();
    for (const auto& at : layer.direction) {
      sum += at.w.bytes() + at.r.bytes() + at.saved.bytes();
      for (int k = 0; k < kMaxStates; ++k) sum += at.state0[k].bytes() + at.state[k].bytes();
    }
  }
  return sum;
}

std::unique_ptr<DeviceCache> rnn_forward(const RnnConfig& config, const RnnWeights<float>* weights,
                                         const RnnInput<float>& in, const float* const state0[kMaxStates],
                                         const RnnOutput<float>& out, bool keep, const DropoutState& dropout,
                                         Choice choice, const Context& context) {
  auto cache = std::make_unique<DeviceCache>(in.layout, context);
  cache->config = config, cache->bf16 = choice.bf16, cache->dropout = dropout;
  ForwardPass(config, weights, in, state0, out, keep, choice, *cache, context).run();
  return keep ? std::move(cache) : nullptr;
}

}  // namespace rnnfast::cuda
