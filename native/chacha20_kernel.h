// Included once for each width of vectors, with
//   KERNEL     the namespace to fill: XorGroup
//   LANES      blocks made at once, one in each lane of a vector: 4, 8 or 16
//   TARGET     the attribute that lets a function use vectors so wide
//   BY_BYTES   whether rotations by 16 and 8 are best made by a shuffle of bytes
// The compiler splits wide vectors where a function's own target lacks them, before it inlines: so a
// template that the three share would not do.
namespace KERNEL {

using Words = uint32_t __attribute__((vector_size(4 * LANES)));
using Bytes = uint8_t __attribute__((vector_size(4 * LANES)));

#define INLINE TARGET inline __attribute__((always_inline))

template <int bits, size_t... byte>
INLINE void Rotate(Words& x, std::index_sequence<byte...>) {
  if constexpr (BY_BYTES && bits % 8 == 0) {
    x = (Words)SHUFFLE(Bytes, (Bytes)x, (Bytes)x, (byte / 4 * 4 + (byte + 4 - bits / 8) % 4)...);
  } else {
    x = (x << bits) | (x >> (32 - bits));
  }
}

INLINE void Quarter(Words& a, Words& b, Words& c, Words& d) {
  constexpr auto bytes = std::make_index_sequence<4 * LANES>();
  a += b; d ^= a; Rotate<16>(d, bytes); c += d; b ^= c; Rotate<12>(b, bytes);
  a += b; d ^= a; Rotate<8>(d, bytes); c += d; b ^= c; Rotate<7>(b, bytes);
}

// Of two vectors, the lanes that `step` keeps or brings to one of them.
template <int step, bool high, size_t... lane>
INLINE Words Pick(const Words& a, const Words& b, std::index_sequence<lane...>) {
  return SHUFFLE(Words, a, b, (high ? (lane & step ? lane + LANES : lane + step)
                                    : (lane & step ? lane - step + LANES : lane))...);
}

// As many vectors as lanes, transposed: each then holds words of one block.
template <int step = 1>
INLINE void Transpose(Words* words) {
  if constexpr (step < LANES) {
    constexpr auto lanes = std::make_index_sequence<LANES>();
#pragma GCC unroll 16
    for (int word = 0; word < LANES; ++word) {
      if (word & step) continue;
      const Words a = words[word], b = words[word + step];
      words[word] = Pick<step, false>(a, b, lanes);
      words[word + step] = Pick<step, true>(a, b, lanes);
    }
    Transpose<2 * step>(words);
  }
}

// out = in ^ the key stream of LANES blocks, the first with the counter in `start`.
INLINE void XorBlocks(const uint32_t* start, const uint8_t* in, uint8_t* out) {
  Words count, s[16];
  for (int lane = 0; lane < LANES; ++lane) count[lane] = lane;
  for (int word = 0; word < 16; ++word) s[word] = start[word] - Words{};
  s[kCounter] += count;
  for (int round = 0; round < 10; ++round) {
    Quarter(s[0], s[4], s[8], s[12]);
    Quarter(s[1], s[5], s[9], s[13]);
    Quarter(s[2], s[6], s[10], s[14]);
    Quarter(s[3], s[7], s[11], s[15]);
    Quarter(s[0], s[5], s[10], s[15]);
    Quarter(s[1], s[6], s[11], s[12]);
    Quarter(s[2], s[7], s[8], s[13]);
    Quarter(s[3], s[4], s[9], s[14]);
  }
  for (int word = 0; word < 16; ++word) s[word] += start[word];
  s[kCounter] += count;
#pragma GCC unroll 4
  for (int part = 0; part < 16; part += LANES) {
    Transpose(s + part);
#pragma GCC unroll 16
    for (int block = 0; block < LANES; ++block) {
      const int64_t at = kBlock * block + 4 * part;
      Words data;
      std::memcpy(&data, in + at, sizeof(data));
      data ^= s[part + block];
      std::memcpy(out + at, &data, sizeof(data));
    }
  }
}

TARGET void XorGroup(const uint32_t* start, const uint8_t* in, uint8_t* out) {
  uint32_t now[16];
  std::memcpy(now, start, sizeof(now));
  for (int64_t at = 0; at < kGroup; at += LANES * kBlock, now[kCounter] += LANES) {
    XorBlocks(now, in + at, out + at);
  }
}

#undef INLINE

}  // namespace KERNEL

#undef KERNEL
#undef LANES
#undef TARGET
#undef BY_BYTES
