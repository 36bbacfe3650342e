// Backward: the mirror of rnn_forward.cpp, in one parallel region. From the last layer to the first, the recurrence of
// both directions (where the cache has no saved values, after that of forward, which writes the same states again),
// then over all rows at once the gradients of the weights and of the layer's input. Weight gradients gather in scratch
// and are added to the caller's at the very end, so that an interrupt changes nothing.
#include <algorithm>

#include "dropout.h"
#include "plan.h"

namespace rnnfast {

namespace {

constexpr int64_t kFewRows = 8;  // up to here weight gradients are added as products of rows, without a packed sum

// What backward makes for one layer and direction.
template <class T>
struct DirectionWork {
  T *saved = nullptr, *da = nullptr;  // [panel][panel rows][saved][L], [panel][panel rows][P][L]
  Buffer<T> dstate[kMaxStates];       // [B][padded H] sorted
  Buffer<T> dw, dr, sums;  // [panel][I][run][L] or, one-hot, [token][panel][P][L]; [panel][H][run][L]; [panel][P][L]
  std::vector<const T*> h_prev;  // [rows] -> [H]
};

template <class T>
class BackwardPass {
 public:
  BackwardPass(RnnCache<T>& cache, const RnnBackward<T>& io, bool keep, int threads)
      : cache_(cache),
        config_(cache.config),
        cell_(cell_shape(cache.config.cell)),
        schedule_(cache.schedule),
        view_(schedule_.view()),
        io_(io),
        keep_(keep),
        L_(kernels<T>().lanes),
        few_(schedule_.rows() <= kFewRows),
        plan_(cell_, L_, config_.hidden, schedule_, flops(), threads) {
    padded_ = plan_.panels * L_;
    row_size_ = padded_ * cell_.pre_activations;
    da_row_ = cell_.pre_activations * L_, da_panel_ = panel_rows_of(schedule_.rows()) * da_row_;
    // One layer at a time needs them, but a few rows' da is needed at the end.
    for (int i = 0; i < config_.directions * (few_ ? config_.layers : 1); ++i) {
      saved_.emplace_back(cache.recomputes() ? panel_rows_of(schedule_.rows()) * padded_ * cell_.saved : 0);
      da_.emplace_back(da_in_place() ? 0 : plan_.panels * da_panel_);
    }
    for (int i = 0; i < config_.layers * config_.directions; ++i) allocate(i);
    for (int i = 0; i < std::min(config_.layers - 1, 2); ++i)
      dy_[i] = Buffer<T>(schedule_.rows() * config_.directions * config_.hidden);
    for (int i = 0; i < plan_.threads; ++i) scratch_.emplace_back(plan_, cell_, schedule_.rows(), cache.recomputes());
    index_caller_rows();
    if (cache.token.size() > 0) group_tokens();
  }

  void run() {
    const bool stopped = parallel(plan_.threads, [this](Team& team) {
      for (int layer = config_.layers - 1; layer >= 0; --layer) {
        for (int d = 0; d < config_.directions; ++d) {
          if (cache_.recomputes()) recompute(layer, d, team);
          recur(layer, d, team);
        }
        if (team_barrier(team)) return;
        for (int d = 0; d < config_.directions; ++d) weight_gradients(layer, d, team);
        if (layer == 0 && io_.dx != nullptr && io_.dx == cache_.x.data() && team_barrier(team)) return;  // over x
        input_gradient(layer, team);
        if (team_barrier(team)) return;
      }
      commit(team);
    });
    if (stopped) throw Interrupted();
  }

 private:
  using Layer = typename RnnCache<T>::Layer;
  using Direction = typename Layer::Direction;

