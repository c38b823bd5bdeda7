// The choice among implementations of one product of a convolution on a CUDA device: by a timed trial, the first time that a
// shape comes by, with the tensors of that very call; from then on as chosen.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "cuda/device_timer.h"
#include "ops/conv_choices.h"
#include "ops/tensor_cuda.h"

namespace fastgan::ops {

// One way to compute a Result; what it computes depends on nothing that it changes.
template <class Result>
struct ConvCandidate {
  const char* kernel;
  std::function<Result()> run;
};

template <class Result>
using ConvCandidates = std::vector<ConvCandidate<Result>>;  // preferred first; "aten", which covers all calls, last

inline bool is_capturing(const char* op, cudaStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  check_launch(op, cudaStreamIsCapturing(stream, &status));
  return status != cudaStreamCaptureStatusNone;
}

// The fastest candidate. Rounds are interleaved, and the least of a candidate's times is what counts: others can only add to
// it. A candidate that fails (no memory for its workspace) takes forever, "aten" apart, whose failure is the caller's.
template <class Result>
ConvChoice time_candidates(const char* op, const ConvCandidates<Result>& candidates, cudaStream_t stream) {
  constexpr int kRounds = 5, kRuns = 4;
  cuda::DeviceTimer timer;
  ConvChoice choice;
  double fastest = std::numeric_limits<double>::infinity();
  std::map<std::string, double>& times = choice.microseconds;
  for (int round = -1; round < kRounds; round++) {  // the first is for warming up
    for (const ConvCandidate<Result>& candidate : candidates) {
      const bool aten = &candidate == &candidates.back();
      if (round >= 0 && std::isinf(times[candidate.kernel])) continue;
      float milliseconds = 0;
      try {
        check_launch(op, timer.start(stream));
        for (int i = 0; i < kRuns; i++) candidate.run();
        check_launch(op, timer.stop(stream, &milliseconds));
      } catch (const std::exception&) {
        if (aten) throw;
        times[candidate.kernel] = std::numeric_limits<double>::infinity();
        continue;
      }
      const double microseconds = milliseconds * 1e3 / kRuns;
      times[candidate.kernel] = round <= 0 ? microseconds : std::min(times[candidate.kernel], microseconds);
    }
  }
  for (const ConvCandidate<Result>& candidate : candidates) {
    if (times[candidate.kernel] >= fastest) continue;
    fastest = times[candidate.kernel];
    choice.kernel = candidate.kernel;
  }
  return choice;
}

// The choice for one product of one call: made before its candidates are gathered, so that only those that may run are asked
// whether they cover it.
class ConvProduct {
 public:
  // key: all that its time depends on, in words
  ConvProduct(int device, std::string key) : device_(device), key_(std::move(key)) {
    const std::string word = conv_choice_word();
    timed_ = word == "auto";
    if (timed_) {
      kernel_ = chosen_conv(device_, key_);
    } else if (word != "fixed") {
      kernel_ = word;
    }
  }

  bool may_be(const char* kernel) const { return kernel && (!kernel_.has_value() || *kernel_ == kernel); }

  // candidates: those of the kernels that this may be; "aten", which comes last, steps in where the chosen one does not cover
  // this call (an image off its alignment, say)
  template <class Result>
  Result run(const char* op, cudaStream_t stream, const ConvCandidates<Result>& candidates) const {
    if (kernel_.has_value() || !timed_ || candidates.size() == 1) return candidates.front().run();
    if (is_capturing(op, stream)) return candidates.back().run();  // no trial inside a graph, and no promise without one
    const ConvChoice choice = time_candidates(op, candidates, stream);
    choose_conv(device_, key_, choice);
    return std::find_if(candidates.begin(), candidates.end(), [&](const auto& c) { return choice.kernel == c.kernel; })->run();
  }

 private:
  int device_;
  std::string key_;
  bool timed_;
  std::optional<std::string> kernel_;
};

}  // namespace fastgan::ops
