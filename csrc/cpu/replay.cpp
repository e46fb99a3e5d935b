#include "replay.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/as_strided.h>
#include <ATen/ops/clone.h>
#include <torch/csrc/Dtype.h>
#include <torch/csrc/autograd/python_variable.h>

#include "pack_cache.h"

namespace py = pybind11;

namespace fused_resnet {

namespace {

OptionalTensor plain_tensor(py::handle value) {
  if (!THPVariable_CheckExact(value.ptr())) return std::nullopt;
  return THPVariable_Unpack(value.ptr());
}

int64_t version_of(const Tensor& t) { return t.defined() && !t.is_inference() ? t._version() : 0; }

bool same_storage(const Tensor& a, const Tensor& b) {
  return a.defined() && a.unsafeGetTensorImpl()->unsafe_storage().unsafeGetStorageImpl() ==
      b.unsafeGetTensorImpl()->unsafe_storage().unsafeGetStorageImpl();
}

} // namespace

std::map<std::string, Function>& recordable_ops() {
  static std::map<std::string, Function> ops{
      {"copy", recordable(+[](const Tensor& t) { return t.clone(at::MemoryFormat::Contiguous); })},
      {"laid_out", recordable(+[](const Tensor& t, const Tensor& like) {
         const bool nhwc = like.is_contiguous(at::MemoryFormat::ChannelsLast);
         return t.contiguous(nhwc ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous);
       })},
      {"cast", recordable(+[](const Tensor& t, at::ScalarType dtype) { return t.to(dtype); })},
      {"kept_cast", recordable(&kept_cast)}};
  return ops;
}

Recording::Recording(const py::tuple& inputs) {
  for (const py::handle input : inputs) {
    if (input.is_none()) {
      kinds_.push_back({false, at::kFloat, {}, {}, kinds_.size()});
      keep({});
      continue;
    }
    const OptionalTensor t = plain_tensor(input);
    TORCH_CHECK(t && t->is_cpu() && t->layout() == at::kStrided, "inputs: expected plain tensors on the CPU");
    size_t first = 0;
    while (first < slots_.size() && !slots_[first].is_same(*t)) ++first;
    kinds_.push_back({true, t->scalar_type(), t->sizes().vec(), t->strides().vec(), first});
    keep(*t);
  }
}

bool Recording::is_of(const Kind& kind, const Tensor& t) {
  return t.is_cpu() && t.layout() == at::kStrided && t.scalar_type() == kind.dtype && t.sizes() == kind.sizes &&
      t.strides() == kind.strides && !t.is_conj() && !t.is_neg();
}

size_t Recording::keep(const Tensor& t) {
  slots_.push_back(t);
  versions_.push_back(version_of(t));
  return slots_.size() - 1;
}

// The slot of a tensor, or of a view of one; another tensor was made by something that is not recorded.
Slot Recording::slot_of(const Tensor& t) {
  std::vector<size_t> bases;
  for (size_t i = 0; i < slots_.size(); ++i) {
    if (slots_[i].is_same(t)) return {i};
    if (same_storage(slots_[i], t) && slots_[i].scalar_type() == t.scalar_type()) bases.push_back(i);
  }
  const bool ambiguous = bases.size() > 1 && bases[1] < kinds_.size(); // inputs share memory, others may not
  if (bases.empty() || ambiguous) {
    faithful_ = false;
    return {0};
  }
  const Tensor& base = slots_[bases[0]];
  const int64_t offset = t.storage_offset() - base.storage_offset();
  steps_.push_back({View{t.sizes().vec(), t.strides().vec(), offset, {bases[0]}}, {}, {}});
  return {keep(t)};
}

Argument Recording::argument_of(py::handle value) {
  if (value.is_none()) return std::monostate{};
  if (THPVariable_Check(value.ptr())) return slot_of(THPVariable_Unpack(value.ptr()));
  if (py::isinstance<py::str>(value)) return value.cast<std::string>();
  if (THPDtype_Check(value.ptr())) return reinterpret_cast<THPDtype*>(value.ptr())->scalar_type;
  if (py::isinstance<py::float_>(value)) return value.cast<double>();
  if (py::isinstance<py::int_>(value)) return value.cast<int64_t>();
  const py::sequence items = py::reinterpret_borrow<py::sequence>(value);
  bool integers = true;
  for (const py::handle item : items) integers = integers && py::isinstance<py::int_>(item);
  if (integers) return value.cast<std::vector<int64_t>>();
  std::vector<std::optional<Slot>> slots;
  for (const py::handle item : items)
    slots.push_back(item.is_none() ? std::nullopt : std::optional(slot_of(THPVariable_Unpack(item.ptr()))));
  return slots;
}

// Nobody but the op that just ran, and that once, may have written to a tensor.
void Recording::check_versions(const std::vector<Slot>& written) {
  for (const Slot& slot : written)
    if (!slots_[slot.index].is_inference()) ++versions_[slot.index];
  for (size_t i = 0; i < slots_.size(); ++i) {
    faithful_ = faithful_ && version_of(slots_[i]) == versions_[i];
    versions_[i] = version_of(slots_[i]);
  }
}

void Recording::add(const std::string& name, const py::tuple& arguments, const py::object& result,
                    const std::vector<size_t>& written) {
  const auto op = recordable_ops().find(name);
  TORCH_CHECK(op != recordable_ops().end(), "name: expected an op, got ", name);
  Step step{&op->second, {}, {}};
  for (const py::handle argument : arguments) step.arguments.push_back(argument_of(argument));
  std::vector<Slot> changed;
  for (const size_t position : written) changed.push_back(std::get<Slot>(step.arguments.at(position)));
  check_versions(changed);
  steps_.push_back(std::move(step));
  if (py::isinstance<py::tuple>(result))
    for (const py::handle t : result.cast<py::tuple>()) keep(THPVariable_Unpack(t.ptr()));
  else if (!result.is_none())
    keep(THPVariable_Unpack(result.ptr()));
}

bool Recording::finish(const py::tuple& outputs) {
  for (const py::handle output : outputs)
    outputs_.push_back(output.is_none() ? std::nullopt : std::optional(slot_of(THPVariable_Unpack(output.ptr()))));
  check_versions({});
  free_early();
  slots_.clear();
  versions_.clear();
  return faithful_;
}

// Lets go of every tensor behind the last step that reads it.
void Recording::free_early() {
  std::vector<bool> wanted(slots_.size(), false);
  const auto want = [&](size_t slot, Step* step) {
    if (wanted[slot]) return;
    wanted[slot] = true;
    if (step) step->last_used.push_back(slot);
  };
  for (const auto& output : outputs_)
    if (output) want(output->index, nullptr);
  for (size_t s = steps_.size(); s-- > 0;) {
    Step& step = steps_[s];
    if (const View* view = std::get_if<View>(&step.what)) want(view->of.index, &step);
    for (const Argument& argument : step.arguments) {
      if (const Slot* slot = std::get_if<Slot>(&argument)) want(slot->index, &step);
      if (const auto* list = std::get_if<std::vector<std::optional<Slot>>>(&argument))
        for (const auto& slot : *list)
          if (slot) want(slot->index, &step);
    }
  }
}

void Recording::run(Slots& slots) const {
  for (const Step& step : steps_) {
    if (const View* view = std::get_if<View>(&step.what)) {
      const Tensor base = slots[view->of.index];
      slots.push_back(at::as_strided(base, view->sizes, view->strides, base.storage_offset() + view->offset));
    } else {
      (*std::get<const Function*>(step.what))(step.arguments, slots);
    }
    for (const size_t slot : step.last_used) slots[slot].reset();
  }
}

// The inputs as slots; nothing where they are not of the recorded kinds.
std::optional<Slots> Recording::slots_for(const py::tuple& inputs) const {
  if (inputs.size() != kinds_.size()) return std::nullopt;
  Slots slots;
  slots.reserve(inputs.size() + 4 * steps_.size());
  for (size_t i = 0; i < kinds_.size(); ++i) {
    const py::handle input = inputs[i];
    if (input.is_none() == kinds_[i].defined) return std::nullopt;
    const OptionalTensor t = plain_tensor(input);
    if (kinds_[i].defined) {
      if (!t || !is_of(kinds_[i], *t)) return std::nullopt;
      const size_t same_as = kinds_[i].same_as;
      if (same_as < i && !slots[same_as].is_same(*t)) return std::nullopt;
    }
    slots.push_back(t.value_or(Tensor()));
  }
  return slots;
}

py::object Recording::replay(const py::tuple& inputs) const {
  std::optional<Slots> given = slots_for(inputs);
  if (!given) return py::none();
  Slots& slots = *given;
  {
    const py::gil_scoped_release released;
    const at::AutoDispatchBelowADInplaceOrView plain; // autograd, which records nothing here, need not look
    run(slots);
  }
  py::tuple outputs(outputs_.size());
  for (size_t i = 0; i < outputs_.size(); ++i)
    outputs[i] = outputs_[i] ? py::cast(slots[outputs_[i]->index]) : py::none();
  return outputs;
}

} // namespace fused_resnet
