// The key stream of ChaCha20 (RFC 8439), a group of blocks at a time.
#pragma once

#include <cstdint>

constexpr int64_t kBlock = 64;           // bytes
constexpr int64_t kGroup = 16 * kBlock;  // bytes that are made at a time
constexpr int kCounter = 12;             // the word of the state that counts; after it the nonce

// The first twelve words of the state that begins a block; the other four are counter and nonce.
void SetKey(const uint32_t* key, uint32_t* start);

// out = in ^ the key stream of a group, whose first block has the counter in `start`.
void XorGroup(const uint32_t* start, const uint8_t* in, uint8_t* out);
