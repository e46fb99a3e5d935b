// One vector register of floats; see number_impl.h for how this file is included. FUSED_RESNET_VECTOR_BYTES is the
// register's size, FUSED_RESNET_PANEL_VECTORS how many of them hold the output channels of a tile.

typedef float Vec __attribute__((vector_size(FUSED_RESNET_VECTOR_BYTES)));
typedef float UnalignedVec __attribute__((vector_size(FUSED_RESNET_VECTOR_BYTES), aligned(4), may_alias));

constexpr int64_t vec_width = FUSED_RESNET_VECTOR_BYTES / sizeof(float);
constexpr int panel_vectors = FUSED_RESNET_PANEL_VECTORS;
constexpr int64_t panel_width = panel_vectors * vec_width;

inline Vec load(const float* p) { return *reinterpret_cast<const UnalignedVec*>(p); }
inline void store(float* p, Vec v) { *reinterpret_cast<UnalignedVec*>(p) = v; }

// In one rounding where the instruction set has it: contraction is off, so it has to be asked for.
#if defined(FUSED_RESNET_INTRINSICS_AVX512)
inline Vec broadcast(const float* p) { return reinterpret_cast<Vec>(_mm512_set1_ps(*p)); }
inline Vec multiply_add(Vec a, Vec b, Vec c) {
  return reinterpret_cast<Vec>(_mm512_fmadd_ps(reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b),
                                               reinterpret_cast<__m512>(c)));
}
#elif defined(FUSED_RESNET_INTRINSICS_AVX2)
inline Vec broadcast(const float* p) { return reinterpret_cast<Vec>(_mm256_broadcast_ss(p)); }
inline Vec multiply_add(Vec a, Vec b, Vec c) {
  return reinterpret_cast<Vec>(_mm256_fmadd_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b),
                                               reinterpret_cast<__m256>(c)));
}
#else
inline Vec broadcast(const float* p) {
  Vec v;
  for (int64_t l = 0; l < vec_width; ++l) v[l] = *p;
  return v;
}
inline Vec multiply_add(Vec a, Vec b, Vec c) { return a * b + c; }
#endif
