/* blockengine.h: protocol plugins in C, compiled to WebAssembly, without a libc.
 *
 * One file of a plugin is its implementation:
 *
 *     #define BE_IMPLEMENTATION
 *     #include "blockengine.h"
 *
 *     const char be_manifest_json[] = "{\"kind\":\"protocol\", ...}";
 *
 *     void on_opened(const struct be_opened *o) { log in }
 *     int on_request(const struct be_request *r) { send it; return 1; }
 *     uint32_t on_received(const uint8_t *b, uint32_t n) { look; return bytes consumed; }
 *
 * and is built with
 *
 *     clang --target=wasm32 -O2 -ffreestanding -nostdlib -Wall -Wextra \
 *         -Wl,--no-entry -Wl,--strip-all -o myprotocol.wasm myprotocol.c
 *
 * What the events and actions mean is in PLUGIN.md, chapters 2 and 5 to 8; what
 * this header does for a plugin is in chapters 3 and 4. A plugin's global
 * variables are those of one connection.
 */
#ifndef BLOCKENGINE_H
#define BLOCKENGINE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
#error "blockengine.h is C: compile the plugin with clang, not clang++"
#endif

/* generated from sdk/abi and sdk/block: begin */

#define BE_ABI_VERSION 65536u /* 1.0 */

#define BE_CALL_MORE 2147483648u

#define BE_IN_SIZE 65536u
#define BE_OUT_SIZE 65536u

#define BE_MAX_INLINE 32768u /* bytes inline in one Send, Publish, State, Message or Data */
#define BE_MAX_TIMERS 16u /* timers of a connection */
#define BE_MIN_TIMER_NS 1000000u /* a timer set to fire sooner fires after this long */
#define BE_MAX_WANT 32768u /* largest Min and Max of a Want */
#define BE_MAX_TEXT 1024u /* bytes of a log line or failure text that are kept */
#define BE_MAX_STATE 16384u /* handover state, all its records together */
#define BE_MAX_SESSION 32768u /* session data */

#define BE_ACT_SEND 1u /* Bytes: send these */
#define BE_ACT_SEND_PAYLOAD 2u /* Range: send a write's payload from..to */
#define BE_ACT_SEND_DIGEST 3u /* DigestMark: send the running digest, start a new one */
#define BE_ACT_CONSUME 4u /* Count: these bytes have been understood */
#define BE_ACT_RECEIVE 5u /* Range: the next to-from bytes go into a read's payload */
#define BE_ACT_DISCARD 6u /* Count: throw the next bytes away */
#define BE_ACT_CHECK_DIGEST 7u /* DigestMark: compare the next bytes with the running digest */
#define BE_ACT_WANT 8u /* Want: how much to hand in */
#define BE_ACT_ZERO 9u /* Range: from..to of a read's payload are zeroes */
#define BE_ACT_EXTENT 10u /* Extent: one more extent of a block status */
#define BE_ACT_COMPLETE 11u /* Complete: a request is finished */
#define BE_ACT_RELEASED 12u /* Complete: the answer to Abort */
#define BE_ACT_TAKEN 13u /* Count: how many of the call's requests were taken, if not all */
#define BE_ACT_READY 14u /* Count: so many more can be taken; counted from the first Taken on */
#define BE_ACT_DATA 15u /* Payload: bytes for a read's payload, from a plugin that transforms */
#define BE_ACT_LIMITS 16u /* Limits: the disk and what the connection can do; the first says that login is done */
#define BE_ACT_TIMER 17u /* SetTimer */
#define BE_ACT_PUBLISH 18u /* SessionData: session data for the other connections */
#define BE_ACT_MESSAGE 19u /* Message: to another connection of the session */
#define BE_ACT_FAIL 20u /* Fail: this connection, or the session, cannot go on */
#define BE_ACT_CLOSE 21u /* Header: close when what is queued has been sent */
#define BE_ACT_STATE 22u /* Bytes: the answer to Save, if the connection can be handed over now */
#define BE_ACT_HASH 23u /* Hash: compute a digest of a payload */
#define BE_ACT_PATH 24u /* PathState: news of the path's state */
#define BE_ACT_REDIRECT 25u /* Bytes: go to this address instead */
#define BE_ACT_LOG 26u /* Bytes; Flags is the level */

#define BE_FLAG_DIGEST 1u
#define BE_FLAG_MORE 2u
#define BE_FLAG_PERMANENT 4u

#define BE_LOG_DEBUG 0u
#define BE_LOG_INFO 1u
#define BE_LOG_WARN 2u
#define BE_LOG_ERROR 3u

#define BE_DIGEST_CRC32C 1u /* Castagnoli, as iSCSI and NVMe/TCP use it; sent little endian */
#define BE_DIGEST_SHA256 2u /* Hash only */

#define BE_FENCE_EOF 0u /* the server's end of stream after our own, or the volume's fence time */
#define BE_FENCE_REINSTATE 1u /* a login with the same SessionID ends the old connection's tasks */
#define BE_FENCE_QUIESCE 2u /* FenceNS after the loss */

#define BE_FAIL_CONN 1u /* reconnect and go on */
#define BE_FAIL_SESSION 2u /* reconnect every connection */
#define BE_FAIL_FOREVER 3u /* do not try again: the volume stops with the text as its reason */

#define BE_PATH_OPTIMISED 1u
#define BE_PATH_NON_OPTIMISED 2u
#define BE_PATH_INACCESSIBLE 3u

