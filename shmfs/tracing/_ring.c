/* Two accesses that Python cannot make: a 64-bit word of shared memory, loaded with acquire and stored with
 * release ordering, each by one instruction. For the ring buffers of perf_event_open(2), whose head the kernel
 * advances on another processor while this one reads. See "data_head" in perf_event_open(2) and
 * tools/include/linux/ring_buffer.h.
 *
 * Any thread may call these functions. They hold the GIL and never block.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>

/* The aligned word at `offset` bytes, or NULL with ValueError set. */
static uint64_t *word(const Py_buffer *view, Py_ssize_t offset)
{
    if (offset < 0 || view->len < (Py_ssize_t)sizeof(uint64_t)
        || offset > view->len - (Py_ssize_t)sizeof(uint64_t)) {
        PyErr_Format(PyExc_ValueError, "offset %zd is outside of a buffer of %zd bytes", offset, view->len);
        return NULL;
    }
    char *address = (char *)view->buf + offset;
    if ((uintptr_t)address % sizeof(uint64_t)) {
        PyErr_Format(PyExc_ValueError, "offset %zd is not aligned to 8 bytes", offset);
        return NULL;
    }
    return (uint64_t *)address;
}

static PyObject *load_acquire(PyObject *module, PyObject *args)
{
    Py_buffer view;
    Py_ssize_t offset;
    PyObject *result = NULL;
    (void)module;
    if (!PyArg_ParseTuple(args, "y*n:load_acquire", &view, &offset))
        return NULL;
    uint64_t *at = word(&view, offset);
    if (at)
        result = PyLong_FromUnsignedLongLong(__atomic_load_n(at, __ATOMIC_ACQUIRE));
    PyBuffer_Release(&view);
    return result;
}

static PyObject *store_release(PyObject *module, PyObject *args)
{
    Py_buffer view;
    Py_ssize_t offset;
    PyObject *number;
    (void)module;
    if (!PyArg_ParseTuple(args, "w*nO:store_release", &view, &offset, &number))
        return NULL;
    uint64_t *at = word(&view, offset);
    PyObject *index = at ? PyNumber_Index(number) : NULL;
    unsigned long long value = index ? PyLong_AsUnsignedLongLong(index) : 0; /* OverflowError beyond 64 bits */
    Py_XDECREF(index);
    if (!PyErr_Occurred())
        __atomic_store_n(at, (uint64_t)value, __ATOMIC_RELEASE);
    PyBuffer_Release(&view);
    if (PyErr_Occurred())
        return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"load_acquire", load_acquire, METH_VARARGS, "load_acquire(buffer, offset, /)\n--\n\nLoad an aligned 64-bit word."},
    {"store_release", store_release, METH_VARARGS,
     "store_release(buffer, offset, value, /)\n--\n\nStore an aligned 64-bit word."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_ring", "Loads and stores of shared 64-bit words.", 0, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__ring(void)
{
    return PyModule_Create(&definition);
}