  Layer& layer_of(int layer) { return cache_.layers[static_cast<size_t>(layer)]; }
  Direction& direction_of(int layer, int d) { return layer_of(layer).direction[static_cast<size_t>(d)]; }
  DirectionWork<T>& work(int layer, int d) { return work_[static_cast<size_t>(layer * config_.directions + d)]; }
  const typename PackedRnn<T>::Layer& weights(int layer, int d) const {
    return cache_.weights->layers[static_cast<size_t>(layer * config_.directions + d)];
  }
  bool one_hot(int layer) const { return layer == 0 && cache_.token.size() > 0; }
  // da takes the place of the saved values where there are as many, unless they shall live on.
  bool da_in_place() const { return cell_.saved == cell_.pre_activations && (!keep_ || cache_.recomputes()); }
  T* dy_of(int layer) { return dy_[layer % 2].data(); }
  int64_t out_width() const { return config_.directions * config_.hidden; }

  double flops() const {
    return 4.0 * cell_.recurrent.count * static_cast<double>(config_.hidden) * static_cast<double>(config_.hidden) *
           static_cast<double>(schedule_.rows() * config_.layers * config_.directions);
  }

  void allocate(int index) {
    const int layer = index / config_.directions, d = index % config_.directions;
    Direction& at = direction_of(layer, d);
    DirectionWork<T> to;
    const auto own = static_cast<size_t>(few_ ? index : d);
    to.saved = cache_.recomputes() ? saved_[own].data() : at.saved.data();
    to.da = da_in_place() ? to.saved : da_[own].data();
    for (int64_t panel = 0; panel < plan_.panels; ++panel)
      std::fill_n(to.da + panel * da_panel_ + schedule_.rows() * da_row_, da_row_, T(0));
    for (int k = 0; k < cell_.states; ++k) {
      to.dstate[k] = Buffer<T>(schedule_.batch() * padded_);
      T* row = to.dstate[k].data();
      for (int64_t j = 0; j < schedule_.batch(); ++j, row += padded_) {
        std::fill_n(row, padded_, T(0));
        if (io_.dstate_n[k] != nullptr)
          std::copy_n(io_.dstate_n[k] + (index * schedule_.batch() + schedule_.caller(j)) * config_.hidden,
                      config_.hidden, row);
      }
    }
    if (one_hot(layer)) {
      to.dw = Buffer<T>(cache_.ids.size() * row_size_);
    } else if (!few_) {
      to.dw = Buffer<T>(padded_ * cell_.input.count * config_.input_of(layer));
    }
    if (!few_) to.dr = Buffer<T>(padded_ * cell_.recurrent.count * config_.hidden);
    to.sums = Buffer<T>(row_size_);

    to.h_prev.resize(static_cast<size_t>(schedule_.rows()));
    const T* y = layer_of(layer).y.data() + d * config_.hidden;
    schedule_.each_row(0, schedule_.longest(), [&](int64_t row, int64_t t, int64_t j) {
      const bool first = d == 0 ? t == 0 : t == schedule_.length(j) - 1;
      const int64_t prev = first ? -1 : view_.offset[d == 0 ? t - 1 : t + 1] + j;
      // The cut before time t lies on the row of t; for the backward direction the step before is t + 1.
      const bool cut = view_.cut != nullptr && (d == 0 ? view_.cut[row] : !first && view_.cut[prev]);
      to.h_prev[static_cast<size_t>(row)] = cut     ? cache_.weights->zeros.data()
                                            : first ? at.state0[0].data() + j * padded_
                                                    : y + prev * out_width();
    });
    work_.push_back(std::move(to));
  }

  void index_caller_rows() {
    const auto rows = static_cast<size_t>(schedule_.rows());
    if (io_.dy != nullptr)
      for (int d = 0; d < config_.directions; ++d) dy_index_[d].resize(rows);
    if (io_.dx != nullptr) dx_index_.resize(rows);
    schedule_.each_row(0, schedule_.longest(), [&](int64_t row, int64_t t, int64_t j) {
      const int64_t b = schedule_.caller(j);
      if (io_.dy != nullptr)
        for (int d = 0; d < config_.directions; ++d)
          dy_index_[d][static_cast<size_t>(row)] =
              io_.dy + t * io_.dy_stride_time + b * io_.dy_stride_batch + d * config_.hidden;
      if (io_.dx != nullptr)
        dx_index_[static_cast<size_t>(row)] = io_.dx + t * io_.dx_stride_time + b * io_.dx_stride_batch;
    });
  }

