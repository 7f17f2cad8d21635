// A memcpy whose stores go round the caches.
#pragma once

#include <cstddef>
#include <string_view>

namespace lmcache {

using CopyFunction = void (*)(std::byte* to, const std::byte* from, std::size_t nbytes);

struct StreamCopy {
  CopyFunction copy;
  std::string_view isa;
};

// The fastest that this machine runs, chosen once; plain memcpy where the
// architecture has no streaming stores. The stores are ordered before whatever
// the calling thread does next.
const StreamCopy& stream_copy();

}  // namespace lmcache
