package nbd

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"blockengine/engine/reactor"
	"blockengine/engine/volume"
	"blockengine/internal/nbdtest"
)

// holdOne has the disk hold n requests sent by c.
func holdWrites(r *rig, c *nbdtest.Client, n int) {
	r.t.Helper()
	r.disk.set(func() { r.disk.hold = true })
	_, before := r.disk.seen()
	for i := range n {
		if _, err := c.Send(nbdtest.Request{Op: nbdtest.CmdWrite, Offset: uint64(i * 8192), Data: pattern(4096, uint64(i))}); err != nil {
			r.t.Fatal(err)
		}
	}
	r.eventually("the disk holds the writes", func() bool { _, held := r.disk.seen(); return held == before+n })
}

// A client that goes away does not take the memory of its requests with it:
// the disk still reads from it.
func TestDisconnectWithRequestsOutstanding(t *testing.T) {
	for name, end := range map[string]func(*nbdtest.Client) error{"close": (*nbdtest.Client).Close, "half-close": (*nbdtest.Client).CloseWrite} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, newDisk(1<<20))
			c := r.connect(nbdtest.Options{})
			holdWrites(r, c, 8)
			if err := end(c); err != nil {
				t.Fatal(err)
			}
			// Somebody else's traffic would find its way into memory given back too early.
			other := r.connect(nbdtest.Options{ExportName: true})
			for range 10 {
				if _, err := other.Send(nbdtest.Request{Op: nbdtest.CmdWrite, Offset: 512 << 10, Data: bytes.Repeat([]byte{0xee}, 64<<10)}); err != nil {
					t.Fatal(err)
				}
			}
			r.eventually("all writes held", func() bool { _, held := r.disk.seen(); return held == 18 })
			if n := r.l.snapshot()[0].conns.count(); n != 2 {
				t.Errorf("%d connections count as open while the disk has requests of two", n)
			}
			r.disk.release()
			for i := range 8 {
				if !bytes.Equal(r.disk.content(uint64(i*8192), 4096), pattern(4096, uint64(i))) {
					t.Errorf("write %d landed as something else", i)
				}
			}
			for range 10 {
				if rep, err := other.Recv(); err != nil || rep.Err != nil {
					t.Fatal(err)
				}
			}
			if name == "half-close" {
				for range 8 {
					if rep, err := c.Recv(); err != nil || rep.Err != nil {
						t.Fatalf("a half-closed client gets its replies: %v", err)
					}
				}
				if err := c.ExpectClosed(); err != nil {
					t.Error(err)
				}
			}
			r.eventually("one connection left", func() bool { return r.connections() == 1 })
		})
	}
}

// The server's end of a connection says that nothing of it is being executed
// any more (DESIGN chapter 2, rule 1), also after DISC and after a violation.
func TestEndMeansNothingOutstanding(t *testing.T) {
	for name, last := range map[string][]byte{
		"DISC":      nbdtest.EncodeRequest(false, 0, nbdtest.CmdDisc, 9, 0, 0, nil),
		"violation": []byte(strings.Repeat("garbage ", 8)),
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, newDisk(1<<20))
			c := r.connect(nbdtest.Options{})
			holdWrites(r, c, 3)
			if err := c.WriteRaw(last); err != nil {
				t.Fatal(err)
			}
			c.Conn().SetReadDeadline(time.Now().Add(50 * time.Millisecond))
			if n, err := c.Conn().Read(make([]byte, 1)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("while writes are outstanding: read %d, %v", n, err)
			}
			r.disk.release()
			for range 3 {
				if rep, err := c.Recv(); err != nil || rep.Err != nil {
					t.Fatal(err)
				}
			}
			if err := c.ExpectClosed(); err != nil {
				t.Error(err)
			}
			if name == "violation" {
				r.logged("request magic")
			}
		})
	}
}

func TestViolations(t *testing.T) {
	for name, c := range map[string]struct {
		bytes []byte
		log   string
	}{
		"4 GiB write":              {nbdtest.EncodeRequest(false, 0, nbdtest.CmdWrite, 1, 0, 0xffffffff, nil), "payload of"},
		"extended request unasked": {nbdtest.EncodeRequest(true, 0, nbdtest.CmdRead, 1, 0, 512, nil), "request magic"},
		"zeroes":                   {make([]byte, 64), "request magic"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, newDisk(1<<20))
			bystander := r.connect(nbdtest.Options{})
			k := r.connect(nbdtest.Options{})
			if err := k.WriteRaw(c.bytes); err != nil {
				t.Fatal(err)
			}
			if err := k.ExpectClosed(); err != nil {
				t.Error(err)
			}
			r.logged(c.log)
			if _, err := bystander.Read(0, 4096, 0); err != nil {
				t.Errorf("somebody else's connection: %v", err)
			}
		})
	}
}

