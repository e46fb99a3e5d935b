#include "snapshot.h"

#include <c10/util/Exception.h>

#include <string>

namespace py = pybind11;

namespace fused_resnet {

namespace {

constexpr const char *parameters = "_parameters", *buffers = "_buffers";

py::object borrowed(py::handle value) { return py::reinterpret_borrow<py::object>(value); }

py::handle item(py::handle dictionary, py::handle name) { return PyDict_GetItem(dictionary.ptr(), name.ptr()); }

py::object attributes_of(py::handle module) {
  return py::reinterpret_steal<py::object>(PyObject_GenericGetDict(module.ptr(), nullptr));
}

bool is_module(py::handle value) {
  const py::object attributes = attributes_of(value);
  if (!attributes) PyErr_Clear();
  return attributes && attributes.contains(parameters) && attributes.contains(buffers);
}

} // namespace

Snapshot::Snapshot(const py::tuple& modules, const py::tuple& names) {
  TORCH_CHECK(modules.size() == names.size(), "names: expected one entry per module, got ", names.size(), " for ",
              modules.size());
  for (size_t i = 0; i < modules.size(); ++i) add(modules[i], names[i]);
}

void Snapshot::add(py::handle module, py::handle names) {
  Module& kept = modules_.emplace_back();
  if (module.is_none()) {
    for (const py::handle name : names) kept.wanted.emplace_back(py::none(), borrowed(name));
    return;
  }
  TORCH_CHECK(is_module(module), "modules: expected torch.nn.Modules or None, got ",
              py::str(module).cast<std::string>());
  const py::object attributes = attributes_of(module);
  kept.type = py::type::of(module);
  for (const auto& [name, value] : py::reinterpret_borrow<py::dict>(attributes)) {
    kept.attributes.push_back(attribute_of(name, value));
    const std::string called = py::str(name);
    const bool is_unknown = kept.attributes.back().kind == Kind::ignored && called[0] != '_';
    const bool is_attached = kept.attributes.back().kind == Kind::empty && py::len(value) > 0;
    possible_ = possible_ && !is_unknown && !is_attached;
  }
  for (const py::handle name : names) {
    const char* holder = attributes[parameters].contains(name) ? parameters : buffers;
    possible_ = possible_ && attributes[holder].contains(name);
    kept.wanted.emplace_back(py::str(holder), borrowed(name));
  }
}

bool Snapshot::is_constant(py::handle value) {
  if (py::isinstance<py::tuple>(value)) {
    for (const py::handle item : value)
      if (!is_constant(item)) return false;
    return PyTuple_CheckExact(value.ptr());
  }
  return value.is_none() || PyBool_Check(value.ptr()) || PyLong_CheckExact(value.ptr()) ||
      PyFloat_CheckExact(value.ptr()) || PyUnicode_CheckExact(value.ptr());
}

Snapshot::Attribute Snapshot::attribute_of(py::handle name, py::handle value) {
  Attribute attribute{borrowed(name), py::none(), Kind::ignored, {}};
  const std::string called = py::str(name);
  if (called == parameters || called == buffers) {
    attribute.kind = Kind::tensors;
    for (const auto& [held, tensor] : py::reinterpret_borrow<py::dict>(value))
      attribute.held.emplace_back(borrowed(held), tensor.is_none());
  } else if (py::isinstance<py::dict>(value)) { // of hooks of any kind, or of children
    attribute.kind = Kind::empty;
  } else if (is_constant(value)) {
    attribute.kind = Kind::constant;
    attribute.constant = borrowed(value);
  }
  return attribute;
}

// Constants are compared by identity: what is equal and yet another object is read again, which costs time alone.
bool Snapshot::unchanged(const Attribute& attribute, py::handle value) {
  if (attribute.kind == Kind::constant) return attribute.constant.is(value);
  if (attribute.kind == Kind::empty) return PyDict_Check(value.ptr()) && PyDict_GET_SIZE(value.ptr()) == 0;
  if (attribute.kind == Kind::ignored) return true;
  if (!PyDict_Check(value.ptr()) || static_cast<size_t>(PyDict_GET_SIZE(value.ptr())) != attribute.held.size())
    return false;
  Py_ssize_t position = 0;
  PyObject *name = nullptr, *tensor = nullptr;
  for (const auto& [held, was_none] : attribute.held)
    if (!PyDict_Next(value.ptr(), &position, &name, &tensor) || held.ptr() != name || was_none != (tensor == Py_None))
      return false;
  return true;
}

bool Snapshot::unchanged(const Module& module, py::handle attributes) {
  if (static_cast<size_t>(PyDict_GET_SIZE(attributes.ptr())) != module.attributes.size()) return false;
  Py_ssize_t position = 0;
  PyObject *name = nullptr, *value = nullptr;
  for (const Attribute& attribute : module.attributes)
    if (!PyDict_Next(attributes.ptr(), &position, &name, &value) || attribute.name.ptr() != name ||
        !unchanged(attribute, value))
      return false;
  return true;
}

py::object Snapshot::tensors(const py::tuple& modules) const {
  if (!possible_ || modules.size() != modules_.size()) return py::none();
  py::list found;
  for (size_t i = 0; i < modules_.size(); ++i) {
    const Module& module = modules_[i];
    const py::handle now = modules[i];
    if (now.is_none() != module.is_none()) return py::none();
    py::object attributes;
    if (!module.is_none()) {
      if (!py::type::handle_of(now).is(module.type)) return py::none();
      attributes = attributes_of(now);
      if (!unchanged(module, attributes)) return py::none();
    }
    for (const auto& [holder, name] : module.wanted)
      found.append(module.is_none() ? py::handle(Py_None) : item(item(attributes, holder), name));
  }
  return found;
}

} // namespace fused_resnet
