package e2e_test

import (
	"bytes"
	"encoding/binary"
	"maps"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"blockengine/internal/nbdtest"
)

// TestFlushUnderUpgradesAndCrashes: a server that loses power again and again,
// with half of what was not flushed, while versions take over and go back. A
// flush that succeeds means that what its client had written is stable; all else
// has to be told by a flush that fails, whichever version runs by then.
func TestFlushUnderUpgradesAndCrashes(t *testing.T) {
	t.Parallel()
	for name, flags := range map[string]uint16{"several connections": nbdtest.DefaultFlags, "one connection": single} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, e := onServer(t, "disk", flags, nbdtest.Negotiation{}, durable)
			f := startFlushers(t, e, s.Disk("disk"), 4)
			defer f.end()
			c := &chaos{t: t, e: e, s: s}
			every(100*time.Millisecond, loadTime(4*time.Second), func(n int) {
				if t.Failed() {
					return // the end of the log is about what has failed
				}
				ordered := make(chan struct{})
				go func() {
					defer close(ordered)
					c.order()
				}()
				if n%2 == 0 {
					time.Sleep(rand.N(150 * time.Millisecond))
					losePower(t, s, uint64(n))
				}
				<-ordered
			})
			c.atLeastOnce()
			f.bothWays(s)
			f.end()
			t.Logf("%d writes, %d flushes succeeded and %d failed; %d orders carried out, %d not; %+v", f.writes.Load(),
				f.flushed.Load(), f.failed.Load(), c.done.Load(), c.refused.Load(), *e.volume("disk").Session)
		})
	}
}

// losePower ends the server's process and what its disk had not made stable, as
// one event: nobody is connected in between.
func losePower(t *testing.T, s *nbdtest.Server, seed uint64) {
	t.Helper()
	s.Kill(nbdtest.RST)
	nbdtest.WaitFor(t, "the server to be gone", func() bool { return s.Conns() == 0 })
	s.Disk("disk").CrashPartly(seed)
	s.Listen()
}

// flushers are clients that know what must be stable.
type flushers struct {
	t    *testing.T
	disk *nbdtest.Disk
	stop atomic.Bool
	done sync.WaitGroup

	writes, flushed, failed atomic.Int64
}

func startFlushers(t *testing.T, e *engine, d *nbdtest.Disk, clients int) *flushers {
	f := &flushers{t: t, disk: d}
	for i := range clients {
		c := e.dial("disk", nbdtest.Options{})
		f.done.Go(func() {
			stable := map[uint64][]byte{} // by offset: what was made stable and not written since
			for !f.stop.Load() && f.round(c, uint64(i)<<20, stable) {
			}
		})
	}
	return f
}

// bothWays goes on until flushes have succeeded and have failed.
func (f *flushers) bothWays(s *nbdtest.Server) {
	f.t.Helper()
	nbdtest.WaitFor(f.t, "a flush to fail", func() bool {
		if f.failed.Load() > 0 || f.t.Failed() {
			return true
		}
		losePower(f.t, s, rand.Uint64())
		time.Sleep(100 * time.Millisecond)
		return false
	})
	nbdtest.WaitFor(f.t, "a flush to succeed", func() bool { return f.flushed.Load() > 0 || f.t.Failed() })
}

func (f *flushers) end() {
	f.stop.Store(true)
	f.done.Wait()
}

// round writes some blocks of a client's region, flushes, and looks at what is
// stable. It reports whether the client can go on.
func (f *flushers) round(c *nbdtest.Client, region uint64, stable map[uint64][]byte) bool {
	written := map[uint64][]byte{}
	for range 1 + rand.IntN(12) {
		at := region + uint64(rand.IntN(64))*writerBlock
		data := numbered(f.writes.Add(1))
		delete(stable, at) // it may be the old one or the new one until the flush
		if err := c.Write(at, data, 0); err != nil {
			f.t.Errorf("write: %v", err)
			return false
		}
		written[at] = data
	}
	err := c.Flush()
	switch {
	case err == nil:
		f.flushed.Add(1)
		maps.Copy(stable, written)
	case isErrno(err):
		f.failed.Add(1) // what was written may be there, or not
	default:
		f.t.Errorf("flush: %v", err)
		return false
	}
	got := make([]byte, writerBlock)
	for at, want := range stable {
		if f.disk.ReadStable(got, at); !bytes.Equal(got, want) {
			f.t.Errorf("%s: write %d of the block at %d was flushed and is not stable, there is write %d; the last flush: %v",
				time.Now().UTC().Format(time.StampMicro), numberOf(want), at, numberOf(got), err)
			return false
		}
	}
	return true
}

// numbered makes a block that tells the number of its write.
func numbered(n int64) []byte {
	return bytes.Repeat(binary.BigEndian.AppendUint64(nil, uint64(n)), writerBlock/8)
}

func numberOf(block []byte) uint64 { return binary.BigEndian.Uint64(block) }