func TestExtendedPayloadRules(t *testing.T) {
	r := newRig(t, newDisk(1<<20))
	k := r.connect(nbdtest.Options{Extended: true})
	// A payload that the command does not have is consumed; a write without
	// the flag has none.
	for _, b := range [][]byte{
		nbdtest.EncodeRequest(true, nbdtest.CmdFlagPayloadLen, nbdtest.CmdTrim, 1, 0, 5000, make([]byte, 5000)),
		nbdtest.EncodeRequest(true, 0, nbdtest.CmdWrite, 2, 0, 512, nil),
	} {
		if err := k.WriteRaw(b); err != nil {
			t.Fatal(err)
		}
		reply, err := k.ReadRaw(extReplySize + 6)
		if err != nil || binary.BigEndian.Uint32(reply[extReplySize:]) != nbdtest.EINVAL {
			t.Fatalf("%x, %v", reply, err)
		}
	}
	if _, err := k.Read(0, 512, 0); err != nil {
		t.Error(err)
	}
	if err := k.WriteRaw(nbdtest.EncodeRequest(true, nbdtest.CmdFlagPayloadLen, nbdtest.CmdWrite, 1, 0, maxPayload+1, nil)); err != nil {
		t.Fatal(err)
	}
	if err := k.ExpectClosed(); err != nil {
		t.Error(err)
	}
}

func TestDisconnectInThePayload(t *testing.T) {
	for _, length := range []int{4096, 8 << 20} {
		r := newRig(t, newDisk(16<<20))
		k := r.connect(nbdtest.Options{})
		b := nbdtest.EncodeRequest(false, 0, nbdtest.CmdWrite, 1, 0, uint64(length), bytes.Repeat([]byte{1}, length/2))
		if err := k.WriteRaw(b); err != nil {
			t.Fatal(err)
		}
		k.Close()
		r.logged("in the middle of a request")
		r.eventually("it is gone", func() bool { return r.connections() == 0 })
		if n, _ := r.disk.seen(); n != 0 {
			t.Error("half a write reached the disk")
		}
	}
}

