// Weights in the order in which the kernels read them, and one-hot input as columns of them.
#pragma once

#include "rnn.h"

namespace rnnfast {

// Room for what pack_part fills. `first_columns`: of the first layer's w, its inputs or the distinct tokens of a call;
// `backward`: also what the gradients of h need, and those of the layers' inputs (the first one's only with `dx`).
template <class T>
std::shared_ptr<PackedRnn<T>> empty_pack(const RnnConfig&, int64_t first_columns, bool backward, bool dx);

// This thread's share of the packing. `ids`: the tokens that the first w's columns stand for, or null for all.
template <class T>
void pack_part(const RnnConfig&, const RnnWeights<T>* weights, const int32_t* ids, PackedRnn<T>& packed, const Team&);

// The distinct tokens of a call in ascending order, and each row's place among them.
void number_tokens(const Schedule&, const int32_t* tokens, int64_t stride_time, int64_t stride_batch,
                   int64_t vocabulary, Buffer<int32_t>& token, Buffer<int32_t>& ids);

}  // namespace rnnfast
