#include "CZooKeeper.h"

#include <stdlib.h>
#include <string.h>

static const struct ACL_vector *acl_of(czk_acl acl) {
    // Nothing that is read for everybody is secret: what the masters advertise.
    static struct ACL entries[2] = {{0x1f, {"auth", ""}}, {0x01, {"world", "anyone"}}};
    static const struct ACL_vector creator_and_readers = {2, entries};
    switch (acl) {
    case czk_acl_creator: return &ZOO_CREATOR_ALL_ACL;
    case czk_acl_creator_and_readers: return &creator_and_readers;
    case czk_acl_open: break;
    }
    return &ZOO_OPEN_ACL_UNSAFE;
}

/// Everything that the library writes to until the answer is there.
typedef struct {
    czk_multi_done done;
    const void *context;
    int count;
    zoo_op_t *ops;
    zoo_op_result_t *results;
    struct Stat *stats;
    int *errors;
    int *versions;
} multi_call;

static void multi_free(multi_call *call) {
    free(call->ops);
    free(call->results);
    free(call->stats);
    free(call->errors);
    free(call->versions);
    free(call);
}

static void multi_done(int result, const void *data) {
    multi_call *call = (multi_call *)data;
    for (int index = 0; index < call->count; index++) {
        call->errors[index] = call->results[index].err;
        call->versions[index] = call->stats[index].version;
    }
    call->done(result, call->errors, call->versions, call->count, call->context);
    multi_free(call);
}

int czk_multi(zhandle_t *handle, const czk_op *ops, int count, czk_multi_done done, const void *context) {
    multi_call *call = calloc(1, sizeof *call);
    if (!call) return ZSYSTEMERROR;
    size_t size = count > 0 ? (size_t)count : 1;
    call->done = done;
    call->context = context;
    call->count = count;
    call->ops = calloc(size, sizeof *call->ops);
    call->results = calloc(size, sizeof *call->results);
    call->stats = calloc(size, sizeof *call->stats);
    call->errors = calloc(size, sizeof *call->errors);
    call->versions = calloc(size, sizeof *call->versions);
    if (!call->ops || !call->results || !call->stats || !call->errors || !call->versions) {
        multi_free(call);
        return ZSYSTEMERROR;
    }
    for (int index = 0; index < count; index++) {
        const czk_op *op = &ops[index];
        switch (op->kind) {
        case czk_check: zoo_check_op_init(&call->ops[index], op->path, op->version); break;
        case czk_make:
            zoo_create_op_init(&call->ops[index], op->path, op->bytes, op->length, acl_of(op->acl), 0, NULL, 0);
            break;
        case czk_set:
            zoo_set_op_init(&call->ops[index], op->path, op->bytes, op->length, op->version, &call->stats[index]);
            break;
        case czk_delete: zoo_delete_op_init(&call->ops[index], op->path, op->version); break;
        }
    }
    int result = zoo_amulti(handle, count, call->ops, call->results, multi_done, call);
    if (result != ZOK) multi_free(call);
    return result;
}

int czk_create(zhandle_t *handle, const char *path, const void *bytes, int length, czk_acl acl, int mode,
               string_completion_t done, const void *context) {
    return zoo_acreate(handle, path, bytes, length, acl_of(acl), mode, done, context);
}
