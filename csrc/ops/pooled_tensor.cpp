// Tensors around blocks of the pool.
#include "ops/pooled_tensor.h"

#include <algorithm>
#include <memory>

#include "ops/workspace.h"

// In torch from 2.11, so weak: null elsewhere.
extern "C" __attribute__((weak)) AOTITorchError torch_from_blob(
    void* data, int64_t dimensions, const int64_t* sizes, const int64_t* strides, int64_t storage_offset, int32_t dtype,
    int32_t device_type, int32_t device_index, AtenTensorHandle* result, int32_t layout, const uint8_t* opaque_metadata,
    int64_t opaque_metadata_size, void (*deleter)(void* data, void* context), void* deleter_context);

namespace fastgan::ops {
namespace {

constexpr int64_t kPooledBytes = int64_t(1) << 20;
constexpr int64_t kWaste = int64_t(2) << 20;  // at most, beyond an eighth, in a block for a tensor

// Called by whichever thread drops the last reference.
void give_back(void*, void* block) {
  std::unique_ptr<PooledBlock>(static_cast<PooledBlock*>(block))->give_back();
}

bool is_pooled(const std::vector<int64_t>& size, ScalarType dtype, int64_t& bytes) {
  bytes = dtype == ScalarType::Double ? 8 : dtype == ScalarType::Float ? 4 : 2;
  for (const int64_t length : size) bytes *= length;
  return torch_from_blob != nullptr && bytes >= kPooledBytes;
}

Tensor around_block(int64_t bytes, const std::vector<int64_t>& size, const std::vector<int64_t>& stride, ScalarType dtype) {
  auto block = std::make_unique<PooledBlock>(PooledBlock::take(bytes, bytes + bytes / 8 + kWaste));
  const int32_t dtype_code = torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype));
  AtenTensorHandle result = nullptr;
  const AOTITorchError error =
      torch_from_blob(block->data, int64_t(size.size()), size.data(), stride.data(), 0, dtype_code,
                      aoti_torch_device_type_cpu(), -1, &result, aoti_torch_layout_strided(), nullptr, 0, &give_back, block.get());
  if (error != TORCH_SUCCESS) {
    block->give_back();
    check(false, "torch_from_blob failed: ", failure());
  }
  block.release();
  return Tensor(result);
}

}  // namespace

Tensor pooled_like(const Tensor& t) {
  std::vector<int64_t> size(t.dim()), stride(t.dim());
  for (int64_t d = 0; d < t.dim(); d++) {
    size[d] = t.size(d);
    stride[d] = t.stride(d);
  }
  int64_t bytes;
  if (!is_pooled(size, t.scalar_type(), bytes)) return new_like(t);
  return around_block(bytes, size, stride, t.scalar_type());
}

Tensor pooled_in_format(const Tensor& like, const std::vector<int64_t>& size, ScalarType dtype, bool channels_last) {
  int64_t bytes;
  if (is_pooled(size, dtype, bytes)) return around_block(bytes, size, strides_in_format(size, channels_last), dtype);
  return torch::stable::empty(size, dtype, std::nullopt, like.device(), std::nullopt,
                              channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
}

}  // namespace fastgan::ops