// A client that does not read its replies is not read any more: what it can
// make the server hold has a bound, and all is answered in the end.
func TestBackpressure(t *testing.T) {
	d := newDisk(1 << 20)
	copy(d.data, pattern(len(d.data), 3))
	r := newRig(t, d)
	c := r.connect(nbdtest.Options{Structured: true})
	const n = 3000
	sent := make(chan error, 1)
	go func() {
		var err error
		for i := 0; i < n && err == nil; i++ {
			_, err = c.Send(nbdtest.Request{Op: nbdtest.CmdRead, Offset: uint64(i % 8 * 65536), Length: 65536 + uint64(i%2)})
		}
		sent <- err
	}()
	worst := 0
	r.eventually("it reads no more", func() bool {
		before, _ := r.disk.seen()
		time.Sleep(20 * time.Millisecond)
		for _, w := range r.s.workers {
			w.r.Do(func() { worst = max(worst, w.pool.inUse) })
		}
		after, _ := r.disk.seen()
		return after > 0 && before == after
	})
	if worst > connMemory+2*chunkBytes {
		t.Errorf("%d bytes held for one connection", worst)
	}
	if seen, _ := d.seen(); seen == n {
		t.Error("all requests were taken: nothing was held back")
	}
	for range n {
		rep, err := c.Recv()
		if err != nil || rep.Err != nil {
			t.Fatal(err)
		}
		if at := rep.Request.Offset; !bytes.Equal(rep.Data, d.content(at, int(rep.Request.Length))) {
			t.Fatal("wrong data")
		}
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
}

// Many clients that want more than there is for all of them get by.
func TestMemoryIsShared(t *testing.T) {
	d := newDisk(40 << 20)
	r := newRig(t, d, func(o *Options) { o.Memory = 1 })
	var done []chan error
	data := bytes.Repeat([]byte("memory"), 3<<20)
	for range 6 {
		c := r.connect(nbdtest.Options{Timeout: 3 * patience})
		ch := make(chan error, 1)
		done = append(done, ch)
		go func() {
			var err error
			for k := 0; k < 2 && err == nil; k++ {
				if err = c.Write(0, data, 0); err == nil {
					_, err = c.Read(0, len(data), 0)
				}
			}
			ch <- err
		}()
	}
	for _, ch := range done {
		if err := <-ch; err != nil {
			t.Error(err)
		}
	}
}

// While others wait for memory, a client that only sits on it is cut.
func TestWhoHoldsUpOthersIsCut(t *testing.T) {
	r := newRig(t, newDisk(40<<20), func(o *Options) { o.Memory, o.Reactors = 1, o.Reactors[:1] })
	r.reactors[0].Do(func() { r.s.workers[0].stall = 50 * time.Millisecond })
	hog := func() *nbdtest.Client {
		c := r.connect(nbdtest.Options{})
		if err := c.WriteRaw(nbdtest.EncodeRequest(false, 0, nbdtest.CmdWrite, 1, 0, 30<<20, []byte{1})); err != nil {
			t.Fatal(err)
		}
		return c
	}
	hog()
	r.eventually("its buffer is taken", func() bool { return r.inUse() >= 30<<20 })
	hog() // 64 MiB do not take both and another
	c := r.connect(nbdtest.Options{Timeout: patience})
	if _, err := c.Read(0, 30<<20, 0); err != nil {
		t.Error(err)
	}
	r.logged("others wait")
}

func (r *rig) inUse() (n int) {
	for _, w := range r.s.workers {
		w.r.Do(func() { n += w.pool.inUse })
	}
	return n
}

func TestIdleConnectionsHoldNothing(t *testing.T) {
	r := newRig(t, newDisk(1<<20))
	for range 100 {
		c := r.connect(nbdtest.Options{})
		if _, err := c.Read(0, 4096, 0); err != nil {
			t.Fatal(err)
		}
		if err := c.Write(0, make([]byte, 300<<10), 0); err != nil {
			t.Fatal(err)
		}
	}
	r.eventually("no memory in use", func() bool { return r.inUse() == 0 })
	for _, w := range r.s.workers {
		if n := w.load.Load(); n != 50 {
			t.Errorf("a reactor has %d of 100 connections", n)
		}
	}
}

func TestShutdownAnswersWhatHasArrived(t *testing.T) {
	r := newRig(t, newDisk(1<<20))
	shy := r.greeted()
	c := r.connect(nbdtest.Options{})
	holdWrites(r, c, 5)
	done := make(chan error, 1)
	go func() { done <- r.s.Shutdown(t.Context()) }()
	if err := shy.ExpectClosed(); err != nil {
		t.Error(err)
	}
	r.eventually("it reads no more", func() (ok bool) {
		for _, w := range r.s.workers {
			w.r.Do(func() { w.each(func(c *conn) { ok = c.phase == draining }) })
		}
		return ok
	})
	if _, err := c.Send(nbdtest.Request{Op: nbdtest.CmdRead, Length: 4096}); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-done:
		t.Fatalf("Shutdown came back before the disk had: %v", err)
	case <-time.After(30 * time.Millisecond):
	}
	r.disk.release()
	for range 5 {
		if rep, err := c.Recv(); err != nil || rep.Err != nil {
			t.Fatal(err)
		}
	}
	if err := c.ExpectClosed(); err != nil {
		t.Error(err)
	}
	c.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(r.path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
	if _, err := r.s.Listen("unix", r.path); err == nil {
		t.Error("listening after Shutdown")
	}
}

func TestShutdownCuts(t *testing.T) {
	r := newRig(t, newDisk(1<<20))
	c := r.connect(nbdtest.Options{})
	holdWrites(r, c, 5)
	ctx, stop := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer stop()
	if err := r.s.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Shutdown: %v", err)
	}
	if err := c.ExpectClosed(); err != nil {
		t.Error(err)
	}
	if r.connections() != 1 {
		t.Error("the connection is gone although the disk still has its memory")
	}
	r.disk.release()
	r.eventually("it is gone", func() bool { return r.connections() == 0 })
}

func TestRemove(t *testing.T) {
	r := newRig(t, newDisk(1<<20))
	r.add(Export{Name: "stays", Volume: r.volume})
	c, other := r.connect(nbdtest.Options{}), r.connect(nbdtest.Options{Export: "stays"})
	if _, err := c.Read(0, 512, 0); err != nil {
		t.Fatal(err)
	}
	if n := r.s.Stats().Exports; len(n) != 2 || n[0].Connections != 1 || n[0].Requests.Ops[1].Requests != 1 || n[1].Requests.Ops[1].Requests != 0 {
		t.Errorf("stats %+v", n)
	}
	go func() {
		c.ExpectClosed()
		c.Close()
	}()
	if err := r.l.Remove(t.Context(), "disk"); err != nil {
		t.Error(err)
	}
	if err := r.l.Remove(t.Context(), "disk"); err == nil {
		t.Error("removed twice")
	}
	if _, err := nbdtest.Dial("unix", r.path, nbdtest.Options{Export: "disk"}); err == nil {
		t.Error("a removed export was entered")
	}
	if _, err := other.Read(0, 512, 0); err != nil {
		t.Error(err)
	}
	if err := r.l.Add(Export{Name: "stays", Volume: r.volume}); err == nil {
		t.Error("two exports of one name")
	}
}

