#define _GNU_SOURCE
#include "CURing.h"

#include <errno.h>
#include <liburing.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

// Kernel threads that carry out what cannot be started without waiting, flushes above all.
#define WORKERS_MAX 16

struct curing {
    struct io_uring ring;
};

static int open_ring(struct io_uring *ring, unsigned entries, unsigned flags) {
    struct io_uring_params parameters = {.flags = flags | IORING_SETUP_CQSIZE, .cq_entries = entries * CURING_COMPLETIONS};
    return io_uring_queue_init_params(entries, ring, &parameters);
}

static bool has_requests(struct io_uring *ring) {
    static const int needed[] = {IORING_OP_READ, IORING_OP_WRITE, IORING_OP_FSYNC};
    struct io_uring_probe *probe = io_uring_get_probe_ring(ring);
    bool all = probe != NULL;
    for (unsigned index = 0; all && index < sizeof needed / sizeof *needed; index++)
        all = io_uring_opcode_supported(probe, needed[index]);
    io_uring_free_probe(probe);
    return all;
}

curing *curing_open(unsigned entries) {
    curing *queue = calloc(1, sizeof *queue);
    if (!queue) return NULL;
    // Completions need not interrupt the thread, which looks for them in every round; older kernels always do.
    int result = open_ring(&queue->ring, entries, IORING_SETUP_R_DISABLED | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_COOP_TASKRUN);
    if (result == -EINVAL) result = open_ring(&queue->ring, entries, IORING_SETUP_R_DISABLED);
    if (result == 0 && !has_requests(&queue->ring)) {
        io_uring_queue_exit(&queue->ring);
        result = -ENOSYS;
    }
    if (result == 0) return queue;
    free(queue);
    errno = -result;
    return NULL;
}

int curing_enable(curing *queue) {
    // liburing 2.3 declares io_uring_enable_rings and does not export it.
    if (syscall(__NR_io_uring_register, queue->ring.ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0) < 0) return -errno;
    unsigned workers[2] = {WORKERS_MAX, WORKERS_MAX};
    // Kernels before 5.15 have their own bounds.
    (void)io_uring_register_iowq_max_workers(&queue->ring, workers);
    return 0;
}

void curing_close(curing *queue) {
    io_uring_queue_exit(&queue->ring);
    free(queue);
}

int curing_descriptor(const curing *queue) { return queue->ring.ring_fd; }

bool curing_read(curing *queue, int descriptor, void *base, unsigned length, uint64_t offset, uint64_t tag) {
    struct io_uring_sqe *request = io_uring_get_sqe(&queue->ring);
    if (!request) return false;
    io_uring_prep_read(request, descriptor, base, length, offset);
    io_uring_sqe_set_data64(request, tag);
    return true;
}

bool curing_write(curing *queue, int descriptor, const void *base, unsigned length, uint64_t offset, bool through, uint64_t tag) {
    struct io_uring_sqe *request = io_uring_get_sqe(&queue->ring);
    if (!request) return false;
    io_uring_prep_write(request, descriptor, base, length, offset);
    if (through) request->rw_flags = RWF_DSYNC;
    io_uring_sqe_set_data64(request, tag);
    return true;
}

bool curing_fdatasync(curing *queue, int descriptor, uint64_t tag) {
    struct io_uring_sqe *request = io_uring_get_sqe(&queue->ring);
    if (!request) return false;
    io_uring_prep_fsync(request, descriptor, IORING_FSYNC_DATASYNC);
    io_uring_sqe_set_data64(request, tag);
    return true;
}

// liburing of Debian 12 has no helper for commands. What the driver gets follows the fields that are common to all requests.
static void fill_command(
    struct io_uring_sqe *request, unsigned size, int descriptor, uint32_t operation, const void *payload, unsigned length) {
    memset(request, 0, size);
    request->opcode = IORING_OP_URING_CMD;
    request->fd = descriptor;
    request->cmd_op = operation;
    memcpy((char *)request + offsetof(struct io_uring_sqe, cmd), payload, length);
}

bool curing_command(curing *queue, int descriptor, uint32_t operation, const void *payload, uint64_t tag) {
    struct io_uring_sqe *request = io_uring_get_sqe(&queue->ring);
    if (!request) return false;
    fill_command(request, sizeof *request, descriptor, operation, payload, 16);
    io_uring_sqe_set_data64(request, tag);
    return true;
}

int curing_control(int descriptor, uint32_t operation, const void *payload, unsigned length, unsigned milliseconds) {
    struct io_uring_params parameters = {.flags = IORING_SETUP_SQE128};
    struct io_uring ring;
    if (length > 80) return -EINVAL;
    int result = io_uring_queue_init_params(1, &ring, &parameters);
    if (result < 0) return result;
    struct io_uring_sqe *request = io_uring_get_sqe(&ring);
    fill_command(request, 2 * sizeof *request, descriptor, operation, payload, length);
    result = io_uring_submit(&ring);
    if (result >= 0) {
        struct io_uring_cqe *entry;
        struct __kernel_timespec patience = {.tv_sec = milliseconds / 1000, .tv_nsec = milliseconds % 1000 * 1000000ll};
        do result = io_uring_wait_cqe_timeout(&ring, &entry, &patience);
        while (result == -EINTR);
        if (result == 0) result = entry->res;
    }
    io_uring_queue_exit(&ring);
    return result;
}

int curing_submit(curing *queue) {
    return io_uring_sq_ready(&queue->ring) == 0 ? 0 : io_uring_submit(&queue->ring);
}

static unsigned take(struct io_uring *ring, struct curing_completion *completions, unsigned capacity) {
    unsigned head, count = 0;
    struct io_uring_cqe *entry;
    io_uring_for_each_cqe(ring, head, entry) {
        if (count == capacity) break;
        completions[count++] = (struct curing_completion){.tag = io_uring_cqe_get_data64(entry), .result = entry->res};
    }
    io_uring_cq_advance(ring, count);
    return count;
}

unsigned curing_reap(curing *queue, struct curing_completion *completions, unsigned capacity) {
    unsigned count = take(&queue->ring, completions, capacity);
    // What the queue had no room for the kernel keeps until it is asked.
    if (count < capacity && io_uring_cq_has_overflow(&queue->ring)) {
        (void)syscall(__NR_io_uring_enter, queue->ring.ring_fd, 0, 0, IORING_ENTER_GETEVENTS, NULL, 0);
        count += take(&queue->ring, completions + count, capacity - count);
    }
    return count;
}

int curing_wait(curing *queue, unsigned milliseconds) {
    struct io_uring_cqe *entry;
    struct __kernel_timespec patience = {.tv_sec = milliseconds / 1000, .tv_nsec = milliseconds % 1000 * 1000000ll};
    int result = io_uring_wait_cqe_timeout(&queue->ring, &entry, &patience);
    return result < 0 ? result : 0;
}
