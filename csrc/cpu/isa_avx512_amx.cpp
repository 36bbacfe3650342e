// The float and double kernels are those of avx512.
#define RNNFAST_TARGET avx512_amx
#define RNNFAST_BF16_ALONE
#define RNNFAST_AMX
#include "vec_avx512.h"

#include "isa_kernels.h"
