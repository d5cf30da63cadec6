package vhostuser

import (
	"io"
	"log/slog"
	"runtime/debug"
	"strings"
	"sync"
	"testing"

	"blockengine/engine/sys"
	"blockengine/frontends/virtioblk"
)

// fuzzWorld is what all connections of a fuzzing process share.
var fuzzWorld = sync.OnceValue(func() *export {
	t := &testing.T{} // never fails; its reactors live as long as the process
	rs := newReactors(t, 2, 0)
	s := NewServer(Options{Reactors: rs, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	x, err := newExport(s, Export{Name: "fuzz", Volume: newVolume(t, rs, newDisk(1<<20)), Queues: 2, Serial: "fuzz"})
	if err != nil {
		panic(err)
	}
	return x
})

const fuzzMemory = 64 << 10

// tape is a stream of any bytes. Each message begins with a byte that says what
// descriptors come with it: two bits each of kind, for up to three.
type tape struct {
	script
	all []byte // what files in memory hold, again and again
	own []int  // other ends
}

func (s *tape) receive(b []byte, fds []int) (int, []int, error) {
	if len(b) == headerBytes && len(s.in) > 0 { // a header, all of it: the tape gives all that is asked for
		fds = append(fds, s.gift(s.in[0])...)
		s.in = s.in[1:]
	}
	return s.script.receive(b, fds)
}

func (s *tape) gift(b byte) (fds []int) {
	for ; b != 0; b >>= 2 {
		fd, err := -1, error(nil)
		switch b & 3 {
		case 1:
			fd, err = sys.Eventfd()
		case 2:
			fd, err = s.file()
		case 3:
			var other int
			fd, other, err = sys.SocketPair()
			s.own = append(s.own, other)
		default:
			fd, err = sys.OpenSpare()
		}
		if err == nil {
			fds = append(fds, fd)
		}
	}
	return fds
}

// file is guest memory with what the fuzzer likes in it.
func (s *tape) file() (int, error) {
	fd, err := sys.Memfd("fuzz", fuzzMemory)
	if err != nil {
		return -1, err
	}
	b, err := sys.MapShared(fd, 0, fuzzMemory)
	if err != nil {
		return fd, err
	}
	for at := 0; at < len(b) && len(s.all) > 0; {
		at += copy(b[at:], s.all)
	}
	s.tame(b)
	return fd, sys.Unmap(b)
}

// tame makes a ring of 16 of what is where fuzzSeeds has it, so that some of it
// makes sense: pieces that lie in memory and go on in the table, and as many
// chains as the tape says.
func (s *tape) tame(b []byte) {
	desc, avail := b[ringDesc:ringDesc+16*16], b[ringAvail:]
	for ; len(desc) > 0; desc = desc[16:] {
		ne.PutUint64(desc, ne.Uint64(desc)%fuzzMemory)
		ne.PutUint32(desc[8:], ne.Uint32(desc[8:])%1100)
		ne.PutUint16(desc[12:], ne.Uint16(desc[12:])&3)
		ne.PutUint16(desc[14:], ne.Uint16(desc[14:])&15)
	}
	ne.PutUint16(avail, 0)
	ne.PutUint16(avail[2:], uint16(len(s.all)%17))
	for i := range 16 {
		ne.PutUint16(avail[4+2*i:], uint16(i))
	}
	ne.PutUint32(b[ringUsed:], 0)
}

// Where a seed's ring lies in memory.
const (
	ringDesc  = 4096
	ringAvail = 8192
	ringUsed  = 12288
)

// u32 and u64 write payloads.
func u32(vs ...uint32) (b []byte) {
	for _, v := range vs {
		b = ne.AppendUint32(b, v)
	}
	return b
}

func u64(vs ...uint64) (b []byte) {
	for _, v := range vs {
		b = ne.AppendUint64(b, v)
	}
	return b
}

func taped(gift byte, request uint32, payload []byte) []byte {
	return append([]byte{gift}, raw(request, 1|flagNeedReply, uint32(len(payload)), string(payload))...)
}

// fuzzSeeds are starts of a disk as front-ends make them.
func fuzzSeeds() [][]byte {
	const user = 1 << 40
	begin := [][]byte{
		taped(0, msgGetFeatures, nil), taped(0, msgGetProtocolFeatures, nil), taped(0, msgSetProtocolFeatures, u64(protocolFeatures)),
		taped(0, msgSetFeatures, u64(virtioblk.FeatureVersion1|virtioblk.FeatureIndirectDesc|virtioblk.FeatureEventIdx|featureProtocol)),
		taped(0, msgGetQueueNum, nil), taped(0, msgGetConfig, append(u32(0, 60, 0), make([]byte, 60)...)), taped(3, msgSetBackendReqFD, nil),
	}
	tracked := [][]byte{
		taped(0, msgGetInflightFD, append(u64(0, 0), 2, 0, 16, 0)), taped(2, msgSetInflightFD, append(u64(4096, 0), 2, 0, 16, 0)),
	}
	memories := [][]byte{
		taped(2, msgSetMemTable, append(u32(1, 0), u64(0, fuzzMemory, user, 0)...)),
		taped(2, msgAddMemReg, u64(0, 0, fuzzMemory, user, 0)),
	}
	ring := [][]byte{
		taped(0, msgSetVringNum, u32(0, 16)), taped(0, msgSetVringBase, u32(0, 0)),
		taped(0, msgSetVringAddr, append(u32(0, 0), u64(user+ringDesc, user+ringUsed, user+ringAvail, 0)...)),
		taped(1, msgSetVringCall, u64(0)), taped(1, msgSetVringErr, u64(0)), taped(1, msgSetVringKick, u64(0)),
		taped(0, msgSetVringEnable, u32(0, 1)),
	}
	end := [][]byte{
		taped(0, msgRemMemReg, u64(0, 0, fuzzMemory, user, 0)), taped(0, msgGetVringBase, u32(0, 0)),
		taped(0, msgSetStatus, u64(0)), taped(0, msgResetDevice, nil), taped(0, msgGetStatus, nil), taped(0, msgGetMaxMemSlots, nil),
		taped(0, msgSetConfig, append(u32(32, 1, 0), 0)),
	}
	var seeds [][]byte
	for i, m := range memories {
		var b []byte
		for _, part := range [][][]byte{begin, tracked[:2*i], {m}, ring, end} {
			for _, one := range part {
				b = append(b, one...)
			}
		}
		seeds = append(seeds, b)
	}
	return append(seeds, []byte{}, []byte(strings.Repeat("\x00", 100)))
}

// FuzzMessages handles any messages with any descriptors. Whatever they are, the
// connection can be wound up, and nothing of it is left.
func FuzzMessages(f *testing.F) {
	for _, s := range fuzzSeeds() {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) > 1<<14 {
			return
		}
		debug.SetPanicOnFault(true)
		x := fuzzWorld()
		before := openFiles(t)
		s := &tape{script: script{in: in}, all: in}
		c := newConn(x, s, slog.New(slog.NewTextHandler(io.Discard, nil)))
		for range 200 {
			m, err := readMessage(s)
			if err != nil {
				break
			}
			if err := c.take(m); err != nil {
				break
			}
		}
		c.windUp(false, func() {})
		for _, fd := range s.own {
			_ = sys.Close(fd)
		}
		if now := openFiles(t); now != before {
			t.Errorf("%d descriptors, before %d", now, before)
		}
		for i, w := range x.s.workers {
			if n := w.load.Load(); n != 0 {
				t.Errorf("reactor %d has %d queues left", i, n)
			}
		}
		checkReplies(t, s.sent)
	})
}

// checkReplies takes what was sent apart: whole messages, each a reply.
func checkReplies(t *testing.T, b []byte) {
	t.Helper()
	for len(b) > 0 {
		if len(b) < headerBytes {
			t.Fatalf("%d bytes at the end", len(b))
		}
		h := decodeHeader(b)
		if h.flags != flagVersion|flagReply || int(h.size) > len(b)-headerBytes || forms[h.request].name == "" {
			t.Fatalf("reply %+v", h)
		}
		b = b[headerBytes+int(h.size):]
	}
}
