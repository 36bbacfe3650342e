# The extension module rnnfast._cuda: csrc/cuda by nvcc, or for the emulator (cmake/cuda.cmake has RNNFAST_CUDA).

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

pybind11_add_module(_cuda MODULE NO_EXTRAS ${rnnfast_cuda_bindings} ${rnnfast_cuda_core})
if(rnnfast_cuda STREQUAL "EMULATE")
  list(FILTER rnnfast_cuda_host EXCLUDE REGEX "/runtime\\.cpp$")
  rnnfast_emulated_sources(_cuda CHECKED ${rnnfast_cuda_kernels})
  target_sources(_cuda PRIVATE ${rnnfast_cuda_host})
else()
  enable_language(CUDA)
  set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
  find_package(CUDAToolkit REQUIRED)
  add_library(rnnfast_kernels OBJECT ${rnnfast_cuda_kernels})
  set_target_properties(
    rnnfast_kernels PROPERTIES CUDA_STANDARD 20 CUDA_STANDARD_REQUIRED ON CUDA_ARCHITECTURES
                                                                          "${RNNFAST_CUDA_ARCHITECTURES}")
  target_include_directories(rnnfast_kernels PRIVATE csrc)
  # -fmad=false: a fused multiply-add is written so.
  target_compile_options(
    rnnfast_kernels PRIVATE -fmad=false "SHELL:-Xcompiler -Wall"
                            "SHELL:-Xcompiler -ffile-prefix-map=${PROJECT_SOURCE_DIR}/=")
  if(RNNFAST_WERROR)
    target_compile_options(rnnfast_kernels PRIVATE "SHELL:--Werror all-warnings")
  endif()
  target_sources(_cuda PRIVATE ${rnnfast_cuda_host} $<TARGET_OBJECTS:rnnfast_kernels>)
  target_link_libraries(_cuda PRIVATE CUDA::cudart_static)
endif()
target_include_directories(_cuda PRIVATE csrc)
target_link_libraries(_cuda PRIVATE rnnfast_flags ${CMAKE_DL_LIBS})
target_link_options(_cuda PRIVATE -Wl,--as-needed -Wl,--version-script=${PROJECT_SOURCE_DIR}/cmake/exports.map)
set_target_properties(_cuda PROPERTIES LINK_DEPENDS ${PROJECT_SOURCE_DIR}/cmake/exports.map)
install(TARGETS _cuda LIBRARY DESTINATION rnnfast)
