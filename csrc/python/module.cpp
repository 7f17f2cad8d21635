// The Python module lmcache_core.memory._native. Takes plain integers and packed
// int64 buffers; bounds are checked by lmcache_core.memory.mover before the call.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>

#include <string>
#include <vector>

#include "lmcache/cpu_page_mover.hpp"
#include "lmcache/spans.hpp"
#ifdef LMCACHE_WITH_CUDA
#include "lmcache/cuda_page_mover.hpp"
#endif

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using Packed = nb::ndarray<const std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

constexpr std::size_t layer_fields = 3;  // address, block stride, page bytes
constexpr std::size_t copy_fields = 4;   // offset, slot blocks, first block, count of block ids

std::byte* pointer(std::uintptr_t address) { return reinterpret_cast<std::byte*>(address); }

std::vector<lmcache::LayerPages> unpack_layers(const Packed& packed) {
  if (packed.size() % layer_fields != 0) {
    throw nb::value_error("a layer is packed as address, block stride, page bytes");
  }
  std::vector<lmcache::LayerPages> layers;
  const std::int64_t* at = packed.data();
  for (std::size_t i = 0; i < packed.size(); i += layer_fields) {
    layers.push_back({static_cast<std::uintptr_t>(at[i]), at[i + 1], at[i + 2]});
  }
  return layers;
}

// The copies point into `packed`, which has to outlive them.
std::vector<lmcache::SlotCopy> unpack_copies(const Packed& packed) {
  std::vector<lmcache::SlotCopy> copies;
  std::span<const std::int64_t> rest(packed.data(), packed.size());
  while (!rest.empty()) {
    const std::size_t count = rest.size() < copy_fields ? 0 : static_cast<std::size_t>(rest[3]);
    if (rest.size() < copy_fields || rest.size() - copy_fields < count) {
      throw nb::value_error(
          "a copy is packed as offset, slot blocks, first block, count, block ids");
    }
    copies.push_back({rest[0], rest[1], rest[2], rest.subspan(copy_fields, count)});
    rest = rest.subspan(copy_fields + count);
  }
  return copies;
}

class CpuMover {
 public:
  CpuMover(const Packed& layers, std::uintptr_t region_address, std::size_t /*region_bytes*/,
           unsigned threads)
      : layers_(unpack_layers(layers)), region_(pointer(region_address)), threads_(threads) {}

  void move(const Packed& packed, lmcache::Direction direction) {
    const auto copies = unpack_copies(packed);
    const nb::gil_scoped_release released;
    lmcache::copy_on_cpu(lmcache::plan_spans(direction, layers_, region_, copies), threads_);
  }

 private:
  std::vector<lmcache::LayerPages> layers_;
  std::byte* region_;
  unsigned threads_;
};

#ifdef LMCACHE_WITH_CUDA
class CudaMover {
 public:
  CudaMover(const Packed& layers, std::uintptr_t region_address, std::size_t region_bytes,
            int device)
      : layers_(unpack_layers(layers)), mover_(device, pointer(region_address), region_bytes) {}

  void move(const Packed& packed, lmcache::Direction direction) {
    const auto copies = unpack_copies(packed);
    const nb::gil_scoped_release released;
    const auto spans = lmcache::plan_spans(direction, layers_, mover_.device_region(), copies);
    mover_.copy(spans.data(), spans.size());
  }

 private:
  std::vector<lmcache::LayerPages> layers_;
  lmcache::CudaPageMover mover_;
};
#endif

template <class Mover>
void bind_moves(nb::class_<Mover>& bound) {
  bound
      .def(
          "gather",
          [](Mover& mover, const Packed& copies) {
            mover.move(copies, lmcache::Direction::gather);
          },
          "copies"_a)
      .def(
          "scatter",
          [](Mover& mover, const Packed& copies) {
            mover.move(copies, lmcache::Direction::scatter);
          },
          "copies"_a);
}

}  // namespace

NB_MODULE(_native, module) {
  module.def("copy_isa", [] { return std::string(lmcache::cpu_copy_isa()); });

  nb::class_<CpuMover> cpu(module, "CpuMover");
  cpu.def(nb::init<const Packed&, std::uintptr_t, std::size_t, unsigned>(), "layers"_a,
          "region_address"_a, "region_bytes"_a, "threads"_a);
  bind_moves(cpu);

#ifdef LMCACHE_WITH_CUDA
  module.attr("WITH_CUDA") = true;
  nb::class_<CudaMover> cuda(module, "CudaMover");
  cuda.def(nb::init<const Packed&, std::uintptr_t, std::size_t, int>(), "layers"_a,
           "region_address"_a, "region_bytes"_a, "device"_a);
  bind_moves(cuda);
#else
  module.attr("WITH_CUDA") = false;
#endif
}
