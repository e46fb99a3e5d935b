// Functions of __half and __nv_bfloat16 that CUDA's headers keep from host compilers: computed in float, rounded once.
#pragma once
#include <cmath>

namespace emu {

template <class T>
T to_half_type(float x);
template <>
inline __half to_half_type(float x) { return __float2half_rn(x); }
template <>
inline __nv_bfloat16 to_half_type(float x) { return __float2bfloat16_rn(x); }

// a * b + c with one rounding: the product is exact in double, and the sum is rounded to odd before the last rounding.
template <class T>
T half_fma(T a, T b, T c) {
  const double product = static_cast<double>(static_cast<float>(a)) * static_cast<float>(b), addend = static_cast<float>(c);
  const double sum = product + addend, part = sum - product;
  const double error = (product - (sum - part)) + (addend - part);  // exact (two-sum)
  auto odd = [](double value, double rest) {
    if (rest == 0 || !std::isfinite(value) || __builtin_bit_cast(uint64_t, value) & 1) return value;
    return std::nextafter(value, rest > 0 ? INFINITY : -INFINITY);
  };
  const double exact = odd(sum, error);
  float rounded = static_cast<float>(exact);
  const double lost = exact - rounded;
  if (lost != 0 && std::isfinite(rounded) && !(__builtin_bit_cast(uint32_t, rounded) & 1))
    rounded = std::nextafterf(rounded, lost > 0 ? INFINITY : -INFINITY);
  return to_half_type<T>(rounded);
}

}  // namespace emu

#define EMU_HALF(T)                                                                                      \
  inline T __hfma(T a, T b, T c) { return emu::half_fma(a, b, c); }                                      \
  inline T##2 __hfma2(T##2 a, T##2 b, T##2 c) { return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)}; } \
  EMU_HALF_FUNCTION(T, exp, std::exp) EMU_HALF_FUNCTION(T, exp2, std::exp2) EMU_HALF_FUNCTION(T, log, std::log)   \
  EMU_HALF_FUNCTION(T, log2, std::log2) EMU_HALF_FUNCTION(T, sqrt, std::sqrt) EMU_HALF_FUNCTION(T, rsqrt, rsqrtf) \
  EMU_HALF_FUNCTION(T, rcp, __frcp_rn) EMU_HALF_FUNCTION(T, tanh, std::tanh) EMU_HALF_FUNCTION(T, sin, std::sin)  \
  EMU_HALF_FUNCTION(T, cos, std::cos) EMU_HALF_FUNCTION(T, floor, std::floor) EMU_HALF_FUNCTION(T, ceil, std::ceil) \
  EMU_HALF_FUNCTION(T, trunc, std::trunc) EMU_HALF_FUNCTION(T, rint, std::nearbyint)
#define EMU_HALF_FUNCTION(T, name, f)                                                       \
  inline T h##name(T a) { return emu::to_half_type<T>(f(static_cast<float>(a))); }          \
  inline T##2 h2##name(T##2 a) { return {h##name(a.x), h##name(a.y)}; }
EMU_HALF(__half)
EMU_HALF(__nv_bfloat16)
