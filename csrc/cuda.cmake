# Adds the CUDA page mover to _native where LMCACHE_CUDA says so. In AUTO nothing
# that is wrong with an nvcc may cost the CPU mover, so it is tried first.

if(LMCACHE_CUDA STREQUAL "AUTO")
  include(CheckLanguage)
  check_language(CUDA)
  if(NOT CMAKE_CUDA_COMPILER)
    return()
  endif()
elseif(NOT LMCACHE_CUDA)
  return()
endif()

if(NOT CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 80 90)
endif()
# Linked statically, so that no installed CUDA has to match.
set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
enable_language(CUDA)

if(LMCACHE_CUDA STREQUAL "AUTO")
  set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)
  try_compile(LMCACHE_CUDA_COMPILES
    "${CMAKE_CURRENT_BINARY_DIR}/try_cuda"
    SOURCES "${CMAKE_CURRENT_SOURCE_DIR}/cuda/page_mover.cu"
    CMAKE_FLAGS "-DINCLUDE_DIRECTORIES=${CMAKE_CURRENT_SOURCE_DIR}/include"
    OUTPUT_VARIABLE LMCACHE_CUDA_OUTPUT)
  unset(CMAKE_TRY_COMPILE_TARGET_TYPE)
  if(NOT LMCACHE_CUDA_COMPILES)
    message(WARNING "No CUDA page mover: it does not compile here.\n${LMCACHE_CUDA_OUTPUT}")
    return()
  endif()
endif()

add_library(lmcache_cuda STATIC cuda/page_mover.cu)
target_include_directories(lmcache_cuda PUBLIC include)
target_compile_definitions(lmcache_cuda INTERFACE LMCACHE_WITH_CUDA)
set_target_properties(lmcache_cuda PROPERTIES CUDA_VISIBILITY_PRESET hidden)
target_link_libraries(_native PRIVATE lmcache_cuda)
