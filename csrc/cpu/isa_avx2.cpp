#define RNNFAST_TARGET avx2
#include "vec_avx2.h"

#include "isa_kernels.h"
