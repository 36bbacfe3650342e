// Backward, from the last layer to the first: the recurrence of each direction leaves the gradients of all
// pre-activations, from which those of inputs and weights are products over all rows.
#include "gemm.h"
#include "rnn.h"

namespace rnnfast::cuda {

namespace {

class BackwardPass {
 public:
  BackwardPass(const DeviceCache& cache, const RnnBackward<float>& io, Recurrence wish, const Context& context)
      : cache_(cache),
        config_(cache.config),
        kernels_(cell_kernels(cache.config.cell)),
        io_(io),
        wish_(wish),
        context_(context),
        rows_(cache.schedule.host().rows()),
        batch_(cache.schedule.host().batch()),
        gates_(kernels_.gates * config_.hidden),
        width_(config_.directions * config_.hidden) {}

  void run() {
    DeviceBuffer<float> dy;  // of the layer in turn, [rows][D * H]
    if (io_.dy != nullptr) {
      dy = DeviceBuffer<float>(context_, rows_ * width_);
      copy_rows(cache_.schedule.rows(), width_, place_of(io_.dy, io_.dy_strides), {dy.data(), width_, 0, 0},
                context_.stream);
    }
    for (int layer = config_.layers - 1; layer >= 0; --layer) {
      const int64_t inputs = config_.input_of(layer);
      DeviceBuffer<float> dx;
      if (layer > 0 || (io_.dx != nullptr && cache_.token.size() == 0))
        dx = DeviceBuffer<float>(context_, rows_ * inputs);
      for (int d = 0; d < config_.directions; ++d) recur(layer, d, dy, dx);
      dy = std::move(dx);
      if (layer > 0 && cache_.layers[static_cast<size_t>(layer) - 1].out.size() > 0)
        drop_rows(drop_params(cache_, layer - 1, dy.data(), dy.data()), context_.stream);
    }
    if (dy.size() > 0)
      copy_rows(cache_.schedule.rows(), config_.input, {dy.data(), config_.input, 0, 0},
                place_of(io_.dx, io_.dx_strides), context_.stream);
    for (const Sum& sum : sums_) add_column_sums(sum.from.data(), sum.rows, sum.n, sum.to0, sum.to1, context_.stream);
  }

 private:
  void recur(int layer, int d, const DeviceBuffer<float>& dy, const DeviceBuffer<float>& dx) {
    const int64_t index = layer * config_.directions + d, hidden = config_.hidden;
    const auto& own = cache_.layers[static_cast<size_t>(layer)];
    const auto& at = own.direction[static_cast<size_t>(d)];
    const DeviceBuffer<float> dah(context_, rows_ * gates_), split(context_, kernels_.split ? rows_ * gates_ : 0);
    DeviceBuffer<float> carry[kMaxStates];
    BackwardParams b{};
    b.seq = cache_.schedule.sequences(d == 1), b.hidden = hidden, b.r = at.r.data();
    b.y = own.y.data() + d * hidden, b.y_stride = width_;
    b.saved = at.saved.data();
    b.dy = dy.size() > 0 ? dy.data() + d * hidden : nullptr;
    b.dah = dah.data(), b.dax = kernels_.split ? split.data() : b.dah;
    for (int k = 0; k < kernels_.states; ++k) {
      carry[k] = last_gradient(index, k);
      b.state0[k] = at.state0[k].data(), b.state[k] = at.state[k].data(), b.carry[k] = carry[k].data();
    }
    if (rows_ > 0) {
      const LaunchPlan plan = plan_backward(kernels_, hidden, batch_, {wish_, cache_.bf16});
      run_backward(kernels_, plan, b, context_, cache_.schedule.active());
    }
    for (int k = 0; k < kernels_.states; ++k)
      if (io_.dstate0[k] != nullptr)
        copy_rows(cache_.schedule.batch(), hidden, {carry[k].data(), hidden, 0, 0},
                  {io_.dstate0[k] + index * batch_ * hidden, 0, 0, hidden}, context_.stream);
    if (rows_ == 0) return;
    const bool bf16 = cache_.bf16;
    const Operand dax(b.dax, rows_, gates_, bf16, context_);
    if (dx.size() > 0) {
      const int64_t inputs = config_.input_of(layer);
      const Operand w(at.w.data(), gates_, inputs, bf16, context_);
      gemm({rows_, inputs, gates_, dax.data(), gates_, false, w.data(), inputs, false, dx.data(), inputs,
            d == 0 ? 0.0f : 1.0f, bf16},
           context_.stream);
    }
    weight_gradients(layer, b, dax, io_.gradients[index]);
  }

