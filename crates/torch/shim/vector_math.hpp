// Element functions that the compiler turns into vector code. Loops over them are marked TIDEMILL_VECTOR: compiled once
// for each level of x86-64, the right one chosen when the program is loaded.
//
// Needs -fno-math-errno -fno-trapping-math (build.rs), without which the choices below become branches.
//
// exp after Cephes (Moshier 1989), largest error about 2 units in the last place; NaN stays NaN.
#pragma once
#include <bit>
#include <cstdint>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__linux__)
#define TIDEMILL_VECTOR __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define TIDEMILL_VECTOR
#endif
#define TIDEMILL_INLINE inline __attribute__((always_inline))

namespace tidemill {

TIDEMILL_INLINE float fast_exp(float x) {
  x = 88.0f < x ? 88.0f : x;
  x = -87.0f > x ? -87.0f : x;
  const float shifted = x * 1.44269504088896341f + 12582912.0f;  // 1.5 * 2^23: rounds to an integer in the low bits
  const float n = shifted - 12582912.0f;
  const float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const float y = p * r * r + r + 1.0f;
  return y * std::bit_cast<float>((std::bit_cast<int32_t>(shifted) - 0x4B400000 + 127) << 23);
}

TIDEMILL_INLINE float fast_sigmoid(float x) { return 1.0f / (1.0f + fast_exp(-x)); }

TIDEMILL_INLINE float fast_tanh(float x) {
  const float size = x < 0 ? -x : x, z = x * x;
  float p = -5.70498872745e-3f;
  p = p * z + 2.06390887954e-2f;
  p = p * z - 5.37397155531e-2f;
  p = p * z + 1.33314422036e-1f;
  p = p * z - 3.33332819422e-1f;
  const float near = p * z * x + x, far = 1.0f - 2.0f / (fast_exp(2 * size) + 1.0f);
  return size < 0.625f ? near : (x < 0 ? -far : far);
}

// x P(x^2) / Q(x^2) as in Eigen; beyond 4 it is 1 in float32. Largest error about 3 units in the last place.
TIDEMILL_INLINE float fast_erf(float x) {
  x = 4.0f < x ? 4.0f : x;
  x = -4.0f > x ? -4.0f : x;
  const float z = x * x;
  float p = -2.72614225801306e-10f;
  p = p * z + 2.77068142495902e-08f;
  p = p * z - 2.10102402082508e-06f;
  p = p * z - 5.69250639462346e-05f;
  p = p * z - 7.34990630326855e-04f;
  p = p * z - 2.95459980854025e-03f;
  p = p * z - 1.60960333262415e-02f;
  float q = -1.45660718464996e-05f;
  q = q * z - 2.13374055278905e-04f;
  q = q * z - 1.68282697438203e-03f;
  q = q * z - 7.37332916720468e-03f;
  q = q * z - 1.42647390514189e-02f;
  return x * p / q;
}

typedef float Lanes __attribute__((vector_size(64)));
constexpr int64_t kLanes = 16;

TIDEMILL_INLINE Lanes load_lanes(const float* from) {
  Lanes lanes;
  __builtin_memcpy(&lanes, from, sizeof(lanes));
  return lanes;
}

// The sum of f(i) for i < n, where `lanes` gives f of sixteen from `i` on and `one` of `i` alone: in one order on every
// level, which the compiler may not choose for a plain loop.
template <class Sixteen, class One>
TIDEMILL_INLINE double total(int64_t n, const Sixteen& lanes, const One& one) {
  Lanes sums = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) sums += lanes(i);
  double sum = 0;
  for (int64_t lane = 0; lane < kLanes; lane++) sum += sums[lane];
  for (; i < n; i++) sum += one(i);
  return sum;
}

TIDEMILL_INLINE double sum_of(const float* x, int64_t n) {
  return total(n, [&](int64_t i) { return load_lanes(x + i); }, [&](int64_t i) { return x[i]; });
}

TIDEMILL_INLINE double squares_of(const float* x, float centre, int64_t n) {
  return total(
      n,
      [&](int64_t i) {
        const Lanes apart = load_lanes(x + i) - centre;
        return apart * apart;
      },
      [&](int64_t i) { return (x[i] - centre) * (x[i] - centre); });
}

}  // namespace tidemill
