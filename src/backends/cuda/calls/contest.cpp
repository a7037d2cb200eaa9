#include "backends/cuda/calls/contest.h"

#include "base/bytes.h"
#include "base/error.h"

namespace sinter::cuda {

Facts cudnn_contest_facts(const Vendor& vendor, std::string ours, std::string_view version) {
  Facts facts = vendor.key_facts("cudnn", vendor.cudnn() ? vendor.cudnn()->version : 0);
  facts.emplace_back(std::move(ours), version);
  return facts;
}

std::optional<Winner> Contest::find() const {
  // Asked first, because a search for what was never timed would be counted as a miss.
  if (!vendor_.cache() || !vendor_.cache()->contains(key())) return {};
  const auto stored = vendor_.cache()->find(key(), choice_facts(kind_, shape_, facts_, true));
  if (!stored) return {};
  try {
    ByteReader reader(*stored);
    Winner winner;
    for (uint64_t& word : winner.algorithm) word = reader.get<uint64_t>();
    winner.choice = {.microseconds = reader.get<double>(), .candidates = reader.get<int32_t>(), .from_cache = true};
    winner.form = reader.get<int32_t>();
    return winner;
  } catch (const Error& e) {
    if (e.code() != Code::Corrupt) throw;
    return {};  // chosen anew
  }
}

void Contest::keep(const Winner& winner, std::chrono::steady_clock::time_point start) const {
  if (!vendor_.cache()) return;
  ByteWriter writer;
  for (uint64_t word : winner.algorithm) writer.put(word);
  writer.put(winner.choice.microseconds);
  writer.put(int32_t(winner.choice.candidates));
  writer.put(int32_t(winner.form));
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  vendor_.cache()->put(key(), writer.take(), choice_facts(kind_, shape_, facts_, true, seconds));
}

void Contest::note_good(int form) const { vendor_.note_promising(family_, fmt::format("{}", form)); }

std::set<int> Contest::good(Known known) const {
  std::set<int> forms;
  for (const std::string& form : vendor_.promising(family_, known)) forms.insert(std::stoi(form));
  return forms;
}

}  // namespace sinter::cuda
