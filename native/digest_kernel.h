// Included once for each width of vectors, as chacha20_kernel.h is, with
//   KERNEL  the namespace to fill: AddPieces
//   WIDTH   words in a vector: 4, 8 or 16
//   TARGET  the attribute that lets a function use vectors so wide
namespace KERNEL {

using Words = uint32_t __attribute__((vector_size(4 * WIDTH)));

// sums[row][lane] += the pieces of whole vectors, each times the word of its place and lane. Rows lie
// `stride` bytes apart. `table`: for each vector and lane, the words for lower halves, then for upper.
template <int rows>
TARGET void AddPieces(const uint32_t* table, const uint8_t* from, int64_t stride, int64_t vectors,
                      uint32_t* sums) {
  Words sum[rows][kLanes], lower[rows], upper[rows], times[2];
  std::memcpy(sum, sums, sizeof(sum));
  for (int64_t i = 0; i < vectors; ++i, from += sizeof(Words)) {
#pragma GCC unroll 2
    for (int row = 0; row < rows; ++row) {
      std::memcpy(&upper[row], from + row * stride, sizeof(Words));
      lower[row] = upper[row] & 0xFFFF;
      upper[row] >>= 16;
    }
#pragma GCC unroll 8
    for (int lane = 0; lane < kLanes; ++lane, table += 2 * WIDTH) {
      // One after the other: GCC copies two at once by way of the stack.
      std::memcpy(&times[0], table, sizeof(Words));
      std::memcpy(&times[1], table + WIDTH, sizeof(Words));
#pragma GCC unroll 2
      for (int row = 0; row < rows; ++row) {
        sum[row][lane] += lower[row] * times[0] + upper[row] * times[1];
      }
    }
  }
  std::memcpy(sums, sum, sizeof(sum));
}

constexpr Kernel kernel = {WIDTH, {AddPieces<1>, AddPieces<2>}};

}  // namespace KERNEL

#undef KERNEL
#undef WIDTH
#undef TARGET
