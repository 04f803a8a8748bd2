// Where a part of a leaf lies among the rows into which the keyed digest cuts the leaf.
#pragma once

#include "xla/ffi/api/ffi.h"

#include <algorithm>
#include <cstdint>
#include <vector>

// An axis of a leaf: how long it is, and where on it a part begins and how much of it the part holds.
struct Axis {
  int64_t whole, start, own;
};

// Part of a leaf, whose bytes in C order are cut into blocks, and those into rows. In memory the part
// is runs of bytes that follow one another in the leaf.
struct Part {
  const uint8_t* data;
  uint32_t number;         // of the leaf
  int64_t block, row;      // bytes
  int64_t bytes, run;      // of the part, and of a run
  std::vector<Axis> axes;  // those up to the last that is split
  int64_t inner;           // bytes of an index on that one

  // Where in the leaf a run begins; returns how many of its bytes lie before the leaf's end.
  int64_t Find(int64_t number, int64_t* place) const {
    const Axis& last = axes.back();
    int64_t stride = inner;
    *place = last.start * stride;
    const int64_t left = std::clamp<int64_t>(last.whole - last.start, 0, last.own) * stride;
    for (size_t k = axes.size() - 1; k-- > 0; number /= axes[k].own) {
      stride *= axes[k + 1].whole;
      const int64_t index = axes[k].start + number % axes[k].own;
      if (index >= axes[k].whole) return 0;
      *place += index * stride;
    }
    return left;
  }
};

// A part that begins at `starts` of a leaf of `shape`, whose rows are stretches of `length` of `axis`.
inline Part PartOf(const xla::ffi::AnyBuffer& leaf, uint32_t number, const int64_t* shape,
                   int64_t axis, int64_t length, const uint32_t* starts) {
  Part part{static_cast<const uint8_t*>(leaf.untyped_data()), number, 0, 0, 0, 0, {}, 0};
  const auto own = leaf.dimensions();
  int64_t split = 0, stride = leaf.size_bytes() / leaf.element_count();
  for (size_t k = 0; k < own.size(); ++k) {
    part.axes.push_back({shape[k], starts[k], own[k]});
    if (own[k] != shape[k] || starts[k] != 0) split = k;
  }
  for (int64_t k = own.size() - 1; k >= 0; --k) {
    if (k == split) part.inner = stride;
    if (k == axis) part.row = length * stride;
    stride *= shape[k];
    if (k == axis) part.block = stride;
  }
  part.axes.resize(split + 1);
  part.bytes = leaf.size_bytes();
  part.run = own[split] * part.inner;
  return part;
}
