package e2e_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"blockengine/internal/nbdtest"
)

// besideHealthy runs f against an engine whose volume "healthy" is under a
// verified load all the time, which must notice nothing. The volume "disk" is
// for f.
func besideHealthy(t *testing.T, f func(e *engine)) {
	t.Helper()
	e := startEngine(t, config{engine: "reactors = 2", volumes: []volume{
		{name: "disk", plugin: "memory", options: "size = \"64MiB\""},
		{name: "healthy", plugin: "memory", options: "size = \"8MiB\""}}})
	healthy := startModel(t, e, "healthy", 4, loadOptions{own: true, pause: gentle})
	f(e)
	before := healthy.ops.Load()
	nbdtest.WaitFor(t, "the healthy volume to go on", func() bool { return healthy.ops.Load() > before+200 })
	healthy.end()
	if n := healthy.failures.Load(); n != 0 {
		t.Errorf("%d requests of the healthy volume failed", n)
	}
	wantSmall(t, e)
}

// raw connects without a word.
func (e *engine) raw() net.Conn {
	e.t.Helper()
	c, err := net.Dial("unix", e.socket)
	must(e.t, err)
	e.t.Cleanup(func() { c.Close() })
	must(e.t, c.SetDeadline(time.Now().Add(time.Minute)))
	return c
}

// TestGarbage: what is no NBD ends the connection that it came over.
func TestGarbage(t *testing.T) {
	t.Parallel()
	besideHealthy(t, func(e *engine) {
		for i := range uint64(40) {
			c := e.raw()
			_, _ = c.Write(random(1+int(i*i*50), i))
			if i%2 == 0 {
				c.Close()
				continue
			}
			_ = c.(*net.UnixConn).CloseWrite()
			if _, err := io.Copy(io.Discard, io.LimitReader(c, 1<<20)); err != nil && os.IsTimeout(err) {
				t.Errorf("garbage %d: the connection stays open", i)
			}
		}
		for i := range uint64(40) { // after a clean login
			c := e.dial("disk", nbdtest.Options{Structured: i%2 == 0})
			_ = c.WriteRaw(random(1+int(i*i*50), i))
			_ = c.CloseWrite()
			_, _ = io.Copy(io.Discard, c.Conn())
		}
	})
}

// TestHalfHeaders: who leaves in the middle leaves nothing behind, above all no
// part of a write.
func TestHalfHeaders(t *testing.T) {
	t.Parallel()
	besideHealthy(t, func(e *engine) {
		witness := e.dial("disk", nbdtest.Options{})
		data := random(1<<20, 7)
		must(t, witness.Write(0, data, 0))
		whole := nbdtest.EncodeRequest(false, 0, nbdtest.CmdWrite, 1, 0, uint64(len(data)), make([]byte, len(data)))
		for _, n := range []int{1, 15, 27, 28, 29, 4096, 512<<10 + 28, len(whole) - 1} {
			for _, reset := range []bool{false, true} {
				c := e.dial("disk", nbdtest.Options{})
				_ = c.WriteRaw(whole[:n])
				if reset {
					_ = c.Reset()
				} else {
					_ = c.CloseWrite()
					must(t, c.ExpectClosed())
				}
			}
		}
		mustRead(t, witness, 0, data)
		for n := range 32 { // of the handshake, too
			c := e.raw()
			hello := append([]byte{0, 0, 0, 3}, nbdtest.EncodeOption(nbdtest.OptGo, nbdtest.EncodeInfo("disk"))...)
			_, _ = c.Write(hello[:min(n, len(hello))])
			c.Close()
		}
	})
}

// TestHugeLengths: lengths that nobody can mean are answered, or end the
// connection; memory is not had for them.
func TestHugeLengths(t *testing.T) {
	t.Parallel()
	besideHealthy(t, func(e *engine) {
		for _, op := range []uint16{nbdtest.CmdRead, nbdtest.CmdWrite, nbdtest.CmdTrim, nbdtest.CmdWriteZeroes, nbdtest.CmdBlockStatus, nbdtest.CmdCache} {
			for _, at := range [][2]uint64{{0, 1<<32 - 1}, {1<<64 - 512, 1024}, {1 << 63, 1<<32 - 512}, {64 << 20, 512}, {64<<20 - 512, 1 << 31}} {
				c := e.dial("disk", nbdtest.Options{Structured: true})
				must(t, c.WriteRaw(nbdtest.EncodeRequest(false, 0, op, 1, at[0], at[1], nil)))
				must(t, c.CloseWrite())
				_, err := io.Copy(io.Discard, c.Conn())
				if err != nil && os.IsTimeout(err) {
					t.Errorf("%s of %d at %d: neither an answer nor an end", nbdtest.CmdName(op), at[1], at[0])
				}
			}
			c := e.dial("disk", nbdtest.Options{Extended: true})
			if !c.Extended {
				t.Fatal("no extended headers")
			}
			_ = c.WriteRaw(nbdtest.EncodeRequest(true, 0, op, 1, 0, 1<<63, nil))
			_ = c.WriteRaw(nbdtest.EncodeRequest(true, nbdtest.CmdFlagPayloadLen, op, 2, 0, 1<<62, nil))
			_ = c.CloseWrite()
			if _, err := io.Copy(io.Discard, c.Conn()); err != nil && os.IsTimeout(err) {
				t.Errorf("%s: neither an answer nor an end", nbdtest.CmdName(op))
			}
		}
		for opt := range uint32(12) { // an option that claims 4 GiB of data
			c := e.raw()
			b := append([]byte{0, 0, 0, 3}, nbdtest.EncodeOption(opt, nil)...)
			binary.BigEndian.PutUint32(b[len(b)-4:], 1<<32-1)
			_, _ = c.Write(b)
			_, _ = c.Write(make([]byte, 1<<20))
			_ = c.(*net.UnixConn).CloseWrite()
			if _, err := io.Copy(io.Discard, c); err != nil && os.IsTimeout(err) {
				t.Errorf("option %d: neither an answer nor an end", opt)
			}
		}
	})
}

