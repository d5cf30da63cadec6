package nbdtest

import (
	"fmt"
	"time"
)

// Record is a request as the server received it.
type Record struct {
	Seq    int // order of arrival at the server, from 1
	Conn   int // connection, from 1
	Op     uint16
	Flags  uint16
	Cookie uint64
	Offset uint64
	Length uint64
	At     time.Time
	Done   int // order in which requests were carried out, from 1; 0: not (yet)
}

func (r Record) String() string {
	return fmt.Sprintf("#%d conn %d %s [%d,+%d) flags %#x done %d", r.Seq, r.Conn, CmdName(r.Op), r.Offset, r.Length, r.Flags, r.Done)
}

// Log gives all requests received so far, DISC included, in order of arrival.
func (s *Server) Log() []Record {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Record(nil), s.log...)
}

// Count is the number of requests received that match.
func (s *Server) Count(m Match) int {
	n := 0
	for _, r := range s.Log() {
		if m.matches(&r) {
			n++
		}
	}
	return n
}

func (s *Server) record(c *serverConn, h header) Record {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := Record{Seq: len(s.log) + 1, Conn: c.num, Op: h.Op, Flags: h.Flags, Cookie: h.Cookie,
		Offset: h.Offset, Length: h.Length, At: time.Now()}
	s.log = append(s.log, r)
	return r
}

// job is a request from its header to its reply.
type job struct {
	c       *serverConn
	h       header
	payload []byte
	rec     Record
	fault   Fault
}

// handle deals with one request; the reader continues when it returns.
func (c *serverConn) handle(h header, payload []byte) {
	j := &job{c: c, h: h, payload: payload, rec: c.s.record(c, h)}
	if !c.begin(h.Cookie) {
		c.note(violation("request", "cookie %#x is in flight", h.Cookie))
	}
	errno, complaint := c.judge(h, payload)
	if complaint != "" {
		c.note(violation(j.rec.String(), "%s", complaint))
	}
	if errno != 0 {
		j.answer(result{errno: errno})
		return
	}
	j.fault = c.s.faultFor(&j.rec)
	switch {
	case j.fault.hold != nil:
		j.fault.hold.take(j)
	case j.fault.DelayExec != nil:
		j.later(j.fault.DelayExec, j.run)
	default:
		j.run()
	}
	if j.fault.StopReading != nil {
		waitEither(j.fault.StopReading, c.done)
	}
}

// later calls f when ch closes, unless the server ends first. That the
// connection ends does not matter: that is the point of it.
func (j *job) later(ch <-chan struct{}, f func()) {
	j.c.s.group.run("delayed "+j.rec.String(), func() {
		if waitEither(ch, j.c.s.closed) {
			f()
		}
	})
}

// waitEither waits for one of two channels; true: it was the first.
func waitEither(a, b <-chan struct{}) bool {
	select {
	case <-a:
		return true
	case <-b:
		return false
	}
}

// run carries the request out and answers it.
func (j *job) run() {
	r := result{errno: j.fault.Errno}
	if r.errno == 0 || j.fault.Execute {
		r.data, r.extents = j.execute()
	} else if j.fault.AtOffset && j.h.Op == CmdRead {
		r.data = make([]byte, j.h.Length)
		j.c.export.Disk.ReadAt(r.data, j.h.Offset)
	}
	if j.fault.DropCache {
		j.c.export.Disk.Crash()
	}
	if j.fault.DelayReply != nil {
		j.later(j.fault.DelayReply, func() { j.answer(r) })
		return
	}
	j.answer(r)
}

// result is what carrying out a request gave.
type result struct {
	errno   uint32
	data    []byte
	extents []Extent
}

// execute does what the request says and numbers it in the log.
func (j *job) execute() (data []byte, extents []Extent) {
	disk, h := j.c.export.Disk, j.h
	fua := h.Flags&CmdFlagFUA != 0
	switch h.Op {
	case CmdRead:
		data = make([]byte, h.Length)
		disk.ReadAt(data, h.Offset)
	case CmdWrite:
		disk.WriteAt(j.payload, h.Offset, fua)
	case CmdFlush:
		disk.Flush()
	case CmdTrim:
		disk.Zero(h.Offset, h.Length, false, fua)
	case CmdWriteZeroes:
		disk.Zero(h.Offset, h.Length, h.Flags&CmdFlagNoHole != 0, fua)
	case CmdBlockStatus:
		limit := maxExtents
		if h.Flags&CmdFlagReqOne != 0 {
			limit = 1
		}
		extents = disk.Extents(h.Offset, h.Length, limit)
	}
	j.c.s.executedOne(j.rec.Seq)
	return data, extents
}

func (s *Server) executedOne(seq int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.executed++
	s.log[seq-1].Done = s.executed
}
