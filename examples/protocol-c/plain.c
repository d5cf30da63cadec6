/* The smallest protocol plugin that is good for something, in C: a disk behind a
 * server that speaks a protocol of three messages.
 *
 * All integers are little endian. The server speaks first:
 *
 *   greeting  24 bytes: "plain01\n", u64 size of the disk, u32 size of a block, u32 0
 *
 * The client sends requests, as many as it likes; the server answers each when it
 * is done, in any order:
 *
 *   request   24 bytes: u32 operation (1 read, 2 write, 3 flush), u32 length,
 *             u64 cookie, u64 offset; behind a write, its data
 *   reply     16 bytes: u32 errno or 0, u32 length of the data that follows
 *             (of a read that worked, else 0), u64 cookie; then the data
 */
#define BE_IMPLEMENTATION
#include "blockengine.h"

enum { GREETING = 24, REQUEST = 24, REPLY = 16, DEPTH = 128 };

const char be_manifest_json[] =
	"{\"kind\":\"protocol\",\"name\":\"plain\",\"version\":\"0.1.0\",\"abi\":\"1.0\",\"payload\":\"direct\",\"options\":[]}";

/* An outstanding request; its number is the cookie. */
struct slot {
	uint64_t tag, length;
	uint32_t op; /* 0: free */
};

static uint8_t greeting[GREETING];
static int logged_in;
static struct slot slots[DEPTH];
static uint32_t released[DEPTH], n_released; /* slots that were used and are free */
static uint32_t fresh, used;                 /* slots from fresh on were never used */

/* The greeting ends the login: it says what the disk is. */
static void greet(const uint8_t *b, uint32_t n) {
	if (n != GREETING || !be_equal(b, "plain01\n", 8)) {
		be_fail(BE_FAIL_CONN, BE_EPROTO, "this is no greeting of a plain server: is the address right?");
		return;
	}
	uint64_t size = be_get_le64(b + 8);
	uint32_t unit = be_get_le32(b + 16);
	if (unit == 0 || (unit & (unit - 1)) || unit > 65536 || size % unit) {
		be_fail(BE_FAIL_CONN, BE_EPROTO, "the server tells of a disk that cannot be: its size is no multiple of its block size");
		return;
	}
	memcpy(greeting, b, GREETING);
	logged_in = 1;
	struct be_limits *l = be_limits("", 0);
	l->size = size;
	l->block_size = unit;
	l->preferred = unit > 4096 ? unit : 4096;
	l->max_transfer = 1 << 20;
	l->caps = BE_CAP_FLUSH | BE_CAP_FLUSH_COVERS_ALL;
	l->depth = DEPTH;
	l->max_conns = 8;
	l->handover = 1;
	be_want(REPLY, 16 * REPLY);
}

void on_opened(const struct be_opened *o) {
	if (o->session == BE_SESSION_RESUMED) { /* another version has seen the greeting */
		greet(be_state_bytes(o), o->state_len);
		return;
	}
	be_want(GREETING, GREETING);
}

/* The limits promise DEPTH places, so there is one. */
int on_request(const struct be_request *r) {
	uint32_t cookie = n_released > 0 ? released[--n_released] : fresh++;
	if (cookie >= DEPTH) __builtin_trap();
	used++;
	slots[cookie] = (struct slot){r->tag, r->length, r->op};
	uint8_t *b = be_send_buffer(REQUEST);
	be_put_le32(b, r->op); /* 1, 2 and 3 are the same in both */
	be_put_le32(b + 4, (uint32_t)r->length);
	be_put_le64(b + 8, cookie);
	be_put_le64(b + 16, r->offset);
	if (r->op == BE_OP_WRITE) be_send_payload(r->tag, 0, r->length);
	return 1;
}

/* One reply; its data goes to the request without being seen. */
uint32_t on_received(const uint8_t *b, uint32_t n) {
	if (!logged_in) {
		if (n < GREETING) return 0;
		greet(b, GREETING);
		return GREETING;
	}
	if (n < REPLY) return 0;
	uint32_t status = be_get_le32(b), length = be_get_le32(b + 4);
	uint64_t cookie = be_get_le64(b + 8);
	if (cookie >= DEPTH || slots[cookie].op == 0) {
		be_fail(BE_FAIL_CONN, BE_EPROTO, "the server answers a request that is not outstanding");
		return n;
	}
	struct slot s = slots[cookie];
	if (length != (s.op == BE_OP_READ && status == 0 ? s.length : 0) || status > BE_MAX_STATUS) {
		be_fail(BE_FAIL_CONN, BE_EPROTO, "the server's reply does not fit the request: wrong length, or no errno");
		return n;
	}
	slots[cookie].op = 0;
	used--;
	released[n_released++] = (uint32_t)cookie;
	if (length > 0) be_receive(s.tag, 0, length);
	be_complete(s.tag, status);
	return REPLY;
}

/* What the next version goes on from is the greeting. */
void on_save(void) {
	if (logged_in && used == 0) be_state(greeting, GREETING);
}
