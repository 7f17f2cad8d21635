#include "lmcache/cpu_page_mover.hpp"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <system_error>
#include <thread>
#include <vector>

#include "lmcache/stream_copy.hpp"

namespace lmcache {
namespace {

// Below this a copy is likely to be read from cache soon, and streaming stores
// would only push it out.
constexpr std::size_t streaming_from_bytes = 1024 * 1024;

// A thread costs some ten microseconds to start; it must have milliseconds to save.
constexpr std::size_t bytes_per_thread = 4 * 1024 * 1024;

// What a thread takes at a time: small enough to share evenly, large enough
// that the shared counter costs nothing.
constexpr std::size_t batch_bytes = max_span_bytes;

// Hands out batches of spans until none is left; any number of threads may run it.
class Work {
 public:
  Work(std::span<const Span> spans, std::size_t spans_per_batch, CopyFunction copy)
      : spans_(spans), spans_per_batch_(spans_per_batch), copy_(copy) {}

  void run() {
    while (true) {
      const std::size_t first = next_.fetch_add(spans_per_batch_, std::memory_order_relaxed);
      if (first >= spans_.size()) {
        return;
      }
      const std::size_t count = std::min(spans_per_batch_, spans_.size() - first);
      for (const Span& span : spans_.subspan(first, count)) {
        copy_(span.to, span.from, span.nbytes);
      }
    }
  }

 private:
  std::span<const Span> spans_;
  std::size_t spans_per_batch_;
  CopyFunction copy_;
  std::atomic<std::size_t> next_{0};
};

void copy_cached(std::byte* to, const std::byte* from, std::size_t nbytes) {
  std::memcpy(to, from, nbytes);
}

}  // namespace

void copy_on_cpu(std::span<const Span> spans, unsigned threads) {
  std::size_t total = 0;
  for (const Span& span : spans) {
    total += span.nbytes;
  }
  if (total == 0) {
    return;
  }
  const std::size_t mean = std::max<std::size_t>(1, total / spans.size());
  Work work(spans, std::max<std::size_t>(1, batch_bytes / mean),
            total < streaming_from_bytes ? copy_cached : stream_copy().copy);

  // Threads live for one call: there is no pool to own, to stop or to lose in a
  // fork, and starting them is lost in the copy of the least that is worth it.
  const std::size_t useful = std::min<std::size_t>(threads, total / bytes_per_thread);
  std::vector<std::jthread> helpers;
  for (std::size_t started = 1; started < useful; ++started) {
    try {
      helpers.emplace_back([&work] { work.run(); });
    } catch (const std::system_error&) {
      break;  // no more threads to be had: those that run take over its share
    }
  }
  work.run();
}

std::string_view cpu_copy_isa() { return stream_copy().isa; }

}  // namespace lmcache
