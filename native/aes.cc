// Blocks through the S-box of AES (FIPS-197), each with its own round key of a schedule that runs on.
// By the processor's AES instructions, which look nothing up in memory: constant-time.
#include "handlers.h"

#include <cstdint>
#include <cstring>

namespace ffi = xla::ffi;

#if defined(__x86_64__)

#include <immintrin.h>

#define WITH_AES __attribute__((target("aes,ssse3")))

bool HasAes() { return __builtin_cpu_supports("aes") && __builtin_cpu_supports("ssse3"); }

namespace {

// The bytes before the S-box's instructions turn the rows of a block, so that all stay in place.
WITH_AES __m128i Sub(__m128i x) {
  const __m128i place = _mm_setr_epi8(0, 13, 10, 7, 4, 1, 14, 11, 8, 5, 2, 15, 12, 9, 6, 3);
  return _mm_aesenclast_si128(_mm_shuffle_epi8(x, place), _mm_setzero_si128());
}

WITH_AES __m128i InvSubThenXor(__m128i x, __m128i key) {
  const __m128i place = _mm_setr_epi8(0, 5, 10, 15, 4, 9, 14, 3, 8, 13, 2, 7, 12, 1, 6, 11);
  return _mm_aesdeclast_si128(_mm_shuffle_epi8(x, place), key);
}

// The next four words after `old`, from the last word of `last`. Four equal words, whose rows the
// S-box's instruction rotates in vain.
WITH_AES __m128i Next(__m128i old, __m128i last, bool rotated, uint32_t rcon) {
  const __m128i word = _mm_set1_epi32(rotated ? 0x0c0f0e0d : 0x0f0e0d0c);
  const __m128i constant = _mm_set1_epi32(rotated ? rcon : 0);
  old = _mm_xor_si128(old, _mm_slli_si128(old, 4));
  old = _mm_xor_si128(old, _mm_slli_si128(old, 8));
  return _mm_xor_si128(old, _mm_aesenclast_si128(_mm_shuffle_epi8(last, word), constant));
}

struct Schedule {
  __m128i words[2];  // the next round key and, of AES-256, the one after it
  uint32_t rcon;
  uint32_t middle;  // whether the next round key is the second of an AES-256 pair
};

template <bool wide, bool inverse>
WITH_AES void Run(Schedule& at, int64_t rounds, const uint8_t* in, uint8_t* out) {
  __m128i first = at.words[0], second = at.words[1];
  uint32_t rcon = at.rcon;
  bool middle = at.middle;
  for (int64_t i = 0; i < rounds; ++i) {
    const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(in + 16 * i));
    const __m128i y = inverse ? InvSubThenXor(x, first) : Sub(_mm_xor_si128(x, first));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 16 * i), y);
    const bool rotated = !wide || !middle;
    const __m128i next = Next(first, wide ? second : first, rotated, rcon);
    first = wide ? second : next;
    second = next;
    if (rotated) rcon = ((rcon << 1) ^ ((rcon >> 7) * 0x1B)) & 0xFF;
    middle = wide && !middle;
  }
  at = {{first, second}, rcon, middle};
}

ffi::Error Through(bool inverse, ffi::BufferR1<ffi::U32> words, ffi::BufferR1<ffi::U32> counts,
                   ffi::AnyBuffer blocks, ffi::ResultBufferR1<ffi::U32> words_after,
                   ffi::ResultBufferR1<ffi::U32> counts_after, ffi::Result<ffi::AnyBuffer> out) {
  const size_t size = words.size_bytes(), bytes = blocks.size_bytes();
  const bool wide = size == 32;
  if ((size != 16 && !wide) || counts.element_count() != 2 || bytes % 16 != 0 ||
      words_after->size_bytes() != size || counts_after->element_count() != 2 ||
      out->size_bytes() != bytes) {
    return ffi::Error::InvalidArgument(
        "AES: takes uint32 words[4 or 8], uint32 (rcon, middle) and blocks of 16 bytes");
  }
  Schedule at{{}, counts.typed_data()[0], counts.typed_data()[1]};
  std::memcpy(at.words, words.typed_data(), size);
  const auto run = wide ? (inverse ? Run<true, true> : Run<true, false>)
                        : (inverse ? Run<false, true> : Run<false, false>);
  run(at, bytes / 16, static_cast<const uint8_t*>(blocks.untyped_data()),
      static_cast<uint8_t*>(out->untyped_data()));
  std::memcpy(words_after->typed_data(), at.words, size);
  counts_after->typed_data()[0] = at.rcon;
  counts_after->typed_data()[1] = at.middle;
  return ffi::Error::Success();
}

}  // namespace

#else

bool HasAes() { return false; }

namespace {

ffi::Error Through(bool, ffi::BufferR1<ffi::U32>, ffi::BufferR1<ffi::U32>, ffi::AnyBuffer,
                   ffi::ResultBufferR1<ffi::U32>, ffi::ResultBufferR1<ffi::U32>,
                   ffi::Result<ffi::AnyBuffer>) {
  return ffi::Error(ffi::ErrorCode::kUnimplemented, "AES: only on x86-64");
}

}  // namespace

#endif

XLA_FFI_DEFINE_HANDLER_SYMBOL(AesThrough, Through,
                              ffi::Ffi::Bind()
                                  .Attr<bool>("inverse")
                                  .Arg<ffi::BufferR1<ffi::U32>>()
                                  .Arg<ffi::BufferR1<ffi::U32>>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Ret<ffi::BufferR1<ffi::U32>>()
                                  .Ret<ffi::BufferR1<ffi::U32>>()
                                  .Ret<ffi::AnyBuffer>());