  // The rows of each distinct token, in order, so that its gradient is a sum in registers.
  void group_tokens() {
    group_begin_.assign(static_cast<size_t>(cache_.ids.size()) + 1, 0);
    for (int64_t r = 0; r < cache_.token.size(); ++r) ++group_begin_[static_cast<size_t>(cache_.token[r]) + 1];
    for (size_t u = 1; u < group_begin_.size(); ++u) group_begin_[u] += group_begin_[u - 1];
    group_rows_.resize(static_cast<size_t>(cache_.token.size()));
    std::vector<int64_t> next(group_begin_.begin(), group_begin_.end() - 1);
    for (int64_t r = 0; r < cache_.token.size(); ++r)
      group_rows_[static_cast<size_t>(next[static_cast<size_t>(cache_.token[r])]++)] = static_cast<int32_t>(r);
  }

  void recompute(int layer, int d, Team& team) {
    ForwardArgs<T> args = cache_.forward_args(layer, d);
    args.saved = work(layer, d).saved;
    kernels<T>().cell[config_.cell].forward(args, scratch_[static_cast<size_t>(team.id)].view(), plan_.part(team),
                                            team);
  }

  void recur(int layer, int d, Team& team) {
    Direction& at = direction_of(layer, d);
    DirectionWork<T>& to = work(layer, d);
    BackwardArgs<T> args{};
    args.hidden = config_.hidden;
    args.schedule = view_, args.reverse = d == 1;
    args.r = weights(layer, d).r_back.data();
    args.y = {layer_of(layer).y.data() + d * config_.hidden, out_width(), nullptr};
    for (int k = 0; k < cell_.states; ++k) {
      args.state0[k] = at.state0[k].data();
      args.state[k] = at.state[k].data();
      args.dstate[k] = to.dstate[k].data();
    }
    args.saved = to.saved;
    if (layer + 1 < config_.layers) {
      args.dy = {dy_of(layer) + d * config_.hidden, out_width(), nullptr};
    } else if (io_.dy != nullptr) {
      args.dy = {nullptr, 0, dy_index_[d].data()};
    }
    args.da = to.da, args.panel_rows = panel_rows_of(schedule_.rows());
    args.dstate0 = io_.dstate0[0] != nullptr;
    args.zeros = cache_.weights->zeros.data();
    kernels<T>().cell[config_.cell].backward(args, scratch_[static_cast<size_t>(team.id)].view(), plan_.part(team),
                                             team);
  }

  // All rows of what a layer multiplies its input weights with, and of what it multiplies its recurrent ones with.
  WeightGradientArgs<T> input_rows(int layer, int d) {
    const T* x = cache_.x.data();
    if (layer > 0) {
      const Layer& below = layer_of(layer - 1);
      x = below.dropped.size() > 0 ? below.dropped.data() : below.y.data();
    }
    const int64_t width = config_.input_of(layer);
    return weight_gradient_args(cell_.input, {x, width, nullptr}, width, work(layer, d));
  }
  WeightGradientArgs<T> recurrent_rows(int layer, int d) {
    DirectionWork<T>& at = work(layer, d);
    return weight_gradient_args(cell_.recurrent, {nullptr, 0, at.h_prev.data()}, config_.hidden, at);
  }
  WeightGradientArgs<T> weight_gradient_args(const Run& run, Rows<const T> x, int64_t inputs,
                                             const DirectionWork<T>& at) const {
    WeightGradientArgs<T> args{};
    args.rows = schedule_.rows(), args.inputs = inputs, args.x = x;
    args.da = at.da, args.da_row = da_row_, args.da_panel = da_panel_;
    args.first = run.first, args.n = run.count;
    return args;
  }

