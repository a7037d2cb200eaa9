#include "compiler/engine.h"

#include <cstdio>

namespace sinter {

void Engine::note(const std::string& about, const std::string& text) {
  std::lock_guard lock(note_mutex_);
  if (!noted_.insert(about).second) return;
  if (on_note)
    on_note(text);
  else
    fmt::print(stderr, "sinter: {}\n", text);
}

}  // namespace sinter
