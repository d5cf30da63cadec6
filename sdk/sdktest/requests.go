package sdktest

import (
	"crypto/sha256"
	"hash/crc32"

	"blockengine/sdk/abi"
	"blockengine/sdk/block"
)

// Submit offers requests, as one batch where they fit, and does not wait.
func (x *Executor) Submit(batch ...*Request) {
	for _, r := range batch {
		x.tags++
		// Like an engine's tags: a small number that is used again and a
		// count that is not.
		r.tag = x.tags<<32 | (x.tags % 4096)
		if r.Op == block.OpRead {
			r.Data, r.filled = make([]byte, r.Length), make([]bool, r.Length)
		}
		x.order = append(x.order, r)
	}
	x.offer()
}

// offer hands in requests that wait, within depth and credit.
func (x *Executor) offer() {
	for len(x.order) > 0 && !x.Over() && !x.Closing && (!x.short || x.credit > 0) {
		x.called = nil
		for len(x.order) > 0 && (!x.short || x.credit > 0) && x.mayAdd() {
			r := x.order[0]
			if !put(&x.ev, abi.EvRequest, abi.Request{Tag: r.tag, Op: r.Op, Mods: r.Mods, Offset: r.Offset, Length: r.Length}) {
				break
			}
			x.order = x.order[1:]
			x.called = append(x.called, r)
			x.reqs[r.tag] = r
			if x.short {
				x.credit--
			}
		}
		if len(x.called) == 0 {
			return
		}
		given := x.called
		x.call()
		x.payload(given)
	}
}

// mayAdd keeps to the depth that the plugin and the engine agreed on.
func (x *Executor) mayAdd() bool {
	depth := x.o.Depth
	if x.Limits != nil && x.Limits.Depth > 0 {
		depth = min(depth, x.Limits.Depth)
	}
	return len(x.reqs) < int(depth)
}

// payload hands the bytes of writes to a plugin that transforms them.
func (x *Executor) payload(given []*Request) {
	if x.o.Manifest.Payload != "copy" {
		return
	}
	const piece = 16 << 10
	for _, r := range given {
		if r.Op != block.OpWrite || x.reqs[r.tag] != r {
			continue
		}
		for from := 0; from < len(r.Data); from += piece {
			b := r.Data[from:min(from+piece, len(r.Data))]
			put(&x.ev, abi.EvPayload, abi.Payload{Tag: r.tag, From: uint64(from), Len: uint32(len(b))}, b)
			x.call()
		}
	}
}

// Do submits requests and runs until all of them are done.
func (x *Executor) Do(batch ...*Request) {
	x.Submit(batch...)
	x.Wait(batch...)
}

// Wait runs until requests are done. If they do not get done, that is a violation.
func (x *Executor) Wait(batch ...*Request) {
	x.Run(func() bool {
		x.offer()
		for _, r := range batch {
			if !r.Done {
				return false
			}
		}
		return true
	})
	for _, r := range batch {
		if !r.Done && x.Failed == nil && !x.o.Lies {
			x.violate(inCompleting, "a %v of %d bytes at %d never got done", r.Op, r.Length, r.Offset)
			return
		}
	}
}

// Abort asks for a request back.
func (x *Executor) Abort(r *Request) {
	r.aborted = true
	put(&x.ev, abi.EvAbort, abi.Abort{Tag: r.tag})
	x.call()
}

// owned gives the request of a tag, if the plugin holds it.
func (x *Executor) owned(tag uint64, kind uint16) *Request {
	r := x.reqs[tag]
	if r == nil || r.gone {
		x.violate(inCompleting, "action %d names request %#x, which the plugin does not hold", kind, tag)
		return nil
	}
	return r
}

// ranged checks a Range over a request's payload and gives the request.
func (x *Executor) ranged(rec []byte, op block.Op) *Request {
	r := abi.Overlay[abi.Range](rec)
	q := x.owned(r.Tag, r.Kind)
	switch {
	case q == nil:
	case q.Op != op:
		x.violate(inCompleting, "action %d names a %v; it is for a %v", r.Kind, q.Op, op)
	case r.From > r.To || r.To > uint64(len(q.Data)):
		x.violate(inCompleting, "action %d is about bytes %d to %d of a payload of %d", r.Kind, r.From, r.To, len(q.Data))
	default:
		return q
	}
	return nil
}

// fill notes that bytes of a read are, or will be, filled.
func (x *Executor) fill(q *Request, from, to uint64) bool {
	for i := from; i < to; i++ {
		if q.filled[i] {
			x.violate(inReceiving, "byte %d of a read is filled twice", i)
			return false
		}
		q.filled[i] = true
	}
	return true
}

func (x *Executor) send(b []byte, digest bool) {
	if digest {
		x.crcOut = crc32.Update(x.crcOut, castagnoli, b)
	}
	x.out = append(x.out, b...)
}

// payloadOf is a write's payload, or the copy of it that was hashed.
func (x *Executor) payloadOf(q *Request) []byte {
	if b, ok := x.hashed[q.tag]; ok {
		return b
	}
	return q.Data
}

func (x *Executor) hash(rec []byte) {
	h := abi.Overlay[abi.Hash](rec)
	q := x.owned(h.Tag, h.Header.Kind)
	switch {
	case q == nil || !x.algorithm(h.Kind, abi.DigestCRC32C, abi.DigestSHA256):
		return
	case q.Op != block.OpWrite || h.From > h.To || h.To > uint64(len(q.Data)):
		x.violate(inDigests, "a hash of bytes %d to %d of a %v of %d", h.From, h.To, q.Op, len(q.Data))
		return
	}
	if x.hashed[q.tag] == nil {
		x.hashed[q.tag] = append([]byte(nil), q.Data...)
	}
	b := x.hashed[q.tag][h.From:h.To]
	if h.Kind == abi.DigestSHA256 {
		sum := sha256.Sum256(b)
		x.giveDigest(h.ID, 0, sum[:])
		return
	}
	c := crc32.Checksum(b, castagnoli)
	x.giveDigest(h.ID, 0, []byte{byte(c), byte(c >> 8), byte(c >> 16), byte(c >> 24)})
}

