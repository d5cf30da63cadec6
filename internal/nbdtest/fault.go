package nbdtest

import (
	"slices"
	"time"
)

// Match selects requests; its zero value selects all.
type Match struct {
	Ops      []uint16 // nil: every command
	From, To uint64   // requests that touch [From, To); To 0: everywhere
	Conn     int      // number of the connection, from 1; 0: any
	Flags    uint16   // all of these command flags are set
}

func (m *Match) matches(r *Record) bool {
	return (m.Ops == nil || slices.Contains(m.Ops, r.Op)) &&
		(m.Conn == 0 || m.Conn == r.Conn) &&
		r.Flags&m.Flags == m.Flags &&
		(m.To == 0 || (r.Offset < m.To && r.Offset+r.Length > m.From))
}

// Op matches one command anywhere.
func Op(op uint16) Match { return Match{Ops: []uint16{op}} }

// Rule makes the server misbehave for the requests that match. Of several rules
// that match a request the oldest applies, alone.
type Rule struct {
	Match
	Skip  int // let so many matches pass first
	Times int // apply so often; 0: always
	Fault Fault
}

// Fault is what the server does with a request that a rule selected. Its zero
// value is to behave. What concerns the reply can be combined.
type Fault struct {
	Errno     uint32 // answer with this error and do not carry the request out
	Execute   bool   // with Errno: carry it out all the same
	At        uint64 // with Errno and AtOffset: where it went wrong, absolute
	AtOffset  bool   // send the error as an ERROR_OFFSET chunk; reads send the data before At first
	DropCache bool   // lose all that is not flushed, as a disk can at a failed flush

	NoReply     bool            // carry the request out and never answer
	DelayExec   <-chan struct{} // carry it out only when this is closed
	DelayReply  <-chan struct{} // carry it out now, answer when this is closed
	StopReading <-chan struct{} // read nothing more from the connection until this is closed

	Cookie    uint64                  // XORed into the reply's cookie
	Duplicate bool                    // send the reply twice
	Edit      func([]Chunk) []Chunk   // change the chunks (not simple replies)
	Bytes     func(raw []byte) []byte // change the bytes of the whole reply
	Cut       bool                    // end the connection after CutAfter bytes of the reply
	CutAfter  int
	CutHow    Ending

	hold *Held
}

// Chunk is a reply chunk before it is encoded.
type Chunk struct {
	Flags, Type  uint16
	Payload      []byte
	Lie          int64  // added to the length that the header tells
	HeaderOffset uint64 // extended headers: the request's offset
	Cookie       uint64
}

// For gives a channel for Fault's delays that closes by itself after d.
func For(d time.Duration) <-chan struct{} {
	ch := make(chan struct{})
	time.AfterFunc(d, func() { close(ch) })
	return ch
}

// activeRule is a Rule in force. Guarded by Server.mu.
type activeRule struct {
	Rule
	seen, hits int
}

// RuleHandle watches and ends a rule.
type RuleHandle struct {
	s *Server
	r *activeRule
}

// AddRule puts a rule in force for requests read from now on.
func (s *Server) AddRule(r Rule) *RuleHandle {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := &activeRule{Rule: r}
	s.rules = append(s.rules, a)
	return &RuleHandle{s, a}
}

// Hits is how often the rule was applied.
func (h *RuleHandle) Hits() int {
	h.s.mu.Lock()
	defer h.s.mu.Unlock()
	return h.r.hits
}

// Remove takes the rule out of force.
func (h *RuleHandle) Remove() {
	h.s.mu.Lock()
	defer h.s.mu.Unlock()
	h.s.rules = slices.DeleteFunc(h.s.rules, func(a *activeRule) bool { return a == h.r })
}

// faultFor finds what to do with a request and counts it.
func (s *Server) faultFor(r *Record) Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.rules {
		if !a.matches(r) || (a.Times > 0 && a.hits >= a.Times) {
			continue
		}
		if a.seen++; a.seen > a.Skip {
			a.hits++
			return a.Fault
		}
	}
	return Fault{}
}

func isContent(c Chunk) bool { return c.Type == ReplyOffsetData || c.Type == ReplyOffsetHole }

// editContent applies f to the first content chunk.
func editContent(f func(*Chunk)) func([]Chunk) []Chunk {
	return func(chunks []Chunk) []Chunk {
		if i := slices.IndexFunc(chunks, isContent); i >= 0 {
			chunks[i].Payload = slices.Clone(chunks[i].Payload)
			f(&chunks[i])
		}
		return chunks
	}
}

// LieLength adds delta to the length in the header of the first content chunk,
// whose payload stays as it is.
func LieLength(delta int64) func([]Chunk) []Chunk {
	return editContent(func(c *Chunk) { c.Lie = delta })
}

// LieOffset adds delta to the offset of the first content chunk.
func LieOffset(delta int64) func([]Chunk) []Chunk {
	return editContent(func(c *Chunk) { be.PutUint64(c.Payload, be.Uint64(c.Payload)+uint64(delta)) })
}

// ShortRead leaves the last n bytes of the first content chunk out: a gap in a
// read that claims success.
func ShortRead(n int) func([]Chunk) []Chunk {
	return editContent(func(c *Chunk) {
		if c.Type == ReplyOffsetHole {
			be.PutUint32(c.Payload[8:], be.Uint32(c.Payload[8:])-uint32(n))
			return
		}
		c.Payload = c.Payload[:len(c.Payload)-n]
	})
}

// Overlap sends the first content chunk twice.
func Overlap(chunks []Chunk) []Chunk {
	if i := slices.IndexFunc(chunks, isContent); i >= 0 {
		twin := chunks[i]
		twin.Flags &^= ReplyFlagDone
		return slices.Insert(chunks, i, twin)
	}
	return chunks
}

// DropContent leaves out the first content chunk; DONE is still sent.
func DropContent(chunks []Chunk) []Chunk {
	i := slices.IndexFunc(chunks, isContent)
	if i < 0 {
		return chunks
	}
	if len(chunks) == 1 {
		return []Chunk{{Flags: ReplyFlagDone, Type: ReplyNone, HeaderOffset: chunks[0].HeaderOffset, Cookie: chunks[0].Cookie}}
	}
	return slices.Delete(chunks, i, i+1)
}

// NoDone clears the DONE flag, so that the reply never ends.
func NoDone(chunks []Chunk) []Chunk {
	for i := range chunks {
		chunks[i].Flags &^= ReplyFlagDone
	}
	return chunks
}
