// What there is to move: pages of the engine and slots of the region, and the
// plain spans of bytes they come down to. Knows no framework and no device.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "lmcache/span.hpp"

namespace lmcache {

// The pages of one layer: page b lies at address + b * block_stride.
struct LayerPages {
  std::uintptr_t address;
  std::int64_t block_stride;
  std::int64_t page_bytes;
};

// Pages to move between the engine's blocks and a slot of `slot_blocks` blocks
// whose payload starts at `offset` in the region. The payload is laid out layer
// by layer; block_ids[i] goes with page `first_block + i` of each layer.
struct SlotCopy {
  std::int64_t offset;
  std::int64_t slot_blocks;
  std::int64_t first_block;
  std::span<const std::int64_t> block_ids;
};

enum class Direction {
  gather,   // pages -> slots
  scatter,  // slots -> pages
};

// Lists the copies in order. Neighbours that are contiguous on both sides are
// joined up to max_span_bytes. The caller has checked every bound.
std::vector<Span> plan_spans(Direction direction, std::span<const LayerPages> layers,
                             std::byte* region, std::span<const SlotCopy> copies);

}  // namespace lmcache
