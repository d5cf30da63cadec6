package vhosttest

import "fmt"

// take notes completions.
func (w *worker) take(done []Completion, now int64) {
	if gap := now - w.lastDone; gap >= leastGap && w.filling == 0 && w.lastDone != 0 {
		w.noteGap(now)
	}
	w.lastDone = now
	for _, c := range done {
		i := w.byHead[c.Head]
		s := &w.slots[i]
		if !s.live || s.first != c.Head {
			w.mismatch(fmt.Sprintf("head %d came back, which was not offered", c.Head))
			continue
		}
		s.live = false
		w.free = append(w.free, i)
		ns := now - s.at
		w.counts.hist[bucketOf(ns)]++
		w.counts.longest = max(w.counts.longest, ns)
		w.end(s, c.Written)
	}
	w.publish()
}

// end judges one completion.
func (w *worker) end(s *slot, written uint32) {
	n, writable := w.size, uint32(1)
	switch s.op {
	case OpIn:
		w.counts.reads++
		writable += uint32(n)
	case OpOut:
		w.counts.writes++
	default:
		w.counts.flushes++
		n = 0
	}
	status := *s.area.status(n)
	if status != StatusOK || written != writable {
		w.endBadly(s, status, written, writable)
	}
	ok := status == StatusOK
	switch {
	case s.op == OpFlush:
	case s.note != nil:
		w.endNote(s, ok)
	case w.blocks.of != nil:
		w.endBlock(s, ok)
	}
}

// endBadly counts a failure, and notes what no device may do.
func (w *worker) endBadly(s *slot, status uint8, written, writable uint32) {
	if status != StatusOK {
		w.counts.failed++
	}
	if err := judge(s.op, status, written, writable); err != nil {
		w.mismatch(err.Error())
	}
}

func (w *worker) endNote(s *slot, ok bool) {
	var err error
	if !ok {
		err = ErrIO
	}
	var data []byte
	if s.op == OpIn {
		data = s.area.payload(w.size)
	}
	s.note.End(data, err)
	s.note = nil
}

func (w *worker) endBlock(s *slot, ok bool) {
	b := &w.blocks.of[s.block]
	if s.op == OpOut {
		b.writing = false
		if ok {
			b.lo = b.hi
		}
		return
	}
	b.readers--
	if !ok {
		return
	}
	data, sector := s.area.payload(w.size), w.sector(s.block)
	if at := w.pattern.check(data, sector, s.lo, s.hi); at >= 0 {
		what, version, made := w.pattern.seen(data[at*SectorSize : (at+1)*SectorSize])
		w.mismatch(fmt.Sprintf("at %v sector %d: want version %d to %d, got sector %d version %d (ours: %v)",
			w.l.Now(), sector+uint64(at), s.lo, s.hi, what, version, made))
	}
}

func (w *worker) mismatch(what string) {
	w.counts.mismatched++
	if len(w.counts.examples) < maxExamples {
		w.counts.examples = append(w.counts.examples, fmt.Sprintf("queue %d: %s", w.queue, what))
	}
}

// publish shows others how far it is.
func (w *worker) publish() {
	w.progress.completed.Store(w.counts.reads + w.counts.writes + w.counts.flushes)
	if w.counts.failed|w.counts.mismatched != 0 {
		w.progress.failed.Store(w.counts.failed)
		w.progress.mismatched.Store(w.counts.mismatched)
	}
}