#define BE_EV_OPENED 1u /* Opened: the connection is there; first of all events */
#define BE_EV_REQUEST 2u /* Request: one request of a batch */
#define BE_EV_RECEIVED 3u /* Received: a window of the received stream */
#define BE_EV_TIMER 4u /* Timer: a timer has fired */
#define BE_EV_ABORT 5u /* Abort: give a request back */
#define BE_EV_GOODBYE 6u /* Header: say goodbye to the server, then Close */
#define BE_EV_CLOSED 7u /* Closed: the connection is gone; last of all events */
#define BE_EV_MESSAGE 8u /* Message: from another connection of the session */
#define BE_EV_SESSION 9u /* SessionData: the control connection published anew */
#define BE_EV_SAVE 10u /* Header: answer with State, in this call; nothing is outstanding */
#define BE_EV_IDLE 11u /* Header: time to clean up (collect garbage) */
#define BE_EV_DIGEST 12u /* Digest: a digest asked for is ready */
#define BE_EV_PAYLOAD 13u /* Payload: a write's bytes, for plugins that transform them */

#define BE_ROLE_CONTROL 1u
#define BE_ROLE_DATA 2u

#define BE_SESSION_FIRST 1u /* the volume's first session */
#define BE_SESSION_RECONNECT 2u /* after a loss, or after another generation's session has ended */
#define BE_SESSION_SECOND 3u /* beside an older generation's session, to stay or for a trial */
#define BE_SESSION_RESUMED 4u /* goes on with an older generation's connection; State holds what it saved */

#define BE_FLAG_SHADOW 1u

#define BE_CLOSED_LOCAL 1u /* the engine closed */
#define BE_CLOSED_EOF 2u /* the server closed */
#define BE_CLOSED_RESET 3u /* reset or another error of the transport, see Status */
#define BE_CLOSED_FAILED 4u /* the plugin failed the connection */

#define BE_OP_READ 1u /* fill Data from the disk */
#define BE_OP_WRITE 2u /* store Data */
#define BE_OP_FLUSH 3u /* make every acknowledged write durable; Offset and Length are 0 */
#define BE_OP_DISCARD 4u /* the range may lose its content */
#define BE_OP_WRITE_ZEROES 5u /* the range reads as zeroes afterwards */
#define BE_OP_BLOCK_STATUS 6u /* describe the range in Extents */
#define BE_OP_CACHE 7u /* a hint: the range will be read soon */

#define BE_FUA 1u
#define BE_NO_HOLE 2u
#define BE_FAST_ZERO 4u
#define BE_ONE_EXTENT 8u

#define BE_HOLE 1u
#define BE_ZERO 2u

#define BE_CAP_FLUSH 1u
#define BE_CAP_FUA 2u
#define BE_CAP_DISCARD 4u
#define BE_CAP_WRITE_ZEROES 8u
#define BE_CAP_FAST_ZERO 16u
#define BE_CAP_BLOCK_STATUS 32u
#define BE_CAP_CACHE 64u
#define BE_CAP_READ_ONLY 128u
#define BE_CAP_ROTATIONAL 256u
#define BE_CAP_FLUSH_COVERS_ALL 512u

#define BE_OK 0u
#define BE_EPERM 1u
#define BE_ENOENT 2u
#define BE_EIO 5u
#define BE_ENXIO 6u
#define BE_EAGAIN 11u
#define BE_ENOMEM 12u
#define BE_EACCES 13u
#define BE_EBUSY 16u
#define BE_ENODEV 19u
#define BE_EINVAL 22u
#define BE_EFBIG 27u
#define BE_ENOSPC 28u
#define BE_EROFS 30u
#define BE_EPIPE 32u
#define BE_EPROTO 71u
#define BE_EBADMSG 74u
#define BE_EOVERFLOW 75u
#define BE_ENOTSUP 95u
#define BE_ECONNRESET 104u
#define BE_ESHUTDOWN 108u
#define BE_ETIMEDOUT 110u
#define BE_ECONNREFUSED 111u
#define BE_ESTALE 116u
#define BE_MAX_STATUS 4095u

struct be_header {
	uint16_t kind;
	uint16_t flags;
	uint32_t size;
};
_Static_assert(sizeof(struct be_header) == 8, "Header");
_Static_assert(offsetof(struct be_header, kind) == 0, "Header.Kind");
_Static_assert(offsetof(struct be_header, flags) == 2, "Header.Flags");
_Static_assert(offsetof(struct be_header, size) == 4, "Header.Size");

struct be_buffers {
	uint32_t in;
	uint32_t in_size;
	uint32_t out;
	uint32_t out_size;
};
_Static_assert(sizeof(struct be_buffers) == 16, "Buffers");
_Static_assert(offsetof(struct be_buffers, in) == 0, "Buffers.In");
_Static_assert(offsetof(struct be_buffers, in_size) == 4, "Buffers.InSize");
_Static_assert(offsetof(struct be_buffers, out) == 8, "Buffers.Out");
_Static_assert(offsetof(struct be_buffers, out_size) == 12, "Buffers.OutSize");

struct be_opened {
	struct be_header h;
	uint64_t mono;
	uint64_t wall;
	uint8_t host_id[16];
	uint8_t session_id[16];
	uint8_t seed[32];
	uint32_t conn;
	uint32_t reactor;
	uint16_t role;
	uint16_t session;
	uint32_t depth;
	uint32_t options_len;
	uint32_t session_len;
	uint32_t state_len;
	uint32_t read_only;
	uint64_t stream_pos;
};
_Static_assert(sizeof(struct be_opened) == 128, "Opened");
_Static_assert(offsetof(struct be_opened, h) == 0, "Opened.Header");
_Static_assert(offsetof(struct be_opened, mono) == 8, "Opened.Mono");
_Static_assert(offsetof(struct be_opened, wall) == 16, "Opened.Wall");
_Static_assert(offsetof(struct be_opened, host_id) == 24, "Opened.HostID");
_Static_assert(offsetof(struct be_opened, session_id) == 40, "Opened.SessionID");
_Static_assert(offsetof(struct be_opened, seed) == 56, "Opened.Seed");
_Static_assert(offsetof(struct be_opened, conn) == 88, "Opened.Conn");
_Static_assert(offsetof(struct be_opened, reactor) == 92, "Opened.Reactor");
_Static_assert(offsetof(struct be_opened, role) == 96, "Opened.Role");
_Static_assert(offsetof(struct be_opened, session) == 98, "Opened.Session");
_Static_assert(offsetof(struct be_opened, depth) == 100, "Opened.Depth");
_Static_assert(offsetof(struct be_opened, options_len) == 104, "Opened.OptionsLen");
_Static_assert(offsetof(struct be_opened, session_len) == 108, "Opened.SessionLen");
_Static_assert(offsetof(struct be_opened, state_len) == 112, "Opened.StateLen");
_Static_assert(offsetof(struct be_opened, read_only) == 116, "Opened.ReadOnly");
_Static_assert(offsetof(struct be_opened, stream_pos) == 120, "Opened.StreamPos");

