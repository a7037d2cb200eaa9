#include "models/family.h"

#include <iterator>

namespace sinter {

std::string_view name(Component component) {
  switch (component) {
    case Component::Denoiser:
      return "denoiser";
    case Component::Vae:
      return "vae";
    case Component::ClipL:
      return "clip-l";
    case Component::ClipG:
      return "clip-g";
    case Component::T5:
      return "t5";
  }
  SINTER_ASSERT(false);
}

std::span<const Family* const> families() {
  static const Family* const list[] = {
#define SINTER_FAMILY(name) &name##_family,
#include "models/families.list"
#undef SINTER_FAMILY
  };
  return list;
}

const Family& find_family(std::string_view name) {
  std::string all;
  for (const Family* family : families()) {
    if (family->name == name) return *family;
    all += (all.empty() ? "" : ", ") + std::string(family->name);
  }
  fail(Code::NotFound, "there is no family of models named '{}'; there are {}", name, all);
}

}  // namespace sinter
