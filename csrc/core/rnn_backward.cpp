// Backward: the mirror of rnn_forward.cpp, in one parallel region. From the last layer to the first, the recurrence of
// both directions (where the cache has no saved values, after that of forward, which writes the same states again),
// then over all rows at once, or those of a chunk of steps, the gradients of the weights and of the layer's input.
// Weight gradients gather in scratch and are added to the caller's at the very end, so that an interrupt changes
// nothing.
#include <algorithm>

#include "dropout.h"
#include "plan.h"

namespace rnnfast {

namespace {

constexpr int64_t kChunkBytes = 1 << 20;  // of da, where a layer is taken in chunks of steps
// Up to here weight gradients are added as products of rows, without a packed sum; with wide layers, whose rows of
// weights fill several vectors, up to kSomeRows.
constexpr int64_t kFewRows = 8, kSomeRows = 32, kWide = 64;

template <class T, class E>
bool takes_few_rows(const RnnCache<T, E>& cache) {
  const RnnConfig& config = cache.config;
  const bool wide = config.hidden >= kWide && (cache.token.size() > 0 || config.input >= kWide);
  return cache.schedule.rows() <= (wide ? kSomeRows : kFewRows);
}

// What backward makes for one layer and direction.
template <class T, class E>
struct DirectionWork {
  T* saved = nullptr;            // [panel][panel rows][saved][L]
  E* da = nullptr;               // [panel][panel rows][P][L]
  Buffer<T> dstate[kMaxStates];  // [B][padded H] sorted
  Buffer<T> dw, dr, sums;  // [panel][I][run][L] or, one-hot, [token][panel][P][L]; [panel][H][run][L]; [panel][P][L]
  std::vector<const E*> h_prev;  // [rows] -> [H]
};

template <class T, class E>
class BackwardPass {
 public:
  BackwardPass(RnnCache<T, E>& cache, const RnnBackward<T>& io, bool keep, int threads)
      : cache_(cache),
        config_(cache.config),
        cell_(cell_shape(cache.config.cell)),
        schedule_(cache.schedule),
        view_(schedule_.view()),
        io_(io),
        keep_(keep),
        L_(kernels<T>().lanes),
        few_(takes_few_rows(cache)),
        plan_(cell_, L_, config_.hidden, 1, schedule_, flops(), threads) {
    padded_ = plan_.panels * L_;
    row_size_ = padded_ * cell_.pre_activations;
    depth_ = kernels<T, E>().depth;
    da_row_ = cell_.pre_activations * L_ / depth_;
    cut_into_chunks();
    da_panel_ = panel_rows_of(most_rows_) * da_row_;
    // One layer and direction at a time needs them, but a few rows' da is needed at the end.
    for (int i = 0; i < (few_ ? config_.directions * config_.layers : 1); ++i) {
      saved_.emplace_back(cache.recomputes() ? panel_rows_of(most_rows_) * padded_ * cell_.saved : 0);
      da_.emplace_back(da_in_place() ? 0 : plan_.panels * da_panel_);
    }
    for (int i = 0; i < config_.layers * config_.directions; ++i) allocate(i);
    for (int i = 0; i < std::min(config_.layers - 1, 2); ++i)
      dy_[i] = Buffer<T>(schedule_.rows() * config_.directions * config_.hidden);
    for (int i = 0; i < plan_.threads; ++i) {
      scratch_.emplace_back(plan_, cell_, schedule_.rows(), cache.recomputes(), cache.reads_weights());
      x_packed_.emplace_back(few_ ? 0 : kSumBlock * widest_input());
      packed_.emplace_back(kSame ? 0 : kMaxTilePanels * kSumBlock / 2 * kMaxPre * L_);
    }
    if (!kSame && !few_) allocate_pairs();
    index_caller_rows();
    if (cache.token.size() > 0) group_tokens();
  }

