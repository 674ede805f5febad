/* Between pyfuse3 and libfuse: what is agreed on in INIT, and a lane for the requests.
 *
 * pyfuse3 calls libfuse through its procedure linkage table. This library is loaded before it with
 * RTLD_GLOBAL and defines fuse_session_mount and fuse_session_receive_buf itself, so the dynamic linker
 * binds pyfuse3's calls to these definitions; they call libfuse's own where that is wanted. pyfuse3 keeps the
 * session, the mount, INIT, the event loop, notifications and shutdown.
 *
 * INIT: after the mount, libfuse is given our read and writev for its descriptor
 * (fuse_session_custom_io), so its answer to INIT can be completed on the way out: flags that this libfuse does not
 * know, or sets by default although they do not suit a tmpfs, max_readahead, and the stacking depth for passthrough.
 *
 * The lane: pyfuse3 asks for a request with fuse_session_receive_buf when its descriptor is readable.
 * We read requests in a loop instead, hand each (but INIT) to one Python function, write its answer, and return
 * to pyfuse3 with EINTR, upon which it waits for the next, when no more came within a short while or when
 * others in its event loop should have their turn. While waiting the GIL is released.
 *
 * It knows no semantics: configure() and serve() set flags, handler and budgets.
 *
 * Threads: the thread that serves requests, in which pyfuse3's event loop runs, calls everything here but
 * end_populate(), which the thread of `populate` calls. It holds the GIL, also in read() and writev() on
 * /dev/fuse, which do not block. The GIL is released in two places: spin(), while no request is there, and
 * end_populate(), while it sends. write_reply() touches no Python object: pyfuse3 calls it without the GIL to
 * send a notification. The variables below are the serving thread's; `device` is set once, by the mount.
 */
#define _GNU_SOURCE
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <sched.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

struct fuse_session;
struct fuse_buf; /* only handed through */

/* struct fuse_custom_io of libfuse 3.14; later ones have more members, which may be NULL. */
struct custom_io {
	ssize_t (*writev)(int fd, struct iovec *iov, int count, void *userdata);
	ssize_t (*read)(int fd, void *buf, size_t size, void *userdata);
	void *others[6];
};

enum { BUFFER = (1 << 20) + 4096, PARTS = 16 };

static int device = -1;             /* /dev/fuse */
static int init_asked, init_answered;
static uint64_t flags_set, flags_clear, flags_offered, flags_taken;
static uint32_t max_readahead, stack_depth;

static PyObject *handler;           /* answers requests */
static long long budget_ns;         /* of one drain, before the event loop has its turn */
static long budget_requests;
static long long spin_ns;           /* at most, waiting for a next request */
static int spins_in_vain;           /* in a row; after some, an eighth of the time is enough */
static char *buffer;
static uint64_t requests;

/* The libfuse that pyfuse3 has loaded; a search from here on would find this file's own names. */
static void *libfuse(const char *name)
{
	void *library = dlopen("libfuse3.so.3", RTLD_LAZY | RTLD_NOLOAD);

	if (library == NULL)
		library = dlopen("libfuse3.so.4", RTLD_LAZY | RTLD_NOLOAD);
	return library ? dlsym(library, name) : NULL;
}

/* ---- INIT */

static void complete_init(struct fuse_init_out *out)
{
	uint64_t flags = out->flags | (uint64_t)out->flags2 << 32;

	flags = (flags & ~flags_clear) | (flags_set & flags_offered);
	if (flags >> 32)
		flags |= FUSE_INIT_EXT;
	out->flags = flags;
	out->flags2 = flags >> 32;
	if (out->max_readahead > max_readahead)
		out->max_readahead = max_readahead;
	if (flags & 1ULL << 37) /* FUSE_PASSTHROUGH: max_stack_depth, which older headers do not name */
		memcpy((char *)&out->flags2 + sizeof out->flags2, &stack_depth, sizeof stack_depth);
	flags_taken = flags;
	init_answered = 1;
}

