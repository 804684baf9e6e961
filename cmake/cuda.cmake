# The CUDA backend: libshardstep_cuda.so, which a program loads if it wants to; nothing else knows CUDA. Each room adds
# its sources where SHARDSTEP_CUDA is true:
#   shardstep_cuda_sources(<object library> <sources...>)
set(SHARDSTEP_WITH_CUDA AUTO CACHE STRING
  "Build libshardstep_cuda.so: ON, OFF, or AUTO: where a CUDA compiler works and nothing is sanitized")
set_property(CACHE SHARDSTEP_WITH_CUDA PROPERTY STRINGS AUTO ON OFF)
set(SHARDSTEP_CUDA FALSE)
set(SHARDSTEP_CUDA_VERSION 12.8)  # the first that knows sm_100
if(SHARDSTEP_WITH_CUDA STREQUAL "ON" OR (SHARDSTEP_WITH_CUDA STREQUAL "AUTO" AND NOT SHARDSTEP_SANITIZE))
  include(CheckLanguage)
  if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
    find_program(SHARDSTEP_NVCC nvcc PATHS /usr/local/cuda/bin)
    if(SHARDSTEP_NVCC)
      set(ENV{CUDACXX} ${SHARDSTEP_NVCC})
    endif()
  endif()
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES 80-real 90-real 100)  # and PTX of the last, for what comes later
  endif()
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    enable_language(CUDA)
    find_package(CUDAToolkit)
    if(CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL SHARDSTEP_CUDA_VERSION AND TARGET CUDA::cudart_static)
      set(SHARDSTEP_CUDA TRUE)
    endif()
  endif()
  if(SHARDSTEP_WITH_CUDA STREQUAL "ON" AND NOT SHARDSTEP_CUDA)
    message(FATAL_ERROR "SHARDSTEP_WITH_CUDA is ON: no CUDA compiler ${SHARDSTEP_CUDA_VERSION} or later, with a static "
      "runtime, works here")
  endif()
endif()
message(STATUS "CUDA backend: ${SHARDSTEP_CUDA}")

if(SHARDSTEP_CUDA)
  # What is asked for is CMAKE_CXX_STANDARD; CMake 3.25 does not know the option.
  foreach(kind STANDARD EXTENSION)
    if(NOT CMAKE_CUDA20_${kind}_COMPILE_OPTION)
      set(CMAKE_CUDA20_${kind}_COMPILE_OPTION -std=c++20)
    endif()
  endforeach()
  # All that it needs is the C++ library, and a driver if one is to be used; all that it exports begins with shardstep_.
  add_library(shardstep_cuda SHARED)
  set_target_properties(shardstep_cuda PROPERTIES
    LINKER_LANGUAGE CXX
    LINK_DEPENDS ${CMAKE_CURRENT_LIST_DIR}/exports.map)
  target_link_libraries(shardstep_cuda PRIVATE CUDA::cudart_static)
  target_link_options(shardstep_cuda PRIVATE
    -Wl,--version-script=${CMAKE_CURRENT_LIST_DIR}/exports.map -Wl,--no-undefined -Wl,--as-needed)
endif()

function(shardstep_cuda_sources target)
  add_library(${target} OBJECT ${ARGN})
  set_target_properties(${target} PROPERTIES CXX_VISIBILITY_PRESET hidden CUDA_VISIBILITY_PRESET hidden
    VISIBILITY_INLINES_HIDDEN ON CUDA_RUNTIME_LIBRARY Static)
  target_include_directories(${target} PRIVATE ${SHARDSTEP_INCLUDE_DIR})
  target_include_directories(${target} SYSTEM PRIVATE ${CUDAToolkit_INCLUDE_DIRS})
  target_link_libraries(shardstep_cuda PRIVATE ${target})
endfunction()
