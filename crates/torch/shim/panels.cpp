#include "panels.hpp"

#include "attention.hpp"
#include "vector_math.hpp"

#include <atomic>

#define TIDEMILL_LEVEL portable
#define TIDEMILL_TARGET
#define TIDEMILL_LANES 4
#define TIDEMILL_ROWS 4
#include "panels_level.inc"
#include "attention_level.inc"
#undef TIDEMILL_LEVEL
#undef TIDEMILL_TARGET
#undef TIDEMILL_LANES
#undef TIDEMILL_ROWS

#ifdef TIDEMILL_X86
#define TIDEMILL_LEVEL avx2
#define TIDEMILL_TARGET __attribute__((target("avx2,fma,f16c")))
#define TIDEMILL_LANES 8
#define TIDEMILL_ROWS 6
#include "panels_level.inc"
#include "attention_level.inc"
#undef TIDEMILL_LEVEL
#undef TIDEMILL_TARGET
#undef TIDEMILL_LANES
#undef TIDEMILL_ROWS

#define TIDEMILL_LEVEL avx512
#define TIDEMILL_TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma,f16c")))
#define TIDEMILL_LANES 16
#define TIDEMILL_ROWS 12
#include "panels_level.inc"
#include "attention_level.inc"
#undef TIDEMILL_LEVEL
#undef TIDEMILL_TARGET
#undef TIDEMILL_LANES
#undef TIDEMILL_ROWS

#include "panels_pairs.inc"
#endif

namespace tidemill {
namespace {

const Level kLevels[] = {
    {"portable", false, portable::product, portable::expand, portable::tile, portable::attend, portable::merge},
#ifdef TIDEMILL_X86
    {"avx2", false, avx2::product, avx2::expand, avx2::tile, avx2::attend, avx2::merge},
    {"avx512", false, avx512::product, avx512::expand, avx512::tile, avx512::attend, avx512::merge},
    {"avx512-bf16", true, pairs::product, avx512::expand, pairs::tile, avx512::attend, avx512::merge},
#endif
};

int best_level() {
#ifdef TIDEMILL_X86
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (avx512) return __builtin_cpu_supports("avx512bf16") ? 3 : 2;
  if (avx2) return 1;
#endif
  return 0;
}

std::atomic<int> chosen{best_level()};

}  // namespace

const Level& level() { return kLevels[chosen.load(std::memory_order_relaxed)]; }

// For tests: takes the kernels of level `wanted`, or of the best below it that the processor has. Gives that level.
extern "C" int tm_limit_level(int wanted) {
  const int best = best_level();
  chosen = wanted < 0 ? 0 : wanted < best ? wanted : best;
  return chosen;
}

}  // namespace tidemill
