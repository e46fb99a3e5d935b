// Tasks handed out one by one: cores differ in speed, by kind or by what else runs on them, and the slowest of equal
// shares would be waited for.
#pragma once

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace fused_resnet {

constexpr int64_t tasks_per_thread = 4;
constexpr int64_t parallel_depth = 131072; // multiply-adds that are worth a second thread

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// f(task, kept) for every task, by as many threads as there are; `kept` is what a thread keeps from one of its tasks to
// the next, made by `keep()`. Which thread takes a task must not show in its result.
template <class Keep, class F>
void for_tasks(int64_t count, bool parallel, const Keep& keep, const F& f) {
  const int64_t threads = parallel ? std::min<int64_t>(count, at::get_num_threads()) : 1;
  std::atomic<int64_t> next{0};
  at::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
    auto kept = keep();
    for (int64_t task = next++; task < count; task = next++) f(task, kept);
  });
}

template <class F>
void for_tasks(int64_t count, bool parallel, const F& f) {
  for_tasks(count, parallel, [] { return 0; }, [&](int64_t task, int) { f(task); });
}

} // namespace fused_resnet
