// One plain copy. C++17, as a CUDA compiler takes it whatever CMake knows of it.
#pragma once

#include <cstddef>

namespace lmcache {

struct Span {
  std::byte* to;
  const std::byte* from;
  std::size_t nbytes;
};

// No span is longer, so that spans can be dealt out to threads or thread blocks.
inline constexpr std::size_t max_span_bytes = 256 * 1024;

}  // namespace lmcache
