package nbd

import (
	"fmt"
	"net"
	"testing"

	"blockengine/engine/sys"
	"blockengine/internal/nbdtest"
)

// BenchmarkRequests sends batches of requests over a socket pair and takes the
// replies; an operation is one request. Allocations are those of client,
// server and volume together.
func BenchmarkRequests(b *testing.B) {
	for _, style := range []string{"simple", "structured", "extended"} {
		for _, c := range []struct {
			name        string
			cmd         uint16
			size, depth int
		}{
			{"read4k-64", cmdRead, 4096, 64}, {"write4k-64", cmdWrite, 4096, 64}, {"read4k-1", cmdRead, 4096, 1},
			{"read256k-8", cmdRead, 256 << 10, 8}, {"write256k-8", cmdWrite, 256 << 10, 8}, {"flush-64", cmdFlush, 0, 64},
		} {
			b.Run(style+"/"+c.name, func(b *testing.B) { benchRequests(b, framings[style], c.cmd, c.size, c.depth) })
		}
	}
}

func benchRequests(b *testing.B, o nbdtest.Options, cmd uint16, size, depth int) {
	r := newRig(b, newDisk(64<<20))
	c := r.connect(o)
	raw := rawSocket(b, c)
	f := simple
	if c.Extended {
		f = extended
	} else if c.Structured {
		f = structured
	}
	var flags uint16
	var payload []byte
	reply := depth * f.doneRoom()
	switch cmd {
	case cmdRead:
		reply = depth * (f.readRoom() + size)
	case cmdWrite:
		payload = make([]byte, size)
		if c.Extended {
			flags = cmdFlagPayloadLen
		}
	}
	var out []byte
	for i := range depth {
		offset := uint64(i * 1 << 20)
		if cmd == cmdFlush {
			offset = 0
		}
		out = append(out, nbdtest.EncodeRequest(c.Extended, flags, cmd, uint64(i), offset, uint64(size), payload)...)
	}
	in := make([]byte, 1<<20)
	for range 4 { // fill the pools
		raw.exchange(out, in, reply)
	}
	b.SetBytes(int64(size))
	b.ReportAllocs()
	b.ResetTimer()
	for n := 0; n < b.N; n += depth {
		raw.exchange(out, in, reply)
	}
}

// rawClient is a non-blocking socket and an epoll instance for it: a client
// that allocates nothing.
type rawClient struct {
	b      *testing.B
	fd, ep int
	events [1]sys.EpollEvent
}

func rawSocket(b *testing.B, c *nbdtest.Client) *rawClient {
	file, err := c.Conn().(*net.UnixConn).File()
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { file.Close() })
	r := &rawClient{b: b, fd: int(file.Fd())}
	if err := sys.SetNonblock(r.fd); err != nil {
		b.Fatal(err)
	}
	if r.ep, err = sys.EpollCreate(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = sys.Close(r.ep) })
	if err := sys.EpollAdd(r.ep, r.fd, sys.EpollIn|sys.EpollOut|sys.EpollEdge, 0); err != nil {
		b.Fatal(err)
	}
	return r
}

func (r *rawClient) exchange(out, in []byte, want int) {
	for len(out) > 0 || want > 0 {
		moved := false
		if len(out) > 0 {
			n, e := sys.RawWrite(r.fd, out)
			if e == 0 {
				out = out[n:]
				moved = true
			} else if e != sys.EAGAIN {
				r.b.Fatal(fmt.Errorf("write: %w", e))
			}
		}
		n, e := sys.RawRead(r.fd, in[:min(len(in), max(want, 1))])
		switch {
		case e == 0 && n > 0:
			want -= n
			moved = true
		case e != sys.EAGAIN:
			r.b.Fatalf("read: %d, %v", n, e)
		}
		if !moved {
			_, _ = sys.EpollWait(r.ep, r.events[:], 1000)
		}
	}
}
