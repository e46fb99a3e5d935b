#include "pool_of_buffers.h"

#include <ATen/ops/from_blob.h>

#include <map>
#include <memory>
#include <mutex>
#include <new>

namespace fused_resnet {

namespace {

constexpr size_t most_bytes = size_t{64} << 20; // that lie idle
constexpr std::align_val_t alignment{64};

struct Pool {
  std::mutex mutex;
  std::multimap<size_t, float*> idle; // by size in bytes
  size_t idle_bytes = 0;
};

// Never destroyed: tensors may outlive every static object.
Pool& pool() {
  static Pool& the_pool = *new Pool;
  return the_pool;
}

// A buffer of at least this size, and its size. A much larger one is left for those who need it.
std::pair<float*, size_t> acquire(size_t bytes) {
  Pool& p = pool();
  {
    const std::lock_guard<std::mutex> lock(p.mutex);
    const auto found = p.idle.lower_bound(bytes);
    if (found != p.idle.end() && found->first <= 2 * bytes + 4096) {
      const std::pair<float*, size_t> buffer{found->second, found->first};
      p.idle.erase(found);
      p.idle_bytes -= buffer.second;
      return buffer;
    }
  }
  return {static_cast<float*>(::operator new(bytes, alignment)), bytes};
}

void release(float* data, size_t bytes) {
  Pool& p = pool();
  {
    const std::lock_guard<std::mutex> lock(p.mutex);
    if (p.idle_bytes + bytes <= most_bytes) {
      p.idle.emplace(bytes, data);
      p.idle_bytes += bytes;
      return;
    }
  }
  ::operator delete(data, alignment);
}

} // namespace

at::Tensor pooled(at::IntArrayRef sizes) {
  const auto [data, bytes] = acquire(sizeof(float) * static_cast<size_t>(c10::multiply_integers(sizes)) + 64);
  float* memory = data;
  const size_t size = bytes;
  return at::from_blob(memory, sizes, [memory, size](void*) { release(memory, size); }, at::kFloat);
}

} // namespace fused_resnet
