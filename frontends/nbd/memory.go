package nbd

import "time"

const (
	stallTime    = 5 * time.Second // of waiting, and of standing still
	relieveEvery = time.Second
)

// drop ends n uses of a chunk.
func (w *worker) drop(k *chunk, n int) {
	w.pool.drop(k, n)
	w.freed()
	w.keepTrim()
}

func (w *worker) dropBuffer(b *buffer) {
	w.pool.dropBuffer(b)
	w.freed()
	w.keepTrim()
}

// keepTrim sees to it that memory which is not needed any more goes back.
func (w *worker) keepTrim() {
	if !w.trimmer.Running() {
		w.r.StartTimer(&w.trimmer, trimAfter)
	}
}

func (w *worker) trim() {
	if w.pool.trim() {
		w.r.StartTimer(&w.trimmer, trimAfter)
	}
}

// wait puts a connection among those that want memory.
func (w *worker) wait(c *conn) {
	if c.waiting {
		return
	}
	c.waiting = true
	w.waiting = append(w.waiting, c)
	if !w.starved.Running() {
		w.r.StartTimer(&w.starved, w.stall)
	}
}

// freed is called when there may be memory for those that wait.
func (w *worker) freed() {
	if len(w.waiting) > 0 {
		w.r.Defer(&w.waker)
	}
}

// wake lets all that wait try again, in the order in which they came. Whoever
// finds nothing waits again.
func (w *worker) wake() {
	all := w.waiting
	w.waiting = nil
	for _, c := range all {
		c.waiting = false
		if c.phase == transmitting {
			c.source.Again()
		}
	}
}

// relieve cuts, while others wait for memory, a client that has held much of
// it for long without reading its replies or sending what it announced.
func (w *worker) relieve() {
	if len(w.waiting) == 0 {
		return
	}
	var worst *conn
	for c := range w.conns {
		if c.holdsUp() && (worst == nil || c.mem > worst.mem) {
			worst = c
		}
	}
	if worst != nil {
		worst.complain("nbd client cut: it does not go on, and others wait for the memory that it holds", "bytes", worst.mem)
		worst.cut()
	}
	w.freed()
	w.r.StartTimer(&w.starved, relieveEvery)
}

// holdsUp tells a connection whose memory only its client could free.
func (c *conn) holdsUp() bool {
	stuck := c.unsent() || c.cur != nil
	return stuck && c.phase < lingering && c.wk.r.Now()-c.progress > int64(c.wk.stall)
}
