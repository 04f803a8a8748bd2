// XOR with ChaCha20 (RFC 8439). Additions, rotations and XOR alone: constant-time by construction.
#include "chacha20.h"

#include "handlers.h"
#include "work.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>

namespace {

namespace ffi = xla::ffi;

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the words of the stream are little-endian");

constexpr int64_t kTask = 64 * kGroup;  // bytes that a thread takes at a time

// Lanes of two vectors of one type, by number; GCC has the name that Clang uses since version 12.
#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE(Type, a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(Type, a, b, ...) __builtin_shuffle(a, b, Type{__VA_ARGS__})
#endif

#define KERNEL of_4
#define LANES 4
#define TARGET
#define BY_BYTES false
#include "chacha20_kernel.h"

#if defined(__x86_64__)

#define KERNEL of_8
#define LANES 8
#define TARGET __attribute__((target("avx2")))
#define BY_BYTES true
#include "chacha20_kernel.h"

#define KERNEL of_16
#define LANES 16
#define TARGET __attribute__((target("avx512f")))
#define BY_BYTES false
#include "chacha20_kernel.h"

#endif

// As many lanes as a vector of the processor has: more do not fit into its registers.
auto Kernel() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) return of_16::XorGroup;
  if (__builtin_cpu_supports("avx2")) return of_8::XorGroup;
#endif
  return of_4::XorGroup;
}

}  // namespace

void SetKey(const uint32_t* key, uint32_t* start) {
  constexpr uint32_t constants[4] = {0x61707865, 0x3320646e, 0x79622d32, 0x6b206574};
  std::memcpy(start, constants, 16);
  std::memcpy(start + 4, key, 32);
}

void XorGroup(const uint32_t* start, const uint8_t* in, uint8_t* out) {
  static const auto kernel = Kernel();
  kernel(start, in, out);
}

namespace {

// Runs of bytes, each XOR the key stream from its own place on.
struct Job {
  uint32_t start[16];
  const uint32_t* first;  // the block in which each run begins
  const uint32_t* skip;   // the bytes of that block before it, fewer than a block
  int64_t bytes;          // in a run
  const uint8_t* in;
  uint8_t* out;

  // A task is a stretch of the key stream of one run.
  int64_t TasksInRun() const { return (kBlock + bytes + kTask - 1) / kTask; }

  void Do(int64_t task) const {
    const int64_t run = task / TasksInRun();
    const int64_t begin = task % TasksInRun() * kTask - skip[run];
    const int64_t end = std::min(begin + kTask, bytes);
    uint32_t now[16];
    std::memcpy(now, start, sizeof(now));
    now[kCounter] = first[run] + static_cast<uint32_t>(task % TasksInRun() * (kTask / kBlock));
    const uint8_t* from = in + run * bytes;
    uint8_t* to = out + run * bytes;
    for (int64_t at = begin; at < end; at += kGroup, now[kCounter] += kGroup / kBlock) {
      if (at >= 0 && at + kGroup <= bytes) {
        XorGroup(now, from + at, to + at);
        continue;
      }
      uint8_t stream[kGroup] = {};
      XorGroup(now, stream, stream);
      const int64_t last = std::min(at + kGroup, bytes);
      for (int64_t i = std::max<int64_t>(at, 0); i < last; ++i) to[i] = from[i] ^ stream[i - at];
    }
  }
};

ffi::Error Xor(ffi::ThreadPool pool, ffi::BufferR1<ffi::U32> key, ffi::BufferR1<ffi::U32> nonce,
               ffi::BufferR1<ffi::U32> first, ffi::BufferR1<ffi::U32> skip, ffi::AnyBuffer data,
               ffi::Result<ffi::AnyBuffer> out) {
  const int64_t runs = first.element_count(), bytes = data.size_bytes();
  if (key.element_count() != 8 || nonce.element_count() != 3 ||
      static_cast<int64_t>(skip.element_count()) != runs || runs == 0 || bytes % runs != 0 ||
      static_cast<int64_t>(out->size_bytes()) != bytes) {
    return ffi::Error::InvalidArgument(
        "ChaCha20: takes uint32 key[8], nonce[3], first[runs], skip[runs] and data of runs");
  }
  Job job;
  SetKey(key.typed_data(), job.start);
  std::memcpy(job.start + 13, nonce.typed_data(), 12);
  job.first = first.typed_data();
  job.skip = skip.typed_data();
  job.bytes = bytes / runs;
  job.in = static_cast<const uint8_t*>(data.untyped_data());
  job.out = static_cast<uint8_t*>(out->untyped_data());
  for (int64_t run = 0; run < runs; ++run) {
    if (job.skip[run] >= kBlock) {
      return ffi::Error::InvalidArgument("ChaCha20: `skip` must be under 64 bytes");
    }
  }
  Share(pool, job, runs * job.TasksInRun(), (bytes + kTask - 1) / kTask);
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(Chacha20, Xor,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::BufferR1<ffi::U32>>()
                                  .Arg<ffi::BufferR1<ffi::U32>>()
                                  .Arg<ffi::BufferR1<ffi::U32>>()
                                  .Arg<ffi::BufferR1<ffi::U32>>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>());