  void run() {
    const bool stopped = parallel(plan_.threads, [this](Team& team) {
      for (int layer = config_.layers - 1; layer >= 0; --layer) {
        for (int d = 0; d < config_.directions; ++d) {
          const size_t chunks = takes_chunks(layer, d) ? chunks_.size() : 1;
          for (size_t i = chunks; i-- > 0;) {
            const Span times = chunks > 1 ? chunks_[i] : Span{0, view_.steps};
            if (chunks > 1) {
              begin_chunk(layer, d, times, team);
              if (team_barrier(team)) return;
            }
            if (cache_.recomputes()) recompute(layer, d, times, team);
            recur(layer, d, times, team);
            if (!kSame && !few_) {
              if (cache_.recomputes() && team_barrier(team)) return;  // all rows of h have been written again
              make_pairs(layer, d, team);
            }
            if (team_barrier(team)) return;
            weight_gradients(layer, d, times, team);
            if (over_x(layer) && team_barrier(team)) return;
            input_gradient(layer, d, times, team);
            if (team_barrier(team)) return;
          }
        }
      }
      commit(team);
    });
    if (stopped) throw Interrupted();
  }

 private:
  static constexpr bool kSame = std::is_same_v<T, E>;
  using Layer = typename RnnCache<T, E>::Layer;
  using Direction = typename Layer::Direction;

  Layer& layer_of(int layer) { return cache_.layers[static_cast<size_t>(layer)]; }
  Direction& direction_of(int layer, int d) { return layer_of(layer).direction[static_cast<size_t>(d)]; }
  DirectionWork<T, E>& work(int layer, int d) { return work_[static_cast<size_t>(layer * config_.directions + d)]; }
  const typename PackedRnn<T, E>::Layer& weights(int layer, int d) const {
    return cache_.weights->layers[static_cast<size_t>(layer * config_.directions + d)];
  }
  const RnnWeights<T>& live(int layer, int d) const { return io_.weights[layer * config_.directions + d]; }
  // Chunks of da where it has no memory of its own, so that there need not be any for all rows. A chunk begins with a
  // block of the sums over rows, whose bits are then those of all rows at once. The reverse direction's rows lie
  // otherwise where lengths differ, and a token's rows lie anywhere. bf16 has no chunks: its da is half as large.
  void cut_into_chunks() {
    const int64_t rows = std::max<int64_t>(kChunkBytes / (row_size_ * static_cast<int64_t>(sizeof(T))), 1);
    int64_t begin = 0;
    for (int64_t t = 1; t <= view_.steps; ++t) {
      const bool block_ends = view_.offset[t] % kSumBlock == 0 && view_.offset[t] - view_.offset[begin] >= rows;
      if (t < view_.steps && !block_ends) continue;
      chunks_.push_back({begin, t});
      begin = t;
    }
    for (const Span& times : chunks_) most_rows_ = std::max(most_rows_, rows_of(times).end - rows_of(times).begin);
    for (int layer = 0; layer < config_.layers; ++layer)
      for (int d = 0; d < config_.directions; ++d)
        if (!takes_chunks(layer, d)) most_rows_ = view_.rows;
    for (int k = 0; k < cell_.states && chunks_.size() > 1; ++k) before_[k] = Buffer<T>(view_.batch * padded_);
  }
  bool takes_chunks(int layer, int d) const {
    return kSame && (cache_.recomputes() || cell_.saved == 0) && d == 0 && !few_ && !one_hot(layer);
  }
  bool over_x(int layer) const {
    return layer == 0 && io_.dx != nullptr && static_cast<const void*>(io_.dx) == cache_.x.data();
  }
  Span rows_of(const Span& times) const { return {view_.offset[times.begin], view_.offset[times.end]}; }
  // The schedule of these times alone; rows keep their numbers.
  ScheduleView view_of(const Span& times) const {
    ScheduleView view = view_;
    view.steps = times.end - times.begin, view.offset += times.begin, view.active += times.begin;
    view.rows = view_.offset[times.end];
    return view;
  }
  bool one_hot(int layer) const { return layer == 0 && cache_.token.size() > 0; }
  // da takes the place of the saved values where there are as many, unless they shall live on.
  bool da_in_place() const { return kSame && cell_.saved == cell_.pre_activations && (!keep_ || cache_.recomputes()); }
  T* dy_of(int layer) { return dy_[layer % 2].data(); }
  int64_t widest_input() const {  // of what weights are multiplied with
    int64_t width = cache_.token.size() > 0 ? config_.hidden : std::max(config_.input, config_.hidden);
    return config_.layers > 1 ? std::max(width, out_width()) : width;
  }
  int64_t out_width() const { return config_.directions * config_.hidden; }

