// The backward pass over a network: rnn_backward.cpp has its course and the recurrence, rnn_gradients.cpp what is made
// of all rows at once.
#pragma once

#include <algorithm>

#include "plan.h"

namespace rnnfast {

// What backward makes for one layer and direction.
template <class T, class E>
struct DirectionWork {
  T* saved = nullptr;              // [panel][panel rows][saved][L]
  E* da = nullptr;                 // [panel][panel rows][P][L]
  Buffer<T> dstate[kMaxStates];    // [B][padded H] sorted
  T *dw = nullptr, *dr = nullptr;  // [panel][I][run][L] or, one-hot, [token][panel][P][L]; [panel][H][run][L]
  Buffer<T> own_dw, own_dr;        // their memory, where place_gradients found no other
  Buffer<T> sums;                  // [panel][P][L]
  std::vector<const E*> h_prev;    // [rows] -> [H]
};

template <class T, class E>
class BackwardPass {
 public:
  BackwardPass(RnnCache<T, E>& cache, const RnnBackward<T>& io, bool keep, int threads);

  void run();

 private:
  static constexpr bool kSame = std::is_same_v<T, E>;
  using Layer = typename RnnCache<T, E>::Layer;
  using Direction = typename Layer::Direction;

  Layer& layer_of(int layer) { return cache_.layers[static_cast<size_t>(layer)]; }
  Direction& direction_of(int layer, int d) { return layer_of(layer).direction[static_cast<size_t>(d)]; }
  DirectionWork<T, E>& work(int layer, int d) { return work_[static_cast<size_t>(layer * config_.directions + d)]; }
  const typename PackedRnn<T, E>::Layer& weights(int layer, int d) const {
    return cache_.weights->of(layer * config_.directions + d);
  }
  const RnnWeights<T>& callers_weights(int layer, int d) const { return io_.weights[layer * config_.directions + d]; }

  // Chunks of da where it has no memory of its own, so that there need not be any for all rows. A chunk begins with a
  // block of the sums over rows, whose bits are then those of all rows at once. The reverse direction's rows lie
  // otherwise where lengths differ, and a token's rows lie anywhere. bf16 has no chunks: its da is half as large.
  void cut_into_chunks();
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
  T* dy_of(int layer) { return dy_below_[layer % 2].data(); }
  int64_t out_width() const { return config_.directions * config_.hidden; }

  void allocate(int index);
  // Room for the gradients of a layer's weights: in memory that is no longer needed by then, where that is large
  // enough.
  void place_gradients(int layer, int d, DirectionWork<T, E>& to);

  // x and y where the cache has none of its own, dy and dx.
  void take_callers_rows();
  Rows<const T> y_rows(int layer, int d) {
    const Buffer<T>& y = layer_of(layer).y;
    return y.size() > 0 ? Rows<const T>{y.data() + d * config_.hidden, out_width(), nullptr} : y_[d];
  }

  // h as products take it: of every row, and of the initial state.
  Rows<const E> operand_rows(int layer, int d) {
    if constexpr (kSame)
      return y_rows(layer, d);
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
  void allocate_pairs();
  void make_pairs(int layer, int d, const Team& team);

  // The rows of each distinct token, in order, so that its gradient is a sum in registers.
  void group_tokens();
  // The row of zeros behind the chunk's da, and what the kernels take for the states before its first step.
  void begin_chunk(int layer, int d, const Span& times, const Team& team);
  // Saved values and da of a chunk lie at the beginning of their memory, but kernels number all rows.
  void recompute(int layer, int d, const Span& times, Team& team);
  void recur(int layer, int d, const Span& times, Team& team);

  // What a layer multiplies its input weights with, and its recurrent ones.
  WeightGradientArgs<T, E> input_rows(int layer, int d, const Span& rows);
  WeightGradientArgs<T, E> recurrent_rows(int layer, int d, const Span& rows);
  Rows<const E> layer_input(int layer) const {
    if (layer > 0) return cache_.outputs(layer - 1);
    return cache_.x.size() > 0 ? Rows<const E>{cache_.x.data(), operand_stride<T, E>(config_.input), nullptr} : x_;
  }
  WeightGradientArgs<T, E> weight_gradient_args(const Run& run, Rows<const E> x, int64_t inputs, const Span& rows,
                                                const DirectionWork<T, E>& at) const;
  void weight_gradients(int layer, int d, const Span& times, Team& team);
  // dx = da W, the second direction's added to the first's; to the caller or as dy of the layer below, there with the
  // mask of its dropout.
  void input_gradient(int layer, int d, const Span& chunk, Team& team);

  // The sums of all layers to the caller's gradients.
  void commit(const Team& team);
  // Zeros in the rows of these panels' units.
  void clear(T* gradients, int64_t width, Span panels) const;
  void copy_dstate0(int64_t index, const DirectionWork<T, E>& at, Span sequences) const;

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
  Buffer<T> dy_below_[2];         // of the outputs of the layers below the last in turn, [rows][D * H]
  std::vector<ThreadScratch<T, E>> scratch_;
  std::vector<Buffer<E>> x_packed_;  // a thread's block of rows
  std::vector<Buffer<E>> packed_;    // of pairs: a thread's da, interleaved
  Buffer<E> x_pairs_, h_pairs_;      // [pairs of rows][pair_stride]
  Rows<const E> x_{};
  std::vector<const E*> x_index_;
  Rows<const T> y_[2]{}, dy_[2]{};  // of each direction
  std::vector<const T*> y_index_[2], dy_index_[2];
  Rows<T> dx_{};
  std::vector<T*> dx_index_;
  std::vector<int64_t> group_begin_;
  std::vector<int32_t> group_rows_;
};

}  // namespace rnnfast