func TestTooManyConnections(t *testing.T) {
	r := newRig(t, newDisk(4096), func(o *Options) { o.MaxConns = 3 })
	var open []*nbdtest.Client
	for range 3 {
		open = append(open, r.connect(nbdtest.Options{}))
	}
	for range 30 {
		if err := r.raw().ExpectClosed(); err != nil {
			t.Fatal(err)
		}
	}
	r.logged("as many as allowed")
	if n := strings.Count(r.log.String(), "as many as allowed"); n > 2*quietLines {
		t.Errorf("%d lines for 30 connections", n)
	}
	if st := r.s.Stats().Listeners[0]; st.Refused != 30 || st.Accepted != 3 {
		t.Errorf("%+v", st)
	}
	open[0].Close()
	r.eventually("there is room", func() bool { return r.connections() == 2 })
	if _, err := r.connect(nbdtest.Options{}).Read(0, 1, 0); err != nil {
		t.Error(err)
	}
}

// homeDevice is a device that lives on one reactor.
type homeDevice struct {
	volume.Device
	home *reactor.Reactor
}

func (h homeDevice) Home() *reactor.Reactor { return h.home }

func TestConnectionMovesToTheVolumesReactor(t *testing.T) {
	r := newRig(t, newDisk(1<<20))
	for i, home := range r.reactors {
		d := newDisk(1 << 20)
		v := volume.New(volume.Options{Name: "h", Reactors: r.reactors, Log: discard()})
		if err := v.Attach(homeDevice{volume.Store(d), home}, d.info); err != nil {
			t.Fatal(err)
		}
		name := string(rune('a' + i))
		r.add(Export{Name: name, Volume: v})
		for _, o := range []nbdtest.Options{{}, {ExportName: true}, framings["extended"], {Structured: true}} {
			o.Export = name
			c := r.connect(o)
			if err := c.Write(0, pattern(100, 1), 0); err != nil {
				t.Fatal(err)
			}
			if b, err := c.Read(0, 100, 0); err != nil || !bytes.Equal(b, pattern(100, 1)) {
				t.Fatal(err)
			}
		}
		if n := r.s.workers[i].load.Load(); n < 4 {
			t.Errorf("reactor %d has %d connections, its volume alone has 4", i, n)
		}
	}
}

func TestUnixSocketInUse(t *testing.T) {
	r := newRig(t, newDisk(4096))
	if st, err := os.Stat(r.path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	if _, err := r.s.Listen("unix", r.path); err == nil || !strings.Contains(err.Error(), "in use by another process") {
		t.Errorf("a second listener: %v", err)
	}
	stale := r.path + "2"
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	if _, err := r.s.Listen("unix", stale); err != nil {
		t.Errorf("a socket that nobody listens on: %v", err)
	}
	file := r.path + "3"
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := r.s.Listen("unix", file); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("a file in the way: %v", err)
	}
	if _, err := r.s.Listen("unix", strings.Repeat("x", 200)); err == nil || !strings.Contains(err.Error(), "at most 107") {
		t.Errorf("a path too long: %v", err)
	}
}

func TestTCP(t *testing.T) {
	r := newRig(t, newDisk(1<<20))
	l, err := r.s.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Add(Export{Name: "disk", Volume: r.volume}); err != nil {
		t.Fatal(err)
	}
	addr := strings.TrimPrefix(l.Addr(), "tcp:")
	c := nbdtest.Connect(t, "tcp", addr, nbdtest.Options{Export: "disk", Structured: true})
	want := pattern(700<<10, 1)
	if err := c.Write(0, want, 0); err != nil {
		t.Fatal(err)
	}
	if b, err := c.Read(0, len(want), 0); err != nil || !bytes.Equal(b, want) {
		t.Fatal(err)
	}
	holdWrites(r, c, 2)
	if err := c.Reset(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(10 * time.Millisecond)
	if r.connections() != 1 {
		t.Error("gone although the disk still has its memory")
	}
	r.disk.release()
	r.eventually("it is gone", func() bool { return r.connections() == 0 })
	if _, err := r.s.Listen("tcp", addr); err == nil || !strings.Contains(err.Error(), "in use by another process") {
		t.Errorf("a port in use: %v", err)
	}
	for _, bad := range []string{"nonsense", "127.0.0.1:99999", "1.2.3.4.5:1"} {
		if _, err := r.s.Listen("tcp", bad); err == nil {
			t.Errorf("listening on %q", bad)
		}
	}
	if _, err := r.s.Listen("udp", addr); err == nil {
		t.Error("listening on udp")
	}
}
