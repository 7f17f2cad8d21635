#include "lmcache/stream_copy.hpp"

#include <algorithm>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace lmcache {
namespace {

#if defined(__x86_64__)

constexpr std::size_t line_bytes = 64;

// Copies up to the first cache line of `to`; returns how many bytes that were.
std::size_t copy_head(std::byte* to, const std::byte* from, std::size_t nbytes) {
  const std::size_t past = reinterpret_cast<std::uintptr_t>(to) % line_bytes;
  const std::size_t head = std::min(nbytes, past == 0 ? 0 : line_bytes - past);
  std::memcpy(to, from, head);
  return head;
}

// The library is built for any x86-64; what more a machine has is asked at run
// time, which is what the target attributes are for. Each loop writes whole
// cache lines, as a partly written line costs a read of it.

void stream_sse2(std::byte* to, const std::byte* from, std::size_t nbytes) {
  std::size_t at = copy_head(to, from, nbytes);
  for (; at + line_bytes <= nbytes; at += line_bytes) {
    const auto* source = reinterpret_cast<const __m128i*>(from + at);
    auto* target = reinterpret_cast<__m128i*>(to + at);
    const __m128i a = _mm_loadu_si128(source);
    const __m128i b = _mm_loadu_si128(source + 1);
    const __m128i c = _mm_loadu_si128(source + 2);
    const __m128i d = _mm_loadu_si128(source + 3);
    _mm_stream_si128(target, a);
    _mm_stream_si128(target + 1, b);
    _mm_stream_si128(target + 2, c);
    _mm_stream_si128(target + 3, d);
  }
  std::memcpy(to + at, from + at, nbytes - at);
  _mm_sfence();
}

__attribute__((target("avx2"))) void stream_avx2(std::byte* to, const std::byte* from,
                                                 std::size_t nbytes) {
  std::size_t at = copy_head(to, from, nbytes);
  for (; at + 2 * line_bytes <= nbytes; at += 2 * line_bytes) {
    const auto* source = reinterpret_cast<const __m256i*>(from + at);
    auto* target = reinterpret_cast<__m256i*>(to + at);
    const __m256i a = _mm256_loadu_si256(source);
    const __m256i b = _mm256_loadu_si256(source + 1);
    const __m256i c = _mm256_loadu_si256(source + 2);
    const __m256i d = _mm256_loadu_si256(source + 3);
    _mm256_stream_si256(target, a);
    _mm256_stream_si256(target + 1, b);
    _mm256_stream_si256(target + 2, c);
    _mm256_stream_si256(target + 3, d);
  }
  std::memcpy(to + at, from + at, nbytes - at);
  _mm_sfence();
}

__attribute__((target("avx512f"))) void stream_avx512(std::byte* to, const std::byte* from,
                                                      std::size_t nbytes) {
  std::size_t at = copy_head(to, from, nbytes);
  for (; at + 2 * line_bytes <= nbytes; at += 2 * line_bytes) {
    const __m512i a = _mm512_loadu_si512(from + at);
    const __m512i b = _mm512_loadu_si512(from + at + line_bytes);
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to + at), a);
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to + at + line_bytes), b);
  }
  std::memcpy(to + at, from + at, nbytes - at);
  _mm_sfence();
}

StreamCopy choose() {
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f")) {
    return {stream_avx512, "avx512"};
  }
  if (__builtin_cpu_supports("avx2")) {
    return {stream_avx2, "avx2"};
  }
  return {stream_sse2, "sse2"};
}

#else

void copy_plain(std::byte* to, const std::byte* from, std::size_t nbytes) {
  std::memcpy(to, from, nbytes);
}

StreamCopy choose() { return {copy_plain, "memcpy"}; }

#endif

}  // namespace

const StreamCopy& stream_copy() {
  static const StreamCopy chosen = choose();
  return chosen;
}

}  // namespace lmcache
