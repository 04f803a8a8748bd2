// The Python module: a handler for jax.ffi.register_ffi_target under the name of each call.
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "handlers.h"

namespace {

PyModuleDef definition = {PyModuleDef_HEAD_INIT, "modellock_jax_native",
                          "`chacha20`, `tree_digest` and, where the processor has AES, `aes_through`: "
                          "handlers for jax.ffi.register_ffi_target, compiled for the interface "
                          "`API`.",
                          -1};

bool Add(PyObject* module, const char* name, XLA_FFI_Handler* handler) {
  PyObject* capsule = PyCapsule_New(reinterpret_cast<void*>(handler), nullptr, nullptr);
  if (capsule == nullptr) return false;
  const int failed = PyModule_AddObjectRef(module, name, capsule);
  Py_DECREF(capsule);
  return failed == 0;
}

}  // namespace

PyMODINIT_FUNC PyInit_modellock_jax_native() {
  PyObject* module = PyModule_Create(&definition);
  if (module == nullptr) return nullptr;
  PyObject* api = Py_BuildValue("(ii)", XLA_FFI_API_MAJOR, XLA_FFI_API_MINOR);
  if (PyModule_AddObjectRef(module, "API", api) < 0) {
    Py_XDECREF(api);
    Py_DECREF(module);
    return nullptr;
  }
  Py_DECREF(api);
  if (!Add(module, "chacha20", Chacha20) || !Add(module, "tree_digest", TreeDigest) ||
      (HasAes() && !Add(module, "aes_through", AesThrough))) {
    Py_DECREF(module);
    return nullptr;
  }
  return module;
}
