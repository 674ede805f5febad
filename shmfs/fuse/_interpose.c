/* What pyfuse3 leaves to libfuse's defaults when a session starts, set as a tmpfs needs it.
 *
 * pyfuse3 calls libfuse through its procedure linkage table. This library is loaded before it with
 * RTLD_GLOBAL and defines fuse_session_new itself, so the dynamic linker binds pyfuse3's call to this
 * definition; it calls libfuse's own with a copy of the operations whose
 * init is wrapped. INIT is where the kernel and the file system agree on what the kernel caches:
 *
 * - auto_inval_data, libfuse's default, drops every cached page of a file whose mtime changed since the
 *   kernel looked last. On a file system that changes by requests of this kernel alone that is never
 *   needed; it would make each stat after a write read the file anew, and mapped pages fault again.
 * - handle_killpriv, libfuse's default, has the file system clear set-id bits at a write, which it
 *   cannot do right without knowing the writer.
 * - dont_mask has the umask sent along instead of applied, as default access lists need.
 * - max_readahead decides how many pages come in for one that is touched.
 *
 * It knows no semantics: which flags are wanted is told by configure().
 */
#define _GNU_SOURCE
#define PY_SSIZE_T_CLEAN
#define FUSE_USE_VERSION 312
#define FUSE_LOWLEVEL_H_ /* only struct fuse_conn_info is wanted; fuse_session_new may be an inline there */
#include <Python.h>
#include <dlfcn.h>
#include <fuse_common.h>
#include <stdlib.h>
#include <string.h>

typedef void (*init_fn)(void *userdata, struct fuse_conn_info *conn);

static unsigned int want_set, want_clear, max_readahead, capable, want;
static int negotiated_once;
static init_fn inner_init;

static void outer_init(void *userdata, struct fuse_conn_info *conn)
{
	inner_init(userdata, conn);
	conn->want = (conn->want & ~want_clear) | (want_set & conn->capable);
	if (conn->max_readahead > max_readahead)
		conn->max_readahead = max_readahead;
	capable = conn->capable;
	want = conn->want;
	negotiated_once = 1;
}

/* struct fuse_lowlevel_ops begins with init, whatever the version of libfuse. */
static const void *with_outer_init(const void *op, size_t size)
{
	void *copy = malloc(size);

	if (copy == NULL)
		return op;
	memcpy(copy, op, size);
	inner_init = *(init_fn *)copy;
	*(init_fn *)copy = outer_init;
	return copy; /* libfuse copies it; a session is made once in a process */
}

/* In the libfuse that pyfuse3 has loaded; a search from here on would find this file's own again. */
static void *libfuse(const char *name)
{
	void *library = dlopen("libfuse3.so.3", RTLD_LAZY | RTLD_NOLOAD);

	if (library == NULL)
		library = dlopen("libfuse3.so.4", RTLD_LAZY | RTLD_NOLOAD);
	return library ? dlsym(library, name) : NULL;
}

struct fuse_session *fuse_session_new(struct fuse_args *args, const void *op, size_t op_size,
				      void *userdata)
{
	struct fuse_session *(*real)(struct fuse_args *, const void *, size_t, void *) =
		libfuse("fuse_session_new");

	return real ? real(args, with_outer_init(op, op_size), op_size, userdata) : NULL;
}

/* From libfuse 3.17 on, fuse_session_new is an inline function around these two. */
#define VERSIONED(name)                                                                            \
	struct fuse_session *name(struct fuse_args *args, const void *op, size_t op_size,          \
				  void *version, void *userdata)                                   \
	{                                                                                          \
		struct fuse_session *(*real)(struct fuse_args *, const void *, size_t, void *,     \
					     void *) = libfuse(#name);                             \
		return real ? real(args, with_outer_init(op, op_size), op_size, version, userdata) \
			    : NULL;                                                                \
	}
VERSIONED(fuse_session_new_versioned)
VERSIONED(_fuse_session_new_317)

static PyObject *configure(PyObject *self, PyObject *args)
{
	if (!PyArg_ParseTuple(args, "III", &want_set, &want_clear, &max_readahead))
		return NULL;
	Py_RETURN_NONE;
}

static PyObject *negotiated(PyObject *self, PyObject *args)
{
	if (!negotiated_once)
		Py_RETURN_NONE;
	return Py_BuildValue("II", capable, want);
}

static PyMethodDef methods[] = {
	{ "configure", configure, METH_VARARGS,
	  "configure(set, clear, max_readahead): FUSE_CAP flags to ask for and not, and bytes." },
	{ "negotiated", negotiated, METH_NOARGS,
	  "negotiated(): FUSE_CAP flags that the kernel offered and that were taken, or None." },
	{ NULL, NULL, 0, NULL },
};

static struct PyModuleDef module = { PyModuleDef_HEAD_INIT, "_interpose", NULL, -1, methods };

PyMODINIT_FUNC PyInit__interpose(void)
{
	return PyModule_Create(&module);
}
