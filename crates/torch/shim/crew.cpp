#include "crew.hpp"

#include <ATen/Parallel.h>

#include <atomic>
#include <chrono>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace tidemill {
namespace {

constexpr int64_t kMostTasks = 0xFFFF;
constexpr auto kPatience = std::chrono::microseconds(100);  // from one product of a step to the next it is less

inline void pause() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

// Spins until `ready`, for kPatience at most; gives whether it is.
template <class Ready>
bool spin(const Ready& ready) {
  const auto end = std::chrono::steady_clock::now() + kPatience;
  do {
    for (int i = 0; i < 64; i++) {
      if (ready()) return true;
      pause();
    }
  } while (std::chrono::steady_clock::now() < end);
  return ready();
}

constexpr auto kAwake = std::chrono::milliseconds(1);

thread_local bool inside = false;  // a task of the crew
thread_local std::chrono::steady_clock::time_point last_shared;

// One job at a time. A thread that wins a task by its ticket knows that the job is not over, so what it then reads of the
// job is the job's own.
class Crew {
 public:
  void run(int64_t tasks, int64_t threads, void (*body)(const void*, int64_t), const void* context) {
    try {
      for (; hired_ < threads - 1; hired_++) std::thread([this, index = hired_] { work(index); }).detach();
    } catch (const std::system_error&) {  // the system gives no more threads: those that are there do the work
    }
    body_ = body;
    context_ = context;
    failure_ = nullptr;
    failed_.store(false, std::memory_order_relaxed);
    wanted_.store(threads - 1, std::memory_order_relaxed);
    done_.store(0, std::memory_order_relaxed);
    caller_sleeps_.store(false, std::memory_order_relaxed);
    ticket_.store(uint64_t(tasks), std::memory_order_release);
    job_.fetch_add(1);
    if (sleepers_.load() > 0) job_.notify_all();
    take_tasks();
    const uint32_t all = uint32_t(tasks);
    if (!spin([&] { return done_.load(std::memory_order_acquire) == all; })) {
      caller_sleeps_.store(true);
      for (uint32_t done = done_.load(); done != all; done = done_.load()) done_.wait(done);
    }
    if (failure_) std::rethrow_exception(failure_);
  }

  std::mutex owner;

 private:
  [[noreturn]] void work(int64_t index) {
    inside = true;
    for (;;) {
      const uint32_t seen = job_.load();
      if (index < wanted_.load(std::memory_order_relaxed)) take_tasks();
      if (spin([&] { return job_.load(std::memory_order_acquire) != seen; })) continue;
      sleepers_.fetch_add(1);
      job_.wait(seen);
      sleepers_.fetch_sub(1);
    }
  }

  void take_tasks() {
    uint64_t ticket = ticket_.load(std::memory_order_acquire);
    while (next(ticket) < count(ticket)) {
      if (!ticket_.compare_exchange_weak(ticket, ticket + (uint64_t(1) << 16), std::memory_order_acq_rel, std::memory_order_acquire)) continue;
      try {
        body_(context_, next(ticket));
      } catch (...) {
        if (!failed_.exchange(true)) failure_ = std::current_exception();
      }
      if (done_.fetch_add(1) + 1 == count(ticket) && caller_sleeps_.load()) done_.notify_one();
      ticket = ticket_.load(std::memory_order_acquire);
    }
  }

  static uint32_t next(uint64_t ticket) { return uint32_t(ticket >> 16) & 0xFFFF; }
  static uint32_t count(uint64_t ticket) { return uint32_t(ticket) & 0xFFFF; }

  alignas(64) std::atomic<uint64_t> ticket_{0};  // the next task << 16 | the tasks
  alignas(64) std::atomic<uint32_t> done_{0};
  alignas(64) std::atomic<uint32_t> job_{0};  // counts up
  std::atomic<int64_t> wanted_{0};
  std::atomic<uint32_t> sleepers_{0};
  std::atomic<bool> caller_sleeps_{false}, failed_{false};
  std::exception_ptr failure_;
  void (*body_)(const void*, int64_t) = nullptr;
  const void* context_ = nullptr;
  int64_t hired_ = 0;
};

Crew& crew() {
  static Crew* const crew = new Crew;  // never freed: its threads run until the process ends
  return *crew;
}

}  // namespace

int64_t crew_size() { return inside || at::in_parallel_region() ? 1 : at::get_num_threads(); }

void share(int64_t tasks, void (*body)(const void*, int64_t), const void* context) {
  const int64_t threads = crew_size();
  std::unique_lock<std::mutex> alone(crew().owner, std::defer_lock);
  if (threads == 1 || tasks <= 1 || tasks > kMostTasks || !alone.try_lock()) {
    for (int64_t task = 0; task < tasks; task++) body(context, task);
    return;
  }
  struct Inside {
    Inside() { inside = true; }
    ~Inside() { inside = false; }
  } here;
  crew().run(tasks, threads, body, context);
  last_shared = std::chrono::steady_clock::now();
}

bool crew_is_awake() { return std::chrono::steady_clock::now() - last_shared < kAwake; }

}  // namespace tidemill