  double flops() const {
    return 4.0 * cell_.recurrent.count * static_cast<double>(config_.hidden) * static_cast<double>(config_.hidden) *
           static_cast<double>(schedule_.rows() * config_.layers * config_.directions);
  }

  void allocate(int index) {
    const int layer = index / config_.directions, d = index % config_.directions;
    Direction& at = direction_of(layer, d);
    DirectionWork<T, E> to;
    const auto own = static_cast<size_t>(few_ ? index : 0);
    to.saved = cache_.recomputes() ? saved_[own].data() : at.saved.data();
    to.da = da_[own].data();
    if constexpr (kSame) {
      if (da_in_place()) to.da = to.saved;
    }
    for (int64_t panel = 0; panel < plan_.panels; ++panel)
      std::fill_n(to.da + panel * da_panel_ + most_rows_ * da_row_, da_row_, E{});
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
    const Rows<const E> h = operand_rows(layer, d);
    schedule_.each_row(0, schedule_.longest(), [&](int64_t row, int64_t t, int64_t j) {
      const bool first = d == 0 ? t == 0 : t == schedule_.length(j) - 1;
      const int64_t prev = first ? -1 : view_.offset[d == 0 ? t - 1 : t + 1] + j;
      // The cut before time t lies on the row of t; for the backward direction the step before is t + 1.
      const bool cut = view_.cut != nullptr && (d == 0 ? view_.cut[row] : !first && view_.cut[prev]);
      to.h_prev[static_cast<size_t>(row)] = cut     ? cache_.weights->zero_row.data()
                                            : first ? first_operand(at, j)
                                                    : h.base + prev * h.stride;
    });
    work_.push_back(std::move(to));
  }

  // h as products take it: of every row, and of the initial state.
  Rows<const E> operand_rows(int layer, int d) {
    if constexpr (kSame)
      return {layer_of(layer).y.data() + d * config_.hidden, out_width(), nullptr};
    else
      return {direction_of(layer, d).h.data(), operand_stride<T, E>(config_.hidden), nullptr};
  }
  const E* first_operand(const Direction& at, int64_t j) const {
    if constexpr (kSame)
      return at.state0[0].data() + j * padded_;
    else
      return at.h0.data() + j * operand_stride<T, E>(config_.hidden);
  }

  // Where E holds pairs the gradients of weights take two rows at once: of x and of h_prev.
  int64_t pair_stride(int64_t width) const { return (width + L_ - 1) / L_ * L_; }
  void allocate_pairs() {
    const int64_t pairs = (schedule_.rows() + 1) / 2;
    int64_t width = cache_.token.size() > 0 ? 0 : config_.input;
    if (config_.layers > 1) width = std::max(width, out_width());
    x_pairs_ = Buffer<E>(pairs * pair_stride(width));
    h_pairs_ = Buffer<E>(pairs * pair_stride(config_.hidden));
  }
  void make_pairs(int layer, int d, const Team& team) {
    const Kernels<T, E>& k = kernels<T, E>();
    const Span rows = part_of(schedule_.rows(), team.id, team.count, 2);
    const int64_t hidden = config_.hidden, width = config_.input_of(layer);
    k.pair_rows({nullptr, 0, work(layer, d).h_prev.data()}, hidden, h_pairs_.data(), pair_stride(hidden), rows);
    if (d == 0 && !one_hot(layer)) k.pair_rows(layer_input(layer), width, x_pairs_.data(), pair_stride(width), rows);
  }

