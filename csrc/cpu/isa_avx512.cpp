#define RNNFAST_TARGET avx512
#include "vec_avx512.h"

#include "isa_kernels.h"
