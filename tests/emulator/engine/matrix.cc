// Tensor-core instructions of one warp: mma.sync, ldmatrix, stmatrix. The layouts of the fragments
// are those of the PTX manual's sections on mma.m16n8k16, .m16n8k8, .m16n8k4 and ldmatrix.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstring>

#include "launch.h"
#include "memory.h"
#include "warps.h"

namespace emu {
namespace {

constexpr int kM = 16, kN = 8, kMaxK = 16;

struct MmaSlot {
  uint32_t a[4];
  uint32_t b[2];
  float c[4];
  float d[4];
};

float element(uint32_t kind, uint32_t word, int half) {
  const uint16_t bits = uint16_t(half ? word >> 16 : word);
  switch (kind) {
    case EMU_MMA_F16_K16:
    case EMU_MMA_F16_K8: {
      __half_raw raw;
      raw.x = bits;
      return __half2float(__half(raw));
    }
    case EMU_MMA_BF16_K16:
    case EMU_MMA_BF16_K8: {
      const uint32_t wide = uint32_t{bits} << 16;
      float value;
      memcpy(&value, &wide, 4);
      return value;
    }
    default: {  // TF32: the tensor cores ignore the low 13 bits
      const uint32_t kept = word & 0xffffe000u;
      float value;
      memcpy(&value, &kept, 4);
      return value;
    }
  }
}

template <uint32_t kind>
void combine_mma(void* const* slots, uint32_t) {
  constexpr bool wide = kind == EMU_MMA_TF32_K8 || kind == EMU_MMA_TF32_K4;  // 32-bit elements
  constexpr int per_word = wide ? 1 : 2;
  constexpr int k_size = kind == EMU_MMA_F16_K16 || kind == EMU_MMA_BF16_K16 ? 16
                         : kind == EMU_MMA_TF32_K4                          ? 4
                                                                           : 8;
  constexpr int k_step = 4 * per_word;  // columns of A that one register of the warp holds
  float a[kM][kMaxK], b[kMaxK][kN];
  for (int lane = 0; lane < 32; ++lane) {
    const auto& slot = *static_cast<const MmaSlot*>(slots[lane]);
    const int group = lane / 4, member = lane % 4;
    for (int half = 0; half < per_word; ++half) {
      for (int k = 0; k < k_size; k += k_step) {
        const int column = k + member * per_word + half;
        const int word = k / k_step;
        a[group][column] = element(kind, slot.a[2 * word], half);
        a[group + 8][column] = element(kind, slot.a[2 * word + 1], half);
        b[column][group] = element(kind, slot.b[word], half);
      }
    }
  }
  float d[kM][kN] = {};
  for (int m = 0; m < kM; ++m) {
    for (int k = 0; k < k_size; ++k) {
      for (int n = 0; n < kN; ++n) d[m][n] += a[m][k] * b[k][n];
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    auto& slot = *static_cast<MmaSlot*>(slots[lane]);
    for (int i = 0; i < 4; ++i) {
      slot.d[i] = slot.c[i] + d[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
    }
  }
}

constexpr Rendezvous::Combine kMma[EMU_MMA_KINDS] = {
    combine_mma<EMU_MMA_F16_K16>, combine_mma<EMU_MMA_BF16_K16>, combine_mma<EMU_MMA_TF32_K8>,
    combine_mma<EMU_MMA_F16_K8>,  combine_mma<EMU_MMA_BF16_K8>,  combine_mma<EMU_MMA_TF32_K4>,
};
constexpr struct {
  int a, b;
} kMmaWords[EMU_MMA_KINDS] = {{4, 2}, {4, 2}, {4, 2}, {2, 1}, {2, 1}, {2, 1}};

// ---- ldmatrix and stmatrix ---------------------------------------------------------------------

constexpr int kRowBytes = 16;

struct MatrixSlot {
  uint32_t count;
  bool transposed;
  char* row;  // checked by the lane that gives it
  uint32_t values[4];
};

// The 16-bit element (row, column) of an 8 x 8 matrix is in half `column % 2` of the register of
// lane row * 4 + column / 2; transposed, with row and column exchanged.
template <class Move>
void each_element(void* const* slots, Move move) {
  const auto& first = *static_cast<const MatrixSlot*>(slots[0]);
  for (uint32_t matrix = 0; matrix < first.count; ++matrix) {
    for (int row = 0; row < 8; ++row) {
      char* memory = static_cast<MatrixSlot*>(slots[matrix * 8 + row])->row;
      for (int column = 0; column < 8; ++column) {
        const int r = first.transposed ? column : row, c = first.transposed ? row : column;
        auto& holder = *static_cast<MatrixSlot*>(slots[r * 4 + c / 2]);
        move(memory + 2 * column, reinterpret_cast<char*>(&holder.values[matrix]) + 2 * (c % 2));
      }
    }
  }
}

void combine_load(void* const* slots, uint32_t) {
  each_element(slots, [](char* memory, char* value) { memcpy(value, memory, 2); });
}

void combine_store(void* const* slots, uint32_t) {
  each_element(slots, [](char* memory, char* value) { memcpy(memory, value, 2); });
}

MatrixSlot matrix_slot(uint32_t count, int transposed, uint32_t address, Access access,
                       const void* pc) {
  MatrixSlot slot{count, transposed != 0, nullptr, {}};
  if (current_thread->lane >= count * 8) return slot;  // its address is ignored
  slot.row = static_cast<char*>(emu_from_shared_address(address));
  check_alignment(reinterpret_cast<uintptr_t>(slot.row), kRowBytes, pc);
  check_access(slot.row, kRowBytes, access, pc);
  return slot;
}

}  // namespace
}  // namespace emu

using namespace emu;

extern "C" {

void emu_mma(uint32_t kind, float* d, const uint32_t* a, const uint32_t* b, const float* c) {
  MmaSlot slot = {};
  memcpy(slot.a, a, 4 * size_t(kMmaWords[kind].a));
  memcpy(slot.b, b, 4 * size_t(kMmaWords[kind].b));
  memcpy(slot.c, c, sizeof slot.c);
  meet_whole_warp(kMma[kind], "mma.sync", &slot, __builtin_return_address(0));
  memcpy(d, slot.d, sizeof slot.d);
}

void emu_load_matrix(uint32_t count, int transposed, uint32_t* result, uint32_t address) {
  const void* pc = __builtin_return_address(0);
  MatrixSlot slot = matrix_slot(count, transposed, address, kRead, pc);
  meet_whole_warp(combine_load, "ldmatrix", &slot, pc);
  memcpy(result, slot.values, 4 * count);
}

void emu_store_matrix(uint32_t count, int transposed, const uint32_t* values, uint32_t address) {
  const void* pc = __builtin_return_address(0);
  MatrixSlot slot = matrix_slot(count, transposed, address, kWrite, pc);
  memcpy(slot.values, values, 4 * count);
  meet_whole_warp(combine_store, "stmatrix", &slot, pc);
}

}  // extern "C"
