// What `sinter cache` does: everything of Cache that no run needs.
#include <fstream>

#include "base/error.h"
#include "base/file.h"
#include "compiler/cache_archive.h"
#include "compiler/cache_state.h"

namespace sinter {

namespace fs = std::filesystem;

CacheStats Cache::stats() {
  flush();
  CacheStats stats;
  stats.directory = state_->options.memory_only ? "" : state_->options.directory.string();
  stats.limit_bytes = state_->options.max_bytes;
  for (auto& entry : state_->select({})) {
    ++stats.entries;
    stats.bytes += entry.bytes;
  }
  std::lock_guard lock(state_->mutex);
  state_->with_index([&](CacheIndex& index) { stats.totals = index.totals(); });
  return stats;
}

std::vector<EntryInfo> Cache::list(const CacheFilter& filter) {
  flush();
  return state_->select(filter);
}

std::vector<CompileExplained> Cache::explain(const std::string& label_or_key) {
  flush();
  std::vector<CompileExplained> found;
  std::lock_guard lock(state_->mutex);
  state_->with_index([&](CacheIndex& index) {
    found.clear();
    for (auto& record : index.compiles())
      if (record.label.find(label_or_key) != std::string::npos || record.key.hex().starts_with(label_or_key))
        found.push_back({record, false});
  });
  for (auto& record : found) record.stored = contains(record.key);
  return found;
}

TransferReport Cache::clear(const CacheFilter& filter) {
  flush();
  TransferReport report;
  for (auto& entry : state_->select(filter)) state_->remove(entry, "it was removed by `sinter cache clear`", report);
  flush();
  return report;
}

TransferReport Cache::export_to(const fs::path& file, const CacheFilter& filter) {
  TransferReport report;
  AtomicFile out(file);
  ArchiveWriter archive(out);
  for (auto& entry : list(filter)) {
    auto read = state_->store->read(entry.key);
    if (!read) continue;
    DecodedEntry decoded = decode_entry(read->bytes, entry.key, state_->compiler);
    if (decoded.state != EntryState::Good) {
      report.problems.push_back(
          fmt::format("{} left out: {}", entry.key.hex(), read->problem.empty() ? decoded.problem : read->problem));
      continue;
    }
    archive.add(read->bytes);
    ++report.entries;
    report.bytes += read->bytes.size();
  }
  archive.finish();
  out.commit();
  return report;
}

TransferReport Cache::import_from(const fs::path& file) {
  TransferReport report;
  std::error_code error;
  if (!fs::is_regular_file(file, error)) fail(Code::NotFound, "{}: no such archive", file.string());
  // Twice over the file: nothing is stored until all of it was found good.
  for (bool storing : {false, true}) {
    std::ifstream in(file, std::ios::binary);
    if (!in) fail(Code::Io, "{}: the archive cannot be read", file.string());
    read_archive(in, file.string(), [&](uint64_t number, const Blob& bytes) {
      DecodedEntry head = decode_head(bytes, bytes.size(), state_->compiler);
      if (head.state == EntryState::Good) head = decode_entry(bytes, head.head.key, state_->compiler);
      if (head.state == EntryState::Damaged)
        fail(Code::Corrupt, "{}: entry {} is damaged, {}; nothing was imported, copy the file again", file.string(), number,
             head.problem);
      if (!storing) return;
      if (head.state == EntryState::Outdated) {
        report.problems.push_back(fmt::format("entry {} left out: {}", number, head.problem));
      } else if (contains(head.head.key)) {
        ++report.already_present;
      } else if (state_->write(head.head.key, bytes)) {
        ++report.entries;
        report.bytes += bytes.size();
        state_->record_import(head.head);
      } else {
        fail(Code::Io, "{}: entry {} of {} cannot be stored in {}", file.string(), number, file.string(),
             state_->options.directory.string());
      }
    });
  }
  flush();
  return report;
}

VerifyReport Cache::verify() {
  VerifyReport report;
  for (auto& stat : state_->store->list()) {
    auto file = state_->store->read(stat.key);
    if (!file) continue;
    DecodedEntry entry;
    entry.problem = file->problem;
    if (file->problem.empty()) entry = decode_entry(file->bytes, stat.key, state_->compiler);
    if (entry.state == EntryState::Good) ++report.good;
    if (entry.state == EntryState::Outdated) ++report.outdated;
    if (entry.state != EntryState::Damaged) continue;
    report.damaged.push_back(fmt::format("{}: {}", stat.key.hex(), entry.problem));
    if (!state_->store->remove(stat.key)) continue;
    ++report.removed;
    std::lock_guard lock(state_->mutex);
    state_->changed = true;
    state_->with_index([&](CacheIndex& index) { index.mark_gone(stat.key, "its cache entry was damaged: " + entry.problem); });
  }
  report.strangers = state_->store->strangers();
  flush();
  return report;
}

}  // namespace sinter
