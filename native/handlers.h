// The calls of XLA's foreign function interface that this module holds.
#pragma once

#include "xla/ffi/api/ffi.h"

extern "C" XLA_FFI_Error* Chacha20(XLA_FFI_CallFrame* frame);
extern "C" XLA_FFI_Error* AesThrough(XLA_FFI_CallFrame* frame);
extern "C" XLA_FFI_Error* TreeDigest(XLA_FFI_CallFrame* frame);

// Whether this processor has the instructions that AesThrough is made of.
bool HasAes();
