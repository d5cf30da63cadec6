package nbd

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
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
