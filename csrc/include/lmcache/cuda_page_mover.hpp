// Moves pages between a CUDA device and page-locked host memory.
#pragma once

#include <cstddef>
#include <memory>

#include "lmcache/span.hpp"

namespace lmcache {

// Owns a stream of its own on one device and the page-locking of the region.
// Every member function throws std::runtime_error with CUDA's own words where
// the device refuses; several threads must take turns.
class CudaPageMover {
 public:
  // Page-locks the region, which commits all of it.
  CudaPageMover(int device, std::byte* region, std::size_t region_bytes);
  ~CudaPageMover();
  CudaPageMover(const CudaPageMover&) = delete;
  CudaPageMover& operator=(const CudaPageMover&) = delete;

  // The region as the device addresses it.
  std::byte* device_region() const;

  // Copies all spans with one kernel and returns when they are copied. Work
  // that the caller's streams have not finished is not waited for.
  void copy(const Span* spans, std::size_t count);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace lmcache