struct be_request {
	struct be_header h;
	uint64_t tag;
	uint8_t op;
	uint8_t reserved17;
	uint16_t mods;
	uint32_t reserved20;
	uint64_t offset;
	uint64_t length;
};
_Static_assert(sizeof(struct be_request) == 40, "Request");
_Static_assert(offsetof(struct be_request, h) == 0, "Request.Header");
_Static_assert(offsetof(struct be_request, tag) == 8, "Request.Tag");
_Static_assert(offsetof(struct be_request, op) == 16, "Request.Op");
_Static_assert(offsetof(struct be_request, mods) == 18, "Request.Mods");
_Static_assert(offsetof(struct be_request, offset) == 24, "Request.Offset");
_Static_assert(offsetof(struct be_request, length) == 32, "Request.Length");

struct be_received {
	struct be_header h;
	uint64_t offset;
	uint32_t len;
	uint32_t reserved20;
};
_Static_assert(sizeof(struct be_received) == 24, "Received");
_Static_assert(offsetof(struct be_received, h) == 0, "Received.Header");
_Static_assert(offsetof(struct be_received, offset) == 8, "Received.Offset");
_Static_assert(offsetof(struct be_received, len) == 16, "Received.Len");

struct be_timer {
	struct be_header h;
	uint32_t id;
	uint32_t reserved12;
	uint64_t mono;
	uint64_t wall;
};
_Static_assert(sizeof(struct be_timer) == 32, "Timer");
_Static_assert(offsetof(struct be_timer, h) == 0, "Timer.Header");
_Static_assert(offsetof(struct be_timer, id) == 8, "Timer.ID");
_Static_assert(offsetof(struct be_timer, mono) == 16, "Timer.Mono");
_Static_assert(offsetof(struct be_timer, wall) == 24, "Timer.Wall");

struct be_abort {
	struct be_header h;
	uint64_t tag;
};
_Static_assert(sizeof(struct be_abort) == 16, "Abort");
_Static_assert(offsetof(struct be_abort, h) == 0, "Abort.Header");
_Static_assert(offsetof(struct be_abort, tag) == 8, "Abort.Tag");

struct be_closed {
	struct be_header h;
	uint32_t reason;
	uint32_t status;
};
_Static_assert(sizeof(struct be_closed) == 16, "Closed");
_Static_assert(offsetof(struct be_closed, h) == 0, "Closed.Header");
_Static_assert(offsetof(struct be_closed, reason) == 8, "Closed.Reason");
_Static_assert(offsetof(struct be_closed, status) == 12, "Closed.Status");

struct be_message {
	struct be_header h;
	uint32_t conn;
	uint32_t len;
};
_Static_assert(sizeof(struct be_message) == 16, "Message");
_Static_assert(offsetof(struct be_message, h) == 0, "Message.Header");
_Static_assert(offsetof(struct be_message, conn) == 8, "Message.Conn");
_Static_assert(offsetof(struct be_message, len) == 12, "Message.Len");

struct be_session_data {
	struct be_header h;
	uint32_t len;
	uint32_t reserved12;
};
_Static_assert(sizeof(struct be_session_data) == 16, "SessionData");
_Static_assert(offsetof(struct be_session_data, h) == 0, "SessionData.Header");
_Static_assert(offsetof(struct be_session_data, len) == 8, "SessionData.Len");

struct be_digest {
	struct be_header h;
	uint32_t id;
	uint32_t status;
	uint8_t value[32];
};
_Static_assert(sizeof(struct be_digest) == 48, "Digest");
_Static_assert(offsetof(struct be_digest, h) == 0, "Digest.Header");
_Static_assert(offsetof(struct be_digest, id) == 8, "Digest.ID");
_Static_assert(offsetof(struct be_digest, status) == 12, "Digest.Status");
_Static_assert(offsetof(struct be_digest, value) == 16, "Digest.Value");

struct be_payload {
	struct be_header h;
	uint64_t tag;
	uint64_t from;
	uint32_t len;
	uint32_t reserved28;
};
_Static_assert(sizeof(struct be_payload) == 32, "Payload");
_Static_assert(offsetof(struct be_payload, h) == 0, "Payload.Header");
_Static_assert(offsetof(struct be_payload, tag) == 8, "Payload.Tag");
_Static_assert(offsetof(struct be_payload, from) == 16, "Payload.From");
_Static_assert(offsetof(struct be_payload, len) == 24, "Payload.Len");

struct be_bytes {
	struct be_header h;
	uint32_t len;
	uint32_t reserved12;
};
_Static_assert(sizeof(struct be_bytes) == 16, "Bytes");
_Static_assert(offsetof(struct be_bytes, h) == 0, "Bytes.Header");
_Static_assert(offsetof(struct be_bytes, len) == 8, "Bytes.Len");

struct be_range {
	struct be_header h;
	uint64_t tag;
	uint64_t from;
	uint64_t to;
};
_Static_assert(sizeof(struct be_range) == 32, "Range");
_Static_assert(offsetof(struct be_range, h) == 0, "Range.Header");
_Static_assert(offsetof(struct be_range, tag) == 8, "Range.Tag");
_Static_assert(offsetof(struct be_range, from) == 16, "Range.From");
_Static_assert(offsetof(struct be_range, to) == 24, "Range.To");

