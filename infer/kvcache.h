/* infer/kvcache.h - who has which block of the paged key/value cache: counts, and blocks found again by what lies in
 * front of them. Block numbers only; keys and values are the engine's.
 *
 * A block is taken, shared any number of times and released as often. One whose tokens are all there may be given a
 * name, the hash of everything that its keys and values depend on: q3_kvcache_find finds it then, while it is in use and
 * after that until it is taken again. Free blocks are taken oldest first, those without a name before all others
 * (vLLM's automatic prefix caching).
 *
 * One owner, no threads.
 */
#ifndef Q3_INFER_KVCACHE_H
#define Q3_INFER_KVCACHE_H

#include "core/sha256.h"
#include "core/status.h"

typedef struct q3_kvcache q3_kvcache;

typedef struct q3_block_name {
    unsigned char hash[Q3_SHA256_BYTES];
} q3_block_name;

/* All blocks are free and nameless. Error: Q3_ERR_MEMORY. */
q3_status q3_kvcache_create(q3_kvcache **out, int32_t blocks);
void q3_kvcache_destroy(q3_kvcache *c); /* NULL is fine */

int32_t q3_kvcache_free(const q3_kvcache *c);                 /* blocks that nobody uses */
int32_t q3_kvcache_users(const q3_kvcache *c, int32_t block); /* how often it is taken and shared */

/* The free block that is to go first, used once and nameless from here on; -1 when there is none. */
int32_t q3_kvcache_take(q3_kvcache *c);
/* One user more; of a free block that was found too. */
void q3_kvcache_share(q3_kvcache *c, int32_t block);
/* One user less. A sequence gives its blocks back in reverse, so that ends are forgotten before beginnings. */
void q3_kvcache_release(q3_kvcache *c, int32_t block);

/* The block of that name, -1 when there is none. */
int32_t q3_kvcache_find(const q3_kvcache *c, const q3_block_name *name);
/* Names a block; nothing where another one has the name. */
void q3_kvcache_name(q3_kvcache *c, int32_t block, const q3_block_name *name);
/* Takes the name away: the content is about to change. */
void q3_kvcache_unname(q3_kvcache *c, int32_t block);
bool q3_kvcache_named(const q3_kvcache *c, int32_t block);

#endif