static ssize_t write_reply(int fd, struct iovec *iov, int count, void *userdata)
{
	struct fuse_out_header *header = iov[0].iov_base;

	if (init_asked && !init_answered && header->unique && !header->error && count == 2 &&
	    iov[1].iov_len == sizeof(struct fuse_init_out))
		complete_init(iov[1].iov_base);
	return writev(fd, iov, count);
}

static ssize_t read_request(int fd, void *into, size_t size, void *userdata)
{
	ssize_t n = read(fd, into, size);
	struct fuse_in_header *header = into;

	if (n >= (ssize_t)(sizeof *header + 16) && header->opcode == FUSE_INIT) {
		struct fuse_init_in *in = (void *)(header + 1);

		flags_offered = in->flags;
		if (in->flags & FUSE_INIT_EXT && n >= (ssize_t)(sizeof *header + 20))
			flags_offered |= (uint64_t)in->flags2 << 32;
		init_asked = 1;
	}
	return n;
}

int fuse_session_mount(struct fuse_session *se, const char *mountpoint)
{
	static const struct custom_io io = { .writev = write_reply, .read = read_request };
	int (*mount)(struct fuse_session *, const char *) = libfuse("fuse_session_mount");
	int (*get_fd)(struct fuse_session *) = libfuse("fuse_session_fd");
	int (*custom_io_317)(struct fuse_session *, const void *, size_t, int) =
		libfuse("fuse_session_custom_io_317");
	int (*custom_io)(struct fuse_session *, const void *, int) = libfuse("fuse_session_custom_io");
	int result;

	if (mount == NULL || get_fd == NULL)
		return -1;
	result = mount(se, mountpoint);
	if (result != 0)
		return result;
	device = get_fd(se);
	fcntl(device, F_SETFD, FD_CLOEXEC);
	if (custom_io_317)
		custom_io_317(se, &io, sizeof io, device);
	else if (custom_io)
		custom_io(se, &io, device);
	return 0;
}

/* ---- the lane */

static long long now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void send_parts(uint64_t unique, int error, Py_buffer *parts, int count)
{
	struct fuse_out_header header = { .len = sizeof header, .error = error, .unique = unique };
	struct iovec iov[PARTS + 1] = { { &header, sizeof header } };

	for (int i = 0; i < count; i++) {
		iov[i + 1] = (struct iovec){ parts[i].buf, parts[i].len };
		header.len += parts[i].len;
	}
	/* ENOENT: the request was interrupted and nobody waits any more. */
	if (writev(device, iov, count + 1) < 0 && errno != ENOENT && errno != ENODEV)
		PySys_FormatStderr("shmfs: an answer to the kernel failed: %s\n", strerror(errno));
}

/* None: no answer (now). An int: an errno, 0 for success. Bytes or a tuple of buffers: success with data. */
static int send_result(uint64_t unique, PyObject *result)
{
	Py_buffer parts[PARTS];
	PyObject *const *items = &result;
	Py_ssize_t count = 1;
	int taken = 0;

	if (result == Py_None)
		return 0;
	if (PyLong_Check(result)) {
		long error = PyLong_AsLong(result);

		if (error == -1 && PyErr_Occurred())
			return -1;
		/* The kernel takes no others, and would leave the caller waiting. */
		send_parts(unique, error >= 0 && error < 512 ? -(int)error : -EIO, NULL, 0);
		return 0;
	}
	if (PyTuple_Check(result)) {
		items = &PyTuple_GET_ITEM(result, 0);
		count = PyTuple_GET_SIZE(result);
	}
	for (taken = 0; taken < count && taken < PARTS; taken++)
		if (PyObject_GetBuffer(items[taken], &parts[taken], PyBUF_SIMPLE) < 0)
			break;
	if (taken == count)
		send_parts(unique, 0, parts, taken);
	for (int i = 0; i < taken; i++)
		PyBuffer_Release(&parts[i]);
	return taken == count ? 0 : -1;
}

/* Data to write stays in the buffer and is lent; other bodies are small and copied. */
static PyObject *body_of(const struct fuse_in_header *header, const char *body, Py_ssize_t size)
{
	if (header->opcode == FUSE_WRITE)
		return PyMemoryView_FromMemory((char *)body, size, PyBUF_READ);
	return PyBytes_FromStringAndSize(body, size);
}