  void weight_gradients(int layer, int d, Team& team) {
    const Kernels<T>& k = kernels<T>();
    DirectionWork<T>& at = work(layer, d);
    const auto take = [&](WeightGradientArgs<T> args, T* gradient) {
      args.gradient = gradient;
      // Panels where every thread gets some, else inputs: K is never split.
      const bool by_panel = plan_.panels >= (args.n == 1 ? kMaxTilePanels : 1) * team.count;
      k.weight_gradient(args, by_panel ? part_of(plan_.panels, team.id, team.count) : Span{0, plan_.panels},
                        by_panel ? Span{0, args.inputs} : part_of(args.inputs, team.id, team.count), team);
    };
    const Span panels = part_of(plan_.panels, team.id, team.count);
    k.sum_rows(at.da, da_row_, da_panel_, nullptr, schedule_.rows(), cell_.pre_activations, at.sums.data(), panels);
    if (!few_) take(recurrent_rows(layer, d), at.dr.data());
    if (!one_hot(layer)) {
      if (!few_) take(input_rows(layer, d), at.dw.data());
      return;
    }
    for (int64_t u = 0; u < cache_.ids.size(); ++u) {
      const int64_t begin = group_begin_[static_cast<size_t>(u)], end = group_begin_[static_cast<size_t>(u) + 1];
      k.sum_rows(at.da, da_row_, da_panel_, group_rows_.data() + begin, end - begin, cell_.pre_activations,
                 at.dw.data() + u * row_size_, panels);
    }
  }

  // dx = da W of both directions, to the caller or as dy of the layer below, there with the mask of its dropout.
  void input_gradient(int layer, Team& team) {
    if (layer == 0 && (io_.dx == nullptr || cache_.token.size() > 0)) return;
    const int64_t width = config_.input_of(layer);
    const bool dropped = layer > 0 && layer_of(layer - 1).dropped.size() > 0;
    const Span times = part_of(view_.steps, team.id, team.count);
    const Span rows =
        dropped ? Span{view_.offset[times.begin], view_.offset[times.end]} : part_of(view_.rows, team.id, team.count);
    Rows<T> out{nullptr, 0, dx_index_.data()};
    if (layer > 0) out = {dy_of(layer - 1), width, nullptr};
    for (int d = 0; d < config_.directions; ++d) {
      GemmArgs<T> g{};
      g.n = 1, g.runs = plan_.panels, g.run_length = cell_.input.count * L_;
      g.run_stride = da_panel_;
      g.a = {work(layer, d).da + cell_.input.first * L_, da_row_, nullptr};
      g.b = weights(layer, d).w_back.data();
      g.init = d == 0 ? Rows<const T>{cache_.weights->zeros.data(), 0, nullptr}
                      : Rows<const T>{out.base, out.stride, out.index};
      g.init_panel = d == 0 ? 0 : L_;
      g.out = out, g.out_panel = L_, g.width = width;
      kernels<T>().gemm(g, rows, {0, (width + L_ - 1) / L_}, team);
    }
    if (dropped) drop_rows(config_, schedule_, cache_.seed, cache_.step, layer - 1, times, out.base, out.base);
  }