struct be_count {
	struct be_header h;
	uint64_t n;
};
_Static_assert(sizeof(struct be_count) == 16, "Count");
_Static_assert(offsetof(struct be_count, h) == 0, "Count.Header");
_Static_assert(offsetof(struct be_count, n) == 8, "Count.N");

struct be_want {
	struct be_header h;
	uint32_t min;
	uint32_t max;
};
_Static_assert(sizeof(struct be_want) == 16, "Want");
_Static_assert(offsetof(struct be_want, h) == 0, "Want.Header");
_Static_assert(offsetof(struct be_want, min) == 8, "Want.Min");
_Static_assert(offsetof(struct be_want, max) == 12, "Want.Max");

struct be_complete {
	struct be_header h;
	uint64_t tag;
	uint32_t status;
	uint32_t reserved20;
	uint64_t done;
};
_Static_assert(sizeof(struct be_complete) == 32, "Complete");
_Static_assert(offsetof(struct be_complete, h) == 0, "Complete.Header");
_Static_assert(offsetof(struct be_complete, tag) == 8, "Complete.Tag");
_Static_assert(offsetof(struct be_complete, status) == 16, "Complete.Status");
_Static_assert(offsetof(struct be_complete, done) == 24, "Complete.Done");

struct be_extent {
	struct be_header h;
	uint64_t tag;
	uint64_t length;
	uint32_t state;
	uint32_t reserved28;
};
_Static_assert(sizeof(struct be_extent) == 32, "Extent");
_Static_assert(offsetof(struct be_extent, h) == 0, "Extent.Header");
_Static_assert(offsetof(struct be_extent, tag) == 8, "Extent.Tag");
_Static_assert(offsetof(struct be_extent, length) == 16, "Extent.Length");
_Static_assert(offsetof(struct be_extent, state) == 24, "Extent.State");

struct be_limits {
	struct be_header h;
	uint64_t size;
	uint64_t max_zeroes;
	uint64_t max_discard;
	uint64_t fence_ns;
	uint32_t block_size;
	uint32_t preferred;
	uint32_t max_transfer;
	uint32_t caps;
	uint32_t depth;
	uint32_t max_conns;
	uint32_t fence;
	uint32_t handover;
	uint32_t identity_len;
	uint32_t reserved76;
};
_Static_assert(sizeof(struct be_limits) == 80, "Limits");
_Static_assert(offsetof(struct be_limits, h) == 0, "Limits.Header");
_Static_assert(offsetof(struct be_limits, size) == 8, "Limits.Size");
_Static_assert(offsetof(struct be_limits, max_zeroes) == 16, "Limits.MaxZeroes");
_Static_assert(offsetof(struct be_limits, max_discard) == 24, "Limits.MaxDiscard");
_Static_assert(offsetof(struct be_limits, fence_ns) == 32, "Limits.FenceNS");
_Static_assert(offsetof(struct be_limits, block_size) == 40, "Limits.BlockSize");
_Static_assert(offsetof(struct be_limits, preferred) == 44, "Limits.Preferred");
_Static_assert(offsetof(struct be_limits, max_transfer) == 48, "Limits.MaxTransfer");
_Static_assert(offsetof(struct be_limits, caps) == 52, "Limits.Caps");
_Static_assert(offsetof(struct be_limits, depth) == 56, "Limits.Depth");
_Static_assert(offsetof(struct be_limits, max_conns) == 60, "Limits.MaxConns");
_Static_assert(offsetof(struct be_limits, fence) == 64, "Limits.Fence");
_Static_assert(offsetof(struct be_limits, handover) == 68, "Limits.Handover");
_Static_assert(offsetof(struct be_limits, identity_len) == 72, "Limits.IdentityLen");

struct be_set_timer {
	struct be_header h;
	uint32_t id;
	uint32_t reserved12;
	uint64_t after;
};
_Static_assert(sizeof(struct be_set_timer) == 24, "SetTimer");
_Static_assert(offsetof(struct be_set_timer, h) == 0, "SetTimer.Header");
_Static_assert(offsetof(struct be_set_timer, id) == 8, "SetTimer.ID");
_Static_assert(offsetof(struct be_set_timer, after) == 16, "SetTimer.After");

struct be_fail {
	struct be_header h;
	uint32_t scope;
	uint32_t status;
	uint32_t len;
	uint32_t reserved20;
};
_Static_assert(sizeof(struct be_fail) == 24, "Fail");
_Static_assert(offsetof(struct be_fail, h) == 0, "Fail.Header");
_Static_assert(offsetof(struct be_fail, scope) == 8, "Fail.Scope");
_Static_assert(offsetof(struct be_fail, status) == 12, "Fail.Status");
_Static_assert(offsetof(struct be_fail, len) == 16, "Fail.Len");

struct be_digest_mark {
	struct be_header h;
	uint32_t id;
	uint32_t kind;
};
_Static_assert(sizeof(struct be_digest_mark) == 16, "DigestMark");
_Static_assert(offsetof(struct be_digest_mark, h) == 0, "DigestMark.Header");
_Static_assert(offsetof(struct be_digest_mark, id) == 8, "DigestMark.ID");
_Static_assert(offsetof(struct be_digest_mark, kind) == 12, "DigestMark.Kind");

struct be_hash {
	struct be_header h;
	uint32_t id;
	uint32_t kind;
	uint64_t tag;
	uint64_t from;
	uint64_t to;
};
_Static_assert(sizeof(struct be_hash) == 40, "Hash");
_Static_assert(offsetof(struct be_hash, h) == 0, "Hash.Header");
_Static_assert(offsetof(struct be_hash, id) == 8, "Hash.ID");
_Static_assert(offsetof(struct be_hash, kind) == 12, "Hash.Kind");
_Static_assert(offsetof(struct be_hash, tag) == 16, "Hash.Tag");
_Static_assert(offsetof(struct be_hash, from) == 24, "Hash.From");
_Static_assert(offsetof(struct be_hash, to) == 32, "Hash.To");

