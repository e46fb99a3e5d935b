// Per-thread arithmetic of PTX: number formats, rounding, bit fields.
#pragma once
#include <algorithm>
#include <cfenv>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "../fibers/thread.h"

namespace ptx {

// Registers hold raw bits: F and D read them as float and double, U makes bits of a value.
inline float F(uint64_t bits) {
  uint32_t u = static_cast<uint32_t>(bits);
  float f;
  memcpy(&f, &u, 4);
  return f;
}
inline double D(uint64_t bits) {
  double f;
  memcpy(&f, &bits, 8);
  return f;
}
inline uint32_t U(float f) {
  uint32_t u;
  memcpy(&u, &f, 4);
  return u;
}
inline uint64_t U(double f) {
  uint64_t u;
  memcpy(&u, &f, 8);
  return u;
}

// ---- f16, bf16, tf32 (section "Alternate Floating-Point Data Formats"). A NaN becomes the canonical one.
inline float from_f16(uint64_t x) {
  uint16_t u = static_cast<uint16_t>(x);
  _Float16 h;
  memcpy(&h, &u, 2);
  return static_cast<float>(h);
}
template <class T>
uint16_t to_f16(T f) {
  if (f != f) return 0x7FFF;
  _Float16 h = static_cast<_Float16>(f);
  uint16_t r;
  memcpy(&r, &h, 2);
  return r;
}
inline float from_bf16(uint64_t x) { return F(static_cast<uint32_t>(static_cast<uint16_t>(x)) << 16); }
inline uint16_t to_bf16(float f) {
  uint32_t u = U(f);
  return f != f ? 0x7FFF : static_cast<uint16_t>((u + 0x7FFF + (u >> 16 & 1)) >> 16);
}
// An fp64 value is first cut to fp32 with its lost bits kept in the last one (round to odd), so that it rounds once.
inline uint16_t to_bf16(double d) {
  float f = static_cast<float>(d);
  if (std::isfinite(f) && static_cast<double>(f) != d) {
    if (std::fabs(static_cast<double>(f)) > std::fabs(d)) f = std::nextafter(f, 0.f);
    f = F(U(f) | 1);
  }
  return to_bf16(f);
}
template <bool BF>
float from16(uint64_t x) {
  return BF ? from_bf16(x) : from_f16(x);
}
template <bool BF, class T>
uint16_t to16(T f) {
  return BF ? to_bf16(f) : to_f16(f);
}
// Towards zero: an overflow stops at the largest finite value.
template <bool BF>
uint16_t to16_rz(float f) {
  uint16_t r = to16<BF>(f);
  bool away = f == f && std::fabs(from16<BF>(r)) > std::fabs(f);
  return away ? r - 1 : r;
}
template <bool BF>
uint16_t clamp_finite(uint16_t r) {  // .satfinite
  uint16_t inf = BF ? 0x7F80 : 0x7C00;
  return (r & 0x7FFF) == inf ? (r & 0x8000) | (inf - 1) : r;
}
inline uint32_t to_tf32_rna(float f) {
  uint32_t u = U(f);
  return f != f ? 0x7FFFFFFF : std::isinf(f) ? u : (u + 0x1000u) & 0xFFFFE000u;
}
inline uint32_t to_tf32_rn(float f) {
  uint32_t u = U(f);
  return f != f ? 0x7FFFFFFF : std::isinf(f) ? u : (u + 0xFFFu + (u >> 13 & 1)) & 0xFFFFE000u;
}
inline float cut_tf32(uint32_t bits) { return F(bits & 0xFFFFE000u); }  // the tensor core ignores the low 13 bits

// x * y + z, where x * y is exact in fp64, rounded to odd: a later rounding to fewer bits is then the only one. (A bf16
// product may lie half way between two bf16, and an addend too small for fp64 decides.)
inline double fma_odd(double x, double y, double z) {
  double p = x * y, s = p + z;
  if (!std::isfinite(s)) return s;
  double t = s - p, lost = (p - (s - t)) + (z - t);
  if (lost == 0) return s;
  if ((lost < 0) == (s > 0)) s = std::nextafter(s, 0.);
  return D(U(s) | 1);
}

// One operation on 16-bit floats, rounded once: sums and products of 16-bit values are exact in fp64 but for differences
// of exponents that round to the same 16-bit result.
template <bool BF, class Fn>
uint16_t map16(Fn fn, uint16_t a, uint16_t b, uint16_t c = 0) {
  return to16<BF>(static_cast<double>(fn(double(from16<BF>(a)), double(from16<BF>(b)), double(from16<BF>(c)))));
}
template <bool BF, class Fn>
uint32_t map16x2(Fn fn, uint32_t a, uint32_t b, uint32_t c = 0) {
  return map16<BF>(fn, a, b, c) | static_cast<uint32_t>(map16<BF>(fn, a >> 16, b >> 16, c >> 16)) << 16;
}

// ---- modifiers
// .ftz: subnormal inputs and results become zero of the same sign
template <class T>
T ftz(T x) {
  return std::fpclassify(x) == FP_SUBNORMAL ? std::copysign(T(0), x) : x;
}
inline float ftz_f16(float x) { return std::fabs(x) < 0x1p-14f ? std::copysign(0.f, x) : x; }
// .sat: clamped to [0, 1], NaN becomes 0
template <class T>
T saturate(T x) {
  return x != x ? T(0) : std::min(std::max(x, T(0)), T(1));
}
// .rz, .rm, .rp: the operation runs under another rounding mode of the processor; `volatile` keeps it between the two
// changes of mode.
template <int MODE, class T, class Fn>
T rounded(Fn fn, T a, T b, T c = 0) {
  volatile T x = a, y = b, z = c;
  int before = std::fegetround();
  std::fesetround(MODE);
  volatile T r = fn(T(x), T(y), T(z));
  std::fesetround(before);
  return r;
}
template <int MODE, class To, class From>
To convert(From a) {
  volatile From x = a;
  int before = std::fegetround();
  std::fesetround(MODE);
  volatile To r = static_cast<To>(x);
  std::fesetround(before);
  return r;
}
// min and max: of a number and a NaN (signalling or not) the number; -0 is less than +0
template <class T>
T fmin(T a, T b) {
  if (a != a || b != b) return a != a ? b : a;
  return a == b ? (std::signbit(a) ? a : b) : a < b ? a : b;
}
template <class T>
T fmax(T a, T b) {
  if (a != a || b != b) return a != a ? b : a;
  return a == b ? (std::signbit(a) ? b : a) : a > b ? a : b;
}
template <class T>
T fmin_nan(T a, T b) {
  return a != a || b != b ? T(NAN) : fmin(a, b);
}
template <class T>
T fmax_nan(T a, T b) {
  return a != a || b != b ? T(NAN) : fmax(a, b);
}
// cvt of a rounded float to an integer saturates; NaN gives 0, but only the highest bit if either has 64 bits
template <class I, class T>
I to_int(T rounded_value) {
  constexpr I lo = std::numeric_limits<I>::min(), hi = std::numeric_limits<I>::max();
  if (rounded_value != rounded_value) return sizeof(I) == 8 || sizeof(T) == 8 ? I(uint64_t(1) << (8 * sizeof(I) - 1)) : I(0);
  return rounded_value <= static_cast<T>(lo) ? lo : rounded_value >= static_cast<T>(hi) ? hi : static_cast<I>(rounded_value);
}
// cvt.sat between integers
template <class To, class From>
To clamp_int(From x) {
  using W = __int128;
  return static_cast<To>(std::clamp<W>(W(x), W(std::numeric_limits<To>::min()), W(std::numeric_limits<To>::max())));
}

// ---- integers. Division by zero is undefined in PTX, so it is an error here.
template <class T>
T divide(T a, T b) {
  if (b == 0) emu::die("integer division by zero");
  if constexpr (std::is_signed_v<T>)
    if (b == -1) return static_cast<T>(0 - static_cast<std::make_unsigned_t<T>>(a));
  return a / b;
}
template <class T>
T remainder(T a, T b) {
  if (b == 0) emu::die("integer remainder by zero");
  if constexpr (std::is_signed_v<T>)
    if (b == -1) return 0;
  return a % b;
}
template <class T>
T shl(T a, uint32_t n) {
  return n >= sizeof(T) * 8 ? 0 : static_cast<T>(a << n);
}
template <class T>
T shr(T a, uint32_t n) {
  return n >= sizeof(T) * 8 ? (a < 0 ? -1 : 0) : static_cast<T>(a >> n);
}
template <class T>
T bfe(T a, uint32_t pos, uint32_t len) {
  constexpr unsigned W = sizeof(T) * 8;
  using S = std::make_unsigned_t<T>;
  pos &= 255, len &= 255;
  if (!len) return 0;
  bool sign = std::is_signed_v<T> && (S(a) >> std::min(pos + len - 1, W - 1) & 1);
  S x = 0;
  for (unsigned i = 0; i < W; i++) x |= S(i < len && pos + i < W ? (S(a) >> (pos + i) & 1) : S(sign)) << i;
  return T(x);
}
template <class T>
T bfi(T a, T b, uint32_t pos, uint32_t len) {  // a into b
  constexpr unsigned W = sizeof(T) * 8;
  pos &= 255, len &= 255;
  for (unsigned i = 0; i < len && pos + i < W; i++) b = (b & ~(T(1) << (pos + i))) | (a >> i & 1) << (pos + i);
  return b;
}
template <class T>
uint32_t bfind(T a) {  // the most significant bit that is not the sign; ~0 if there is none
  using S = std::make_unsigned_t<T>;
  uint64_t x = static_cast<S>(a < 0 ? ~a : a);
  return x ? 63 - __builtin_clzll(x) : ~0u;
}
template <class T>
T brev(T a) {
  T r = 0;
  for (unsigned i = 0; i < sizeof(T) * 8; i++) r = static_cast<T>(r << 1 | (a >> i & 1));
  return r;
}
inline uint32_t prmt(uint32_t a, uint32_t b, uint32_t selector) {  // default mode
  uint64_t x = a | static_cast<uint64_t>(b) << 32;
  uint32_t r = 0;
  for (int i = 0; i < 4; i++) {
    uint32_t q = selector >> (4 * i) & 15, byte = x >> (8 * (q & 7)) & 255;
    if (q & 8) byte = byte & 128 ? 255 : 0;
    r |= byte << (8 * i);
  }
  return r;
}
// dp4a: sum of four products of bytes
template <class A, class B>
uint32_t dp4a(uint32_t a, uint32_t b, uint32_t c) {
  for (int i = 0; i < 4; i++) c += static_cast<int32_t>(static_cast<A>(a >> (8 * i))) * static_cast<int32_t>(static_cast<B>(b >> (8 * i)));
  return c;
}

}  // namespace ptx
