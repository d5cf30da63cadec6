package ublk

import (
	"bytes"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"blockengine/engine/iouring"
	"blockengine/engine/reactor"
	"blockengine/engine/volume"
	"blockengine/sdk/block"
	"blockengine/sdk/store"
)

// places is a store that does its I/O by registered buffers, and by memory.
type places struct {
	refuse block.Status // what it says to those; 0: it does them
	fixed  []uint16     // places that it was given
	plain  []block.Request
	filled [][]byte // what it was given to write
}

func (s *places) Info() block.Info {
	return block.Info{Size: 1 << 20, BlockSize: 512, Caps: block.CapFlush | block.CapFUA | block.CapDiscard | block.CapWriteZeroes}
}
func (s *places) Channel(done store.Completer) (store.Channel, error) {
	return placesChannel{s, done}, nil
}
func (s *places) Close() error { return nil }

type placesChannel struct {
	*places
	done store.Completer
}

func (c placesChannel) Close() {}

func (c placesChannel) Submit(batch []*block.Request) {
	for _, r := range batch {
		c.plain = append(c.plain, *r)
		switch r.Op {
		case block.OpWrite:
			c.filled = append(c.filled, slices.Clone(r.Data[0]))
		case block.OpRead:
			copy(r.Data[0], pattern(int(r.Length), 8))
			r.Filled = r.Length
		}
		c.done.Complete(r)
	}
}

func (c placesChannel) FixedMax(*iouring.Hub) uint64 { return 4096 }

func (c placesChannel) SubmitFixed(r *block.Request, buffer uint16) {
	c.fixed = append(c.fixed, buffer)
	r.Status = c.refuse
	if r.Op == block.OpRead && r.Status == block.OK {
		r.Filled = r.Length
	}
	c.done.Complete(r)
}

const firstPlace = 40

// newZeroRig is a queue whose requests lie in places from firstPlace on; the store
// takes 4 KiB so, and the largest request has 8.
func newZeroRig(t testing.TB) (copyRig, *places) {
	t.Helper()
	r, err := reactor.New(reactor.Options{})
	if err != nil {
		t.Fatal(err)
	}
	r.Start()
	t.Cleanup(r.Stop)
	s := &places{}
	x := &rig{t: t, r: r, ring: &fakeRing{entries: make([]iouring.SQE, rigDepth)}}
	v := volume.New(volume.Options{Name: "v", Reactors: []*reactor.Reactor{r}})
	if err := v.Attach(volume.Store(s), s.Info()); err != nil {
		t.Fatal(err)
	}
	if x.q, err = newQueue(0, rigDepth, rigMaxIO, CopyZero, 2*rigMaxIO, true); err != nil {
		t.Fatal(err)
	}
	x.q.ring, x.q.r, x.q.descs = x.ring, r, make([]ioDesc, rigDepth)
	x.q.onBack = func() {}
	x.q.onGone, x.q.trouble, x.q.warn = func() { x.gone++ }, func(err error) { t.Error(err) }, func(err error) { t.Error(err) }
	x.q.journal = journalAt(t, filepath.Join(t.TempDir(), "j"), rigDepth, leftBehind{})
	x.do(func() {
		if x.q.q, err = v.Open(r, x.q, volume.QueueOptions{Stats: &x.q.stats}); err == nil {
			x.q.fixed.first, x.q.fixed.most = firstPlace, x.q.q.FixedMax(nil)
		}
	})
	if err != nil || x.q.fixed.most != 4096 {
		t.Fatal(err, x.q.fixed.most)
	}
	return copyRig{x, hostOf(t, x.q)}, s
}

