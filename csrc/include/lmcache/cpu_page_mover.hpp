// Moves pages in host memory with threads and streaming stores.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>

#include "lmcache/spans.hpp"

namespace lmcache {

// Copies all spans and returns when they are copied. Destinations must not
// overlap each other or any source. The calling thread takes part; at most
// `threads` - 1 more are started, and none where there is little to copy or
// where the system gives none.
void copy_on_cpu(std::span<const Span> spans, unsigned threads);

// The instruction set that large copies are made with on this machine.
std::string_view cpu_copy_isa();

}  // namespace lmcache
