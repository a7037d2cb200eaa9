// A libcublasLt.so.13 for the made-up driver, whose device memory is the host's: products of f32 matrices by three loops, at once
// and on no stream. Of its algorithms every third cannot be used, and it knows no others.
#include <cstdint>
#include <cstring>
#include <map>
#include <string>

namespace {

constexpr int kNotSupported = 15, kFirstAlgorithm = 500, kAlgorithms = 20;
constexpr int kTransposeA = 3, kEpilogue = 7, kBiasPointer = 8, kBiasEpilogue = 4;

/// An operation or a preference: its attributes.
struct Attributes {
  std::map<int, std::string> values;
  template <class T>
  T get(int attribute) const {
    T value{};
    if (auto at = values.find(attribute); at != values.end()) std::memcpy(&value, at->second.data(), sizeof value);
    return value;
  }
};

/// A matrix column by column.
struct Layout {
  uint64_t rows, columns;
  int64_t stride;
};

struct Algorithm {
  uint64_t words[8];
  bool known() const { return words[0] >= kFirstAlgorithm && words[0] < kFirstAlgorithm + kAlgorithms; }
};

struct Result {
  Algorithm algorithm;
  size_t workspace_bytes;
  int state;
  float waves;
  int reserved[4];
};

Result result_of(const Algorithm& algorithm) {
  const int state = algorithm.words[0] % 3 == 0 ? kNotSupported : 0;
  return {algorithm, size_t(algorithm.words[0]), state, 1.f, {}};
}

const float* numbers(const void* address) { return static_cast<const float*>(address); }

}  // namespace

extern "C" {
size_t cublasLtGetVersion() { return 130100; }
const char* cublasLtGetStatusString(int) { return "a made-up status"; }
int cublasLtCreate(void** handle) {
  static int something;
  *handle = &something;
  return 0;
}
int cublasLtDestroy(void*) { return 0; }

int cublasLtMatmulDescCreate(void** operation, int, int) {
  *operation = new Attributes;
  return 0;
}
int cublasLtMatmulDescSetAttribute(void* operation, int attribute, const void* value, size_t bytes) {
  static_cast<Attributes*>(operation)->values[attribute] = std::string(static_cast<const char*>(value), bytes);
  return 0;
}
int cublasLtMatmulDescDestroy(void* operation) {
  delete static_cast<Attributes*>(operation);
  return 0;
}
int cublasLtMatrixLayoutCreate(void** layout, int, uint64_t rows, uint64_t columns, int64_t stride) {
  *layout = new Layout{rows, columns, stride};
  return 0;
}
int cublasLtMatrixLayoutSetAttribute(void*, int, const void*, size_t) { return kNotSupported; }  // no batches
int cublasLtMatrixLayoutDestroy(void* layout) {
  delete static_cast<Layout*>(layout);
  return 0;
}
int cublasLtMatmulPreferenceCreate(void** preference) { return cublasLtMatmulDescCreate(preference, 0, 0); }
int cublasLtMatmulPreferenceSetAttribute(void* preference, int attribute, const void* value, size_t bytes) {
  return cublasLtMatmulDescSetAttribute(preference, attribute, value, bytes);
}
int cublasLtMatmulPreferenceDestroy(void* preference) { return cublasLtMatmulDescDestroy(preference); }

int cublasLtMatmulAlgoGetHeuristic(void*, void*, void*, void*, void*, void*, void*, int count, void* results, int* found) {
  for (int i = 0; i < count; ++i) {
    const Result result = result_of({{uint64_t(kFirstAlgorithm + i)}});
    std::memcpy(static_cast<char*>(results) + size_t(i) * sizeof result, &result, sizeof result);
  }
  *found = count;
  return 0;
}
int cublasLtMatmulAlgoCheck(void*, void*, void*, void*, void*, void*, const void* algorithm, void* result) {
  Algorithm asked;
  std::memcpy(&asked, algorithm, sizeof asked);
  if (!asked.known()) return kNotSupported;
  const Result answer = result_of(asked);
  std::memcpy(result, &answer, sizeof answer);
  return 0;
}

int cublasLtMatmul(void*, void* operation, const void* alpha, const void* a, void* a_layout, const void* b, void* b_layout,
                   const void* beta, const void* c, void* c_layout, void* d, void* d_layout, const void* algorithm, void*,
                   size_t workspace_bytes, void*) {
  const auto& attributes = *static_cast<Attributes*>(operation);
  const auto &of_a = *static_cast<Layout*>(a_layout), &of_b = *static_cast<Layout*>(b_layout);
  const auto &of_c = *static_cast<Layout*>(c_layout), &of_d = *static_cast<Layout*>(d_layout);
  Algorithm asked;
  std::memcpy(&asked, algorithm, sizeof asked);
  const bool turned = attributes.get<int32_t>(kTransposeA) != 0;
  if (!asked.known() || workspace_bytes < asked.words[0] || (turned ? of_a.rows : of_a.columns) != of_b.rows)
    return kNotSupported;
  const auto* bias = attributes.get<uint32_t>(kEpilogue) == kBiasEpilogue
                         ? reinterpret_cast<const float*>(uintptr_t(attributes.get<uint64_t>(kBiasPointer)))
                         : nullptr;
  for (uint64_t column = 0; column < of_d.columns; ++column)
    for (uint64_t row = 0; row < of_d.rows; ++row) {
      float sum = 0;
      for (uint64_t k = 0; k < of_b.rows; ++k)
        sum += numbers(a)[turned ? k + row * uint64_t(of_a.stride) : row + k * uint64_t(of_a.stride)] *
               numbers(b)[k + column * uint64_t(of_b.stride)];
      sum = *numbers(alpha) * sum + (bias ? bias[row] : 0);
      if (*numbers(beta) != 0) sum += *numbers(beta) * numbers(c)[row + column * uint64_t(of_c.stride)];
      static_cast<float*>(d)[row + column * uint64_t(of_d.stride)] = sum;
    }
  return 0;
}
}
