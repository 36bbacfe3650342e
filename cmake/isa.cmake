# One object per instruction set: csrc/cpu/isa_<name>.cpp with that set's flags. The program picks one when it starts,
# so these flags reach no other source. A set that the compiler cannot build is left out with a message; for the rest
# csrc/cpu/dispatch.cpp sees RNNFAST_HAVE_<NAME>=1, and must ask the processor for all that the flags allow.

include(CheckCXXSourceCompiles)

# rnnfast_isa(<target> <name> <macro the architecture must define, or ANY> <flags> <source that must compile with them>)
function(rnnfast_isa target name architecture flags trial)
  set(source ${PROJECT_SOURCE_DIR}/csrc/cpu/isa_${name}.cpp)
  string(TOUPPER ${name} upper)
  if(NOT architecture STREQUAL "ANY")
    check_cxx_source_compiles(
      "#ifndef ${architecture}\n#error other\n#endif\nint main() { return 0; }" RNNFAST_ON${architecture})
    if(NOT RNNFAST_ON${architecture})
      return()
    endif()
  endif()

  list(JOIN flags " " CMAKE_REQUIRED_FLAGS)
  check_cxx_source_compiles("${trial}" RNNFAST_CAN_${upper})
  if(NOT RNNFAST_CAN_${upper})
    set(compiler "${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}")
    message(STATUS "rnnfast: ${name} left out, ${compiler} cannot compile it")
    return()
  endif()

  # Optimised in every kind of build: else inline functions become shared symbols that hold this set's instructions.
  # -Wno-psabi: vector arguments never cross the border of one object.
  if(RNNFAST_SANITIZE)
    set(level -O1)
  elseif(name STREQUAL "scalar")
    set(level -O2)  # of -O3's speed all but a twentieth, in 230 KB less, for processors that have nothing else
  else()
    set(level -O3)
  endif()
  set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS "${flags};${level};-Wno-psabi")
  target_sources(${target} PRIVATE ${source})
  target_compile_definitions(${target} PRIVATE RNNFAST_HAVE_${upper}=1)
  set_property(TARGET ${target} APPEND PROPERTY RNNFAST_ISAS ${name})
  message(STATUS "rnnfast: ${name} kernels")
endfunction()

function(rnnfast_add_isas target)
  set(any "int main() { return 0; }")
  rnnfast_isa(${target} scalar ANY "" "${any}")
  rnnfast_isa(${target} sse42 __x86_64__ "-march=x86-64-v2" "${any}")
  rnnfast_isa(
    ${target} avx2 __x86_64__ "-mavx2;-mfma"
    "#include <immintrin.h>
     int main() { __m256 a = _mm256_set1_ps(1); return int(_mm256_cvtss_f32(_mm256_fmadd_ps(a, a, a))); }")
  rnnfast_isa(
    ${target} avx512 __x86_64__ "-mavx512f;-mavx512bw;-mavx512dq;-mavx512vl;-mfma;-mprefer-vector-width=512"
    "#include <immintrin.h>
     int main() { __m512 a = _mm512_set1_ps(1); return int(_mm512_reduce_add_ps(_mm512_fmadd_ps(a, a, a))); }")
  rnnfast_isa(
    ${target} avx512_bf16 __x86_64__
    "-mavx512f;-mavx512bw;-mavx512dq;-mavx512vl;-mavx512bf16;-mfma;-mprefer-vector-width=512"
    "#include <immintrin.h>
     int main() { __m512 a = _mm512_set1_ps(1); __m512bh b = _mm512_cvtne2ps_pbh(a, a);
                  return int(_mm512_reduce_add_ps(_mm512_dpbf16_ps(a, b, b))); }")
  rnnfast_isa(
    ${target} avx512_amx __x86_64__
    "-mavx512f;-mavx512bw;-mavx512dq;-mavx512vl;-mamx-tile;-mamx-bf16;-mfma;-mprefer-vector-width=512"
    "#include <immintrin.h>
     int main() { _tile_zero(0); _tile_dpbf16ps(0, 1, 2); _tile_release(); return 0; }")
  rnnfast_isa(
    ${target} neon __aarch64__ ""
    "#include <arm_neon.h>
     int main() { float32x4_t a = vdupq_n_f32(1); return int(vaddvq_f32(vfmaq_f32(a, a, a))); }")
endfunction()
