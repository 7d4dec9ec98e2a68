/* libFuzzer's door: calls one function of flyproxy._speedups._testing_fuzz, named by FLYPROXY_FUZZ, for every input.
 *
 * The function is found through __pyx_capi__ and runs without the GIL. Each input is copied into a heap block of its
 * exact size, so that AddressSanitizer sees a read of one byte too many. Built and run by run.py.
 */
#include <Python.h>

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int (*target)(const uint8_t *data, uint32_t n);

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    char name[64];
    const char *wanted = getenv("FLYPROXY_FUZZ");
    snprintf(name, sizeof name, "fuzz_%s", wanted ? wanted : "");
    Py_Initialize();
    PyObject *module = PyImport_ImportModule("flyproxy._speedups._testing_fuzz");
    PyObject *functions = module ? PyObject_GetAttrString(module, "__pyx_capi__") : NULL;
    PyObject *capsule = functions ? PyDict_GetItemString(functions, name) : NULL;
    if (capsule)
        *(void **)&target = PyCapsule_GetPointer(capsule, PyCapsule_GetName(capsule));
    if (!target) {
        PyErr_Print();
        fprintf(stderr, "driver: no function %s; set FLYPROXY_FUZZ and PYTHONPATH as tests/fuzz/run.py does\n", name);
        exit(2);
    }
    PyEval_SaveThread();
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > 1 << 17)
        return 0;
    uint8_t *copy = malloc(size ? size : 1);
    memcpy(copy, data, size);
    int broken = target(copy, (uint32_t)size);
    free(copy);
    if (broken) {
        fprintf(stderr, "promise %d is broken (enum Promise in _testing_fuzz.pyx)\n", broken);
        abort();
    }
    return 0;
}
