package nbdtest

import (
	"math/rand/v2"
	"time"
)

// Output says how replies are put on the wire. The zero value sends each reply
// whole, in the order in which they were made.
type Output struct {
	// Fragment cuts the output into writes of 1 to Fragment bytes, with Pause
	// between them. 0: whole.
	Fragment int
	Pause    time.Duration
	// Batch collects so many replies (or what came within 50 ms) and sends them
	// in random order.
	Batch int
	// Interleave mixes the chunks of a batch's replies; the order within a reply
	// stays.
	Interleave bool
	Seed       uint64
}

// SetOutput changes the manner of output, also of connections that are there.
func (s *Server) SetOutput(o Output) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.out = o
}

func (s *Server) output() Output {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out
}

// outReply is an encoded reply. frames are sent in order; if cut is set, the
// connection ends after left more bytes.
type outReply struct {
	cookie uint64
	frames [][]byte
	cut    bool
	left   int
	how    Ending
}

// answer encodes the result, with the fault's lies, and queues it.
func (j *job) answer(r result) {
	f := &j.fault
	if f.NoReply {
		j.c.finish()
		return
	}
	out := &outReply{cookie: j.h.Cookie, cut: f.Cut, left: f.CutAfter, how: f.CutHow}
	if j.useSimple(r) {
		out.frames = [][]byte{j.simple(r)}
	} else {
		chunks := j.chunks(r)
		if f.Edit != nil {
			chunks = f.Edit(chunks)
		}
		for _, c := range chunks {
			out.frames = append(out.frames, encodeChunk(c, j.c.extended))
		}
	}
	if f.Duplicate {
		out.frames = append(out.frames, out.frames...)
	}
	if f.Bytes != nil {
		out.frames = [][]byte{f.Bytes(join(out.frames))}
	}
	j.c.enqueue(out)
}

func join(frames [][]byte) []byte {
	var all []byte
	for _, f := range frames {
		all = append(all, f...)
	}
	return all
}

// useSimple: with structured replies, payload and errors come as chunks, plain
// success as a simple reply, so that clients meet both forms.
func (j *job) useSimple(r result) bool {
	if j.c.extended {
		return false
	}
	return !j.c.structured || (r.errno == 0 && j.h.Op != CmdRead && j.h.Op != CmdBlockStatus && j.fault.Edit == nil)
}

func (j *job) simple(r result) []byte {
	b := be.AppendUint32(nil, MagicSimple)
	b = be.AppendUint32(b, r.errno)
	b = be.AppendUint64(b, j.h.Cookie^j.fault.Cookie)
	if r.errno == 0 {
		b = append(b, r.data...)
	}
	return b
}

// chunks builds an honest structured (or extended) reply.
func (j *job) chunks(r result) []Chunk {
	var all []Chunk
	switch {
	case r.errno != 0:
		all = j.errorChunks(r)
	case j.h.Op == CmdRead:
		all = j.readChunks(r.data, 0)
	case j.h.Op == CmdBlockStatus:
		all = []Chunk{j.statusChunk(r.extents)}
	default:
		all = []Chunk{{Type: ReplyNone}}
	}
	for i := range all {
		all[i].Cookie, all[i].HeaderOffset = j.h.Cookie^j.fault.Cookie, j.h.Offset
	}
	all[len(all)-1].Flags = ReplyFlagDone
	return all
}

const errorMessage = "as the test asked"

func (j *job) errorChunks(r result) []Chunk {
	b := be.AppendUint32(nil, r.errno)
	b = be.AppendUint16(b, uint16(len(errorMessage)))
	b = append(b, errorMessage...)
	if !j.fault.AtOffset {
		return []Chunk{{Type: ReplyError, Payload: b}}
	}
	var all []Chunk
	if n := j.fault.At - j.h.Offset; j.h.Op == CmdRead && n > 0 && n <= uint64(len(r.data)) {
		all = j.readChunks(r.data[:n], 0)
	}
	return append(all, Chunk{Type: ReplyErrorOffset, Payload: be.AppendUint64(b, j.fault.At)})
}

// readChunks cuts data into content chunks as the negotiation says; at is where
// data begins within the request.
func (j *job) readChunks(data []byte, at uint64) []Chunk {
	neg := &j.c.neg
	if j.h.Flags&CmdFlagDF != 0 {
		return []Chunk{dataChunk(j.h.Offset+at, data)}
	}
	var all []Chunk
	for _, e := range j.runs(uint64(len(data))) {
		run := data[:e.Length]
		data = data[e.Length:]
		if e.Flags != 0 {
			b := be.AppendUint64(nil, j.h.Offset+at)
			all = append(all, Chunk{Type: ReplyOffsetHole, Payload: be.AppendUint32(b, uint32(e.Length))})
			at += e.Length
			continue
		}
		for len(run) > 0 {
			n := len(run)
			if neg.ReadChunk > 0 {
				n = min(n, int(neg.ReadChunk))
			}
			all = append(all, dataChunk(j.h.Offset+at, run[:n]))
			run, at = run[n:], at+uint64(n)
		}
	}
	if neg.ShuffleRead {
		rnd := rand.New(rand.NewPCG(uint64(j.rec.Seq), 2))
		rnd.Shuffle(len(all), func(a, b int) { all[a], all[b] = all[b], all[a] })
	}
	return all
}

// runs cuts n bytes from the request's offset into data (flags 0) and holes.
func (j *job) runs(n uint64) []Extent {
	if !j.c.neg.ReadHoles {
		return []Extent{{Length: n}}
	}
	return j.c.export.Disk.Extents(j.h.Offset, n, maxExtents)
}

func dataChunk(off uint64, data []byte) Chunk {
	return Chunk{Type: ReplyOffsetData, Payload: append(be.AppendUint64(nil, off), data...)}
}

func (j *job) statusChunk(extents []Extent) Chunk {
	b := be.AppendUint32(nil, j.c.metaID)
	if !j.c.extended {
		for _, e := range extents {
			b = be.AppendUint32(b, uint32(e.Length))
			b = be.AppendUint32(b, uint32(e.Flags))
		}
		return Chunk{Type: ReplyBlockStatus, Payload: b}
	}
	b = be.AppendUint32(b, uint32(len(extents)))
	for _, e := range extents {
		b = be.AppendUint64(b, e.Length)
		b = be.AppendUint64(b, e.Flags)
	}
	return Chunk{Type: ReplyBlockStatusExt, Payload: b}
}

func encodeChunk(c Chunk, extended bool) []byte {
	length := uint64(int64(len(c.Payload)) + c.Lie)
	magic := MagicChunk
	if extended {
		magic = MagicChunkEx
	}
	b := be.AppendUint32(nil, magic)
	b = be.AppendUint16(b, c.Flags)
	b = be.AppendUint16(b, c.Type)
	b = be.AppendUint64(b, c.Cookie)
	if extended {
		b = be.AppendUint64(b, c.HeaderOffset)
		b = be.AppendUint64(b, length)
	} else {
		b = be.AppendUint32(b, uint32(length))
	}
	return append(b, c.Payload...)
}