static PyObject *call(const struct fuse_in_header *header, PyObject *body)
{
	PyObject *arguments[] = {
		PyLong_FromUnsignedLong(header->opcode), PyLong_FromUnsignedLongLong(header->unique),
		PyLong_FromUnsignedLongLong(header->nodeid), PyLong_FromUnsignedLong(header->uid),
		PyLong_FromUnsignedLong(header->gid), PyLong_FromUnsignedLong(header->pid), body,
	};
	PyObject *result = NULL;
	int complete = 1;

	for (int i = 0; i < 6; i++)
		complete &= arguments[i] != NULL;
	if (complete)
		result = PyObject_Vectorcall(handler, arguments, 7, NULL);
	for (int i = 0; i < 6; i++)
		Py_XDECREF(arguments[i]);
	return result;
}

static void answer(const struct fuse_in_header *header, Py_ssize_t size)
{
	PyObject *body = body_of(header, (const char *)(header + 1), size - sizeof *header);
	PyObject *result = NULL, *lent;

	requests++;
	if (body)
		result = call(header, body);
	if (result == NULL || send_result(header->unique, result) < 0) {
		PyErr_WriteUnraisable(handler);
		if (header->opcode != FUSE_FORGET && header->opcode != FUSE_BATCH_FORGET)
			send_parts(header->unique, -EIO, NULL, 0);
	}
	if (body && header->opcode == FUSE_WRITE) {
		lent = PyObject_CallMethod(body, "release", NULL);
		if (lent == NULL)
			PyErr_WriteUnraisable(handler);
		Py_XDECREF(lent);
	}
	Py_XDECREF(result);
	Py_XDECREF(body);
}

/* Wait without sleeping for a next request: a sleeping processor takes longer to wake than to serve. */
static ssize_t spin(long long until)
{
	ssize_t n;
	int error;

	Py_BEGIN_ALLOW_THREADS
	do {
		sched_yield(); /* on one processor, the next request's author runs now */
		n = read(device, buffer, BUFFER);
		error = errno;
	} while (n < 0 && error == EAGAIN && now_ns() < until);
	Py_END_ALLOW_THREADS
	spins_in_vain = n > 0 ? 0 : spins_in_vain + 1;
	errno = error;
	return n;
}

static int drain(struct fuse_session *se)
{
	long long start = now_ns(), idle_since = start;
	int waited = 0;

	for (long served = 0; served < budget_requests;) {
		long long until = idle_since + (spins_in_vain < 32 ? spin_ns : spin_ns / 8);
		ssize_t n = -1;

		/* Somebody who waited for an answer makes no next request before he has run. */
		errno = EAGAIN;
		if (!waited)
			n = read(device, buffer, BUFFER);
		if (n < 0 && errno == EAGAIN && served && spin_ns)
			n = spin(until);
		if (n > 0) {
			struct fuse_in_header *header = (void *)buffer;

			waited = header->opcode != FUSE_FORGET && header->opcode != FUSE_BATCH_FORGET &&
				 header->opcode != FUSE_RELEASE;
			answer(header, n);
			served++;
			if (PyErr_CheckSignals() < 0)
				PyErr_WriteUnraisable(handler);
			idle_since = now_ns();
			if (idle_since - start > budget_ns)
				break;
		} else if (n < 0 && errno == ENODEV) { /* unmounted: as libfuse does, end the session */
			void (*end)(struct fuse_session *) = libfuse("fuse_session_exit");

			if (end)
				end(se);
			return 0;
		} else if (n < 0 && errno == EAGAIN) {
			break;
		} else if (n < 0 && errno != EINTR && errno != ENOENT) {
			return -errno;
		}
	}
	return -EINTR;
}

int fuse_session_receive_buf(struct fuse_session *se, struct fuse_buf *buf)
{
	static int (*receive)(struct fuse_session *, struct fuse_buf *);

	if (handler != NULL && init_answered)
		return drain(se);
	if (receive == NULL)
		receive = libfuse("fuse_session_receive_buf");
	return receive ? receive(se, buf) : -ENOSYS;
}

