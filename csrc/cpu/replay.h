// The ops of a fused unit, recorded once and run again in one call: from Python each op of a small tensor costs
// several times what its kernel does.
#pragma once

#include <torch/csrc/utils/pybind.h>

#include <functional>
#include <map>
#include <variant>

#include "ops.h"

namespace fused_resnet {

using Slots = std::vector<Tensor>; // every tensor of a recording: its inputs, then what its steps make

struct Slot {
  size_t index;
};

// An argument as it was recorded: None, a tensor, a constant, or a list of the first two.
using Argument = std::variant<std::monostate, Slot, std::string, double, int64_t, at::ScalarType, std::vector<int64_t>,
                              std::vector<std::optional<Slot>>>;
using Function = std::function<void(const std::vector<Argument>&, Slots&)>; // appends its results

inline OptionalTensor tensor_of(const std::optional<Slot>& slot, const Slots& slots) {
  return slot ? OptionalTensor(slots[slot->index]) : std::nullopt;
}

template <class T>
T as(const Argument& argument, const Slots& slots) {
  if constexpr (std::is_same_v<T, Tensor>) {
    return slots[std::get<Slot>(argument).index];
  } else if constexpr (std::is_same_v<T, OptionalTensor>) {
    if (std::holds_alternative<std::monostate>(argument)) return std::nullopt;
    return slots[std::get<Slot>(argument).index];
  } else if constexpr (std::is_same_v<T, std::vector<OptionalTensor>>) {
    T tensors;
    for (const auto& slot : std::get<std::vector<std::optional<Slot>>>(argument))
      tensors.push_back(tensor_of(slot, slots));
    return tensors;
  } else if constexpr (std::is_same_v<T, std::vector<Tensor>>) {
    T tensors;
    for (const auto& slot : std::get<std::vector<std::optional<Slot>>>(argument))
      tensors.push_back(slots[slot.value().index]);
    return tensors;
  } else if constexpr (std::is_same_v<T, double>) {
    return std::visit(
        [](const auto& number) -> double {
          if constexpr (std::is_arithmetic_v<std::decay_t<decltype(number)>>) return static_cast<double>(number);
          throw std::bad_variant_access();
        },
        argument);
  } else if constexpr (std::is_same_v<T, Pair> || std::is_same_v<T, std::array<int64_t, 4>>) {
    T values{};
    const auto& recorded = std::get<std::vector<int64_t>>(argument);
    std::copy_n(recorded.begin(), values.size(), values.begin());
    return values;
  } else {
    return std::get<T>(argument);
  }
}

template <class R, class... A, size_t... I>
Function recordable(R (*function)(A...), std::index_sequence<I...>) {
  return [function](const std::vector<Argument>& arguments, Slots& slots) {
    TORCH_CHECK(arguments.size() == sizeof...(A), "expected ", sizeof...(A), " arguments, got ", arguments.size());
    const auto call = [&] { return function(as<std::decay_t<A>>(arguments[I], slots)...); };
    if constexpr (std::is_same_v<R, Tensor>)
      slots.push_back(call());
    else if constexpr (std::is_void_v<R>)
      call();
    else
      std::apply([&](auto... results) { (slots.push_back(std::move(results)), ...); }, call());
  };
}

// An op as recordings call it.
template <class R, class... A>
Function recordable(R (*function)(A...)) {
  return recordable(function, std::index_sequence_for<A...>{});
}

// By name.
std::map<std::string, Function>& recordable_ops();

// Ops on inputs of certain sizes and strides. Python runs them once, and tells of every one with `add`.
class Recording {
 public:
  explicit Recording(const pybind11::tuple& inputs);

  // An op that ran; what it was given and gave, and to which of its arguments it wrote.
  void add(const std::string& name, const pybind11::tuple& arguments, const pybind11::object& result,
           const std::vector<size_t>& written);

  // What all of it gave, tensors or None. False: something happened that was not told, and cannot be done again.
  bool finish(const pybind11::tuple& outputs);

  // The same on other inputs; None where these are not of the recorded kinds.
  pybind11::object replay(const pybind11::tuple& inputs) const;

  // Whether `replay` would.
  bool takes(const pybind11::tuple& inputs) const { return slots_for(inputs).has_value(); }

 private:
  struct Kind { // of an input
    bool defined;
    at::ScalarType dtype;
    std::vector<int64_t> sizes, strides;
    size_t same_as; // the first input that is this very tensor
  };
  struct View { // of a slot
    std::vector<int64_t> sizes, strides;
    int64_t offset;
    Slot of;
  };
  struct Step {
    std::variant<const Function*, View> what;
    std::vector<Argument> arguments;
    std::vector<size_t> last_used; // slots that no later step reads
  };

  static bool is_of(const Kind& kind, const Tensor& t);
  size_t keep(const Tensor& t);
  Slot slot_of(const Tensor& t);
  Argument argument_of(pybind11::handle value);
  void check_versions(const std::vector<Slot>& written);
  void free_early();
  std::optional<Slots> slots_for(const pybind11::tuple& inputs) const;
  void run(Slots& slots) const;

  std::vector<Kind> kinds_;
  std::vector<Step> steps_;
  std::vector<std::optional<Slot>> outputs_;
  // While it is recorded:
  Slots slots_;
  std::vector<int64_t> versions_;
  bool faithful_ = true;
};

} // namespace fused_resnet
