package compare

import (
	"encoding/hex"
	"fmt"
	"strings"

	"blockengine/sdk/abi"
	"blockengine/sdk/block"
)

// Class is what two versions differ in.
type Class string

// The classes.
const (
	Sent     Class = "sent"     // the bytes sent
	Received Class = "received" // what becomes of the bytes received
	Result   Class = "result"   // of a request
	Limits   Class = "limits"   // of the connection and its disk
	Timers   Class = "timers"
	Session  Class = "session"  // what the session and the engine are told
	End      Class = "end"      // of the connection
	Trapped  Class = "trap"     // the next version has trapped
	Contract Class = "contract" // the next version has broken the contract
)

// Difference is the first thing in which two versions differ.
type Difference struct {
	Class Class
	Call  uint64 // number of the call of the running version, from 1
	// Request is the one that shows it. Of is how many it may be, if the bytes do
	// not tell: it is the first of those. 0: none is known.
	Request Request
	Of      int
	What    string // for people
	Old     string // what the running version did; bytes in hex
	New     string
}

// Error says it in a line.
func (d *Difference) Error() string {
	var b strings.Builder
	b.WriteString(d.What)
	if d.Of > 0 {
		b.WriteString(", ")
		if d.Of > 1 {
			fmt.Fprintf(&b, "one of %d requests from ", d.Of)
		}
		b.WriteString(d.Request.String())
	}
	fmt.Fprintf(&b, ", in call %d", d.Call)
	if d.Old != "" || d.New != "" {
		fmt.Fprintf(&b, ": the version that ran: %s; the new one: %s", orNothing(d.Old), orNothing(d.New))
	}
	return b.String()
}

func orNothing(s string) string {
	if s == "" {
		return "nothing"
	}
	return s
}

// String names a request for people.
func (r Request) String() string {
	return fmt.Sprintf("%v of %d bytes at offset %d", r.Op, r.Length, r.Offset)
}

// Limit is why a connection cannot be compared any further. It speaks neither
// for nor against a version.
type Limit struct{ Text string }

func (l *Limit) Error() string { return l.Text }

// shown is how many bytes of each version are shown.
const shown = 32

func hexOf(b []byte) string {
	s := hex.EncodeToString(b[:min(len(b), shown)])
	if len(b) > shown {
		s += "…"
	}
	return s
}

// text says what a token is.
func (t *token) text(b []byte) string {
	dig := ""
	if t.flags&abi.FlagDigest != 0 {
		dig = ", digested"
	}
	switch t.kind {
	case abi.ActSend:
		return "bytes " + hexOf(b) + dig
	case abi.ActSendPayload:
		return fmt.Sprintf("payload from %d of request %#x%s", t.from, t.tag, dig)
	case abi.ActSendDigest:
		return "a digest"
	case abi.ActConsume:
		return fmt.Sprintf("%d bytes are looked at or thrown away%s", t.n, dig)
	case abi.ActReceive:
		return fmt.Sprintf("%d bytes go into request %#x at %d%s", t.n, t.tag, t.from, dig)
	case abi.ActCheckDigest:
		return fmt.Sprintf("a digest is checked under %d", t.id)
	case abi.ActPublish:
		return fmt.Sprintf("%d bytes of session data %s", t.inline, hexOf(b))
	case abi.ActMessage:
		return fmt.Sprintf("a message to connection %d, %s", t.id, hexOf(b))
	case abi.ActRedirect:
		return fmt.Sprintf("a redirect to %.80q", b)
	case abi.ActPath:
		return fmt.Sprintf("path state %d", t.id)
	case abi.ActHash:
		return "a hash " + hexOf(b)
	case abi.ActLimits:
		return "limits " + limitsText(b)
	case abi.ActClose:
		return "it closes"
	}
	return fmt.Sprintf("action %d", t.kind)
}

// limitsText gives the fields of limits, header and all.
func limitsText(b []byte) string {
	l := abi.Overlay[abi.Limits](b)
	if l == nil {
		return hexOf(b)
	}
	return fmt.Sprintf("size %d, blocks %d/%d, max %d/%d/%d, caps %#x, depth %d, connections %d, fence %d/%d, handover %d",
		l.Size, l.BlockSize, l.Preferred, l.MaxTransfer, l.MaxZeroes, l.MaxDiscard, l.Caps, l.Depth, l.MaxConns, l.Fence, l.FenceNS, l.Handover)
}

// text says what has become of a request.
func (o *outcome) text() string {
	if !o.done {
		return "has not ended it"
	}
	s := block.Status(o.status).String()
	if o.released {
		s = [...]string{"released, never executed", "released, maybe executed"}[min(o.status, 1)]
	}
	if o.partial > 0 {
		s += fmt.Sprintf(", %d bytes done", o.partial)
	}
	if o.zeroes.bytes > 0 {
		s += fmt.Sprintf(", %d bytes zeroed", o.zeroes.bytes)
	}
	if o.extents.bytes > 0 {
		s += fmt.Sprintf(", extents of %d bytes (%016x)", o.extents.bytes, o.extents.sum)
	}
	if o.given.bytes > 0 {
		s += fmt.Sprintf(", %d bytes of data (%016x)", o.given.bytes, o.data)
	}
	return s
}
