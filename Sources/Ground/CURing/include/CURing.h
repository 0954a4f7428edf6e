// A submission and a completion queue of io_uring for reads, writes and flushes of files and for commands to drivers: what Swift
// cannot import of liburing, whose calls are inline functions. Not thread-safe: one thread uses a queue, from `curing_enable` on.
#pragma once

#include <stdbool.h>
#include <stdint.h>

typedef struct curing curing;

struct curing_completion {
    /// As given with the request.
    uint64_t tag;
    /// Bytes moved, or a negative errno.
    int32_t result;
};

// Room for so many completions for each request that may be prepared at a time.
#define CURING_COMPLETIONS 4
// A disabled queue for about `entries` requests prepared at a time, or NULL with errno when the kernel has none (or forbids it),
// or lacks one of the requests below.
curing *curing_open(unsigned entries);
// Binds the queue to the calling thread, the only one that may use it from now on. 0 or a negative errno.
int curing_enable(curing *queue);
// Nothing may be under way.
void curing_close(curing *queue);
// Readable when there are completions.
int curing_descriptor(const curing *queue);

// Prepare a request, which begins with the next submission. False: the queue is full, submit first.
bool curing_read(curing *queue, int descriptor, void *base, unsigned length, uint64_t offset, uint64_t tag);
// `through`: on stable media when it ends (RWF_DSYNC).
bool curing_write(curing *queue, int descriptor, const void *base, unsigned length, uint64_t offset, bool through, uint64_t tag);
bool curing_fdatasync(curing *queue, int descriptor, uint64_t tag);
// A command to the driver of the file; `payload` is 16 bytes. Fails like any request on kernels before 5.19.
bool curing_command(curing *queue, int descriptor, uint32_t operation, const void *payload, uint64_t tag);

// Has a driver carry out a command with up to 80 bytes of payload, on a queue of its own, and waits for it up to `milliseconds`. What
// the driver answers or a negative errno; -ETIME: it goes on, and with it the use of memory to which the payload points.
int curing_control(int descriptor, uint32_t operation, const void *payload, unsigned length, unsigned milliseconds);

// Begins what was prepared. The number of requests, or a negative errno.
int curing_submit(curing *queue);
// Takes up to `capacity` completions without waiting, those that found no room in the queue too. Fewer: there are no more.
unsigned curing_reap(curing *queue, struct curing_completion *completions, unsigned capacity);
// Waits up to `milliseconds` for a completion. 0, or a negative errno (-ETIME: there was none).
int curing_wait(curing *queue, unsigned milliseconds);
