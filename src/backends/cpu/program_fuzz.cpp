// The first byte chooses whose program the rest is: of one of a few networks, or machine code alone.
#include "compiler/lowering/program.h"

#include <array>
#include <cstdlib>

#include "backends/cpu/object_code.h"
#include "compiler/lowering/lower.h"
#include "random_network.h"

using namespace sinter;

namespace {

constexpr size_t kNetworks = 4;

const Graph& network(size_t number) {
  static std::array<std::unique_ptr<Graph>, kNetworks> networks;
  auto& graph = networks[number];
  if (!graph) {
    Graph source;
    RandomNetwork(uint32_t(number)).fill(source, 10);
    graph = std::make_unique<Graph>();
    legalise(source, *graph, {});
  }
  return *graph;
}

void check_program(std::span<const std::byte> bytes, const Graph& graph) {
  Program program = program_from_bytes(bytes, graph);
  // What was accepted is written, and read again as the same.
  auto again = to_bytes(program, graph);
  if (to_bytes(program_from_bytes(again, graph), graph) != again) std::abort();
  if (!program.code.empty()) ObjectCode code(program.code);
}

}  // namespace

// Whatever a cache entry holds: a program in which every number refers to something, or Code::Corrupt.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  std::vector<std::byte> bytes(reinterpret_cast<const std::byte*>(data) + 1, reinterpret_cast<const std::byte*>(data) + size);
  size_t choice = data[0] % (kNetworks + 1);
  try {
    if (choice == kNetworks)
      ObjectCode code(bytes);
    else
      check_program(bytes, network(choice));
  } catch (const Error& e) {
    if (e.code() != Code::Corrupt) std::abort();
  }
  return 0;
}
