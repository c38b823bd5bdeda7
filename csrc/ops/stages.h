// Work that goes in stages, for all threads at once and with no barrier between the stages: a thread that finds a stage handed
// out goes on to the next one, and waits only where what it is given needs a stage that others have not finished yet.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

namespace fastgan::ops {

class Stages {
 public:
  // kernel(begin, end, scratch) is called for ranges of `step` of `units`, whichever thread is free taking the next one, once
  // all units of the stages `after` are done; these were added before. `scratch` is `scratch_floats` of the thread's own.
  using Kernel = std::function<void(int64_t begin, int64_t end, float* scratch)>;
  // Returns the stage's number, for the `after` of others; negative numbers there are left out.
  int add(int64_t units, int64_t step, int64_t scratch_floats, std::vector<int> after, Kernel kernel);

  // Runs all, in the order added, on torch's threads.
  void run() const;

 private:
  struct Stage {
    int64_t units, step, turns;
    std::vector<int> after;
    Kernel kernel;
  };
  std::vector<Stage> stages_;
  int64_t scratch_floats_ = 0, most_turns_ = 0;
};

}  // namespace fastgan::ops
