package session

import (
	"crypto/sha256"
	"encoding/binary"
	"hash/crc32"
	"unsafe"

	"blockengine/engine/reactor"
	"blockengine/engine/transport"
	"blockengine/sdk/abi"
	"blockengine/sdk/block"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func updateCRC(crc uint32, b []byte) uint32 { return crc32.Update(crc, castagnoli, b) }

// copyPayload makes bytes [from, to) of the private copy of a payload current.
// Digests are computed over it and it is what is sent, so that a guest that
// writes into its buffer meanwhile cannot make the two differ (rule 2).
func (s *slot) copyPayload(from, to uint64) (b []byte, there bool) {
	if uint64(len(s.private)) < s.io.Length {
		s.private = make([]byte, s.io.Length)
	}
	b = s.private[from:to]
	return b, fetch(b, s.io, from, to)
}

// sendPrivate queues a piece of the private copy. It is copied once more into
// the send queue if it is small; a large one is lent like the payload itself.
func (cn *conn) sendPrivate(s *slot, a *abi.Range) bool {
	var b []byte
	if s.hashed {
		b = s.private[a.From:a.To]
	} else {
		var there bool
		if b, there = s.copyPayload(a.From, a.To); !there {
			cn.giveUp(s.io)
			return false
		}
	}
	if a.Flags&abi.FlagDigest != 0 {
		cn.sendCRC = updateCRC(cn.sendCRC, b)
	}
	if len(b) < directFrom {
		cn.stream.Send(b)
		return true
	}
	s.lent++
	cn.stream.Lend(b, uint32(a.Tag))
	return true
}

// sendDigest queues the running digest of what was sent.
func (cn *conn) sendDigest(a *abi.DigestMark) bool {
	if a.Kind != abi.DigestCRC32C {
		return cn.violation("it asks for a running digest that does not exist")
	}
	var b [4]byte
	binary.LittleEndian.PutUint32(b[:], cn.sendCRC)
	cn.sendCRC = 0
	cn.stream.Send(b[:])
	return true
}

// checkDigest compares the running digest of what was received with b.
func (cn *conn) checkDigest(id uint32, b []byte) {
	e := abi.Digest{ID: id}
	binary.LittleEndian.PutUint32(e.Value[:], cn.recvCRC)
	if binary.LittleEndian.Uint32(b) != cn.recvCRC {
		e.Status = uint32(block.EBADMSG)
	}
	cn.recvCRC = 0
	cn.events = append(cn.events, e)
}

// hash computes the digest of a payload; what is sent of it from now on is the
// copy that was hashed.
func (cn *conn) hash(a *abi.Hash) bool {
	s := cn.find(a.Tag)
	switch {
	case s == nil:
		return cn.violation("it hashes the payload of a request that it does not hold")
	case s.io == nil:
		return true
	case s.io.Op != block.OpWrite || a.From > a.To || a.To > s.io.Length:
		return cn.violation("it hashes beyond a request's payload")
	case a.Kind != abi.DigestCRC32C && a.Kind != abi.DigestSHA256:
		return cn.violation("it asks for a digest that does not exist")
	}
	n := a.To - a.From
	if s.digests++; s.digests > maxDigests || s.digested+n > maxDigests*s.io.Length {
		return cn.violation("it hashes one payload again and again")
	}
	s.digested += n
	if !s.hashed {
		if _, there := s.copyPayload(0, s.io.Length); !there {
			cn.giveUp(s.io)
			return false
		}
		s.hashed = true
	}
	if n > hashHere {
		s.handed = true // the copy is the goroutine's, too, from now on
		go cn.hashElsewhere(a.ID, a.Kind, s.private[a.From:a.To])
		return true
	}
	cn.hashed(digestOf(a.ID, a.Kind, s.private[a.From:a.To]))
	return true
}

const (
	maxDigests = 4         // times that a payload may be hashed, and as many calls
	hashHere   = 256 << 10 // bytes; more would hold up the reactor for too long
)

func digestOf(id, kind uint32, b []byte) abi.Digest {
	e := abi.Digest{ID: id}
	if kind == abi.DigestSHA256 {
		e.Value = sha256.Sum256(b)
	} else {
		binary.LittleEndian.PutUint32(e.Value[:], updateCRC(0, b))
	}
	return e
}

// hashElsewhere computes a digest off the reactor.
func (cn *conn) hashElsewhere(id, kind uint32, b []byte) {
	e := digestOf(id, kind, b)
	cn.ch.r.Post(reactor.MailFunc(func() { cn.hashed(e) }))
}

// hashed has the plugin told of a digest at the end of the turn.
func (cn *conn) hashed(e abi.Digest) {
	if cn.state == lost {
		return
	}
	cn.events = append(cn.events, e)
	cn.ch.r.Defer(&cn.tellLater)
}

// tellDigests brings digests that were computed outside of receiving.
func (cn *conn) tellDigests() {
	if cn.state != lost && cn.inst != nil && !cn.await.on && cn.digestEvents() {
		cn.send()
	}
}

// digestEvents tells the plugin the digests that are ready, but not those that
// it asks for when it is told: they are for the next turn.
func (cn *conn) digestEvents() bool {
	const size = int(unsafe.Sizeof(abi.Digest{}))
	for left := len(cn.events); left > 0; {
		in := cn.inst.Input()
		n := min(left, len(in)/size)
		left -= n
		for i := range n {
			e := cn.events[i]
			e.Header = abi.Header{Kind: abi.EvDigest, Size: uint32(size)}
			*abi.Overlay[abi.Digest](in[i*size:]) = e
		}
		cn.events = cn.events[:copy(cn.events, cn.events[n:])]
		if !cn.rareCall(n*size, thenDigests) {
			return false
		}
	}
	return true
}

var _ transport.Lender = (*conn)(nil)
