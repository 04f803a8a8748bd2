// Work that is shared with the threads of XLA's pool.
#pragma once

#include "xla/ffi/api/ffi.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>

// Tasks that threads take until none is left: `job.Do(task)` for each. The thread that calls takes them
// too and waits for those that others have begun, never for one in a queue: all threads may be callers.
template <typename Job>
class Work {
 public:
  Work(Job& job, int64_t tasks) : job_(job), tasks_(tasks) {}

  void Take() {
    int64_t mine = 0;
    for (int64_t task; (task = next_.fetch_add(1)) < tasks_; ++mine) job_.Do(task);
    if (mine == 0) return;
    std::lock_guard<std::mutex> lock(mutex_);
    done_ += mine;
    if (done_ == tasks_) all_done_.notify_all();
  }

  void Wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    all_done_.wait(lock, [this] { return done_ == tasks_; });
  }

 private:
  Job& job_;  // not touched once all is done: who comes late finds no task
  const int64_t tasks_;
  std::atomic<int64_t> next_{0};
  std::mutex mutex_;
  std::condition_variable all_done_;
  int64_t done_ = 0;
};

// Does all tasks of a job, on `threads` threads of the pool at most.
template <typename Job>
void Share(xla::ffi::ThreadPool& pool, Job& job, int64_t tasks, int64_t threads) {
  auto work = std::make_shared<Work<Job>>(job, tasks);
  const int64_t helpers = std::min(pool.num_threads(), threads) - 1;
  for (int64_t i = 0; i < helpers; ++i) pool.Schedule([work] { work->Take(); });
  work->Take();
  work->Wait();
}