struct be_path_state {
	struct be_header h;
	uint32_t state;
	uint32_t reserved12;
};
_Static_assert(sizeof(struct be_path_state) == 16, "PathState");
_Static_assert(offsetof(struct be_path_state, h) == 0, "PathState.Header");
_Static_assert(offsetof(struct be_path_state, state) == 8, "PathState.State");

/* generated from sdk/abi and sdk/block: end */

/* ---- what a plugin defines ------------------------------------------------ */

/* The manifest: UTF-8 JSON, see PLUGIN.md, chapter 1. */
extern const char be_manifest_json[];

/* The connection is there: log in. With o->session == BE_SESSION_RESUMED give
 * be_limits and send nothing, or be_fail. */
void on_opened(const struct be_opened *o);

/* Take a request and return 1; or do nothing with it and return 0. After the
 * first 0 give be_ready(1) for every place that gets free. */
int on_request(const struct be_request *r);

/* Look at the received stream from the current position on: b[0] to b[n-1].
 * Return how many bytes are consumed; be_receive and be_discard apply to the
 * bytes after those: return after giving one. 0 without them means that more
 * bytes are needed: say how many with be_want. It is called again while it makes
 * progress. */
uint32_t on_received(const uint8_t *b, uint32_t n);

/* The rest need not be defined. */
#define BE_OPTIONAL __attribute__((weak))
BE_OPTIONAL void on_timer(uint32_t id, uint64_t mono, uint64_t wall); /* ns */
BE_OPTIONAL void on_abort(uint64_t tag); /* without it: the server's answer is waited for */
BE_OPTIONAL void on_goodbye(void);       /* without it: be_close */
BE_OPTIONAL void on_closed(uint32_t reason, uint32_t status);
BE_OPTIONAL void on_save(void);          /* without it: there is no state */
BE_OPTIONAL void on_idle(void);
BE_OPTIONAL void on_message(uint32_t from, const uint8_t *b, uint32_t n);
BE_OPTIONAL void on_session_data(const uint8_t *b, uint32_t n);
BE_OPTIONAL void on_digest(const struct be_digest *d);
BE_OPTIONAL void on_payload(uint64_t tag, uint64_t from, const uint8_t *b, uint32_t n);

/* ---- reading what comes --------------------------------------------------- */

uint32_t be_strlen(const char *s);
int be_equal(const void *a, const void *b, uint32_t n);

/* An option's value, "" if it is not set; valid during on_opened. */
const char *be_option(const struct be_opened *o, const char *name);
/* A number in decimal digits, as options of type size and int are given; other
 * text gives `otherwise`. */
uint64_t be_number(const char *text, uint64_t otherwise);
/* The session's data and the saved state, o->session_len and o->state_len bytes. */
const uint8_t *be_session_bytes(const struct be_opened *o);
const uint8_t *be_state_bytes(const struct be_opened *o);

/* Integers on the wire, at any address. */
static inline uint16_t be_get_le16(const void *p) { uint16_t v; __builtin_memcpy(&v, p, 2); return v; }
static inline uint32_t be_get_le32(const void *p) { uint32_t v; __builtin_memcpy(&v, p, 4); return v; }
static inline uint64_t be_get_le64(const void *p) { uint64_t v; __builtin_memcpy(&v, p, 8); return v; }
static inline uint16_t be_get_be16(const void *p) { return __builtin_bswap16(be_get_le16(p)); }
static inline uint32_t be_get_be32(const void *p) { return __builtin_bswap32(be_get_le32(p)); }
static inline uint64_t be_get_be64(const void *p) { return __builtin_bswap64(be_get_le64(p)); }
static inline void be_put_le16(void *p, uint16_t v) { __builtin_memcpy(p, &v, 2); }
static inline void be_put_le32(void *p, uint32_t v) { __builtin_memcpy(p, &v, 4); }
static inline void be_put_le64(void *p, uint64_t v) { __builtin_memcpy(p, &v, 8); }
static inline void be_put_be16(void *p, uint16_t v) { be_put_le16(p, __builtin_bswap16(v)); }
static inline void be_put_be32(void *p, uint32_t v) { be_put_le32(p, __builtin_bswap32(v)); }
static inline void be_put_be64(void *p, uint64_t v) { be_put_le64(p, __builtin_bswap64(v)); }

/* ---- saying what is to be done -------------------------------------------- */

/* Room for one action of `size` bytes with a header of `kind`. The functions
 * below use it; a plugin needs it for actions that they do not know. */
void *be_action(uint16_t kind, uint16_t flags, uint32_t size);

/* The stream that is sent. be_send_buffer gives n bytes, at most BE_MAX_INLINE,
 * to be filled in before the next action. */
void be_send(const void *b, uint32_t n);
uint8_t *be_send_buffer(uint32_t n);
void be_send_payload(uint64_t tag, uint64_t from, uint64_t to);

/* The stream that is received. */
void be_receive(uint64_t tag, uint64_t from, uint64_t to);
void be_discard(uint64_t n);
void be_want(uint32_t min, uint32_t max);

/* Digests (PLUGIN.md, chapter 6). be_digested says that the action given last
 * (be_send, be_send_payload, be_receive, be_discard) counts in the running one. */
void be_digested(void);
void be_send_digest(uint32_t kind);
void be_check_digest(uint32_t id, uint32_t kind);
void be_hash(uint32_t id, uint32_t kind, uint64_t tag, uint64_t from, uint64_t to);

/* Requests. */
void be_zero(uint64_t tag, uint64_t from, uint64_t to);
void be_extent(uint64_t tag, uint64_t length, uint32_t state);
void be_complete(uint64_t tag, uint32_t status);
void be_complete_partial(uint64_t tag, uint32_t status, uint64_t done);
void be_released(uint64_t tag, int executed);
void be_ready(uint64_t n);
void be_data(uint64_t tag, uint64_t from, const void *b, uint32_t n);

