#include "lmcache/spans.hpp"

#include <algorithm>

namespace lmcache {
namespace {

// Appends a copy, joined to the one before where both sides continue it.
void append(std::vector<Span>& spans, std::byte* to, const std::byte* from, std::size_t nbytes) {
  while (nbytes > 0) {
    if (!spans.empty()) {
      Span& last = spans.back();
      const std::size_t room = max_span_bytes - last.nbytes;
      if (room > 0 && last.to + last.nbytes == to && last.from + last.nbytes == from) {
        const std::size_t part = std::min(room, nbytes);
        last.nbytes += part;
        to += part;
        from += part;
        nbytes -= part;
        continue;
      }
    }
    const std::size_t part = std::min(max_span_bytes, nbytes);
    spans.push_back({to, from, part});
    to += part;
    from += part;
    nbytes -= part;
  }
}

}  // namespace

std::vector<Span> plan_spans(Direction direction, std::span<const LayerPages> layers,
                             std::byte* region, std::span<const SlotCopy> copies) {
  std::vector<Span> spans;
  std::size_t pages = 0;
  for (const SlotCopy& copy : copies) {
    pages += copy.block_ids.size();
  }
  spans.reserve(pages * layers.size());
  for (const SlotCopy& copy : copies) {
    std::byte* run = region + copy.offset;  // the layer's pages in the slot
    for (const LayerPages& layer : layers) {
      std::byte* in_slot = run + copy.first_block * layer.page_bytes;
      for (const std::int64_t block : copy.block_ids) {
        auto* page = reinterpret_cast<std::byte*>(layer.address) + block * layer.block_stride;
        const auto nbytes = static_cast<std::size_t>(layer.page_bytes);
        if (direction == Direction::gather) {
          append(spans, in_slot, page, nbytes);
        } else {
          append(spans, page, in_slot, nbytes);
        }
        in_slot += layer.page_bytes;
      }
      run += copy.slot_blocks * layer.page_bytes;
    }
  }
  return spans;
}

}  // namespace lmcache
