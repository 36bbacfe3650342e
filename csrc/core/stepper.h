// One step at a time with packed weights: streams and sampling. Nothing is allocated after the constructor.
#pragma once

#include "plan.h"

namespace rnnfast {

template <class T, class E = T>
class RnnStepper {
 public:
  // One direction only. `packed` from pack_rnn; `max_threads` at the most; `in_loops`: a region is of many steps.
  RnnStepper(const RnnConfig&, std::shared_ptr<const PackedRnn<T, E>> packed, int64_t batch, int max_threads,
             bool in_loops);

  // How many threads a region around step() is worth.
  int threads() const { return plan_.threads; }

  // x [B, I], or tokens [B], through all layers; all threads of the region call it, behind a barrier where they made x.
  // After it output(b) is the last layer's h. A step that is not worth threads() > 1 leaves all but thread 0 waiting;
  // one that is must not have more threads than that. Returns true if the region shall stop: the states are then those
  // from before the step.
  bool step(const T* x, const int32_t* tokens, Team& team);

  const T* output(int64_t b) const { return state(0, config_.layers - 1) + b * padded_; }  // [H]
  Rows<const T> outputs() const { return {state(0, config_.layers - 1), padded_, nullptr}; }

  // State k of all layers, [layers, B, H]; null sets zeros.
  void get_state(int k, T* out) const;
  void set_state(int k, const T* in);
  void reset_row(int64_t b);
  // Between steps: all states of sequences first + i become those of first + from[i], for i < count. `scratch` has room
  // for `count` rows of panels, [count][hidden rounded up to the vector];
  void gather_rows(int64_t first, const int32_t* from, int64_t count, T* scratch);
  // those of `count` sequences become those of others, neither of both kinds;
  void copy_rows(int64_t from, int64_t to, int64_t count);
  // and the first `rows` sequences alone are what the following steps are of.
  void set_rows(int64_t rows);

  int64_t batch() const { return batch_; }
  const RnnConfig& config() const { return config_; }
  const CellShape& cell() const { return cell_; }

 private:
  static constexpr bool kSame = std::is_same_v<T, E>;

  // This thread's rows of x as operands.
  const E* operand_of(const T* x, Team& team);
  void to_operand(int layer, int64_t b);  // h of one sequence

  const T* state(int k, int layer) const { return state_[parity_][k].data() + layer * batch_ * padded_; }
  T* state(int k, int layer) { return state_[parity_][k].data() + layer * batch_ * padded_; }

  RnnConfig config_;
  std::shared_ptr<const PackedRnn<T, E>> packed_;
  int64_t batch_;
  CellShape cell_;
  Schedule schedule_;
  int64_t offset_[2];  // of the schedule's view, for the sequences that take part
  int32_t active_[2];
  Plan plan_;
  int64_t padded_;
  int parity_ = 0;                  // which half holds the states: a step writes the other one
  Buffer<T> state_[2][kMaxStates];  // [layers][B][padded H]
  int64_t h_stride_;
  Buffer<E> operand_[2];      // where E is not T: the same of h, [layers][B][h_stride]
  std::vector<Buffer<E>> x_;  // a thread's [B][operand_stride(I)]
  std::vector<ThreadScratch<T, E>> scratch_;
};

}  // namespace rnnfast
