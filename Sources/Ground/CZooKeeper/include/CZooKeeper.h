// The part of libzookeeper that Coordination uses, with completions that copy nothing and own nothing.
#ifndef CZOOKEEPER_H
#define CZOOKEEPER_H

#include <stdint.h>
#include <zookeeper/zookeeper.h>

/// Who may do what with a node.
typedef enum {
    czk_acl_open,
    /// Everything for the identity that made it, nothing for others.
    czk_acl_creator,
    /// As before, and reading for everybody.
    czk_acl_creator_and_readers,
} czk_acl;

typedef enum { czk_check, czk_make, czk_set, czk_delete } czk_kind;

/// One part of an atomic change. What it points to is read during the call only.
typedef struct {
    czk_kind kind;
    const char *path;
    const void *bytes;
    int length;
    /// -1: any. Not for czk_make.
    int version;
    czk_acl acl;
} czk_op;

/// What became of each part: `errors[i]` is a ZOO_ERRORS, `versions[i]` the node's version after a set. Both are valid during the
/// call only.
typedef void (*czk_multi_done)(int result, const int *errors, const int *versions, int count, const void *context);

/// Asks for all parts together. A result other than ZOK means that `done` will not be called.
int czk_multi(zhandle_t *handle, const czk_op *ops, int count, czk_multi_done done, const void *context);

/// zoo_acreate with one of the ACLs above; `mode` is 0 or an or of ZOO_EPHEMERAL and ZOO_SEQUENCE.
int czk_create(zhandle_t *handle, const char *path, const void *bytes, int length, czk_acl acl, int mode,
               string_completion_t done, const void *context);

#endif
