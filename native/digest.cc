// What parts of leaves add to the keyed digest of a tree, as digest.py defines it. Additions and
// multiplications alone: constant-time wherever the processor's multiplication is.
#include "chacha20.h"
#include "handlers.h"
#include "part.h"
#include "work.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <vector>

namespace {

namespace ffi = xla::ffi;

constexpr int kLanes = 8;
constexpr int kWidest = 16;           // words of the widest vector
constexpr int64_t kTask = 64 * 4096;  // bytes that a thread takes at a time

struct Kernel {
  int width;  // words of its vectors
  // For one row, and for two at once, which read the table once.
  void (*add[2])(const uint32_t* table, const uint8_t* from, int64_t stride, int64_t vectors,
                 uint32_t* sums);
};

#define KERNEL of_4
#define WIDTH 4
#define TARGET
#include "digest_kernel.h"

#if defined(__x86_64__)

#define KERNEL of_8
#define WIDTH 8
#define TARGET __attribute__((target("avx2")))
#include "digest_kernel.h"

#define KERNEL of_16
#define WIDTH 16
#define TARGET __attribute__((target("avx512f")))
#include "digest_kernel.h"

#endif

const Kernel& Widest() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) return of_16::kernel;
  if (__builtin_cpu_supports("avx2")) return of_8::kernel;
#endif
  return of_4::kernel;
}

struct Job {
  struct Task {
    size_t part;
    int64_t begin;  // byte of the part
  };

  const Kernel& kernel;
  uint32_t start[16];           // ChaCha20's state, without counter and nonce
  std::vector<uint32_t> table;  // as the kernel takes it
  std::vector<Part> parts;
  std::vector<Task> tasks;
  uint32_t* sums;  // [parts, kLanes]
  std::mutex mutex;

  void Do(int64_t task);
};

// What one task adds.
class Sum {
 public:
  Sum(const Job& job, uint32_t number) : job_(job) {
    std::memcpy(start_, job.start, sizeof(start_));
    start_[kCounter + 1] = number;
    start_[kCounter + 3] = 0;
  }

  // `bytes` of a row, from its byte `at` on; or all of two `rows`, which lie one after the other.
  void Add(int64_t row, int rows, int64_t at, const uint8_t* from, int64_t bytes) {
    uint32_t sums[2 * kLanes * kWidest] = {};
    const int64_t width = job_.kernel.width, vector = 4 * width, stride = bytes;
    const auto add = job_.kernel.add[rows - 1];
    for (int64_t n; bytes > 0; at += n, from += n, bytes -= n) {
      const uint32_t* table = job_.table.data() + at / vector * 2 * kLanes * width;
      if (at % vector == 0 && bytes >= vector) {
        n = bytes - bytes % vector;
        add(table, from, stride, n / vector, sums);
      } else {
        n = std::min(bytes, vector - at % vector);
        uint8_t padded[2][4 * kWidest] = {};
        for (int i = 0; i < rows; ++i) std::memcpy(padded[i] + at % vector, from + i * stride, n);
        add(table, padded[0], sizeof(padded[0]), 1, sums);
      }
    }
    for (int i = 0; i < rows; ++i) AddRow(row + i, sums + i * kLanes * width);
  }

  uint32_t lanes[kLanes] = {};

 private:
  void AddRow(int64_t row, const uint32_t* sums) {
    constexpr int64_t rows = kGroup / kBlock;  // the words of so many rows are made at once
    if (row / rows != group_) {
      group_ = row / rows;
      start_[kCounter] = static_cast<uint32_t>(group_ * rows);
      start_[kCounter + 2] = static_cast<uint32_t>(group_ * rows >> 32);
      std::memset(stream_, 0, sizeof(stream_));
      XorGroup(start_, stream_, stream_);
    }
    uint32_t factors[kLanes];
    std::memcpy(factors, stream_ + row % rows * kBlock, sizeof(factors));
    for (int lane = 0; lane < kLanes; ++lane) {
      uint32_t sum = 0;
      for (int i = 0; i < job_.kernel.width; ++i) sum += *sums++;
      lanes[lane] += sum * factors[lane];
    }
  }

  const Job& job_;
  uint32_t start_[16];
  int64_t group_ = -1;
  uint8_t stream_[kGroup];
};

