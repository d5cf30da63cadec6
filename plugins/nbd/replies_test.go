package nbd

import (
	"strings"
	"testing"

	"blockengine/sdk/abi"
	"blockengine/sdk/block"
	"blockengine/sdk/sdktest"
)

// faulty makes a server that answers one kind of command with what f makes.
func faulty(form int, cmd uint16, f func(r *responder, cookie []byte, offset uint64) []byte) *responder {
	r := newResponder(form)
	r.fault = func(c uint16, cookie []byte, offset, length uint64) []byte {
		if c != cmd {
			return nil
		}
		r.agreed = form
		return f(r, cookie, offset)
	}
	return r
}

func simpleReply(errno uint32, cookie []byte) []byte {
	return append(be.AppendUint32(be.AppendUint32(nil, 0x67446698), errno), cookie...)
}

func at(offset uint64, data ...byte) []byte { return append(be.AppendUint64(nil, offset), data...) }

func TestViolations(t *testing.T) {
	const read, write, status, flush = 0, 1, 7, 3
	none := func(r *responder, c []byte, o uint64) []byte { return r.chunk(c, 1, 0, o, nil) }
	for _, c := range []struct {
		name string
		form int
		cmd  uint16
		f    func(r *responder, c []byte, o uint64) []byte
		text string
	}{
		{"unknown cookie", 0, write, func(*responder, []byte, uint64) []byte { return simpleReply(0, []byte("nonsense")) }, "no outstanding request has"},
		{"twice", 0, write, func(_ *responder, c []byte, _ uint64) []byte {
			return append(simpleReply(0, c), simpleReply(0, c)...)
		}, "no outstanding request has"},
		{"magic", 0, write, func(*responder, []byte, uint64) []byte { return make([]byte, 16) }, "magic number 0x00000000"},
		{"structured unasked", 0, write, func(r *responder, c []byte, o uint64) []byte { r.agreed = 1; return none(r, c, o) }, "magic number 0x668e33ef"},
		{"simple in extended", 2, write, func(_ *responder, c []byte, _ uint64) []byte {
			return append(simpleReply(0, c), make([]byte, 16)...)
		}, "magic number 0x67446698"},
		{"simple for read", 1, read, func(_ *responder, c []byte, _ uint64) []byte { return simpleReply(0, c) }, "answers a read of 4096 bytes at 8192 with a simple reply"},
		{"simple for status", 1, status, func(_ *responder, c []byte, _ uint64) []byte { return simpleReply(0, c) }, "with a simple reply"},
		{"nothing read", 1, read, none, "ended with 4096 bytes missing"},
		{"short", 1, read, func(r *responder, c []byte, o uint64) []byte {
			return r.chunk(c, 1, 1, o, at(o, make([]byte, 4095)...))
		}, "ended with 1 bytes missing"},
		{"outside", 1, read, func(r *responder, c []byte, o uint64) []byte {
			return r.chunk(c, 1, 1, o, at(o+1, make([]byte, 4096)...))
		}, "lies outside the request: 4096 bytes at 8193"},
		{"before", 1, read, func(r *responder, c []byte, o uint64) []byte { return r.chunk(c, 1, 1, o, at(o-1, 1)) }, "lies outside the request"},
		{"overlap", 1, read, func(r *responder, c []byte, o uint64) []byte {
			return append(r.chunk(c, 0, 1, o, at(o+100, make([]byte, 10)...)), r.chunk(c, 0, 1, o, at(o+109, 1))...)
		}, "overlaps an earlier one"},
		{"overlap far", 1, read, func(r *responder, c []byte, o uint64) []byte {
			b := append(r.chunk(c, 0, 1, o, at(o+100, 1)), r.chunk(c, 0, 1, o, at(o+200, 1, 2))...)
			b = append(b, r.chunk(c, 0, 1, o, at(o+300, 1))...)
			return append(b, r.chunk(c, 0, 1, o, at(o+201, 1))...)
		}, "overlaps an earlier one"},
		{"empty data", 1, read, func(r *responder, c []byte, o uint64) []byte { return r.chunk(c, 0, 1, o, at(o)) }, "has no data: its length is 8"},
		{"empty hole", 1, read, func(r *responder, c []byte, o uint64) []byte { return r.chunk(c, 0, 2, o, be.AppendUint32(at(o), 0)) }, "is an empty hole"},
		{"long hole", 2, read, func(r *responder, c []byte, o uint64) []byte { return r.chunk(c, 0, 2, o, make([]byte, 13)) }, "is a hole with the length 13"},
		{"data for write", 1, write, func(r *responder, c []byte, o uint64) []byte { return r.chunk(c, 1, 1, o, at(o, 1)) }, "a write of 4096 bytes at 8192 has data"},
		{"hole for write", 1, write, func(r *responder, c []byte, o uint64) []byte { return r.chunk(c, 1, 2, o, make([]byte, 12)) }, "has a hole of data"},
		{"status for read", 1, read, func(r *responder, c []byte, o uint64) []byte { return r.chunk(c, 1, 5, o, make([]byte, 12)) }, "has a block status"},
		{"none without done", 1, write, func(r *responder, c []byte, o uint64) []byte { return r.chunk(c, 0, 0, o, nil) }, "type NONE"},
		{"none with payload", 1, write, func(r *responder, c []byte, o uint64) []byte { return r.chunk(c, 1, 0, o, []byte("x")) }, "type NONE"},
		{"unknown type", 1, write, func(r *responder, c []byte, o uint64) []byte { return r.chunk(c, 1, 99, o, nil) }, "has type 99"},
		{"wrong offset", 2, write, func(r *responder, c []byte, o uint64) []byte { return r.chunk(c, 1, 0, o+1, nil) }, "says that the request was at 8193"},
		{"status chunk of the other form", 2, status, func(r *responder, c []byte, o uint64) []byte { return r.chunk(c, 1, 5, o, make([]byte, 12)) }, "has type 5"},
		{"status without extents", 1, status, func(r *responder, c []byte, o uint64) []byte { return r.chunk(c, 1, 5, o, make([]byte, 4)) }, "block status with the length 4"},
		{"status of odd length", 1, status, func(r *responder, c []byte, o uint64) []byte { return r.chunk(c, 1, 5, o, make([]byte, 13)) }, "block status with the length 13"},
		{"status of another context", 1, status, func(r *responder, c []byte, o uint64) []byte { return r.chunk(c, 1, 5, o, make([]byte, 12)) }, "metadata context 0"},
		{"status with empty extent", 1, status, func(r *responder, c []byte, o uint64) []byte {
			return r.chunk(c, 1, 5, o, append(be.AppendUint32(nil, 77), make([]byte, 8)...))
		}, "has an empty extent"},
		{"status with wrong count", 2, status, func(r *responder, c []byte, o uint64) []byte {
			return r.chunk(c, 1, 6, o, append(be.AppendUint64(nil, 77<<32|2), make([]byte, 16)...))
		}, "counts 2 extents and holds 1"},
		{"two statuses", 1, status, func(r *responder, c []byte, o uint64) []byte {
			b := r.chunk(c, 0, 5, o, be.AppendUint64(be.AppendUint32(nil, 77), 512<<32))
			return append(b, b...)
		}, "is a second block status"},
		{"no status", 1, status, none, "ended without a status of base:allocation"},
		{"error without number", 1, write, func(r *responder, c []byte, o uint64) []byte { return r.chunk(c, 1, 1<<15+1, o, make([]byte, 6)) }, "an error without a number"},
		{"short error", 1, write, func(r *responder, c []byte, o uint64) []byte { return r.chunk(c, 1, 1<<15+1, o, make([]byte, 5)) }, "an error with the length 5"},
		{"short error offset", 1, write, func(r *responder, c []byte, o uint64) []byte { return r.chunk(c, 1, 1<<15+2, o, make([]byte, 13)) }, "an error with the length 13"},
		{"endless error", 1, flush, func(r *responder, c []byte, o uint64) []byte {
			b := r.chunk(c, 1, 1<<15+1, o, nil)
			be.PutUint32(b[16:], 1<<30)
			return b
		}, "an error with the length 1073741824"},
		{"error message too long", 1, write, func(r *responder, c []byte, o uint64) []byte {
			return r.chunk(c, 1, 1<<15+1, o, []byte{0, 0, 0, 5, 0, 9, 'a', 'b'})
		}, "an error message of 9 bytes"},
		{"error offset outside the request", 1, write, func(r *responder, c []byte, o uint64) []byte {
			return r.chunk(c, 1, 1<<15+2, o, be.AppendUint64([]byte{0, 0, 0, 5, 0, 0}, o+4096))
		}, "an error at an offset outside the request"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, cut := range []sdktest.Cut{sdktest.Whole, sdktest.Single} {
				x := sdktest.NewExecutor(t, sdktest.NewLinked(Plugin()), faulty(c.form, c.cmd, c.f).dial(),
					sdktest.Options{Manifest: Plugin().Manifest(), Cut: cut})
				x.Open()
				x.Do(request(c.cmd))
				x.Run(func() bool { return false })
				if x.Failed == nil || x.Failed.Scope != abi.FailConn || x.Failed.Status != block.EPROTO {
					t.Fatalf("failed with %+v (%q)", x.Failed, x.Violations)
				}
				if !strings.Contains(x.Failed.Text, c.text) {
					t.Fatalf("the text does not name it: %s", x.Failed.Text)
				}
				for _, v := range x.Violations {
					t.Errorf("contract: %s", v)
				}
			}
		})
	}
}