func (x *Executor) requestAction(kind uint16, rec []byte) {
	switch kind {
	case abi.ActZero:
		r := abi.Overlay[abi.Range](rec)
		if q := x.ranged(rec, block.OpRead); q != nil && x.fill(q, r.From, r.To) {
			clear(q.Data[r.From:r.To])
		}
	case abi.ActData:
		x.data(rec)
	case abi.ActExtent:
		x.extent(abi.Overlay[abi.Extent](rec))
	case abi.ActComplete:
		x.complete(abi.Overlay[abi.Complete](rec))
	case abi.ActReleased:
		x.released(abi.Overlay[abi.Complete](rec))
	case abi.ActTaken:
		x.taken(abi.Overlay[abi.Count](rec).N)
	case abi.ActReady:
		x.ready(abi.Overlay[abi.Count](rec).N)
	}
}

func (x *Executor) data(rec []byte) {
	p := abi.Overlay[abi.Payload](rec)
	b := x.inline(rec, p.Len, abi.MaxInline)
	q := x.owned(p.Tag, p.Kind)
	switch {
	case x.o.Manifest.Payload != "copy":
		x.violate(inDigests, "Data from a plugin whose manifest does not say that it transforms payload")
	case q == nil:
	case q.Op != block.OpRead || p.From > uint64(len(q.Data)) || uint64(len(b)) > uint64(len(q.Data))-p.From:
		x.violate(inDigests, "Data of %d bytes from %d for a %v of %d", len(b), p.From, q.Op, len(q.Data))
	case x.fill(q, p.From, p.From+uint64(len(b))):
		copy(q.Data[p.From:], b)
	}
}

func (x *Executor) extent(e *abi.Extent) {
	q := x.owned(e.Tag, e.Kind)
	if q == nil {
		return
	}
	described := uint64(0)
	for _, o := range q.Extents {
		described += o.Length
	}
	switch {
	case q.Op != block.OpBlockStatus:
		x.violate(inCompleting, "an extent for a %v", q.Op)
	case e.Length == 0:
		x.violate(inCompleting, "an extent of no bytes")
	case e.State&^uint32(block.Hole|block.Zero) != 0:
		x.violate(inCompleting, "an extent of the unknown state %#x", e.State)
	case described < q.Length: // what is beyond the request is dropped
		n := min(e.Length, q.Length-described)
		q.Extents = append(q.Extents, block.Extent{Length: n, State: block.ExtentState(e.State)})
	}
}

// complete ends the plugin's hold of a request at once; the request itself is
// done when what was received for it is there.
func (x *Executor) complete(c *abi.Complete) {
	q := x.owned(c.Tag, c.Kind)
	if q == nil {
		return
	}
	x.checkResult(q, c)
	q.gone = true
	status, done := block.Status(c.Status), c.Done
	x.enqueue(directive{then: func() {
		q.Done, q.Status, q.Partial = true, status, done
		x.forget(q)
	}})
}

func (x *Executor) forget(q *Request) {
	delete(x.reqs, q.tag)
	delete(x.hashed, q.tag)
}

func (x *Executor) checkResult(q *Request, c *abi.Complete) {
	if c.Status > uint32(block.MaxStatus) {
		x.violate(inCompleting, "a request completed with errno %d", c.Status)
	}
	if c.Done > q.Length {
		x.violate(inCompleting, "a request of %d bytes of which %d were done", q.Length, c.Done)
	}
	if c.Status != 0 {
		return
	}
	if q.Op == block.OpBlockStatus && len(q.Extents) == 0 {
		x.violate(inCompleting, "a block status completed without an extent")
	}
	for i, f := range q.filled {
		if !f {
			x.violate(inCompleting, "a read of %d bytes completed with byte %d not filled", q.Length, i)
			return
		}
	}
}

func (x *Executor) released(c *abi.Complete) {
	q := x.owned(c.Tag, c.Kind)
	if q == nil {
		return
	}
	if !q.aborted {
		x.violate(inCompleting, "it releases a request that nobody wants back")
	}
	if c.Status > 1 {
		x.violate(inCompleting, "a release with the outcome %d", c.Status)
	}
	q.gone = true
	executed := c.Status == 1
	x.enqueue(directive{then: func() {
		q.Done, q.Released, q.Executed = true, true, executed
		x.forget(q)
	}})
}

// taken gives back what the plugin did not take of the batch.
func (x *Executor) taken(n uint64) {
	if n >= uint64(len(x.called)) {
		x.violate(inRequest, "it took %d of %d requests and says so", n, len(x.called))
		return
	}
	back := x.called[n:]
	for _, q := range back {
		if q.gone {
			x.violate(inRequest, "a request was completed and not taken")
		}
		delete(x.reqs, q.tag)
	}
	x.order = append(append([]*Request(nil), back...), x.order...)
	x.called = x.called[:n]
	x.short, x.credit = true, 0
}

// uncounted credits are as good as no limit.
const uncounted = 1024

// ready takes the plugin's word that it can take more.
func (x *Executor) ready(n uint64) {
	if !x.short {
		x.violate(inRequest, "Ready, though nothing was refused")
		return
	}
	if x.credit += n; x.credit >= uncounted {
		x.short = false
	}
}
