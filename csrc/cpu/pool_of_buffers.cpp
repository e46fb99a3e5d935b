#include "pool_of_buffers.h"

#include <ATen/EmptyTensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <c10/core/CPUAllocator.h>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include <algorithm>
#include <list>
#include <mutex>
#include <new>
#include <unordered_map>

namespace fused_resnet {

namespace {

constexpr size_t most_idle_bytes = size_t{512} << 20;
constexpr size_t least_large_bytes = size_t{4} << 20;
constexpr size_t large_page = size_t{2} << 20;
constexpr size_t alignment = 64;

struct Buffer {
  void* data;
  size_t bytes;

  bool is_large() const { return bytes >= least_large_bytes; }
};

Buffer fresh(size_t bytes) {
  Buffer buffer{nullptr, bytes};
  if (!buffer.is_large()) {
    buffer.data = ::operator new(bytes, std::align_val_t(alignment));
    return buffer;
  }
  buffer.bytes = (bytes + large_page - 1) / large_page * large_page;
  buffer.data = ::operator new(buffer.bytes, std::align_val_t(large_page));
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  madvise(buffer.data, buffer.bytes, MADV_HUGEPAGE); // the system may do otherwise: nothing but time depends on it
#endif
  return buffer;
}

void free(const Buffer& buffer) {
  ::operator delete(buffer.data, std::align_val_t(buffer.is_large() ? large_page : alignment));
}

class Pool {
 public:
  // At least this size. A much larger one is left for those who need it.
  void* acquire(size_t bytes) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      auto best = idle_.end();
      for (auto b = idle_.begin(); b != idle_.end(); ++b)
        if (b->bytes >= bytes && b->bytes <= 2 * bytes + large_page && (best == idle_.end() || b->bytes < best->bytes))
          best = b;
      if (best != idle_.end()) {
        idle_bytes_ -= best->bytes;
        return lend(take(best));
      }
    }
    const Buffer buffer = fresh(bytes);
    const std::lock_guard<std::mutex> lock(mutex_);
    return lend(buffer);
  }

  void release(void* data) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      const auto lent = lent_.find(data);
      idle_.push_back(lent->second);
      idle_bytes_ += lent->second.bytes;
      lent_.erase(lent);
    }
    shrink_to(most_idle_bytes);
  }

  // What was given back long ago goes first: sizes change with the model and the batch.
  void shrink_to(size_t bytes) {
    std::list<Buffer> old;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      while (idle_bytes_ > bytes) {
        idle_bytes_ -= idle_.front().bytes;
        old.splice(old.end(), idle_, idle_.begin());
      }
    }
    for (const Buffer& buffer : old) free(buffer);
  }

  size_t idle_bytes() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return idle_bytes_;
  }

 private:
  Buffer take(std::list<Buffer>::iterator place) {
    const Buffer buffer = *place;
    idle_.erase(place);
    return buffer;
  }

  void* lend(const Buffer& buffer) {
    lent_.emplace(buffer.data, buffer);
    return buffer.data;
  }

  std::mutex mutex_;
  std::list<Buffer> idle_; // in the order in which they were given back
  std::unordered_map<void*, Buffer> lent_;
  size_t idle_bytes_ = 0;
};

// Never destroyed: tensors may outlive every static object.
Pool& pool() {
  static Pool& the_pool = *new Pool;
  return the_pool;
}

// Tells profilers of its memory, as ATen's own allocator does.
class Recycler final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    void* const data = pool().acquire(std::max<size_t>(bytes, 1));
    c10::profiledCPUMemoryReporter().New(data, bytes);
    return {data, data, &release, c10::Device(c10::kCPU)};
  }

  c10::DeleterFnPtr raw_deleter() const override { return &release; }

  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }

 private:
  static void release(void* data) {
    c10::profiledCPUMemoryReporter().Delete(data);
    pool().release(data);
  }
};

Recycler& recycler() {
  static Recycler& the_recycler = *new Recycler;
  return the_recycler;
}

} // namespace

at::Tensor pooled(at::IntArrayRef sizes) {
  void* const data = pool().acquire(sizeof(float) * static_cast<size_t>(c10::multiply_integers(sizes)) + alignment);
  return at::from_blob(data, sizes, [](void* memory) { pool().release(memory); }, at::kFloat);
}

at::Tensor empty_recycled(at::IntArrayRef sizes, at::ScalarType dtype, at::MemoryFormat format) {
  const size_t bytes = static_cast<size_t>(c10::multiply_integers(sizes)) * c10::elementSize(dtype);
  if (bytes < least_large_bytes) return at::empty(sizes, dtype, std::nullopt, c10::kCPU, std::nullopt, format);
  return at::detail::empty_generic(sizes, &recycler(), c10::DispatchKeySet(c10::DispatchKey::CPU), dtype, format);
}

void empty_pool() { pool().shrink_to(0); }

int64_t idle_bytes() { return static_cast<int64_t>(pool().idle_bytes()); }

} // namespace fused_resnet