// Each tag has its place, told to the driver with every command and used for its
// own request only; nothing is copied.
func TestZeroCopy(t *testing.T) {
	x, s := newZeroRig(t)
	x.offer(ioDesc{opFlags: opRead, sectors: 8}, ioDesc{opFlags: opWrite | descFUA, sectors: 1, start: 9}, ioDesc{opFlags: opFlush},
		ioDesc{opFlags: opDiscard, sectors: 8}, ioDesc{opFlags: opWrite, sectors: 8, start: 64})
	x.do(func() {
		for i := range x.ring.entries[:x.ring.next] {
			e := &x.ring.entries[i]
			if e.Addr != firstPlace+e.UserData|1<<16 {
				t.Errorf("tag %d: the driver is told %#x", e.UserData, e.Addr)
			}
		}
		for i, o := range x.h.orders(x.ring) {
			if o.tag != i || o.mem != nil || o.res != []int32{4096, 512, 0, 0, 4096}[i] {
				t.Errorf("%+v", o)
			}
		}
	})
	if want := []uint16{firstPlace, firstPlace + 1, firstPlace + 4}; !slices.Equal(s.fixed, want) {
		t.Errorf("places %v, want %v", s.fixed, want)
	}
	if len(s.plain) != 2 || x.h.calls != 0 || x.q.fixed.passed != 3 {
		t.Errorf("%d requests by memory, %d copies, %d passed", len(s.plain), x.h.calls, x.q.fixed.passed)
	}
	if l := left(t, x.q.journal.path); len(l.spans) != 0 {
		t.Errorf("noted: %v", l.spans)
	}
	x.empty()
}

// What cannot go so is copied, and answered once, with its payload.
func TestZeroCopyOtherwise(t *testing.T) {
	for name, c := range map[string]struct {
		refuse block.Status
		sector uint32
		flags  uint32
		tried  int
		result int32 // 0: it is done
	}{
		"the driver has no place":      {0, 8, descUnregistered, 0, 0},
		"too long":                     {0, 16, 0, 0, 0},
		"the pages lie badly":          {block.Status(syscall.EINVAL), 8, 0, 2, 0},
		"the file system cannot":       {block.ENOTSUP, 8, 0, 2, 0},
		"the place is empty":           {block.Status(syscall.EFAULT), 8, 0, 2, 0},
		"the disk fails":               {block.EIO, 8, 0, 2, -5},
		"the disk is full, and is not": {block.ENOSPC, 8, 0, 2, -28},
	} {
		t.Run(name, func(t *testing.T) {
			x, s := newZeroRig(t)
			s.refuse = c.refuse
			n := int(c.sector) << 9
			x.h.pages[0], x.h.pages[1] = pattern(n, 1), make([]byte, n)
			x.offer(ioDesc{opFlags: opWrite | c.flags, sectors: c.sector}, ioDesc{opFlags: opRead | c.flags, sectors: c.sector})
			result := int32(n)
			if c.result != 0 {
				result = c.result
			}
			x.want(commit{0, result}, commit{1, result})
			if len(s.fixed) != c.tried {
				t.Errorf("places %v", s.fixed)
			}
			if c.result == 0 && (len(s.filled) != 1 || !bytes.Equal(s.filled[0], x.h.pages[0]) || !bytes.Equal(x.h.pages[1], pattern(n, 8))) {
				t.Error("another payload, or none")
			}
			if c.result != 0 && len(s.plain) != 0 {
				t.Error("an error is tried again")
			}
			x.empty()
		})
	}
}

// A volume that refuses again and again is not asked for ever; one that refuses
// now and then is.
func TestZeroCopyGivesUp(t *testing.T) {
	x, s := newZeroRig(t)
	told := 0
	x.q.warn = func(err error) {
		if told++; !errors.Is(err, syscall.EINVAL) || !strings.Contains(err.Error(), "copied") {
			t.Error(err)
		}
	}
	x.h.pages[0] = make([]byte, 512)
	one := func() {
		x.offer(ioDesc{opFlags: opRead, sectors: 1})
		x.want(commit{0, 512})
	}
	for range 2 {
		s.refuse = block.Status(syscall.EINVAL)
		for range enoughRefused - 1 {
			one()
		}
		s.refuse = block.OK
		one()
	}
	s.refuse = block.Status(syscall.EINVAL)
	tried := len(s.fixed)
	for range enoughRefused + 20 {
		one()
	}
	if got := len(s.fixed) - tried; got != enoughRefused || told != 1 {
		t.Errorf("tried %d times, told %d times", got, told)
	}
}
