# The CUDA backend: RNNFAST_CUDA = AUTO (where there is a CUDA compiler that can), ON, OFF, or EMULATE: the kernel
# sources compiled by the C++ compiler for the emulator in csrc/cuda/emulate/, so that they run, and are checked,
# without a GPU.

set(RNNFAST_CUDA AUTO CACHE STRING "CUDA backend: AUTO, ON, OFF, or EMULATE to run its kernels on the CPU")
set(rnnfast_cuda_values AUTO ON OFF EMULATE)
set_property(CACHE RNNFAST_CUDA PROPERTY STRINGS ${rnnfast_cuda_values})
if(NOT RNNFAST_CUDA IN_LIST rnnfast_cuda_values)
  message(FATAL_ERROR "RNNFAST_CUDA must be AUTO, ON, OFF or EMULATE, got \"${RNNFAST_CUDA}\"")
endif()

# The emulator's run time, as the target rnnfast_emulate; only once, whoever needs it.
function(rnnfast_add_emulator)
  if(TARGET rnnfast_emulate)
    return()
  endif()
  file(GLOB sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/csrc/cuda/emulate/*.cpp)
  add_library(rnnfast_emulate OBJECT ${sources})
  target_include_directories(rnnfast_emulate PUBLIC ${PROJECT_SOURCE_DIR}/csrc)
  target_compile_definitions(rnnfast_emulate PUBLIC RNNFAST_EMULATE=1)
  target_link_libraries(rnnfast_emulate PUBLIC rnnfast_flags ${CMAKE_DL_LIBS})
endfunction()

# rnnfast_emulated_sources(<target> FAST|CHECKED <kernel sources>): compiles them for the emulator and links them and
# its run time to the target. CHECKED has the compiler report each access of memory to csrc/cuda/emulate/access.cpp,
# by the calls that it makes for -fsanitize=thread; the library that belongs to them is not linked. -O1 and no
# vectors, so that an access in the source stays one. With RNNFAST_SANITIZE, whose instrumentation excludes that one,
# CHECKED is FAST.
function(rnnfast_emulated_sources target kind)
  rnnfast_add_emulator()
  set_source_files_properties(${ARGN} PROPERTIES LANGUAGE CXX)
  set(kernels ${target}_kernels)
  add_library(${kernels} OBJECT ${ARGN})
  target_link_libraries(${kernels} PRIVATE rnnfast_emulate)
  if(kind STREQUAL "CHECKED" AND NOT RNNFAST_SANITIZE)
    target_compile_definitions(${kernels} PRIVATE RNNFAST_EMULATE_CHECKED=1)
    target_compile_options(${kernels} PRIVATE -fsanitize=thread -g1 -fno-tree-vectorize -O1)
  endif()
  target_link_libraries(${target} PRIVATE rnnfast_emulate)
  target_sources(${target} PRIVATE $<TARGET_OBJECTS:${kernels}>)
endfunction()