/* The connection and its session. be_limits gives a record to be filled in, all
 * fields 0 but those of the identity and max_conns, which is 1. */
struct be_limits *be_limits(const void *identity, uint32_t n);
void be_set_timer(uint32_t id, uint64_t after_ns);
void be_publish(const void *b, uint32_t n);
void be_message(uint32_t to, const void *b, uint32_t n);
void be_state(const void *b, uint32_t n);
void be_path(uint32_t state);
void be_redirect(const char *address, int permanent);
void be_log(uint16_t level, const char *text);
void be_fail(uint32_t scope, uint32_t status, const char *text);
void be_close(void);

#ifdef BE_IMPLEMENTATION

/* ---- memory --------------------------------------------------------------- */

/* The compiler may call these three for copies of structs and the like. */
__attribute__((no_builtin("memcpy"))) void *memcpy(void *to, const void *from, size_t n) {
	char *d = to;
	for (const char *s = from; n > 0; n--) *d++ = *s++;
	return to;
}

__attribute__((no_builtin("memset"))) void *memset(void *to, int c, size_t n) {
	char *d = to;
	for (; n > 0; n--) *d++ = (char)c;
	return to;
}

__attribute__((no_builtin("memmove", "memcpy"))) void *memmove(void *to, const void *from, size_t n) {
	char *d = to;
	const char *s = from;
	if (d <= s) {
		for (; n > 0; n--) *d++ = *s++;
	} else {
		while (n-- > 0) d[n] = s[n];
	}
	return to;
}

/* ---- the buffers ---------------------------------------------------------- */

/* The output buffer is larger than the engine asks for: large enough for all
 * that a full input buffer can give rise to, so that no call needs a second one
 * (BE_CALL_MORE). A plugin that gives more than this in one call traps. */
#ifndef BE_OUT_BYTES
#define BE_OUT_BYTES (512 << 10)
#endif

static uint64_t be_in[BE_IN_SIZE / 8], be_out[BE_OUT_BYTES / 8];
static uint32_t be_used;  /* bytes of be_out */
static uint32_t be_last;  /* where the last action starts */
static uint64_t be_pos;   /* position in the received stream */
static int be_bad;        /* the events made no sense; nothing more is done */

static inline uint32_t be_align(uint32_t n) { return (n + 7) & ~7u; }

void *be_action(uint16_t kind, uint16_t flags, uint32_t size) {
	uint32_t whole = be_align(size);
	if (size > BE_OUT_BYTES || whole > BE_OUT_BYTES - be_used) __builtin_trap();
	struct be_header *h = (struct be_header *)((uint8_t *)be_out + be_used);
	be_last = be_used;
	be_used += whole;
	h->kind = kind;
	h->flags = flags;
	h->size = whole;
	return h;
}

/* ---- actions -------------------------------------------------------------- */

static void *be_inline(uint16_t kind, uint16_t flags, const void *b, uint32_t n, uint32_t most) {
	if (n > most) n = most;
	struct be_bytes *r = be_action(kind, flags, sizeof *r + n);
	r->len = n;
	if (b) __builtin_memcpy(r + 1, b, n);
	return r + 1;
}

uint8_t *be_send_buffer(uint32_t n) { return be_inline(BE_ACT_SEND, 0, 0, n, BE_MAX_INLINE); }

void be_send(const void *b, uint32_t n) {
	for (const uint8_t *p = b; n > 0;) {
		uint32_t part = n < BE_MAX_INLINE ? n : BE_MAX_INLINE;
		__builtin_memcpy(be_send_buffer(part), p, part);
		p += part;
		n -= part;
	}
}

static void be_ranged(uint16_t kind, uint64_t tag, uint64_t from, uint64_t to) {
	struct be_range *r = be_action(kind, 0, sizeof *r);
	r->tag = tag;
	r->from = from;
	r->to = to;
}

void be_send_payload(uint64_t tag, uint64_t from, uint64_t to) { be_ranged(BE_ACT_SEND_PAYLOAD, tag, from, to); }
void be_receive(uint64_t tag, uint64_t from, uint64_t to) { be_ranged(BE_ACT_RECEIVE, tag, from, to); }
void be_zero(uint64_t tag, uint64_t from, uint64_t to) { be_ranged(BE_ACT_ZERO, tag, from, to); }

static void be_count(uint16_t kind, uint64_t n) {
	struct be_count *r = be_action(kind, 0, sizeof *r);
	r->n = n;
}

void be_discard(uint64_t n) { be_count(BE_ACT_DISCARD, n); }
void be_ready(uint64_t n) { be_count(BE_ACT_READY, n); }

void be_want(uint32_t min, uint32_t max) {
	struct be_want *r = be_action(BE_ACT_WANT, 0, sizeof *r);
	r->min = min;
	r->max = max;
}

void be_digested(void) { ((struct be_header *)((uint8_t *)be_out + be_last))->flags |= BE_FLAG_DIGEST; }

static void be_digest_mark(uint16_t action, uint32_t id, uint32_t kind) {
	struct be_digest_mark *r = be_action(action, 0, sizeof *r);
	r->id = id;
	r->kind = kind;
}

void be_send_digest(uint32_t kind) { be_digest_mark(BE_ACT_SEND_DIGEST, 0, kind); }
void be_check_digest(uint32_t id, uint32_t kind) { be_digest_mark(BE_ACT_CHECK_DIGEST, id, kind); }

void be_hash(uint32_t id, uint32_t kind, uint64_t tag, uint64_t from, uint64_t to) {
	struct be_hash *r = be_action(BE_ACT_HASH, 0, sizeof *r);
	r->id = id;
	r->kind = kind;
	r->tag = tag;
	r->from = from;
	r->to = to;
}

