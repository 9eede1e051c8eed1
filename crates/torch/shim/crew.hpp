// Threads that share the tasks of a decoding step.
//
// libtorch's own pool (OpenMP) gives each thread its part beforehand and ends when all have come: where one of them has
// lost its processor to another program, every product of every step waits for it, and a step has hundreds. Here a thread
// takes the next task when it is there to do it, and the caller waits only for tasks that were begun.
#pragma once
#include <algorithm>
#include <cstdint>
#include <type_traits>

namespace tidemill {

// Whether `share` would use more than the calling thread now, and how many threads then.
int64_t crew_size();

// Calls body(context, task) for each task in [0, tasks), in any order on any thread; throws the first exception.
void share(int64_t tasks, void (*body)(const void* context, int64_t task), const void* context);

// Whether the calling thread shared something in the last millisecond. Then what comes between two products is the crew's too:
// libtorch's threads, once woken, would spin on the crew's processors for longer than a step takes.
bool crew_is_awake();

// Calls body(task) for each task in [0, tasks). What a task writes must not depend on the thread.
template <class Body>
void share(int64_t tasks, const Body& body) {
  share(tasks, [](const void* context, int64_t task) { (*static_cast<const Body*>(context))(task); }, &body);
}

// Calls body(first, last) for parts of [0, count) of at least `grain`, a few for each thread.
template <class Body>
void share_range(int64_t count, int64_t grain, const Body& body) {
  const int64_t parts = std::min(count / std::max<int64_t>(1, grain), 4 * crew_size());
  if (parts <= 1) {
    if (count > 0) body(int64_t(0), count);
    return;
  }
  share(parts, [&](int64_t part) { body(part * count / parts, (part + 1) * count / parts); });
}

}  // namespace tidemill
