package process

import (
	"fmt"
	"strings"
	"testing"

	"blockengine/sdk/block"
	"blockengine/sdk/process/ring"
)

// misdeeds are what a process can write into a region when it holds slots 0 to 3:
// a read, a write, a block status and a flush of 4096 bytes each. Slot 9 has been
// submitted and not pushed.
var misdeeds = []struct {
	name string
	do   func(r *region)
	want string // in the trap; "": it is no breach
}{
	{"too many", func(r *region) { r.CompTail.Store(5) }, "completed 5 requests and 4 are with it"},
	{"very many", func(r *region) { r.CompTail.Store(1<<32 - 1) }, "4 are with it"},
	{"a slot that is not there", func(r *region) { complete(r, ring.Completion{Slot: 128}) }, "slot 128 of 128"},
	{"the last slot that can be named", func(r *region) { complete(r, ring.Completion{Slot: 65535}) }, "slot 65535"},
	{"a slot that it was not given", func(r *region) { complete(r, ring.Completion{Slot: 4}) }, "slot 4, which is not with it"},
	{"a slot that was not pushed", func(r *region) { complete(r, ring.Completion{Slot: 9}) }, "slot 9, which is not with it"},
	{"twice", func(r *region) { complete(r, ring.Completion{Slot: 1}, ring.Completion{Slot: 1}) }, "slot 1, which is not with it"},
	{"more than was asked for", func(r *region) { complete(r, ring.Completion{Slot: 0, Filled: 4097}) }, "filled 4097 bytes of a read of 4096"},
	{"more than there is", func(r *region) { complete(r, ring.Completion{Slot: 0, Filled: 1<<64 - 1}) }, "of a read of 4096"},
	{"too many extents", func(r *region) { complete(r, ring.Completion{Slot: 2, Extents: 4097}) }, "4097 extents"},
	{"extents of a read", func(r *region) { complete(r, ring.Completion{Slot: 0, Filled: 4096, Extents: 65535}) }, ""},
	{"filled by a write", func(r *region) { complete(r, ring.Completion{Slot: 1, Filled: 1 << 40}) }, ""},
	{"no errno", func(r *region) { complete(r, ring.Completion{Slot: 1, Status: 1 << 31}) }, ""},
	{"extents beyond the request", func(r *region) {
		ext := r.Extents(2)
		for i := range 4096 {
			ext[i] = ring.Extent{Length: 1<<64 - 1 - uint64(i), State: 1<<32 - 1}
		}
		complete(r, ring.Completion{Slot: 2, Extents: 4096})
	}, ""},
	{"no extents", func(r *region) { complete(r, ring.Completion{Slot: 2}) }, ""},
	{"rings without end", func(r *region) {}, "woken the engine"},
	{"constants and its own flags", func(r *region) {
		r.Shape = ring.Shape{}
		r.SubTail.Store(77)
		r.SubHead.Store(1 << 31)
		r.SubArmed.Store(99)
		r.CompArmed.Store(99)
		complete(r, ring.Completion{Slot: 1})
	}, ""},
}

// complete publishes completions as a process would.
func complete(r *region, cs ...ring.Completion) {
	tail := r.CompTail.Load()
	for _, c := range cs {
		r.Completions[tail%uint32(len(r.Completions))] = c
		tail++
	}
	r.CompTail.Store(tail)
}

// judge is a LinkOwner that looks at what it is told.
type judge struct {
	t        testing.TB
	l        *link
	out      map[int]asked
	lost     []error
	broke    []error
	released bool
}

func (j *judge) Finished(slot int, st block.Status, filled uint64, ext []block.Extent) {
	a, ok := j.out[slot]
	if !ok || len(j.lost) > 0 || j.released {
		j.t.Errorf("slot %d was finished: outstanding %v, lost %v", slot, ok, j.lost)
	}
	delete(j.out, slot)
	if st > block.MaxStatus || filled > a.length || a.op != block.OpRead && filled != 0 {
		j.t.Errorf("%v of %d: status %d, %d bytes", a.op, a.length, st, filled)
	}
	sum := uint64(0)
	for _, e := range ext {
		if e.Length == 0 || e.Length > a.length-sum || e.State&^(block.Hole|block.Zero) != 0 {
			j.t.Errorf("extent %v of a block status of %d", e, a.length)
		}
		sum += e.Length
	}
	if len(ext) > 0 && a.op != block.OpBlockStatus {
		j.t.Errorf("%v has %d extents", a.op, len(ext))
	}
}

func (j *judge) Turn() {
	if len(j.lost) > 0 {
		j.t.Error("a turn after the end")
	}
}
func (j *judge) Changed(block.Info) {}
func (j *judge) Lost(err error)     { j.lost = append(j.lost, err) }

func (j *judge) ask(slot int, op block.Op, length uint64) {
	j.out[slot] = asked{op: op, length: length}
	j.l.Submit(slot, op, 0, 0, length)
}

func newJudge(t testing.TB, reg *region) *judge {
	j := &judge{t: t, out: map[int]asked{}}
	j.l = newLink(reg, block.Info{BlockSize: 1}, hooks{broke: func(err error) { j.broke = append(j.broke, err) },
		release: func(done func(bool)) { j.released = true; done(false) }})
	return j
}