void be_extent(uint64_t tag, uint64_t length, uint32_t state) {
	struct be_extent *r = be_action(BE_ACT_EXTENT, 0, sizeof *r);
	r->tag = tag;
	r->length = length;
	r->state = state;
}

static void be_end(uint16_t kind, uint64_t tag, uint32_t status, uint64_t done) {
	struct be_complete *r = be_action(kind, 0, sizeof *r);
	r->tag = tag;
	r->status = status;
	r->done = done;
}

void be_complete(uint64_t tag, uint32_t status) { be_end(BE_ACT_COMPLETE, tag, status, 0); }
void be_complete_partial(uint64_t tag, uint32_t status, uint64_t done) { be_end(BE_ACT_COMPLETE, tag, status, done); }
void be_released(uint64_t tag, int executed) { be_end(BE_ACT_RELEASED, tag, executed != 0, 0); }

void be_data(uint64_t tag, uint64_t from, const void *b, uint32_t n) {
	for (const uint8_t *p = b; n > 0;) {
		uint32_t part = n < BE_MAX_INLINE ? n : BE_MAX_INLINE;
		struct be_payload *r = be_action(BE_ACT_DATA, 0, sizeof *r + part);
		r->tag = tag;
		r->from = from;
		r->len = part;
		__builtin_memcpy(r + 1, p, part);
		p += part;
		from += part;
		n -= part;
	}
}

struct be_limits *be_limits(const void *identity, uint32_t n) {
	if (n > BE_MAX_TEXT) n = BE_MAX_TEXT;
	struct be_limits *r = be_action(BE_ACT_LIMITS, 0, sizeof *r + n);
	struct be_header h = r->h;
	__builtin_memset(r, 0, sizeof *r);
	r->h = h;
	r->max_conns = 1;
	r->identity_len = n;
	__builtin_memcpy(r + 1, identity, n);
	return r;
}

void be_set_timer(uint32_t id, uint64_t after_ns) {
	struct be_set_timer *r = be_action(BE_ACT_TIMER, 0, sizeof *r);
	r->id = id;
	r->after = after_ns;
}

void be_publish(const void *b, uint32_t n) { be_inline(BE_ACT_PUBLISH, 0, b, n, BE_MAX_SESSION); }

void be_message(uint32_t to, const void *b, uint32_t n) {
	if (n > BE_MAX_INLINE) n = BE_MAX_INLINE;
	struct be_message *r = be_action(BE_ACT_MESSAGE, 0, sizeof *r + n);
	r->conn = to;
	r->len = n;
	__builtin_memcpy(r + 1, b, n);
}

void be_state(const void *b, uint32_t n) { be_inline(BE_ACT_STATE, 0, b, n, BE_MAX_INLINE); }

void be_path(uint32_t state) {
	struct be_path_state *r = be_action(BE_ACT_PATH, 0, sizeof *r);
	r->state = state;
}

void be_redirect(const char *address, int permanent) {
	be_inline(BE_ACT_REDIRECT, permanent ? BE_FLAG_PERMANENT : 0, address, be_strlen(address), BE_MAX_TEXT);
}

void be_log(uint16_t level, const char *text) { be_inline(BE_ACT_LOG, level, text, be_strlen(text), BE_MAX_TEXT); }

void be_fail(uint32_t scope, uint32_t status, const char *text) {
	uint32_t n = be_strlen(text);
	if (n > BE_MAX_TEXT) n = BE_MAX_TEXT;
	struct be_fail *r = be_action(BE_ACT_FAIL, 0, sizeof *r + n);
	r->scope = scope;
	r->status = status;
	r->len = n;
	__builtin_memcpy(r + 1, text, n);
}

void be_close(void) { be_action(BE_ACT_CLOSE, 0, sizeof(struct be_header)); }

/* ---- reading -------------------------------------------------------------- */

uint32_t be_strlen(const char *s) {
	uint32_t n = 0;
	while (s[n]) n++;
	return n;
}

int be_equal(const void *a, const void *b, uint32_t n) {
	const uint8_t *p = a, *q = b;
	for (uint32_t i = 0; i < n; i++) {
		if (p[i] != q[i]) return 0;
	}
	return 1;
}

const char *be_option(const struct be_opened *o, const char *name) {
	const char *p = (const char *)(o + 1), *end = p + o->options_len;
	uint32_t n = be_strlen(name);
	while (p < end) {
		uint32_t whole = be_strlen(p); /* each "name=value" ends with a zero byte */
		if (whole > n && p[n] == '=' && be_equal(p, name, n)) return p + n + 1;
		p += whole + 1;
	}
	return "";
}

uint64_t be_number(const char *text, uint64_t otherwise) {
	uint64_t v = 0;
	if (!*text) return otherwise;
	for (; *text; text++) {
		uint64_t digit = (uint64_t)(*text - '0');
		if (digit > 9 || v > (UINT64_MAX - digit) / 10) return otherwise;
		v = v * 10 + digit;
	}
	return v;
}

const uint8_t *be_session_bytes(const struct be_opened *o) { return (const uint8_t *)(o + 1) + be_align(o->options_len); }
const uint8_t *be_state_bytes(const struct be_opened *o) { return be_session_bytes(o) + be_align(o->session_len); }

/* ---- calls ---------------------------------------------------------------- */

#define BE_EXPORT(name) __attribute__((export_name(name), used))

BE_EXPORT("be_abi") uint32_t be_export_abi(void) { return BE_ABI_VERSION; }

BE_EXPORT("be_manifest") uint64_t be_export_manifest(void) {
	return (uint64_t)(uintptr_t)be_manifest_json << 32 | be_strlen(be_manifest_json);
}

BE_EXPORT("be_buffers") uint32_t be_export_buffers(uint32_t in_size, uint32_t out_size) {
	static struct be_buffers b;
	if (in_size > sizeof be_in || out_size > sizeof be_out) __builtin_trap();
	b.in = (uint32_t)(uintptr_t)be_in;
	b.in_size = sizeof be_in;
	b.out = (uint32_t)(uintptr_t)be_out;
	b.out_size = sizeof be_out;
	return (uint32_t)(uintptr_t)&b;
}

