// What the modules of a unit looked like to one call: whether they still do is asked in far less time than it takes to
// read all of them again from Python.
#pragma once

#include <torch/csrc/utils/pybind.h>

#include <vector>

namespace fused_resnet {

// Holds constants and names, neither a module nor any of its tensors: it keeps nothing alive.
class Snapshot {
 public:
  // modules: torch.nn.Modules or None. names: of each one the parameters and buffers that `tensors` gives.
  Snapshot(const pybind11::tuple& modules, const pybind11::tuple& names);

  // Is there nothing in the modules whose changes would stay unseen, and nothing attached to them?
  bool possible() const { return possible_; }

  // The parameters and buffers that these modules hold now, None for what is not there, as a list; None in its place if
  // anything but the values of tensors, or which tensors they are, changed since.
  pybind11::object tensors(const pybind11::tuple& modules) const;

 private:
  enum class Kind { constant, empty, tensors, ignored };
  struct Attribute { // of an instance, as it stands in its __dict__
    pybind11::object name, constant;
    Kind kind;
    std::vector<std::pair<pybind11::object, bool>> held; // of a dictionary of tensors: names, and whether they are None
  };
  struct Module {
    pybind11::object type; // none, where there is no module
    std::vector<Attribute> attributes;
    std::vector<std::pair<pybind11::object, pybind11::object>> wanted; // in which dictionary, and by which name

    bool is_none() const { return !type; }
  };

  static Attribute attribute_of(pybind11::handle name, pybind11::handle value);
  static bool is_constant(pybind11::handle value);
  static bool unchanged(const Attribute& attribute, pybind11::handle value);
  static bool unchanged(const Module& module, pybind11::handle attributes);
  void add(pybind11::handle module, pybind11::handle names);

  std::vector<Module> modules_;
  bool possible_ = true;
};

} // namespace fused_resnet