/* ---- for Python */

static PyObject *configure(PyObject *self, PyObject *args)
{
	if (!PyArg_ParseTuple(args, "KKII", &flags_set, &flags_clear, &max_readahead, &stack_depth))
		return NULL;
	Py_RETURN_NONE;
}

static PyObject *serve(PyObject *self, PyObject *args)
{
	PyObject *function;

	if (!PyArg_ParseTuple(args, "OLlL", &function, &budget_ns, &budget_requests, &spin_ns))
		return NULL;
	if (buffer == NULL && posix_memalign((void **)&buffer, 4096, BUFFER) != 0)
		return PyErr_NoMemory();
	if (fcntl(device, F_SETFL, fcntl(device, F_GETFL) | O_NONBLOCK) < 0)
		return PyErr_SetFromErrno(PyExc_OSError);
	spins_in_vain = 0;
	Py_INCREF(function);
	Py_XSETREF(handler, function);
	Py_RETURN_NONE;
}

static PyObject *reply(PyObject *self, PyObject *args)
{
	unsigned long long unique;
	PyObject *result;

	if (!PyArg_ParseTuple(args, "KO", &unique, &result) || send_result(unique, result) < 0)
		return NULL;
	Py_RETURN_NONE;
}

static PyObject *negotiated(PyObject *self, PyObject *args)
{
	if (!init_answered)
		Py_RETURN_NONE;
	return Py_BuildValue("KK", flags_offered, flags_taken);
}

static PyObject *fuse_device(PyObject *self, PyObject *args)
{
	return PyLong_FromLong(device);
}

static PyObject *served(PyObject *self, PyObject *args)
{
	return PyLong_FromUnsignedLongLong(requests);
}

/* Without the GIL: between the two other processes see a file that is too short. */
static PyObject *end_populate(PyObject *self, PyObject *args)
{
	Py_buffer first, second, unreadable;
	long long pause;
	ssize_t sent;

	if (!PyArg_ParseTuple(args, "y*w*y*L", &first, &second, &unreadable, &pause))
		return NULL;
	Py_BEGIN_ALLOW_THREADS
	sent = write(device, first.buf, first.len);
	if (*(volatile uint32_t *)second.buf) {
		struct timespec t = { 0, pause };
		struct iovec iov[] = { { second.buf, second.len }, { unreadable.buf, unreadable.len } };

		nanosleep(&t, NULL);
		sent = writev(device, iov, 2); /* fails with EFAULT when it has done what it is for */
	}
	(void)sent;
	Py_END_ALLOW_THREADS
	PyBuffer_Release(&first);
	PyBuffer_Release(&second);
	PyBuffer_Release(&unreadable);
	Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
	{ "configure", configure, METH_VARARGS,
	  "configure(set, clear, max_readahead, max_stack_depth): FUSE_INIT flags (64 bits) to take where offered and "
	  "not to take, bytes, and levels of stacked file systems." },
	{ "serve", serve, METH_VARARGS,
	  "serve(handler, budget_ns, budget_requests, spin_ns): answer requests by handler(opcode, unique, nodeid, uid, "
	  "gid, pid, body)." },
	{ "reply", reply, METH_VARARGS, "reply(unique, result): answer a request for which the handler gave None." },
	{ "end_populate", end_populate, METH_VARARGS,
	  "end_populate(first, second, unreadable, pause): send a notification; if the buffer of the second does not "
	  "begin with zeros by then, wait for a pause (nanoseconds, less than a second) and send that with the "
	  "unreadable bytes." },
	{ "negotiated", negotiated, METH_NOARGS, "negotiated(): flags offered and taken in INIT, or None before it." },
	{ "device", fuse_device, METH_NOARGS, "device(): the descriptor of /dev/fuse." },
	{ "served", served, METH_NOARGS, "served(): requests answered through the lane." },
	{ NULL, NULL, 0, NULL },
};

static struct PyModuleDef module = { PyModuleDef_HEAD_INIT, "_lane", NULL, -1, methods };

PyMODINIT_FUNC PyInit__lane(void)
{
	return PyModule_Create(&module);
}
