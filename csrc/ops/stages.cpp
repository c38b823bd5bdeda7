// Stages by two counters each: turns handed out, turns done.
//
// No thread waits for ever: what a turn waits for was handed out before, to threads that are at work on it or wait for something
// handed out earlier still.
#include "ops/stages.h"

#include <algorithm>
#include <atomic>
#include <thread>

#include "cpu/image_tiles.h"
#include "ops/stable.h"
#include "ops/workspace.h"

namespace fastgan::ops {
namespace {

constexpr int kSpins = 4096;  // looks at a counter before the processor is given to others

struct Progress {
  alignas(64) std::atomic<int64_t> next{0};
  alignas(64) std::atomic<int64_t> done{0};
};

void wait_for(const Progress& progress, int64_t turns) {
  for (int spins = 0; progress.done.load(std::memory_order_acquire) < turns; spins++) {
    if (spins >= kSpins) std::this_thread::yield();
  }
}

}  // namespace

int Stages::add(int64_t units, int64_t step, int64_t scratch_floats, std::vector<int> after, Kernel kernel) {
  after.erase(std::remove_if(after.begin(), after.end(), [](int stage) { return stage < 0; }), after.end());
  const int64_t turns = cpu::ceil_div(units, step);
  stages_.push_back({units, step, turns, std::move(after), std::move(kernel)});
  scratch_floats_ = std::max(scratch_floats_, scratch_floats);
  most_turns_ = std::max(most_turns_, turns);
  return int(stages_.size()) - 1;
}

void Stages::run() const {
  std::vector<Progress> progress(stages_.size());
  const int64_t threads = cpu::at_most(torch::stable::get_num_threads(), most_turns_);
  torch::stable::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
    const Workspace scratch(scratch_floats_);
    for (size_t i = 0; i < stages_.size(); i++) {
      const Stage& stage = stages_[i];
      for (int64_t turn = progress[i].next++; turn < stage.turns; turn = progress[i].next++) {
        for (const int needed : stage.after) wait_for(progress[needed], stages_[needed].turns);
        stage.kernel(turn * stage.step, cpu::at_most((turn + 1) * stage.step, stage.units), scratch.data());
        progress[i].done.fetch_add(1, std::memory_order_release);
      }
    }
  });
}

}  // namespace fastgan::ops