void Job::Do(int64_t task) {
  const size_t number = tasks[task].part;
  const Part& part = parts[number];
  const int64_t end = std::min(tasks[task].begin + kTask, part.bytes);
  const int64_t rows = (part.block - 1) / part.row + 1;
  Sum sum(*this, part.number);
  for (int64_t at = tasks[task].begin; at < end;) {
    const int64_t first = at - at % part.run;  // of this run
    int64_t place;
    const int64_t stop = std::min(end - first, part.Find(at / part.run, &place));
    for (int64_t n, in_run = at % part.run; in_run < stop; in_run += n) {
      const int64_t block = (place + in_run) / part.block, in_block = (place + in_run) % part.block;
      const int64_t in_row = in_block % part.row;
      n = std::min({stop - in_run, part.block - in_block, part.row - in_row});
      const bool two = n == part.row && 2 * n <= std::min(stop - in_run, part.block - in_block);
      sum.Add(block * rows + in_block / part.row, 1 + two, in_row, part.data + first + in_run, n);
      n *= 1 + two;
    }
    at = first + part.run;
  }
  std::lock_guard<std::mutex> lock(mutex);
  for (int lane = 0; lane < kLanes; ++lane) sums[number * kLanes + lane] += sum.lanes[lane];
}

// The table, uint32 [kLanes, 2, words], as a kernel takes it.
std::vector<uint32_t> Arranged(const uint32_t* table, int64_t words, int64_t width) {
  std::vector<uint32_t> arranged;
  arranged.reserve(2 * kLanes * words);
  for (int64_t at = 0; at < words; at += width) {
    for (int half = 0; half < 2 * kLanes; ++half) {
      const uint32_t* from = table + half * words + at;
      arranged.insert(arranged.end(), from, from + width);
    }
  }
  return arranged;
}

using Numbers = ffi::Span<const int64_t>;

ffi::Error Digest(ffi::ThreadPool pool, Numbers numbers, Numbers shapes, Numbers axes,
                  Numbers lengths, ffi::BufferR1<ffi::U32> key, ffi::BufferR3<ffi::U32> table,
                  ffi::BufferR1<ffi::U32> starts, ffi::RemainingArgs leaves,
                  ffi::ResultBufferR2<ffi::U32> out) {
  const ffi::Error wrong = ffi::Error::InvalidArgument(
      "Digest: takes uint32 key[8], table[8, 2, words] and starts[axes of all leaves], and parts of "
      "leaves with a number, a shape, an axis and a length each");
  const auto sizes = table.dimensions();
  const size_t count = leaves.size();
  if (key.element_count() != 8 || sizes[0] != kLanes || sizes[1] != 2 || sizes[2] % kWidest != 0 ||
      starts.element_count() != shapes.size() || numbers.size() != count || axes.size() != count ||
      lengths.size() != count || out->element_count() != count * kLanes) {
    return wrong;
  }
  Job job{Widest(), {}, {}, {}, {}, out->typed_data(), {}};
  SetKey(key.typed_data(), job.start);
  job.table = Arranged(table.typed_data(), sizes[2], job.kernel.width);
  std::memset(job.sums, 0, out->size_bytes());
  size_t before = 0;  // axes of the leaves before
  for (size_t i = 0; i < count; ++i) {
    const auto leaf = leaves.get<ffi::AnyBuffer>(i);
    if (leaf.has_error()) return leaf.error();
    const size_t rank = leaf->dimensions().size();
    if (leaf->element_count() == 0 || before + rank > shapes.size()) return wrong;
    job.parts.push_back(PartOf(*leaf, numbers[i], shapes.begin() + before, axes[i], lengths[i],
                               starts.typed_data() + before));
    before += rank;
    const Part& part = job.parts.back();
    if (part.block <= 0 || part.row <= 0 || part.row > 4 * sizes[2]) return wrong;
    for (int64_t at = 0; at < part.bytes; at += kTask) job.tasks.push_back({i, at});
  }
  Share(pool, job, job.tasks.size(), job.tasks.size());
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(TreeDigest, Digest,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Attr<Numbers>("numbers")
                                  .Attr<Numbers>("shapes")
                                  .Attr<Numbers>("axes")
                                  .Attr<Numbers>("lengths")
                                  .Arg<ffi::BufferR1<ffi::U32>>()
                                  .Arg<ffi::BufferR3<ffi::U32>>()
                                  .Arg<ffi::BufferR1<ffi::U32>>()
                                  .RemainingArgs()
                                  .Ret<ffi::BufferR2<ffi::U32>>());
