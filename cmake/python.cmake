# The extension module rnnfast._core: the core's objects and the bindings.

find_package(Python 3.10 REQUIRED COMPONENTS Interpreter Development.Module)
if(NOT pybind11_DIR)  # pip's build tells where it is; a build by hand asks Python
  execute_process(
    COMMAND ${Python_EXECUTABLE} -m pybind11 --cmakedir
    OUTPUT_VARIABLE pybind11_DIR
    OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
endif()
find_package(pybind11 CONFIG REQUIRED)

file(GLOB rnnfast_bindings CONFIGURE_DEPENDS csrc/bindings/*.cpp)
pybind11_add_module(_core MODULE NO_EXTRAS ${rnnfast_bindings})
target_compile_definitions(_core PRIVATE RNNFAST_VERSION="${PROJECT_VERSION}")
target_link_libraries(_core PRIVATE rnnfast_core)
if(CMAKE_SYSTEM_NAME STREQUAL "Linux")
  target_link_options(_core PRIVATE -Wl,--as-needed -Wl,--version-script=${PROJECT_SOURCE_DIR}/cmake/exports.map)
  set_target_properties(_core PROPERTIES LINK_DEPENDS ${PROJECT_SOURCE_DIR}/cmake/exports.map)
endif()
install(TARGETS _core LIBRARY DESTINATION rnnfast)

if(RNNFAST_BUNDLE_LIBGOMP)
  if(NOT CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    message(FATAL_ERROR "RNNFAST_BUNDLE_LIBGOMP needs GCC, whose OpenMP runtime it is")
  endif()
  execute_process(
    COMMAND ${CMAKE_CXX_COMPILER} -print-file-name=libgomp.so.1
    OUTPUT_VARIABLE libgomp
    OUTPUT_STRIP_TRAILING_WHITESPACE)
  get_filename_component(libgomp "${libgomp}" REALPATH)
  if(NOT EXISTS "${libgomp}")
    message(FATAL_ERROR "libgomp.so.1 was not found beside ${CMAKE_CXX_COMPILER}")
  endif()
  install(FILES "${libgomp}" DESTINATION rnnfast/_libs RENAME libgomp.so.1)
  install(FILES ${PROJECT_SOURCE_DIR}/cmake/libgomp.LICENSE.txt DESTINATION rnnfast/_libs)
endif()
