// Beam search: a decoder one step at a time, its attention and output layer, and the choice of what goes on; the whole
// loop. A beam of width 1 is greedy.
#pragma once

#include "attention.h"
#include "stepper.h"

namespace rnnfast {

// A hypothesis is tokens and the end behind them, which is the last class. At each step the `width` best continuations
// that do not end go on, and of the `width` best of all those that end are done; a search stops with `width` hypotheses
// done, or where the `n_best` best can no longer change. Their order is by score / ((5 + n) / 6)^length_penalty, n the
// tokens and the end (Wu et al. 2016), ties go to the better beam and the lower token.
struct BeamRule {
  int64_t width, n_best;
  int64_t min_length, max_length;  // tokens without the end; behind max_length nothing but the end is allowed
  double length_penalty;
  bool keep_attention;
};

// What stands around a decoder's recurrence. Without attention `memory` is null; `query` may be (the query is h then).
template <class T>
struct DecoderParts {
  const T* embedding;                             // (classes, inputs of the network) or null: tokens are one-hot
  const AttentionInput<T>* memory;                // keys, values, lengths, v of all sources
  std::shared_ptr<const PackedLinear<T>> query;   // h -> width of the keys
  std::shared_ptr<const PackedLinear<T>> joined;  // [context; h] -> features, behind which is a tanh
  std::shared_ptr<const PackedLinear<T>> output;  // features (h without attention) -> classes
};

struct Hypothesis {
  double score;   // sum of the log-probabilities of its tokens and the end
  double rank;    // what hypotheses are ordered by
  int64_t steps;  // tokens
  int32_t row;    // of the beam at its last step
};

template <class T, class E = T>
class BeamSearch {
 public:
  // The stepper has `width` rows for each source, the first `sources` of which have the states that the decoder begins
  // with. It is kept alive by the caller, as the memory's arrays are.
  BeamSearch(RnnStepper<T, E>& stepper, const DecoderParts<T>& parts, const BeamRule& rule, int max_threads);
  // Throws std::bad_alloc where the hypotheses so far do not fit into memory.
  void run();

  int64_t sources() const { return sources_; }
  int64_t keys() const { return parts_.memory != nullptr ? parts_.memory->keys : 0; }
  bool failed(int64_t b) const { return source_[static_cast<size_t>(b)].failed; }  // logits that are no numbers
  // The best first, at most n_best.
  const std::vector<Hypothesis>& hypotheses(int64_t b) const { return source_[static_cast<size_t>(b)].done; }
  // Tokens [steps] of one of them, and attention weights [steps + 1][keys()], the end's last.
  void tokens(int64_t b, const Hypothesis& of, int32_t* out) const;
  void attention(int64_t b, const Hypothesis& of, T* out) const;

 private:
  struct Candidate {
    double score;
    int32_t row, token;
    bool operator<(const Candidate& o) const {  // the better one first
      return score != o.score ? score > o.score : row != o.row ? row < o.row : token < o.token;
    }
  };
  struct Source {
    std::vector<double> score;  // of the rows that are alive
    std::vector<Hypothesis> done;
    bool finished = false, failed = false;
  };
  // A thread's own.
  struct Workspace {
    Buffer<T> weights, rows, denominator, target_logit;
    Buffer<int32_t> zero;
    std::vector<Candidate> candidates;
    std::vector<int32_t> parent;
  };

  bool product(const PackedLinear<T>& layer, Rows<const T> x, Rows<T> y, int64_t width, int64_t rows, bool with_tanh,
               Team& team) const;
  bool logits(Span slots, int64_t i, Team& team);
  void attend(int64_t slot, int64_t first, Rows<const T> query, Rows<const T> h, int64_t i, Team& team);
  bool extend(Span slots, int64_t i, Team& team);
  bool collect(const Source& s, int64_t i, const T* logits, Workspace& w) const;
  void choose(int64_t slot, int64_t i, Workspace& w);
  bool settled(const Source& s) const;
  void make_room(int64_t i);
  void spread();
  void close_gaps();
  void feed(int64_t row, int32_t token);
  bool step(Team& team);
  double rank_of(double score, int64_t n) const;
  int64_t at(int64_t i, int64_t b, int64_t row) const { return (i * sources_ + b) * rule_.width + row; }

  RnnStepper<T, E>& stepper_;
  DecoderParts<T> parts_;
  BeamRule rule_;
  int64_t sources_, classes_, inputs_, threads_;
  int64_t block_;                           // slots whose rows are multiplied together
  std::vector<AttentionMemory<T>> memory_;  // one a source
  Buffer<T> x_;                             // [rows][inputs]
  Buffer<int32_t> token_;                   // [rows]
  // Of a block's rows; joined_: [context; h].
  Buffer<T> query_, joined_, features_, logits_;
  // Of the steps so far; they grow by doubling.
  std::vector<int32_t> history_token_, parent_;  // [step][source][row]
  std::vector<T> history_attention_;             // [step][source][row][keys], zeros behind a source's own
  bool out_of_memory_ = false;
  std::vector<Source> source_;
  std::vector<int64_t> slot_;  // the sources that go on; rows slot * width + r of the stepper are the slot's
  int64_t spacing_ = 1;        // rows of a slot: one before the first step, then `width`
  std::vector<Workspace> workspace_;
};

}  // namespace rnnfast