// request makes the request that an NBD command stands for.
func request(cmd uint16) *sdktest.Request {
	ops := map[uint16]block.Op{0: block.OpRead, 1: block.OpWrite, 3: block.OpFlush, 7: block.OpBlockStatus}
	r := &sdktest.Request{Op: ops[cmd], Offset: 8192, Length: 4096}
	switch r.Op {
	case block.OpWrite:
		r.Data = make([]byte, r.Length)
	case block.OpFlush:
		r.Offset, r.Length = 0, 0
	}
	return r
}

// An errno travels unchanged; what NBD does not define counts as EINVAL.
func TestErrors(t *testing.T) {
	for errno, want := range map[uint32]block.Status{
		1: block.EPERM, 5: block.EIO, 12: block.ENOMEM, 22: block.EINVAL, 28: block.ENOSPC,
		75: block.EOVERFLOW, 95: block.ENOTSUP, 2: block.EINVAL, 30: block.EINVAL, 1 << 31: block.EINVAL,
	} {
		for form := range 3 {
			for _, cmd := range []uint16{0, 1, 3} {
				r := faulty(form, cmd, func(r *responder, c []byte, o uint64) []byte { return r.error(c, errno, o) })
				x := connect(t, r, nil)
				q := request(cmd)
				x.Do(q)
				if x.Failed != nil || q.Status != want {
					t.Errorf("form %d, errno %d, command %d: %v, %+v", form, errno, cmd, q.Status, x.Failed)
				}
			}
		}
	}
}

