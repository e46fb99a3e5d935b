// Mistakes made on purpose, compiled with the sanitizers beside the extension: what does not stop these proves nothing.
#include <cstdint>

extern "C" {

// Reads one element past the end.
float read_past_the_end(const float* values, int64_t count) {
  float sum = 0;
  for (int64_t i = 0; i <= count; ++i) sum += values[i];
  return sum;
}

// Writes one element in front of the first.
float write_before_the_start(float* values, int64_t count) {
  for (int64_t i = count; i >= 0; --i) values[i - 1] = 0;
  return 0;
}

// A number of elements that int cannot hold.
float overflow_a_size(const float* values, int64_t count) {
  const int pixels = static_cast<int>(count);
  return static_cast<float>(pixels * 100'000'000) * values[0];
}

// A load from an address that is no multiple of a float's size.
float load_misaligned(const float* values, int64_t) {
  return *reinterpret_cast<const float*>(reinterpret_cast<const char*>(values) + 1);
}
}
