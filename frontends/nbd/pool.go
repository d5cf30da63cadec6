package nbd

import (
	"math/bits"
	"time"

	"blockengine/sdk/block"
)

// Sizes of a connection's memory, in bytes.
const (
	chunkBytes  = 128 << 10 // what is received and sent goes through chunks
	inlineBytes = 64 << 10  // payloads up to this lie in chunks; others may have a buffer
	bufferLog   = 17        // the smallest buffer: 128 KiB
	bufferSizes = 9         // up to 32 MiB
	extentRoom  = 1024      // of a block status
)

// What a reactor's pool keeps of memory that nobody uses.
const (
	keepChunks   = 64
	keepBuffers  = 32 << 20 // bytes
	keepRequests = 1024
	keepExtents  = 16
	trimAfter    = 5 * time.Second
)

// chunk is memory that a connection receives into or sends from. Its requests
// lie in it one behind the other; refs counts those that need it, and the
// connection while it is filling it.
type chunk struct {
	mem   []byte
	used  int // sending: bytes given out
	refs  int
	owner *conn
	from  *budget
}

// buffer is memory for one payload that is too large for a chunk.
type buffer struct {
	mem   []byte
	size  int // index of its size
	owner *conn
}

// pool is the memory of a reactor's connections, last in first out so that
// what is taken next is what the processor's caches hold.
type pool struct {
	chunks   []*chunk
	buffers  [bufferSizes][]*buffer
	kept     int // bytes of buffers
	requests []*request
	extents  [][]block.Extent
	idle     int // the fewest free chunks since the last trim

	// What is received into and what requests and replies need have budgets
	// of their own. Else memory full of requests that wait for a place for
	// their replies would leave no place for a reply.
	receiving, serving budget
}

// budget counts bytes that connections have.
type budget struct {
	used, limit int
}

// newPool makes a pool that connections may take limit bytes of.
func newPool(limit int) pool {
	return pool{receiving: budget{limit: limit / 4}, serving: budget{limit: limit - limit/4}}
}

// inUse is how many bytes connections have in all.
func (p *pool) inUse() int { return p.receiving.used + p.serving.used }

// take gives the connection a chunk at the expense of b, with one reference.
func (p *pool) take(c *conn, b *budget) *chunk {
	var k *chunk
	if n := len(p.chunks); n > 0 {
		k = p.chunks[n-1]
		p.chunks = p.chunks[:n-1]
		p.idle = min(p.idle, n-1)
	} else {
		k = &chunk{mem: make([]byte, chunkBytes)}
		p.idle = 0
	}
	k.refs, k.used, k.owner, k.from = 1, 0, c, b
	c.mem += chunkBytes
	b.used += chunkBytes
	return k
}

// drop ends n uses of a chunk.
func (p *pool) drop(k *chunk, n int) {
	if k.refs -= n; k.refs > 0 {
		return
	}
	k.owner.mem -= chunkBytes
	k.from.used -= chunkBytes
	k.owner, k.from = nil, nil
	if len(p.chunks) < keepChunks {
		p.chunks = append(p.chunks, k)
	}
}

// bufferSize gives the index of the smallest buffers that hold n bytes, and
// their size.
func bufferSize(n int) (index, bytes int) {
	index = max(0, bits.Len(uint(n-1))-bufferLog)
	return index, 1 << (bufferLog + index)
}

// takeBuffer gives the connection a buffer for n bytes, at most maxPayload.
func (p *pool) takeBuffer(c *conn, n int) *buffer {
	i, bytes := bufferSize(n)
	c.mem += bytes
	p.serving.used += bytes
	free := p.buffers[i]
	if len(free) == 0 {
		return &buffer{mem: make([]byte, bytes), size: i, owner: c}
	}
	b := free[len(free)-1]
	p.buffers[i] = free[:len(free)-1]
	p.kept -= bytes
	b.owner = c
	return b
}

// dropBuffer takes a buffer back.
func (p *pool) dropBuffer(b *buffer) {
	b.owner.mem -= len(b.mem)
	b.owner = nil
	p.serving.used -= len(b.mem)
	if p.kept+len(b.mem) <= keepBuffers {
		p.kept += len(b.mem)
		p.buffers[b.size] = append(p.buffers[b.size], b)
	}
}

func (p *pool) takeRequest() *request {
	if n := len(p.requests); n > 0 {
		q := p.requests[n-1]
		p.requests = p.requests[:n-1]
		return q
	}
	return &request{}
}

func (p *pool) dropRequest(q *request) {
	q.io.Data, q.segs[0] = nil, nil
	if len(p.requests) < keepRequests {
		p.requests = append(p.requests, q)
	}
}

func (p *pool) takeExtents() []block.Extent {
	if n := len(p.extents); n > 0 {
		e := p.extents[n-1]
		p.extents = p.extents[:n-1]
		return e
	}
	return make([]block.Extent, 0, extentRoom)
}

func (p *pool) dropExtents(e []block.Extent) {
	if len(p.extents) < keepExtents {
		p.extents = append(p.extents, e[:0])
	}
}

// trim gives up what has not been needed since the last trim, and reports
// whether there is more to give up later.
func (p *pool) trim() bool {
	n := min(p.idle, len(p.chunks))
	clear(p.chunks[:n])
	p.chunks = append(p.chunks[:0], p.chunks[n:]...)
	clear(p.chunks[len(p.chunks):cap(p.chunks)])
	for i := range p.buffers {
		p.buffers[i] = nil
	}
	p.kept = 0
	p.idle = len(p.chunks)
	return p.idle > 0
}