// A server that is shutting down is left; the request stays with the engine.
func TestShutdown(t *testing.T) {
	for form := range 3 {
		r := faulty(form, 1, func(r *responder, c []byte, o uint64) []byte { return r.error(c, 108, o) })
		x := connect(t, r, nil)
		q := request(1)
		sent := x.Sent
		x.Do(q)
		size := uint64(28)
		if form == 2 {
			size = 32
		}
		if q.Done || x.Failed == nil || x.Failed.Scope != abi.FailConn || x.Failed.Status != block.ESHUTDOWN {
			t.Errorf("form %d: done %v, %+v", form, q.Done, x.Failed)
		}
		if got := x.Sent - sent; got != size+4096+size {
			t.Errorf("form %d: sent %d bytes, no DISC", form, got)
		}
	}
}

// A reply may go on after an error chunk, and its first error counts.
func TestChunksAfterError(t *testing.T) {
	r := faulty(1, 0, func(r *responder, c []byte, o uint64) []byte {
		b := r.chunk(c, 0, 1, o, at(o, make([]byte, 512)...))
		b = append(b, r.chunk(c, 0, 1<<15+2, o, be.AppendUint64([]byte{0, 0, 0, 5, 0, 2, 'h', 'i'}, o+100))...)
		b = append(b, r.chunk(c, 0, 1<<15+77, o, []byte{0, 0, 0, 28, 0, 0, 1, 2, 3})...)
		b = append(b, r.chunk(c, 0, 1, o, at(o+1024, make([]byte, 512)...))...)
		return append(b, r.chunk(c, 1, 0, o, nil)...)
	})
	x := connect(t, r, nil)
	q := request(0)
	x.Do(q)
	if x.Failed != nil || q.Status != block.EIO {
		t.Fatalf("%v, %+v", q.Status, x.Failed)
	}
	if len(x.Logs) != 1 || !strings.Contains(x.Logs[0], `(it says "hi")`) {
		t.Fatalf("logs: %q", x.Logs)
	}
}

