#include "pack_cache.h"

#include <c10/core/InferenceMode.h>

#include <map>
#include <mutex>

namespace fused_resnet {

namespace {

constexpr int kept_from = 3;

// What a weight is known by. Optimizers that write through `.data` leave the version as it is, but change nearly all
// values.
struct State {
  int64_t version;
  const void* data;
  uint64_t sample;

  bool operator==(const State& other) const {
    return version == other.version && data == other.data && sample == other.sample;
  }
};

// A hash (FNV-1a) of some bytes of every one of 256 equal parts.
uint64_t sample_of(const at::Tensor& weight) {
  constexpr size_t parts = 256;
  const size_t bytes = weight.numel() ? weight.storage().nbytes() : 0;
  const auto* data = static_cast<const unsigned char*>(bytes ? weight.storage().data() : nullptr);
  const size_t width = weight.element_size(), elements = bytes / width;
  uint64_t hash = 14695981039346656037u;
  for (size_t part = 0; part < std::min(parts, elements); ++part) {
    const unsigned char* element = data + elements * part / std::min(parts, elements) * width;
    for (size_t byte = 0; byte < width; ++byte) hash = (hash ^ element[byte]) * 1099511628211u;
  }
  return hash;
}

using WeakTensor = c10::weak_intrusive_ptr<c10::TensorImpl, c10::UndefinedTensorImpl>;

struct Entry {
  WeakTensor weight; // tells a new tensor at an old address
  State state;
  int asked;
  at::Tensor packed;
};

std::mutex mutex;
using Key = std::pair<const c10::TensorImpl*, int>; // weight and form
std::map<Key, Entry> entries;
size_t sweep_at = 256;

// Forgets tensors that are gone. The map is small, but a loop that makes new weights would fill it.
void sweep() {
  if (entries.size() < sweep_at) return;
  for (auto entry = entries.begin(); entry != entries.end();)
    entry = entry->second.weight.expired() ? entries.erase(entry) : std::next(entry);
  sweep_at = std::max<size_t>(256, 2 * entries.size());
}

// What is kept for this version, and how often it was asked for, this time included.
std::pair<at::Tensor, int> look_up(const at::Tensor& weight, int form, const State& state) {
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = entries.find({weight.unsafeGetTensorImpl(), form});
  if (found != entries.end() && !found->second.weight.expired() && found->second.state == state)
    return {found->second.packed, ++found->second.asked};
  sweep();
  entries.insert_or_assign(Key{weight.unsafeGetTensorImpl(), form}, Entry{WeakTensor(weight.getIntrusivePtr()), state, 1, {}});
  return {at::Tensor(), 1};
}

} // namespace

at::Tensor packed_once(const at::Tensor& weight, int form, const std::function<at::Tensor(const at::Tensor&)>& pack) {
  if (weight.is_inference()) return pack(weight); // it has no version
  const State state{weight._version(), weight.const_data_ptr(), sample_of(weight)};
  const auto [kept, asked] = look_up(weight, form, state);
  if (kept.defined()) return kept;
  const at::Tensor packed = pack(weight);
  if (asked < kept_from) return packed;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto entry = entries.find({weight.unsafeGetTensorImpl(), form});
  if (entry != entries.end() && entry->second.state == state) entry->second.packed = packed;
  return packed;
}

at::Tensor kept_cast(const at::Tensor& weight, at::ScalarType dtype) {
  if (weight.scalar_type() == dtype) return weight;
  const int form = -1 - static_cast<int>(dtype); // beside the forms of packing, which are not negative
  return packed_once(weight, form, [=](const at::Tensor& w) {
    const c10::InferenceMode with_version(false); // or what is packed of the cast could not be kept
    return w.detach().to(dtype);
  });
}

int64_t packed_bytes() {
  const std::lock_guard<std::mutex> lock(mutex);
  int64_t bytes = 0;
  for (const auto& [_, entry] : entries)
    if (entry.packed.defined() && !entry.weight.expired()) bytes += static_cast<int64_t>(entry.packed.nbytes());
  return bytes;
}

} // namespace fused_resnet
