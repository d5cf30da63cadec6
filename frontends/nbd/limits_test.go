package nbd

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"blockengine/internal/nbdtest"
)

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
			w.r.Do(func() { worst = max(worst, w.pool.inUse()) })
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
		w.r.Do(func() { n += w.pool.inUse() })
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