  void index_caller_rows() {
    const auto rows = static_cast<size_t>(schedule_.rows());
    if (io_.dy != nullptr)
      for (int d = 0; d < config_.directions; ++d) dy_index_[d].resize(rows);
    if (io_.dx != nullptr) dx_index_.resize(rows);
    schedule_.each_row(0, schedule_.longest(), [&](int64_t row, int64_t t, int64_t j) {
      if (io_.dy != nullptr)
        for (int d = 0; d < config_.directions; ++d)
          dy_index_[d][static_cast<size_t>(row)] =
              io_.dy + schedule_.place(io_.dy_strides, row, t, j) + d * config_.hidden;
      if (io_.dx != nullptr) dx_index_[static_cast<size_t>(row)] = io_.dx + schedule_.place(io_.dx_strides, row, t, j);
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

  // The row of zeros behind the chunk's da, and what the kernels take for the states before its first step.
  void begin_chunk(int layer, int d, const Span& times, const Team& team) {
    const Span rows = rows_of(times), panels = part_of(plan_.panels, team.id, team.count);
    E* zeros = work(layer, d).da + (rows.end - rows.begin) * da_row_;
    for (int64_t panel = panels.begin; panel < panels.end; ++panel)
      std::fill_n(zeros + panel * da_panel_, da_row_, E{});
    if (times.begin == 0) return;
    const Direction& at = direction_of(layer, d);
    const T* y = layer_of(layer).y.data() + d * config_.hidden;
    const Span sequences = part_of(view_.active[times.begin], team.id, team.count);
    for (int64_t j = sequences.begin; j < sequences.end; ++j) {
      const int64_t row = view_.offset[times.begin - 1] + j;
      std::copy_n(y + row * out_width(), config_.hidden, before_[0].data() + j * padded_);
      std::fill_n(before_[0].data() + j * padded_ + config_.hidden, padded_ - config_.hidden, T(0));
      for (int k = 1; k < cell_.states; ++k)
        std::copy_n(at.state[k].data() + row * padded_, padded_, before_[k].data() + j * padded_);
    }
  }

  // Saved values and da of a chunk lie at the beginning of their memory, but kernels number all rows.
  void recompute(int layer, int d, const Span& times, Team& team) {
    ForwardArgs<T, E> args = cache_.forward_args(layer, d);
    args.schedule = view_of(times);
    for (int k = 0; k < cell_.states && times.begin > 0; ++k) args.state0[k] = before_[k].data();
    args.saved = work(layer, d).saved - rows_of(times).begin * cell_.saved * L_;
    args.panel_rows = panel_rows_of(most_rows_);
    kernels<T, E>().cell[config_.cell].forward(args, scratch_[static_cast<size_t>(team.id)].view(), plan_.part(team, 0),
                                               team);
  }

  void recur(int layer, int d, const Span& times, Team& team) {
    Direction& at = direction_of(layer, d);
    DirectionWork<T, E>& to = work(layer, d);
    BackwardArgs<T, E> args{};
    args.hidden = config_.hidden;
    args.schedule = view_of(times), args.reverse = d == 1;
    args.r = weights(layer, d).r_back.data();
    if (cache_.reads_weights()) args.r_rows = {live(layer, d).w_hh, config_.hidden, config_.hidden, cell_.recurrent};
    args.y = {layer_of(layer).y.data() + d * config_.hidden, out_width(), nullptr};
    for (int k = 0; k < cell_.states; ++k) {
      args.state0[k] = times.begin > 0 ? before_[k].data() : at.state0[k].data();
      args.state[k] = at.state[k].data();
      args.dstate[k] = to.dstate[k].data();
    }
    const Span rows = rows_of(times);
    args.saved = to.saved - rows.begin * cell_.saved * L_;
    if (layer + 1 < config_.layers) {
      args.dy = {dy_of(layer) + d * config_.hidden, out_width(), nullptr};
    } else if (io_.dy != nullptr) {
      args.dy = {nullptr, 0, dy_index_[d].data()};
    }
    args.da = to.da - rows.begin * da_row_, args.panel_rows = panel_rows_of(most_rows_);
    args.dstate0 = times.begin > 0 || io_.dstate0[0] != nullptr;
    args.zeros = cache_.weights->zeros.data();
    kernels<T, E>().cell[config_.cell].backward(args, scratch_[static_cast<size_t>(team.id)].view(),
                                                plan_.part(team, 0), team);
  }

  // What a layer multiplies its input weights with, and its recurrent ones.
  WeightGradientArgs<T, E> input_rows(int layer, int d, const Span& rows) {
    Rows<const E> x = layer_input(layer);
    x.base += rows.begin * x.stride;
    return weight_gradient_args(cell_.input, x, config_.input_of(layer), rows, work(layer, d));
  }
  WeightGradientArgs<T, E> recurrent_rows(int layer, int d, const Span& rows) {
    DirectionWork<T, E>& at = work(layer, d);
    return weight_gradient_args(cell_.recurrent, {nullptr, 0, at.h_prev.data() + rows.begin}, config_.hidden, rows, at);
  }
  Rows<const E> layer_input(int layer) const {
    if (layer > 0) return cache_.outputs(layer - 1);
    return {cache_.x.data(), operand_stride<T, E>(config_.input), nullptr};
  }
  WeightGradientArgs<T, E> weight_gradient_args(const Run& run, Rows<const E> x, int64_t inputs, const Span& rows,
                                                const DirectionWork<T, E>& at) const {
    WeightGradientArgs<T, E> args{};
    args.rows = rows.end - rows.begin, args.inputs = inputs, args.x = x;
    args.add = rows.end < view_.rows;  // later chunks are there
    args.da = at.da, args.da_row = da_row_, args.da_panel = da_panel_;
    args.first = run.first, args.n = run.count;
    return args;
  }

  void weight_gradients(int layer, int d, const Span& times, Team& team) {
    const Kernels<T, E>& k = kernels<T, E>();
    DirectionWork<T, E>& at = work(layer, d);
    const Span rows = rows_of(times);
    const auto take = [&](WeightGradientArgs<T, E> args, const Buffer<E>& pairs, T* gradient) {
      if constexpr (!kSame) args.x = {pairs.data(), pair_stride(args.inputs), nullptr};
      args.gradient = gradient, args.packed = packed_[static_cast<size_t>(team.id)].data();
      args.x_packed = x_packed_[static_cast<size_t>(team.id)].data();
      // Panels where every thread gets some, else inputs: K is never split.
      const bool by_panel = plan_.panels >= (args.n == 1 ? kMaxTilePanels : 1) * team.count;
      k.weight_gradient(args, by_panel ? part_of(plan_.panels, team.id, team.count) : Span{0, plan_.panels},
                        by_panel ? Span{0, args.inputs} : part_of(args.inputs, team.id, team.count), team);
    };
    const Span panels = part_of(plan_.panels, team.id, team.count);
    k.sum_rows(at.da, da_row_, da_panel_, nullptr, rows.end - rows.begin, cell_.pre_activations, rows.end < view_.rows,
               at.sums.data(), panels);
    if (!few_) take(recurrent_rows(layer, d, rows), h_pairs_, at.dr.data());
    if (!one_hot(layer)) {
      if (!few_) take(input_rows(layer, d, rows), x_pairs_, at.dw.data());
      return;
    }
    for (int64_t u = 0; u < cache_.ids.size(); ++u) {
      const int64_t begin = group_begin_[static_cast<size_t>(u)], end = group_begin_[static_cast<size_t>(u) + 1];
      k.sum_rows(at.da, da_row_, da_panel_, group_rows_.data() + begin, end - begin, cell_.pre_activations, false,
                 at.dw.data() + u * row_size_, panels);
    }
  }

  // dx = da W, the second direction's added to the first's; to the caller or as dy of the layer below, there with the
  // mask of its dropout.
  void input_gradient(int layer, int d, const Span& chunk, Team& team) {
    if (layer == 0 && (io_.dx == nullptr || cache_.token.size() > 0)) return;
    const int64_t width = config_.input_of(layer);
    const bool dropped = layer > 0 && config_.dropout > 0;
    const auto own = [&](const Span& all) {
      const Span part = part_of(all.end - all.begin, team.id, team.count);
      return Span{all.begin + part.begin, all.begin + part.end};
    };
    const Span times = own(chunk), rows = dropped ? rows_of(times) : own(rows_of(chunk));
    Rows<T> out{nullptr, 0, dx_index_.data()};
    if (layer > 0) out = {dy_of(layer - 1), width, nullptr};
    GemmArgs<T, E> g{};
    g.n = 1, g.runs = plan_.panels, g.run_length = cell_.input.count * L_ / depth_;
    g.run_stride = da_panel_;
    g.a = {work(layer, d).da + cell_.input.first * L_ / depth_ - rows_of(chunk).begin * da_row_, da_row_, nullptr};
    g.b = weights(layer, d).w_back.data();
    g.init = d == 0 ? Rows<const T>{cache_.weights->zeros.data(), 0, nullptr}
                    : Rows<const T>{out.base, out.stride, out.index};
    g.init_panel = d == 0 ? 0 : L_;
    g.out = out, g.out_panel = L_, g.width = width;
    const int64_t panels = (width + L_ - 1) / L_;
    if (cache_.reads_weights()) {
      // Each thread its own columns, so that weights are read once.
      kernels<T, E>().gemm_transposed_unpacked(g, {live(layer, d).w_ih, config_.hidden, width, cell_.input},
                                               scratch_[static_cast<size_t>(team.id)].view().weights, {0, view_.rows},
                                               part_of(panels, team.id, team.count), team);
      if (dropped && team_barrier(team)) return;
    } else {
      kernels<T, E>().gemm(g, rows, {0, panels}, team);
    }
    if (dropped && d == config_.directions - 1)
      drop_rows(config_, schedule_, cache_.seed, cache_.step, layer - 1, times, out.base, out.base);
  }

  void commit(const Team& team) {
    const Kernels<T, E>& k = kernels<T, E>();
    const Span panels = part_of(plan_.panels, team.id, team.count);
    for (int layer = 0; layer < config_.layers; ++layer) {
      for (int d = 0; d < config_.directions; ++d) {
        const int index = layer * config_.directions + d;
        const RnnGradients<T>& to = io_.gradients[index];
        DirectionWork<T, E>& at = work(layer, d);
        const int64_t width = config_.input_of(layer);
        const auto add = [&](const Run& run, PackedGradient<T> gradient, int64_t columns, const int32_t* ids,
                             int64_t count, T* gradients) {
          if (gradients != nullptr)
            k.add_gradient(gradient, config_.hidden, columns, ids, count, run, gradients, panels);
        };
        const auto add_products = [&](const Run& run, WeightGradientArgs<T, E> args, T* gradients) {
          args.add = !io_.assign;
          if (gradients != nullptr) k.add_products(args, config_.hidden, run, gradients, panels);
        };
        const Span rows{0, view_.rows};
        const bool assign = io_.assign;
        if (one_hot(layer)) {
          if (assign && to.w_ih != nullptr) clear(to.w_ih, width, panels);  // tokens that did not occur
          add(cell_.input, {at.dw.data() + cell_.input.first * L_, row_size_, cell_.pre_activations * L_, assign},
              width, cache_.ids.data(), cache_.ids.size(), to.w_ih);
        } else if (few_) {
          add_products(cell_.input, input_rows(layer, d, rows), to.w_ih);
        } else {
          add(cell_.input, {at.dw.data(), cell_.input.count * L_, width * cell_.input.count * L_, assign}, width,
              nullptr, width, to.w_ih);
        }
        if (few_) {
          add_products(cell_.recurrent, recurrent_rows(layer, d, rows), to.w_hh);
        } else {
          add(cell_.recurrent,
              {at.dr.data(), cell_.recurrent.count * L_, config_.hidden * cell_.recurrent.count * L_, assign},
              config_.hidden, nullptr, config_.hidden, to.w_hh);
        }
        const int64_t stride = cell_.pre_activations * L_;
        add(cell_.input, {at.sums.data() + cell_.input.first * L_, 0, stride, assign}, 1, nullptr, 1, to.b_ih);
        add(cell_.recurrent, {at.sums.data() + cell_.recurrent.first * L_, 0, stride, assign}, 1, nullptr, 1, to.b_hh);
        copy_dstate0(index, at, part_of(schedule_.batch(), team.id, team.count));
      }
    }
  }

  // The rows of these panels' units.
  void clear(T* gradients, int64_t width, Span panels) const {
    const Span units{panels.begin * L_, std::min(panels.end * L_, config_.hidden)};
    for (int gate = 0; gate < cell_.gates; ++gate)
      std::fill_n(gradients + (gate * config_.hidden + units.begin) * width, (units.end - units.begin) * width, T(0));
  }

  void copy_dstate0(int64_t index, const DirectionWork<T, E>& at, Span sequences) const {
    for (int k = 0; k < cell_.states; ++k) {
      if (io_.dstate0[k] == nullptr) continue;
      for (int64_t j = sequences.begin; j < sequences.end; ++j)
        std::copy_n(at.dstate[k].data() + j * padded_, config_.hidden,
                    io_.dstate0[k] + (index * schedule_.batch() + schedule_.caller(j)) * config_.hidden);
    }
  }

  RnnCache<T, E>& cache_;
  const RnnConfig& config_;
  CellShape cell_;
  const Schedule& schedule_;
  ScheduleView view_;
  const RnnBackward<T>& io_;
  bool keep_;
  int64_t L_;
  bool few_;
  Plan plan_;
  int64_t padded_ = 0, depth_ = 1;
  int64_t row_size_ = 0;               // [panel][P][L]
  int64_t da_row_ = 0, da_panel_ = 0;  // from a row or panel of da to the next
  int64_t most_rows_ = 0;              // of da at a time
  std::vector<Span> chunks_;           // of times
  Buffer<T> before_[kMaxStates];       // [B][padded H] states before a chunk
  std::vector<DirectionWork<T, E>> work_;
  std::vector<Buffer<T>> saved_;  // of the layer at work, where they are not the cache's,
  std::vector<Buffer<E>> da_;     // and where da does not take their place
  Buffer<T> dy_[2];               // of the outputs of the layers below the last in turn, [rows][D * H]
  std::vector<ThreadScratch<T, E>> scratch_;
  std::vector<Buffer<E>> x_packed_;  // a thread's block of rows
  std::vector<Buffer<E>> packed_;    // of pairs: a thread's da, interleaved
  Buffer<E> x_pairs_, h_pairs_;      // [pairs of rows][pair_stride]
  std::vector<const T*> dy_index_[2];
  std::vector<T*> dx_index_;
  std::vector<int64_t> group_begin_;
  std::vector<int32_t> group_rows_;
};

}  // namespace

template <class T, class E>
T* place_for_dx(RnnCache<T, E>& cache) {
  // A few rows of x are needed at the very end, and those of the first direction again for the second.
  const bool last_use = !takes_few_rows(cache) && cache.config.directions == 1;
  if constexpr (std::is_same_v<T, E>)
    return last_use && !cache.schedule.ragged() ? cache.x.data() : nullptr;
  else
    return nullptr;
}

template <class T, class E>
void rnn_backward(RnnCache<T, E>& cache, const RnnBackward<T>& io, bool keep, int threads) {
  BackwardPass<T, E>(cache, io, keep, threads).run();
}

template float* place_for_dx(RnnCache<float>&);
template double* place_for_dx(RnnCache<double>&);
template float* place_for_dx(RnnCache<float, Bf16x2>&);
template void rnn_backward(RnnCache<float>&, const RnnBackward<float>&, bool, int);
template void rnn_backward(RnnCache<double>&, const RnnBackward<double>&, bool, int);
template void rnn_backward(RnnCache<float, Bf16x2>&, const RnnBackward<float>&, bool, int);

}  // namespace rnnfast
