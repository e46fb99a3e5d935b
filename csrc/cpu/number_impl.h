// Number formats. Included by kernels_*.cpp alone, inside a namespace of the instruction set: an inline function that
// two of those files shared would be merged by the linker, and code for AVX-512 would run on a processor without it.

inline float widen(float v) { return v; }
inline double widen(double v) { return v; }
inline float widen(BFloat16 v) {
  const uint32_t bits = static_cast<uint32_t>(v) << 16;
  float wide;
  __builtin_memcpy(&wide, &bits, sizeof wide);
  return wide;
}

template <class T>
inline T narrow(Acc<T> v) {
  return v;
}
// To nearest, ties to even, as c10::BFloat16. In arithmetic on bits alone: where it may branch on NaN, compilers leave
// loops around it scalar.
template <>
inline BFloat16 narrow<BFloat16>(float v) {
  uint32_t bits;
  __builtin_memcpy(&bits, &v, sizeof bits);
  const uint32_t is_nan = 0u - static_cast<uint32_t>((bits & 0x7fffffffu) > 0x7f800000u);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return static_cast<BFloat16>((rounded & ~is_nan) | (0x7fc0u & is_nan));
}

// a*b + c, in one rounding where the instruction set has it. Every z goes through here, so forward and backward
// see the same sign.
inline float multiply_add(float a, float b, float c) {
#ifdef FUSED_RESNET_FMA
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
}
inline double multiply_add(double a, double b, double c) {
#ifdef FUSED_RESNET_FMA
  return __builtin_fma(a, b, c);
#else
  return a * b + c;
#endif
}

// NaN stays NaN.
template <class A>
inline A at_least(A floor, A v) {
  return v < floor ? floor : v;
}

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t larger(int64_t a, int64_t b) { return a < b ? b : a; }
