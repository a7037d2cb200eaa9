#include "pipelines/samplers/sampler.h"

#include <string>

#include "base/error.h"

namespace sinter {
namespace {

constexpr const SamplerDef* kSamplers[] = {
#define SINTER_SAMPLER(name) &name##_sampler,
#include "pipelines/samplers/samplers.list"
#undef SINTER_SAMPLER
};

}  // namespace

std::span<const SamplerDef* const> samplers() { return kSamplers; }

const SamplerDef& find_sampler(std::string_view name) {
  std::string known;
  for (const SamplerDef* sampler : kSamplers) {
    if (sampler->name == name) return *sampler;
    known += (known.empty() ? "" : ", ") + std::string(sampler->name);
  }
  fail(Code::NotFound, "there is no sampler {}; choose one of {}", name, known);
}

}  // namespace sinter
