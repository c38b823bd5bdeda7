#include "ops/conv_choices.h"

#include <algorithm>
#include <mutex>

namespace fastgan::ops {
namespace {

std::mutex mutex;
std::map<int, ConvChoices> choices;
std::string word = "auto";
const char* const kWords[] = {"aten", "matmul", "thin", "sm80", "sm80_one_launch", "sm90a", "sm90a_one_launch", "fixed"};

}  // namespace

std::optional<std::string> chosen_conv(int device, const std::string& key) {
  const std::lock_guard<std::mutex> lock(mutex);
  const ConvChoices& of_device = choices[device];
  const auto found = of_device.find(key);
  return found == of_device.end() ? std::nullopt : std::optional(found->second.kernel);
}

void choose_conv(int device, const std::string& key, ConvChoice choice) {
  const std::lock_guard<std::mutex> lock(mutex);
  choices[device][key] = std::move(choice);
}

ConvChoices conv_choices(int device) {
  const std::lock_guard<std::mutex> lock(mutex);
  return choices[device];
}

bool knows_conv_choice(const std::string& wanted) {
  return wanted == "auto" || std::find(std::begin(kWords), std::end(kWords), wanted) != std::end(kWords);
}

void set_conv_choice(const std::string& wanted) {
  const std::lock_guard<std::mutex> lock(mutex);
  word = wanted;
}

std::string conv_choice_words() {
  std::string text;
  for (const char* one : kWords) text += (text.empty() ? "" : one == kWords[std::size(kWords) - 1] ? " or " : ", ") + std::string(one);
  return text;
}

std::string conv_choice_word() {
  const std::lock_guard<std::mutex> lock(mutex);
  return word;
}

}  // namespace fastgan::ops
