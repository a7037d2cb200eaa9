#include "compiler/cache.h"

#include <chrono>
#include <nlohmann/json.hpp>

#include "cli/arguments.h"
#include "cli/json_output.h"
#include "cli/output.h"

namespace sinter {
namespace {

using nlohmann::ordered_json;

struct CacheArguments {
  std::string text, file;
  double older_than_days = 0;
  bool json = false;

  CacheFilter filter() const {
    constexpr double kSecondsOfDay = 86400;
    return {.text = text, .unused_for_seconds = older_than_days * kSecondsOfDay};
  }
};

std::string time_text(int64_t microseconds) {
  auto seconds = time_t(microseconds / 1'000'000);
  tm local{};
  char text[32];
  if (!localtime_r(&seconds, &local) || !std::strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S", &local)) return "?";
  return text;
}

ordered_json facts_json(const Facts& facts) {
  ordered_json out = ordered_json::object();
  for (auto& [name, value] : facts) out[name] = value;
  return out;
}

int show_stats(Cache& cache, const CacheArguments& a) {
  CacheStats s = cache.stats();
  if (a.json) {
    print_json({{"directory", s.directory},
                {"entries", s.entries},
                {"bytes", s.bytes},
                {"limit_bytes", s.limit_bytes},
                {"hits", s.totals.hits},
                {"misses", s.totals.misses},
                {"seconds_saved", s.totals.seconds_saved},
                {"seconds_spent", s.totals.seconds_spent}});
    return kSuccess;
  }
  print(table({{"directory", s.directory},
               {"programs", std::to_string(s.entries)},
               {"size", human_bytes(s.bytes) + " of at most " + human_bytes(s.limit_bytes)},
               {"hits", std::to_string(s.totals.hits)},
               {"misses", std::to_string(s.totals.misses)},
               {"compiling took", fmt::format("{:.1f} s", s.totals.seconds_spent)},
               {"hits saved", fmt::format("{:.1f} s", s.totals.seconds_saved)}}));
  return kSuccess;
}

int show_list(Cache& cache, const CacheArguments& a) {
  ordered_json entries = ordered_json::array();
  std::vector<std::vector<std::string>> rows = {{"key", "program", "size", "compiled in", "hits", "last used", "target"}};
  for (const EntryInfo& e : cache.list(a.filter())) {
    entries.push_back({{"key", e.key.hex()},
                       {"label", e.label},
                       {"facts", facts_json(e.facts)},
                       {"bytes", e.bytes},
                       {"program_bytes", e.program_bytes},
                       {"created", double(e.created) / 1e6},
                       {"used", double(e.used) / 1e6},
                       {"hits", e.hits},
                       {"seconds", e.seconds}});
    rows.push_back({e.key.hex().substr(0, 12), e.label, human_bytes(e.bytes), fmt::format("{:.2f} s", e.seconds),
                    std::to_string(e.hits), time_text(e.used), std::string(e.target())});
  }
  if (a.json)
    print_json({{"entries", entries}});
  else
    print(rows.size() > 1 ? table(rows) : "no programs\n");
  return kSuccess;
}

int show_reasons(Cache& cache, const CacheArguments& a) {
  ordered_json compiles = ordered_json::array();
  std::vector<std::vector<std::string>> rows = {{"when", "program", "took", "kept", "why"}};
  for (const CompileExplained& c : cache.explain(a.text)) {
    compiles.push_back({{"key", c.key.hex()},
                        {"label", c.label},
                        {"facts", facts_json(c.facts)},
                        {"reason", c.reason},
                        {"seconds", c.seconds},
                        {"at", double(c.at) / 1e6},
                        {"stored", c.stored}});
    rows.push_back({time_text(c.at), c.label, fmt::format("{:.2f} s", c.seconds), c.stored ? "yes" : "no", c.reason});
  }
  if (a.json)
    print_json({{"compiles", compiles}});
  else
    print(rows.size() > 1 ? table(rows) : "no compiles\n");
  return kSuccess;
}

/// `what` has been done to so many entries.
int show_transfer(const TransferReport& report, const CacheArguments& a, const char* what) {
  if (a.json)
    print_json({{what, report.entries},
                {"bytes", report.bytes},
                {"already_present", report.already_present},
                {"problems", report.problems}});
  else
    print(fmt::format("{} {} programs, {}{}\n", what, report.entries, human_bytes(report.bytes),
                      report.already_present ? fmt::format("; {} were there already", report.already_present) : ""));
  for (const std::string& problem : report.problems) print_error(fmt::format("left out: {}\n", printable(problem)));
  return report.problems.empty() ? kSuccess : kFailure;
}

int show_damage(Cache& cache, const CacheArguments& a) {
  VerifyReport v = cache.verify();
  if (a.json)
    print_json(
        {{"good", v.good}, {"outdated", v.outdated}, {"removed", v.removed}, {"damaged", v.damaged}, {"strangers", v.strangers}});
  else
    print(fmt::format("{} good, {} of another version, {} damaged ({} removed), {} files that are not ours\n", v.good, v.outdated,
                      v.damaged.size(), v.removed, v.strangers.size()));
  for (const std::string& entry : v.damaged) print_error(fmt::format("damaged: {}\n", printable(entry)));
  if (!a.json)
    for (const std::string& file : v.strangers) print(fmt::format("not ours: {}\n", printable(file)));
  return v.damaged.empty() ? kSuccess : kFailure;
}

int run_cache(Arguments arguments) {
  CacheArguments a;
  int result = kSuccess;
  Options options(cache_verb);
  options.require_subcommand(1);
  auto add = [&](const char* name, const char* summary, std::function<int(Cache&)> run) {
    CLI::App* verb = options.add_subcommand(name, summary);
    verb->add_flag("--json", a.json, "print one JSON object and nothing else on standard output");
    verb->final_callback([&result, run = std::move(run)] {
      Cache cache(CacheOptions::from_environment());
      result = run(cache);
    });
    return verb;
  };
  auto older = [&](CLI::App* verb) {
    verb->add_option("--older-than", a.older_than_days, "only programs not used for so many days")->check(in_range(0));
  };
  const char* which = "only programs whose label contains this, or whose key starts with it";
  add("stats", "How many programs, how large, hits and misses", [&](Cache& c) { return show_stats(c, a); });
  CLI::App* list = add("list", "The programs, least recently used first", [&](Cache& c) { return show_list(c, a); });
  list->add_option("NAME", a.text, which);
  older(list);
  add("explain", "Every compile, and why it was needed", [&](Cache& c) {
    return show_reasons(c, a);
  })->add_option("NAME", a.text, which);
  CLI::App* clear = add("clear", "Remove programs", [&](Cache& c) { return show_transfer(c.clear(a.filter()), a, "removed"); });
  clear->add_option("NAME", a.text, which);
  older(clear);
  CLI::App* write = add("export", "Write programs to one file, for another machine of this kind",
                        [&](Cache& c) { return show_transfer(c.export_to(a.file, a.filter()), a, "exported"); });
  write->add_option("FILE", a.file, "file to write")->required();
  write->add_option("--name", a.text, which);
  add("import", "Take programs from such a file. They are machine code: only from someone you trust",
      [&](Cache& c) { return show_transfer(c.import_from(a.file), a, "imported"); })
      ->add_option("FILE", a.file, "file to read")
      ->required();
  add("verify", "Read every program and remove the damaged ones; fails if there were any",
      [&](Cache& c) { return show_damage(c, a); });
  options.parse_arguments(arguments);
  return result;
}

}  // namespace

const Verb cache_verb = {.name = "cache", .summary = "Look at the compiled programs, remove or carry them", .run = run_cache};

}  // namespace sinter