// Extents are joined and cut; what a server tells beyond is thrown away.
func TestExtents(t *testing.T) {
	r := faulty(1, 7, func(r *responder, c []byte, o uint64) []byte {
		p := be.AppendUint32(nil, 77)
		for _, e := range [][2]uint32{{512, 3}, {512, 3}, {512, 0}, {512, 1 << 9}, {1 << 30, 1}, {512, 2}} {
			p = be.AppendUint32(be.AppendUint32(p, e[0]), e[1])
		}
		return r.chunk(c, 1, 5, o, p)
	})
	x := connect(t, r, nil)
	q := request(7)
	x.Do(q)
	want := []block.Extent{{Length: 1024, State: 3}, {Length: 1024, State: 0}, {Length: 2048, State: 1}}
	if x.Failed != nil || q.Status != block.OK || len(q.Extents) != 3 || [3]block.Extent(q.Extents) != [3]block.Extent(want) {
		t.Fatalf("%v %v %+v", q.Status, q.Extents, x.Failed)
	}
}

// Requests that NBD cannot carry as they are.
func TestOddRequests(t *testing.T) {
	r := newResponder(1)
	r.disk = nil
	x := connect(t, r, nil)
	big := &sdktest.Request{Op: block.OpWriteZeroes, Length: 1 << 32}
	unknown := &sdktest.Request{Op: 9, Length: 512}
	x.Do(big, unknown)
	if big.Status != block.EINVAL || unknown.Status != block.ENOTSUP {
		t.Fatalf("zeroes of 4 GiB: %v, unknown operation: %v", big.Status, unknown.Status)
	}
}

func TestCommandFlags(t *testing.T) {
	for _, c := range []struct {
		op   block.Op
		mods block.Flags
		want uint32
	}{
		{block.OpRead, 15, 0}, {block.OpWrite, 15, 1}, {block.OpDiscard, 15, 1}, {block.OpFlush, 15, 0},
		{block.OpWriteZeroes, 15, 1 | 2 | 16}, {block.OpWriteZeroes, block.NoHole, 2},
		{block.OpWriteZeroes, block.FastZero, 16}, {block.OpBlockStatus, 15, 8}, {block.OpCache, 15, 0},
	} {
		if got := commandFlags(c.op, c.mods); got != c.want {
			t.Errorf("%v with %#x: flags %#x, want %#x", c.op, c.mods, got, c.want)
		}
	}
}

func TestGoodbyeDisconnects(t *testing.T) {
	for form := range 3 {
		r := newResponder(form)
		var c *responder
		x := sdktest.NewExecutor(t, sdktest.NewLinked(Plugin()), sdktest.Answers(func(b []byte) ([]byte, bool) {
			if c == nil {
				cc := *r
				c = &cc
			}
			return c.serve(b)
		}), sdktest.Options{Manifest: Plugin().Manifest()})
		x.Open()
		x.Goodbye()
		if !x.Closing || !c.gone || c.commands[len(c.commands)-1] != 2 {
			t.Fatalf("form %d: closing %v, commands %v", form, x.Closing, c.commands)
		}
	}
}

// Two versions must differ on the wire and each must know its own cookies.
func TestCookies(t *testing.T) {
	if cookieMask("1.0.0") == cookieMask("1.0.1") {
		t.Fatal("two versions have the same cookies")
	}
}

func TestTableCollisions(t *testing.T) {
	var tb table
	tags := []uint64{5, 5 + tableSlots, 5 + 2*tableSlots, 6, 7 + tableSlots}
	for _, tag := range tags {
		s := tb.add(tag)
		s.tag, s.op = tag, block.OpRead
	}
	tb.remove(tb.find(5))
	for _, tag := range tags[1:] {
		if s := tb.find(tag); s == nil || s.tag != tag {
			t.Fatalf("tag %d is lost", tag)
		}
	}
	if tb.find(5) != nil || tb.used != 4 {
		t.Fatalf("a removed request is found, or %d are used", tb.used)
	}
}