// A process that writes nonsense loses the link, and no more than that.
func TestHostileRegion(t *testing.T) {
	r := startReactor(t, 0)
	for _, m := range misdeeds {
		t.Run(m.name, func(t *testing.T) {
			reg := makeRegion(t, "store")
			j := newJudge(t, reg)
			r.Do(func() {
				if err := j.l.Start(r, j); err != nil {
					t.Error(err)
					return
				}
				for slot, op := range []block.Op{block.OpRead, block.OpWrite, block.OpBlockStatus, block.OpFlush} {
					j.ask(slot, op, 4096)
				}
				j.l.Push()
				j.ask(9, block.OpFlush, 0)
				m.do(reg)
				for range 2 {
					j.l.lookAround()
				}
				for i := 0; strings.HasPrefix(m.name, "rings") && i <= maxRings; i++ {
					j.l.Ready(0)
				}
				j.check(m.want)
				j.l.Close(func(bool) {})
			})
		})
	}
}

// check compares the end with what was wanted.
func (j *judge) check(want string) {
	switch {
	case want == "" && (len(j.lost) != 0 || len(j.broke) != 0 || len(j.out) != 4):
		j.t.Errorf("lost: %v, broke: %v, %d outstanding", j.lost, j.broke, len(j.out))
	case want != "" && (len(j.lost) != 1 || len(j.broke) != 1 || trapOf(j.lost[0]) != "output" || !strings.Contains(fmt.Sprint(j.lost[0]), want)):
		j.t.Errorf("lost: %v, broke: %v, wanted %q", j.lost, j.broke, want)
	}
}

// FuzzHostileRegion has a process write anything anywhere between the engine's steps.
func FuzzHostileRegion(f *testing.F) {
	f.Add([]byte{0, 1, 1, 0, 4, 0, 2, 0, 3, 1})
	f.Add([]byte{0, 9, 1, 2, 9, 0, 0, 0, 3, 1, 4, 2, 3, 1, 1, 3})
	l, err := ring.StoreLayout(4, 4096)
	if err != nil {
		f.Fatal(err)
	}
	r := startReactor(f, 0)
	f.Fuzz(func(t *testing.T, script []byte) {
		reg, err := newRegion("fuzz", l)
		if err != nil {
			t.Fatal(err)
		}
		j := newJudge(t, reg)
		r.Do(func() {
			if err := j.l.Start(r, j); err != nil {
				t.Error(err)
				return
			}
			for s := (&fuzzScript{b: script}); len(s.b) > 0 && !j.l.over; {
				s.step(j, reg)
			}
			if len(j.lost) != len(j.broke) || len(j.lost) > 1 {
				t.Errorf("lost: %v, broke: %v", j.lost, j.broke)
			}
			j.l.Close(func(bool) {})
		})
	})
}

// fuzzScript is what both sides do, a byte for each choice.
type fuzzScript struct{ b []byte }

func (s *fuzzScript) next() (v byte) {
	if len(s.b) > 0 {
		v, s.b = s.b[0], s.b[1:]
	}
	return v
}

// number is small more often than not.
func (s *fuzzScript) number() uint64 {
	v := uint64(s.next())
	if v < 200 {
		return v
	}
	return v << (v % 60)
}

func (s *fuzzScript) step(j *judge, reg *region) {
	switch s.next() % 8 {
	case 0:
		if slot := int(s.next() % 4); !j.l.slots[slot].busy {
			j.ask(slot, block.Op(s.next())%block.MaxOp+1, s.number()%4097)
		}
	case 1:
		j.l.Push()
	case 2:
		complete(reg, ring.Completion{Slot: uint16(s.number()), Extents: uint16(s.number()), Status: uint32(s.number()), Filled: s.number()})
	case 3:
		j.l.lookAround()
	case 4:
		reg.CompTail.Store(uint32(s.number()))
	case 5:
		reg.mem[s.number()*8%uint64(len(reg.mem))] = s.next()
	case 6:
		ext := reg.Extents(int(s.next() % 4))
		ext[s.number()%uint64(len(ext))] = ring.Extent{Length: s.number(), State: uint32(s.number())}
	case 7:
		j.l.polled.Arm()
	}
}

// What a process has finished before it died has been finished.
func TestLastWordsOfTheDead(t *testing.T) {
	r := startReactor(t, 0)
	reg := makeRegion(t, "store")
	j := newJudge(t, reg)
	r.Do(func() {
		if err := j.l.Start(r, j); err != nil {
			t.Error(err)
			return
		}
		j.ask(0, block.OpWrite, 4096)
		j.ask(1, block.OpWrite, 4096)
		j.l.Push()
		complete(reg, ring.Completion{Slot: 0})
		j.l.died(errKilled)
		j.l.deliverDeath()
		if _, out := j.out[1]; !out || len(j.out) != 1 || len(j.lost) != 1 || len(j.broke) != 0 {
			t.Errorf("outstanding: %v, lost: %v, broke: %v", j.out, j.lost, j.broke)
		}
		j.l.Close(func(bool) {})
	})
}