/* How many bytes of the stream the actions from `at` on direct elsewhere. */
static uint64_t be_directed(uint32_t at) {
	uint64_t sum = 0;
	while (at < be_used) {
		const struct be_header *h = (const struct be_header *)((uint8_t *)be_out + at);
		if (h->kind == BE_ACT_RECEIVE) {
			sum += ((const struct be_range *)h)->to - ((const struct be_range *)h)->from;
		} else if (h->kind == BE_ACT_DISCARD) {
			sum += ((const struct be_count *)h)->n;
		} else if (h->kind == BE_ACT_CHECK_DIGEST) {
			sum += 4;
		}
		at += h->size;
	}
	return sum;
}

/* Let the plugin look at the stream from its position on. Consume stands before
 * the plugin's own actions, so its count is written afterwards. Gives 0 when the
 * plugin does not go on. */
static int be_step(const uint8_t *b, uint32_t n) {
	uint32_t at = be_used;
	struct be_count *consume = be_action(BE_ACT_CONSUME, 0, sizeof *consume);
	uint32_t after = be_used, took = on_received(b, n);
	if (took > n) took = n;
	if (took == 0 && be_used == after) {
		be_used = at;
		return 0;
	}
	consume->n = took;
	uint64_t moved = took + be_directed(after);
	be_pos += moved;
	return moved > 0;
}

static void be_refuse(void) {
	be_bad = 1;
	be_fail(BE_FAIL_CONN, BE_EPROTO, "the engine sent a malformed event record");
}

/* One event of `size` bytes, which is at least `fixed` with `len` inline. */
#define BE_EVENT(type, name) \
	const struct type *name = (const struct type *)h; \
	if (h->size < sizeof *name) { be_refuse(); return; }
#define BE_HAS(name, bytes) \
	if ((uint64_t)(bytes) > h->size - sizeof *(name)) { be_refuse(); return; }

static void be_received_event(const struct be_header *h) {
	BE_EVENT(be_received, e)
	BE_HAS(e, e->len)
	/* A window elsewhere than at the position is ignored. */
	while (be_pos >= e->offset && be_pos - e->offset < e->len) {
		uint32_t skip = (uint32_t)(be_pos - e->offset);
		if (!be_step((const uint8_t *)(e + 1) + skip, e->len - skip)) return;
	}
}

static void be_opened_event(const struct be_header *h) {
	BE_EVENT(be_opened, e)
	BE_HAS(e, (uint64_t)be_align(e->options_len) + be_align(e->session_len) + e->state_len)
	be_pos = e->stream_pos;
	on_opened(e);
}

static void be_message_event(const struct be_header *h) {
	BE_EVENT(be_message, e)
	BE_HAS(e, e->len)
	if (on_message) on_message(e->conn, (const uint8_t *)(e + 1), e->len);
}

static void be_session_event(const struct be_header *h) {
	BE_EVENT(be_session_data, e)
	BE_HAS(e, e->len)
	if (on_session_data) on_session_data((const uint8_t *)(e + 1), e->len);
}

static void be_payload_event(const struct be_header *h) {
	BE_EVENT(be_payload, e)
	BE_HAS(e, e->len)
	if (on_payload) on_payload(e->tag, e->from, (const uint8_t *)(e + 1), e->len);
}

static void be_small_event(const struct be_header *h) {
	if (h->kind == BE_EV_TIMER) {
		BE_EVENT(be_timer, e)
		if (on_timer) on_timer(e->id, e->mono, e->wall);
	} else if (h->kind == BE_EV_ABORT) {
		BE_EVENT(be_abort, e)
		if (on_abort) on_abort(e->tag);
	} else if (h->kind == BE_EV_CLOSED) {
		BE_EVENT(be_closed, e)
		if (on_closed) on_closed(e->reason, e->status);
	} else if (h->kind == BE_EV_DIGEST) {
		BE_EVENT(be_digest, e)
		if (on_digest) on_digest(e);
	}
}

static void be_rare_event(const struct be_header *h) {
	switch (h->kind) {
	case BE_EV_OPENED: be_opened_event(h); break;
	case BE_EV_GOODBYE:
		if (on_goodbye) on_goodbye();
		else be_close();
		break;
	case BE_EV_SAVE:
		if (on_save) on_save();
		break;
	case BE_EV_IDLE:
		if (on_idle) on_idle();
		break;
	case BE_EV_MESSAGE: be_message_event(h); break;
	case BE_EV_SESSION: be_session_event(h); break;
	case BE_EV_PAYLOAD: be_payload_event(h); break;
	default: be_small_event(h); /* an unknown kind is a later version's */
	}
}

BE_EXPORT("be_call") uint32_t be_export_call(uint32_t n) {
	uint64_t taken = 0;
	int refused = 0;
	be_used = 0;
	if (n > sizeof be_in) {
		be_refuse();
		n = 0;
	}
	for (uint32_t at = 0; at < n && !be_bad;) {
		const struct be_header *h = (const struct be_header *)((uint8_t *)be_in + at);
		if (h->size < sizeof *h || h->size % 8 || h->size > n - at) {
			be_refuse();
			break;
		}
		at += h->size;
		if (h->kind == BE_EV_RECEIVED) {
			be_received_event(h);
		} else if (h->kind != BE_EV_REQUEST) {
			be_rare_event(h);
		} else if (h->size < sizeof(struct be_request)) {
			be_refuse();
		} else if (!refused) { /* all requests of a call are one batch */
			if (on_request((const struct be_request *)h)) {
				taken++;
			} else {
				refused = 1;
				be_count(BE_ACT_TAKEN, taken);
			}
		}
	}
	return be_used;
}

#endif /* BE_IMPLEMENTATION */
#endif /* BLOCKENGINE_H */
