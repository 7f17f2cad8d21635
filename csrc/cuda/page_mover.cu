#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "lmcache/cuda_page_mover.hpp"

namespace lmcache {
namespace {

constexpr unsigned threads_per_block = 256;
constexpr std::size_t max_blocks = 1024;

void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess) {
    throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
  }
}

// Makes a device current and the caller's own current again.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    check(cudaGetDevice(&before_), "asking for the current device");
    check(cudaSetDevice(device), "choosing the device");
  }
  ~DeviceGuard() { cudaSetDevice(before_); }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int before_ = 0;
};

// One thread block copies one span after the other: 16 bytes a thread where
// both sides allow it, single bytes for the rest.
__global__ void copy_spans(const Span* spans, std::size_t count) {
  for (std::size_t index = blockIdx.x; index < count; index += gridDim.x) {
    const Span span = spans[index];
    const auto misaligned = (reinterpret_cast<std::uintptr_t>(span.to) |
                             reinterpret_cast<std::uintptr_t>(span.from)) % sizeof(uint4);
    const std::size_t vectors = misaligned ? 0 : span.nbytes / sizeof(uint4);
    auto* to = reinterpret_cast<uint4*>(span.to);
    const auto* from = reinterpret_cast<const uint4*>(span.from);
    for (std::size_t i = threadIdx.x; i < vectors; i += blockDim.x) {
      to[i] = from[i];
    }
    for (std::size_t i = vectors * sizeof(uint4) + threadIdx.x; i < span.nbytes; i += blockDim.x) {
      span.to[i] = span.from[i];
    }
  }
}

}  // namespace

struct CudaPageMover::State {
  int device = 0;
  std::byte* region = nullptr;
  std::byte* device_region = nullptr;
  bool page_locked = false;
  cudaStream_t stream = nullptr;
  Span* spans = nullptr;  // device memory for the list of spans
  std::size_t room = 0;   // spans that fit into it

  ~State() {
    int before = 0;
    if (cudaGetDevice(&before) != cudaSuccess) {
      return;  // the driver is gone, and with it all that was taken
    }
    cudaSetDevice(device);
    if (stream != nullptr) {
      cudaStreamSynchronize(stream);
      cudaStreamDestroy(stream);
    }
    cudaFree(spans);
    if (page_locked) {
      cudaHostUnregister(region);
    }
    cudaSetDevice(before);
  }
};

CudaPageMover::CudaPageMover(int device, std::byte* region, std::size_t region_bytes)
    : state_(std::make_unique<State>()) {
  state_->device = device;
  state_->region = region;
  const DeviceGuard guard(device);
  check(cudaStreamCreateWithFlags(&state_->stream, cudaStreamNonBlocking), "making a stream");
  check(cudaHostRegister(region, region_bytes, cudaHostRegisterPortable | cudaHostRegisterMapped),
        "page-locking the region");
  state_->page_locked = true;
  void* mapped = nullptr;
  check(cudaHostGetDevicePointer(&mapped, region, 0), "mapping the region");
  state_->device_region = static_cast<std::byte*>(mapped);
}

CudaPageMover::~CudaPageMover() = default;

std::byte* CudaPageMover::device_region() const { return state_->device_region; }

void CudaPageMover::copy(const Span* spans, std::size_t count) {
  if (count == 0) {
    return;
  }
  const DeviceGuard guard(state_->device);
  if (count > state_->room) {
    check(cudaFree(state_->spans), "freeing the list of spans");
    state_->spans = nullptr;
    state_->room = 0;
    check(cudaMalloc(&state_->spans, count * sizeof(Span)), "making room for the list of spans");
    state_->room = count;
  }
  check(cudaMemcpyAsync(state_->spans, spans, count * sizeof(Span), cudaMemcpyHostToDevice,
                        state_->stream),
        "sending the list of spans");
  const auto blocks = static_cast<unsigned>(std::min(count, max_blocks));
  copy_spans<<<blocks, threads_per_block, 0, state_->stream>>>(state_->spans, count);
  check(cudaGetLastError(), "starting the copy");
  check(cudaStreamSynchronize(state_->stream), "copying pages");
}

}  // namespace lmcache
