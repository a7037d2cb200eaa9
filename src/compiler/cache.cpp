#include "compiler/cache.h"

#include <algorithm>
#include <thread>

#include "base/error.h"
#include "compiler/cache_state.h"

namespace sinter {
namespace {

constexpr auto kPatience = std::chrono::minutes(5);

}  // namespace

Cache::Cache(CacheOptions options) : state_(std::make_unique<State>()) {
  state_->options = std::move(options);
  state_->open_store();
}

Cache::~Cache() {
  if (state_->read_only) return;
  try {
    flush();
  } catch (...) {  // out of memory at the end of a run: the counts of one run are lost
  }
}

void Cache::flush() { state_->flush(); }

std::optional<Blob> Cache::find(const Digest& key, const CompileFacts& facts, Lookup* lookup) {
  Lookup unused, &result = lookup ? *lookup : unused;
  result = {};
  std::string problem;
  if (auto entry = state_->load(key, problem)) {
    state_->count_hit(key, entry->head, result);
    return std::move(entry->program);
  }
  state_->count_miss(key, facts, problem, result);
  return std::nullopt;
}

void Cache::put(const Digest& key, std::span<const std::byte> program, const CompileFacts& facts) {
  EntryHead head{key, state_->compiler, facts, now_microseconds()};
  head.program_bytes = program.size();
  {
    std::lock_guard lock(state_->mutex);
    if (state_->read_only)
      return state_->note("storing", fmt::format("{} is read-only: its programs are used, new ones are not stored",
                                                 state_->options.directory.string()));
    if (!state_->storing) return;
    // Before there is a file that a new index would take for an old one.
    state_->with_index([](CacheIndex&) {});
  }
  Blob file;
  try {
    file = encode_entry(head, program);
  } catch (const Error& e) {
    std::lock_guard lock(state_->mutex);
    return state_->note("too large", e.message() + "; it is not stored");
  }
  head.bytes = file.size();
  if (!state_->write(key, file)) return;
  // A process that lives long must not outgrow the limit by much.
  if (state_->record_put(head) > state_->options.max_bytes / 8) flush();
}

Blob Cache::find_or_compile(const Digest& key, CompileFacts facts, const std::function<Blob()>& compile, Lookup* lookup,
                            const std::function<bool()>& cancelled) {
  Lookup unused, &result = lookup ? *lookup : unused;
  result = {};
  std::string problem;
  auto entry = state_->load(key, problem);
  std::optional<CompileLock> lock;
  if (!entry) {
    lock.emplace(*this, key, kPatience, cancelled);
    if (cancelled && cancelled()) fail(Code::Cancelled, "cancelled before compiling {}", facts.label);
    result.waited = lock->waited();
    entry = state_->load(key, problem);  // another may have stored it between our look and our lock
  }
  if (entry) {
    state_->count_hit(key, entry->head, result);
    return std::move(entry->program);
  }
  state_->count_miss(key, facts, problem, result);
  auto start = std::chrono::steady_clock::now();
  Blob program = compile();
  facts.seconds = result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  put(key, program, facts);
  return program;
}

bool Cache::contains(const Digest& key) const {
  auto file = state_->store->read(key, kMaxHeadBytes);
  if (!file || !file->problem.empty()) return false;
  DecodedEntry entry = decode_head(file->bytes, file->total_bytes, state_->compiler);
  return entry.state == EntryState::Good && entry.head.key == key;
}

double Cache::expected_seconds(const CompileFacts& facts) {
  std::lock_guard lock(state_->mutex);
  double seconds = 0;
  state_->with_index([&](CacheIndex& index) {
    auto earlier = index.labelled(facts.label);
    const EntryInfo* like = nearest(facts.facts, earlier);
    seconds = like ? like->seconds : index.mean_compile_seconds();
  });
  return seconds;
}

CompileLock::CompileLock(Cache& cache, const Digest& key, std::chrono::milliseconds patience,
                         const std::function<bool()>& cancelled) {
  auto deadline = std::chrono::steady_clock::now() + patience;
  auto pause = std::chrono::milliseconds(1);
  for (;;) {
    std::string problem;
    hold_ = cache.state_->store->try_hold(key, problem);
    if (hold_ || !problem.empty()) return;  // where locks are impossible, so is storing, and that gives its note
    waited_ = true;
    if (std::chrono::steady_clock::now() >= deadline || (cancelled && cancelled())) return;
    std::this_thread::sleep_for(pause);
    pause = std::min(pause * 2, std::chrono::milliseconds(50));
  }
}

}  // namespace sinter
