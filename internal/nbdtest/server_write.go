package nbdtest

import (
	"math/rand/v2"
	"time"
)

// batchPatience is how long a batch waits for more replies.
const batchPatience = 50 * time.Millisecond

// enqueue hands a reply to the writer; replies for a dead connection vanish.
func (c *serverConn) enqueue(out *outReply) {
	c.mu.Lock()
	c.queue = append(c.queue, out)
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// writer sends replies until the connection is killed.
func (c *serverConn) writer() {
	rnd := rand.New(rand.NewPCG(c.s.output().Seed, uint64(c.num)))
	for {
		batch := c.nextBatch()
		if batch == nil || !c.s.replying.wait(c.done) {
			return
		}
		out := c.s.output()
		if out.Batch > 1 {
			rnd.Shuffle(len(batch), func(a, b int) { batch[a], batch[b] = batch[b], batch[a] })
		}
		if !c.sendBatch(batch, out, rnd) {
			c.kill(FIN)
			return
		}
	}
}

// nextBatch waits for replies to send; nil: the connection is gone.
func (c *serverConn) nextBatch() []*outReply {
	var patience <-chan time.Time
	for expired := false; ; {
		want := c.s.output().Batch
		c.mu.Lock()
		n := len(c.queue)
		if n > 0 && (n >= want || expired) {
			batch := c.queue
			c.queue = nil
			c.mu.Unlock()
			return batch
		}
		c.mu.Unlock()
		if n > 0 && patience == nil {
			patience = time.After(batchPatience)
		}
		select {
		case <-c.wake:
		case <-patience:
			expired = true
		case <-c.done:
			return nil
		}
	}
}

// sendBatch sends all replies; false: the connection is to end.
func (c *serverConn) sendBatch(batch []*outReply, out Output, rnd *rand.Rand) bool {
	for len(batch) > 0 {
		i := 0
		if out.Interleave {
			i = rnd.IntN(len(batch))
		}
		r := batch[i]
		for more := true; more && len(r.frames) > 0; more = !out.Interleave {
			if !c.sendFrame(r, out, rnd) {
				return false
			}
		}
		if len(r.frames) == 0 {
			if r.cut {
				c.kill(r.how)
				return false
			}
			c.finish()
			batch = append(batch[:i], batch[i+1:]...)
		}
	}
	return true
}

// sendFrame sends the next frame of a reply, or as much as its cut leaves.
func (c *serverConn) sendFrame(r *outReply, out Output, rnd *rand.Rand) bool {
	frame := r.frames[0]
	r.frames = r.frames[1:]
	if len(r.frames) == 0 {
		c.settle(r.cookie)
	}
	cut := r.cut && r.left <= len(frame)
	if cut {
		frame = frame[:r.left]
	}
	r.left -= len(frame)
	if !c.sendPieces(frame, out, rnd) {
		return false
	}
	if cut {
		c.kill(r.how)
	}
	return !cut
}

func (c *serverConn) sendPieces(b []byte, out Output, rnd *rand.Rand) bool {
	for len(b) > 0 {
		n := len(b)
		if out.Fragment > 0 {
			n = min(n, 1+rnd.IntN(out.Fragment))
		}
		if _, err := c.conn.Write(b[:n]); err != nil {
			return false
		}
		if b = b[n:]; len(b) > 0 && out.Pause > 0 {
			time.Sleep(out.Pause)
		}
	}
	return true
}