  DeviceBuffer<float> last_gradient(int64_t index, int k) const {
    if (io_.dstate_n[k] == nullptr) return zeros<float>(context_, batch_ * config_.hidden);
    DeviceBuffer<float> to(context_, batch_ * config_.hidden);
    copy_rows(cache_.schedule.batch(), config_.hidden,
              {io_.dstate_n[k] + index * batch_ * config_.hidden, 0, 0, config_.hidden},
              {to.data(), config_.hidden, 0, 0}, context_.stream);
    return to;
  }

  void weight_gradients(int layer, const BackwardParams& b, const Operand& dax, const RnnGradients<float>& to) {
    const bool bf16 = cache_.bf16;
    const int64_t hidden = config_.hidden, inputs = config_.input_of(layer);
    if (to.w_ih != nullptr && layer == 0 && cache_.token.size() > 0) {
      const DeviceBuffer<float> columns(context_, inputs * gates_);
      token_sums(b.dax, cache_.token.data(), rows_, inputs, gates_, columns.data(), false, context_.stream);
      transpose(columns.data(), inputs, gates_, sum_for(1, gates_ * inputs, to.w_ih), false, context_.stream);
    } else if (to.w_ih != nullptr) {
      const float* from = layer == 0 ? cache_.x.data() : cache_.layers[static_cast<size_t>(layer) - 1].outputs();
      const Operand x(from, rows_, inputs, bf16, context_);
      gemm({gates_, inputs, rows_, dax.data(), gates_, true, x.data(), inputs, false,
            sum_for(1, gates_ * inputs, to.w_ih), inputs, 0, bf16},
           context_.stream);
    }
    if (to.w_hh != nullptr) {
      const DeviceBuffer<float> before(context_, rows_ * hidden);
      rows_before({b.seq, cache_.schedule.rows(), hidden, {b.state0[0]}, b.y, b.y_stride, before.data()},
                  context_.stream);
      const Operand h(before.data(), rows_, hidden, bf16, context_);
      const Operand own(b.dah, rows_, gates_, bf16 && b.dah != b.dax, context_);
      gemm({gates_, hidden, rows_, b.dah == b.dax ? dax.data() : own.data(), gates_, true, h.data(), hidden, false,
            sum_for(1, gates_ * hidden, to.w_hh), hidden, 0, bf16},
           context_.stream);
    }
    if (to.b_ih == nullptr && to.b_hh == nullptr) return;
    const int64_t parts = column_sum_parts(rows_);
    if (b.dax == b.dah) {
      column_sums(b.dah, rows_, gates_, sum_for(parts, gates_, to.b_ih, to.b_hh), context_.stream);
    } else {
      column_sums(b.dax, rows_, gates_, sum_for(parts, gates_, to.b_ih), context_.stream);
      column_sums(b.dah, rows_, gates_, sum_for(parts, gates_, to.b_hh), context_.stream);
    }
  }

  // Memory [rows][n] whose column sums are added to the caller's array, or to both, once everything is there: a call
  // that runs out of memory leaves the gradients as they were.
  float* sum_for(int64_t rows, int64_t n, float* to0, float* to1 = nullptr) {
    sums_.push_back({DeviceBuffer<float>(context_, rows * n), rows, n, to0, to1});
    return sums_.back().from.data();
  }

  struct Sum {
    DeviceBuffer<float> from;
    int64_t rows, n;
    float *to0, *to1;
  };

  const DeviceCache& cache_;
  const RnnConfig& config_;
  const CellKernels& kernels_;
  const RnnBackward<float>& io_;
  Recurrence wish_;
  const Context& context_;
  int64_t rows_, batch_, gates_, width_;
  std::vector<Sum> sums_;
};

}  // namespace

void rnn_backward(const DeviceCache& cache, const RnnBackward<float>& io, Recurrence wish, const Context& context) {
  BackwardPass(cache, io, wish, context).run();
}

}  // namespace rnnfast::cuda
