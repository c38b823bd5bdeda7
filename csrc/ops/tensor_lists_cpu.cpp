// clip_weights_ and rmsprop_clip_ on the CPU: all tensors of a call in one parallel region, cut into chunks of one size, so
// that a network's many small tensors and few large ones are shared out evenly.
#include "cpu/clip_weights.h"
#include "cpu/rmsprop_clip.h"
#include "ops/tensor_cpu.h"

namespace fastgan::ops {
namespace {

constexpr int64_t kChunk = 16384;  // elements

struct Chunk {
  size_t tensor;
  int64_t begin, end;
};

std::vector<Chunk> chunks_of(const std::vector<Tensor>& tensors, int64_t& elements) {
  std::vector<Chunk> chunks;
  elements = 0;
  for (size_t i = 0; i < tensors.size(); i++) {
    const int64_t size = tensors[i].numel();
    elements += size;
    for (int64_t begin = 0; begin < size; begin += kChunk) chunks.push_back({i, begin, std::min(begin + kChunk, size)});
  }
  return chunks;
}

void check_dense(const char* op, const char* list, size_t i, const Tensor& t) {
  int64_t span = t.numel() > 0 ? 1 : 0;
  for (int64_t d = 0; d < t.dim() && span > 0; d++) span += (t.size(d) - 1) * t.stride(d);
  check(span == t.numel(), op, ": ", list, "[", i, "] has gaps or overlaps in memory; it takes dense tensors");
}

void clip_weights_(const std::vector<Tensor>& tensors, double clip_value) {
  const char* op = "clip_weights_";
  check(clip_value >= 0, op, ": clip_value is ", clip_value, "; it takes 0 or more");
  std::vector<cpu::ClipWeightsParams> params;
  for (size_t i = 0; i < tensors.size(); i++) {
    check_dense(op, "params", i, tensors[i]);
    params.push_back({kernel_dtype(op, "params", tensors[i]), tensors[i].mutable_data_ptr(), clip_value});
  }
  int64_t elements;
  const std::vector<Chunk> chunks = chunks_of(tensors, elements);
  parallel(chunks.size(), elements, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) cpu::clip_weights(params[chunks[i].tensor], chunks[i].begin, chunks[i].end);
  });
}

// The data of list[i], which must match params[i]; null where the list is not used.
void* companion(const char* op, const char* name, const std::vector<Tensor>& list, bool used, size_t i, const Tensor& param) {
  if (!used) return nullptr;
  const Tensor& t = list[i];
  bool same = t.dim() == param.dim() && t.scalar_type() == param.scalar_type();
  for (int64_t d = 0; same && d < t.dim(); d++) same = t.size(d) == param.size(d);
  check(same, op, ": ", name, "[", i, "] is ", dtype_name(t.scalar_type()), " ", shape_of(t), "; it takes that of params[",
        i, "], ", dtype_name(param.scalar_type()), " ", shape_of(param));
  check(same_memory_order(t, param), op, ": ", name, "[", i, "] has other strides than params[", i,
        "]; it takes the same ones");
  return t.mutable_data_ptr();
}

void rmsprop_clip_(const std::vector<Tensor>& tensors, const std::vector<Tensor>& grads,
                   const std::vector<Tensor>& square_avgs, const std::vector<Tensor>& grad_avgs,
                   const std::vector<Tensor>& momentum_buffers, const OptionalTensor& lr_tensor, double lr, double alpha,
                   double eps, double weight_decay, double momentum, bool centered, bool maximize, double clip_value) {
  const char* op = "rmsprop_clip_";
  if (lr_tensor.has_value()) lr = number_in(op, "lr_tensor", *lr_tensor);
  const auto check_length = [&](const char* name, const std::vector<Tensor>& list, bool used) {
    const size_t wanted = used ? tensors.size() : 0;
    check(list.size() == wanted, op, ": ", name, " has ", list.size(), " tensors; it takes ", wanted);
  };
  check_length("grads", grads, true);
  check_length("square_avgs", square_avgs, true);
  check_length("grad_avgs", grad_avgs, centered);
  check_length("momentum_buffers", momentum_buffers, momentum > 0);
  std::vector<cpu::RmspropClipParams> params;
  for (size_t i = 0; i < tensors.size(); i++) {
    const Tensor& t = tensors[i];
    check_dense(op, "params", i, t);
    params.push_back({kernel_dtype(op, "params", t), t.mutable_data_ptr(), companion(op, "grads", grads, true, i, t),
                      companion(op, "square_avgs", square_avgs, true, i, t),
                      companion(op, "grad_avgs", grad_avgs, centered, i, t),
                      companion(op, "momentum_buffers", momentum_buffers, momentum > 0, i, t), lr, alpha, eps,
                      weight_decay, momentum, maximize, clip_value});
  }
  int64_t elements;
  const std::vector<Chunk> chunks = chunks_of(tensors, elements);
  parallel(chunks.size(), elements, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) cpu::rmsprop_clip(params[chunks[i].tensor], chunks[i].begin, chunks[i].end);
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastgan, CPU, m) {
  m.impl("clip_weights_", TORCH_BOX(&clip_weights_));
  m.impl("rmsprop_clip_", TORCH_BOX(&rmsprop_clip_));
}

}  // namespace fastgan::ops
