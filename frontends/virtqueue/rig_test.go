package virtqueue

import (
	"encoding/binary"
	"sync/atomic"
	"testing"
	"unsafe"
)

// alignedBytes gives n zero bytes that start at a multiple of 64, with room
// around them.
func alignedBytes(n int) []byte {
	b := make([]byte, n+128)
	off := 64 - int(uintptr(unsafe.Pointer(unsafe.SliceData(b)))&63)
	return b[off : off+n : off+n]
}

// Guest addresses of a rig.
const (
	ramBase  = 0x1_0000
	bufRoom  = 4096 // of a head's buffers
	ramExtra = 1 << 16
)

// desc is a descriptor in the test's words.
type desc struct {
	addr  uint64
	n     uint32
	flags uint16
	next  uint16
}

// rig is a driver's side: guest memory with a ring in it. It does what it is
// told, the wrong as well.
type rig struct {
	t                 testing.TB
	size              uint16
	eventIdx          bool
	ram               []byte
	desc, avail, used []byte
	buffers           uint64 // guest address
	extra             uint64 // guest address of ramExtra bytes
	region            []byte // in-flight
	idx               uint16 // available index
}

// newRig makes a rig. shift, 0 or 2, is added to the available ring's address.
func newRig(t testing.TB, size uint16, eventIdx bool, shift int) *rig {
	return newRigOn(t, size, eventIdx, shift, alignedBytes)
}

// newRigOn makes a rig on memory of alloc's.
func newRigOn(t testing.TB, size uint16, eventIdx bool, shift int, alloc func(n int) []byte) *rig {
	d, a, u := RingSizes(size, true)
	availAt := int(d) + 64 + shift
	usedAt := (availAt + int(a) + 67) &^ 3
	bufAt := (usedAt + int(u) + 63) &^ 63
	r := &rig{t: t, size: size, eventIdx: eventIdx, ram: alloc(bufAt + int(size)*bufRoom + ramExtra)}
	r.desc, r.avail, r.used = r.ram[:d], r.ram[availAt:availAt+int(a)], r.ram[usedAt:usedAt+int(u)]
	r.buffers = ramBase + uint64(bufAt)
	r.extra = r.buffers + uint64(size)*bufRoom
	r.region = alignedBytes(int(InflightSize(2, size)))
	return r
}

func (r *rig) at(addr uint64, n int) []byte { return r.ram[addr-ramBase:][:n] }

func (r *rig) buffer(head uint16) uint64 { return r.buffers + uint64(head)*bufRoom }

func (r *rig) memory() *Memory {
	m, err := NewMemory([]Region{{ramBase, r.ram}})
	if err != nil {
		r.t.Fatal(err)
	}
	return m
}

func (r *rig) config() Config {
	d, a, u := RingSizes(r.size, r.eventIdx)
	return Config{Size: r.size, Desc: r.desc[:d], Avail: r.avail[:a], Used: r.used[:u], Memory: r.memory(), EventIdx: r.eventIdx, Indirect: true}
}

func (r *rig) queue() *Queue {
	r.t.Helper()
	return r.queueOf(r.config())
}

func (r *rig) queueOf(c Config) *Queue {
	r.t.Helper()
	q, err := New(c)
	if err != nil {
		r.t.Fatal(err)
	}
	return q
}

// tracked is a config with the rig's region, opened anew.
func (r *rig) tracked() Config {
	c := r.config()
	f, err := OpenInflight(r.region, 1, r.size)
	if err != nil {
		r.t.Fatal(err)
	}
	c.Inflight = f
	return c
}

func put(table []byte, i int, d desc) {
	b := table[i*descSize:]
	binary.LittleEndian.PutUint64(b, d.addr)
	binary.LittleEndian.PutUint32(b[8:], d.n)
	binary.LittleEndian.PutUint16(b[12:], d.flags)
	binary.LittleEndian.PutUint16(b[14:], d.next)
}

// set writes descriptors from index i on.
func (r *rig) set(i uint16, ds ...desc) {
	for k, d := range ds {
		put(r.desc, int(i)+k, d)
	}
}

// indirect writes a table at addr and gives the descriptor that names it.
func (r *rig) indirect(addr uint64, ds ...desc) desc {
	table := r.at(addr, len(ds)*descSize)
	for i, d := range ds {
		put(table, i, d)
	}
	return desc{addr, uint32(len(table)), descIndirect, 0}
}

// offer puts heads into the available ring and moves the index.
func (r *rig) offer(heads ...uint16) {
	for _, h := range heads {
		binary.LittleEndian.PutUint16(r.avail[ringHeader+availEntry*int(r.idx&(r.size-1)):], h)
		r.idx++
	}
	r.setIdx(r.idx)
}

// setIdx moves the available index as a driver on another core does: after all
// that was written before.
func (r *rig) setIdx(v uint16) {
	r.idx = v
	w := halfAt(ptr(&r.avail[2]))
	for {
		old := atomic.LoadUint32(w.word)
		if atomic.CompareAndSwapUint32(w.word, old, old&^(0xffff<<w.shift)|uint32(v)<<w.shift) {
			return
		}
	}
}

func (r *rig) setUsedIdx(v uint16) { binary.LittleEndian.PutUint16(r.used[2:], v) }

func (r *rig) usedIdx() uint16   { return UsedIndex(r.used) }
func (r *rig) usedFlags() uint16 { return binary.LittleEndian.Uint16(r.used) }

func (r *rig) element(i uint16) (id, n uint32) {
	b := r.used[ringHeader+usedEntry*int(i&(r.size-1)):]
	return binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint32(b[4:])
}

func (r *rig) setUsedEvent(v uint16) {
	binary.LittleEndian.PutUint16(r.avail[ringHeader+availEntry*int(r.size):], v)
}

func (r *rig) availEvent() uint16 {
	return binary.LittleEndian.Uint16(r.used[ringHeader+usedEntry*int(r.size):])
}

// pop pops up to n.
func pop(t testing.TB, q *Queue, n int) []Chain {
	t.Helper()
	dst := make([]Chain, n)
	k, err := q.Pop(dst)
	if err != nil {
		t.Fatal(err)
	}
	return dst[:k]
}

func heads(cs []Chain) []uint16 {
	hs := make([]uint16, 0, len(cs))
	for i := range cs {
		hs = append(hs, cs[i].Head)
	}
	return hs
}

func ptr(b *byte) unsafe.Pointer { return unsafe.Pointer(b) }

// mark is that of a head in the rig's region.
func (r *rig) mark(head uint16) byte { return r.states()[int(head)*inflightState] }

func (r *rig) part() []byte   { return r.region[inflightPart(r.size):] }
func (r *rig) states() []byte { return r.part()[inflightHeader:] }

func (r *rig) setState(head uint16, mark byte, next uint16, counter uint64) {
	b := r.states()[int(head)*inflightState:]
	b[0] = mark
	binary.LittleEndian.PutUint16(b[offNext:], next)
	binary.LittleEndian.PutUint64(b[offCounter:], counter)
}

func (r *rig) setRegion(version, descNum, batchHead, usedIdx uint16) {
	b := r.part()
	binary.LittleEndian.PutUint16(b[offVersion:], version)
	binary.LittleEndian.PutUint16(b[offDescNum:], descNum)
	binary.LittleEndian.PutUint16(b[offBatchHead:], batchHead)
	binary.LittleEndian.PutUint16(b[offUsedIdx:], usedIdx)
}
