# The extension module rnnfast._cuda: csrc/cuda by nvcc, or, to run the same kernels on a machine without a GPU, by the
# C++ compiler over csrc/cuda/emulate. RNNFAST_CUDA is
#   AUTO     built where there is an nvcc   ON   must be built   OFF   not built   EMULATE   no CUDA at all

set(RNNFAST_CUDA AUTO CACHE STRING "The GPU module: AUTO, ON, OFF or EMULATE")
set_property(CACHE RNNFAST_CUDA PROPERTY STRINGS AUTO ON OFF EMULATE)
# Machine code for these, and PTX of the last one for what comes later.
set(RNNFAST_CUDA_ARCHITECTURES "80-real;90-real;120" CACHE STRING "As CMAKE_CUDA_ARCHITECTURES")

set(rnnfast_cuda "${RNNFAST_CUDA}")
if(rnnfast_cuda STREQUAL "AUTO" OR rnnfast_cuda STREQUAL "ON")
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    set(rnnfast_cuda ON)
  elseif(rnnfast_cuda STREQUAL "ON")
    message(FATAL_ERROR "RNNFAST_CUDA=ON needs nvcc; set CUDACXX to it")
  else()
    set(rnnfast_cuda OFF)
  endif()
endif()
message(STATUS "rnnfast: CUDA ${rnnfast_cuda}")
if(rnnfast_cuda STREQUAL "OFF")
  return()
endif()

file(GLOB rnnfast_cuda_host CONFIGURE_DEPENDS csrc/cuda/*.cpp)
file(GLOB rnnfast_cuda_kernels CONFIGURE_DEPENDS csrc/cuda/*.cu)
file(GLOB rnnfast_cuda_bindings CONFIGURE_DEPENDS csrc/bindings/cuda/*.cpp)
set(rnnfast_cuda_core csrc/core/schedule.cpp csrc/core/cells.cpp)

if(rnnfast_cuda STREQUAL "EMULATE")
  list(FILTER rnnfast_cuda_host EXCLUDE REGEX "/runtime\\.cpp$")
  file(GLOB emulator CONFIGURE_DEPENDS csrc/cuda/emulate/*.cpp)
  set_source_files_properties(${rnnfast_cuda_kernels} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "-x;c++")
  add_library(rnnfast_kernels OBJECT ${rnnfast_cuda_kernels})
  target_link_libraries(rnnfast_kernels PRIVATE rnnfast_flags)
  set(definitions RNNFAST_EMULATE)
else()
  enable_language(CUDA)
  set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
  add_library(rnnfast_kernels OBJECT ${rnnfast_cuda_kernels})
  set_target_properties(
    rnnfast_kernels PROPERTIES CUDA_STANDARD 20 CUDA_STANDARD_REQUIRED ON CUDA_ARCHITECTURES
                                                                          "${RNNFAST_CUDA_ARCHITECTURES}")
  # -fmad=false: a fused multiply-add is written so. -Xptxas -v: registers and spills, which tests/test_cuda_build.py reads.
  target_compile_options(
    rnnfast_kernels PRIVATE -fmad=false "SHELL:-Xptxas -v" "SHELL:-Xcompiler -Wall"
                            "SHELL:-Xcompiler -ffile-prefix-map=${PROJECT_SOURCE_DIR}/=")
  if(RNNFAST_WERROR)
    target_compile_options(rnnfast_kernels PRIVATE "SHELL:--Werror all-warnings")
  endif()
  set(emulator "")
  set(definitions "")
endif()
target_include_directories(rnnfast_kernels PRIVATE csrc)
target_compile_definitions(rnnfast_kernels PRIVATE ${definitions})

pybind11_add_module(
  _cuda MODULE NO_EXTRAS ${rnnfast_cuda_host} ${rnnfast_cuda_bindings} ${rnnfast_cuda_core} ${emulator}
  $<TARGET_OBJECTS:rnnfast_kernels>)
target_include_directories(_cuda PRIVATE csrc)
target_compile_definitions(_cuda PRIVATE ${definitions})
target_link_libraries(_cuda PRIVATE rnnfast_flags ${CMAKE_DL_LIBS})
if(rnnfast_cuda STREQUAL "ON")
  find_package(CUDAToolkit REQUIRED)
  target_link_libraries(_cuda PRIVATE CUDA::cudart_static)
endif()
target_link_options(_cuda PRIVATE -Wl,--as-needed -Wl,--version-script=${PROJECT_SOURCE_DIR}/cmake/exports.map)
set_target_properties(_cuda PROPERTIES LINK_DEPENDS ${PROJECT_SOURCE_DIR}/cmake/exports.map)
install(TARGETS _cuda LIBRARY DESTINATION rnnfast)
