// Which implementation computes a convolution on a CUDA device: what timed trials found (conv_trial_cuda.h), for this process
// and its devices. fastgan/ops/_conv_choices.py keeps them on disk and in checkpoints.
#pragma once

#include <map>
#include <optional>
#include <string>

namespace fastgan::ops {

struct ConvChoice {
  std::string kernel;                          // its name
  std::map<std::string, double> microseconds;  // of every candidate: on the device, for all that it launches
};

// Key: the call in words, as conv_bn_act_cuda.cpp writes it. Functions may be called from any thread.
using ConvChoices = std::map<std::string, ConvChoice>;

std::optional<std::string> chosen_conv(int device, const std::string& key);
void choose_conv(int device, const std::string& key, ConvChoice choice);
ConvChoices conv_choices(int device);

// "auto": by a trial. "fixed": the first candidate that covers the call, which no timing changes. Or a kernel's name: wherever
// it covers the call, and "aten" elsewhere.
bool knows_conv_choice(const std::string& word);
void set_conv_choice(const std::string& word);
std::string conv_choice_word();
std::string conv_choice_words();  // all but "auto", as a sentence lists them

}  // namespace fastgan::ops