  void commit(const Team& team) {
    const Kernels<T>& k = kernels<T>();
    const Span panels = part_of(plan_.panels, team.id, team.count);
    for (int layer = 0; layer < config_.layers; ++layer) {
      for (int d = 0; d < config_.directions; ++d) {
        const int index = layer * config_.directions + d;
        const RnnGradients<T>& to = io_.gradients[index];
        DirectionWork<T>& at = work(layer, d);
        const int64_t width = config_.input_of(layer);
        const auto add = [&](const Run& run, PackedGradient<T> gradient, int64_t columns, const int32_t* ids,
                             int64_t count, T* gradients) {
          if (gradients != nullptr)
            k.add_gradient(gradient, config_.hidden, columns, ids, count, run, gradients, panels);
        };
        if (one_hot(layer)) {
          add(cell_.input, {at.dw.data() + cell_.input.first * L_, row_size_, cell_.pre_activations * L_}, width,
              cache_.ids.data(), cache_.ids.size(), to.w_ih);
        } else if (few_) {
          if (to.w_ih != nullptr) k.add_products(input_rows(layer, d), config_.hidden, cell_.input, to.w_ih, panels);
        } else {
          add(cell_.input, {at.dw.data(), cell_.input.count * L_, width * cell_.input.count * L_}, width, nullptr,
              width, to.w_ih);
        }
        if (few_) {
          if (to.w_hh != nullptr)
            k.add_products(recurrent_rows(layer, d), config_.hidden, cell_.recurrent, to.w_hh, panels);
        } else {
          add(cell_.recurrent, {at.dr.data(), cell_.recurrent.count * L_, config_.hidden * cell_.recurrent.count * L_},
              config_.hidden, nullptr, config_.hidden, to.w_hh);
        }
        const int64_t panel_stride = cell_.pre_activations * L_;
        add(cell_.input, {at.sums.data() + cell_.input.first * L_, 0, panel_stride}, 1, nullptr, 1, to.b_ih);
        add(cell_.recurrent, {at.sums.data() + cell_.recurrent.first * L_, 0, panel_stride}, 1, nullptr, 1, to.b_hh);
        copy_dstate0(index, at, part_of(schedule_.batch(), team.id, team.count));
      }
    }
  }

  void copy_dstate0(int64_t index, const DirectionWork<T>& at, Span sequences) const {
    for (int k = 0; k < cell_.states; ++k) {
      if (io_.dstate0[k] == nullptr) continue;
      for (int64_t j = sequences.begin; j < sequences.end; ++j)
        std::copy_n(at.dstate[k].data() + j * padded_, config_.hidden,
                    io_.dstate0[k] + (index * schedule_.batch() + schedule_.caller(j)) * config_.hidden);
    }
  }

  RnnCache<T>& cache_;
  const RnnConfig& config_;
  CellShape cell_;
  const Schedule& schedule_;
  ScheduleView view_;
  const RnnBackward<T>& io_;
  bool keep_;
  int64_t L_;
  bool few_;
  Plan plan_;
  int64_t padded_ = 0;
  int64_t row_size_ = 0;               // [panel][P][L]
  int64_t da_row_ = 0, da_panel_ = 0;  // from a row or panel of da to the next
  std::vector<DirectionWork<T>> work_;
  std::vector<Buffer<T>> saved_, da_;  // of the layer at work, where they are not the cache's
  Buffer<T> dy_[2];                    // of the outputs of the layers below the last in turn, [rows][D * H]
  std::vector<ThreadScratch<T>> scratch_;
  std::vector<const T*> dy_index_[2];
  std::vector<T*> dx_index_;
  std::vector<int64_t> group_begin_;
  std::vector<int32_t> group_rows_;
};

}  // namespace

template <class T>
T* place_for_dx(RnnCache<T>& cache) {
  const bool last_use = cache.schedule.rows() > kFewRows;  // else x is needed at the very end
  return last_use && !cache.schedule.ragged() ? cache.x.data() : nullptr;
}

template <class T>
void rnn_backward(RnnCache<T>& cache, const RnnBackward<T>& io, bool keep, int threads) {
  BackwardPass<T>(cache, io, keep, threads).run();
}

template float* place_for_dx(RnnCache<float>&);
template double* place_for_dx(RnnCache<double>&);
template void rnn_backward(RnnCache<float>&, const RnnBackward<float>&, bool, int);
template void rnn_backward(RnnCache<double>&, const RnnBackward<double>&, bool, int);

}  // namespace rnnfast
