// Intrinsics of the CUDA math API. The approximate ones are computed exactly: a GPU differs in the last bits.
#pragma once
#include <cfenv>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#define EMU_FN(type, name, parameters, expression) \
  inline type name parameters { return expression; }

// glibc declares the names of these with noexcept.
inline float __expf(float x) noexcept { return std::exp(x); }
inline float __exp10f(float x) noexcept { return ::exp10f(x); }
inline float __logf(float x) noexcept { return std::log(x); }
inline float __log2f(float x) noexcept { return std::log2(x); }
inline float __log10f(float x) noexcept { return std::log10(x); }
inline float __powf(float x, float y) noexcept { return std::pow(x, y); }
inline float __sinf(float x) noexcept { return std::sin(x); }
inline float __cosf(float x) noexcept { return std::cos(x); }
inline float __tanf(float x) noexcept { return std::tan(x); }
inline void __sincosf(float x, float* s, float* c) noexcept { *s = std::sin(x), *c = std::cos(x); }

EMU_FN(float, rsqrtf, (float x), static_cast<float>(1 / std::sqrt(static_cast<double>(x))))
EMU_FN(double, rsqrt, (double x), 1 / std::sqrt(x))
EMU_FN(float, normcdff, (float x), static_cast<float>(0.5 * std::erfc(-static_cast<double>(x) * M_SQRT1_2)))
EMU_FN(float, __fdividef, (float a, float b), a / b)
EMU_FN(float, __fadd_rn, (float a, float b), a + b)
EMU_FN(float, __fsub_rn, (float a, float b), a - b)
EMU_FN(float, __fmul_rn, (float a, float b), a * b)
EMU_FN(float, __fdiv_rn, (float a, float b), a / b)
EMU_FN(float, __fmaf_rn, (float a, float b, float c), std::fma(a, b, c))
EMU_FN(float, __frcp_rn, (float x), 1 / x)
EMU_FN(float, __fsqrt_rn, (float x), std::sqrt(x))
EMU_FN(float, __frsqrt_rn, (float x), rsqrtf(x))
EMU_FN(float, __saturatef, (float x), x > 0 ? (x < 1 ? x : 1.f) : 0.f)
EMU_FN(double, __dadd_rn, (double a, double b), a + b)
EMU_FN(double, __dmul_rn, (double a, double b), a * b)
EMU_FN(double, __fma_rn, (double a, double b, double c), std::fma(a, b, c))

EMU_FN(int, __float_as_int, (float x), __builtin_bit_cast(int, x))
EMU_FN(unsigned, __float_as_uint, (float x), __builtin_bit_cast(unsigned, x))
EMU_FN(float, __int_as_float, (int x), __builtin_bit_cast(float, x))
EMU_FN(float, __uint_as_float, (unsigned x), __builtin_bit_cast(float, x))
EMU_FN(long long, __double_as_longlong, (double x), __builtin_bit_cast(long long, x))
EMU_FN(double, __longlong_as_double, (long long x), __builtin_bit_cast(double, x))

namespace emu {
// Conversions to integers saturate, and NaN becomes 0.
template <class I>
I saturating(double x) {
  if (x != x) return 0;
  if (x <= static_cast<double>(std::numeric_limits<I>::min())) return std::numeric_limits<I>::min();
  if (x >= static_cast<double>(std::numeric_limits<I>::max())) return std::numeric_limits<I>::max();
  return static_cast<I>(x);
}
}  // namespace emu
#define EMU_FLOAT_TO(suffix, round)                                                        \
  EMU_FN(int, __float2int_##suffix, (float x), emu::saturating<int>(round(x)))             \
  EMU_FN(unsigned, __float2uint_##suffix, (float x), emu::saturating<unsigned>(round(x))) \
  EMU_FN(int, __double2int_##suffix, (double x), emu::saturating<int>(round(x)))
EMU_FLOAT_TO(rn, std::nearbyint)
EMU_FLOAT_TO(rz, std::trunc)
EMU_FLOAT_TO(rd, std::floor)
EMU_FLOAT_TO(ru, std::ceil)
EMU_FN(float, __int2float_rn, (int x), static_cast<float>(x))
EMU_FN(float, __uint2float_rn, (unsigned x), static_cast<float>(x))
EMU_FN(float, __double2float_rn, (double x), static_cast<float>(x))

EMU_FN(int, __popc, (unsigned x), __builtin_popcount(x))
EMU_FN(int, __popcll, (unsigned long long x), __builtin_popcountll(x))
EMU_FN(int, __clz, (int x), x ? __builtin_clz(static_cast<unsigned>(x)) : 32)
EMU_FN(int, __clzll, (long long x), x ? __builtin_clzll(static_cast<unsigned long long>(x)) : 64)
EMU_FN(int, __ffs, (int x), __builtin_ffs(x))
EMU_FN(int, __ffsll, (long long x), __builtin_ffsll(x))
EMU_FN(int, __mulhi, (int a, int b), static_cast<int>((static_cast<long long>(a) * b) >> 32))
EMU_FN(unsigned, __umulhi, (unsigned a, unsigned b), static_cast<unsigned>((static_cast<unsigned long long>(a) * b) >> 32))
EMU_FN(int, __mul24, (int a, int b), static_cast<int>((static_cast<long long>(a << 8 >> 8) * (b << 8 >> 8))))
EMU_FN(unsigned, __funnelshift_l, (unsigned low, unsigned high, unsigned n), static_cast<unsigned>((((static_cast<unsigned long long>(high) << 32) | low) << (n & 31)) >> 32))
EMU_FN(unsigned, __funnelshift_r, (unsigned low, unsigned high, unsigned n), static_cast<unsigned>(((static_cast<unsigned long long>(high) << 32) | low) >> (n & 31)))
inline unsigned __brev(unsigned x) {
  unsigned r = 0;
  for (int i = 0; i < 32; i++) r |= (x >> i & 1) << (31 - i);
  return r;
}
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
  const unsigned long long bytes = static_cast<unsigned long long>(b) << 32 | a;
  unsigned r = 0;
  for (int i = 0; i < 4; i++) {
    const unsigned pick = selector >> (4 * i) & 15, byte = bytes >> (8 * (pick & 7)) & 255;
    r |= (pick & 8 ? (byte & 128 ? 255u : 0u) : byte) << (8 * i);  // bit 3: only the sign
  }
  return r;
}

// The overloads of all arithmetic types.
template <class A, class B>
requires std::is_arithmetic_v<A> && std::is_arithmetic_v<B>
inline std::common_type_t<A, B> min(A a, B b) {
  using C = std::common_type_t<A, B>;
  if constexpr (std::is_floating_point_v<C>) return std::fmin(static_cast<C>(a), static_cast<C>(b));
  else return static_cast<C>(b) < static_cast<C>(a) ? static_cast<C>(b) : static_cast<C>(a);
}
template <class A, class B>
requires std::is_arithmetic_v<A> && std::is_arithmetic_v<B>
inline std::common_type_t<A, B> max(A a, B b) {
  using C = std::common_type_t<A, B>;
  if constexpr (std::is_floating_point_v<C>) return std::fmax(static_cast<C>(a), static_cast<C>(b));
  else return static_cast<C>(a) < static_cast<C>(b) ? static_cast<C>(b) : static_cast<C>(a);
}