// TestDeafClients: clients that ask for much and read nothing hold up nobody,
// and the engine does not read ahead for them without bound.
func TestDeafClients(t *testing.T) {
	t.Parallel()
	besideHealthy(t, func(e *engine) {
		var ask []byte
		for i := range uint64(64) {
			ask = append(ask, nbdtest.EncodeRequest(false, 0, nbdtest.CmdRead, i, 0, 32<<20, nil)...)
		}
		for range 16 {
			c := e.dial("disk", nbdtest.Options{})
			must(t, c.WriteRaw(ask))
		}
		c := e.dial("disk", nbdtest.Options{})
		must(t, c.Write(0, random(4096, 1), 0))
		mustRead(t, c, 0, random(4096, 1))
		const most = 1200 << 20 // the frontend's pool of 512 MiB, the disk, and what a collection has not seen yet
		if rss := residentBytes(t, e.cmd.Process.Pid); rss > most {
			t.Errorf("the engine holds %d MiB for deaf clients", rss>>20)
		}
	})
}

// TestThousandsOfConnections: more clients than the engine admits. Those beyond
// are turned away, those within are served, and places become free again.
func TestThousandsOfConnections(t *testing.T) {
	const most, tries = 4096, 6200
	besideHealthy(t, func(e *engine) {
		c := e.dial("disk", nbdtest.Options{})
		begin := time.Now()
		var all []net.Conn
		defer func() {
			for _, c := range all {
				c.Close()
			}
		}()
		for i := range tries {
			n, err := dialPatiently(e.socket)
			if err != nil {
				t.Fatalf("connection %d: %v (is the limit on open files below %d?)", i, err, tries)
			}
			all = append(all, n)
			_, _ = n.Write([]byte{0, 0, 0}) // the slowest of clients: never the fourth byte
		}
		if !e.waitLog("connection refused: as many as allowed are open", time.Minute) {
			t.Error("nothing is said of the limit")
		}
		must(t, c.Write(0, random(4096, 1), 0))
		mustRead(t, c, 0, random(4096, 1))
		refused := 0
		for _, n := range all {
			_ = n.SetReadDeadline(time.Now().Add(time.Minute))
			if _, err := io.ReadFull(n, make([]byte, 18)); err != nil {
				refused++
			}
		}
		// Clients that say nothing make room in the end, on a machine where all this
		// takes as long as that.
		if took := time.Since(begin); refused < tries-most && took < handshakeLimit {
			t.Errorf("%d of %d connections were refused within %v, at most %d are allowed", refused, tries, took, most)
		}
		for _, n := range all { // not before: others may still wait for a place
			n.Close()
		}
		nbdtest.WaitFor(t, "a free place", func() bool {
			c, err := nbdtest.Dial("unix", e.socket, nbdtest.Options{Export: "disk"})
			if err != nil {
				return false
			}
			c.Close()
			return true
		})
	})
}

// handshakeLimit is how long the engine waits for a client that is silent.
const handshakeLimit = 10 * time.Second

// dialPatiently connects to a socket whose queue may be full: a non-blocking
// connect to a Unix socket fails then.
func dialPatiently(path string) (net.Conn, error) {
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		c, err := net.Dial("unix", path)
		if !errors.Is(err, syscall.EAGAIN) || time.Now().After(end) {
			return c, err
		}
	}
}

// TestSlowClients: a handshake that does not end is ended by the engine.
func TestSlowClients(t *testing.T) {
	t.Parallel()
	besideHealthy(t, func(e *engine) {
		var slow []net.Conn
		for range 50 {
			c := e.raw()
			_, _ = c.Write([]byte{0})
			slow = append(slow, c)
		}
		for _, c := range slow {
			if _, err := io.Copy(io.Discard, c); err != nil && os.IsTimeout(err) {
				t.Fatal("a handshake goes on for ever")
			}
		}
	})
}

// TestPipelinedUntilDisconnect: clients that leave with much under way leave
// each write whole or not at all.
func TestPipelinedUntilDisconnect(t *testing.T) {
	t.Parallel()
	besideHealthy(t, func(e *engine) {
		const n = 64 << 10
		for round := range byte(10) {
			c := e.dial("disk", nbdtest.Options{})
			var b []byte
			for i := range uint64(100) {
				b = append(b, nbdtest.EncodeRequest(false, 0, nbdtest.CmdWrite, i, i*n, n, bytes.Repeat([]byte{round + 1}, n))...)
			}
			go func() { _ = c.WriteRaw(b[:len(b)-n/2]) }()
			time.Sleep(time.Duration(round) * time.Millisecond)
			_ = c.Close()
		}
		c := e.dial("disk", nbdtest.Options{})
		for i := range uint64(100) {
			got, err := c.Read(i*n, n, 0)
			must(t, err)
			if d := differ(got, bytes.Repeat(got[:1], n)); d >= 0 {
				t.Fatalf("write %d landed in part: %s", i, fmt.Sprintf("%#x, and %#x from byte %d on", got[0], got[d], d))
			}
		}
	})
}
