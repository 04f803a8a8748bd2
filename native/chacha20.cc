// XOR with ChaCha20 (RFC 8439). Additions, rotations and XOR alone: constant-time by construction.
#include "handlers.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <utility>

namespace {

namespace ffi = xla::ffi;

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the words of the stream are little-endian");

constexpr int64_t kBlock = 64;            // bytes
constexpr int kLanes = 16;                // blocks made at once, one in each lane of a vector
constexpr int64_t kGroup = kBlock * kLanes;
constexpr int64_t kTask = 64 * kGroup;    // bytes that a thread takes at a time
constexpr int kCounter = 12;              // the word of the state that counts; after it the nonce

using Words = uint32_t __attribute__((vector_size(4 * kLanes)));

#if defined(__x86_64__) && defined(__linux__)
#define FOR_EACH_CPU __attribute__((target_clones("avx512f", "avx2", "default"), noinline))
#else
#define FOR_EACH_CPU
#endif

#define ROTATE(x, bits) ((x << bits) | (x >> (32 - bits)))
#define QUARTER(a, b, c, d)                                 \
  a += b; d ^= a; d = ROTATE(d, 16); c += d; b ^= c; b = ROTATE(b, 12); \
  a += b; d ^= a; d = ROTATE(d, 8); c += d; b ^= c; b = ROTATE(b, 7)

// Of two vectors, the lanes that `step` keeps or brings to one of them.
template <int step, bool high, size_t... lane>
inline __attribute__((always_inline)) void Pick(const Words& a, const Words& b, Words& to,
                                                std::index_sequence<lane...>) {
  to = __builtin_shufflevector(
      a, b, (high ? (lane & step ? lane + 16 : lane + step) : (lane & step ? lane - step + 16 : lane))...);
}

template <int step>
inline __attribute__((always_inline)) void Exchange(Words* state) {
  constexpr auto lanes = std::make_index_sequence<kLanes>();
#pragma GCC unroll 16
  for (int word = 0; word < 16; ++word) {
    if (word & step) continue;
    const Words a = state[word], b = state[word + step];
    Pick<step, false>(a, b, state[word], lanes);
    Pick<step, true>(a, b, state[word + step], lanes);
  }
}

// out = in ^ the key stream of 16 blocks, the first with the counter in `start`.
FOR_EACH_CPU void XorGroup(const uint32_t* start, const uint8_t* in, uint8_t* out) {
  Words first[16], state[16];
  for (int word = 0; word < 16; ++word) first[word] = Words{} + start[word];
  for (int lane = 0; lane < kLanes; ++lane) first[kCounter][lane] += lane;
  for (int word = 0; word < 16; ++word) state[word] = first[word];
  for (int round = 0; round < 10; ++round) {
    QUARTER(state[0], state[4], state[8], state[12]);
    QUARTER(state[1], state[5], state[9], state[13]);
    QUARTER(state[2], state[6], state[10], state[14]);
    QUARTER(state[3], state[7], state[11], state[15]);
    QUARTER(state[0], state[5], state[10], state[15]);
    QUARTER(state[1], state[6], state[11], state[12]);
    QUARTER(state[2], state[7], state[8], state[13]);
    QUARTER(state[3], state[4], state[9], state[14]);
  }
  for (int word = 0; word < 16; ++word) state[word] += first[word];
  // Each lane is a block: turned, in four steps of exchanges, each vector is one.
  Exchange<1>(state);
  Exchange<2>(state);
  Exchange<4>(state);
  Exchange<8>(state);
  for (int block = 0; block < kLanes; ++block) {
    Words data;
    std::memcpy(&data, in + kBlock * block, kBlock);
    data ^= state[block];
    std::memcpy(out + kBlock * block, &data, kBlock);
  }
}

// Runs of bytes, each XOR the key stream from its own place on.
struct Job {
  uint32_t start[16] = {0x61707865, 0x3320646e, 0x79622d32, 0x6b206574};
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
    for (int64_t at = begin; at < end; at += kGroup, now[kCounter] += kLanes) {
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

// Tasks that threads take until none is left. The thread that calls takes them too and waits for
// those that others have begun, never for one in a queue: all threads may be callers.
struct Work {
  Job job;
  int64_t tasks;
  std::atomic<int64_t> next{0};
  std::mutex mutex;
  std::condition_variable all_done;
  int64_t done = 0;

  void Take() {
    int64_t mine = 0;
    for (int64_t task; (task = next.fetch_add(1)) < tasks; ++mine) job.Do(task);
    if (mine == 0) return;
    std::lock_guard<std::mutex> lock(mutex);
    done += mine;
    if (done == tasks) all_done.notify_all();
  }

  void Wait() {
    std::unique_lock<std::mutex> lock(mutex);
    all_done.wait(lock, [this] { return done == tasks; });
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
  auto work = std::make_shared<Work>();
  Job& job = work->job;
  std::memcpy(job.start + 4, key.typed_data(), 32);
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
  work->tasks = runs * job.TasksInRun();
  const int64_t helpers =
      std::min<int64_t>(pool.num_threads(), (bytes + kTask - 1) / kTask) - 1;
  for (int64_t i = 0; i < helpers; ++i) pool.Schedule([work] { work->Take(); });
  work->Take();
  work->Wait();
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
